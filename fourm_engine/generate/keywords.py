"""The keyword options of `FourM.generate` and of what passes them on, declared once.

In: a function that takes `**options: Unpack[GenerateOptions]`, which type checkers read. Out: the same function, with
each option in its signature and docstring, as `help`, `inspect.signature` and completion show them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any, TypedDict, TypeVar, get_type_hints

from fourm_engine.generate.combine import Reduce, Scorer
from fourm_engine.generate.guidance import Guide
from fourm_engine.generate.options import Guidance
from fourm_engine.generate.plan import Stage

F = TypeVar("F", bound=Callable[..., Any])


class SamplingOptions(TypedDict, total=False):
    """seed: random seed; sample i of several has seed + i.
    n_samples: number of samples to draw from one encoding of the inputs; see `Results.samples`.
    reduce: "mean", "median" or "vote" over the samples, or {target: one of them}; the result has a `spread`.
    best: a function that scores the `Results` of a sample; the sample with the highest score is returned.
    explain: print what would run, without running it; see `Results.explanation`."""

    seed: int
    n_samples: int
    reduce: Reduce | None
    best: Scorer | None
    explain: bool


class DecodingOptions(TypedDict, total=False):
    """plan: names or `Stage`s to generate in order, including modalities beyond `targets`; or "auto", which picks them
        from the run's any-to-any matrix. Stages replace the options from `steps` on.
    batch_size: number of samples that run at once.
    guide: a weaker version of the model to guide away from, `fm.Guide(model, weight)`.
    steps: decoding steps of grids and vectors.
    temperature: 0 takes the most likely tokens; above 0, tokens are sampled.
    top_p, top_k: sample from the fewest tokens with this total probability; from the k most likely.
    guidance: a weight for all conditions, or {name: weight}; each a number, or a list as a schedule over steps.
    scheme: decoding order of grids and vectors: "halton", "entropy", ...; see `Stage`.
    order: settings of the scheme, such as {"share": 0.1}.
    prompt_sentinel: sample like the published code; see `Stage`."""

    plan: Sequence[Stage | str] | Stage | str | None
    batch_size: int
    guide: Guide | None
    steps: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    guidance: Guidance | None
    scheme: str | None
    order: dict[str, float] | None
    prompt_sentinel: bool


class GenerateOptions(SamplingOptions, DecodingOptions, total=False):
    """All options of `FourM.generate`."""


#: The options that are not None by default.
_DEFAULTS = {"seed": 0, "n_samples": 1, "explain": False, "batch_size": 16, "prompt_sentinel": False}
DEFAULTS: dict[str, Any] = dict.fromkeys(GenerateOptions.__annotations__) | _DEFAULTS


def shows_options(*kinds: type) -> Callable[[F], F]:
    """Decorates a function that takes the options of `kinds` as `**options`: its signature lists them instead, and its
    docstring ends with what they mean."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        *named, rest = signature.parameters.values()
        assert rest.kind is Parameter.VAR_KEYWORD
        lines = [inspect.getdoc(function) or "", "", "Options:"]
        for kind in kinds:
            for name, annotation in get_type_hints(kind).items():
                named.append(Parameter(name, Parameter.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation))
            lines += [f"    {line}" for line in inspect.cleandoc(kind.__doc__ or "").splitlines()]
        function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
        function.__doc__ = "\n".join(lines)
        return function

    return decorate
