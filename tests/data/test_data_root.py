"""Patterns and commands in `data.train`: what they stand for, and that a failed one is named."""

from __future__ import annotations

import json
import logging

import pytest

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.pipes import copied, spool_folder
from fourm_engine.data.raw.root import data_root, expand
from fourm_engine.recipes.started import relocate
from tests.data.indexing import MODALITIES, expected, held, write_layout

DATA = {f"{i:02d}": {"a": b"%d" % i, "words": b"w"} for i in range(8)}


@pytest.fixture
def root(tmp_path):
    write_layout(tmp_path / "data", DATA, "webdataset", shards=4)
    return tmp_path / "data"


def samples_of(*shards):
    return expected({name: files for i, (name, files) in enumerate(sorted(DATA.items())) if i % 4 in shards})


@pytest.mark.parametrize(
    ("pattern", "shards"),
    [
        ("shard-{0..2}.tar", (0, 1, 2)),
        ("shard-{1,3}.tar", (1, 3)),
        ("shard-2.tar", (2,)),
        ("{shard-{0..1},shard-3}.tar", (0, 1, 3)),
    ],
)
def test_a_pattern_stands_for_some_tars_of_a_folder(root, pattern, shards):
    assert held(root / pattern) == samples_of(*shards)
    config = DataConfig(train=root / pattern)
    assert list(AlignedData.from_config(MODALITIES, config, training=True).names) == list(samples_of(*shards))


def test_training_and_validation_may_be_two_patterns_of_one_folder(root, caplog):
    config = DataConfig(train=root / "shard-{0..2}.tar", val=root / "shard-3.tar")
    train, val = (AlignedData.from_config(MODALITIES, config, training=training) for training in (True, False))
    assert list(train.names) == list(samples_of(0, 1, 2))
    assert list(val.names) == list(samples_of(3))
    assert "held-out" not in caplog.text


def test_samples_in_both_patterns_are_not_trained_on(root, caplog):
    config = DataConfig(train=root / "shard-{0..2}.tar", val=root / "shard-{2..3}.tar", val_split="some")
    (root / "splits.json").write_text(json.dumps({"some": ["02", "03"]}))
    assert "02" not in AlignedData.from_config(MODALITIES, config, training=True).names
    assert "1 of 6 training samples, such as 02, are held-out samples too" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("shard-{0..9}.tar", r"6 of 10 tars are missing, such as .*shard-4\.tar"),
        ("{a,b}", r"means .*a; name a folder, or tars such as"),
        ("shard-{0..3.tar", "a brace is not closed"),
        ("shard-{0..99999999999}{0..999999}.tar", "stands for more than 1000000 paths"),
        ("{a,b}" * 21 + ".tar", "stands for more than 1000000 paths"),
    ],
)
def test_a_pattern_that_stands_for_nothing_is_named(root, pattern, why):
    with pytest.raises(ValueError, match=why):
        data_root(root / pattern)


def test_a_folder_with_braces_in_its_name_is_a_folder(tmp_path):
    (tmp_path / "{x}").mkdir()
    assert data_root(tmp_path / "{x}") == (tmp_path / "{x}", None)
    assert expand("a{1..3}") == ["a1", "a2", "a3"]


