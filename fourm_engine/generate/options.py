"""Options of generation, and guidance weights.

In: settings from Python or a config. Out: `Options`, which `default_plan` turns into stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fourm_plugins.explain import explain

Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
#: Maximum absolute guidance weight; logits scaled by more select the same tokens.
MAX_WEIGHT = 10_000


def is_weight(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(abs(value) <= MAX_WEIGHT)  # type: ignore[operator]


def _weights(value: Any) -> Any:
    weights = list(value.values()) if isinstance(value, Mapping) else [value]
    schedules = [list(w) if isinstance(w, (list, tuple)) else [w] for w in weights]
    if not all(is_weight(w) for schedule in schedules for w in schedule):
        most = f"at most {MAX_WEIGHT:,}"
        raise ValueError(
            f"a finite number, or one per input, {{name: weight}}, {most}; a list of numbers is a schedule"
        )
    if not weights:
        raise ValueError("it names no condition; leave it out")
    if any(isinstance(w, (list, tuple)) and len(w) < 2 for w in weights):
        raise ValueError("a schedule of guidance has at least two numbers, for the first and the last step")
    return dict(value) if isinstance(value, Mapping) else value


#: One weight, or a weight per named input. A weight is a number, or a list of numbers, spaced evenly from the first
#: step to the last and interpolated linearly.
Guidance = Annotated[float | list[float] | dict[str, float | list[float]], BeforeValidator(_weights)]


def scheduled(guidance: Guidance | None) -> bool:
    """Whether any weight is a schedule over the steps."""
    return any(isinstance(w, list) for w in (guidance.values() if isinstance(guidance, dict) else [guidance]))


class Options(BaseModel):
    """A user's options for generation; None leaves the choice to `default_plan`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    #: Steps of parallel decoding, for grids and vectors.
    steps: int | None = Field(default=None, ge=1, le=8192)
    #: 0 takes the most likely token; above 0, tokens are sampled.
    temperature: Temperature | None = None
    #: Sample from the most likely tokens whose probabilities sum to this.
    top_p: float | None = Field(default=None, gt=0, le=1)
    #: Sample from this many of the most likely tokens.
    top_k: int | None = Field(default=None, ge=1)
    #: Classifier-free guidance: a weight, {input: weight}, or a list of weights over the steps.
    guidance: Guidance | None = None
    #: Decoding order of grids and vectors, and its settings.
    scheme: str | None = None
    order: dict[str, float] | None = None
    #: Show the encoder a sentinel in place of a hidden sequence, as the published code does.
    prompt_sentinel: bool = False

    @model_validator(mode="after")
    def _effects(self) -> Options:
        check_drawing(self.temperature, self.top_p, self.top_k)
        if self.order and self.scheme is None:
            raise ValueError(f"order={self.order} sets a scheme; name the scheme, such as scheme='remask'")
        if self.scheme == "autoregressive":
            raise ValueError("scheme 'autoregressive' is the only one for sequences, and only for them; leave it out")
        if self.scheme is not None and self.steps == 1:
            raise ValueError(f"scheme {self.scheme!r} has no effect on one step; raise steps, or leave it out")
        return self

    @property
    def drawn(self) -> bool:
        """Whether the options request sampling."""
        return bool(self.temperature) or self.top_p is not None or self.top_k is not None


def faults(error: ValidationError, model: type[BaseModel]) -> str:
    whole = [f["msg"].removeprefix("Value error, ") for f in error.errors() if not f["loc"]]
    return "; ".join(whole or explain(error, model))


def check_drawing(temperature: float | None, top_p: float | None, top_k: int | None) -> None:
    if temperature == 0 and (top_p is not None or top_k is not None):
        name = "top_p" if top_p is not None else "top_k"
        raise ValueError(f"{name} has no effect at temperature 0, which takes the likeliest token; leave one out")
