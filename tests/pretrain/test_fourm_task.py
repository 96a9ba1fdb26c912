import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fourm_engine.data.columns import sealed, unsealed
from fourm_engine.data.order import Share
from fourm_engine.model import FourM
from fourm_engine.train.checkpoint import FORMAT
from fourm_engine.train.loop import Trainer
from fourm_engine.train.optimiser import decay_groups
from fourm_plugins.spec import ModalitySpec
from tests.fakes import TOKENIZERS, Picture, fake_modalities, sample_names, write_data
from tests.pretrain.fourm_run import Host, config, make_task
from tests.running import rows


@pytest.fixture
def data(tmp_path):
    """24 training samples, of which 4 lack `b`, and 10 held-out ones."""
    names = sample_names(24)
    write_data(tmp_path / "train", fake_modalities(), {"a": names, "b": names[4:], "words": names})
    write_data(tmp_path / "val", fake_modalities(), sample_names(10, start=100))
    return tmp_path


def test_a_run_learns_and_leaves_a_model_that_loads(data, tmp_path):
    scores = Trainer(make_task(data), config(steps=60), tmp_path / "run", seed=3).run()
    lines = rows(tmp_path / "run")
    assert lines[0]["losses"].keys() <= {"a", "b", "words"}
    assert lines[59]["loss"] < lines[0]["loss"] - 0.3
    assert scores.keys() == {"a", "b", "words"}
    assert scores["a"] < np.log(16)

    model = FourM.from_pretrained(tmp_path / "run", device="cpu", manager=Host())
    task = make_task(data)
    with torch.no_grad():
        found = task.evaluate(model.network.eval(), Share(batch_size=8))
    for name, (total, count) in found.items():
        assert total / count == pytest.approx(scores[name], rel=1e-5)


def test_held_out_scores_do_not_depend_on_the_number_of_processes(data):
    task = make_task(data)
    torch.manual_seed(0)
    model = task.model().eval()
    with torch.no_grad():
        one = task.evaluate(model, Share(batch_size=4))
        parts = [task.evaluate(model, Share(rank, 3, batch_size=12, accumulate=1)) for rank in range(3)]
    for name, (total, count) in one.items():
        assert sum(part[name][1] for part in parts) == count > 0
        assert sum(part[name][0] for part in parts) == pytest.approx(total, rel=1e-5)


def test_processes_and_micro_batches_share_out_each_sample_of_a_step_once(data):
    task = make_task(data)
    whole = next(task.batches(5, Share(batch_size=8)))
    parts = []
    for rank in range(2):
        batches = task.batches(5, Share(rank, 2, batch_size=8, accumulate=2))
        parts += [next(batches), next(batches)]
    assert torch.equal(torch.cat([part.encoder.ids for part in parts]), whole.encoder.ids)
    assert {n: sum(p.target_counts[n] for p in parts) for n in whole.target_counts} == whole.target_counts


def test_workers_change_no_batch(data):
    here, there = (make_task(data, workers=n).batches(2, Share(batch_size=4)) for n in (0, 2))
    for _ in range(3):
        a, b = next(here), next(there)
        assert torch.equal(a.decoder.ids, b.decoder.ids)
        assert torch.equal(a.target_ids, b.target_ids)


def test_the_loss_averages_over_present_modalities_or_over_all_targets(data):
    counts = {"a": 3.0, "b": 0.0, "words": 5.0}
    assert make_task(data).weights(counts, 0) == {"a": 1 / 2, "words": 1 / 2}
    assert make_task(data, average_over="all").weights(counts, 0) == {"a": 1 / 3, "b": 1 / 3, "words": 1 / 3}


def test_a_modality_of_which_little_is_asked_for_counts_little_by_shares(data):
    task = make_task(data, average_over="shares")
    held = {name: task.modalities[name].spec.layout.num_tokens for name in ("a", "words")}
    weights = task.weights({"a": 3.0 * held["a"], "b": 0.0, "words": 1.0 * held["words"]}, 0)
    assert weights == pytest.approx({"a": 3 / 4, "words": 1 / 4})


def test_soft_targets_are_for_training_alone_and_need_tokens_that_have_codes(data, monkeypatch):
    with pytest.raises(ValueError, match=r"loss\.soft_targets: tokens of 'a' have no codes"):
        make_task(data, soft_targets={"a": 2.0}).check(config())
    hard, soft = make_task(data), make_task(data, soft_targets={"a": 2.0})
    kind = type(soft.tokenizers["a"])
    monkeypatch.setattr(kind, "code_vectors", lambda self: np.arange(self.size, dtype=np.float32)[:, None])
    soft.check(config())
    monkeypatch.setattr(kind, "code_vectors", lambda self: pytest.fail("distances of codes are computed once"))
    torch.manual_seed(0)
    model = hard.model()
    batch = next(hard.batches(0, Share(batch_size=8)))
    one, other = (task.loss(model, batch, 1).sums for task in (hard, soft))
    assert torch.equal(one["words"], other["words"])
    assert not torch.isclose(one["a"], other["a"], rtol=1e-4)
    with torch.no_grad():
        assert hard.evaluate(model.eval(), Share(batch_size=4)) == soft.evaluate(model, Share(batch_size=4))
    assert hard.identity()["loss.soft_targets"] == soft.defaults()["loss.soft_targets"] == {}
    assert soft.identity()["loss.soft_targets"] == {"a": 2.0}


