"""How well a model draws what captions and boxes ask for, and edits what is there:

    python examples/scenes/drawing.py runs/draw --recogniser data/recogniser

In: a model, the recogniser of `recogniser.py`, held-out scenes. Out: RUN/drawing/: drawing.json; two sheets,
drawn.png and edited.png; and their first rows side by side, drawing.png, as in docs/generation.md.

An object counts as drawn if the recogniser sees its kind and colour in its box, or anywhere where only a caption was
given. An edit counts if the object has moved, changed its colour or gone, and all others that were recognised before
still are. Each edit is `model.edit`: the picture, a mask of the object's old and new box, changed boxes and caption.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from captions import colour_kind_pairs
from PIL import Image, ImageDraw
from recogniser import Corners, Pair, Recogniser, everywhere, in_box, load, outside_of
from render import Scene, render_scene
from world import COLOURS

import fourm_engine as fm
from fourm_engine.drawing import font

EDITS = ("move", "recolour", "remove")
#: Titles of the sheets' columns.
DRAWN, EDITED = (
    ("boxes", "the scene", "from boxes, text", "from classes, text", "from depth, text"),
    ("before", "boxes", "edited"),
)
GONE = 0.2  # the most of a box that may be covered by anything where an object was


@dataclass(frozen=True)
class Thing:
    """An object that is asked for."""

    kind: str
    colour: str
    box: Corners

    @property
    def pair(self) -> Pair:
        return self.kind, self.colour


@dataclass(frozen=True)
class Edit:
    """`things` become `wanted`, by changing `old` into `new` (None: it goes)."""

    what: str
    scene: int
    things: list[Thing]
    old: Thing
    new: Thing | None

    @property
    def others(self) -> list[Thing]:
        return [thing for thing in self.things if thing is not self.old]

    @property
    def wanted(self) -> list[Thing]:
        return [*self.others, *([] if self.new is None else [self.new])]

    def mask(self, size: int) -> np.ndarray:
        """bool (size, size): the old and the new box."""
        mask = np.zeros((size, size), bool)
        for thing in (self.old, self.new or self.old):
            x0, y0, x1, y1 = (round(v * size) for v in thing.box)
            mask[y0:y1, x0:x1] = True
        return mask


def things_of(scene: Scene) -> list[Thing]:
    bodies = [scene.world.bodies[k] for k in scene.order]
    return [Thing(b.kind, b.colour, tuple(box["bbox"])) for b, box in zip(bodies, scene.boxes, strict=True)]


def request(things: Sequence[Thing]) -> dict[str, Any]:
    """Boxes with their kinds, and a caption with the colours, from left to right."""
    ordered = sorted(things, key=lambda t: t.box[0] + t.box[2])
    boxes = [{"label": thing.kind, "bbox": list(thing.box)} for thing in ordered]
    return {"boxes": boxes, "caption": "from left to right: " + ", ".join(f"a {t.colour} {t.kind}" for t in ordered)}


def drawn_share(maps: Sequence[np.ndarray], wanted: Sequence[Sequence[Thing]]) -> float:
    """Of all objects asked for, the share that is recognised in its box."""
    right = [in_box(m, thing.box) == thing.pair for m, things in zip(maps, wanted, strict=True) for thing in things]
    return float(np.mean(right))


def named_share(maps: Sequence[np.ndarray], captions: Sequence[str]) -> float:
    """Of all objects that captions name, the share that is recognised anywhere in the picture."""
    named = [colour_kind_pairs(caption) for caption in captions]
    seen = [(everywhere(m) & pairs).total() for m, pairs in zip(maps, named, strict=True)]
    return sum(seen) / sum(pairs.total() for pairs in named)


def propose(scenes: Sequence[Scene], number: int, seed: int = 0) -> list[Edit]:
    """Edits of scenes with several objects, the three kinds in turn, each of the next scene that allows it. Raises
    ValueError where too few do."""
    rng, edits, index = np.random.default_rng(seed), [], 0
    while len(edits) < number:
        scene = index % len(scenes)
        things, what = things_of(scenes[scene]), EDITS[len(edits) % 3]
        index += 1
        if index > 20 * len(scenes) + number:
            raise ValueError(
                f"only {len(edits)} of {number} edits are possible in {len(scenes)} scenes; give more scenes"
            )
        if len(things) < 2:
            continue
        old = things[int(rng.integers(len(things)))]
        new: Thing | None = None
        if what == "recolour":
            new = replace(old, colour=str(rng.choice([c for c in COLOURS if c != old.colour])))
        elif what == "move":
            x0, y0, width, y1 = old.box[0], old.box[1], old.box[2] - old.box[0], old.box[3]
            places = [x for x in np.arange(0.02, 0.98 - width, 1 / 64) if abs(x - x0) >= width]
            boxes = [(float(x), y0, float(x) + width, y1) for x in places]
            free = [b for b in boxes if not any(_meet(b, t.box) for t in things if t is not old)]
            if not free:
                continue
            new = replace(old, box=free[int(rng.integers(len(free)))])
        edits.append(Edit(what, scene, things, old, new))
    return edits


def _meet(a: Corners, b: Corners) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def done(edit: Edit, before: np.ndarray, after: np.ndarray) -> tuple[bool, bool]:
    """Whether the change was made, and whether all others that were recognised before still are."""
    new = edit.new is None or in_box(after, edit.new.box) == edit.new.pair
    gone = edit.what == "recolour" or outside_of(after, edit.old.box, [t.box for t in edit.others]) <= GONE
    kept = [in_box(after, t.box) == t.pair for t in edit.others if in_box(before, t.box) == t.pair]
    return new and gone, all(kept)


def edit_pictures(
    model: fm.FourM, edits: Sequence[Edit], pictures: Sequence[np.ndarray], *, change: bool, **options: Any
) -> list[np.ndarray]:
    """The pictures after the edits; without `change` the same masks are filled with what was asked for before."""
    results, name = [], picture_of(model)
    for number, edit in enumerate(edits):
        sample = {name: pictures[edit.scene], **request(edit.things)}
        changed = request(edit.wanted if change else edit.things)
        out = model.edit(sample, mask=edit.mask(len(pictures[0])), change=changed, seed=number, **options)
        results.append(np.asarray(out[name].value))
    return results


def rates(edits: Sequence[Edit], before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> dict[str, Any]:
    judged = [done(edit, before[edit.scene], new) for edit, new in zip(edits, after, strict=True)]
    table: dict[str, Any] = {"edits": len(edits), "done, others left": sum(a and b for a, b in judged)}
    table |= {"done": sum(a for a, _ in judged), "others left": sum(b for _, b in judged)}
    for what in EDITS:
        of = [a and b for edit, (a, b) in zip(edits, judged, strict=True) if edit.what == what]
        table[what] = f"{sum(of)} of {len(of)}"
    return table


def picture_of(model: fm.FourM) -> str:
    """The modality that is drawn: the finer tokens, if the model has some."""
    return "rgb@fine" if "rgb@fine" in model.modalities else "rgb"


def draw(model: fm.FourM, inputs: Sequence[dict[str, Any]], **options: Any) -> list[np.ndarray]:
    name = picture_of(model)
    return [np.asarray(out[name].value) for out in model.generate_batch(inputs, name, **options)]


def reconstruct(model: fm.FourM, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the tokens of pictures decode to: the best that a model of tokens can draw."""
    rgb, tokenizer = model.modalities[picture_of(model)], model.tokenizers[picture_of(model)]
    arrays = tokenizer.decode(tokenizer.encode([rgb.normalise(picture) for picture in pictures]))
    return [np.asarray(rgb.denormalise(array)) for array in arrays]


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str], scale: int = 2) -> Image.Image:
    """Rows of pictures, each below its text; a title above each column."""
    size, gap, line, margin = 64 * scale, 6, 18, 10
    height = 2 * margin + line + len(rows) * (size + line + gap)
    canvas = Image.new("RGB", (2 * margin + len(titles) * (size + gap) - gap, height), "white")
    pen = ImageDraw.Draw(canvas)
    xs = [margin + column * (size + gap) for column in range(len(titles))]
    for x, title in zip(xs, titles, strict=True):
        pen.text((x, margin), title, fill="black", font=font(13))
    for row, (text, pictures) in enumerate(rows):
        y = margin + line + gap + row * (size + line + gap)
        pen.text((margin, y), text, fill="black", font=font(12))
        for x, picture in zip(xs, pictures, strict=True):
            canvas.paste(Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST), (x, y + line))
    return canvas


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


