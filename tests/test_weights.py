"""Files of weights are read whatever the bytes of their path, and as the library of their format reads them; one that
is cut short while it is open is an error, not the end of the process."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fourm_engine import weights
from fourm_engine.weights import DTYPES, opened, read_rows, tensor_file


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


def test_tensors_of_every_type_are_those_that_the_library_reads(tmp_path):
    content, path = torch.arange(48, dtype=torch.uint8), tmp_path / "all.safetensors"
    save_file(
        {kind: (content % 2 if kind == "BOOL" else content).clone().view(dtype) for kind, dtype in DTYPES.items()}, path
    )
    scalars = {"half": torch.tensor(0.5, dtype=torch.bfloat16), "none": torch.zeros(3, 0)}
    save_file(load_file(path) | scalars, path, metadata={"format": "pt"})
    expected = load_file(path)
    with tensor_file(path) as file:
        assert file.metadata() == {"format": "pt"}
        assert {*file.keys()} == {*expected}
        for name, tensor in expected.items():
            read, stored = file.get_tensor(name), file.get_slice(name)
            assert (read.dtype, tuple(read.shape), stored.get_shape()) == (tensor.dtype, tensor.shape, [*tensor.shape])
            assert bits(read) == bits(tensor), name
            if tensor.ndim:
                assert bits(stored[1:3]) == bits(tensor[1:3]), name


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist()


def test_rows_are_filled_in_another_type_and_in_memory_with_gaps(tmp_path, monkeypatch):
    monkeypatch.setattr("fourm_engine.weights.BLOCK", 8)
    path, weight = tmp_path / "weights.safetensors", torch.randn(9, 3)
    save_file({"weight": weight}, path)
    with tensor_file(path) as file:
        stored = file.get_slice("weight")
        for rows in (torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.float64), torch.zeros(3, 5).t()):
            stored.fill(rows, 2)
            assert torch.equal(rows.float(), weight[2:7])
        for rows in (torch.zeros(5, 4), torch.zeros(5, 3, 1), torch.zeros(8, 3)):
            with pytest.raises(SafetensorError, match="weight has shape"):
                stored.fill(rows, 2)


def test_the_header_of_a_model_is_parsed_once_and_that_of_another_file_anew(tmp_path):
    weights._parsed.cache_clear()
    path, rows = tmp_path / "weights.safetensors", torch.zeros(2, 3)
    save_file({"weight": torch.arange(12.0).view(4, 3)}, path)
    for first in range(3):
        read_rows(path, "weight", rows, first)
        assert rows[0, 0] == 3 * first
    save_file({"weight": torch.zeros(2, 6)}, path)  # of the same size
    with pytest.raises(ValueError, match=r"weight has shape \[2, 6\]"):
        read_rows(path, "weight", rows, 0)
    assert weights._parsed.cache_info()[:2] == (2, 2)


@pytest.mark.parametrize("left", [0, 4, 200])
def test_a_file_that_is_cut_short_while_it_is_open_is_an_error(tmp_path, left):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(1000, 3)}, path)
    with tensor_file(path) as file:
        os.truncate(path, left)
        with pytest.raises(SafetensorError, match="it ends within weight"):
            file.get_tensor("weight")
    with (
        pytest.raises(ValueError, match=r"weights\.safetensors: not a safetensors file.* truncated"),
        opened(path) as file,
    ):
        file.get_tensor("weight")


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


@pytest.mark.parametrize(
    "header",
    [
        *({"a": entry(**wrong)} for wrong in ({"dtype": "F3"}, {"shape": (2,)}, {"shape": (-1,)}, {"offsets": (4, 8)})),
        *(
            {"a": entry(**wrong)}
            for wrong in ({"offsets": (0, 1 << 60)}, {"shape": None}, {"shape": (1 << 62, 1 << 62)})
        ),
        {"a": entry(), "b": entry()},
        {"__metadata__": 3},
        {"a": 1},
        {},
        [],
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_read(tmp_path, header):
    path, content = tmp_path / "weights.safetensors", json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(4))
    with pytest.raises(ValueError, match=r"weights\.safetensors: not a safetensors file"), opened(path):
        pass
