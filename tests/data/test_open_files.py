"""A process that may open no more files says so: nothing is taken for damaged, left out or made anew."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager

import pytest
import torch

from fourm_engine.data.raw.index import INDEX
from fourm_engine.data.tokens.index import INDEX_FOLDER
from fourm_engine.train import checkpoint
from fourm_engine.train.checkpoint_manager import CheckpointManager
from tests.data.indexed_data import raw, samples, tokens
from tests.data.indexing import held

__all__ = ["raw", "tokens"]


@contextmanager
def few_files(number: int):
    """That this process may open only so many more."""
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + number, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("what", ["raw", "tokens"])
def test_data_are_read_or_the_limit_is_told(raw, tokens, caplog, what):
    folder = raw / INDEX if what == "raw" else tokens / INDEX_FOLDER
    read = (lambda: held(raw)) if what == "raw" else (lambda: samples(tokens))
    truth, before = read(), {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    told = set()
    for number in range(12):
        try:
            with few_files(number):
                there = read()
        except OSError as error:
            told.add(error.errno)
        else:
            assert there == truth, number
    assert told == {errno.EMFILE}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert "damaged" not in caplog.text


def test_a_checkpoint_is_not_passed_over(tmp_path, monkeypatch):
    said: list[str] = []
    checkpoints = CheckpointManager(tmp_path, keep=2, report=said.append)
    checkpoints.save(1, {"w": torch.ones(2)}, {})
    checkpoints.finish()

    def refuse(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(checkpoint, "facts_of", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        checkpoints.newest()
    monkeypatch.undo()
    newest = checkpoints.newest()
    assert newest is not None
    assert (newest.step, said) == (1, [])
