"""What to generate, in which order and how: a plan is a list of stages.

In: the requested targets and the modalities of the model. Out: `Stage`s, which the sampler executes one after the
other; what a stage has generated is an input of those that follow (chained generation, 4M section 3.2). Schedules say
how many tokens each step reveals, at which temperature, as in the published models (MaskGIT, arXiv 2202.04200).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, Signature
from numbers import Real
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fourm_plugins.explain import explain
from fourm_plugins.modality import Modality

Schedule = Literal["cosine", "linear"]
TemperatureSchedule = Literal["constant", "linear", "onex"]

#: Below this a draw is greedy in float32 anyway; it keeps the division finite.
MIN_TEMPERATURE = 1e-9


def tokens_per_step(schedule: Schedule, steps: int, tokens: int) -> list[int]:
    """Tokens revealed at each step; they sum to `tokens`.

    Cosine: with s_i = ½(1 + cos(π i/n)), step i takes round(N (s_i − s_{i+1})), halves to even, the last the rest;
    single steps may take none. Linear: min(n, N) steps as equal as can be, the larger ones first."""
    if schedule == "linear":
        steps = max(1, min(steps, tokens))
        return [tokens // steps + (i < tokens % steps) for i in range(steps)]
    shares = [0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps + 1)]
    counts, left = [], tokens
    for i in range(steps - 1):
        # Many steps that all round up would otherwise reveal more tokens than there are.
        counts.append(min(left, round(tokens * (shares[i] - shares[i + 1]))))
        left -= counts[-1]
    return [*counts, left]


def temperatures(
    schedule: TemperatureSchedule,
    counts: Sequence[int],
    *,
    temperature: float,
    minimum: float = 0.5,
    power: float = 0.5,
) -> list[float]:
    """Temperature of each step that reveals `counts` tokens.

    Constant: `temperature`. Linear: `temperature` times the share of tokens left before the step. Onex: the excess
    over `minimum` falls like x^−power, x_k = 1 + 99 k/(N − 1) at step k, and with the share of tokens left after the
    step. Both at least 1e-9. `minimum` and `power` matter to onex alone."""
    total, done, result = max(1, sum(counts)), 0, []
    for step, count in enumerate(counts):
        if schedule == "constant":
            result.append(temperature)
        elif schedule == "linear":
            # Of a sample that is done, while others of its batch go on, nothing is left; 0 could not be divided by.
            result.append(max(temperature * (total - done) / total, MIN_TEMPERATURE))
        else:
            x = 1 + 99 * step / max(1, total - 1)
            y = (x**-power - 100**-power) / (1 - 100**-power)
            value = minimum + (temperature - minimum) * y * (1 - (done + count) / total)
            result.append(max(value, MIN_TEMPERATURE))
        done += count
    return result


Readout = Literal["sampled", "expected"]
Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

#: Steps of a grid of which nothing given shows the layout (a picture from a sentence), and of all that is drawn.
FREE_STEPS = 8


def _weights(value: Any) -> Any:
    weights = list(value.values()) if isinstance(value, Mapping) else [value]
    schedules = [list(w) if isinstance(w, (list, tuple)) else [w] for w in weights]
    if not all(isinstance(w, Real) and math.isfinite(w) for schedule in schedules for w in schedule):
        raise ValueError(
            "a finite number, or one for each of some inputs, {name: weight}; a list of numbers is a schedule"
        )
    if not weights:
        raise ValueError("it names no condition; leave it out")
    if any(isinstance(w, (list, tuple)) and len(w) < 2 for w in weights):
        raise ValueError("a schedule of guidance has at least two numbers, for the first and the last step")
    return dict(value) if isinstance(value, Mapping) else value


#: One weight, or a weight for each named input. A weight is a number, or numbers from the first step to the last, in
#: equal parts, with straight lines between them.
Guidance = Annotated[float | list[float] | dict[str, float | list[float]], BeforeValidator(_weights)]


def scheduled(guidance: Guidance | None) -> bool:
    """Whether a weight changes over the steps."""
    return any(isinstance(w, list) for w in (guidance.values() if isinstance(guidance, dict) else [guidance]))


class Options(BaseModel):
    """What a user may say of how to generate; None leaves the choice to `default_plan`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    #: Steps of parallel decoding, of grids and vectors.
    steps: int | None = Field(default=None, ge=1, le=8192)
    #: 0 takes the likeliest token; above it, tokens are drawn.
    temperature: Temperature | None = None
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    guidance: Guidance | None = None
    #: Decoding order of grids and vectors, and its settings; see `Stage`.
    scheme: str | None = None
    order: dict[str, float] | None = None
    #: See `Stage`.
    prompt_sentinel: bool = False

    @model_validator(mode="after")
    def _effects(self) -> Options:
        _check_drawing(self.temperature, self.top_p, self.top_k)
        if self.order and self.scheme is None:
            raise ValueError(f"order={self.order} are settings of a scheme; name it, scheme='remask'")
        if self.scheme == "autoregressive":
            raise ValueError("scheme 'autoregressive' is that of sequences, which have no other; leave it out")
        if self.scheme is not None and self.steps == 1:
            raise ValueError(f"scheme {self.scheme!r} has no effect on one step; raise steps, or leave it out")
        return self

    @property
    def drawn(self) -> bool:
        """Whether randomness is requested."""
        return bool(self.temperature) or self.top_p is not None or self.top_k is not None


