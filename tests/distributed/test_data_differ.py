"""Processes that see other data than the first one are told so before a step: held-out data, too, which they measure
in parts."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.distributed.launching import launch
from tests.fakes import fake_modalities, sample_names, write_data


def other_val(folder):
    shutil.rmtree(folder / "val")
    write_data(folder / "val", fake_modalities(), sample_names(9, start=200))


def fewer(folder):
    shutil.rmtree(folder / "train")
    write_data(folder / "train", fake_modalities(), sample_names(19))


def one_file_less(folder):
    sorted(path for path in (folder / "train/words").iterdir() if path.is_file())[3].unlink()


def another_copy(folder):
    """The same names, sizes and kinds of files."""
    for path in (folder / "val/words").iterdir():
        path.write_bytes(bytes(reversed(path.read_bytes())))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_val, "data.val.names"),
        (fewer, "data.samples: 20 in rank 0, 19 in rank 1"),
        (one_file_less, "data.samples with words: '20 ("),
        (another_copy, "rank 1 differs from rank 0 in data.val.some files of words ("),
    ],
)
def test_other_data_in_one_process_is_named_before_the_first_step(tmp_path, change, said):
    for rank in (0, 1):
        write_data(tmp_path / f"data-{rank}/train", fake_modalities(), sample_names(20))
        write_data(tmp_path / f"data-{rank}/val", fake_modalities(), sample_names(9, start=100))
    change(tmp_path / "data-1")
    data = str(tmp_path / "data-RANK")
    error = launch("pretrain/fourm_run.py", data, str(tmp_path / "run"), json.dumps({}), world=2, fail=True)
    assert said in error
    assert "give every process the same files: one shared folder, or equal copies" in error
    assert not (tmp_path / "run/metrics.jsonl").exists()