def test_embeddings_do_not_decay_but_projections_and_output_rows_do(data):
    task = make_task(data)
    model = task.model()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, free = ({names[id(p)] for p in group} for group in decay_groups(model, task))
    assert "embedding.projections.a@pixels.weight" in decayed
    assert "heads.weight" in decayed
    assert {"embedding.encoder_table", "embedding.decoder_table", "embedding.modality"} <= free
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert linear <= decayed


def test_averages_are_a_model_beside_the_model(data, tmp_path):
    settings = {"steps": 3, "optimiser": "muon", "layer_decay": 0.9, "ema": 0.9, "export": "both"}
    scores = Trainer(make_task(data), config(**settings), tmp_path / "run", seed=3).run()
    for folder, suffix in (("model", ""), ("model-ema", " ema")):
        model = FourM.from_pretrained(tmp_path / "run" / folder, device="cpu", manager=Host())
        with torch.no_grad():
            measured = make_task(data).evaluate(model.network.eval(), Share(batch_size=8))
        for name, (total, count) in measured.items():
            assert total / count == pytest.approx(scores[name + suffix], rel=1e-5)
    assert scores["a"] != scores["a ema"]


def test_layers_are_counted_from_the_heads_down_to_the_embeddings(data):
    task = make_task(data)
    deep, whole = task.config.decoder_blocks, task.config.decoder_blocks + task.config.encoder_blocks
    above = {name: task.layers_above(name) for name, _ in task.model().named_parameters()}
    assert above["heads.weight"] == 0
    assert above[f"decoder.{deep - 1}.mlp.fc1.weight"] == above["decoder_norm.weight"] == 1
    assert above["decoder.0.mlp.fc1.weight"] == deep
    assert above["context_proj.weight"] == deep + 1
    assert above["encoder.0.mlp.fc1.weight"] == whole
    assert {above[name] for name in above if name.startswith("embedding.")} == {whole + 1}


def test_tokens_of_a_sample_are_those_of_the_batchs_shape(data):
    task = make_task(data)
    batch = next(task.batches(0, Share(batch_size=4)))
    assert 4 * task.sample_tokens == batch.encoder.ids.numel() + batch.decoder.ids.numel()


def test_a_run_does_not_go_on_with_another_tokenizer_than_its_checkpoints(data, tmp_path, monkeypatch):
    """Nor with tokens of another: those are refused for not being this tokenizer's."""
    Trainer(make_task(data), config(steps=2), tmp_path / "run", seed=3).run()
    before = {p: p.read_bytes() for p in (tmp_path / "run/model").rglob("*") if p.is_file()}
    monkeypatch.setattr(TOKENIZERS["fake_levels"], "salt", "-refitted")
    for steps in (2, 4):  # one that is finished, and one that goes on
        with pytest.raises(ValueError, match=r'tokenizers\.a was "fake_levels", is "fake_levels-refitted"'):
            Trainer(make_task(data), config(steps=steps), tmp_path / "run", seed=3).run()
    assert {p: p.read_bytes() for p in (tmp_path / "run/model").rglob("*") if p.is_file()} == before
    with pytest.raises(ValueError, match=r"tokenizers/a: the tokenizer of a is not the one that was saved"):
        FourM.from_pretrained(tmp_path / "run", device="cpu", manager=Host())


def test_a_run_does_not_go_on_with_modalities_that_mean_something_else(data, tmp_path, monkeypatch):
    Trainer(make_task(data), config(steps=2), tmp_path / "run", seed=3).run()
    monkeypatch.setattr(Picture, "ids_version", "2")
    message = 'ids_version of a was "", is "2"; .*install the plugin\'s earlier release, or '
    for steps in (2, 4):
        with pytest.raises(ValueError, match=message + "train anew in another `run` folder"):
            Trainer(make_task(data), config(steps=steps), tmp_path / "run", seed=3).run()
    with pytest.raises(ValueError, match="made by fakes 1: " + message + "leave it out with domains="):
        FourM.from_pretrained(tmp_path / "run", device="cpu", manager=Host())


