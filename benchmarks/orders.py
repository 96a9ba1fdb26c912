"""Quality against steps for each decoding order, of a trained run on its held-out samples.

    OMP_NUM_THREADS=1 python -m benchmarks.orders runs/demo
    python -m benchmarks.orders runs/photos --task rgb:depth --task semseg:rgb --draws 4

A task is INPUT:TARGET, by default every grid that the run can draw from its picture, and the picture from the text. Of
the samples drawn (temperature 1, top-p 0.9) it prints, as tables with a row per order and a column per number of steps,

- the target's first metric;
- Fréchet: the distance between the drawn and the true values in the features of the encoder of `--features`, a run (by
  default this one): means over tokens, in their `--dimensions` principal components, over the variance of the truth.
  0 is the truth; 1 are values that all have its mean. "coded" are the true values, encoded and decoded;
- nats a token that the model gives a text when it sees what was drawn from it: the lower, the better it shows what was
  said;
- the steps that were taken: an order may stop early.

Each is the mean over `--draws` draws; behind ± the mean of its standard errors, as those differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.evaluate.frechet import EncoderFrechet
from fourm_engine.evaluate.matrix import nats_by_sample
from fourm_engine.evaluate.samples import Samples, load_samples
from fourm_engine.generate.parallel import ParallelDecoder
from fourm_engine.generate.plan import Stage
from fourm_engine.model import FourM
from fourm_engine.recipes.config import CONFIG, load_config

ORDERS: dict[str, dict[str, Any]] = {
    "parallel": {"scheme": "parallel"},
    "random_order": {"scheme": "random_order"},
    "halton": {"scheme": "halton"},
    "remask": {"scheme": "remask", "order": {"share": 0.1}},
    "entropy": {"scheme": "entropy", "order": {"bound": 1.0}},
}
TASKS = ("rgb:depth", "rgb:normal", "rgb:semseg", "semseg:rgb", "caption:rgb")


def steps_taken(model: FourM, run: Callable[[], Any]) -> tuple[Any, list[int]]:
    """What `run` returns, and how many samples each decoding step in it was for."""
    taken, step = [], ParallelDecoder._step

    def counted(self: ParallelDecoder, number: int, active: list[int], count: list[int]) -> None:
        taken.append(len(active))
        step(self, number, active, count)

    ParallelDecoder._step = counted  # type: ignore[method-assign]
    try:
        return run(), taken
    finally:
        ParallelDecoder._step = step  # type: ignore[method-assign]


def measure(
    model: FourM,
    inputs: Sequence[Mapping[str, Any]],
    truths: Sequence[Any],
    task: tuple[str, str],
    features: EncoderFrechet,
    stage: Stage,
    draws: int,
    batch_size: int,
) -> dict[str, tuple[float, float]]:
    """Measure -> its mean over the draws, and the standard error of that."""
    given, target = task
    metric, scores = model.modalities[target].metrics()[0], dict[str, list[float]]()
    size, asked = len(inputs), [*inputs] * draws
    results, taken = steps_taken(
        model,
        lambda: model.generate_batch(asked, target, plan=[stage], seeds=range(len(asked)), batch_size=batch_size),
    )
    for draw in range(draws):
        drawn = [result[target] for result in results[draw * size : (draw + 1) * size]]
        values = [generated.value for generated in drawn]
        scores.setdefault(metric.name, []).append(metric.compute(values, truths))
        scores.setdefault("Fréchet", []).append(features(values, truths))
        if model.modalities[given].spec.layout.kind == "sequence":
            ids = model.tokenizers[given].encode([one[given] for one in inputs])
            seen = [{target: generated.tokens, given: x} for generated, x in zip(drawn, ids, strict=True)]
            nats, tokens = nats_by_sample(model, seen, [target], [given], batch_size=batch_size)[given]
            scores.setdefault(f"nats a token of the {given}", []).append(float(nats.sum() / tokens.sum()))
    scores["steps taken"] = [sum(taken) / len(asked)] * draws
    return {name: (float(np.mean(x)), float(np.std(x) / max(1, draws - 1) ** 0.5)) for name, x in scores.items()}


def samples_of(run: Path, model: FourM, overrides: Sequence[str], count: int) -> Samples:
    """Held-out samples of the run's config, as the model sees them."""
    config = load_config(run / CONFIG, overrides, needed=("data.val",)).data
    data = AlignedData.from_config(model.modalities, config, training=False)
    return load_samples(data, config, samples=count, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("overrides", nargs="*", help="of its config, such as data.val=FOLDER")
    parser.add_argument("--task", action="append", help=f"INPUT:TARGET; by default those of {', '.join(TASKS)}")
    parser.add_argument("--features", type=Path, help="run whose encoder gives the features")
    parser.add_argument("--dimensions", type=int, default=8)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device")
    options = parser.parse_args()
    model = FourM.from_pretrained(options.run, device=options.device)
    judge = model if options.features is None else FourM.from_pretrained(options.features, device=options.device)
    held_out = samples_of(options.run, model, options.overrides, options.samples)
    for task in options.task or TASKS:
        given, _, target = task.partition(":")
        names = held_out.with_modalities([given, target]) if {given, target} <= held_out.values.keys() else []
        if len(names) < 2:
            print(f"\n{task}: no samples with both")
            continue
        inputs = [{given: held_out.values[given][name]} for name in names]
        truths = [held_out.values[target][name] for name in names]
        features = EncoderFrechet(judge, target, dimensions=options.dimensions)
        tokenizer, modality = model.tokenizers[target], model.modalities[target]
        coded = tokenizer.decode(tokenizer.encode([held_out.arrays[target][name] for name in names]))
        ceiling = [modality.denormalise(array) for array in coded]
        score, distance = modality.metrics()[0].compute(ceiling, truths), features(ceiling, truths)
        print(f"\n{given} to {target}, {len(names)} samples: coded {score:.3f}, Fréchet {distance:.3f}")
        table: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for order, scheme in ORDERS.items():
            for steps in options.steps:
                stage = Stage(target=target, steps=steps, temperature=1.0, top_p=0.9, **scheme)
                scores = measure(
                    model, inputs, truths, (given, target), features, stage, options.draws, options.batch_size
                )
                for name, measured in scores.items():
                    table.setdefault(name, {}).setdefault(order, []).append(measured)
        show(table, options.steps)


def show(table: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], numbers: Sequence[int]) -> None:
    """Print measure -> order -> (mean, standard error) for each number of steps."""
    for name, rows in table.items():
        if name == "steps taken" and all([mean for mean, _ in row] == numbers for row in rows.values()):
            continue
        error = np.mean([error for row in rows.values() for _, error in row])
        print(f"\n| {name} ± {error:.2g} | " + " | ".join(f"{steps} steps" for steps in numbers) + " |")
        print("|---" * (1 + len(numbers)) + "|")
        for order, row in rows.items():
            print(f"| {order} | " + " | ".join(f"{mean:.3f}" for mean, _ in row) + " |", flush=True)


if __name__ == "__main__":
    main()
