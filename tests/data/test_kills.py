"""Whatever moment a process is killed at while it tokenizes, appends, prunes or indexes: what follows is the same."""

from __future__ import annotations

import os
import shutil
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens.folder_scan import scan
from fourm_engine.data.tokens.index import INDEX_FOLDER, Index
from fourm_engine.data.tokens.indexing import build, has_tokens, open_index
from fourm_engine.data.tokens.store import TokenStore
from fourm_engine.data.tokens.tokenize import tokenize_split
from tests.fakes import LevelsTokenizer, fake_modalities, fake_tokenizers, sample_names, write_data
from tests.killing import ends

MODALITIES = fake_modalities(["a", "b", "words"])
TOKENIZERS = fake_tokenizers(MODALITIES)
CONFIG = DataConfig(shard_size=3, views=2, augment=True)


class Slow(LevelsTokenizer):
    """So that there is something to interrupt."""

    def encode(self, arrays):
        time.sleep(0.005)
        return super().encode(arrays)


SLOW = {**TOKENIZERS, "a": Slow([MODALITIES["a"].spec])}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Three states of a folder of files: some samples; more; some of the first gone."""
    root = tmp_path_factory.mktemp("raw")
    write_data(root / "0", MODALITIES, {"a": sample_names(7), "b": sample_names(4, start=2), "words": sample_names(3)})
    shutil.copytree(root / "0", root / "1")
    write_data(root / "1", MODALITIES, ["00", "9", "91", "92"])
    shutil.copytree(root / "1", root / "2")
    for path in ("a/0001.npy", "words/0001.txt", "b/0003.npy"):
        (root / "2" / path).unlink()
    return root


def work(raw, tokens, tokenizers=SLOW):
    """Tokenizes each state, one after another, and indexes; goes on where it was stopped."""
    for state in (0, 1, 2):
        if not (done := tokens.with_name(f"{tokens.name}-{state}")).exists():
            data = AlignedData(raw / str(state), MODALITIES)
            tokenize_split(data, tokens, tokenizers, CONFIG, prune=state == 2)
            done.touch()
    shutil.rmtree(tokens / INDEX_FOLDER, ignore_errors=True)
    open_index(tokens)


def holds(folder):
    """All tensors of all shards, what the index says of them, and the files that are there."""
    index = Index.load(folder)
    assert index is not None
    files = index.files.copy()
    files[:, :, 1] = 0  # times
    shards = {path: load_file(path) for path in sorted(folder.rglob("*.safetensors"))}
    return (
        {str(p.relative_to(folder)): {k: v.tolist() for k, v in columns.items()} for p, columns in shards.items()},
        (index.shards.tolist(), files.tolist(), index.present.tolist(), index.dropped.tolist(), list(index.names)),
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        TokenStore(folder, MODALITIES, TOKENIZERS).identity(),
    )


def check(raw, tmp_path, kills, seed):
    work(raw, tmp_path / "whole", TOKENIZERS)
    rng, killed, seconds = np.random.default_rng(seed), 0, 0.05
    for attempt in range(20 * kills):
        if killed >= kills:
            break
        if ends(rng.uniform(0, seconds), work, raw, tmp_path / "killed"):
            for state in (0, 1, 2):  # all over again, from a random state on
                if state >= attempt % 3:
                    (tmp_path / f"killed-{state}").unlink()
            if attempt % 3 == 0:
                shutil.rmtree(tmp_path / "killed")
            continue
        killed, seconds = killed + 1, min(seconds * 1.1, 0.6)
        if has_tokens(tmp_path / "killed"):
            open_index(tmp_path / "killed", write=False)  # whatever stands there is whole
    assert killed == kills
    assert ends(600, work, raw, tmp_path / "killed")
    assert holds(tmp_path / "killed") == holds(tmp_path / "whole")


def test_some_kills_while_tokenizing_appending_pruning_and_indexing_change_nothing(raw, tmp_path):
    check(raw, tmp_path, 5, seed=0)


@pytest.mark.slow
def test_fifty_kills_while_tokenizing_appending_pruning_and_indexing_change_nothing(raw, tmp_path):
    check(raw, tmp_path, 50, seed=1)


@pytest.mark.parametrize("moment", [0, 5, 9, 10])
def test_a_kill_between_any_two_renames_of_an_index_leaves_the_old_the_new_or_none(raw, tmp_path, moment):
    work(raw, tmp_path / "tokens", TOKENIZERS)
    path = tmp_path / "tokens/a/shard-00000.safetensors"
    os.utime(path, ns=(1, 1))  # so that the index is made anew
    child = os.fork()
    if child == 0:
        count, rename, replace = 0, os.rename, os.replace

        def or_die(real):
            def renamed(*paths):
                nonlocal count
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return real(*paths)

            return renamed

        os.rename, os.replace = or_die(rename), or_die(replace)
        open_index(tmp_path / "tokens")
        os._exit(0)
    os.waitpid(child, 0)
    index = open_index(tmp_path / "tokens")
    assert (index.files == build(tmp_path / "tokens", scan(tmp_path / "tokens")).files).all()
    assert not [path for path in (tmp_path / "tokens").iterdir() if path.name.startswith(".")]
