"""A full or read-only disk, for everything that is written: one line names the file, old content stays, and nothing
half-written or temporary is left."""

from __future__ import annotations

import builtins
import errno
import io
import os
import pickle
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError

from fourm_engine.cli.new_plugin import write_package
from fourm_engine.convert.published import write_checkpoint
from fourm_engine.data.raw.label import label
from fourm_engine.data.tokens.token_shards import Made, TokenShardWriter
from fourm_engine.extend.report import Report
from fourm_engine.files import CannotWrite, replacing_file, replacing_folder, write_atomically, write_together
from fourm_engine.lock import at_work
from fourm_engine.recipes.generate import write as write_generated
from fourm_engine.tokenizers.store import save_tokenizer
from fourm_engine.tokenizers.wordpiece import WordPieceTokenizer
from fourm_engine.train.checkpoint_manager import CheckpointManager
from fourm_engine.train.metrics import Metrics
from tests.data.test_label import Threshold
from tests.extend.growing import run_config
from tests.fakes import fake_modalities, sample_names, write_data
from tests.grids import text_spec
from tests.tokenizers.test_bins import fitted as bins
from tests.tokenizers.test_mlp import made as mlp


def wordpiece() -> WordPieceTokenizer:
    spec = text_spec("words", size=600, tokens=8)
    made = WordPieceTokenizer([spec], coordinate_bins=8)
    made.fit(lambda: iter(["a ball on a cube", "two balls"]))
    return made


def labels(folder: Path, tar: bool):
    source, target = fake_modalities(["a", "b"]).values()
    roots = iter([folder / "first", folder / "second"])
    for root in (folder / "first", folder / "second"):
        write_data(root, {"a": source}, {"a": sample_names(2)}, tar=tar)
    return lambda: label(next(roots), source, target, Threshold())


def shards(folder: Path):
    modality = fake_modalities(["a"])["a"]
    writer = TokenShardWriter(folder, modality, SimpleNamespace(fingerprint="f"), 1)
    return lambda: writer.write(0, ["x"], {"x": (Made(0, 0, 0), [np.zeros(modality.spec.layout.num_tokens, np.int32)])})


def generated(folder: Path):
    modality = SimpleNamespace(write=lambda value: {"txt": b"text"}, spec=SimpleNamespace(extensions=("txt",)))
    one = SimpleNamespace(modality=modality, value=None, spread=None, show=lambda: Image.new("RGB", (4, 4)))
    return lambda: write_generated(one, folder, "stem")


def metrics(folder: Path):
    return lambda: Metrics(folder / "run", step=1, steps=9).log_scores(1, {"loss": 1.0})


def package(folder: Path):
    names = iter(["first", "second"])
    return lambda: write_package(next(names), "grid", folder)


def extension(folder: Path):
    report = Report(
        source="s", add=["m"], train="rows", steps=1, trained_parameters=1, parameters=1, rows=[], not_measured=[]
    )
    return lambda: report.save(folder / "run/extend.json")


def together(folder: Path):
    return lambda: write_together({folder / "evaluation.json": "{}", folder / "report.html": "<p>"})


#: Writer -> (what makes it in a folder, a part of the path that is named).
WRITERS = {
    "config": (lambda d: lambda: run_config(d, d / "run").store(), "run/started.json"),
    "files that belong together": (together, ""),
    "extension": (extension, "run/extend.json"),
    "metrics": (metrics, "run/metrics.jsonl"),
    "token shard": (shards, "a/shard-"),
    "labels as files": (lambda d: labels(d, False), "second/b"),
    "labels in tars": (lambda d: labels(d, True), "second/b"),
    "tokenizer of texts": (lambda d: lambda: save_tokenizer(wordpiece(), d / "text"), "text"),
    "tokenizer of bins": (lambda d: lambda: save_tokenizer(bins([[1.0], [2.0]])[0], d / "bins"), "bins"),
    "neural tokenizer": (lambda d: lambda: save_tokenizer(mlp(), d / "mlp"), "mlp"),
    "published model": (lambda d: lambda: write_checkpoint(d / "m.safetensors", {"a": torch.ones(9)}, {}), ""),
    "generated": (generated, "stem.txt"),
    "new package": (package, "fourm-second"),
}


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name != "filler"}


