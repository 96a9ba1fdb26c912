"""Predicts held-out samples, and scores them by each modality's metrics, next to constant predictors and the
tokenizer's ceiling.

In: a model, held-out samples, training values for the constants, the tasks. Out: `TaskResult`s and rendered pictures.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fourm_engine.data.order import name_rng
from fourm_engine.drawing import legend_of
from fourm_engine.evaluate.agreement import Features, agreement, pairs
from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.evaluate.diversity import diversity
from fourm_engine.evaluate.pictures import SMALL, Output, SamplePictures, hide
from fourm_engine.evaluate.results import Agreement, Diversity, Score, TaskResult, measurable, measure
from fourm_engine.evaluate.samples import Samples
from fourm_engine.evaluate.tasks import Task, kept_tokens
from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.plan import Stage, default_plan
from fourm_engine.model import FourM
from fourm_engine.tokenizers.quantisers.base import SAYING, usage_of
from fourm_plugins import calls
from fourm_plugins.modality import Metric
from fourm_plugins.spec import Grid


class Predictor:
    """Predicts the targets of tasks, and caches shared results: token ids, decoded values, scores of constants."""

    def __init__(
        self,
        model: FourM,
        held_out: Samples,
        training: Mapping[str, Sequence[Any]],
        config: EvaluateConfig,
        *,
        extra_metrics: Mapping[str, Sequence[Metric]] | None = None,
        features: Features | None = None,
    ) -> None:
        """`training`: target -> values to fit the constants to. `extra_metrics`: target -> additional metrics.
        `features`: modality -> features of its values by a contrastive model."""
        self.model, self.held_out, self.config = model, held_out, config
        self.metrics = {
            name: (*calls.metrics(modality), *(extra_metrics or {}).get(name, ()))
            for name, modality in model.modalities.items()
        }
        self.notes: list[str] = []
        self._features = features or {}
        self._training = training
        self._constants: dict[str, dict[str, Any]] = {}
        self._references: dict[tuple, dict[str, tuple[float | None, dict[str, float | None]]]] = {}
        self._ids: dict[str, dict[str, np.ndarray]] = {}
        self._ceiling: dict[str, dict[str, Any]] = {}

    def ids(self, name: str) -> dict[str, np.ndarray]:
        """Sample -> token ids of a modality, for all held-out samples that have it."""
        if name not in self._ids:
            arrays, tokenizer = self.held_out.arrays[name], self.model.tokenizers[name]
            ids = _batched(partial(calls.encode, tokenizer), list(arrays.values()), self.config.batch_size)
            self._ids[name] = dict(zip(arrays, ids))
        return self._ids[name]

    def ceiling(self, name: str) -> dict[str, Any]:
        """Sample -> its truth, encoded and decoded."""
        if name not in self._ceiling:
            ids, tokenizer = self.ids(name), self.model.tokenizers[name]
            arrays = _batched(partial(calls.decode, tokenizer), list(ids.values()), self.config.batch_size)
            modality = self.model.modalities[name]
            self._ceiling[name] = {s: calls.denormalise(modality, a) for s, a in zip(ids, arrays)}
        return self._ceiling[name]

    def run(self, task: Task) -> tuple[TaskResult, list[SamplePictures]]:
        began = time.perf_counter()
        names = self.held_out.with_modalities(task.inputs.values())[: task.samples or self.config.samples]
        predictions = self._predict(task, names)
        scores, scored = {}, {}
        for target in task.targets:
            have = [name for name in names if name in self.held_out.values[target]]
            scored[target] = len(have)
            scores[target] = self._score(target, have, [predictions[name][target] for name in have])
        pictures = [self._pictures(task, name, predictions[name]) for name in names[: self.config.pictures]]
        if not names:
            self.notes.append(f"task {task.name!r}: no held-out sample has all of its inputs")
        keep = {name: str(part) for name, part in task.keep.items()}
        agreements = self._agreement(task, names, predictions) if self._features else []
        diversity = self._diversity(task, names[: self.config.draw_samples]) if self.config.draws and names else {}
        seconds = time.perf_counter() - began
        result = TaskResult(
            task.name, list(task.inputs), task.targets, keep, len(names), scored, scores, seconds, agreements, diversity
        )
        return result, pictures

    def pictures(self, task: Task) -> list[SamplePictures]:
        """Predictions for the first samples with a task's inputs, as pictures, unscored."""
        names = self.held_out.with_modalities(task.inputs.values())[: self.config.pictures]
        predictions = self._predict(task, names)
        return [self._pictures(task, name, predictions[name]) for name in names]

    def tokenizers(self) -> dict[str, dict[str, Any]]:
        """Token modality -> statistics of its tokenizer on the held-out samples: kind, codes, used codes and perplexity
        (exp of the entropy; both averaged over positions with separate codes, and omitted if there are too few tokens
        per code), tokens per sample, and the scores of the reconstruction in the modality's metrics."""
        rows = {}
        for name, modality in self.model.modalities.items():
            if modality.spec.continuous or not self.ids(name):
                continue
            tokenizer, ids = self.model.tokenizers[name], list(self.ids(name).values())
            use = usage_of(ids, tokenizer.size, positional=tokenizer.positional, least=SAYING)
            samples = list(self.ids(name))
            truths = [self.held_out.values[name][sample] for sample in samples]
            references = self._reference_scores(name, samples, truths)
            rows[name] = {
                "kind": tokenizer.kind,
                "codes": tokenizer.size,
                "in use": round(use["usage"] * tokenizer.size) if use else None,
                "perplexity": use["perplexity"] * tokenizer.size if use else None,
                "tokens a sample": float(np.mean([len(row) for row in ids])),
                "reconstruction": {metric: score for metric, (score, _) in references.items()},
            }
        return rows

    def _predict(self, task: Task, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Sample -> target -> predicted value."""
        inputs = [{given: self._input(task, given, name) for given in task.inputs} for name in names]
        drawn = [int(name_rng(self.config.seed, task.name, name).integers(1 << 62)) for name in names]
        groups = [task.targets] if task.chain else [[target] for target in task.targets]
        predictions: dict[str, dict[str, Any]] = {name: {} for name in names}
        for targets in groups:
            # A partly given target is predicted separately: other targets see only the given part.
            plan = self._plan(task, targets)
            # Without sampling, seeds have no effect.
            seeds = [0] * len(names) if all(stage.deterministic for stage in plan) else drawn
            size = self.config.batch_size
            results = self.model.generate_batch(inputs, targets, seeds=seeds, plan=plan, batch_size=size)
            for name, result in zip(names, results, strict=True):
                predictions[name] |= {target: result[target].value for target in targets}
        return predictions

    def _agreement(
        self, task: Task, names: Sequence[str], predictions: Mapping[str, Mapping[str, Any]]
    ) -> list[Agreement]:
        values, agreements = self.held_out.values, []
        for given, target in pairs(task, self.model.modalities, self._features):
            have = [name for name in names if name in values[target]]
            if len(have) < 2:
                self.notes.append(f"task {task.name!r}: fewer than two samples have a true {target}, no agreement")
                continue
            shown = self._features[given]([values[given][name] for name in have])
            predicted = self._features[target]([predictions[name][target] for name in have])
            true = self._features[target]([values[target][name] for name in have])
            agreements.append(agreement(shown, predicted, true, given=given, target=target))
        return agreements

    def _diversity(self, task: Task, names: Sequence[str]) -> dict[str, Diversity]:
        """The diversity of sampled targets, each generated from the inputs, or after the targets before it."""
        k, by_target = self.config.draws or 0, {}
        inputs = [{given: self._input(task, given, name) for given in task.inputs} for name in names]
        first = [int(name_rng(self.config.seed, "draws", task.name, name).integers(1 << 62)) for name in names]
        for targets in [task.targets] if task.chain else [[target] for target in task.targets]:
            plan = self._plan(task, targets, several=True)
            drawn = [not all(stage.deterministic for stage in plan[: i + 1]) for i in range(len(plan))]
            if not all(drawn):
                what = ", ".join(target for target, any_drawn in zip(targets, drawn, strict=True) if not any_drawn)
                self.notes.append(f"task {task.name!r}: nothing of {what} is drawn, so that it has no diversity")
            if not any(drawn):
                continue
            results = self.model.generate_batch(
                [given for given in inputs for _ in range(k)],
                targets,
                seeds=[seed + i for seed in first for i in range(k)],
                plan=plan,
                batch_size=self.config.batch_size,
            )
            for target in (target for target, any_drawn in zip(targets, drawn, strict=True) if any_drawn):
                draws = [[result[target].value for result in results[i::k]] for i in range(k)]
                truths = [self.held_out.values[target].get(name) for name in names]
                by_target[target] = diversity(
                    draws,
                    None if any(truth is None for truth in truths) else truths,
                    [metric for metric in self.metrics[target] if metric.min_samples == 1],
                    lambda metric, a, b, target=target: self._measure(target, metric, a, b),  # type: ignore[misc]
                    self._features.get(target),
                )
        return by_target

    def _input(self, task: Task, given: str, sample: str) -> Any:
        """`Ids`, encoded once for all tasks, or the value of a continuous modality."""
        shown = task.inputs[given]
        spec = self.model.modalities[shown].spec
        if spec.continuous:
            content = self.held_out.values[shown][sample]
        else:
            content = Ids(self.ids(shown)[sample][: spec.layout.num_tokens])
        return Condition(content, keep=self._kept(task, given, sample)) if given in task.keep else content

    def _kept(self, task: Task, given: str, sample: str) -> np.ndarray:
        rng = name_rng(self.config.seed, task.name, given, sample)
        return kept_tokens(self.model.modalities[task.inputs[given]].spec, task.keep[given], rng)

    def _plan(self, task: Task, targets: Sequence[str], *, several: bool = False) -> list[Stage]:
        seen, plan = list(task.inputs.values()), []
        for target in targets:
            options = task.options[target].model_dump(exclude_none=True) if target in task.options else {}
            plan += default_plan([target], self.model.modalities, seen, several=several, **options)
            seen.append(target)
        return plan

    def _score(self, target: str, names: Sequence[str], predictions: Sequence[Any]) -> list[Score]:
        if not names:
            self.notes.append(f"{target}: no held-out sample has its truth, so that nothing can be scored")
            return []
        truths = [self.held_out.values[target][name] for name in names]
        references = self._reference_scores(target, names, truths)
        scores = []
        for metric in measurable(target, self.metrics[target], len(names), self.notes):
            score = self._measure(target, metric, predictions, truths)
            scores.append(Score(metric.name, metric.unit, metric.higher_is_better, score, *references[metric.name]))
        return scores

    def _reference_scores(
        self, target: str, names: Sequence[str], truths: Sequence[Any]
    ) -> dict[str, tuple[float | None, dict[str, float | None]]]:
        """Metric -> (score of the ceiling, scores of the constants). These depend only on the samples, not on the
        task."""
        key = (target, *names)
        if key not in self._references:
            ceiling, constants = self.ceiling(target), self._fitted_constants(target)
            self._references[key] = {
                metric.name: (
                    self._measure(target, metric, [ceiling[name] for name in names], truths),
                    {c: self._measure(target, metric, [value] * len(names), truths) for c, value in constants.items()},
                )
                for metric in measurable(target, self.metrics[target], len(names), self.notes)
            }
        return self._references[key]

    def _fitted_constants(self, target: str) -> dict[str, Any]:
        if target not in self._constants:
            values = self._training.get(target, ())
            modality = self.model.modalities[target]
            self._constants[target] = calls.constants(modality, values) if len(values) else {}
        return self._constants[target]

    def _measure(self, target: str, metric: Metric, predictions: Sequence[Any], truths: Sequence[Any]) -> float | None:
        return measure(self.model.modalities[target], metric, predictions, truths, self.notes)

    def _pictures(self, task: Task, sample: str, predictions: Mapping[str, Any]) -> SamplePictures:
        modalities, values = self.model.modalities, self.held_out.values
        inputs = {}
        for given, shown in task.inputs.items():
            picture = calls.render(modalities[shown], values[shown][sample])
            if given in task.keep and not isinstance(picture, str):
                layout = modalities[shown].spec.layout
                assert isinstance(layout, Grid)
                picture = hide(picture, self._kept(task, given, sample).reshape(layout.height, layout.width))
            inputs[f"{given} ({task.keep[given]})" if given in task.keep else given] = picture
        outputs = []
        for target in task.targets:
            drawn, truth = [predictions[target]], values[target].get(sample)
            if truth is not None:
                drawn += [truth, self.ceiling(target)[sample]]
            legend = legend_of(modalities[target], drawn, SMALL)
            pictures = dict(zip(("prediction", "truth", "ceiling"), calls.render_all(modalities[target], drawn)))
            outputs.append(Output(target, **pictures, legend=legend))
        return SamplePictures(sample, inputs, outputs)


def _batched(function: Any, items: Sequence[Any], size: int) -> list[Any]:
    return [result for start in range(0, len(items), size) for result in function(items[start : start + size])]
