"""fourm-parquet: a folder that Hugging Face `datasets` has written, through the whole path to a trained model."""

from __future__ import annotations

import io
import json
import logging
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_plugins.manager import PluginError, PluginManager
from tests.configs import small, store
from tests.fakes import fake_modalities, to_npy
from tests.running import fourm, refused

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ROOT = Path(__file__).parents[2]
GRID = {
    "image_size": 16,
    "patch_size": 8,
    "codebook_size": 16,
    "tokenizer": {"encoder": {"blocks": 0, "width": 32}, "decoder": {"blocks": 1, "width": 32}},
}
SMALL = {"image_size": 16, "patch_size": 8}
WORDS = {"max_tokens": 32, "text": {"vocabulary_size": 400, "coordinate_bins": 8}}


@pytest.fixture(autouse=True)
def _installed(monkeypatch, install):
    """The package, unless it is installed."""
    if any((p.kind, p.name) == ("source", "parquet") for p in PluginManager().plugins):
        return
    monkeypatch.syspath_prepend(str(ROOT / "plugins/parquet"))
    entries = "[fourm.sources.v1]\nparquet = fourm_parquet:ParquetSource\n"
    install("fourm-parquet", entries, source="", version="0.1.0")


def picture(seed):
    """A smooth one of 24x16 pixels, other in each channel."""
    across = np.linspace(0, 255, 24) * (seed % 5 + 1) / 5
    pixels = np.stack([np.tile(across, (16, 1)), np.full((16, 24), seed * 7 % 256), np.tile(across[::-1], (16, 1))], -1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
    return file.getvalue()


def write(folder, columns, *, parts=2, split="train", group=4, features=None):
    """Parquet files as `datasets` names and types them; the columns are lists."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    size = -(-len(table) // parts)
    for part in range(parts):
        path = folder / f"{split}-{part:05d}-of-{parts:05d}.parquet"
        pq.write_table(table.slice(part * size, size), path, row_group_size=group)
    return folder


def images(n, start=0):
    return [{"bytes": picture(i), "path": f"{i}.png"} for i in range(start, start + n)]


def opened(text, modalities, **settings):
    return AlignedData.from_config(modalities, DataConfig(train=text, **settings), training=True)


def real(**settings):
    host = PluginManager()
    return {name: host.modality(name, **given) for name, given in settings.items()}


def test_a_folder_that_datasets_has_written_is_read_with_its_classes_and_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(), text=datasets.Value("string"), label=datasets.ClassLabel(names=["cat", "dog"])
    )
    rows = {"image": images(6), "text": [f"a picture {i}" for i in range(6)], "label": [0, 1, 0, 1, -1, 0]}
    (tmp_path / "photos").mkdir()
    whole = datasets.Dataset.from_dict(rows, features=features)
    whole.to_parquet(str(tmp_path / "photos/train-00000-of-00001.parquet"))
    text = f"parquet:{tmp_path}/photos?rgb=image&caption="
    data = opened(text + "text", real(rgb=GRID, caption=WORDS))
    assert list(data.names) == [f"train-00000-of-00001/{row:06d}" for row in range(6)]
    name = data.names[1]
    assert data.files(name, "rgb") == {"png": picture(1)}
    assert data.files(name, "caption") == {"txt": b"a picture 1"}
    assert data.where(name, "caption").endswith("photos:train-00000-of-00001.parquet, row 1, column text")
    classes = opened(text + "label", real(rgb=GRID, caption=WORDS))
    assert classes.counts == {"rgb": 6, "caption": 5}  # -1 is no class
    assert classes.files(name, "caption") == {"txt": b"dog"}


def test_a_column_is_the_modality_that_is_called_like_it_and_nulls_are_absent(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    modalities = fake_modalities(("a", "words"))
    arrays = [to_npy(np.full((4, 4, 3), i, np.uint8)) for i in range(10)]
    words = [None if i == 3 else ["red ball", "big\ncube"] for i in range(10)]
    write(tmp_path / "some", {"a": arrays, "words": words, "other": list(range(10))})
    data = opened(f"parquet:{tmp_path}/some?b=other", modalities)
    assert data.counts == {"a": 10, "words": 9}
    assert data.names[3] == "train-00000-of-00002/000003"
    assert data.has(data.names[3]) == {"a"}
    assert {data.names.index(n): data.files(n, "a")["npy"] for n in data.names} == dict(enumerate(arrays))
    assert data.files(data.names[7], "words") == {"txt": b"red ball\nbig cube"}
    assert "no modality 'b' takes part, column other is not read" in caplog.text


def test_columns_of_other_names_are_proposed_to_the_modalities_that_read_their_kind(tmp_path):
    write(tmp_path / "some", {"label": [1, 2], "image": images(2), "thumbnail": images(2), "text": ["a", "b"]})
    host = PluginManager()
    modalities = {name: host.modality(name) for name in ("boxes", "caption", "depth", "rgb", "rgb@pixels")}
    with pytest.raises(PluginError, match=r"such as \?rgb=image&caption=text \("):
        opened(f"parquet:{tmp_path}/some", modalities)


def test_a_column_named_for_a_source_is_that_of_every_modality_that_reads_it(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path / "some", {"image": images(4)})
    pixels = {"rgb@pixels": PluginManager().modality("rgb@pixels", **SMALL)}
    assert opened(f"parquet:{tmp_path}/some?rgb=image", pixels).counts == {"rgb@pixels": 4}
    assert "takes part" not in caplog.text


def test_splits_are_those_of_the_files_names(tmp_path):
    for split, n in (("train", 6), ("validation", 4)):
        write(tmp_path / "all/data", {"words": ["red"] * n}, split=split)
    modalities = fake_modalities(("words",))
    assert len(opened(f"parquet:{tmp_path}/all", modalities, train_split="train").names) == 6
    only = opened(f"parquet:{tmp_path}/all", modalities, train_split="validation").names
    assert only[0] == "data/validation-00000-of-00002/000000"
    held = opened(f"parquet:{tmp_path}/all", modalities, val=f"parquet:{tmp_path}/all", val_split="validation")
    assert len(held.names) == 6


def test_rows_are_read_in_any_order_by_any_process_and_the_kept_groups_are_bounded(tmp_path, monkeypatch):
    write(tmp_path / "some", {"words": [f"red {i:03d}" for i in range(40)]}, group=5)
    data = opened(f"parquet:{tmp_path}/some", fake_modalities(("words",)))
    monkeypatch.setattr(sys.modules["fourm_parquet"], "KEPT", 1)
    for one in (data, pickle.loads(pickle.dumps(data))):
        for row in np.random.default_rng(0).permutation(40).tolist():
            assert one.files(one.names[row], "words") == {"txt": b"red %03d" % row}
    assert len(data._sources["words"]._opened.source._groups) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "nowhere: no .parquet files there (source 'parquet' of fourm-parquet 0.1.0)"),
        ("some?rgb=imag", "rgb=imag: no such column; did you mean 'image'?"),
        ("some", "none of the columns image, text is called like one of rgb; add ?MODALITY=COLUMN, such as ?rgb=image"),
        ("some?rgb=text", "none of the 6 files of rgb can be used, such as"),
        ("broken", "broken/train.parquet: cannot be read: Parquet"),
    ],
)
def test_a_wrong_folder_or_column_is_one_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "some", {"image": images(6), "text": ["words"] * 6})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/train.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="parquet") as caught:
        opened(f"parquet:{text}", real(rgb=GRID)).check_usable(["rgb"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(PluginError, match="Parquet files need pyarrow: pip install 'fourm-parquet'") as caught:
        opened(f"parquet:{tmp_path}", fake_modalities(("words",)))
    assert "\n" not in str(caught.value)


def test_a_damaged_row_group_and_a_path_without_bytes_are_reported_and_skipped(tmp_path):
    rows = images(6)
    rows[2] = {"bytes": None, "path": "elsewhere.png"}
    folder = write(tmp_path / "some", {"image": rows}, parts=1, group=2)
    path = next(folder.iterdir())
    column = pq.ParquetFile(path).metadata.row_group(2).column(0)
    start, content = column.dictionary_page_offset or column.data_page_offset, bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))
    data = opened(f"parquet:{folder}?rgb=image", real(rgb=GRID))
    assert data.value(data.names[0], "rgb").shape == (16, 24, 3)
    for row, reason in ((2, "has no bytes, but a path, elsewhere.png; embed the files"), (4, "row group 2 cannot be")):
        with pytest.raises(ValueError, match=reason):
            data.value(data.names[row], "rgb")


@pytest.fixture
def config(tmp_path):
    """A config of two splits in one folder, and the folder itself."""
    for split, start, n in (("train", 0, 24), ("validation", 100, 8)):
        rows = {"image": images(n, start), "text": [f"picture {start + i}" for i in range(n)]}
        write(tmp_path / "photos", rows, split=split)
    text = f"parquet:{tmp_path}/photos?rgb=image&caption=text"
    data = {"train": text, "train_split": "train", "val": text, "val_split": "validation"}
    sections = {"data": {**data, "tokens": str(tmp_path / "tokens")}, "masking": {"input_tokens": [1, 8]}}
    raw = small(tmp_path, {"rgb": GRID, "caption": WORDS}, train={"steps": 4, "warmup": 0, "log_every": 2}, **sections)
    return store(tmp_path / "photos.yaml", raw)


def test_data_check_reads_it_by_its_config_and_by_its_location(config):
    said = fourm("data", "check", config, "--workers", 0)
    assert "train: 24 samples of parquet:" in said
    assert "val: 8 samples of parquet:" in said
    assert "0 problems" in said
    text = f"parquet:{config.parent}/photos?rgb=image&caption=text"
    given = ["modalities.select=[rgb,caption]", "modalities.settings.rgb.image_size=16"]
    said = fourm("data", "check", text, *given, "modalities.settings.rgb.patch_size=8", "--workers", 0)
    assert "validation: 8 samples of parquet:" in said


def test_it_is_unpacked_and_packed_as_a_folder_is(config):
    text = f"parquet:{config.parent}/photos?rgb=image&caption=text"
    fourm("data", "unpack", text, config.parent / "files", "--modality", "rgb", "--modality", "caption")
    assert (config.parent / "files/rgb/train-00001-of-00002/000000.png").read_bytes() == picture(12)
    fourm("data", "pack", text, config.parent / "shards", "--modality", "rgb", "--modality", "caption")
    assert [p.name for p in (config.parent / "shards").glob("*.tar")] == ["shard-00000.tar"]
    with pytest.raises(ValueError, match="only folders can be indexed"):
        CliRunner().invoke(app, ["data", "index", text], catch_exceptions=False)


def test_a_model_is_trained_on_it_with_tokens_and_without(config):
    text = f"parquet:{config.parent}/photos?rgb@pixels=image&caption=text"
    given = ["modalities.select=[rgb@pixels,caption]", "modalities.settings.rgb@pixels={image_size: 16, patch_size: 8}"]
    given += [f"data.train={text}", f"data.val={text}"]
    fourm("tokenizer", "fit", config, *given)
    straight = fourm("train", config, f"run={config.parent}/straight", "data.tokens=null", *given)
    fourm("tokenize", config, *given)
    fourm("train", config, *given)
    for run in ("straight", "run"):
        metrics = [json.loads(line) for line in (config.parent / run / "metrics.jsonl").read_text().splitlines()]
        assert np.isfinite([line["loss"] for line in metrics if "loss" in line]).all()
        assert (config.parent / run / "finished.json").exists()
    assert "24 samples (split 'train' of parquet:" in straight
    assert "train-00000-of-00002/000000" in fourm("data", "show", config, "train-00000-of-00002/000000", *given)


def test_files_that_are_hidden_or_lack_a_column_and_folders_called_so_are_no_obstacle(tmp_path):
    folder = write(tmp_path / "set/data.parquet", {"image": images(6)}, parts=1, split="train")
    write(folder, {"text": ["a"] * 4, "image": images(4)}, parts=1, split="extra")
    (folder / "._train.parquet").write_bytes(b"x")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "before.parquet")
    data = opened(f"parquet:{tmp_path / 'set'}?rgb=image&caption=text", real(rgb=GRID, caption=WORDS))
    assert data.counts == {"rgb": 10, "caption": 4}


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_file_that_is_no_whole_parquet_file_is_named_in_one_line(tmp_path, content):
    folder = write(tmp_path / "set", {"image": images(6)})
    path = sorted(folder.iterdir())[1]
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(
        PluginError, match=rf"{path}: cannot be read: .*; copy it anew, or remove it \(source"
    ) as caught:
        opened(f"parquet:{folder}?rgb=image", real(rgb=GRID))
    assert "\n" not in str(caught.value)


def test_rows_of_a_damaged_row_group_are_left_out_and_the_others_read(tmp_path, caplog):
    folder = write(tmp_path / "set", {"image": [None, *images(7)]}, parts=1)
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:4] + bytes(100) + path.read_bytes()[104:])
    data = opened(f"parquet:{folder}?rgb=image", real(rgb=GRID))
    bad = 0
    for name in data.names:
        try:
            data.value(name, "rgb")
        except BadFile as error:
            bad += "row group 0 cannot be read" in str(error)
    assert (len(data.names), bad) == (8, 4)


def test_labels_of_it_are_a_folder_that_unpacking_completes_to_a_data_set(tmp_path):
    maps = real(depth=SMALL)["depth"].example_samples(5, seed=0)
    write(tmp_path / "scenes", {"map": [*(files["png"] for files in maps), None]})
    text, out = f"parquet:{tmp_path}/scenes?depth=map", tmp_path / "labels"
    config = store(
        tmp_path / "scenes.yaml", small(tmp_path, {"depth": SMALL, "normal": SMALL}, data={"train": text, "val": text})
    )
    making = ["label", config, "--from", "depth", "--to", "normal"]
    assert refused(*making) == f"data.train: {text} is only read from; name a local folder for the labels: --out FOLDER"
    assert "5 samples of normal made from depth, 0 were there" in fourm(*making, "--out", out)
    assert "0 samples of normal made from depth, 5 were there" in fourm(*making, "--out", out)
    assert (out / "normal/train-00000-of-00002/000000.png").is_file()
    with pytest.raises(ValueError, match=r"--option normal\.fov"):
        fourm(*making, "--out", out, "--option", "normal.fov=50")
    fourm("data", "unpack", text, out, "--modality", "depth")
    data = AlignedData(out, real(depth=SMALL, normal=SMALL))
    assert data.counts == {"depth": 5, "normal": 5}
    assert data.has(data.names[-1]) == {"depth", "normal"}


def test_labels_from_a_modality_without_a_column_are_refused_and_nothing_is_written(tmp_path):
    write(tmp_path / "photos", {"normal": images(2)})
    settings = small(tmp_path, {"depth": SMALL, "normal": SMALL}, data={"train": f"parquet:{tmp_path}/photos"})
    config, out = store(tmp_path / "photos.yaml", settings), tmp_path / "labels"
    said = refused("label", config, "--from", "depth", "--to", "normal", "--out", out)
    assert said == f"parquet:{tmp_path}/photos: has no depth, which is what normal is made from"
    assert not out.exists()
