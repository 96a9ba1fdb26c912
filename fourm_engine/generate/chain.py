"""Plans chained generation: chooses the modalities to generate before a target from a run's any-to-any matrix.

In: nats per token of each target given each input, measured on held-out samples by `train.pairs_every` or `fourm
evaluate`. Out: the modalities to generate, in order. An intermediate modality adds no information; it helps where the
model predicts the target better from it than from the inputs themselves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm_plugins.counting import decimals

#: Inputs ("a + b" or "nothing") -> target -> nats per token.
Nats = Mapping[str, Mapping[str, float]]
NOTHING = "nothing"
#: An intermediate modality must save at least this share of the target's nats.
MIN_SAVING = 0.01
MAX_STEPS = 2
#: Bytes of a line and of an evaluation file; anything longer was not written by a run.
_MAX_LINE, _MAX_FILE = 1 << 20, 1 << 26


def read_nats(model: Path) -> Nats:
    """The any-to-any matrix of the run that exported the folder `model`. Raises ValueError if the run has none."""
    run = model if (model / "metrics.jsonl").is_file() or (model / "evaluation").is_dir() else model.parent
    try:
        nats = _of_metrics(run / "metrics.jsonl") or _of_evaluation(run / "evaluation/evaluation.json")
    except OSError as error:
        raise ValueError(f"plan='auto': {run} cannot be read: {error}") from None
    if not nats:
        raise ValueError(
            f"plan='auto' needs the run's any-to-any matrix, and {run} has none: metrics.jsonl holds no pairs "
            f"(train.pairs_every) and there is no evaluation (`fourm evaluate {run}`); do one, or give the plan"
        )
    return nats


def _of_metrics(path: Path) -> Nats:
    """The last matrix in the file; a run may still be appending to it."""
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
        parsed = json.loads(text)
    except (ValueError, RecursionError):  # also UnicodeDecodeError
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _cells(rows: Any) -> Nats:
    """The positive, finite numbers of a matrix read from a file."""
    return {
        name: {t: float(x) for t, x in row.items() if type(x) in (int, float) and 0 < x < 1e300}
        for name, row in (rows.items() if isinstance(rows, dict) else ())
        if isinstance(row, dict)
    }


def choose_chain(
    given: Collection[str], targets: Sequence[str], nats: Nats, possible: Collection[str]
) -> tuple[list[str], list[str]]:
    """The modalities to generate, in order, and a line that explains each choice.

    Targets are sorted by the fraction of their nats that the inputs remove, largest first. Each is preceded by at most
    two of `possible`, as long as they lower its nats: if the inputs remove a fraction k of a modality's nats, and
    seeing that modality lowers the target's by d, the expected gain is k · d.

    Raises ValueError for a target, or inputs, without numbers in the matrix."""
    measured = {name for row in nats for name in _names(row)}
    if given and not measured & set(given):
        raise ValueError(f"plan='auto': the run's matrix has no row for {', '.join(given)}; give the plan")
    for target in targets:
        if _lowest(target, (), nats) is None:
            raise ValueError(
                f"plan='auto': the run's matrix has no row that predicts {target!r} from nothing (a row [] of "
                f"train.pairs_inputs); give the plan"
            )
    seen, left, chain, reasons = set(given), list(targets), list[str](), list[str]()
    while left:
        target = max(left, key=lambda name: _known(name, seen, nats))
        left.remove(target)
        cost = _lowest(target, seen, nats) or 0.0
        for _ in range(MAX_STEPS):
            least = _lowest(target, seen, nats) or 0.0
            gains = {
                name: _known(name, seen, nats) * (least - (_lowest(target, {*seen, name}, nats) or least))
                for name in sorted({*possible, *left} - seen - {target})
            }
            best = max(gains, key=gains.__getitem__, default=None)
            if best is None or gains[best] <= MIN_SAVING * cost:
                break
            share = f"{_known(best, seen, nats):.0%}"
            reasons.append(
                f"{best} before {target}: {share} of it is known, which should lower {target} from {cost:.2f} to "
                f"{decimals(cost - gains[best], 2)} nats per token"
            )
            cost -= gains[best]
            chain.append(best)
            seen.add(best)
            left = [name for name in left if name != best]
        chain.append(target)
        seen.add(target)
    return chain, reasons or ["no intermediate modality would lower the nats of the targets"]


def _names(row: str) -> list[str]:
    return [] if row == NOTHING else row.split(" + ")


def _lowest(target: str, shown: Collection[str], nats: Nats) -> float | None:
    """The lowest measured nats of a target given any subset of `shown`; None if none was measured."""
    rows = [cells[target] for row, cells in nats.items() if target in cells and set(_names(row)) <= set(shown)]
    return min(rows, default=None)


def _known(name: str, shown: Collection[str], nats: Nats) -> float:
    """The fraction of a modality's nats that the inputs remove."""
    alone, with_shown = _lowest(name, (), nats), _lowest(name, shown, nats)
    return 1 - with_shown / alone if alone and with_shown else 0.0
