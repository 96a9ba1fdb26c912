"""For writers of labellers: pretrained networks in the format of `transformers`, and the options of a labeller.

Loads a network from a folder or the Hub and runs it on pictures, uint8 (H, W, 3), of any sizes. Weights are safetensors
and the code is the installed library's: nothing is unpickled, and no code shipped with a model is run. torch and
transformers are imported when a network is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import Field, ValidationError

from fourm_plugins.errors import first_line
from fourm_plugins.explain import explain
from fourm_plugins.extras import optional
from fourm_plugins.hub import check_there
from fourm_plugins.settings import Settings


def load_words(model: str) -> Any:
    """Load the text tokenizer of `model`. Raises ValueError, one line, if it cannot be used."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds of errors
        raise ValueError(f"{model}: its tokenizer cannot be used: {first_line(error)}") from error


class NetworkOptions(Settings):
    """Options of every labeller with a network."""

    #: Pictures per forward pass; apart from rounding, labels do not depend on it.
    batch_size: int = Field(default=16, ge=1)
    #: Such as `cuda:1`; by default this process's GPU if there is one, else the CPU.
    device: str | None = None


Options = TypeVar("Options", bound=Settings)


def label_options(cls: type[Options], given: Mapping[str, Any], *, target: str) -> Options:
    """Validate the labeller options of `target`. Raises ValueError, one line, for any that it does not accept."""
    try:
        return cls(**given)
    except ValidationError as error:
        raise ValueError(f"options of {target}: {'; '.join(explain(error, cls))}") from None


def class_targets(names: Sequence[str], mapping: Mapping[str, str | None], model: str) -> list[str | None]:
    """For each class of `model` its entry in `mapping`, by default its name. Raises ValueError, one line, if `mapping`
    names a class that the model lacks."""
    targets = {same_label(name): target for name, target in mapping.items()}
    known = {same_label(name) for name in names}
    for name in mapping:
        if same_label(name) not in known:
            raise ValueError(f"mapping: {model} has no class {name!r}; it has {', '.join(names[:30])}")
    return [targets.get(same_label(name), name) for name in names]


def model_needed(target: str, what: str, example: str) -> ValueError:
    """The error for a labeller of `target` that needs a model, `what`, and got none."""
    return ValueError(f"{target} needs {what}: name one, a folder or a Hub id such as {example}")


def load_network(
    model: str, kinds: Sequence[str], *, what: str, install: str, device: str | None = None, spare: tuple[str, ...] = ()
) -> Any:
    """Load `model` as the first of `kinds` (auto classes of `transformers`) that fits it: float32, in evaluation mode,
    on its device, with all its weights.

    Args: what: what is needed, such as "a depth model", for messages. install: the distribution with its extra that
    provides torch and transformers. spare: prefixes of weights that are not used and may be missing.

    Raises ValueError, one line: what is not installed, or why the model cannot be used."""
    transformers = optional("transformers", what=f"labelling with {what} needs", install=install)
    torch = optional("torch", what=f"labelling with {what} needs", install=install)
    check_there(model)
    network, info = None, None
    transformers.utils.logging.disable_progress_bar()  # a progress bar for each weight file
    for kind in kinds:
        try:
            network, info = getattr(transformers, kind).from_pretrained(
                model, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            break
        except Exception as error:  # OSError, ValueError, ImportError, SafetensorError, RuntimeError, KeyError and more
            if kind == kinds[-1] or not str(error).startswith("Unrecognized configuration class"):
                raise ValueError(f"{model}: cannot be used as {what}: {first_line(error)}") from error
    assert network is not None
    assert info is not None
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith(spare)):
        # Otherwise the library would initialise them randomly.
        raise ValueError(f"{model}: not trained as {what}: lacks the weights {missing[0]} ({len(missing)} missing)")
    chosen = device or (f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu")
    try:
        return network.float().to(chosen).eval()
    except RuntimeError as error:
        raise ValueError(f"device {chosen!r} cannot be used: {first_line(error)}") from error


class PictureNetwork:
    """A network on pictures, with the preprocessing stored alongside it. Arguments are those of `load_network`;
    `options` has batch size and device."""

    def __init__(
        self,
        model: str,
        kinds: Sequence[str],
        *,
        what: str,
        install: str,
        options: NetworkOptions,
        spare: tuple[str, ...] = (),
    ) -> None:
        self.network = load_network(model, kinds, what=what, install=install, device=options.device, spare=spare)
        self.config = self.network.config
        self.model, self._batch_size = model, options.batch_size
        from transformers import AutoImageProcessor

        try:
            self.processor: Any = AutoImageProcessor.from_pretrained(model, trust_remote_code=False)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise ValueError(f"{model}: its preprocessing cannot be used: {first_line(error)}") from error

    def run(
        self, values: Sequence[np.ndarray], compute: Callable[[dict[str, Any], list[tuple[int, int]]], Sequence[Any]]
    ) -> list[Any]:
        """`compute(inputs, sizes)` of all pictures: inputs are tensors (B, …) on the network's device, sizes the
        pictures' own (height, width); it gives one result a picture.

        Pictures are prepared one by one and those of one shape pass together, so that none is padded to fit another
        and its result does not depend on what it comes with."""
        import torch

        groups: dict[tuple[Any, ...], list[tuple[int, dict[str, Any]]]] = {}
        for index, value in enumerate(values):
            prepared = self.processor(images=[Image.fromarray(check_picture(value))], return_tensors="pt")
            tensors = {name: x for name, x in prepared.items() if isinstance(x, torch.Tensor)}
            groups.setdefault(tuple((name, x.shape) for name, x in tensors.items()), []).append((index, tensors))
        results: list[Any] = [None] * len(values)
        device = next(self.network.parameters()).device
        for members in groups.values():
            for start in range(0, len(members), self._batch_size):
                part = members[start : start + self._batch_size]
                inputs = {name: torch.cat([x[name] for _, x in part]).to(device) for name in part[0][1]}
                sizes = [(int(values[i].shape[0]), int(values[i].shape[1])) for i, _ in part]
                with torch.inference_mode():
                    results_of_part = compute(inputs, sizes)
                for (index, _), result in zip(part, results_of_part, strict=True):
                    results[index] = result
        return results


def check_picture(value: Any) -> np.ndarray:
    """`value`, which must be a picture, uint8 (H, W, 3). Raises ValueError otherwise."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3:
        return value
    kind = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    raise ValueError(f"labels are made from pictures, uint8 (H, W, 3), not from {kind}")


def same_label(name: str) -> str:
    """A class name normalised for comparison: letters and digits only, in lower case."""
    return "".join(c for c in name.lower() if c.isalnum()) or name
