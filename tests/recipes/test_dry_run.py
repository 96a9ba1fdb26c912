"""What a run would be: numbers that its parts really have, and nothing written."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from fourm_engine.modalities import load_manager
from fourm_engine.nn.transformer import Transformer
from fourm_engine.recipes.check_tokens import check_tokens_exist
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.dry_run import FIRST_STEP, NONE_HERE, dry_run
from fourm_engine.recipes.dry_run_report import in_words
from tests.configs import small, store
from tests.folders import names, write
from tests.running import fourm, refused

SMALL = {"image_size": 32, "patch_size": 8, "codebook_size": 16}


@pytest.fixture
def path(tmp_path):
    """A config whose data, four pictures and three depth maps, is not there yet."""
    sections = {"data": {"tokens": str(tmp_path / "tokens")}, "train": {"steps": 1000, "ema": 0.9}}
    raw = small(tmp_path, {"rgb": SMALL, "depth": SMALL}, model={"decoder_blocks": 2}, **sections)
    return store(tmp_path / "config.yaml", raw)


def test_without_data_or_tokenizers_a_dry_run_says_all_but_the_data_and_writes_nothing(path, tmp_path):
    said = fourm("train", path, "--dry-run", "--mfu", 0.5, "--gpu", "A100")
    assert NONE_HERE in said
    lines = said.splitlines()
    assert max(map(len, lines)) < 80
    assert lines[0] == "vocabulary: 32 rows  depth 16  rgb 16"
    assert "1,000 steps at a utilisation (mfu) of 50%" in said
    assert "312 TFLOP/s of A100 (its data sheet)" in said
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((42, "42 seconds"), (91, "1.5 minutes"), (5 * 3600, "5.0 hours"), (4e5, "4.6 days (111 hours)")),
        (4e9, "127 years (1,111,111 hours)"),
    ],
)
def test_a_duration_is_told_in_a_unit_that_can_be_imagined(seconds, said):
    assert in_words(seconds) == said


def test_a_cpu_is_measured_with_the_threads_that_the_run_takes(path, monkeypatch):
    monkeypatch.setattr("fourm_engine.train.utilisation.measured_rates", lambda device, bf16: [1e9, 2e9])
    before = torch.get_num_threads()
    try:
        for number in (3, 1):
            report = dry_run(load_config(path, [f"train.threads={number}"]))
            threads = f"{number} thread{'s' * (number > 1)}"
            assert str(report.peak) == f"2 GFLOP/s of CPU, {threads} (fp32, measured: 1 G to 2 G)"
            assert max(map(len, report.lines())) < 80
    finally:
        torch.set_num_threads(before)


def test_the_parameters_and_their_memory_are_those_of_the_model(path):
    config = load_config(path)
    report = dry_run(config, gpu="H100")
    number = sum(p.numel() for p in Transformer(config.model, report.vocabulary).parameters())
    assert sum(report.parameters.values()) == number
    memory = {name: size / (4 * number) for name, size in report.memory.items() if name != "activations"}
    assert memory == {"parameters": 1, "gradients": 1, "optimiser (2 moments)": 2, "averages": 1}


def test_on_a_cpu_the_program_and_the_copies_for_checkpoints_take_memory_too(path):
    one, two = (dry_run(load_config(path, ["train.device=cpu"]), processes=world) for world in (1, 2))
    assert one.memory["copies for checkpoints"] == one.checkpoint == 2 * two.memory["copies for checkpoints"]
    assert one.memory["program"] > FIRST_STEP + 2**27
    assert "of each process's host memory" in " ".join(" ".join(one.lines()).split())


def test_what_is_sharded_and_what_is_computed_again_takes_less_memory(path):
    def memory(*overrides):
        settings = ["train.batch_size=8", "train.accumulate=1", *overrides]
        return dry_run(load_config(path, settings), gpu="H100", processes=8).memory

    plain = memory()
    assert memory("train.parallel=shard")["parameters"] == pytest.approx(plain["parameters"] / 8)
    hybrid = memory("train.parallel=hybrid", "train.shard_over=4")
    assert hybrid["parameters"] == pytest.approx(plain["parameters"] / 4)
    assert memory("train.activation_checkpointing=full")["activations"] < plain["activations"]


def test_a_process_of_a_sharded_run_also_holds_what_is_gathered_and_checkpoints_take_room(path):
    shard = ["train.batch_size=8", "train.accumulate=2", "train.parallel=shard", "train.warmup=100"]
    shard.append("train.checkpoint_every=100")
    report = dry_run(load_config(path, shard), gpu="H100", processes=2)
    network = Transformer(load_config(path).model, report.vocabulary)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    outside = sum(count.values()) - count["encoder"] - count["decoder"]
    assert report.memory["gathered"] == 8 * outside + count["decoder"] / 2 * 10  # bf16
    assert report.checkpoint == 16 * sum(count.values())  # weights, two moments, averages
    said = " ".join(" ".join(report.lines()).split())
    assert "samples of the run: 8 k 128 k tokens with padding warm-up 100 steps peak rate 0.001" in said
    assert "each device: 4 samples per step 2 micro-batches of 2" in said
    assert "at most 3 on disk" in said


def test_the_hours_are_the_flops_over_what_the_devices_do(path):
    one = dry_run(load_config(path), mfu=0.5, gpu="H100")
    assert one.step_seconds == pytest.approx(one.step_flops / (0.5 * one.peak.flops_per_s))
    two = dry_run(load_config(path), mfu=0.25, gpu="H100", processes=2)
    assert two.step_seconds == pytest.approx(one.step_seconds)
    assert two.memory["activations"] == pytest.approx(one.memory["activations"] / 2)
    assert sum(one.targets.values()) <= 4 * 8


def test_the_data_that_is_here_is_counted(path, tmp_path):
    write(tmp_path / "data", "rgb", "rgb", names(4))
    write(tmp_path / "data", "depth", "depth", names(3))
    before = sorted(p for p in tmp_path.rglob("*"))
    report = dry_run(load_config(path), gpu="H100")
    (line,) = report.data
    assert any(line.startswith("samples of the run: 4 k  1,000 times those found") for line in report.lines())
    assert line.startswith("data found: ")
    assert "4 samples" in line
    assert line.endswith("  depth 3  rgb 4")
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["tokens", "tokns"])
def test_tokens_whose_folder_is_misspelt_are_told_as_training_tells_them(path, tmp_path, name):
    for modality in ("rgb", "depth"):
        write(tmp_path / "data", modality, modality, names(4))
    (tmp_path / "tokens").mkdir()
    config = load_config(path, [f"data.tokens={tmp_path / name}"])
    report = dry_run(config, gpu="H100")
    with nullcontext() if name == "tokens" else pytest.raises(ValueError, match="did you mean") as caught:
        check_tokens_exist(config, config.load_modalities(load_manager(config.modalities)))
    assert report.refused == ("" if name == "tokens" else str(caught.value))
    said = " ".join(" ".join(report.lines()).split())
    assert ("the run would end: data.tokens: " in said) == (name != "tokens")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mfu": 1.5}, r"--mfu 1\.5: must be a fraction"),
        ({"gpu": "abacus"}, "--gpu abacus: its peak is not known"),
        ({"gpu": "H100", "processes": 3}, "batch_size=4 does not divide over 3 processes"),
    ],
)
def test_what_cannot_be_reckoned_is_one_clear_error(path, settings, message):
    with pytest.raises(ValueError, match=message):
        dry_run(load_config(path), **settings)


def test_a_misspelt_modality_of_the_loss_is_told_before_training(path):
    message = refused("train", path, "loss.soft_targets={dept: 4}", "--dry-run")
    assert "loss.soft_targets: 'dept' has no tokens in this run; did you mean 'depth'?" in message


def test_options_of_a_dry_run_do_not_start_a_run(path, tmp_path):
    assert "are for --dry-run" in refused("train", path, "--mfu", 0.5)
    assert not (tmp_path / "run").exists()
    assert not torch.distributed.is_initialized()