class Stage(BaseModel):
    """One target and how it is generated: `Stage("name", steps=8, scheme="halton")`. Without a scheme, what is not set
    is chosen as by `default_plan`.

    Guidance (arXiv 2207.12598) draws from u + Σ wᵢ (cᵢ − u). With a number w there is one c, which sees everything
    given and generated, and u sees nothing but the target's own tokens. With weights by name there is one cᵢ a named
    condition, and u and every cᵢ see what is not named. 1 is plain, and so is None where no `Condition` has a weight; 0
    is unconditional, and below it the result is led away from a condition. [0, 3] grows from 0 at the first step to 3
    at the last.

    Args:
        target: the modality to generate.
        scheme: parallel: each step keeps the most confident tokens (MaskGIT). random_order: each step predicts tokens
            drawn at random, as training does. autoregressive: sequences, left to right. halton, remask, entropy, and
            those that packages add (entry points `fourm.orders.v1`): see docs/generation.md.
        order: settings of such a scheme, {"share": 0.1}.
        steps: of a grid or vector, at most a step a token.
        schedule: how many tokens each step reveals: few at first ("cosine"), or equally many ("linear").
        temperature: 0 takes the likeliest token.
        temperature_schedule: constant; linear, falling with the tokens that are left; onex, from `temperature` to
            `temperature_min` like 1 / x to the `temperature_power`.
        temperature_min, temperature_power: of onex.
        top_p: draws from the fewest tokens that hold this probability.
        top_k: draws from the k likeliest tokens.
        guidance: a weight, or {condition: weight}; each a number, or a list of numbers, which is a schedule.
        readout: sampled: the value is decoded from the tokens. expected: it is decoded from the probability-weighted
            codes, and the tokens are those that the steps chose.
        max_tokens: a sequence ends here at the latest; None is the modality's own limit.
        prompt_sentinel: what the published models were sampled with: the encoder sees the starting sentinel of a
            sequence that is generated from nothing, and of a sequence that guidance by one number hides. Training shows
            neither.

    Raises ValueError, one line, for a setting that would have no effect beside the others."""

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
            raise ValueError(what + _one_line(error, type(self))) from None

    @model_validator(mode="after")
    def _effects(self) -> Stage:
        if self.scheme is None:  # what is open decides, too
            return self
        fields = type(self).model_fields
        changed = {
            name for name in fields if not fields[name].is_required() and getattr(self, name) != fields[name].default
        }
        if self.scheme == "autoregressive":
            only_parallel = (
                "order",
                "steps",
                "schedule",
                "temperature_schedule",
                "temperature_min",
                "temperature_power",
                "readout",
            )
            if idle := [name for name in only_parallel if name in changed]:
                raise ValueError(f"{idle[0]} does not apply to autoregressive decoding; leave it out")
        elif self.order and self.scheme in ("parallel", "random_order"):
            raise ValueError(f"scheme {self.scheme!r} has no settings; leave order={self.order} out")
        elif self.max_tokens is not None:
            raise ValueError("max_tokens applies to autoregressive decoding alone; leave it out")
        _check_drawing(self.temperature, self.top_p, self.top_k)
        if self.temperature_schedule != "constant" and self.temperature == 0:
            raise ValueError("temperature_schedule has no effect at temperature 0; leave one of them out")
        if self.temperature_schedule != "onex" and (idle := sorted(changed & {"temperature_min", "temperature_power"})):
            raise ValueError(f"{idle[0]} is for temperature_schedule='onex' alone; leave it out")
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
        """Whether every seed gives the same."""
        likeliest = self.temperature == 0 or self.top_k == 1
        return likeliest and (self.steps == 1 or self.scheme in ("parallel", "autoregressive", "halton", "entropy"))

    def completed(
        self, modalities: Mapping[str, Modality], given: Iterable[str] = (), *, several: bool = False
    ) -> Stage:
        """With what a stage without a scheme leaves open, as `default_plan` chooses it. Raises ValueError."""
        if self.scheme is not None:
            return self
        said = self.model_dump(include=self.model_fields_set - {"scheme"})
        options = {name: said[name] for name in Options.model_fields.keys() & said.keys()}
        chosen = default_plan(self.target, modalities, given, several=several, **options)[0]
        return Stage(**chosen.model_dump(exclude_defaults=True) | {"scheme": chosen.scheme} | said)