def test_what_commands_print_is_copied_once_and_read(root, tmp_path, caplog):
    log = tmp_path / "log"
    pipe = f"pipe:echo x >> {log}; cat {root}//shard-{{0..1}}.tar"
    config = DataConfig(train=pipe, tokens=tmp_path / "tokens")
    assert config.train == pipe  # a path would have lost a slash
    for _ in range(2):
        data = AlignedData.from_config(MODALITIES, config, training=True)
        assert {n: {m: data.files(n, m) for m in sorted(data.has(n))} for n in data.names} == samples_of(0, 1)
    assert log.read_text() == "x\nx\n"
    copied_line = next(line for line in caplog.messages if "copied" in line)
    assert "copied 2 tars, 0.0 MB of 8 members, from pipe:echo" in copied_line
    assert spool_folder(pipe, tmp_path / "tokens").is_relative_to(tmp_path / "tokens")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("exit 3", "failed with status 3 after 0 bytes"),
        ("cat {root}/shard-0.tar; exit 1", "failed with status 1 after 10240 bytes"),
        ("head -c 1300 {root}/shard-0.tar", "prints no whole tar: truncated"),
        ("echo hello", "prints no whole tar: truncated or no tar file"),
        ("gzip -c {root}/shard-0.tar", "prints no whole tar: no tar file but compressed by gzip"),
        ("yes", r"prints no tar, but b'y\\ny"),
        ("cat /dev/zero", r"prints no tar, but b'\\x00"),
        ("cat", "prints no whole tar: truncated or no tar file \\(empty file"),  # nothing to wait for on stdin
        ("while :; do cat {root}/shard-0.tar; done", "prints more than 2097152 bytes"),
    ],
)
def test_a_command_that_fails_is_named_and_leaves_nothing(root, tmp_path, command, why, monkeypatch):
    monkeypatch.setattr("fourm_engine.data.raw.pipes.MAX_PIPE_BYTES", 1 << 21)
    command = command.replace("{root}", str(root))
    with pytest.raises(ValueError, match=why) as error:
        copied(f"pipe:{command}", tmp_path / "spool")
    assert str(error.value).startswith(f"pipe:{command}: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "spool").exists() or list((tmp_path / "spool").iterdir()) == []


def test_a_command_that_prints_nothing_for_long_is_named(root, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fourm_engine.data.raw.pipes.SILENCE", 0.05)
    copied(f"pipe:sleep 0.3; cat {root}/shard-0.tar", tmp_path / "spool")
    assert "has printed nothing for 0 s; still waiting" in caplog.text


def test_a_stopped_copy_goes_on_where_it_was(root, tmp_path):
    flag = tmp_path / "flag"
    pipe = f"pipe:test -e {flag}{{0,1}} && cat {root}/shard-1.tar"
    (tmp_path / "flag0").touch()
    with pytest.raises(ValueError, match="failed with status 1"):
        copied(pipe, tmp_path / "spool")
    assert [path.name for path in (tmp_path / "spool").glob("*.tar")] == ["shard-00000.tar"]
    (tmp_path / "flag0").unlink()
    (tmp_path / "flag1").touch()
    assert len(list(copied(pipe, tmp_path / "spool").glob("*.tar"))) == 2


def stored(folder, pipe):
    folder.mkdir()
    (folder / "started.json").write_text(json.dumps({"folder": str(folder.parent)}))
    return {"run": "run", "data": {"train": pipe, "tokens": str(folder.parent / "tokens")}}


def test_a_config_that_a_run_has_stored_runs_no_command(root, tmp_path):
    pipe = f"pipe:touch {tmp_path}/run-by-somebody-else"
    raw = stored(tmp_path / "run", pipe)
    missing = relocate(raw, tmp_path / "run/config.yaml")
    assert "data.train" in missing
    assert not (tmp_path / "run-by-somebody-else").exists()


def test_a_config_that_a_run_has_stored_reads_the_copies(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pipe = f"pipe:cat {root}/shard-0.tar"
    (tmp_path / "tokens").mkdir()
    copies = copied(pipe, spool_folder(pipe, tmp_path / "tokens"))
    raw = stored(tmp_path / "run", pipe)
    assert "data.train" not in relocate(raw, tmp_path / "run/config.yaml")
    assert raw["data"]["train"] == str(copies)


def test_a_moved_run_finds_the_tars_of_its_pattern(root, tmp_path, monkeypatch):
    raw = stored(tmp_path / "run", "data/shard-{0..2}.tar")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "data.train" not in relocate(raw, tmp_path / "run/config.yaml")
    assert held(raw["data"]["train"]) == samples_of(0, 1, 2)
