"""Whether the spread of several samples predicts their error, on a trained demo (`make demo`).

    OMP_NUM_THREADS=1 python -m benchmarks.calibration runs/demo data/demo/val --samples 50

For each target given a picture: `n_samples` are drawn and reduced; Spearman's rank correlation of spread and error over
the pixels of all samples, their means in five groups of rising spread, and the target's first metric of the reduction,
of single samples, and of the one answer that is computed rather than drawn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fourm_engine as fm
from benchmarks.shards import read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, help="folder of held-out shards, one folder a modality")
    parser.add_argument("--picture", default="rgb")
    parser.add_argument("--targets", nargs="+", default=["depth", "normal", "semseg"])
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--n-samples", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    model = fm.FourM.from_pretrained(options.run, device="cpu")
    values = {
        name: [model.modalities[name].read(files) for files in read(options.data / name, options.samples).values()]
        for name in (options.picture, *options.targets)
    }
    inputs = [{options.picture: value} for value in values[options.picture]]
    print(f"{options.samples} samples of {options.n_samples} draws in {options.steps} steps, given {options.picture}")
    for target in options.targets:
        modality, truths = model.modalities[target], values[target]
        how, metric = modality.reductions[0], modality.metrics()[0]
        results = model.generate_batch(inputs, target, n_samples=options.n_samples, reduce=how, steps=options.steps)
        told = fm.calibration([result[target] for result in results], truths, groups=5)
        computed = model.generate_batch(inputs, target)
        scores = [
            metric.compute([result[target].value for result in part], truths)
            for part in (results, [result.samples[0] for result in results], computed)
        ]
        groups = "  ".join(f"{s:.3g} {e:.3g}" for s, e in zip(told.spread, told.error, strict=True))
        print(f"{target}: rank correlation {told.correlation:.2f}; spread and error in five groups: {groups}")
        print(
            f"  {metric.name}: {how} {scores[0]:.3f}, one sample {scores[1]:.3f}, computed {scores[2]:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
