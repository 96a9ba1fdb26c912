"""Checked calls of plugin methods. An error or an invalid result is reported in one line that names the method, the
modality, the package, and the expected and actual result.

Otherwise a faulty plugin could train the model on garbage, write it to files, or abort a run in the middle of a step.
Every function raises PluginError for a fault of the plugin, and passes on `MemoryError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from fourm_plugins.arrays import misfit, shape_misfit
from fourm_plugins.counting import counted
from fourm_plugins.discovery import PluginError, discover
from fourm_plugins.errors import SampleError, one_line
from fourm_plugins.inputs import describe, is_picture
from fourm_plugins.legend import Key, Legend, Scale
from fourm_plugins.modality import Labeller, Metric, Modality
from fourm_plugins.reductions import How
from fourm_plugins.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Owner = Modality[Any] | Tokenizer
T = TypeVar("T")
#: Shapes and dtypes of values that `normalise` has accepted.
_right: WeakKeyDictionary[Modality[Any], set[Any]] = WeakKeyDictionary()


# The tokenizer


def encode(tokenizer: Tokenizer, arrays: Sequence[Any]) -> list[np.ndarray]:
    """`tokenizer.encode(arrays)`: int64 (tokens,) for each array. Passes SampleError on."""

    def wrong(ids: Any) -> str:
        return _count_misfit(ids, len(arrays), "array") or next(filter(None, map(row_misfit, ids)), "")

    def row_misfit(row: Any) -> str:
        if not isinstance(row, np.ndarray) or row.ndim != 1 or row.dtype != np.int64:
            return f"{describe(row)}, not int64 (tokens,)"
        if layout.kind != "sequence" and len(row) != layout.num_tokens:
            return f"{counted(len(row), 'id')} a sample, not {layout.num_tokens}"
        if len(row) and not 0 <= int(row.min()) <= int(row.max()) < size:
            return f"ids {row.min()} to {row.max()}, outside its space of {size}"
        return ""

    layout, size = tokenizer.spec.layout, tokenizer.size
    return call(tokenizer, "encode", partial(tokenizer.encode, arrays), wrong, passes=(SampleError,))


def decode(tokenizer: Tokenizer, ids: Sequence[np.ndarray]) -> list[Any]:
    """`tokenizer.decode(ids)`: an array for each, matching the spec."""
    return call(tokenizer, "decode", partial(tokenizer.decode, ids), _decoded(tokenizer, len(ids)))


def decode_expected(tokenizer: Tokenizer, probabilities: Float[np.ndarray, "B tokens size"]) -> list[Any]:
    """`tokenizer.decode_expected(probabilities)`: an array for each, matching the spec."""
    right = _decoded(tokenizer, len(probabilities))
    return call(tokenizer, "decode_expected", partial(tokenizer.decode_expected, probabilities), right)


def code_vectors(tokenizer: Tokenizer) -> Float[np.ndarray, "size d"] | None:
    """`tokenizer.code_vectors()`: float32 (size, d), finite, or None."""

    def wrong(vectors: Any) -> str:
        if vectors is None:
            return ""
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype != np.float32:
            return f"{describe(vectors)}, not float32 ({tokenizer.size}, d)"
        if len(vectors) != tokenizer.size:
            return f"{counted(len(vectors), 'vector')} for {counted(tokenizer.size, 'id')}"
        return "" if np.isfinite(vectors).all() else "numbers that are not finite"

    return call(tokenizer, "code_vectors", tokenizer.code_vectors, wrong)


def _decoded(tokenizer: Tokenizer, number: int) -> Callable[[Any], str]:
    def wrong(arrays: Any) -> str:
        def unfit(array: Any) -> str:
            what = misfit(tokenizer.spec, array, decoded=True)
            return f"no array of its spec: {what}" if what else ""

        return _count_misfit(arrays, number, "row") or next(filter(None, map(unfit, arrays)), "")

    return wrong


# Arrays to values


def denormalise(modality: Modality[Any], array: Any) -> Any:
    return call(modality, "denormalise", partial(modality.denormalise, array), _is_value(modality, array))


def denormalise_scored(modality: Modality[Any], array: str, tokens: Sequence[tuple[str, float]]) -> Any:
    scored = partial(modality.denormalise_scored, array, tokens)
    return call(modality, "denormalise_scored", scored, _is_value(modality))


def compose(modality: Modality[Any], given: Any, generated: Any, kept: Bool[np.ndarray, "H W"]) -> Any:
    composed = partial(modality.compose, given, generated, kept)
    return call(modality, "compose", composed, _is_value(modality), passes=(SampleError,))


def reduce(modality: Modality[Any], values: Sequence[Any], how: How) -> Any:
    return call(modality, "reduce", partial(modality.reduce, values, how), _is_value(modality))


def spread(modality: Modality[Any], values: Sequence[Any]) -> Any:
    """`modality.spread(values)`: a map of numbers, a mapping of name to number, or a single number."""

    def wrong(answer: Any) -> str:
        parts = answer.values() if isinstance(answer, Mapping) else [answer]
        numbers = all(not isinstance(part, (str, bytes)) and np.asarray(part).dtype.kind in "fiub" for part in parts)
        return "" if numbers else f"{describe(answer)}, not numbers"

    return call(modality, "spread", partial(modality.spread, values), wrong)


def constants(modality: Modality[Any], values: Sequence[Any]) -> dict[str, Any]:
    def wrong(answer: Any) -> str:
        if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
            return f"{describe(answer)}, not {{description: value}}"
        unfit = ((name, _is_value(modality)(value)) for name, value in answer.items())
        return next((f"for {name!r} {what}" for name, what in unfit if what), "")

    return call(modality, "constants", partial(modality.constants, values), wrong)


def _is_value(modality: Modality[Any], like: Any = None) -> Callable[[Any], str]:
    """Check a value. Only the plugin knows what its values are, so the check is that `normalise` turns it into an array
    with the shape and dtype of `like` or of the spec. Once a float array was accepted, others of its shape and dtype
    pass unchecked, since `normalise` may take as long as the check it guards; integers may be ids, any of which can be
    invalid."""

    def wrong(value: Any) -> str:
        if value is None:
            return "None, not a value"
        floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        kind = (value.shape, value.dtype, getattr(like, "shape", None)) if floats else None
        if kind and kind in _right.get(modality, ()):
            return ""
        try:
            array = modality.normalise(value)
        except SampleError:  # such as a map without any known value
            return ""
        except MemoryError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
            return f"{describe(value)}, which normalise does not take ({why})"
        match array, like:
            case np.ndarray(), np.ndarray() if (array.shape, array.dtype) == (like.shape, like.dtype):
                unfit = ""  # possibly larger than the spec's
            case _:
                unfit = shape_misfit(modality.spec, array)
        if unfit:
            return f"{describe(value)}, of which normalise makes no array of its spec: {unfit}"
        if kind:
            _right.setdefault(modality, set()).add(kind)
        return ""

    return wrong


# Rendering


def render(modality: Modality[Any], value: Any) -> Any:
    return call(modality, "render", partial(modality.render, value), _rendered_misfit)


def render_all(modality: Modality[Any], values: Sequence[Any]) -> list[Any]:
    def wrong(answer: Any) -> str:
        return _count_misfit(answer, len(values), "value") or next(filter(None, map(_rendered_misfit, answer)), "")

    return call(modality, "render_all", partial(modality.render_all, values), wrong)


def legend(modality: Modality[Any], value: Any) -> Legend | None:
    return call(
        modality, "legend", partial(modality.legend, value), _one_of("a Scale, a Key or None", Scale, Key, None)
    )


def remark(modality: Modality[Any], value: Any) -> str:
    return call(modality, "remark", partial(modality.remark, value), _one_of("a str", str))


def _rendered_misfit(answer: Any) -> str:
    if isinstance(answer, str) or (is_picture(answer) and answer.mode == "RGB" and min(answer.size) > 0):
        return ""
    return f"{describe(answer)}, neither a PIL picture of mode RGB nor a str"


# Files, parts, labels


def write(modality: Modality[Any], value: Any) -> dict[str, bytes]:
    """`modality.write(value)`: bytes of files with the spec's extensions, at least one."""
    known = modality.spec.extensions

    def wrong(files: Any) -> str:
        if not isinstance(files, Mapping) or not files:
            return f"{describe(files)}, not {{extension: bytes}}"
        if stray := [name for name in files if name not in known]:
            return f"a file {stray[0]!r:.60}; the spec's extensions are {', '.join(known)}"
        unfit = [(name, content) for name, content in files.items() if not isinstance(content, bytes)]
        return f"{describe(unfit[0][1])} as .{unfit[0][0]}, not bytes" if unfit else ""

    return call(modality, "write", partial(modality.write, value), wrong)


