"""A trained model grows by modalities: what it knew is measured and kept, a killed run goes on, mistakes are told."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.extend.report import Report
from fourm_engine.extend.task import ExtendTask
from fourm_engine.generate.input_types import Ids
from fourm_engine.model import FourM
from fourm_engine.pretrain.task import FourMTask
from fourm_engine.recipes.extend import open_extension
from fourm_engine.tokenizers import store
from tests import running
from tests.extend.growing import CLASSES, Host, extend, prepare, run_config
from tests.fakes import Words


@pytest.fixture(autouse=True)
def host(monkeypatch):
    monkeypatch.setattr(store, "PluginManager", Host)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, last held-out scores of the model in `folder/base`)."""
    folder = tmp_path_factory.mktemp("grow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PluginManager", Host)
        return folder, prepare(folder)


@pytest.fixture
def folder(trained):
    return trained[0]


def weights(run):
    return load_file(run / "model/model.safetensors")


def rows(run):
    report = Report.load(run / "extend.json")
    return {(row.case, row.modality): row for row in report.rows}, report


def test_with_new_rows_alone_nothing_known_moves_and_the_report_says_so(trained, tmp_path):
    folder, scores = trained
    extend(run_config(folder, tmp_path / "run", extend={"add": ["b"], "train": "rows"}, steps=30))
    found, report = rows(tmp_path / "run")
    for name in ("a", "words"):
        row = found["known", name]
        assert row.before == pytest.approx(scores[name], rel=1e-6)  # masks and scores of the run that trained it
        assert (row.change, row.change_error) == (0.0, 0.0)
        assert 0 < row.before_error < row.before
    new = found["new", "b"]
    assert new.after < new.before - 3 * new.change_error
    assert {name for case, name in found if case == "given new"} == {"a", "words"}
    assert report.trained_parameters == 3 * 5 * 16 + 16  # rows of two tables and the output, a modality vector
    assert not report.not_measured

    before, after = weights(folder / "base"), weights(tmp_path / "run")
    for name, tensor in before.items():
        assert torch.equal(after[name][: len(tensor)], tensor), name
    old, model = (FourM.from_pretrained(path, manager=Host()) for path in (folder / "base", tmp_path / "run"))
    assert model.vocabulary.entries[: len(old.vocabulary)] == old.vocabulary.entries
    inputs = {"a": Ids(torch.arange(16) % 7), "words": "a red ball"}
    contexts = [m.encode([inputs])[0] for m in (old, model)]
    assert torch.equal(*contexts)
    assert len(model.generate(inputs, ["b"], seed=1)["b"].tokens) == 16


def test_training_all_weights_shows_what_is_forgotten(folder, tmp_path):
    extend(
        run_config(folder, tmp_path / "run", extend={"add": ["b"], "train": "all", "replay": 0.0}, lr=0.03, steps=12)
    )
    found, report = rows(tmp_path / "run")
    assert found["known", "a"].change != 0
    assert found["new", "b"].change < 0
    assert report.trained_parameters == report.parameters


