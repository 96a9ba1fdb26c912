"""Validates a generation request before anything is computed.

In: a user's targets, inputs, seeds and plan, and the samples read from them. Out: the same in canonical form. A request
that is impossible, or has a part without effect, raises ValueError: one line, with the user's names.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from fourm_engine.generate.guidance import Weight, unknown_condition
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.suggest import did_you_mean

#: Maximum number of samples of one input, which are all in memory at the end.
MAX_SAMPLES = 1000


def names_of(what: str, given: str | Iterable[str]) -> list[str]:
    """A list of names, in order; a str is one name."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, (set, frozenset)) and len(given) > 1:
        raise ValueError(f"{what}: a set has no order; give a list")
    names = list(given) if isinstance(given, Iterable) else [given]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"{what}: {wrong[0]!r:.80} is not the name of a modality")
    return names


def no_such(name: str, known: Iterable[str]) -> str:
    """The message for a modality that the model does not have."""
    return f"this model has no modality {name!r}; {did_you_mean(name, known, otherwise='it has')}"


def targets_of(given: str | Iterable[str]) -> list[str]:
    """At least one target, without repetition."""
    targets = names_of("targets", given)
    if not targets:
        raise ValueError("targets: none is given; name at least one modality")
    if repeated := [target for target in targets if targets.count(target) > 1]:
        raise ValueError(f"target {repeated[0]!r} is requested twice")
    return targets


def inputs_of(given: Any) -> list[Mapping[str, Any]]:
    """The inputs of several samples."""
    if isinstance(given, Mapping):
        raise ValueError("inputs is a list of mappings, not a mapping; `generate` takes a single one")
    samples = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    for sample in samples:
        if not isinstance(sample, Mapping):
            raise ValueError(f"inputs are {{name: value}}, not {type(sample).__name__}; name the modality of the value")
        names_of("inputs", sample)
    return samples


def check_samples(n_samples: Any) -> None:
    """Raise ValueError for a number of samples per input that is not in [1, MAX_SAMPLES]."""
    if type(n_samples) is not int or not 1 <= n_samples <= MAX_SAMPLES:
        raise ValueError(f"n_samples is a number from 1 to {MAX_SAMPLES}; given: {n_samples!r:.80}")


def seeds_of(samples: int, seed: int, seeds: Iterable[int] | None) -> list[int]:
    """One seed per sample."""
    if seeds is not None and seed != 0:
        raise ValueError("seed has no effect together with seeds; leave one out")
    try:
        result = [operator.index(seed) + i for i in range(samples)] if seeds is None else [*map(operator.index, seeds)]
    except TypeError:
        raise ValueError(f"a seed is an integer; given: {seed if seeds is None else seeds!r:.80}") from None
    if len(result) != samples:
        raise ValueError(f"{counted(samples, 'sample')}, but {counted(len(result), 'seed')}; give one per sample")
    if wrong := [s for s in result if not 0 <= s < 1 << 64]:
        raise ValueError(f"seed {wrong[0]} is not in [0, 2^64)")
    return result


def chain_of(names: Sequence[str], targets: Sequence[str], inputs: Collection[str]) -> list[str]:
    """The modalities to generate, in order. `inputs`: modalities that later stages may see."""
    if absent := [target for target in targets if target not in names]:
        raise ValueError(f"target {absent[0]!r} has no stage in the plan, which generates {', '.join(names)}")
    last = max(i for i, name in enumerate(names) if name in targets)
    for i, name in enumerate(names):
        if name not in targets and (i > last or name not in inputs):
            raise ValueError(f"plan: {name!r} is neither a target nor seen by a later stage")
    return list(names)


def plan_of(
    given: Iterable[Any], targets: Sequence[str], modalities: Mapping[str, Modality], inputs: Collection[str]
) -> list[Stage]:
    """Validate a user's plan of stages and names."""
    plan = [Stage(step) if isinstance(step, str) else step for step in given]
    if wrong := [stage for stage in plan if not isinstance(stage, Stage)]:
        raise ValueError(f"plan: {wrong[0]!r:.80} is not a Stage; a plan is a list of Stages and names")
    plan = [Stage(**stage.model_dump(exclude_unset=True)) for stage in plan]  # model_copy does not validate
    chain_of([stage.target for stage in plan], targets, inputs)
    for stage in plan:
        layout = modalities[stage.target].spec.layout if stage.target in modalities else None
        if layout is None:  # reported by name, later
            continue
        for name in ("steps", "max_tokens"):
            if (value := getattr(stage, name)) is not None and value > layout.num_tokens:
                raise ValueError(
                    f"stage of {stage.target!r}: {name} {value} is more than its {layout.num_tokens} tokens; lower it"
                )
    return plan


def several(samples: Sequence[Sample], seeds: Sequence[int]) -> bool:
    """Whether several samples of each input are requested: each occurs more than once, with different seeds."""
    drawn: dict[bytes, set[int]] = {}
    for sample, seed in zip(samples, seeds, strict=True):
        drawn.setdefault(_digest(sample), set()).add(seed)
    return bool(drawn) and all(len(different) > 1 for different in drawn.values())


