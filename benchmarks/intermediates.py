"""What each intermediate gives: a modality generated on the way to the one that is wanted, on a trained demo.

    OMP_NUM_THREADS=1 python -m benchmarks.intermediates runs/demo data/demo/val --samples 100

For each input and target: the target's first metric, generated directly; after each intermediate, from both; and with
the true intermediate in its place, which is the most that a perfect one could give; the target always in one step. With
every score its difference to the direct one, and the standard error of that over 40 resamplings of the samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fourm_engine as fm
from benchmarks.shards import read
from fourm_plugins.modality import Metric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, help="folder of held-out shards, one folder a modality")
    parser.add_argument("--given", nargs="+", default=["rgb", "caption"])
    parser.add_argument("--targets", nargs="+", default=["depth", "normal", "semseg"])
    parser.add_argument("--samples", type=int, default=100)
    options = parser.parse_args()
    model = fm.FourM.from_pretrained(options.run, device="cpu")
    values: dict[str, list[Any]] = {}
    for name in dict.fromkeys([*options.given, *options.targets]):
        made = [model.modalities[name].read(files) for files in read(options.data / name, options.samples).values()]
        values[name] = [value[0] if isinstance(value, tuple) else value for value in made]
    print(f"{options.samples} samples; difference to directly ± its standard error")
    for given in options.given:
        for target in options.targets:
            metric, truths = model.modalities[target].metrics()[0], values[target]

            # The same last stage whatever came before: by default a map that is there makes one step of eight.
            readout = "expected" if model.modalities[target].spec.expected_decoding else "sampled"
            last = fm.Stage(target, scheme="parallel", readout=readout)

            def made(inputs: list[dict[str, Any]], first: list[str], last: fm.Stage = last) -> list[Any]:
                results = model.generate_batch(inputs, last.target, plan=[*first, last], seed=0)
                return [result[last.target].value for result in results]

            alone = [{given: value} for value in values[given]]
            direct = made(alone, [])
            print(f"{given} → {target}, {metric.name}: directly {metric.compute(direct, truths):.4g}", flush=True)
            for between in (name for name in options.targets if name not in (given, target)):
                both = [one | {between: value} for one, value in zip(alone, values[between], strict=True)]
                for what, predicted in (
                    (f"through {between}", made(alone, [between])),
                    (f"with the true {between}", made(both, [])),
                ):
                    error = resampled(metric, predicted, direct, truths)
                    score = metric.compute(predicted, truths)
                    difference = score - metric.compute(direct, truths)
                    print(f"  {what}: {score:.4g} ({difference:+.2g} ± {error:.1g})", flush=True)


def resampled(metric: Metric, one: Sequence[Any], other: Sequence[Any], truths: Sequence[Any]) -> float:
    """Standard error of the difference of a metric between two lists of predictions, by the bootstrap."""
    rng, differences = np.random.default_rng(0), []
    for _ in range(40):
        rows = rng.integers(len(truths), size=len(truths))
        parts = [[predictions[i] for i in rows] for predictions in (one, other)]
        true = [truths[i] for i in rows]
        differences.append(metric.compute(parts[0], true) - metric.compute(parts[1], true))
    return float(np.std(differences))


if __name__ == "__main__":
    main()
