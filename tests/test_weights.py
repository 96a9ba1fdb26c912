"""Files of weights are read whatever the bytes of their path."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from fourm_engine.weights import opened, read_rows, tensor_file


def test_a_path_that_is_not_utf_8_is_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"t\xe9l\xe9charg\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system stores only UTF-8")
    path, weight = folder / "model.safetensors", torch.arange(6.0).view(3, 2)
    save_file({"weight": weight}, path)
    with tensor_file(path) as file:
        assert torch.equal(file.get_tensor("weight"), weight)
    with opened(path, {"weight": (3, 2)}) as file:
        assert torch.equal(file.get_tensor("weight"), weight)
    read_rows(path, "weight", rows := torch.zeros(2, 2), 1)
    assert torch.equal(rows, weight[1:])
    with pytest.raises(FileNotFoundError), tensor_file(folder / "absent"):
        pass