def boxes_picture(things: Sequence[Thing], size: int = 64) -> np.ndarray:
    image = Image.new("RGB", (size, size), (235, 235, 235))
    for thing in things:
        colour = tuple(round(255 * c) for c in COLOURS[thing.colour])
        ImageDraw.Draw(image).rectangle([round(v * (size - 1)) for v in thing.box], outline=colour, width=1)
    return np.asarray(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--recogniser", type=Path, default=Path("data/recogniser"))
    parser.add_argument("--before", help="the run that it was trained from, to compare; such as runs/demo")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--guidance", type=float, default=2.0)
    options = parser.parse_args()
    how = {"steps": options.steps, "temperature": options.temperature, "guidance": options.guidance}
    model, judge = fm.FourM.from_pretrained(options.run, device="cpu"), load(options.recogniser)
    scenes = [render_scene(0, index, split="val") for index in range(options.scenes)]
    report, pictures = measure(model, judge, scenes, options.edits, how)
    if options.before:
        wanted = [things_of(scene) for scene in scenes]
        before = fm.FourM.from_pretrained(options.before, device="cpu")
        maps = judge.maps(draw(before, [request(things) for things in wanted], **how))
        report["in boxes"]["drawn by the model before"] = drawn_share(maps, wanted)
    folder = options.run / "drawing"
    folder.mkdir(exist_ok=True)
    (folder / "drawing.json").write_text(json.dumps({"options": how, **report}, indent=2) + "\n")
    for name, image in pictures.items():
        image.save(folder / f"{name}.png")
    print(json.dumps(report, indent=2))
    print(folder)


def measure(
    model: fm.FourM, judge: Recogniser, scenes: Sequence[Scene], number: int, how: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """The figures, and the sheets."""
    wanted, truths = [things_of(scene) for scene in scenes], [scene.picture.rgb for scene in scenes]
    requests = [request(things) for things in wanted]
    captions = [scene.captions[0] for scene in scenes]
    words = [{"caption": r["caption"]} for r in requests]
    sets = {
        "truth": truths,
        "tokens of the truth": reconstruct(model, truths),
        "boxes and caption": draw(model, requests, **how),
        "classes and caption": draw(model, [{"semseg": s.picture.semseg, **w} for s, w in zip(scenes, words)], **how),
        "depth and caption": draw(model, [{"depth": s.picture.depth, **w} for s, w in zip(scenes, words)], **how),
        "picture of another scene (chance)": [*truths[1:], truths[0]],
        "mean picture (constant)": [np.mean(truths, axis=0).astype(np.uint8)] * len(truths),
    }
    maps = {name: judge.maps(images) for name, images in sets.items()}
    report: dict[str, Any] = {"in boxes": {name: drawn_share(m, wanted) for name, m in maps.items()}}
    sets["caption"] = draw(model, [{"caption": caption} for caption in captions], **how)
    maps["caption"] = judge.maps(sets["caption"])
    report["anywhere"] = {name: named_share(m, captions) for name, m in maps.items() if " and caption" not in name}

    edits = propose(scenes, number)
    after = edit_pictures(model, edits, truths, change=True, **how)
    report["edits"] = rates(edits, maps["truth"], judge.maps(after))
    control = edit_pictures(model, edits, truths, change=False, **how)
    report["same masks, nothing changed"] = rates(edits, maps["truth"], judge.maps(control))
    anew = draw(model, [request(e.wanted) for e in edits], seeds=[e.scene for e in edits], **how)
    report["drawn anew, no picture, no mask"] = rates(edits, maps["boxes and caption"], judge.maps(anew))

    columns = ("truth", "boxes and caption", "classes and caption", "depth and caption")
    rows = [
        (request(wanted[i])["caption"][20:], [boxes_picture(wanted[i]), *(sets[name][i] for name in columns)])
        for i in range(min(8, len(scenes)))
    ]
    pairs = [(f"{e.what} the {e.old.colour} {e.old.kind}" + (f": {e.new.colour}" if e.what == "recolour" else ""),
              [truths[e.scene], boxes_picture(e.wanted), new]) for e, new in zip(edits[:9], after[:9])]  # fmt: skip
    both = beside(sheet(rows[:5], DRAWN), sheet(pairs[:5], EDITED))
    return report, {"drawn": sheet(rows, DRAWN), "edited": sheet(pairs, EDITED), "drawing": both}


if __name__ == "__main__":
    main()