def test_adapters_are_in_checkpoints_and_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    folder, tmp_path, monkeypatch
):
    settings = {"extend": {"add": ["b"], "train": "lora", "lora": {"rank": 2, "alpha": 4.0}}, "steps": 6}
    extend(run_config(folder, tmp_path / "whole", **settings))

    class Killed(Exception):
        pass

    def loss(self, model, batch, step):
        if step == 5:
            raise Killed
        return FourMTask.loss(self, model, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(ExtendTask, "loss", loss)
        with pytest.raises(Killed):
            extend(run_config(folder, tmp_path / "cut", **settings))
    (state,) = (tmp_path / "cut/checkpoints/step-00000004").glob("*.safetensors")
    assert any("parametrizations.weight.0.up" in name for name in load_file(state))
    assert not (tmp_path / "cut/model").exists()
    extend(run_config(folder, tmp_path / "cut", **settings))
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys() == weights(folder / "base").keys()  # an ordinary model
    for name, tensor in whole.items():
        assert torch.equal(cut[name], tensor), name
    documents = [json.loads((tmp_path / run / "extend.json").read_text()) for run in ("whole", "cut")]
    assert documents[0] == documents[1]


def test_a_run_is_not_continued_as_another_extension(folder, tmp_path):
    extend(run_config(folder, tmp_path / "run", extend={"add": ["b"]}, steps=2))
    with pytest.raises(ValueError, match=r'extend\.train was "rows", is "all"'):
        extend(run_config(folder, tmp_path / "run", extend={"add": ["b"], "train": "all"}, steps=4))


def test_every_kind_of_modality_can_be_added_at_once_and_text_takes_the_vocabulary_that_is_there(folder, tmp_path):
    add = ["c@pixels", "more", "pair", "b"]
    extend(run_config(folder, tmp_path / "run", extend={"add": add, "train": "rows"}, steps=12))
    found, _ = rows(tmp_path / "run")
    assert {name for case, name in found if case == "new"} == {"b", "more", "pair"}
    assert all(row.change == 0 for (case, _), row in found.items() if case == "known")
    before, after = weights(folder / "base"), weights(tmp_path / "run")
    for name, tensor in before.items():
        assert torch.equal(after[name][: len(tensor)], tensor), name

    assert not (folder / "tokenizers/fake_words").exists()  # not looked for: it is the model's
    tokenizers = tmp_path / "run/model/tokenizers"
    assert sorted(path.name for path in tokenizers.iterdir()) == ["a", "b", "fake_words", "pair"]
    old, model = (FourM.from_pretrained(path, manager=Host()) for path in (folder / "base", tmp_path / "run"))
    assert model.tokenizers["more"] is model.tokenizers["words"]
    assert model.tokenizers["more"].fingerprint == old.tokenizers["words"].fingerprint
    assert [e.name for e in model.vocabulary] == ["a", "a@pixels", "words", "b", "c@pixels", "more", "pair"]
    assert {"more", "pair", "b"} <= model.generate({"words": "a red ball"}, ["more", "pair", "b"]).keys()


def test_an_extended_model_is_extended_again(folder, tmp_path):
    extend(run_config(folder, tmp_path / "one", extend={"add": ["b"]}, steps=2))
    again = {"source": str(tmp_path / "one"), "add": ["pair"]}
    extend(run_config(folder, tmp_path / "two", extend=again, steps=2))
    names = [e.name for e in FourM.from_pretrained(tmp_path / "two", manager=Host()).vocabulary]
    assert names == ["a", "a@pixels", "words", "b", "pair"]


def test_a_known_modality_without_its_plugin_keeps_its_rows_and_is_named(folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        extend(run_config(folder, tmp_path / "run", extend={"add": ["b"], "train": "all"}, steps=2), Host({"words"}))
    assert "words takes no part in training" in caplog.text
    found, report = rows(tmp_path / "run")
    assert report.not_measured == ["words"]
    assert ("known", "a") in found
    model = FourM.from_pretrained(tmp_path / "run", manager=Host())
    assert (
        model.vocabulary["words"].size
        == FourM.from_pretrained(folder / "base", manager=Host()).vocabulary["words"].size
    )
    assert "words" in model.tokenizers


def without_tokenizer(folder, out, space):
    """The model as one that was converted without this tokenizer."""
    shutil.copytree(folder / "base/model", out)
    shutil.rmtree(out / "tokenizers" / space)
    config = json.loads((out / "config.json").read_text())
    del config["tokenizers"][space]
    (out / "config.json").write_text(json.dumps(config))
    return out


def test_a_known_modality_without_tokenizer_takes_no_part(folder, tmp_path, caplog):
    source = without_tokenizer(folder, tmp_path / "converted", "a")
    extend(run_config(folder, tmp_path / "run", extend={"source": str(source), "add": ["b"]}, steps=2))
    assert "no tokenizer of a, which takes no part" in caplog.text
    found, report = rows(tmp_path / "run")
    assert report.not_measured == ["a"]
    assert ("known", "words") in found
    assert ("known", "a") not in found


def test_new_text_needs_the_tokenizer_of_the_text_that_is_known(folder, tmp_path):
    source = without_tokenizer(folder, tmp_path / "converted", "fake_words")
    with pytest.raises(ValueError, match=r"'more' shares the token space 'fake_words' with 'words'.*fourm convert"):
        open_extension(run_config(folder, tmp_path, extend={"source": str(source), "add": ["more"]}), Host())


@pytest.mark.parametrize(
    ("extension", "changes", "message"),
    [
        ({"add": ["a"]}, {}, "'a' is in the model already; it has a, a@pixels, words"),
        ({"add": ["clash"]}, {}, "token space 'a' is owned twice, by a and clash"),
        (
            {"add": ["b"]},
            {"modalities": {"settings": {"a": {"tokens": 2}}}},
            "modalities.settings.a.tokens was 4, is 2; restore it, or leave the section out",
        ),
        (
            {"add": ["b"]},
            {"model": {"width": 32, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2}},
            "model.width is 32, but 16 in .*; an extension keeps the model's shape",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_told_before_anything_is_done(folder, tmp_path, extension, changes, message):
    with pytest.raises(ValueError, match=message):
        extend(run_config(folder, tmp_path / "run", extend=extension, **changes))
    assert not (tmp_path / "run").exists()


def test_text_that_describes_the_shared_vocabulary_otherwise_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.extend.growing.CLASSES", {**CLASSES, "more": OtherWords})
    with pytest.raises(
        ValueError, match="more and words share the token space 'fake_words' but describe it differently"
    ):
        open_extension(run_config(folder, tmp_path, extend={"add": ["more"]}), Host())


def test_a_new_modality_without_data_is_told(folder, tmp_path):
    shutil.copytree(folder / "val", tmp_path / "val")
    shutil.rmtree(tmp_path / "val/b")
    data = {"train": folder / "train", "val": tmp_path / "val"}
    with pytest.raises(ValueError, match=r"data.val has no sample with 'b': no usable file in b/"):
        extend(run_config(folder, tmp_path / "run", extend={"add": ["b"]}, data=data))
    with pytest.raises(ValueError, match=r"data\.val is not set"):
        extend(run_config(folder, tmp_path / "run", extend={"add": ["b"]}, data={"train": folder / "train"}))


class OtherWords(Words):
    def make_spec(self):
        spec = super().make_spec()
        return spec.model_copy(update={"tokenizer": spec.tokenizer.model_copy(update={"settings": {"x": 1}})})


def test_a_run_that_grows_shows_losses_by_input_and_target_and_pictures_of_what_is_new_too(folder, tmp_path):
    watched = {"pairs_every": 3, "pictures_every": 3, "pictures": 1}
    extend(run_config(folder, tmp_path / "run", extend={"add": ["b"], "train": "lora"}, steps=3, **watched))
    lines = running.rows(tmp_path / "run")
    (pairs,) = (line["pairs"] for line in lines if "pairs" in line)
    assert pairs.keys() == {"nothing", "a", "a@pixels", "b", "words"}
    assert pairs["a"].keys() == {"b", "words"}
    assert (tmp_path / "run/pictures/step-3.png").read_bytes().startswith(b"\x89PNG")