def parts(modality: Modality[Any], value: Any) -> Mapping[str, float]:
    def wrong(answer: Any) -> str:
        named = isinstance(answer, Mapping) and all(isinstance(name, str) for name in answer)
        right = named and not any(map(_number_misfit, answer.values()))
        return "" if right else f"{describe(answer)}, not {{str: float}}"

    return call(modality, "parts", partial(modality.parts, value), wrong)


def with_part(modality: Modality[Any], value: Any, part: str, number: float) -> Any:
    changed = partial(modality.with_part, value, part, number)
    return call(modality, "with_part", changed, _is_value(modality), passes=(SampleError,))


def label(labeller: Labeller, modality: Modality[Any], values: Sequence[Any]) -> list[Any]:
    """For each value its label, or the SampleError that says why there is none. Passes on ValueError and OSError, such
    as those of a model that cannot be loaded."""

    def wrong(labels: Any) -> str:
        if what := _count_misfit(labels, len(values), "value"):
            return what
        return "None, neither a value nor a SampleError" if any(x is None for x in labels) else ""

    return call(modality, "label", partial(labeller.label, values), wrong, passes=(ValueError, OSError))


# Metrics


def metrics(modality: Modality[Any]) -> tuple[Metric, ...]:
    def wrong(answer: Any) -> str:
        right = isinstance(answer, (tuple, list)) and all(isinstance(metric, Metric) for metric in answer)
        return "" if right else f"{describe(answer)}, not a tuple of Metric"

    return tuple(call(modality, "metrics", modality.metrics, wrong))


