"""The whole path with the public commands: raw files of several modalities in, a trained model, predictions and a
report out. Tiny, so quality is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.model import FourM
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.extend import extension_config, open_extension
from tests.configs import GRID, small, store

ROOT = Path(__file__).parent.parent
TEXT = {"vocabulary_size": 600, "coordinate_bins": 32}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    """A process of its own."""
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def fourm(*arguments: str, **environment: str) -> str:
    """What a command prints. In this process, which spares each a start of torch."""
    done = CliRunner().invoke(app, [*map(str, arguments)], env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, config) of a finished run on scenes in shards."""
    folder = tmp_path_factory.mktemp("run")
    render = str(ROOT / "examples/scenes/render.py")
    run(render, "--out", str(folder / "data"), "--train", "24", "--val", "8", "--size", "32", "--jobs", "1")
    settings = {
        "rgb": GRID,
        "rgb@pixels": {"image_size": 32, "patch_size": 8},
        "depth": GRID,
        "boxes": {"max_tokens": 32, "text": TEXT},
        "caption": {"max_tokens": 64, "text": TEXT},
    }
    sections = {
        "data": {"train": str(folder / "data/train"), "val": str(folder / "data/val"), "views": 2},
        "tokenizers": {"fit": {"steps": 12, "batch_size": 8}},
        "masking": {"input_tokens": [1, 24], "target_tokens": 24},
        "train": {"steps": 6, "checkpoint_every": 3, "log_every": 1},
        "evaluate": {"samples": 4, "matrix_samples": 4, "constant_samples": 8, "pictures": 1},
    }
    sections["data"]["tokens"] = str(folder / "tokens")
    path = store(folder / "config.yaml", small(folder, settings, **sections))
    fourm("tokenizer", "fit", path)
    fourm("tokenize", path)
    fourm("train", path)
    return folder, path


def test_from_raw_files_to_a_report(trained):
    folder, _ = trained
    fourm("evaluate", folder / "run")
    report = (folder / "run/evaluation/report.html").read_text()
    assert "data:image/png;base64," in report
    scores = json.loads((folder / "run/evaluation/evaluation.json").read_text())
    assert len(scores["tasks"]) == 4  # from each source to everything else


def test_tokenizers_are_scored_in_a_table_a_report_and_a_sheet(trained):
    folder, path = trained
    told = fourm("tokenizer", "eval", path, "--samples", "6")
    for shown in ("rgb", "SSIM ↑", "delta1 ↑", "dropped ↓ (a sample)", "word F1 ↑", "perplexity"):
        assert shown in told
    report = json.loads((folder / "run/tokenizer-evaluation/tokenizers.json").read_text())
    assert {t["modality"]: t["samples"] for t in report["tokenizers"]} == dict.fromkeys(
        ["boxes", "caption", "depth", "rgb"], 6
    )
    assert Image.open(folder / "run/tokenizer-evaluation/sheet.png").width > 4 * 128


def test_one_modality_from_another_with_the_same_result_for_the_same_seed(trained):
    folder, _ = trained
    picture = folder / "picture.png"
    Image.new("RGB", (40, 32), (200, 30, 30)).save(picture)
    outputs = []
    for out in ("one", "two"):
        fourm("generate", folder / "run", "--input", f"rgb={picture}", "--target", "depth", "--target", "caption",
              "--out", folder / out, "--seed", "3")  # fmt: skip
        outputs.append({path.name: path.read_bytes() for path in (folder / out).iterdir()})
    assert outputs[0] == outputs[1]
    assert any(name.startswith("depth") for name in outputs[0])
    assert any(name.startswith("caption") for name in outputs[0])


def test_the_same_seed_gives_the_same_model_from_raw_files_on(trained):
    folder, path = trained
    again = (path, f"run={folder / 'again'}", f"tokenizers.folder={folder / 'again/tokenizers'}")
    again = (*again, f"data.tokens={folder / 'again/tokens'}")
    fourm("tokenizer", "fit", *again, "--jobs", "2")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "fourm_engine.cli")
    shared_out = run(*torchrun, "tokenize", *map(str, again), "data.shard_size=10")  # and smaller shards
    assert shared_out.returncode == 0, shared_out.stderr
    fourm("train", *again)
    for weights in (folder / "run/model").rglob("*.safetensors"):
        other = folder / "again/model" / weights.relative_to(folder / "run/model")
        assert weights.read_bytes() == other.read_bytes(), weights.name


