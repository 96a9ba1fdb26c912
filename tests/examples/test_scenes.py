"""What one may rely on of the demo's scenes: exact, aligned, reproducible, and described truthfully."""

from __future__ import annotations

import errno
import io
import json
import math
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "scenes"))

import render as rendering
from captions import CAPTIONS, Thing, colour_kind_pairs, pair_recall, write_captions
from render import EXTENSIONS, Job, Scene, encode, render, render_scene, run_job
from world import CLASSES, COLOURS, KINDS, STYLES

from fourm_engine.files import CannotWrite
from tests.test_full_disk import refuse_to_write

scenes = st.integers(0, 10_000).map(lambda index: render_scene(7, index, size=32))


def shards(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.tar"))}


def true_pairs(scene: Scene) -> Counter:
    return Counter((body.kind, body.colour) for body in scene.world.bodies)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SHARD", 3)


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    once, again = encode(render_scene(0, 5)), encode(render_scene(0, 5))
    assert once == again
    others = [render_scene(1, 5), render_scene(0, 6), render_scene(0, 5, split="val")]
    assert all(encode(other)["rgb"] != once["rgb"] for other in others)


def test_a_style_changes_colours_alone() -> None:
    day, night = (encode(render_scene(0, 5, style=style)) for style in STYLES)
    assert {modality for modality in day if day[modality] != night[modality]} == {"rgb"}
    by_day, by_night = (np.asarray(Image.open(io.BytesIO(scene["rgb"])), float) for scene in (day, night))
    assert by_night.mean() < by_day.mean() / 1.5


def test_scenes_of_another_style_are_not_mixed(tmp_path: Path) -> None:
    render(tmp_path, train=1, val=0, size=16)
    (tmp_path / "scenes.json").write_text('{"train": 1, "val": 0, "size": 16, "seed": 0, "format": "tar"}')
    render(tmp_path, train=1, val=0, size=16)  # recorded before there were styles
    with pytest.raises(ValueError, match="'style': 'day'"):
        render(tmp_path, train=1, val=0, size=16, style="night")


def test_the_number_of_jobs_changes_no_byte(tmp_path: Path) -> None:
    # Worker processes see the module's own shard size, so the samples must exceed it to be shared out: two splits do.
    render(tmp_path / "one", train=3, val=2, size=32, jobs=1)
    render(tmp_path / "two", train=3, val=2, size=32, jobs=2)
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    assert len(shards(tmp_path / "one")) == 2 * len(EXTENSIONS)


@settings(max_examples=25)
@given(scenes)
def test_every_pixel_has_a_depth_a_unit_normal_and_the_class_of_its_object(scene: Scene) -> None:
    picture = scene.picture
    assert np.isfinite(picture.depth).all()
    assert picture.depth.min() > 0.1
    assert picture.depth.max() < 65.0  # representable in 16 bits of millimetres
    np.testing.assert_allclose(np.linalg.norm(picture.normal, axis=-1), 1, atol=1e-5)
    for k, body in enumerate(scene.world.bodies):
        assert (picture.semseg[picture.instance == k] == CLASSES.index(body.kind)).all()
    assert (picture.semseg[picture.instance == -1] <= CLASSES.index("wall")).all()


@settings(max_examples=25)
@given(scenes)
def test_visible_surfaces_face_the_camera(scene: Scene) -> None:
    points = camera_points(scene)
    # x and y to the right and up, z towards the viewer: the ray to a visible point meets its surface from outside.
    assert (np.sum(points * scene.picture.normal, axis=-1) < 1e-4).all()


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_normals_are_those_of_the_surface_that_the_depth_describes(index: int) -> None:
    scene = render_scene(3, index, size=48)
    points, normal = camera_points(scene), scene.picture.normal
    same = scene.picture.instance * 10 + scene.picture.semseg
    inner = np.ones(same.shape, dtype=bool)
    for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        inner &= np.roll(same, shift, (0, 1)) == same
        inner &= np.abs(np.roll(normal, shift, (0, 1)) - normal).max(axis=-1) < 1e-5  # flat here: floor, wall, faces
    inner[[0, -1]] = inner[:, [0, -1]] = False
    across = np.roll(points, -1, 1) - np.roll(points, 1, 1)
    up = np.roll(points, 1, 0) - np.roll(points, -1, 0)
    measured = np.cross(across, up)
    measured /= np.maximum(np.linalg.norm(measured, axis=-1, keepdims=True), 1e-12)
    assert inner.mean() > 0.2
    np.testing.assert_allclose(measured[inner], normal[inner], atol=2e-2)


def camera_points(scene: Scene) -> np.ndarray:
    """(S, S, 3) positions in the camera frame in metres, from the depth and the field of view alone."""
    depth = scene.picture.depth.astype(np.float64)
    centres = (2 * np.arange(depth.shape[0]) + 1) / depth.shape[0] - 1
    slope = centres * math.tan(scene.world.camera.fov / 2)
    return np.stack([depth * slope[None, :], -depth * slope[:, None], -depth], axis=-1)


@settings(max_examples=25)
@given(scenes)
def test_boxes_are_the_extents_of_the_visible_objects_largest_first(scene: Scene) -> None:
    assert sorted(scene.order) == list(range(len(scene.world.bodies)))
    for box, k in zip(scene.boxes, scene.order, strict=True):
        rows, columns = np.nonzero(scene.picture.instance == k)
        size = scene.picture.instance.shape[0]
        extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box == {"label": scene.world.bodies[k].kind, "bbox": [value / size for value in extent]}
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (box["bbox"] for box in scene.boxes)]
    assert areas == sorted(areas, reverse=True)