def refuse_to_write(monkeypatch, number):
    """Every file opened for writing takes nothing, be it opened by Python or by safetensors."""
    real = io.open

    class Full(io.RawIOBase):
        def __init__(self, file):
            self.file, self.name, self.mode = file, file.name, file.mode

        def writable(self):
            return True

        def seekable(self):
            return True

        def seek(self, *where):
            return self.file.seek(*where)

        def tell(self):
            return self.file.tell()

        def truncate(self, size=None):
            return self.file.truncate(size)

        def write(self, data):
            raise OSError(number, os.strerror(number))

        def close(self):
            self.file.close()
            super().close()

    def opened(path, mode="r", *args, **options):
        if not set("wax") & set(mode):
            return real(path, mode, *args, **options)
        raw = Full(real(path, mode.replace("b", "").replace("t", "") + "b", buffering=0))
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8", write_through=True)

    def serialize(*args, **options):
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

    for module, name in ((builtins, "open"), (io, "open"), (tarfile, "bltn_open")):
        monkeypatch.setattr(module, name, opened)
    monkeypatch.setattr(Path, "open", opened)  # before Python 3.11, it keeps the original `io.open`
    for module in (safetensors.torch, safetensors.numpy):
        monkeypatch.setattr(module, "serialize_file", serialize)


def refuse(monkeypatch, stage, number):
    def fail(*args, **options):
        raise OSError(number, os.strerror(number), *(str(a) for a in args[:1] if isinstance(a, (str, Path))))

    if stage == "write":
        refuse_to_write(monkeypatch, number)
    elif stage == "sync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
        monkeypatch.setattr(os, "rename", fail)