def test_doing_it_all_again_does_nothing_and_changes_nothing(trained):
    folder, path = trained
    before = {p: p.stat().st_mtime_ns for p in (folder / "tokens").rglob("*.safetensors")}
    assert "up to date" in fourm("tokenizer", "fit", path)
    assert "0 shards written" in fourm("tokenize", path)
    fourm("train", path)
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "tokens").rglob("*.safetensors")}
    losses = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in losses if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_without_a_plugin_the_checkpoint_works_for_the_rest_and_names_what_is_missing(trained):
    folder, _ = trained
    command = ("generate", str(folder / "run"), "--input", "caption=a red cube", "--out")
    fourm(*command, folder / "rest", "--target", "boxes", FOURM_DISABLE="depth")
    command = ("-m", "fourm_engine.cli", *command, str(folder / "none"), "--target", "depth")
    failed = run(*command, FOURM_DISABLE="depth")
    assert failed.returncode == 1
    assert "fourm-depth" in failed.stderr
    assert not (folder / "none").exists()


def test_training_again_without_a_plugin_trains_on_the_rest(trained):
    folder, path = trained
    smaller = (path, "modalities.select=installed", f"run={folder / 'smaller'}")
    fourm("train", *smaller, "train.steps=2", FOURM_DISABLE="depth,normal,semseg,clip")
    vocabulary = json.loads((folder / "smaller/model/config.json").read_text())["vocabulary"]
    assert [row["name"] for row in vocabulary] == ["boxes", "caption", "rgb", "rgb@pixels"]


SEMSEG = GRID | {"classes": ["floor", "wall", "sphere", "cube", "cylinder", "cone"]}


def test_a_trained_model_is_extended_by_a_modality_and_tells_what_it_forgets(trained):
    folder, _ = trained
    said = fourm("extend", folder / "run", "--add", "semseg", "--train", "lora", "--out", folder / "more",
                 f"modalities.settings.semseg={json.dumps(SEMSEG)}", "train.steps=3")  # fmt: skip
    assert "tokenizer semseg, semseg: " in said
    assert "train: 24 samples; 1 of 5 shards written" in said
    rows = json.loads((folder / "more/extend.json").read_text())["rows"]
    assert {row["modality"] for row in rows if row["case"] == "known"} == {"rgb", "depth", "boxes", "caption"}
    assert [row["modality"] for row in rows if row["case"] == "new"] == ["semseg"]
    assert all(f"{row['before']:.3f} ± {row['before_error']:.3f}" in said for row in rows)
    model = FourM.from_pretrained(folder / "more")
    assert model.vocabulary.names == ["boxes", "caption", "depth", "rgb", "rgb@pixels", "semseg"]
    assert model.generate({"caption": "a red cube"}, ["semseg"])["semseg"].value.shape == (32, 32)
    assert load_config(folder / "more/config.yaml").modalities.select == model.vocabulary.names


@pytest.mark.parametrize(
    ("source", "add", "out", "message"),
    [
        ("run", "semsge", "new", r"no installed plugin provides the modality 'semsge'; did you mean 'semseg'\?"),
        ("run", "depth", "new", r"'depth' is in the model already"),
        ("run", "semseg", "run", r"--out .*run: holds the model to extend"),
        ("run", "semseg", "data", r"--out .*data: exists, and is not a run of `fourm extend`"),
        ("unfinished", "semseg", "new", r"holds no exported model yet; finish it first: fourm train .*config.yaml"),
        ("data", "semseg", "new", r"holds no exported model"),
        ("run/model", "semseg", "new", r"config.yaml: no such file; name the config"),
    ],
)
def test_what_cannot_be_extended_is_named_before_anything_is_written(trained, source, add, out, message):
    folder, path = trained
    (folder / "unfinished").mkdir(exist_ok=True)
    (folder / "unfinished/config.yaml").write_text(path.read_text())
    with pytest.raises(ValueError, match=message):
        open_extension(
            extension_config(str(folder / source), [], add=[add], train="rows", out=folder / out, config=None)
        )
    assert not (folder / "new").exists()


def test_an_exported_folder_is_extended_with_the_settings_it_has(trained):
    folder, path = trained
    lora = yaml.safe_load(path.read_text()) | {"extend": {"lora": {"rank": 3}}}
    (folder / "lora.yaml").write_text(yaml.safe_dump(lora))
    path = folder / "lora.yaml"
    config = extension_config(str(folder / "run/model"), [], add=["semseg"], train="rows", out=None, config=path)
    assert config.extend.lora.rank == 3
    assert config.run == folder / "run/model-semseg-rows"
    assert config.modalities.settings["depth"]["codebook_size"] == 16
    assert config.extend.replay_share == 0
    assert {spec.name for spec in open_extension(config).new} == {"semseg"}