@settings(max_examples=25)
@given(scenes)
def test_every_object_of_a_scene_is_well_visible(scene: Scene) -> None:
    assert 1 <= len(scene.world.bodies) <= 4
    for k, whole in enumerate(scene.picture.whole):
        seen = (scene.picture.instance == k).sum()
        assert seen >= rendering.MIN_SHARE * whole
        assert seen >= rendering.MIN_PIXELS * scene.picture.instance.size


@settings(max_examples=60)
@given(scenes)
def test_every_caption_names_exactly_the_objects_of_its_scene(scene: Scene) -> None:
    assert len(scene.captions) == len(set(scene.captions)) == CAPTIONS
    for caption in scene.captions:
        assert colour_kind_pairs(caption) == true_pairs(scene), caption
        assert pair_recall(caption, scene.captions[0]) == 1
        assert len(caption.replace(",", " ,").replace(":", " :").split()) <= 38


things = st.lists(
    st.builds(
        Thing,
        kind=st.sampled_from(KINDS),
        colour=st.sampled_from(tuple(COLOURS)),
        size=st.sampled_from(("small", "large")),
        material=st.sampled_from(("matte", "shiny", "striped")),
        x=st.floats(0, 1),
        depth=st.floats(1, 10),
        share=st.floats(0.01, 0.5),
    ),
    min_size=1,
    max_size=4,
)


@given(things, st.integers(0, 1000))
def test_relations_in_captions_are_true(found: list[Thing], seed: int) -> None:
    for caption in write_captions(found, np.random.default_rng(seed)):
        assert colour_kind_pairs(caption) == Counter((t.kind, t.colour) for t in found)
        for words, true in (
            (" left of ", lambda a, b: a.x < b.x),
            (" right of ", lambda a, b: a.x > b.x),
            (" in front of ", lambda a, b: a.depth < b.depth),
            (" behind ", lambda a, b: a.depth > b.depth),
        ):
            if words in caption:
                before, after = caption.split(words)
                (first,), (second,) = (colour_kind_pairs(part.split(",")[0]) for part in (before, after))
                candidates = [(a, b) for a in found for b in found if a is not b]
                assert any(
                    (a.kind, a.colour) == first and (b.kind, b.colour) == second and true(a, b) for a, b in candidates
                ), caption


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("two small red cubes and a shiny blue cone", {("cube", "red"): 2, ("cone", "blue"): 1}),
        ("three objects: a red cube", {("cube", "red"): 1}),
        ("green spheres", {("sphere", "green"): 2}),
        ("Red CUBE, red cube", {("cube", "red"): 2}),
        ("a red, cube a of cone two and two yellow", {}),
        ("4 cyan cylinders", {("cylinder", "cyan"): 4}),
        ("", {}),
    ],
)
def test_pairs_are_read_from_any_text(text: str, pairs: dict) -> None:
    assert colour_kind_pairs(text) == Counter(pairs)


