"""The report is one file, safe to open, and says all that was found."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from fourm_engine.cli.evaluate import print_summary
from fourm_engine.evaluate.charts import Curve, draw, read_curves, thin, training_seconds
from fourm_engine.evaluate.pictures import Output, SamplePictures, contact_sheet
from fourm_engine.evaluate.report import page_of
from fourm_engine.evaluate.results import Agreement, Cell, Diversity, Evaluation, Matrix, Score, Spread, TaskResult

HOSTILE = '</blockquote><script>alert(\'x\')</script><img src=http://evil.example/x.png onerror="alert(1)"> & "quotes"'


@pytest.fixture
def evaluation():
    scores = {
        "depthish": [
            Score("error", "m", False, 0.12, 0.04, {"one value": 0.4, "one image": 0.3}),
            Score("share", "", True, 0.5, 0.9, {"one value": 0.1}),
        ],
        "words": [Score("overlap", "", True, float("nan"), None)],
    }
    agrees = [Agreement("picture", "words", 7, 0.31, 0.42, -0.05, 0.571, 0.857)]
    spreads = [Spread("error", "m", False, 0.21, 0.33, 0.44), Spread("share", "", True, None, None, None)]
    varies = {"depthish": Diversity(4, 7, spreads, 2.51)}
    names = ["depthish", "words"]
    scored = dict.fromkeys(names, 7)
    task = TaskResult("picture → all", ["picture"], names, {}, 7, scored, scores, 1.0, agrees, varies)
    nothing, lower = Cell(3.0, 0.1, 0.0, 0.0, 7), Cell(2.0, 0.1, -1.0, 0.05, 7)
    cells = {"nothing": {"depthish": nothing, "words": nothing}, "words": {"depthish": lower}}
    matrix = Matrix(["nothing", "words"], ["depthish", "words"], cells, 1.0)
    tokenizers = {"depthish": {"kind": "vqvae", "codes": 16, "perplexity": 11.5, "reconstruction": {"error": 0.04}}}
    return Evaluation({"parameters": 1234, "plugins": {HOSTILE: "1"}}, [task], matrix, tokenizers, [HOSTILE])


@pytest.fixture
def page(evaluation, pixels):
    outputs = [Output("depthish", pixels, pixels, pixels, pixels), Output("words", HOSTILE, HOSTILE, HOSTILE)]
    pictures = {"picture → all": [SamplePictures(HOSTILE, {HOSTILE: pixels, "words": HOSTILE}, outputs)]}
    curves = [Curve(HOSTILE, [(0, 3.0), (10, 2.0)], [(10, 2.5)])]
    return page_of(evaluation, pictures, curves, title=HOSTILE)


def test_a_picture_whose_colours_mean_something_has_its_legend_beside_it(page):
    assert page.count("<figcaption>ceiling</figcaption>") == 2
    assert page.count("<figcaption>colours</figcaption>") == 1


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


def test_the_report_needs_nothing_beside_it(page):
    attributes = Elements(page).attributes
    sources = [value for _, name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in page
    assert "@import" not in page
    assert not {"script", "link", "iframe", "object"} & set(Elements(page).tags)


def test_agreement_and_diversity_stand_in_the_page_and_on_the_console(page, evaluation, capsys):
    for number in ("0.31", "0.42", "57.1%", "85.7%", "14.3%", "0.21", "0.33", "0.44", "2.51 of 4"):
        assert number in page
    assert "width: 31%" in page
    assert "width: 0%" in page  # a negative cosine has no bar
    print_summary(evaluation)
    told = capsys.readouterr().out
    assert "85.7% (chance 14.3%)" in " ".join(told.split())
    assert "2.51 of 4" in told


def test_hostile_captions_names_and_notes_are_text_in_the_report(page):
    elements = Elements(page)
    assert "script" not in elements.tags
    assert not [name for _, name, _ in elements.attributes if name.startswith("on")]
    assert len(re.findall(r"&lt;script&gt;", page)) >= 8
    assert "<script" not in page


def test_the_report_shows_scores_beside_constants_and_ceiling_and_the_matrix(page):
    for shown in ("0.12", "0.4", "0.3", "0.04", "one value", "one image", "-1.000 ± 0.050", "11.5"):
        assert shown in page
    # the ways from 0.3 to 0.04, and from 0.1 to 0.9
    assert page.count("width: 69%") == page.count("width: 50%") == 1
    assert page.count("<img") == 5  # the input, and one target's three with their legend


def test_evaluation_json_has_no_nan_and_says_what_the_scores_stand_beside(evaluation):
    record = json.loads(evaluation.text(), parse_constant=pytest.fail)
    first = record["tasks"][0]["scores"]["depthish"][0]
    assert first["prediction"] == 0.12
    assert first["ceiling"] == 0.04
    assert first["constants"] == {"one value": 0.4, "one image": 0.3}
    assert first["ratio"] == pytest.approx(0.4)  # of the best constant
    assert record["tasks"][0]["scores"]["words"][0]["prediction"] is None
    assert record["matrix"]["cells"]["words"]["depthish"]["lowers"] is True
    assert record["notes"] == [HOSTILE]


def test_the_best_constant_is_the_hardest_to_beat():
    constants = {"one value": 0.4, "one image": 0.3, "failed": None}
    assert Score("error", "", False, 0.1, None, constants).best_constant == ("one image", 0.3)
    assert Score("share", "", True, 0.1, None, constants).best_constant == ("one value", 0.4)
    assert Score("share", "", True, 0.1, None, {}).best_constant is None


def test_the_share_of_the_way_is_from_the_best_constant_to_a_better_ceiling():
    constants = {"one value": 0.4, "one image": 0.2}
    assert Score("error", "", False, 0.1, 0.0, constants).share == pytest.approx(0.5)
    assert Score("error", "", False, 0.3, 0.0, constants).share == pytest.approx(-0.5)
    assert Score("share", "", True, 0.5, 0.9, constants).share == pytest.approx(0.2)
    assert Score("share", "", True, 0.5, 0.3, constants).share is None
    assert Score("error", "", False, 0.1, None, constants).share is None
    assert Score("error", "", False, 0.1, 0.0).share is None


def test_curves_are_read_from_what_training_wrote(tmp_path):
    rows = [
        {"step": 10, "loss": 3.0, "losses": {"a": 3.5, "b": 2.5}, "samples_per_s": 20.0},
        {"step": 20, "loss": None, "losses": {"a": 3.0}, "samples_per_s": 40.0},
        {"step": 20, "eval": {"a": 3.1}},
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '\n{"step": 30, "lo')  # the run was killed while it wrote
    curves = {curve.name: curve for curve in read_curves(tmp_path / "metrics.jsonl")}
    assert curves["loss"].train == [(10, 3.0)]
    assert curves["a"].train == [(10, 3.5), (20, 3.0)]
    assert curves["a"].held_out == [(20, 3.1)]
    assert training_seconds(tmp_path / "metrics.jsonl", 4) == pytest.approx(10 * 4 / 20 + 10 * 4 / 40)
    assert read_curves(tmp_path / "none.jsonl") == []


def test_a_long_curve_is_drawn_from_means_and_keeps_its_mean():
    points = [(float(step), float(step % 7)) for step in range(1000)]
    few = thin(points, 50)
    assert len(few) == 50
    assert sum(y for _, y in few) / 50 == pytest.approx(sum(y for _, y in points) / 1000)
    assert draw(Curve("flat", [(0, 1.0), (5, 1.0)])).startswith("<svg")
    assert draw(Curve("empty")) == ""


def test_the_contact_sheet_holds_inputs_predictions_and_truths(pixels):
    row = SamplePictures(
        "s", {"picture": pixels}, [Output("a", pixels, pixels), Output("words", "red ball", "blue cube")]
    )
    sheet = contact_sheet([row, row], cell=32)
    one = contact_sheet([row], cell=32)
    assert sheet.width == one.width
    assert sheet.height > one.height
    with pytest.raises(ValueError, match="needs a sample"):
        contact_sheet([])
