"""What a model makes of ever more inputs, part of a map, a moved class, a flattened depth; and the best of several:

    python examples/scenes/editing.py runs/demo --out runs/demo/editing.png

In: a run, held-out scenes that are rendered here. Out: a sheet with a row for each. docs/generation.md shows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawing import request, things_of
from PIL import Image
from render import Scene, render_scene
from world import CLASSES

import fourm_engine as fm
from fourm_engine.drawing import Cell, png, sheet
from fourm_engine.generate.result import Results

Row = tuple[str, list[Cell | None]]


def growing(model: fm.FourM, scene: Scene) -> Row:
    """Depth, as ever more is given, with one seed."""
    given, cells = dict[str, Any](), list[Cell | None]()
    more = {**request(things_of(scene)), "semseg": scene.picture.semseg, "rgb": scene.picture.rgb}
    for name in ("caption", "boxes", "semseg", "rgb"):
        given[name] = more[name]
        cells.append(Cell(model.generate(given, "depth", seed=1)["depth"].render(), f"{'+ ' * bool(cells)}{name}"))
    return "depth, from more and more", [*cells, _cell(model, "depth", scene.picture.depth, "true")]


def outpainted(model: fm.FourM, scene: Scene) -> Row:
    """The middle of a class map, and what may lie around it."""
    known = np.zeros((64, 64), bool)
    known[16:48, 16:48] = True
    semseg, truth = model.modalities["semseg"], scene.picture.semseg
    given = {"semseg": fm.Condition(truth, keep=known), **request(things_of(scene))}
    out = model.generate(given, "semseg", n_samples=3, temperature=1.0)
    hidden = np.where(known[..., None], np.asarray(semseg.render(truth).convert("RGB")), 128).astype(np.uint8)
    cells = [Cell(one["semseg"].render(), f"sample {i}") for i, one in enumerate(out.samples)]
    return "outpainting", [Cell(Image.fromarray(hidden), "given"), *cells, _cell(model, "semseg", truth, "true")]


def moved(model: fm.FourM, scene: Scene) -> Row:
    """A class of the map moves, and depth follows."""
    semseg, thing = model.modalities["semseg"], things_of(scene)[0]
    x = semseg.parts(scene.picture.semseg)[f"{thing.kind}.x"]
    maps = [scene.picture.semseg] + [
        semseg.with_part(scene.picture.semseg, f"{thing.kind}.{what}", number)
        for what, number in (("x", 0.25 if x > 0.5 else 0.75), ("size", 0.5))
    ]
    depths = [model.generate({"semseg": one}, "depth")["depth"] for one in maps]
    cells = [
        cell
        for one, made, what in zip(maps, depths, ("given", "moved", "smaller"), strict=True)
        for cell in (_cell(model, "semseg", one, what), Cell(made.render(), "its depth"))
    ]
    return f"a {thing.kind} moved", cells


def flattened(model: fm.FourM, scene: Scene) -> Row:
    """Where depth is that of the ground, no object is seen any more."""
    depth, ground = scene.picture.depth, _ground(scene)
    cells = []
    for what, one in (("given", depth), ("flattened", ground)):
        out = model.generate({"depth": one}, ["semseg", "normal"])
        cells.append(_cell(model, "depth", one, what))
        cells += [Cell(out[name].render(), f"its {name}") for name in ("semseg", "normal")]
    return "depth flattened", cells


def _ground(scene: Scene) -> np.ndarray:
    """The depth map in which each row's objects are replaced by what lies beside them, interpolated."""
    depth, objects = scene.picture.depth.copy(), scene.picture.semseg > 1
    for row, hidden in zip(depth, objects, strict=True):
        if hidden.any() and not hidden.all():
            row[hidden] = np.interp(np.flatnonzero(hidden), np.flatnonzero(~hidden), row[~hidden])
    return depth


def best(model: fm.FourM, scene: Scene) -> Row:
    """Eight class maps from boxes and caption, ranked by how much of each box its class covers."""
    things = things_of(scene)

    def covered(out: Results) -> float:
        return float(np.mean([np.mean(_inside(out["semseg"].value, t.box) == CLASSES.index(t.kind)) for t in things]))

    out = model.generate(request(things), "semseg", n_samples=8, best=covered, guidance=3.0)
    order = np.argsort(out.scores)[::-1]
    cells = [
        Cell(out.samples[i]["semseg"].render(), f"{what}: {out.scores[i]:.0%}")
        for i, what in ((order[0], "best of 8"), (order[3], "fourth"), (order[-1], "last"))
    ]
    boxes = model.modalities["boxes"]
    asked = Cell(boxes.render(boxes.value([(t.kind, *t.box) for t in things])), "asked for")
    return "best of several", [asked, *cells, _cell(model, "semseg", scene.picture.semseg, "true")]


def _inside(picture: np.ndarray, box: Sequence[float]) -> np.ndarray:
    x0, y0, x1, y1 = (round(v * len(picture)) for v in box)
    return picture[y0:y1, x0:x1]


def _cell(model: fm.FourM, name: str, value: np.ndarray, caption: str) -> Cell:
    return Cell(model.modalities[name].render(value), caption)


#: What is shown, of which held-out scene: one with large objects, since this model loses small ones.
ROWS = ((growing, 0), (outpainted, 41), (moved, 21), (flattened, 0), (best, 30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = fm.FourM.from_pretrained(options.run, device="cpu")
    rows = [row(model, render_scene(0, number, split="val")) for row, number in ROWS]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(png(sheet(rows, cell=112)))


if __name__ == "__main__":
    main()
