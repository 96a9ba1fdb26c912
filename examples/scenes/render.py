"""Render the demo's scenes:

    python examples/scenes/render.py --out data/scenes --train 2000 --val 200 --size 64 --seed 0

Writes aligned tar shards `OUT/<split>/<modality>/shard-00000.tar` (or, with `--format folder`, plain files
`OUT/<split>/<modality>/<sample>.<ext>`), the same sample names in every modality:

    rgb      PNG, 8 bits
    depth    PNG, 16 bits, z-depth in millimetres (no pixel is 0: all are measured)
    normal   PNG, round((n + 1) * 127.5), camera frame (x right, y up, z towards the viewer)
    semseg   PNG, 8 bits, an id of `world.CLASSES`
    boxes    JSON [{"label", "bbox": [x0, y0, x1, y1] in [0, 1]}], largest first
    caption  text, one caption per line

Expect about 150 scenes per second and core. A scene depends on (seed, split, index, size) alone. Files get
their final names only when complete, so a killed run continues.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
from captions import Thing, write_captions
from PIL import Image
from raycast import Picture, cast
from world import SPLITS, STYLES, World, by_night, generator, sample_world

from fourm_engine.files import CannotWrite, write_atomically, writing

EXTENSIONS = {"rgb": "png", "depth": "png", "normal": "png", "semseg": "png", "boxes": "json", "caption": "txt"}
SHARD = 500  # samples
MIN_SHARE, MIN_PIXELS = 0.5, 0.012  # of the object, of the picture: what must be visible of an object


@dataclass(frozen=True)
class Scene:
    """One sample: the `world`, its `picture`, `boxes` (label and bbox in [0, 1], largest first; box k is of object
    `world.bodies[order[k]]`) and `captions`. Every object of the world is well visible and has its box."""

    world: World
    picture: Picture
    boxes: list[dict]
    order: list[int]
    captions: list[str]


def render_scene(seed: int, index: int, *, split: str = "train", size: int = 64, style: str = STYLES[0]) -> Scene:
    """Scene `index` of a split, `size` x `size` pixels: a pure function of its arguments. A scene has the
    same objects, boxes and captions in every style."""
    for attempt in count():
        world = sample_world(generator(seed, split, index, 2 + attempt))
        if style == "night":
            world = by_night(world, generator(seed, split, index, 0))
        while world.bodies:
            picture = cast(world, size)
            seen = np.bincount(picture.instance.ravel() + 1, minlength=len(world.bodies) + 1)[1:]
            clear = (seen >= MIN_SHARE * picture.whole) & (seen >= MIN_PIXELS * size * size)
            if clear.all():
                return _describe(world, picture, generator(seed, split, index, 1))
            # An object too hidden to be named would be noise in the class map and the boxes: the scene does without it.
            world = replace(world, bodies=tuple(b for b, ok in zip(world.bodies, clear, strict=True) if ok))
    raise AssertionError("count() does not end")


def _describe(world: World, picture: Picture, rng: np.random.Generator) -> Scene:
    size = picture.instance.shape[0]
    visible = []
    for k, body in enumerate(world.bodies):
        rows, columns = np.nonzero(picture.instance == k)
        x0, y0, x1, y1 = columns.min() / size, rows.min() / size, (columns.max() + 1) / size, (rows.max() + 1) / size
        box = {"label": body.kind, "bbox": [float(x0), float(y0), float(x1), float(y1)]}
        depth = world.camera.project(body.x, body.y, body.height / 2)[2]
        share = rows.size / size**2
        thing = Thing(body.kind, body.colour, body.size, body.material, float(x0 + x1) / 2, depth, share)
        visible.append((-(x1 - x0) * (y1 - y0), k, box, thing))
    visible.sort(key=lambda f: f[:2])
    captions = write_captions([f[3] for f in visible], rng)
    return Scene(world, picture, [f[2] for f in visible], [f[1] for f in visible], captions)


def encode(scene: Scene) -> dict[str, bytes]:
    """The file of each modality."""
    picture = scene.picture
    return {
        "rgb": _png(picture.rgb),
        "depth": _png(np.rint(picture.depth * 1000).astype(np.uint16)),
        "normal": _png(np.rint((picture.normal + 1) * 127.5).astype(np.uint8)),
        "semseg": _png(picture.semseg),
        "boxes": json.dumps(scene.boxes).encode(),
        "caption": ("\n".join(scene.captions) + "\n").encode(),
    }


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Job:
    """One shard of every modality: samples [start, stop) of a split."""

    out: Path
    split: str
    start: int
    stop: int
    seed: int
    size: int
    format: str
    style: str = STYLES[0]

    @property
    def shards(self) -> dict[str, Path]:
        return {m: self.out / self.split / m / f"shard-{self.start // SHARD:05d}.tar" for m in EXTENSIONS}

    def files(self, index: int) -> dict[str, Path]:
        return {m: self.out / self.split / m / f"scene_{index:06d}.{ext}" for m, ext in EXTENSIONS.items()}

    def done(self) -> bool:
        if self.format == "tar":
            return all(path.exists() for path in self.shards.values())
        return all(path.exists() for k in range(self.start, self.stop) for path in self.files(k).values())


def run_job(job: Job) -> int:
    """Render and write a job; the number of scenes. Files appear under their final names only when complete. Raises
    CannotWrite."""
    parts = dict[str, Path]()
    try:
        with writing(job.out):
            for modality in EXTENSIONS:
                (job.out / job.split / modality).mkdir(parents=True, exist_ok=True)
            return (_write_files if job.format == "folder" else _write_shards)(job, parts)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _write_files(job: Job, parts: dict[str, Path]) -> int:
    for index in range(job.start, job.stop):
        encoded = encode(render_scene(job.seed, index, split=job.split, size=job.size, style=job.style))
        for modality, path in job.files(index).items():
            parts[modality] = path.with_name(f".{path.name}.part")
            parts[modality].write_bytes(encoded[modality])
            os.replace(parts[modality], path)
    return job.stop - job.start


def _write_shards(job: Job, parts: dict[str, Path]) -> int:
    parts |= {m: path.with_name(f".{path.name}.part") for m, path in job.shards.items()}
    tars = {m: tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) for m, part in parts.items()}  # noqa: SIM115
    for index in range(job.start, job.stop):
        encoded = encode(render_scene(job.seed, index, split=job.split, size=job.size, style=job.style))
        for modality, ext in EXTENSIONS.items():
            member = tarfile.TarInfo(f"scene_{index:06d}.{ext}")  # owner, mode and time are TarInfo's constants
            member.size = len(encoded[modality])
            tars[modality].addfile(member, io.BytesIO(encoded[modality]))
    for modality, path in job.shards.items():
        tars[modality].close()
        os.replace(parts[modality], path)
    return job.stop - job.start


def render(
    out: Path,
    *,
    train: int,
    val: int,
    size: int = 64,
    seed: int = 0,
    jobs: int = 1,
    format: str = "tar",
    style: str = STYLES[0],
) -> None:
    """Render both splits under `out`. Raises ValueError if `out` holds scenes rendered with other settings."""
    settings = {"train": train, "val": val, "size": size, "seed": seed, "format": format, "style": style}
    record = out / "scenes.json"
    # Scenes rendered before there were styles are by day.
    if record.exists() and (recorded := {"style": STYLES[0]} | json.loads(record.read_text())) != settings:
        raise ValueError(f"--out {out} holds scenes of {recorded}, not {settings}; choose another folder, or delete it")
    write_atomically(record, json.dumps(settings) + "\n")
    work = [
        Job(out, split, start, min(start + SHARD, number), seed, size, format, style)
        for split, number in zip(SPLITS, (train, val), strict=True)
        for start in range(0, number, SHARD)
    ]
    todo = [job for job in work if not job.done()]
    if len(todo) < len(work):
        print(f"{len(work) - len(todo)} of {len(work)} shards are there already and are kept", flush=True)
    began, scenes = time.perf_counter(), 0
    pool = ProcessPoolExecutor(jobs) if jobs > 1 and len(todo) > 1 else None
    for job, done in zip(todo, (pool.map if pool else map)(run_job, todo), strict=True):
        scenes += done
        rate = scenes / (time.perf_counter() - began)
        print(f"{job.split} {job.start}–{job.stop - 1}: {scenes} scenes, {rate:.0f} a second", flush=True)
    if pool:
        pool.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--val", type=int, default=200)
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--format", choices=("tar", "folder"), default="tar")
    parser.add_argument("--style", choices=STYLES, default=STYLES[0])
    options = vars(parser.parse_args())
    try:
        render(options.pop("out"), **options)
    except (ValueError, CannotWrite) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
