"""Turns a user's request into samples, each with its plan. Reports every mistake before any network runs.

In: inputs, targets, a plan or options, seeds. Out: `Prepared`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fourm_engine.generate import validation
from fourm_engine.generate.chain import Nats, choose_chain
from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.inputs import InputReader
from fourm_engine.generate.plan import Stage, default_plan
from fourm_engine.generate.sample import Sample
from fourm_engine.generate.sampler import Sampler
from fourm_plugins.modality import Modality


@dataclass(frozen=True)
class Prepared:
    """The samples, each input `n_samples` times, in the order of `seeds`."""

    targets: list[str]
    samples: list[Sample]
    plans: list[list[Stage]]
    seeds: list[int]
    names: list[dict[str, str]]  # per sample: name as given -> modality that shows it
    remarks: list[str] = field(default_factory=list)  # reasons for the chosen plan

    def groups(self, batch_size: int) -> Iterator[tuple[list[Stage], list[int]]]:
        """(plan, indices) of the samples of each batch. Weights determine the branches, so all samples of a batch have
        the same weighted conditions."""
        groups: dict[Any, list[int]] = {}
        for i, (sample, plan) in enumerate(zip(self.samples, self.plans, strict=True)):
            groups.setdefault((repr(plan), *sorted(sample.weights), *sorted(sample.regions)), []).append(i)
        for members in groups.values():
            for start in range(0, len(members), batch_size):
                yield self.plans[members[0]], members[start : start + batch_size]


def prepare(
    inputs: Any,
    targets: Sequence[str] | str | None,
    *,
    reader: InputReader,
    sampler: Sampler,
    modalities: Mapping[str, Modality],
    nats: Callable[[], Nats],
    seed: int,
    seeds: Iterable[int] | None,
    n_samples: int,
    plan: Any,
    options: Mapping[str, Any],
    dry: bool = False,
) -> Prepared:
    """`nats`: the run's any-to-any matrix, for plan "auto". `dry`: prepare only for an explanation. For the other
    arguments see `FourM.generate_batch`."""
    inputs = validation.inputs_of(inputs)
    validation.check_samples(n_samples)
    if targets is None and plan is not None and not isinstance(plan, str):
        targets = _planned(plan)
    given = _given(inputs, reader) if targets is None or plan == "auto" else []
    targets = _others(inputs, given, modalities) if targets is None else validation.targets_of(targets)
    seeds = validation.seeds_of(len(inputs) * n_samples, seed, seeds)
    for target in targets:
        if reader.find(target).spec.target is False:
            possible = [name for name, m in modalities.items() if m.spec.target]
            raise ValueError(f"{target!r} is input only and cannot be generated; targets: {', '.join(possible)}")
    shown, options = sampler.inputs, {k: v for k, v in options.items() if v is not None and v is not False}
    stages, names, remarks = list[Stage](), targets, list[str]()
    if plan == "auto":
        same = _same(given, modalities)
        possible = [n for n, m in modalities.items() if m.spec.target and n in shown and n not in same]
        names, remarks = choose_chain(given, targets, nats(), possible)
    elif plan is not None:
        stages, names = _chosen(plan, targets, options, reader=reader, modalities=modalities, inputs=shown)
    for name in names:
        reader.find(name)
    # Report mistakes in the plan before reading any input.
    for stage in [s.completed(modalities) for s in stages] or default_plan(names, modalities, **options):
        sampler.order(stage)
    read = [reader.read(sample, {*names}, dry=dry) for sample in inputs]
    several = n_samples > 1 or validation.several([sample for sample, _ in read], seeds)

    def plan_for(sample: Sample, shown_as: Mapping[str, str]) -> list[Stage]:
        if stages:
            seen = [{*sample.shown, *names[:i]} for i in range(len(stages))]
            complete = [s.completed(modalities, given, several=several) for s, given in zip(stages, seen, strict=True)]
        else:
            complete = default_plan(names, modalities, sample.shown, several=several, **options)
        validation.check_known(complete, sample, modalities)
        if several:
            validation.check_variety(complete, n_samples if n_samples > 1 else len(inputs))
        chosen, sequences = bool(stages), sampler.sequences
        return validation.guided(complete, sample, shown_as, inputs=shown, sequences=sequences, chosen=chosen)

    plans = [plan_for(sample, shown_as) for sample, shown_as in read]
    repeated = [(*both, plan) for both, plan in zip(read, plans, strict=True) for _ in range(n_samples)]
    samples, shown_names, all_plans = (list(column) for column in zip(*repeated)) if repeated else ([], [], [])
    return Prepared(targets, samples, all_plans, seeds, shown_names, remarks)


def _planned(plan: Any) -> list[str] | None:
    """The modalities that a user's plan generates, in order; None for a plan that `_chosen` refuses."""
    names = [step.target if isinstance(step, Stage) else step for step in ([plan] if isinstance(plan, Stage) else plan)]
    return list(dict.fromkeys(names)) if names and all(isinstance(name, str) for name in names) else None


def _chosen(
    plan: Any,
    targets: Sequence[str],
    options: Mapping[str, Any],
    *,
    reader: InputReader,
    modalities: Mapping[str, Modality],
    inputs: Collection[str],
) -> tuple[list[Stage], list[str]]:
    """A user's plan: its stages (none if it only names modalities), and the modalities that they generate, in order."""
    if isinstance(plan, str):
        raise ValueError(f"plan: {plan!r} is neither 'auto' nor a list of stages and names")
    steps: list[Any] = [plan] if isinstance(plan, Stage) else list(plan)
    if steps and all(isinstance(step, str) for step in steps):
        for name in steps:
            reader.find(name)
        return [], validation.chain_of(steps, targets, inputs)
    if options:
        raise ValueError(f"{', '.join(options)}: the stages of the plan say how to generate; set it there")
    stages = validation.plan_of(steps, targets, modalities, inputs)
    return stages, [stage.target for stage in stages]


def _given(inputs: Sequence[Mapping[str, Any]], reader: InputReader) -> list[str]:
    """The modalities that represent the inputs, except those given only in part."""
    if any(sample.keys() != inputs[0].keys() for sample in inputs):
        raise ValueError("the inputs give different modalities; name the targets")
    whole = {name: value for name, value in (inputs[0] if inputs else {}).items() if not _partial(value)}
    values = {name: v.value if isinstance(v, Condition) else v for name, v in whole.items()}
    return [reader.instance(name, raw=not isinstance(value, Ids)).name for name, value in values.items()]


def _partial(value: Any) -> bool:
    return isinstance(value, Condition) and value.keep is not None


def _others(inputs: Sequence[Mapping[str, Any]], given: Sequence[str], modalities: Mapping[str, Modality]) -> list[str]:
    """All modalities that can be generated and are not given in any form."""
    same = _same(given, modalities)
    targets = [name for name, m in modalities.items() if m.spec.target and name not in same]
    if not targets:
        raise ValueError(f"targets: the inputs give all that the model generates ({', '.join(inputs[0])}); omit one")
    return targets


def _same(given: Sequence[str], modalities: Mapping[str, Modality]) -> set[str]:
    """All modalities of the same data as the given ones, as pixels or tokens and at any size."""
    sources = {modalities[name].spec.source for name in given}
    return {name for name, m in modalities.items() if m.spec.source in sources}
