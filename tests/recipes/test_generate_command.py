"""`fourm generate` and `fourm edit`: options reach the model, what is made of several samples is written."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.evaluate import edit_sheet
from fourm_engine.generate.guidance import Guide
from fourm_engine.generate.input_types import Condition
from fourm_engine.generate.tiles import generate_tiled
from fourm_engine.model import FourM
from tests.generate.toys import make_model, network, picture


@pytest.fixture
def run(tmp_path, site, monkeypatch):
    """run(command, *words) of a model in ./run, with a picture in ./photo.png; the output and whether it succeeded."""
    monkeypatch.chdir(tmp_path)
    make_model().save_pretrained(tmp_path / "run")
    Image.fromarray(picture()).save("photo.png")

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        if done.exit_code and not isinstance(done.exception, (SystemExit, ValueError)):
            raise done.exception
        return f"{done.output}{done.exception if isinstance(done.exception, ValueError) else ''}"

    return run


GIVEN = ("run", "--input", "colour=photo.png")


def test_explaining_needs_no_folder_and_writes_none(run, tmp_path):
    told = run("generate", *GIVEN, "--guidance", "-1", "--scheme", "remask", "--order", "share=0.2", "--explain")
    assert "1. height: remask, share 0.2, 8 steps" in told
    assert "everything: share -1" in told
    assert "3. words: left to right" in told
    assert told.rstrip().endswith("nothing was run")
    assert not (tmp_path / "out").exists()
    assert "--out is missing; name a folder" in run("generate", *GIVEN)
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save("mask.png")
    assert "1. colour: halton, 4 steps" in run(
        "edit", *GIVEN, "--mask", "mask.png", "--scheme", "halton", "--steps", "4", "--explain"
    )


def test_several_samples_are_written_each_or_as_one_with_its_spread(run, tmp_path):
    run("generate", *GIVEN, "--target", "height", "--n-samples", "2", "--out", "each")
    assert {p.name for p in (tmp_path / "each").iterdir()} >= {"height-0.npy", "height-1.npy", "sheet.png"}
    words = ("--target", "height", "--target", "words", "--n-samples", "3", "--reduce", "height=mean")
    told = run("generate", *GIVEN, *words, "--out", "one")
    names = {p.name for p in (tmp_path / "one").iterdir()}
    assert names >= {
        "height.npy",
        "height.view.png",
        "height.spread.npy",
        "height.spread.png",
        "words.txt",
        "sheet.png",
    }
    assert "one/height.spread.npy" in told
    assert np.load("one/height.spread.npy").shape == (8, 8)


def test_an_edit_shows_the_original_the_mask_and_the_change_beside_the_result(run, tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(edit_sheet, "sheet", lambda laid, **_: rows.extend(laid) or Image.new("RGB", (9, 9)))
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save("mask.png")
    words = ("--input", "words=red", "--change", "words=blue", "--mask", "mask.png", "--halo", "0")
    assert "out/sheet.png" in run("edit", *GIVEN, *words, "--out", "out")
    cells = {name: {cell.caption: cell.content for cell in row} for name, row in rows}
    assert cells["words"] == {"original": "red", "changed": "blue"}
    colour = {caption: np.asarray(shown) for caption, shown in cells["colour"].items()}
    assert list(colour) == ["original", "to edit", "result"]
    assert (colour["to edit"][:4] == 128).all()
    for caption in ("to edit", "result"):
        np.testing.assert_array_equal(colour[caption][4:], colour["original"][4:])
    rows.clear()
    run("edit", *GIVEN, "--change", "words=blue", "--n-samples", "2", "--out", "followed")
    assert [(name, [c.caption for c in row]) for name, row in rows] == [
        ("colour", ["original", "result 0", "result 1"]),
        ("words", ["added"]),
    ]
    (tmp_path / "photo.png").write_bytes(b"")
    assert "photo.png" in run("edit", *GIVEN, "--change", "words=blue", "--out", "unreadable")
    assert not list((tmp_path / "unreadable").glob("*.png"))


def test_an_edit_of_nothing_names_the_options_that_say_what(run):
    assert "nothing to edit; give --mask FILE, --outpaint SHARE, or --change NAME=VALUE" in run("edit", *GIVEN)
    told = run("edit", *GIVEN, "--change", "words=red", "--halo", "2", "--out", "out")
    assert "--halo has no effect without --mask" in told


def test_an_option_of_another_command_is_told_with_that_command(run):
    for words, hint in {
        ("generate", "--edit", "mask.png"): "there is a command `fourm edit`",
        ("generate", "--mask", "mask.png"): "no such option: --mask; `fourm edit` has it",
        ("edit", "--overlap", "2"): "no such option: --overlap; `fourm generate` has it",
        ("edit", "--stepps", "2"): "no such option: --stepps; did you mean --paste or --step",
        ("vary", "--nothing"): "no such option: --nothing",
    }.items():
        told = re.sub(r"[^ -~]|\s+", " ", run(words[0], *GIVEN, *words[1:]))
        assert hint in re.sub(" +", " ", told)


def test_a_picture_to_look_at_is_large_and_of_its_colours(run):
    run("generate", "run", "--input", "words=red", "--target", "colour", "--out", "out")
    small, view = (np.asarray(Image.open(f"out/{name}.png")) for name in ("colour", "colour.view"))
    assert small.shape == (8, 8, 3)
    assert view.shape == (256, 256, 3)
    means = view.reshape(8, 32, 8, 32, 3)[:, 12:20, :, 12:20].mean((1, 3))
    assert np.corrcoef(means.ravel(), small.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("--guidance", "2"), {"guidance": 2.0}),
        (("--guidance", "0,3", "--steps", "4"), {"guidance": [0.0, 3.0], "steps": 4}),
        (("--guidance", "colour=0,3", "--guidance", "words=-1"), {"guidance": {"colour": [0.0, 3.0], "words": -1.0}}),
        (("--plan", "height,words"), {"plan": ["height", "words"]}),
        (("--plan", "auto"), {"plan": "auto"}),
        (("--scheme", "remask", "--order", "share=0.2"), {"scheme": "remask", "order": {"share": 0.2}}),
        (("--samples", "3", "--reduce", "vote"), {"n_samples": 3, "reduce": "vote"}),
        (("--reduce", "a=vote", "--reduce", "b=mean"), {"reduce": {"a": "vote", "b": "mean"}}),
        (("--temperature", "0.5", "--top-k", "3", "--seed", "7"), {"temperature": 0.5, "top_k": 3, "seed": 7}),
    ],
)
def test_words_of_the_command_line_are_the_options_of_python(run, monkeypatch, words, options):
    given = {}
    monkeypatch.setattr(FourM, "generate", lambda self, inputs, targets, **more: given.update(more) or {})
    with pytest.raises(AttributeError):  # nothing was generated
        run("generate", *GIVEN, "--out", "out", *words)
    left = {k: v for k, v in given.items() if v not in (None, False) and (k, v) not in (("seed", 0), ("n_samples", 1))}
    assert left == options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--guidance", "much"), "--guidance: 'much' is not a number"),
        (("--guidance", "1,"), "--guidance: '' is not a number"),
        (("--guide", "run"), "--guide: expected WEIGHT@RUN, such as 2@runs/early"),
        (("--guide", "x@run"), "--guide: 'x' is not a number"),
        (("--guide", "2@none"), "--guide: none"),
        (("--order", "share"), "--order 'share': expected SETTING=NUMBER"),
        (("--order", "share=x"), "--order: 'x' is not a number"),
        (("--reduce", "mean"), "reduce has no effect on one sample"),
        (("--plan", "auto"), "plan='auto' needs the run's any-to-any matrix, and "),
        (("--batch-size", "3"), "--batch-size is for many samples"),
    ],
)
def test_options_that_cannot_be_are_one_line_and_leave_no_folder(run, tmp_path, words, message):
    told = run("generate", *GIVEN, "--target", "height", "--out", "out", *words)
    assert message in re.sub(r"\s+", " ", told)
    assert not list((tmp_path / "out").glob("*.npy"))


def test_what_is_of_one_sample_is_refused_for_a_folder(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for option in (("--explain",), ("--overlap", "1")):
        told = run("generate", "run", "--input", "colour=photos", "--target", "height", "--out", "out", *option)
        assert f"{option[0]} is for one sample, not for a folder" in told


def test_a_region_has_a_weight_on_the_command_line_as_in_python(run, tmp_path):
    words = ("--target", "height", "--steps", "4", "--temperature", "0")
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save("mask.png")
    run("generate", *GIVEN, *words, "--region", "colour=5@0,0,1,0.5", "--out", "box")
    run("generate", *GIVEN, *words, "--region", "colour=5@mask.png", "--out", "mask")
    both = ("--input", "words=red", "--guidance", "words=2", "--region", "colour=5@mask.png")
    run("generate", *GIVEN, *words, *both, "--out", "both")
    model = FourM.from_pretrained("run", device="cpu")
    region = Condition("photo.png", weight=5, region=(0, 0, 1, 0.5))
    expected = model.generate({"colour": region}, "height", steps=4, temperature=0)["height"]
    content = expected.modality.write(expected.value)["npy"]
    assert (tmp_path / "box/height.npy").read_bytes() == content
    assert (tmp_path / "mask/height.npy").read_bytes() == content
    more = {"colour": region, "words": "red"}
    expected = model.generate(more, "height", steps=4, temperature=0, guidance={"words": 2.0})["height"]
    assert (tmp_path / "both/height.npy").read_bytes() == expected.modality.write(expected.value)["npy"] != content


def test_a_weaker_run_guides_as_in_python(run, tmp_path):
    weaker = make_model()
    weaker.network.load_state_dict(network(weaker.modalities, seed=2)[0].state_dict())
    weaker.save_pretrained("weaker")
    words = ("--target", "height", "--steps", "4", "--temperature", "0")
    assert "guide of 0.0" in run("generate", *GIVEN, *words, "--guide", "3,2@weaker", "--explain")
    run("generate", *GIVEN, *words, "--guide", "3@weaker", "--out", "out")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.png").rename("photos/a.png")
    many = ("generate", "run", "--input", "colour=photos", *words, "--out", "many")
    run(*many, "--guide", "3@weaker")
    model = FourM.from_pretrained("run", device="cpu")
    expected = model.generate({"colour": "photos/a.png"}, "height", steps=4, temperature=0, guide=Guide(weaker, 3.0))
    content = expected["height"].modality.write(expected["height"].value)["npy"]
    plain = model.generate({"colour": "photos/a.png"}, "height", steps=4, temperature=0)["height"]
    assert (tmp_path / "out/height.npy").read_bytes() == content != plain.modality.write(plain.value)["npy"]
    assert (tmp_path / "many/height/a.npy").read_bytes() == content
    assert "--guide.0 was 3.0, is 4.0" in run(*many, "--guide", "4@weaker")


def test_a_region_that_cannot_be_is_one_line(run):
    for region, message in {
        "colour=5": "expected NAME=WEIGHT@x0,y0,x1,y1",
        "colour=big@0,0,1,1": "'big' is not a number",
        "colour=5@0,0,1": "0,0,1 is not a box",
        "colour=5@0,0,1,2": "a box is (x0, y0, x1, y1) in [0, 1]",
        "colour=5@none.png": "no such file: none.png",
        "colour=5@left, upper.png": "no such file: left, upper.png",
        "height=5@0,0,1,1": "region of 'height', which is not given",
    }.items():
        told = run("generate", *GIVEN, "--target", "words", "--region", region, "--out", "out")
        assert message in told
        assert len(told.strip().splitlines()) == 1


def test_a_large_picture_is_generated_tile_by_tile(run, tmp_path):
    Image.fromarray(np.tile(picture(), (2, 3, 1))[:14]).save("large.png")
    given = ("run", "--input", "colour=large.png", "--target", "height", "--out", "out", "--overlap", "1")
    run("generate", *given, "--seed", "3")
    model = FourM.from_pretrained("run", device="cpu")
    whole = generate_tiled(model, {"colour": "large.png"}, "height", overlap=1, seed=3)
    assert whole.value.shape[:2] == (14, 24)
    assert (tmp_path / "out/height.npy").read_bytes() == whole.modality.write(whole.value)["npy"]
    assert "--overlap: tiles are of one --target; given: height, words" in run("generate", *given, "--target", "words")
    assert "--overlap: --n-samples has no effect on tiles" in run("generate", *given, "--n-samples", "2")
