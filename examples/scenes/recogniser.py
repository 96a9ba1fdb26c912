"""A recogniser of the scenes' objects: which kind and colour is where in a picture.

    python examples/scenes/recogniser.py --out data/recogniser --scenes 4000 --steps 1200

In: rendered scenes, of the training split. Out: OUT/model.safetensors, and its accuracy on held-out scenes. It judges
pictures that a model draws, so it learns from real ones alone, and is not told what should be in them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from render import Scene, render_scene
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from world import COLOURS, KINDS

PAIRS = [(kind, colour) for kind in KINDS for colour in COLOURS]  # class 1 + i; 0 is floor and wall
STRIDE = 2  # pixels a cell of the map
MIN_SHARE = 0.2  # of a box that its commonest pair must cover: a cone covers half of its box
MIN_CELLS = 12  # of an object without a box

Pair = tuple[str, str]
Corners = tuple[float, float, float, float]


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)
    )


class Recogniser(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] to logits (B, 25, S/2, S/2), through three scales."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.fine = nn.Sequential(_conv(3, width, STRIDE), _conv(width, width))
        self.middle = nn.Sequential(_conv(width, 2 * width, 2), _conv(2 * width, 2 * width))
        self.coarse = nn.Sequential(
            _conv(2 * width, 4 * width, 2), _conv(4 * width, 4 * width), _conv(4 * width, 4 * width)
        )
        self.up_middle, self.up_fine = _conv(6 * width, 2 * width), _conv(3 * width, 2 * width)
        self.head = nn.Conv2d(2 * width, 1 + len(PAIRS), 1)

    def forward(self, pictures: Tensor) -> Tensor:
        fine = self.fine(2 * pictures - 1)
        middle = self.middle(fine)
        up = F.interpolate(self.coarse(middle), scale_factor=2.0)
        up = F.interpolate(self.up_middle(torch.cat([up, middle], 1)), scale_factor=2.0)
        return self.head(self.up_fine(torch.cat([up, fine], 1)))

    @torch.inference_mode()
    def maps(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Classes (B, S/2, S/2) of uint8 pictures (S, S, 3)."""
        self.eval()
        batches = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).split(64)
        return torch.cat([self(batch / 255).argmax(1) for batch in batches]).numpy()


def in_box(classes: np.ndarray, box: Corners) -> Pair | None:
    """The commonest pair in a box (x0, y0, x1, y1 in [0, 1]), if it covers enough of it."""
    counts = np.bincount(_inside(classes, box).ravel(), minlength=1 + len(PAIRS))
    best = int(counts[1:].argmax())
    return PAIRS[best] if counts[1 + best] >= max(1, MIN_SHARE * counts.sum()) else None


def outside_of(classes: np.ndarray, box: Corners, others: Sequence[Corners]) -> float:
    """The share of a box, without what it has in common with others, where there is any object."""
    free = np.ones_like(classes, bool)
    for other in others:
        _inside(free, other)[...] = False
    seen = _inside(classes, box)[_inside(free, box)]
    return float((seen > 0).mean()) if seen.size else 0.0


def _inside(classes: np.ndarray, box: Corners) -> np.ndarray:
    x0, y0, x1, y1 = (round(v * len(classes)) for v in box)
    return classes[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]


def everywhere(classes: np.ndarray) -> Counter[Pair]:
    """The objects of a picture, wherever they are: connected cells of one pair."""
    counts: Counter[Pair] = Counter()
    left = classes.copy()
    for start in zip(*np.nonzero(classes), strict=True):
        value, size, edge = left[start], 0, [start]
        while value and edge:
            row, column = edge.pop()
            if 0 <= row < len(left) and 0 <= column < len(left) and left[row, column] == value:
                left[row, column] = 0
                size += 1
                edge += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        if size >= MIN_CELLS:
            counts[PAIRS[value - 1]] += 1
    return counts


def truth(scene: Scene) -> np.ndarray:
    """The class of each cell of a scene."""
    bodies = [1 + PAIRS.index((body.kind, body.colour)) for body in scene.world.bodies]
    return np.array([0, *bodies])[scene.picture.instance + 1][1::STRIDE, 1::STRIDE]


def _example(index: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    scene = render_scene(seed, index)
    return scene.picture.rgb, truth(scene)


def train(scenes: int, steps: int, *, seed: int = 0, jobs: int = 1, batch: int = 16) -> Recogniser:
    with ProcessPoolExecutor(jobs) as pool:
        examples = list(pool.map(partial(_example, seed=seed), range(scenes), chunksize=50))
    pictures = torch.from_numpy(np.stack([p for p, _ in examples])).permute(0, 3, 1, 2)
    classes = torch.from_numpy(np.stack([c for _, c in examples])).long()
    torch.manual_seed(seed)
    model, rng = Recogniser(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(1, steps + 1):
        rows = torch.randint(scenes, (batch,), generator=rng)
        x, y = pictures[rows] / 255, classes[rows]
        if torch.rand((), generator=rng) < 0.5:
            x, y = x.flip(3), y.flip(2)
        gain = 0.9 + 0.2 * torch.rand(batch, 1, 1, 1, generator=rng)
        loss = F.cross_entropy(model((x * gain).clamp(0, 1)), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"recogniser {step}/{steps}  loss {loss:.3f}", flush=True)
    return model


def load(folder: Path) -> Recogniser:
    model = Recogniser()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument("--jobs", type=int, default=1, help="processes that render")
    options = parser.parse_args()
    file = options.out / "model.safetensors"
    if file.exists():
        print(f"{file} is there already and is kept")
        return
    model = train(options.scenes, options.steps, seed=options.seed, jobs=options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    save_file(model.state_dict(), part)
    part.replace(file)
    scenes = [render_scene(options.seed, index, split="val") for index in range(200)]
    maps = model.maps([scene.picture.rgb for scene in scenes])
    right = [
        in_box(classes, tuple(box["bbox"])) == (body.kind, body.colour)
        for classes, scene in zip(maps, scenes, strict=True)
        for box, body in zip(scene.boxes, (scene.world.bodies[k] for k in scene.order), strict=True)
    ]
    print(f"{file}: {100 * np.mean(right):.1f}% of {len(right)} held-out objects recognised in their boxes")


if __name__ == "__main__":
    main()
