"""AdamW against Muon at equal CPU time: the model of a config, trained with each, by held-out loss.

    python -m benchmarks.optimisers runs/demo/config.yaml --seconds 90 --seeds 3

Each run gets `--seconds` of CPU time, without those of the first step and of evaluations, on one thread, at a constant
rate after a short warm-up. The tokens and tokenizers of the config must be there. Prints steps, and the mean held-out
nats per token (over modalities) by optimiser and seed, and their means.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from fourm_engine.modalities import activate_kinds, load_manager
from fourm_engine.pretrain.task import FourMTask
from fourm_engine.recipes.config import RunConfig, load_config
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_engine.train.learner import Learner
from fourm_engine.train.loop import Trainer


class Timed(FourMTask):
    """Trains for a given CPU time."""

    def measure(self, trainer: Trainer, seconds: float) -> int:
        """Let `trainer` step until `seconds` are used up; returns the number of steps."""
        began, steps, take = 0.0, 0, Learner.step

        def timed(*arguments: Any, **options: Any) -> Any:
            nonlocal began, steps
            began = began or time.process_time()
            result = take(*arguments, **options)
            steps += 1
            if time.process_time() - began >= seconds:
                raise _Enough
            return result

        with mock.patch.object(Learner, "step", timed), suppress(_Enough):
            trainer.run()
        return steps


class _Enough(Exception):
    pass


def score(config: RunConfig, optimiser: str, lr: float, seed: int, seconds: float) -> tuple[int, float]:
    """(steps, mean held-out nats per token)."""
    manager = load_manager(config.modalities)
    modalities = config.load_modalities(manager)
    activate_kinds(modalities, manager, maskers=True)
    tokenizers = load_tokenizers(config.tokenizers.folder, modalities.token_spaces, manager, modalities=modalities)

    config = config.model_copy(update={"seed": seed})
    samples = [
        config.open_samples(modalities, tokenizers, manager, modalities.vocabulary(), training=training)
        for training in (True, False)
    ]
    task = Timed(modalities, tokenizers, config.model, *samples, loss=config.loss)
    changes = dict.fromkeys(("samples", "tokens", "base_lr", "warmup_tokens", "cooldown_tokens", "ema", "export"))
    changes |= {"steps": 10**9, "lr": lr, "warmup": 20, "cooldown": 0, "schedule": "constant", "min_lr": 0.0}
    changes |= {"optimiser": optimiser, "threads": 1, "device": "cpu", "log_every": 10**9, "checkpoint_every": 10**9}
    changes |= {"eval_every": None, "optimiser_options": {}}
    train = type(config.train).model_validate(config.train.model_dump() | changes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, train, Path(folder), seed=seed, host=manager)
        steps = task.measure(trainer, seconds)
        scores = trainer._evaluate()
    return steps, statistics.mean(scores.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.config)
    results: dict[str, list[tuple[int, float]]] = {"adamw": [], "muon": []}
    for seed in range(options.seeds):  # in turns, so that what else the machine does is shared alike
        for optimiser, scores in results.items():
            scores.append(score(config, optimiser, options.lr, seed, options.seconds))
            print(f"{optimiser:6} seed {seed}  {scores[-1][0]} steps  {scores[-1][1]:.4f} nats", flush=True)
    for optimiser, scores in results.items():
        values = [value for _, value in scores]
        print(f"{optimiser:6} steps {[steps for steps, _ in scores]}  nats {[round(value, 4) for value in values]}  "
              f"mean {statistics.mean(values):.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