def compute(modality: Modality[Any], metric: Metric, predictions: Sequence[Any], truths: Sequence[Any]) -> float:
    """The score, which may be NaN. Passes on ValueError: the metric is undefined for these values."""
    computed = partial(metric.compute, predictions, truths)
    return float(call(modality, f"the metric {metric.name!r}", computed, _number_misfit, passes=(ValueError,)))


def features(
    modality: Modality[Any], function: Callable[[Sequence[Any]], np.ndarray], values: Sequence[Any]
) -> Float[np.ndarray, "n D"]:
    """The features that the function of `contrastive` computes of values."""

    def wrong(answer: Any) -> str:
        right = isinstance(answer, np.ndarray) and answer.ndim == 2 and answer.dtype.kind == "f"
        if not right or len(answer) != len(values):
            return f"{describe(answer)}, not float32 ({len(values)}, D)"
        return "" if np.isfinite(answer).all() else "NaN or infinite features"

    return call(modality, "contrastive", partial(function, values), wrong)


def _number_misfit(answer: Any) -> str:
    if not isinstance(answer, (str, bytes)) and getattr(answer, "ndim", 0) == 0:
        try:
            float(answer)
        except (TypeError, ValueError):
            return f"{describe(answer)}, not a number"
        return ""
    return f"{describe(answer)}, not a number"


# How calls are made


def call(
    owner: Owner,
    hook: str,
    code: Callable[[], T],
    wrong: Callable[[Any], str],
    *,
    passes: tuple[type[Exception], ...] = (),
) -> T:
    """Return the result of `code` unless `wrong` finds a fault in it; `passes` are errors that `hook` may raise."""
    try:
        answer = code()
    except (MemoryError, PluginError):
        raise
    except Exception as error:
        if isinstance(error, passes):
            raise
        if isinstance(error, RuntimeError) and "memory" in str(error):  # of a device, which has another remedy
            raise
        if type(owner).__module__.startswith("fourm_engine."):  # a bug: its traceback is wanted
            raise
        raise fault(owner, hook, error) from error
    if what := wrong(answer):
        raise fault(owner, hook, what)
    return answer


def fault(owner: Owner, hook: str, what: BaseException | str, where: str = "") -> PluginError:
    """The error for a `hook` of `owner` that raised `what`, or whose result is described by it; `where`: the file
    concerned."""
    named = f"{where}: {hook}" if where else hook
    if isinstance(owner, Modality):
        origin = f"{named} of {owner.name} ({provider(type(owner))})"
        remedy = f"repair or upgrade its package, or leave {owner.name} out"
    else:
        origin = f"{named} of {owner.spec.name} (tokenizer {owner.kind!r}, {provider(type(owner))})"
        remedy = "repair or upgrade its package, or choose another kind of tokenizer"
    if isinstance(what, BaseException):
        return PluginError.of(f"{origin} failed", what, remedy)
    return PluginError(f"{origin} gives {what}; {remedy}")


def provider(cls: type) -> str:
    """The package of a class, with its version, and the class: `fourm-depth 0.1.0, fourm_depth:Depth`."""
    named, package = f"{cls.__module__}:{cls.__qualname__}", cls.__module__.partition(".")[0]
    owners = {f"{plugin.distribution} {plugin.version}" for plugin in discover() if plugin.package == package}
    return ", ".join([*sorted(owners)[:1], named])


def _count_misfit(answer: Any, number: int, what: str) -> str:
    if isinstance(answer, (list, tuple)) and len(answer) == number:
        return ""
    came = counted(len(answer), "result") if isinstance(answer, (list, tuple)) else describe(answer)
    return f"{came} for {counted(number, what)}"


def _one_of(words: str, *types: type | None) -> Callable[[Any], str]:
    def wrong(answer: Any) -> str:
        right = any(answer is None if kind is None else isinstance(answer, kind) for kind in types)
        return "" if right else f"{describe(answer)}, not {words}"

    return wrong
