"""Held-out losses by input and target, and pictures, of a run over the fake modalities."""

import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.data.order import Share
from fourm_engine.pretrain.pairs import NOTHING, paired
from fourm_engine.train.loop import Trainer
from tests.fakes import fake_modalities, sample_names, write_data
from tests.pretrain.fourm_run import config, make_task
from tests.running import rows


@pytest.fixture
def data(tmp_path):
    names = sample_names(16)
    write_data(tmp_path / "train", fake_modalities(), names)
    held_out = sample_names(10, start=100)
    write_data(tmp_path / "val", fake_modalities(), {"a": held_out, "b": held_out[:6], "words": held_out})
    return tmp_path


def specs(task):
    return {name: modality.spec for name, modality in task.modalities.items()}


def test_a_matrix_has_a_row_for_every_input_and_nothing_and_shows_that_input_alone(data):
    task = make_task(data)
    sets = paired(task.held_out, specs(task), None)
    assert sets.keys() == {NOTHING, "a", "a@pixels", "b", "words"}
    for given, samples in sets.items():
        for _, batch in task.held_out_batches(samples, Share(batch_size=8), torch.device("cpu")):
            shown = {task.vocabulary.names[index] for index in batch.encoder.mod.unique().tolist() if index >= 0}
            assert shown == ({given} - {NOTHING})
            assert batch.target_counts.get(given, 0) == 0
            assert batch.encoder.shape == (8, task.data.masking.encoder_tokens)  # nothing is compiled anew
            assert batch.decoder.shape == (8, task.data.masking.decoder_tokens)


def test_the_inputs_may_be_sets_and_samples_without_one_of_them_are_passed_over(data):
    task = make_task(data)
    (samples,) = paired(task.held_out, specs(task), [["b", "words"]]).values()
    for position in range(10):
        assert set(samples[position].encoder[2].tolist()) == {task.vocabulary[n].index for n in ("b", "words")}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([["sound"]], "'sound' is not an input of this run; there are a, a@pixels, b, words"),
        ([["a", "b"]], "no held-out sample has a and b and another target"),
    ],
)
def test_inputs_that_are_none_or_that_no_sample_has_are_named_before_training(data, inputs, said, tmp_path):
    names = sample_names(4)
    write_data(tmp_path / "without" / "val", fake_modalities(), {"a": names[:2], "b": names[2:], "words": names})
    task = make_task(data, val=tmp_path / "without" / "val")
    with pytest.raises(ValueError, match=r"train\.pairs_inputs: .*" + said):
        Trainer(task, config(pairs_every=5, pairs_inputs=inputs), tmp_path / "run", seed=3).run()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_matrix_is_the_same_whatever_the_processes(data):
    task = make_task(data)
    task.check(config(pairs_every=1, pairs_samples=10))
    model = task.model().eval()
    with torch.no_grad():
        one = task.pairs(model, Share(batch_size=4))
        parts = [task.pairs(model, Share(rank, 3, batch_size=6, accumulate=1)) for rank in range(3)]
    assert one["a", "a"][1] == 0 < one["a", "b"][1]
    for pair, (total, count) in one.items():
        assert sum(part[pair][1] for part in parts) == count
        assert sum(part[pair][0] for part in parts) == pytest.approx(total, rel=1e-5)


def test_watching_a_run_changes_no_number_of_it(data, tmp_path, capsys):
    def picture(model, path):
        torch.rand(3)
        model.generate({"words": "a red ball"}, targets=["a"], seed=0)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a picture")

    watched = {"pairs_every": 2, "pictures_every": 2, "ema": 0.9}
    for run, changes in (("plain", {"ema": 0.9}), ("watched", watched)):
        task = make_task(data)
        task.picture = picture
        Trainer(task, config(steps=5, eval_every=2, **changes), tmp_path / run, seed=3).run()
    plain, seen = (load_file(tmp_path / run / "model/model.safetensors") for run in ("plain", "watched"))
    assert all(torch.equal(seen[name], tensor) for name, tensor in plain.items())
    assert [row.get("loss") for row in rows(tmp_path / "plain")] == [
        row.get("loss") for row in rows(tmp_path / "watched") if "pairs" not in row
    ]
    pairs = [row for row in rows(tmp_path / "watched") if "pairs" in row]
    assert [row["step"] for row in pairs] == [2, 4, 5]
    assert pairs[0]["pairs"].keys() == {NOTHING, "a", "a@pixels", "b", "words"}
    assert pairs[0]["pairs"]["words"].keys() == {"a", "b"}
    assert pairs[0]["pairs_seconds"] >= 0
    names = sorted(path.name for path in (tmp_path / "watched" / "pictures").iterdir())
    assert names == ["step-2.png", "step-4.png", "step-5.png"]
    assert max(map(len, capsys.readouterr().out.splitlines())) < 80 + len(str(tmp_path))


def test_a_picture_that_fails_is_told_and_the_run_goes_on(data, tmp_path, capsys):
    def picture(model, path):
        raise KeyError("a bug of a plugin")

    task = make_task(data)
    task.picture = picture
    Trainer(task, config(steps=2, pictures_every=1), tmp_path / "run", seed=3).run()
    assert (
        "pictures, step 1: failed; the run continues without them\n    KeyError: 'a bug of a plugin'"
        in capsys.readouterr().out
    )
