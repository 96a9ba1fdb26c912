"""The picture in docs/architecture.md, drawn from the imports of the source: `python -m docs.draw_rooms` redraws it.

A thin arrow leads from a room to one that it imports, where no longer way leads there; thick lines, numbered step by
step, are the walks of a sample (from files to a gradient) and of a run (from a command to a model that generates).
"""

from __future__ import annotations

import re
from itertools import pairwise

from tests.import_graph import ROOT, imports, room_of, rooms

PAGE = ROOT / "docs/architecture.md"
SAMPLE = ("data", "tokenizers", "masking", "batch", "nn", "train")
RUN = ("cli", "recipes", "pretrain", "train", "exported", "loading", "model", "generate")
_BLOCK = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def draw() -> str:
    """The mermaid block: a row of rooms for each floor of the page, the highest on top."""
    floors = rooms()
    below: dict[str, set[str]] = {room: set() for room in floors}
    for module, others in imports().items():
        below[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    lines = ["```mermaid", "flowchart TB"]
    for floor in sorted(set(floors.values()), reverse=True):
        lines.append(f'  subgraph floor{floor}[" "]')
        lines += [f"    {room}" for room, at in floors.items() if at == floor]
        lines.append("  end")
    lines += [f"  {room} --> {other}" for room in floors for other in floors if other in _direct(room, below)]
    thin = sum(" --> " in line for line in lines)
    for name, walk in (("sample", SAMPLE), ("run", RUN)):
        for i, step in enumerate(pairwise(walk), start=1):
            # Always from above to below, since a circle of arrows would let mermaid turn floors upside down.
            upper, lower = sorted(step, key=floors.__getitem__, reverse=True)
            lines.append(f"  {upper} == {name} {i} === {lower}")
    steps = [str(thin + i) for i in range(len(SAMPLE) + len(RUN) - 2)]
    lines.append(f"  linkStyle {','.join(steps[: len(SAMPLE) - 1])} stroke:#1f77b4,stroke-width:4px")
    lines.append(f"  linkStyle {','.join(steps[len(SAMPLE) - 1 :])} stroke:#d62728,stroke-width:4px")
    return "\n".join([*lines, "```"])


def drawn(page: str) -> str:
    """The page with its picture as it should be."""
    return _BLOCK.sub(lambda _: draw(), page, count=1)


def _direct(room: str, below: dict[str, set[str]]) -> set[str]:
    """Rooms that `room` imports and reaches through no other."""
    return below[room] - {far for near in below[room] for far in _reached(near, below)}


def _reached(room: str, below: dict[str, set[str]]) -> set[str]:
    return below[room].union(*(_reached(other, below) for other in below[room]))


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