def test_pair_recall_counts_repeated_pairs() -> None:
    assert pair_recall("a red cube and a blue cone", "two red cubes, a blue cone and a green sphere") == 0.5
    assert pair_recall("", "a red cube") == 0
    with pytest.raises(ValueError, match="names no"):
        pair_recall("a red cube", "nothing")


@pytest.mark.usefixtures("small_shards")
def test_shards_hold_the_same_samples_in_every_modality_and_read_back_exactly(tmp_path: Path) -> None:
    render(tmp_path, train=4, val=1, size=32, seed=2)
    for split, number in (("train", 4), ("val", 1)):
        files: dict[str, dict[str, bytes]] = {}
        for modality, ext in EXTENSIONS.items():
            files[modality] = {}
            for shard in sorted((tmp_path / split / modality).iterdir()):
                with tarfile.open(shard) as tar:
                    for member in tar:
                        assert member.name.endswith("." + ext)
                        files[modality][member.name.split(".")[0]] = tar.extractfile(member).read()  # type: ignore[union-attr]
        assert all(list(samples) == [f"scene_{k:06d}" for k in range(number)] for samples in files.values())
        for k in range(number):
            scene, name = render_scene(2, k, split=split, size=32), f"scene_{k:06d}"
            arrays = {
                m: np.asarray(Image.open(io.BytesIO(files[m][name]))) for m in ("rgb", "depth", "normal", "semseg")
            }
            np.testing.assert_array_equal(arrays["rgb"], scene.picture.rgb)
            np.testing.assert_array_equal(arrays["semseg"], scene.picture.semseg)
            np.testing.assert_allclose(arrays["depth"] / 1000, scene.picture.depth, atol=6e-4)
            np.testing.assert_allclose(arrays["normal"] / 127.5 - 1, scene.picture.normal, atol=4e-3)
            assert json.loads(files["boxes"][name]) == scene.boxes
            assert files["caption"][name].decode().splitlines() == scene.captions


@pytest.mark.usefixtures("small_shards")
def test_a_killed_render_continues_and_leaves_no_broken_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render(tmp_path / "whole", train=7, val=1, size=32)

    def killed(seed: int, index: int, **options: object) -> Scene:
        if index == 4:
            raise KeyboardInterrupt
        return render_scene(seed, index, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(rendering, "render_scene", killed)
        with pytest.raises(KeyboardInterrupt):
            render(tmp_path / "killed", train=7, val=1, size=32)
    assert set(shards(tmp_path / "killed")) == {f"train/{m}/shard-00000.tar" for m in EXTENSIONS}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*.tar")}
    render(tmp_path / "killed", train=7, val=1, size=32)
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert not list((tmp_path / "killed").rglob("*.part"))


@pytest.mark.parametrize("format", ["tar", "folder"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch, format):
    job, out = Job(tmp_path / "out", "val", 0, 2, seed=0, size=32, format=format), tmp_path / "out"
    said = f"^{out}: cannot be written: No space left on device; free space"
    with monkeypatch.context() as broken:
        refuse_to_write(broken, errno.ENOSPC)
        with pytest.raises(CannotWrite, match=said):
            run_job(job)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert run_job(job) == 2


def test_folders_hold_the_same_files_as_shards(tmp_path: Path) -> None:
    render(tmp_path, train=2, val=1, size=32, format="folder")
    for k in range(2):
        for modality, data in encode(render_scene(0, k, size=32)).items():
            assert (tmp_path / "train" / modality / f"scene_{k:06d}.{EXTENSIONS[modality]}").read_bytes() == data


def test_a_folder_of_other_scenes_is_never_mixed_into(tmp_path: Path) -> None:
    render(tmp_path, train=1, val=1, size=32)
    with pytest.raises(ValueError, match="another folder"):
        render(tmp_path, train=1, val=1, size=32, seed=1)
