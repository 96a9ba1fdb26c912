"""Processes that see other data than the first one are told so before a step: held-out data, too, which they measure
in parts."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.distributed.launching import launch
from tests.fakes import fake_modalities, sample_names, write_data


@pytest.mark.parametrize(
    ("part", "names", "said"),
    [
        ("val", sample_names(9, start=200), "rank 1 differs from rank 0 in data.val.names"),
        ("train", sample_names(19), "data.samples: 20 in rank 0, 19 in rank 1"),
    ],
)
def test_other_data_in_one_process_is_named_before_the_first_step(tmp_path, part, names, said):
    for rank in (0, 1):
        write_data(tmp_path / f"data-{rank}/train", fake_modalities(), sample_names(20))
        write_data(tmp_path / f"data-{rank}/val", fake_modalities(), sample_names(9, start=100))
    shutil.rmtree(tmp_path / "data-1" / part)
    write_data(tmp_path / "data-1" / part, fake_modalities(), names)
    data = str(tmp_path / "data-RANK")
    error = launch("pretrain/fourm_run.py", data, str(tmp_path / "run"), json.dumps({}), world=2, fail=True)
    assert said in error
    assert not (tmp_path / "run/metrics.jsonl").exists()