@pytest.mark.parametrize("stage", ["write", "sync", "rename"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path, monkeypatch, name, stage):
    make, named = WRITERS[name]
    write = make(tmp_path)
    write()
    before = tree(tmp_path)
    with monkeypatch.context() as broken:
        refuse(broken, stage, errno.ENOSPC)
        with pytest.raises(CannotWrite) as caught:
            write()
    words = str(caught.value)
    assert words.startswith(str(tmp_path / named))
    assert ": cannot be written: No space left on device; free space" in words
    assert ".part" not in words
    assert "\n" not in words
    assert tree(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of one MiB, and what fills it."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")

    def fill():
        with open(place / "filler", "wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    yield place, fill
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_really_full_is_named(small_disk, name):
    place, fill = small_disk
    make, named = WRITERS[name]
    write = make(place)
    write()
    before = tree(place)
    fill()
    with pytest.raises(CannotWrite) as caught:
        write()
    assert str(caught.value).startswith(str(place / named))
    assert "cannot be written: No space left on device" in str(caught.value)
    assert tree(place) == before


def test_of_files_that_belong_together_none_is_replaced_where_one_does_not_fit(small_disk):
    place, _ = small_disk
    write_together({place / "evaluation.json": "old", place / "report.html": "old"})
    with pytest.raises(CannotWrite, match=r"report.html: cannot be written: No space left on device"):
        write_together({place / "evaluation.json": "new", place / "report.html": "x" * (2 << 20)})
    assert tree(place) == {"evaluation.json": b"old", "report.html": b"old"}


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
def test_other_refusals_are_named_alike(tmp_path, monkeypatch, number):
    refuse(monkeypatch, "write", number)
    with pytest.raises(CannotWrite, match=f"report.html: cannot be written: {os.strerror(number)}"):
        write_atomically(tmp_path / "report.html", "x")


def test_a_name_is_as_long_as_the_file_system_takes(tmp_path):
    write_atomically(tmp_path / ("x" * 255), "whole")
    assert (tmp_path / ("x" * 255)).read_text() == "whole"
    with pytest.raises(CannotWrite, match=r"File name too long; choose a shorter name"):
        write_atomically(tmp_path / ("x" * 256), "whole")


def test_a_folder_where_a_file_belongs_and_a_file_where_a_folder_belongs_are_told(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(CannotWrite, match="folder: cannot be written: Is a directory; a folder is there"):
        write_atomically(tmp_path / "folder", "x")
    with pytest.raises(CannotWrite, match=r"file/x: cannot be written: .*file is a file, not a folder"):
        write_atomically(tmp_path / "file/x", "x")
    with (
        pytest.raises(CannotWrite, match="file: cannot be written: a file is there"),
        replacing_folder(tmp_path / "file"),
    ):
        pass
    with pytest.raises(CannotWrite, match=r"file is a file, not a folder"), at_work(tmp_path / "file" / "run"):
        pass
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_error_about_another_file_is_not_blamed_on_the_one_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), replacing_file(tmp_path / "out"):
        (tmp_path / "nowhere").read_bytes()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_writer_between_the_renames_leaves_the_old_folder(tmp_path, monkeypatch, stop):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("old")
    rename, count = os.rename, iter(range(9))

    def second_stops(source, target):
        if next(count) == 1:
            raise stop
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_stops)
    with pytest.raises(stop), replacing_folder(tmp_path / "model") as temporary:
        (temporary / "weights").write_text("new")
    assert tree(tmp_path) == {"model/weights": b"old"}


@pytest.mark.parametrize("stage", ["write", "sync", "rename"])
def test_an_export_names_its_folder_and_leaves_the_earlier_one(model, tmp_path, monkeypatch, stage):
    out = tmp_path / "run"
    model.save_pretrained(out / "model")
    before = tree(out)
    with monkeypatch.context() as broken:
        refuse(broken, stage, errno.ENOSPC)
        with pytest.raises(CannotWrite, match=r"run/model.*: cannot be written: No space"):
            model.save_pretrained(out / "model")
    assert tree(out) == before
    assert not [path for path in out.rglob("*") if ".part" in path.name]


def test_exports_have_ordinary_permissions(model, tmp_path):
    (tmp_path / "plain").write_text("")
    ordinary = (tmp_path / "plain").stat().st_mode
    model.save_pretrained(tmp_path / "model")
    write_checkpoint(tmp_path / "published/model.safetensors", {"a": torch.ones(9)}, {})
    save_tokenizer(mlp(), tmp_path / "mlp")
    written = [p for name in ("model", "published", "mlp") for p in (tmp_path / name).rglob("*") if p.is_file()]
    assert len(written) >= 6
    assert {path.stat().st_mode for path in written} == {ordinary}


@pytest.mark.parametrize("stage", ["write", "sync", "rename"])
def test_a_checkpoint_that_the_disk_refuses_is_named_and_the_earlier_one_stays(tmp_path, monkeypatch, stage):
    told: list[str] = []
    checkpoints = CheckpointManager(tmp_path / "run/checkpoints", keep=2, report=told.append)
    checkpoints.save(1, {"w": torch.ones(3)}, {})
    checkpoints.finish()
    before = tree(tmp_path)
    with monkeypatch.context() as broken:
        refuse(broken, stage, errno.ENOSPC)
        checkpoints.save(2, {"w": torch.ones(3)}, {})
        checkpoints.finish()
    assert (checkpoints.saved, len(told)) == (1, 1)
    assert f"{tmp_path}/run/checkpoints/step-" in told[0]
    assert "No space left on device" in told[0]
    assert tree(tmp_path) == before


def test_the_error_of_another_process_is_the_same(tmp_path):
    error = CannotWrite(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.errno, again.filename) == (str(error), errno.ENOSPC, str(tmp_path / "a"))


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_a_link_that_leads_nowhere_is_named_with_where_it_leads(tmp_path, target):
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(CannotWrite) as caught:
        write_atomically(link / "run/config.yaml", "a: 1")
    said = f"cannot be written: {link} is a link to {target}, which is not there; mend or remove the link"
    assert str(caught.value) == f"{link / 'run/config.yaml'}: {said}"