def check_variety(plan: Sequence[Stage], count: int) -> None:
    """Raise ValueError for several samples of one input if the plan is deterministic."""
    if all(stage.deterministic for stage in plan):
        raise ValueError(
            f"{counted(count, 'sample')} of one input with a plan that draws nothing (temperature 0, top_k 1) are all "
            "the same; request one, or raise temperature"
        )


def check_known(plan: Sequence[Stage], sample: Sample, modalities: Mapping[str, Modality]) -> None:
    """Raise ValueError if a partly given target has nothing known, or nothing left to generate."""
    limits = {stage.target: stage.max_tokens for stage in plan}
    for name, part in sample.known.items():
        layout = modalities[name].spec.layout
        limit = min(limits.get(name) or layout.num_tokens, layout.num_tokens)
        if len(part) == 0:
            raise ValueError(f"{name!r}: nothing of it is given; leave it out of the inputs")
        if len(part) >= limit:
            raise ValueError(f"{name!r}: {len(part)} of at most {limit} tokens are given, none is left to generate")


def guided(
    plan: Sequence[Stage],
    sample: Sample,
    shown_as: Mapping[str, str],
    *,
    inputs: Collection[str],
    sequences: Collection[str],
    chosen: bool,
) -> list[Stage]:
    """The plan with guidance weights under the names that the sampler uses.

    `shown_as`: the user's name of an input -> the modality that represents it. `inputs`: modalities that the encoder
    may see. `chosen`: whether the user wrote the plan; otherwise options apply to all stages and must affect at least
    one."""
    given = {instance: name for name, instance in shown_as.items()}
    seen = {instance for instance in given if instance in inputs}
    named = {name for stage in plan if isinstance(stage.guidance, dict) for name in stage.guidance}
    used: set[str] = set()
    has_effect, needs_sentinel = False, False
    result = []
    for stage in plan:
        conditions, weights = seen - {stage.target}, stage.guidance
        _check_given_once(weights, sample, shown_as, given)
        if isinstance(weights, dict):
            names = [name for name in weights if shown_as.get(name, name) in conditions]
            if chosen and (unknown := [name for name in weights if name not in names]):
                raise unknown_condition(unknown[0], stage.target, [given.get(c, c) for c in conditions])
            used.update(names)
            weights = _by_instance({name: weights[name] for name in names}, shown_as, given) or None
        elif weights is not None and (conditions or weights == 1):
            has_effect = True
        elif weights is not None and chosen:
            _refuse_guidance(repr(stage.target))
        else:
            weights = None
        hides = isinstance(weights, (float, list)) and weights != 1 and bool(conditions & set(sequences))
        sentinel = hides or stage.target in sequences
        needs_sentinel |= sentinel
        if chosen and stage.prompt_sentinel and not sentinel:
            _refuse_sentinel(stage.target)
        result.append(stage.model_copy(update={"guidance": weights}))
        if stage.target in inputs:
            seen.add(stage.target)
    if unused := sorted(named - used):
        everything = {given.get(name, name) for name in seen}
        raise unknown_condition(unused[0], ", ".join(stage.target for stage in plan), everything)
    if any(isinstance(stage.guidance, (float, list)) for stage in plan) and not has_effect:
        _refuse_guidance(", ".join(repr(stage.target) for stage in plan))
    if any(stage.prompt_sentinel for stage in plan) and not needs_sentinel:
        _refuse_sentinel(", ".join(stage.target for stage in plan))
    return result


def _check_given_once(weights: Any, sample: Sample, shown_as: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raise ValueError if an input carries a weight and the plan gives one, too."""
    carriers = {*sample.weights, *(region.name for region in sample.regions.values())}
    named = {shown_as.get(name, name) for name in weights} if isinstance(weights, dict) else carriers
    if weights is not None and carriers & named:
        listed = ", ".join(sorted(given[name] for name in carriers))
        raise ValueError(f"guidance is given both with {listed} and in the plan; drop one")


def _by_instance(
    weights: Mapping[str, Weight], shown_as: Mapping[str, str], given: Mapping[str, str]
) -> dict[str, Weight]:
    """Weights by the modalities that represent the named inputs. Raises ValueError if two names have the same."""
    result = dict[str, Weight]()
    for name, weight in weights.items():
        instance = shown_as.get(name, name)
        if instance in result:
            raise ValueError(f"guidance names {given.get(instance, instance)!r} twice, as {name!r}; drop one")
        result[instance] = weight
    return result


def _refuse_guidance(target: str) -> NoReturn:
    raise ValueError(f"guidance has no effect on {target}: nothing else is given; leave it out")


def _refuse_sentinel(target: str) -> NoReturn:
    raise ValueError(
        f"prompt_sentinel has no effect on {target}: it is for sequences that are generated, or hidden by a single "
        f"guidance weight; leave it out"
    )


def _digest(sample: Sample) -> bytes:
    """A digest that is equal for samples with equal inputs."""
    regions = {key: (region.pos.tolist(), region.weight) for key, region in sample.regions.items()}
    digest = hashlib.sha256(repr((sorted(sample.weights.items()), sorted(regions.items()))).encode())
    for kind, parts in (("shown", sample.shown), ("known", sample.known)):
        for name, part in sorted(parts.items()):
            digest.update(f"{kind} {name} {len(part)}".encode())
            for array in (part.pos, part.ids, part.features):
                digest.update(b"" if array is None else array.tobytes())
    return digest.digest()
