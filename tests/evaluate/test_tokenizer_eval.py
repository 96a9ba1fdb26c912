"""`fourm tokenizer eval`: scores of what is decoded against what was encoded, the codebook, a report and a sheet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fourm_engine.cli.tokenizer import print_scores
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.modalities import Modalities
from fourm_engine.recipes import evaluate_tokenizers as module
from fourm_engine.recipes.config import parse_config
from fourm_engine.recipes.evaluate_tokenizers import evaluate_tokenizers
from fourm_plugins import Metric, View
from fourm_plugins.manager import Plugin
from tests.configs import small
from tests.fakes import LEVELS, LevelsTokenizer, fake_modalities, fake_tokenizers, sample_names, write_data

MODALITIES = fake_modalities()


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run over the fake modalities, whose tokenizers need no fitting. 12 held-out samples, of which 4 lack `b`."""
    write_data(tmp_path / "train", MODALITIES, sample_names(6, start=50))
    names = sample_names(12)
    write_data(tmp_path / "val", MODALITIES, {"a": names, "b": names[4:], "words": names[:9]})
    plugins = {name: Plugin("modality", name, "", "fakes", "1", "") for name in MODALITIES}
    monkeypatch.setattr(module, "load_manager", lambda settings: None)
    found = Modalities(MODALITIES.values(), plugins)
    monkeypatch.setattr("fourm_engine.recipes.config.RunConfig.load_modalities", lambda self, manager: found)
    monkeypatch.setattr(module, "load_tokenizers", lambda *args, **options: fake_tokenizers(found))
    data = {"train": str(tmp_path / "train"), "val": str(tmp_path / "val")}
    return parse_config(small(tmp_path, data=data), "config")


def test_scores_are_those_of_the_round_trip_beside_constants_and_the_codebook_is_counted(config):
    found = {t.modality: t for t in evaluate_tokenizers(config).tokenizers}
    assert list(found) == ["a", "b", "words"]
    one = found["a"]
    assert (one.samples, one.codes, one.tokens, one.bits) == (12, LEVELS, 16, 16 * 4)
    data, tokenizer, a = (
        AlignedData(config.data.val, MODALITIES),
        LevelsTokenizer([MODALITIES["a"].spec]),
        MODALITIES["a"],
    )
    ids, errors = [], []
    for name in data.names:
        value = a.augment(data.value(name, "a"), View.centre(source_aspect=16 / 12))
        row = tokenizer.encode([a.normalise(value)])[0]
        ids.append(row)
        errors.append(np.abs(a.denormalise(tokenizer.decode([row])[0]) - value).mean())
    (score,) = one.scores
    assert score.prediction == pytest.approx(np.mean(errors))
    assert score.best_constant[0] == "one value"
    share = np.bincount(np.concatenate(ids), minlength=LEVELS) / (12 * 16)
    assert one.used == (share > 0).sum()
    assert one.used + one.dead == LEVELS
    assert one.perplexity == pytest.approx(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
    assert (found["b"].samples, found["words"].samples) == (8, 9)
    assert (found["words"].used, found["words"].scores[0].prediction) == (None, 1.0)


def test_of_a_few_samples_it_is_said_that_they_do_not_show_which_codes_are_in_use(config, tmp_path):
    found = evaluate_tokenizers(config, samples=3)
    one = found.tokenizers[0]
    assert (one.modality, one.samples, one.used, one.dead, one.perplexity) == ("a", 3, None, None, None)
    assert "a: 3 samples are too few to say which of 16 codes are in use: fewer than 4 tokens per code" in found.notes
    assert not any("words" in note for note in found.notes)  # a vocabulary, no codebook


def test_the_report_can_be_read_and_the_sheet_shows_reconstructions_above_the_truth(config, tmp_path):
    found = evaluate_tokenizers(config, out=tmp_path / "out", pictures=2)
    assert [path.name for path in found.files] == ["tokenizers.json", "sheet.png"]
    document = json.loads((tmp_path / "out/tokenizers.json").read_text())
    assert [t["modality"] for t in document["tokenizers"]] == ["a", "b", "words"]
    assert document["tokenizers"][0]["scores"][0]["prediction"] == found.tokenizers[0].scores[0].prediction
    sheet = np.asarray(Image.open(tmp_path / "out/sheet.png"))
    assert sheet.std() > 10
    assert sheet.shape[0] > 4 * 128  # two samples, two lines each
    assert not list((tmp_path / "out").glob(".*"))
    assert evaluate_tokenizers(config, pictures=0).files == [config.run / "tokenizer-evaluation/tokenizers.json"]


def test_only_what_is_asked_for_is_measured_on_as_many_samples(config, capsys):
    found = evaluate_tokenizers(config, only=["b"], samples=3)
    assert [(t.modality, t.samples) for t in found.tokenizers] == [("b", 3)]
    print_scores(found)
    shown = capsys.readouterr().out
    assert "accuracy ↑" in shown
    assert "dead" in shown
    for only, message in ((["c"], "no modality 'c' with tokens"), (["a@pixels"], "no modality 'a@pixels' with tokens")):
        with pytest.raises(ValueError, match=message):
            evaluate_tokenizers(config, only=only)


def test_a_metric_that_needs_more_samples_or_cannot_be_computed_is_a_note_and_no_number(config, monkeypatch):
    def fails(predictions, truths):
        raise ValueError("too small")

    def network_metrics(model):
        assert model == "some network"
        return Metric("distance", lambda p, t: 1.0, False, min_samples=13), Metric("broken", fails, False)

    monkeypatch.setattr(MODALITIES["a"], "network_metrics", network_metrics, raising=False)
    found = evaluate_tokenizers(config, only=["a"], features="some network")
    assert {s.metric: s.prediction for s in found.tokenizers[0].scores if s.metric != "mean absolute error"} == {
        "broken": None
    }
    assert found.notes == ["a: distance needs 13 samples and has 12", "a: broken cannot be computed: too small"]


def test_without_held_out_data_there_is_nothing_to_measure(config):
    data = config.data.model_copy(update={"val": None})
    with pytest.raises(ValueError, match=r"data\.val is not set"):
        evaluate_tokenizers(config.model_copy(update={"data": data}))