# Pydantic shows the arguments of `__init__`; people want to see the settings.
Stage.__signature__ = Signature(
    Parameter(name, Parameter.KEYWORD_ONLY if name != "target" else Parameter.POSITIONAL_OR_KEYWORD, **told)  # type: ignore[arg-type]
    for name, field in Stage.model_fields.items()
    for told in [{"annotation": field.annotation} | ({} if field.is_required() else {"default": field.get_default()})]
)


def _one_line(error: ValidationError, model: type[BaseModel]) -> str:
    whole = [f["msg"].removeprefix("Value error, ") for f in error.errors() if not f["loc"]]
    return "; ".join(whole or explain(error, model))


def _check_drawing(temperature: float | None, top_p: float | None, top_k: int | None) -> None:
    if temperature == 0 and (top_p is not None or top_k is not None):
        name = "top_p" if top_p is not None else "top_k"
        raise ValueError(f"{name} has no effect at temperature 0, which takes the likeliest token; leave one out")


def default_plan(
    targets: Sequence[str] | str,
    modalities: Mapping[str, Modality],
    given: Iterable[str] = (),
    *,
    several: bool = False,
    **options: Any,
) -> list[Stage]:
    """One stage a target, in the order given.

    A grid takes one greedy step where a grid of its own alignment group is given or already generated (a picture shows
    where things are), and a vector always; where the modality allows it, the expected code is decoded. A grid of which
    nothing shows the layout is drawn in eight steps from the nucleus, a sequence left to right. Where randomness is
    requested (a temperature above 0, top_p, top_k, or `several` samples of one input), everything is drawn. Where a
    `scheme` is, grids and vectors are drawn in eight steps or as many as `steps` says.

    `options`: fields of `Options`. `steps`, `scheme` and `order` apply to grids and vectors, with at most a step a
    token; the others, where given, apply to every stage. Raises ValueError, one line, for options that do not exist
    or have no effect."""
    try:
        chosen = Options(**options)
    except ValidationError as error:
        raise ValueError(_one_line(error, Options)) from None
    targets = [targets] if isinstance(targets, str) else list(targets)
    if unknown := [target for target in targets if target not in modalities]:
        raise ValueError(f"no modality {unknown[0]!r}; there are: {', '.join(modalities)}")
    layouts = {target: modalities[target].spec.layout for target in targets}
    parallel = {target: layout.num_tokens for target, layout in layouts.items() if layout.kind != "sequence"}
    if idle := [name for name in ("steps", "scheme") if getattr(chosen, name) is not None and not parallel]:
        raise ValueError(f"{idle[0]} has no effect on {', '.join(targets)}, decoded left to right; leave it out")
    if chosen.steps is not None and chosen.steps > max(parallel.values()):
        most = max(parallel, key=parallel.__getitem__)
        raise ValueError(f"steps {chosen.steps} are more than the {parallel[most]} tokens of {most!r}; lower them")
    drawn = several or chosen.drawn
    stages, seen = [], set(given)
    for target in targets:
        common: dict[str, Any] = {
            "target": target,
            "guidance": chosen.guidance,
            "prompt_sentinel": chosen.prompt_sentinel,
            "top_k": chosen.top_k,
        }
        if target not in parallel:
            heat = 0.7 if chosen.temperature is None else chosen.temperature
            nucleus = chosen.top_p if chosen.top_p is not None else (0.9 if heat > 0 else None)
            stages.append(Stage(scheme="autoregressive", temperature=heat, top_p=nucleus, **common))
        else:
            spec = modalities[target].spec
            shown = spec.layout.kind == "vector" or _shows_layout(target, seen, modalities)
            few = shown and not drawn and chosen.scheme is None
            n = min(chosen.steps or (1 if few else FREE_STEPS), parallel[target])
            heat = (1.0 if drawn or n > 1 else 0.0) if chosen.temperature is None else chosen.temperature
            nucleus = chosen.top_p if chosen.top_p is not None else (0.9 if n > 1 and heat > 0 else None)
            readout: Readout = "expected" if n == 1 and heat == 0 and spec.expected_decoding else "sampled"
            common |= {"scheme": chosen.scheme or "parallel", "order": chosen.order or {}, "readout": readout}
            stages.append(Stage(steps=n, temperature=heat, top_p=nucleus, **common))
        seen.add(target)
    return stages


def _shows_layout(target: str, seen: set[str], modalities: Mapping[str, Modality]) -> bool:
    group = modalities[target].spec.alignment
    others = [modalities[name].spec for name in seen if name in modalities]
    return any(spec.layout.kind == "grid" and spec.alignment == group and group is not None for spec in others)
