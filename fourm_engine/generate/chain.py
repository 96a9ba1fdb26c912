"""Thinking in modalities: which ones to generate on the way to a target, read off the any-to-any matrix of a run.

In: nats a token of each target given each input, as `train.pairs_every` or `fourm evaluate` measured them on held-out
samples. Out: the modalities to generate, in order. What is generated tells nothing that the inputs did not; it helps
where the model reads it better than them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

#: What is shown, "a + b" or "nothing" -> target -> nats a token.
Nats = Mapping[str, Mapping[str, float]]
NOTHING = "nothing"
#: A step on the way must lower what the target costs by so much of it.
WORTH = 0.01
MOST_STEPS = 2
#: Bytes of a line, and of an evaluation; what is longer is none of ours.
_MAX_LINE, _MAX_FILE = 1 << 20, 1 << 26


def read_nats(model: Path) -> Nats:
    """The matrix of the run whose exported model is in the folder `model`. Raises ValueError where there is none."""
    run = model if (model / "metrics.jsonl").is_file() or (model / "evaluation").is_dir() else model.parent
    try:
        nats = _of_metrics(run / "metrics.jsonl") or _of_evaluation(run / "evaluation/evaluation.json")
    except OSError as error:
        raise ValueError(f"plan='auto': {run} cannot be read: {error}") from None
    if not nats:
        raise ValueError(
            f"plan='auto' needs the any-to-any matrix of the run, and {run} has none: metrics.jsonl holds no pairs "
            f"(train.pairs_every) and there is no evaluation (`fourm evaluate {run}`); do one, or give the plan"
        )
    return nats


def _of_metrics(path: Path) -> Nats:
    """The last matrix of a file that a run may be writing at."""
    nats: Nats = {}
    if path.is_file():
        with open(path, "rb") as file:
            while line := file.readline(_MAX_LINE):
                if b'"pairs"' in line:
                    nats = _cells(_parsed(line).get("pairs")) or nats
    return nats


def _of_evaluation(path: Path) -> Nats:
    if not path.is_file() or path.stat().st_size > _MAX_FILE:
        return {}
    matrix = _parsed(path.read_bytes()).get("matrix")
    rows = matrix.get("cells") if isinstance(matrix, dict) else None
    return _cells(
        {
            name: {target: cell.get("nats") for target, cell in row.items() if isinstance(cell, dict)}
            for name, row in (rows.items() if isinstance(rows, dict) else ())
            if isinstance(row, dict)
        }
    )


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # also UnicodeDecodeError
        return {}
    return found if isinstance(found, dict) else {}


def _cells(rows: Any) -> Nats:
    """The numbers above 0 of rows of cells."""
    return {
        name: {t: float(x) for t, x in row.items() if type(x) in (int, float) and 0 < x < 1e300}
        for name, row in (rows.items() if isinstance(rows, dict) else ())
        if isinstance(row, dict)
    }


def choose_chain(
    given: Collection[str], targets: Sequence[str], nats: Nats, possible: Collection[str]
) -> tuple[list[str], list[str]]:
    """What to generate, in order, and a line for each choice.

    Targets come in the order in which they are known best, by the share of their nats that what is there takes away.
    Before each come at most two of `possible`, as long as one lowers what the target costs: with what is shown, a
    modality m is known to the share k, and with m the target costs d nats less, so that k · d is expected of it.

    Raises ValueError for a target, or inputs, that the matrix has no numbers for."""
    measured = {name for row in nats for name in _names(row)}
    if given and not measured & set(given):
        raise ValueError(f"plan='auto': the matrix of the run has no row of {', '.join(given)}; give the plan")
    for target in targets:
        if _lowest(target, (), nats) is None:
            raise ValueError(
                f"plan='auto': the matrix of the run does not say what {target!r} costs given nothing (a row [] of "
                f"train.pairs_inputs); give the plan"
            )
    seen, left, chain, told = set(given), list(targets), list[str](), list[str]()
    while left:
        target = max(left, key=lambda name: _known(name, seen, nats))
        left.remove(target)
        cost = _lowest(target, seen, nats) or 0.0
        for _ in range(MOST_STEPS):
            least = _lowest(target, seen, nats) or 0.0
            gains = {
                name: _known(name, seen, nats) * (least - (_lowest(target, {*seen, name}, nats) or least))
                for name in sorted({*possible, *left} - seen - {target})
            }
            best = max(gains, key=gains.__getitem__, default=None)
            if best is None or gains[best] <= WORTH * cost:
                break
            share = f"{_known(best, seen, nats):.0%}"
            told.append(
                f"{best} before {target}: it is known to {share}, which should lower {target} from {cost:.2f} to "
                f"{cost - gains[best]:.2f} nats a token"
            )
            cost -= gains[best]
            chain.append(best)
            seen.add(best)
            left = [name for name in left if name != best]
        chain.append(target)
        seen.add(target)
    return chain, told or ["nothing on the way would lower what the targets cost"]


def _names(row: str) -> list[str]:
    return [] if row == NOTHING else row.split(" + ")


def _lowest(target: str, shown: Collection[str], nats: Nats) -> float | None:
    """The fewest nats of a target given some of what is shown; None where that was not measured."""
    rows = [cells[target] for row, cells in nats.items() if target in cells and set(_names(row)) <= set(shown)]
    return min(rows, default=None)


def _known(name: str, shown: Collection[str], nats: Nats) -> float:
    """The share of a modality's nats that what is shown takes away."""
    alone, with_shown = _lowest(name, (), nats), _lowest(name, shown, nats)
    return 1 - with_shown / alone if alone and with_shown else 0.0
