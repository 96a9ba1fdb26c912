"""Processes whose plugins or settings differ are told so before any data is read or a model built."""

from __future__ import annotations

import pytest
import yaml

from fourm_engine.train.watchdog import AGAIN
from tests.distributed.launching import launch, started
from tests.recipes.test_config import MINIMAL
from tests.sdk.sites import GOOD, entry, put

TRAIN, FIT = ("train", "CONFIG"), ("tokenizer", "fit", "CONFIG")


def prepare(tmp_path, command=TRAIN, **other) -> list[str]:
    """A command on a run of one modality, whose plugin is `other` in the second process."""
    put(tmp_path / "a", "acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    put(tmp_path / "b", "acme-thermal", entry("thermal", "acme_thermal:Thermal"), **other)
    # Neither the data nor the tokenizers are there: whoever looked for them first would complain of that.
    config = MINIMAL | {
        "run": str(tmp_path / "run"),
        "modalities": {"select": ["thermal"]},
        "data": {"train": str(tmp_path / "nowhere")},
        "tokenizers": {"folder": str(tmp_path / "none"), "fit": {"watchdog_s": 2}},
        "train": MINIMAL["train"] | {"watchdog_s": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return ["distributed/plugins_run.py", *(str(tmp_path / name) for name in ("config.yaml", "a", "b")), *command]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"version": "1.3"},
            "rank 1 differs from rank 0 in plugin thermal (plugin thermal: 'acme-thermal 1.2' in rank 0, "
            "'acme-thermal 1.3' in rank 1)",
        ),
        (
            {"source": GOOD.replace("= 64", "= 32")},
            "rank 1 differs from rank 0 in modality thermal, settings of thermal, vocabulary thermal",
        ),
    ],
    ids=["version", "layout"],
)
def test_another_version_or_layout_is_named_with_rank_and_plugin(tmp_path, other, said):
    error = launch(*prepare(tmp_path, **other), world=2, fail=True)
    assert said in error
    assert "install the same plugins" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ((*TRAIN, "train.pictures_every=1RANK"), "train.pictures_every"),  # which decides what processes exchange
        ((*TRAIN, "data.views=1RANK"), "data.views"),
        ((*FIT, "tokenizers.fit.lr=1e-RANK"), "tokenizers.fit.lr"),
    ],
)
def test_another_setting_is_named_with_rank_and_key(tmp_path, words, key):
    if words[0] == "tokenizer":
        (tmp_path / "nowhere/thermal").mkdir(parents=True)
        (tmp_path / "nowhere/thermal/a.npy").write_bytes(b"")
    reads = "import numpy as np\n" + GOOD.replace("return files", "return np.zeros((1, 4, 4), np.float32)")
    command = prepare(tmp_path, words, source=reads)
    (tmp_path / "a/acme_thermal.py").write_text(reads)
    error = launch(*command, world=2, fail=True)
    assert f"rank 1 differs from rank 0 in {key} (" in error
    assert error.endswith("; start every process with the same config and overrides\n")
    assert error.count("error") == 1


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (TRAIN, 1, "run `fourm tokenizer fit`"),
        (FIT, 1, "nowhere"),
        ((*TRAIN, "train.stepz=2"), 1, "stepz"),
        ((*TRAIN, "--stepz=2"), 2, "--stepz"),
        ((*TRAIN, "run=FILE/run"), 1, "FILE/run: cannot be written: "),
        ((*FIT, "tokenizers.folder=FILE/t"), 1, "FILE/t"),
    ],
)
def test_of_processes_that_end_with_the_same_error_the_first_tells_it(tmp_path, words, code, reason):
    (tmp_path / "file").write_text("")
    words = [word.replace("FILE", str(tmp_path / "file")) for word in words]
    with started(*prepare(tmp_path, words), world=2) as processes:
        (first, said), (second, silent) = (process.wait() for process in processes)
    assert (first, second) == (code, code), said
    assert said.count("fourm: error: ") == 1
    assert reason.replace("FILE", str(tmp_path / "file")) in said
    assert "error" not in silent
    assert not (tmp_path / "none").exists()


def test_callers_from_python_get_the_error_in_every_process(tmp_path):
    with started(*prepare(tmp_path, ["python"]), world=2) as processes:
        codes = [process.wait()[0] for process in processes]
        said, other = (process.printed() for process in processes)
    assert codes == [0, 0]
    assert said.startswith("ValueError: ")
    assert said.endswith("run `fourm tokenizer fit`\n")
    assert other == said


@pytest.mark.parametrize("words", [TRAIN, FIT])
def test_a_process_that_freezes_while_it_imports_a_plugin_is_not_waited_for(tmp_path, words):
    freezes = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n" + GOOD
    command = prepare(tmp_path, words, source=freezes)
    # Data that the other one can read: without any, fitting would end before the processes meet.
    reads = "import numpy as np\n" + GOOD.replace("return files", "return np.zeros((1, 4, 4), np.float32)")
    (tmp_path / "a/acme_thermal.py").write_text(reads)
    (tmp_path / "nowhere/thermal").mkdir(parents=True)
    (tmp_path / "nowhere/thermal/a.npy").write_bytes(b"")
    with started(*command, world=2) as (first, second):
        code, said = first.wait()
        assert code == AGAIN, said
        assert f"rank 1 (process {second.pid} on " in said
        assert "is lost: no sign of life for" in said
        assert "Traceback" not in said
