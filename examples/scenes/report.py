"""Evaluate the demo's model on the held-out scenes: `python examples/scenes/report.py runs/demo`.

Does what `fourm evaluate` does, through the same function, and scores captions by the (kind, colour) pairs that they
name, which only the scenes know. Writes RUN/evaluation/report.html, evaluation.json, and picture.png: RGB to
everything for three scenes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from captions import pair_recall

from fourm_engine.cli.evaluate import print_summary
from fourm_engine.drawing import png
from fourm_engine.evaluate.pictures import contact_sheet
from fourm_engine.files import write_atomically
from fourm_engine.recipes.evaluate import REPORT, evaluate
from fourm_plugins import Metric

SCENES = 3  # in picture.png


def mean_pair_recall(predictions: Sequence[str], truths: Sequence[str]) -> float:
    """Mean share in [0, 1] of the (kind, colour) pairs of each true caption that the predicted one names."""
    return sum(map(pair_recall, predictions, truths)) / len(truths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--config", type=Path, help="in place of RUN/config.yaml")
    parser.add_argument("--out", type=Path, help="folder; RUN/evaluation")
    parser.add_argument("--samples", type=int, help="held-out scenes; the config's")
    parser.add_argument("--no-matrix", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="tasks at a time, each on one CPU thread")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    extra = {"caption": (Metric("(kind, colour) pairs", mean_pair_recall, True),)}
    try:
        report = evaluate(
            options.run,
            config=options.config,
            out=options.out,
            samples=options.samples,
            matrix=not options.no_matrix,
            extra_metrics=extra,
            jobs=options.jobs,
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print_summary(report.evaluation)
    print(report.folder / REPORT)
    for task in report.evaluation.tasks:
        if task.inputs == ["rgb"] and report.pictures[task.name]:
            sheet = contact_sheet(report.pictures[task.name][:SCENES])
            write_atomically(report.folder / "picture.png", png(sheet))
            print(report.folder / "picture.png")
            break


if __name__ == "__main__":
    main()
