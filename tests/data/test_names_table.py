"""A table of names finds every name and row that a list and a dict would."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.data import names_table
from fourm_engine.data.columns import save_column
from fourm_engine.data.names_table import Names, NameTable

NAMES = st.lists(st.text(max_size=12), unique=True, max_size=40)


def save(names, folder):
    for column, array in NameTable.build(names).arrays().items():
        save_column(folder / f"names.{column}.npy", array)


@given(NAMES, st.text(max_size=12))
def test_a_table_equals_a_list_and_its_dict(names, other):
    table = NameTable.build(names)
    assert list(table) == names == table
    assert len(table) == len(names)
    assert table[1:3] == names[1:3]
    for row, name in enumerate(names):
        assert table.row(name) == row == table.index(name)
        assert table[row] == table[row - len(names)] == name
        assert name in table
    for absent in (len(names), -len(names) - 1):
        for some in (table, Names(table)):
            with pytest.raises(IndexError):
                some[absent]
    assert (other in table) == (other in names)
    assert table.rows([*names, other]).tolist() == [*range(len(names)), names.index(other) if other in names else -1]


@given(NAMES, st.integers(0, 3))
def test_names_of_one_hash_are_told_apart(names, bits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names_table, "_hash", lambda encoded: sum(encoded) & bits)
        table = NameTable.build(names)
        assert [table.row(name) for name in names] == list(range(len(names)))
        assert table.rows(names).tolist() == list(range(len(names)))
        assert table.row("no such name, however one looks") is None


@given(st.lists(st.text(max_size=5)))
def test_bytes_are_in_the_order_of_names(names):
    assert sorted(names) == sorted(names, key=lambda name: name.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("names", [[], ["a"], ["b", "caf\u00e9", "\udc80", ""]])
def test_a_saved_table_is_the_same_and_travels_by_its_path(tmp_path, names):
    save(names, tmp_path)
    table = NameTable.open(tmp_path)
    assert table == names
    assert len(pickle.dumps(table)) < 300
    assert pickle.loads(pickle.dumps(table)) == pickle.loads(pickle.dumps(NameTable.build(names))) == table
    assert [table.row(name) for name in names] == list(range(len(names)))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".npy"]


@pytest.mark.parametrize("column", ["offsets", "blob", "hashes", "order"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other", "pickle"])
def test_a_damaged_column_is_named(tmp_path, column, damage):
    save(["a", "bc", "def"], tmp_path)
    path = tmp_path / f"names.{column}.npy"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        np.save(path, np.zeros(2, np.float32))
    elif damage == "pickle":
        np.save(path, np.array([{}]), allow_pickle=True)
    else:
        path.write_bytes(b"" if damage == "empty" else content[:-1])
    with pytest.raises(ValueError, match=rf"names\.{column}\.npy"):
        NameTable.open(tmp_path)
