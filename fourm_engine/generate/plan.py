"""Plans: what to generate, in which order, and how.

In: the requested targets and the model's modalities. Out: `Stage`s, which the sampler runs in order; the result of each
stage is an input of those after it (chained generation, 4M section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fourm_engine.generate.options import Guidance, Options, Temperature, check_drawing, faults, scheduled
from fourm_engine.generate.schedules import Schedule, TemperatureSchedule
from fourm_plugins.modality import Modality

Readout = Literal["sampled", "expected"]

#: Steps for a grid whose layout no input determines (a picture from a sentence), and for all sampling.
FREE_STEPS = 8
#: Settings of a `Stage` that have no effect on a sequence.
_ONLY_PARALLEL = (
    "order",
    "steps",
    "schedule",
    "temperature_schedule",
    "temperature_min",
    "temperature_power",
    "readout",
)


class Stage(BaseModel):
    """One target and how to generate it: `Stage("name", steps=8, scheme="halton")`. Without a scheme, unset fields are
    chosen as by `default_plan`.

    Guidance (arXiv 2207.12598) samples from u + Σ wᵢ (cᵢ − u). With a single weight there is one c, which sees
    everything given and generated, while u sees only the target's known tokens. With weights by name there is one cᵢ
    per named condition, and u and all cᵢ also see the conditions that are not named. A weight of 1 is plain generation,
    as is None unless a `Condition` has a weight; 0 is unconditional; a negative weight steers away from the condition.
    [0, 3] grows from 0 at the first step to 3 at the last.

    Args:
        target: the modality to generate.
        scheme: parallel: each step keeps the most confident tokens (MaskGIT). random_order: each step predicts randomly
            chosen tokens, as in training. autoregressive: sequences, left to right. halton, remask, entropy, and orders
            of packages (entry points `fourm.orders.v1`): see docs/generation.md.
        order: settings of the scheme, such as {"share": 0.1}.
        steps: decoding steps of a grid or vector, from 1 to one per token.
        schedule: how many tokens each step reveals: few at first ("cosine") or equally many ("linear").
        temperature: from 0, which takes the most likely token, to 100.
        temperature_schedule: constant; linear, falling with the number of tokens left; onex, from `temperature` to
            `temperature_min` like 1 / x to the `temperature_power`.
        temperature_min, temperature_power: settings of onex.
        top_p: sample from the fewest tokens with this total probability, above 0 and at most 1.
        top_k: sample from the k most likely tokens, at least 1.
        guidance: a weight, or {condition: weight}; each a number, or a list of numbers as a schedule.
        readout: sampled: decode the value from the tokens. expected: decode it from the probability-weighted codes; the
            tokens are still those chosen by the steps.
        max_tokens: maximum length of a sequence; None: the modality's maximum.
        prompt_sentinel: sample like the published code: the encoder sees the start sentinel of a sequence that is
            generated from nothing, and of one that a single guidance weight hides. Neither occurs in training.

    Raises ValueError, one line, for a setting that has no effect."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    target: str
    scheme: str | None = None
    order: dict[str, float] = {}
    steps: int = Field(1, ge=1, le=8192)
    schedule: Schedule = "cosine"
    temperature: Temperature = 0.0
    temperature_schedule: TemperatureSchedule = "constant"
    temperature_min: float = Field(0.5, gt=0, allow_inf_nan=False)
    temperature_power: float = Field(0.5, gt=0, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    guidance: Guidance | None = None
    readout: Readout = "sampled"
    max_tokens: int | None = Field(None, ge=1)
    prompt_sentinel: bool = False

    def __init__(self, target: Any = None, /, **data: Any) -> None:
        data = data if target is None else {"target": target, **data}
        try:
            super().__init__(**data)
        except ValidationError as error:
            what = f"stage of {data['target']!r}: " if "target" in data else "stage: "
            raise ValueError(what + faults(error, type(self))) from None

    @model_validator(mode="after")
    def _effects(self) -> Stage:
        if self.scheme is None:  # unset fields may still take effect
            return self
        fields = type(self).model_fields
        changed = {
            name for name in fields if not fields[name].is_required() and getattr(self, name) != fields[name].default
        }
        if self.scheme == "autoregressive":
            if idle := [name for name in _ONLY_PARALLEL if name in changed]:
                raise ValueError(f"{idle[0]} does not apply to autoregressive decoding; leave it out")
        elif self.order and self.scheme in ("parallel", "random_order"):
            raise ValueError(f"scheme {self.scheme!r} has no settings; leave order={self.order} out")
        elif self.max_tokens is not None:
            raise ValueError("max_tokens applies to autoregressive decoding only; leave it out")
        check_drawing(self.temperature, self.top_p, self.top_k)
        if self.temperature_schedule != "constant" and self.temperature == 0:
            raise ValueError("temperature_schedule has no effect at temperature 0; leave one of them out")
        if self.temperature_schedule != "onex" and (idle := sorted(changed & {"temperature_min", "temperature_power"})):
            raise ValueError(f"{idle[0]} applies to temperature_schedule='onex' only; leave it out")
        if self.scheme != "autoregressive" and self.steps == 1 and scheduled(self.guidance):
            raise ValueError("a schedule of guidance has no effect on one step; raise steps, or give one number")
        if self.steps == 1 and self.schedule != "cosine":
            raise ValueError("schedule has no effect on one step; raise steps, or leave it out")
        if self.steps == 1 and self.temperature_schedule == "linear":
            raise ValueError("temperature_schedule='linear' has no effect on one step; raise steps, or leave it out")
        if self.steps == 1 and self.readout == "expected" and self.temperature > 0:
            raise ValueError(
                "the expected code of one step is decoded from probabilities, which temperature does not change; "
                "leave temperature out, or say readout='sampled'"
            )
        return self

    def __repr__(self) -> str:
        settings = self.model_dump(exclude_defaults=True)
        return f"Stage({', '.join([repr(settings.pop('target')), *(f'{k}={v!r}' for k, v in settings.items())])})"

    @property
    def deterministic(self) -> bool:
        """Whether every seed gives the same result."""
        likeliest = self.temperature == 0 or self.top_k == 1
        return likeliest and (self.steps == 1 or self.scheme in ("parallel", "autoregressive", "halton", "entropy"))

    def completed(
        self, modalities: Mapping[str, Modality], given: Iterable[str] = (), *, several: bool = False
    ) -> Stage:
        """This stage; if it has no scheme, with unset fields chosen as by `default_plan`. Raises ValueError."""
        if self.scheme is not None:
            return self
        settings = self.model_dump(include=self.model_fields_set - {"scheme"})
        options = {name: settings[name] for name in Options.model_fields.keys() & settings.keys()}
        chosen = default_plan(self.target, modalities, given, several=several, **options)[0]
        return Stage(**chosen.model_dump(exclude_defaults=True) | {"scheme": chosen.scheme} | settings)


# Pydantic would show the arguments of `__init__` rather than the fields.
Stage.__signature__ = Signature(
    [
        Parameter(
            name,
            Parameter.POSITIONAL_OR_KEYWORD if name == "target" else Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.is_required() else field.get_default(),
            annotation=field.annotation,
        )
        for name, field in Stage.model_fields.items()
    ]
)


def default_plan(
    targets: Sequence[str] | str,
    modalities: Mapping[str, Modality],
    given: Iterable[str] = (),
    *,
    several: bool = False,
    **options: Any,
) -> list[Stage]:
    """One stage per target, in the order given.

    A vector takes one greedy step, and so does a grid if another grid of its alignment group is given or generated
    before it (a picture determines where things are); where the modality allows it, the expected code is decoded. Any
    other grid is sampled in eight steps with nucleus sampling. A sequence is decoded left to right: greedily if it has
    one answer (`Modality.one_answer`) and a grid of its alignment group is given or generated before it, otherwise
    sampled at a temperature of 0.7. If sampling is requested (a temperature above 0, top_p, top_k, or `several` samples
    of one input), every stage samples. With a `scheme`, grids and vectors are sampled in eight steps, or in `steps`.

    `options`: fields of `Options`. `steps`, `scheme` and `order` apply to grids and vectors, with at most one step per
    token; the others apply to every stage. Raises ValueError, one line, for options that do not exist or have no
    effect."""
    try:
        chosen = Options(**options)
    except ValidationError as error:
        raise ValueError(faults(error, Options)) from None
    targets = [targets] if isinstance(targets, str) else list(targets)
    if unknown := [target for target in targets if target not in modalities]:
        raise ValueError(f"no modality {unknown[0]!r}; available: {', '.join(modalities)}")
    layouts = {target: modalities[target].spec.layout for target in targets}
    parallel = {target: layout.num_tokens for target, layout in layouts.items() if layout.kind != "sequence"}
    if idle := [name for name in ("steps", "scheme") if getattr(chosen, name) is not None and not parallel]:
        raise ValueError(f"{idle[0]} has no effect on {', '.join(targets)}, decoded left to right; leave it out")
    if chosen.steps is not None and chosen.steps > max(parallel.values()):
        most = max(parallel, key=parallel.__getitem__)
        raise ValueError(f"steps {chosen.steps} are more than the {parallel[most]} tokens of {most!r}; lower them")
    drawn, seen = several or chosen.drawn, [*given]
    return [
        _default_stage(target, modalities, chosen, drawn, _shows_layout(target, [*seen, *targets[:i]], modalities))
        for i, target in enumerate(targets)
    ]


def _default_stage(
    target: str, modalities: Mapping[str, Modality], options: Options, drawn: bool, shown: bool
) -> Stage:
    """`drawn`: whether to sample. `shown`: whether an earlier grid determines the layout of the target."""
    modality, spec = modalities[target], modalities[target].spec
    common = options.model_dump(include={"guidance", "prompt_sentinel", "top_k"})
    if spec.layout.kind == "sequence":
        certain = modality.one_answer and not drawn and shown
        temperature = (0.0 if certain else 0.7) if options.temperature is None else options.temperature
        top_p = options.top_p if options.top_p is not None or temperature == 0 else 0.9
        return Stage(target, scheme="autoregressive", temperature=temperature, top_p=top_p, **common)
    few = (spec.layout.kind == "vector" or shown) and not drawn and options.scheme is None
    steps = min(options.steps or (1 if few else FREE_STEPS), spec.layout.num_tokens)
    temperature = (1.0 if drawn or steps > 1 else 0.0) if options.temperature is None else options.temperature
    top_p = options.top_p if options.top_p is not None or steps == 1 or temperature == 0 else 0.9
    readout: Readout = "expected" if steps == 1 and temperature == 0 and spec.expected_decoding else "sampled"
    common |= {"scheme": options.scheme or "parallel", "order": options.order or {}, "readout": readout}
    return Stage(target, steps=steps, temperature=temperature, top_p=top_p, **common)


def _shows_layout(target: str, seen: Iterable[str], modalities: Mapping[str, Modality]) -> bool:
    group = modalities[target].spec.alignment
    others = [modalities[name].spec for name in seen if name in modalities]
    return any(spec.layout.kind == "grid" and spec.alignment == group and group is not None for spec in others)
