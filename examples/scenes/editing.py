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
from inputs import flattened
from PIL import Image
from render import Scene, render_scene
from world import CLASSES

import fourm_engine as fm
from fourm_engine.drawing import Cell, legend_of, png, sheet
from fourm_engine.generate.result import Results

Row = tuple[str, list[Cell | None]]


def growing(model: fm.FourM, scene: Scene) -> Row:
    """Depth, as ever more is given, with one seed."""
    given, cells = dict[str, Any](), list[Cell | None]()
    more = {**request(things_of(scene)), "semseg": scene.picture.semseg, "rgb": scene.picture.rgb}
    for name in ("caption", "boxes", "semseg", "rgb"):
        given[name] = more[name]
        cells.append(Cell(model.generate(given, "depth", seed=1)["depth"].render(), f"from {'+ ' * bool(cells)}{name}"))
    return "1. depth, from ever more", [*cells, _cell(model, "depth", scene.picture.depth, "true depth")]


def outpainted(model: fm.FourM, scene: Scene) -> Row:
    """The middle of a class map, and what may lie around it."""
    known = np.zeros((64, 64), bool)
    known[16:48, 16:48] = True
    semseg, truth = model.modalities["semseg"], scene.picture.semseg
    given = {"semseg": fm.Condition(truth, keep=known), **request(things_of(scene))}
    out = model.generate(given, "semseg", n_samples=3, temperature=1.0)
    hidden = np.where(known[..., None], np.asarray(semseg.render(truth).convert("RGB")), 128).astype(np.uint8)
    cells = [Cell(one["semseg"].render(), f"sample {i}") for i, one in enumerate(out.samples)]
    given_cell = Cell(Image.fromarray(hidden), "given: the middle")
    return "2. classes outpainted", [given_cell, *cells, _cell(model, "semseg", truth, "true classes")]


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
        for one, made, what in zip(maps, depths, ("given", "given: moved", "given: smaller"), strict=True)
        for cell in (_cell(model, "semseg", one, what), Cell(made.render(), "its depth"))
    ]
    return f"3. a {thing.kind} moved", cells


def without_objects(model: fm.FourM, scene: Scene) -> Row:
    """Where depth is that of the ground, no object is seen any more."""
    cells = []
    for what, one in (("given", scene.picture.depth), ("given: flattened", flattened(scene))):
        out = model.generate({"depth": one}, ["semseg", "normal"])
        cells.append(_cell(model, "depth", one, what))
        cells += [Cell(out[name].render(), f"its {name}") for name in ("semseg", "normal")]
    return "4. depth flattened", cells


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
    given = Cell(boxes.render(boxes.value([(t.kind, *t.box) for t in things])), "given, with text")
    return "5. the best of several", [given, *cells, _cell(model, "semseg", scene.picture.semseg, "true classes")]


def _inside(picture: np.ndarray, box: Sequence[float]) -> np.ndarray:
    x0, y0, x1, y1 = (round(v * len(picture)) for v in box)
    return picture[y0:y1, x0:x1]


def colours(model: fm.FourM, scenes: Sequence[Scene]) -> Row:
    """What the colours of the rows above mean."""
    shown = {"depth": [s.picture.depth for s in scenes], "semseg": [np.arange(len(CLASSES))[None]]}
    cells = [Cell(legend_of(model.modalities[name], values, CELL), name) for name, values in shown.items()]
    normal = "red: faces right\ngreen: faces up\nblue: faces the viewer"
    return "colours", [*cells, Cell(normal, "normal")]


def _cell(model: fm.FourM, name: str, value: np.ndarray, caption: str) -> Cell:
    return Cell(model.modalities[name].render(value), caption)


CELL = 120  # pixels of a picture

#: What is shown, of which held-out scene: one with large objects, since this model loses small ones.
ROWS = ((growing, 0), (outpainted, 41), (moved, 21), (without_objects, 0), (best, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = fm.FourM.from_pretrained(options.run, device="cpu")
    scenes = [render_scene(0, number, split="val") for _, number in ROWS]
    rows = [row(model, scene) for (row, _), scene in zip(ROWS, scenes, strict=True)]
    rows.append(colours(model, scenes))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(png(sheet(rows, cell=CELL)))


if __name__ == "__main__":
    main()