def test_a_run_does_not_go_on_with_another_masker_or_other_crops(data, tmp_path, monkeypatch):
    Trainer(make_task(data), config(steps=2), tmp_path / "run", seed=3).run()
    with pytest.raises(ValueError, match=r"data\.augment was false, is true; .*data\.flip was not set, is 0\.5"):
        Trainer(make_task(data, augment=True), config(steps=4), tmp_path / "run", seed=3).run()
    task = make_task(data)
    monkeypatch.setattr(ModalitySpec, "masker_kind", "another")
    with pytest.raises(ValueError, match='masker of a was "grid", is "another"'):
        Trainer(task, config(steps=4), tmp_path / "run", seed=3).run()


def test_a_checkpoint_from_before_a_setting_existed_goes_on_under_its_default(data, tmp_path):
    Trainer(make_task(data), config(steps=2), tmp_path / "run", seed=3).run()
    (state,) = (tmp_path / "run/checkpoints").glob("*/state.json")
    document = unsealed(state.read_bytes(), FORMAT)
    del document["state"]["identity"]["modalities.settings.a.size"]
    state.write_text(sealed(document))
    assert Trainer(make_task(data), config(steps=4), tmp_path / "run", seed=3).run()


def test_resuming_names_what_changed(data, tmp_path):
    Trainer(make_task(data), config(steps=2), tmp_path / "run", seed=3).run()
    with pytest.raises(ValueError, match=r"model\.width was 16, is 32"):
        Trainer(make_task(data, width=32), config(steps=4), tmp_path / "run", seed=3).run()
    write_data(data / "train", fake_modalities(), sample_names(25))
    with pytest.raises(ValueError, match=r"data\.samples was 24, is 25"):
        Trainer(make_task(data), config(steps=4), tmp_path / "run", seed=3).run()


def test_tokens_a_second_leave_padding_out(data, tmp_path):
    task = make_task(data)
    batch = next(task.batches(0, Share(batch_size=8)))
    real = sum(1 for tokens in (batch.encoder, batch.decoder) for mod in tokens.mod.reshape(-1).tolist() if mod != -1)
    assert 0 < real < batch.encoder.mod.numel() + batch.decoder.mod.numel()
    assert task.tokens(batch) == real
    Trainer(task, config(steps=1, warmup=0, batch_size=8, log_every=1), tmp_path / "run", seed=3).run()
    row = rows(tmp_path / "run")[0]
    assert row["tokens_per_s"] / row["samples_per_s"] == pytest.approx(real / 8)


def test_utilisation_of_a_step_is_that_of_its_batch(data, tmp_path):
    task = make_task(data)
    batch = next(task.batches(0, Share(batch_size=8)))
    flops = task.flops(batch)
    assert flops > 6 * 8 * (12 + 16) * sum(p.numel() for p in task.model().encoder.parameters())
    Trainer(task, config(steps=1, warmup=0, batch_size=8, log_every=1), tmp_path / "run", seed=3).run()
    row = rows(tmp_path / "run")[0]
    assert row["flops_per_s"] / row["samples_per_s"] == pytest.approx(flops / 8)
    assert 0 <= row.get("mfu", 0) <= 1  # rounded: nothing where the machine stood still


def test_a_step_that_is_not_finite_names_its_samples_and_is_replayed(data, tmp_path):
    def faulty():
        task = make_task(data)
        learn = task.loss

        def loss(model, batch, step):
            fault = model.encoder[0].mlp.fc2.register_forward_hook(lambda m, i, out: out / 0 if step == 2 else out)
            try:
                return learn(model, batch, step)
            finally:
                fault.remove()

        task.loss = loss
        return task

    run, task = tmp_path / "run", faulty()
    Trainer(task, config(steps=4), run, seed=3).run()
    (facts,) = [row["not_finite"] for row in rows(run) if "not_finite" in row]
    order, names = task.data.order, task.data.store.names
    assert facts["samples"] == [names[order.row(position)] for position in range(16, 24)]
    said: list[str] = []
    Trainer(faulty(), config(steps=4), run, seed=3).replay(Path(facts["files"][0]), said.append)
    assert said[0] == "step 3 of rank 0, with the weights after step 3"
    assert "forward: encoder.0.mlp (SwiGLU) gave the first numbers that are not finite" in said[1]


def test_a_batch_is_made_again_from_its_named_tensors(data):
    task = make_task(data)
    batch = next(task.batches(0, Share(batch_size=8)))
    again = task.batch_of(task.tensors_of(batch))
    assert again.target_counts == batch.target_counts
    first, second = batch.named(), again.named()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_compiled_blocks_get_batches_of_one_shape(data):
    task = make_task(data)
    task.check(config(compile=True))
    some = itertools.islice(task.batches(0, Share(batch_size=2)), 4)
    shapes = {(batch.encoder.shape, batch.decoder.shape) for batch in some}
    assert shapes == {((2, task.data.masking.encoder_tokens), (2, task.data.masking.decoder_tokens))}
