"""What to generate, in which order and how: a plan is a list of stages.

In: the targets a user asks for and the modalities of the model. Out: `Stage`s, which the sampler executes one after the
other; what a stage has generated is an input of those that follow (chained generation, 4M section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.generate.schedules import Schedule, TemperatureSchedule
from fourm_plugins.modality import Modality

Scheme = Literal["parallel", "random_order", "autoregressive"]
Readout = Literal["sampled", "expected"]

#: Steps of a grid of which nothing given shows the layout: a picture from a sentence.
FREE_STEPS = 8


class Stage(BaseModel):
    """One target and how it is generated.

    Guidance (arXiv 2207.12598) draws from u + Σ wᵢ (cᵢ − u). With a number w there is one c, which sees everything
    given and generated, and u sees nothing but the target's own tokens. With weights by name there is one cᵢ a named
    condition, and what is not named is seen by u and by every cᵢ. 1 (and None, where no `Condition` has a weight) is
    plain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    #: parallel: each step keeps the most confident tokens (MaskGIT). random_order: each step asks for tokens drawn at
    #: random, as training does. autoregressive: sequences, left to right.
    scheme: Scheme
    steps: int = Field(1, ge=1, le=8192)
    schedule: Schedule = "cosine"
    #: 0 takes the likeliest token.
    temperature: float = Field(0.0, ge=0, le=100)
    temperature_schedule: TemperatureSchedule = "constant"
    temperature_min: float = Field(0.5, gt=0)  # onex only
    temperature_power: float = Field(0.5, gt=0)  # onex only
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    guidance: float | dict[str, float] | None = None
    #: expected: the value is decoded from the probability-weighted codes; the tokens are those drawn.
    readout: Readout = "sampled"
    #: A sequence ends here at the latest; None is the modality's own limit.
    max_tokens: int | None = Field(None, ge=1)
    #: What the published models were sampled with: the encoder sees the starting sentinel of a sequence that is
    #: generated from nothing, and of a sequence that guidance by one number hides. Training shows neither.
    prompt_sentinel: bool = False

    @model_validator(mode="after")
    def _fits_scheme(self) -> Stage:
        if self.scheme == "autoregressive":
            for name in ("steps", "temperature_schedule", "readout"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{self.target}: {name} does not apply to autoregressive decoding; leave it out")
        elif self.max_tokens is not None:
            raise ValueError(f"{self.target}: max_tokens applies to autoregressive decoding alone; leave it out")
        return self


def default_plan(
    targets: Sequence[str],
    modalities: Mapping[str, Modality],
    given: Iterable[str] = (),
    *,
    steps: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    guidance: float | Mapping[str, float] | None = None,
    prompt_sentinel: bool = False,
) -> list[Stage]:
    """One stage a target, in the order given.

    A grid takes one greedy step where a grid of its own alignment group is given or already generated (a picture shows
    where things are), else eight sampled ones; a vector takes one. A sequence is drawn left to right from the nucleus.
    Where one step decides all and the modality allows it, the expected code is decoded. `steps` applies to grids and
    vectors; the other options, where given, apply to every stage."""
    stages, seen = [], set(given)
    for target in targets:
        spec = modalities[target].spec
        common: dict[str, Any] = {
            "target": target,
            "guidance": dict(guidance) if isinstance(guidance, Mapping) else guidance,
            "prompt_sentinel": prompt_sentinel,
            "top_k": top_k,
        }
        if spec.layout.kind == "sequence":
            drawn = 0.7 if temperature is None else temperature
            nucleus = top_p if top_p is not None else (0.9 if drawn > 0 else None)
            stages.append(Stage(scheme="autoregressive", temperature=drawn, top_p=nucleus, **common))
        else:
            n = steps or (1 if spec.layout.kind == "vector" or _shows_layout(target, seen, modalities) else FREE_STEPS)
            drawn = (0.0 if n == 1 else 1.0) if temperature is None else temperature
            nucleus = top_p if top_p is not None else (0.9 if n > 1 and drawn > 0 else None)
            readout: Readout = "expected" if n == 1 and spec.expected_decoding else "sampled"
            stages.append(
                Stage(scheme="parallel", steps=n, temperature=drawn, top_p=nucleus, readout=readout, **common)
            )
        seen.add(target)
    return stages


def _shows_layout(target: str, seen: set[str], modalities: Mapping[str, Modality]) -> bool:
    group = modalities[target].spec.alignment
    others = [modalities[name].spec for name in seen if name in modalities]
    return any(spec.layout.kind == "grid" and spec.alignment == group and group is not None for spec in others)
