"""`fourm data`: index, pack, unpack."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.modalities import ModalitiesConfig, load_manager, load_modalities


@pytest.fixture
def photographs(tmp_path):
    root = tmp_path / "photos"
    for number, name in enumerate(("one", "trip/two", "trip/three")):
        for path, mode in ((root / f"rgb/{name}.png", "RGB"), (root / f"caption/{name}.txt", "")):
            path.parent.mkdir(parents=True, exist_ok=True)
            if mode:
                Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
            else:
                path.write_text(f"picture {number}")
    return root


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=True)


def test_a_folder_is_packed_indexed_and_unpacked(photographs, tmp_path):
    done = run("pack", photographs, tmp_path / "packed", "--samples-per-shard", "2")
    assert done.exit_code == 0, done
    assert "packed: 3 samples written, 0 kept, 0 files left out" in done.output
    assert sorted(path.name for path in (tmp_path / "packed").glob("*.tar")) == ["shard-00000.tar", "shard-00001.tar"]
    done = run("index", tmp_path / "packed")
    assert done.exit_code == 0
    assert "3 samples; caption 3, rgb 3; _index/ takes" in done.output
    done = run("unpack", tmp_path / "packed", tmp_path / "unpacked")
    assert done.exit_code == 0
    for path in photographs.rglob("*.*"):
        assert (tmp_path / "unpacked" / path.relative_to(photographs)).read_bytes() == path.read_bytes()


def test_installed_modalities_read_the_shards(photographs, tmp_path):
    run("pack", photographs, tmp_path / "packed")
    config = ModalitiesConfig(select=["rgb", "caption"])
    data = AlignedData(tmp_path / "packed/shard-{00000..00000}.tar", load_modalities(config, load_manager(config)))
    assert data.names == ["one", "trip/three", "trip/two"]
    assert data.counts == {"rgb": 3, "caption": 3}
    assert np.asarray(data.value("trip/two", "rgb")).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("index", "nowhere"), "nowhere: no such folder"),
        (("index", "{tmp}"), "holds no data of any modality; looked for"),
        (("pack", "{photos}", "{photos}"), "is the data itself; choose another folder"),
        (("pack", "{photos}", "{tmp}/out", "--samples-per-shard", "0"), "--samples-per-shard 0: must be at least 1"),
        (("unpack", "{photos}/x-{{0..1}}.tar", "{tmp}/out"), "2 of 2 tars are missing"),
        (("index", "{tmp}/../a.txt"), "a.txt: a file, no folder; name the folder that holds your data"),
        (("check", "s3://bucket/photos"), "s3://bucket/photos: remote data is checked through a config that names it"),
        (("show", "x.yaml", "0001", "--out", "sheet.txt"), "--out sheet.txt: the sheet is a .png"),
        (("pack", "pipe:cat x.tar", "{tmp}/out"), "a command, where a folder or tars are expected"),
    ],
)
def test_mistakes_are_named_in_one_line(photographs, tmp_path, arguments, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    done = run(*(a.format(tmp=tmp_path / "empty", photos=photographs) for a in arguments))
    assert done.exit_code != 0
    assert isinstance(done.exception, ValueError)
    assert why in str(done.exception)
    assert "\n" not in str(done.exception)
