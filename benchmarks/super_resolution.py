"""Super-resolution beside bicubic and decoding at the small size, with `examples/scenes/super-resolution.sh`.

    OMP_NUM_THREADS=1 python -m benchmarks.super_resolution runs/super-resolution data/scenes-192/val --samples 60

Every metric of the large modality against the large truth: of the small picture enlarged by bicubic; of its tokens,
decoded at the small size and enlarged so, and as the model draws the large one from them; of the model given the
pixels; of the truth, encoded and decoded, which no prediction of tokens can pass. And the same tile by tile, of the
pictures at their full size, with the mean step between rows and columns at the tiles' edges and elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import fourm_engine as fm
from benchmarks.shards import read
from fourm_engine.drawing import Cell, png, sheet
from fourm_engine.files import write_atomically
from fourm_engine.generate.tiles import Tiling
from fourm_plugins.view import View


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, help="folder of held-out shards, one folder a modality")
    parser.add_argument("--small", default="rgb")
    parser.add_argument("--large", default="rgb@128")
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--sheet", type=Path, help="a PNG of four scenes, a row each")
    parser.add_argument("--tiled", type=int, default=10, help="pictures that are enlarged tile by tile")
    options = parser.parse_args()
    model = fm.FourM.from_pretrained(options.run, device="cpu")
    small, large = model.modalities[options.small], model.modalities[options.large]
    originals = [small.read(files) for files in read(options.data / small.spec.source, options.samples).values()]
    view = View.centre(source_aspect=1.0, target_aspect=1.0)
    low, truths = ([m.augment(value, view) for value in originals] for m in (small, large))
    edge = truths[0].shape[0]
    encode, decode = model.tokenizers[options.small].encode, model.tokenizers[options.small].decode
    ids = [fm.Ids(row) for row in encode([small.normalise(value) for value in low])]
    tokens = [{options.small: row} for row in ids]
    decoded = [small.denormalise(array) for array in decode([row.ids for row in ids])]
    codec = model.tokenizers[options.large]
    ceiling = [large.denormalise(a) for a in codec.decode(codec.encode([large.normalise(t) for t in truths]))]

    def made(inputs: list[dict[str, Any]], **how: Any) -> list[np.ndarray]:
        return [result[options.large].value for result in model.generate_batch(inputs, options.large, **how)]

    greedy = {"steps": 1, "temperature": 0}
    metrics = [metric for metric in large.metrics() if metric.min_samples <= len(truths)]
    print(f"{len(truths)} held-out samples, {low[0].shape[0]} to {edge} pixels: {', '.join(m.name for m in metrics)}")
    rows = {
        "bicubic of the small picture": [enlarged(value, edge) for value in low],
        "tokens, decoded small, bicubic": [enlarged(value, edge) for value in decoded],
        "tokens to tokens, one step": made(tokens, **greedy),
        "tokens to tokens, 8 drawn steps": made(tokens, steps=8, temperature=1.0, top_p=0.9),
        "pixels to tokens, one step": made([{options.small: value} for value in low], **greedy),
        "ceiling: truth, encoded and decoded": ceiling,
    }
    for what, pictures in rows.items():
        scores = "  ".join(f"{metric.compute(pictures, truths):.4g}" for metric in metrics)
        print(f"{what:36} {scores}", flush=True)
    if options.sheet is not None:
        names = list(rows)[1:4]
        columns = {name: rows[name] for name in names} | {"truth": truths}
        shown = [
            ("", [Cell(large.render(values[i]), name) for name, values in columns.items()])
            for i in range(min(4, len(truths)))
        ]
        write_atomically(options.sheet, png(sheet(shown, cell=3 * edge // 2)))
    half = originals[0].shape[0] * low[0].shape[0] // edge
    originals, overlap = originals[: options.tiled], 4
    shrunk = [np.asarray(Image.fromarray(o).resize((half, half), Image.Resampling.BOX)) for o in originals]
    whole = [
        fm.generate_tiled(model, {options.small: s}, options.large, overlap=overlap, **greedy).value for s in shrunk
    ]
    side = large.spec.layout.height  # type: ignore[union-attr]
    patch = edge // side
    seams = {
        start * patch for start, _ in Tiling.of((originals[0].shape[0] // patch,) * 2, (side, side), overlap).corners
    }
    at = sorted({s for start in seams for s in (start, start + edge)} - {0, originals[0].shape[0]})
    print(f"tile by tile, {half} to {originals[0].shape[0]} pixels, {len(originals)} pictures; edges of tiles at {at}")
    for what, pictures in (
        ("bicubic", [enlarged(s, originals[0].shape[0]) for s in shrunk]),
        ("tiles", whole),
        ("truth", originals),
    ):
        steps = np.mean([np.abs(np.diff(p.astype(float), axis=0)).mean((1, 2)) for p in pictures], axis=0)
        steps = steps + np.mean([np.abs(np.diff(p.astype(float), axis=1)).mean((0, 2)) for p in pictures], axis=0)
        inside = np.array([k % patch == 0 and k not in at for k in range(1, len(steps) + 1)])
        edges = np.array([k in at for k in range(1, len(steps) + 1)])
        scores = "  ".join(f"{metric.compute(pictures, originals):.4g}" for metric in metrics)
        seam, other = steps[edges].mean() / 2, steps[inside].mean() / 2
        print(f"{what:12} {scores}; step at edges of tiles {seam:.2f}, of other tokens {other:.2f}", flush=True)


def enlarged(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main()
