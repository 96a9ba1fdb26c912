"""The spec and the files: what the plugin declares, and whether its samples agree."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourm_plugins.arrays import misfit
from fourm_plugins.errors import SampleError
from fourm_plugins.inputs import sniff
from fourm_plugins.spec import FeatureMap, FeatureVector, ModalitySpec, Text
from fourm_plugins.testing.check import Check, CheckFailed, require
from fourm_plugins.testing.compare import distance, same, spread
from fourm_plugins.testing.subject import Subject

#: How much a value may change by writing and reading, as a share of the examples' spread.
FILE_TOLERANCE = 0.05
_EXTENSION = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)*")


def spec_survives_json(subject: Subject) -> None:
    """The spec is the same after a round trip through JSON, as checkpoints store it."""
    spec = subject.make().spec
    again = ModalitySpec.model_validate_json(json.dumps(json.loads(spec.model_dump_json())))
    require(again == spec, f"after a round trip through JSON another spec: {_difference(spec, again)}")


def fingerprint_is_stable(subject: Subject) -> None:
    """The spec's fingerprint is the same in every process, under every hash seed."""
    prints = {seed: subject.probed(seed).facts["fingerprint"] for seed in (1, 2)}
    require(
        len(set(prints.values())) == 1,
        f"the spec depends on the hash seed: {prints[1]} and {prints[2]}; sort what comes out of sets",
    )


def spec_names_itself(subject: Subject) -> None:
    """The spec has the instance's name and plain extensions, and its token space is shared or belongs to it alone."""
    spec = subject.spec
    require(spec.name == subject.modality.name, f"spec.name is {spec.name!r}, the instance {subject.modality.name!r}")
    for extension in spec.extensions:
        require(_EXTENSION.fullmatch(extension), f"extension {extension!r}: write it in lower case and without a dot")
    second = f"{subject.name.partition('@')[0]}@kit"
    other = subject.manager.modality(second, plugin=subject.name, **subject.settings).spec
    require(other.name == second, f"an instance called {second!r} says it is {other.name!r}; use self.name")
    space = spec.token_space
    require(
        space is None or space.shared or other.token_space is None or other.token_space.name != space.name,
        f"two instances own one token space {space.name if space else ''!r}: name it after self.name, or share it",
    )


def settings_rebuild_it(subject: Subject) -> None:
    """An instance made from settings stored as JSON, defaults included, has the same spec: checkpoints rely on it."""
    first = subject.make()
    stored = json.loads(json.dumps(first.settings.model_dump(mode="json")))
    second = subject.manager.modality(subject.name, **stored)
    require(second.spec == first.spec, f"made from its stored settings: {_difference(first.spec, second.spec)}")


def examples_are_read(subject: Subject) -> None:
    """`read` accepts every example sample, and the class makes only known claims."""
    assert subject.values
    assert subject.claims is not None


def examples_follow_the_seed(subject: Subject) -> None:
    """The same seed gives the same examples, another seed others, and a longer list begins with a shorter one."""
    make = subject.modality.example_samples
    require(make(3, 5) == make(3, 5), "the same seed gives other examples")
    require(make(3, 5)[:2] == make(2, 5), "the first two of three examples are not the two of two")
    require(make(3, 5) != make(3, 6), "another seed gives the same examples")


def arrays_fit_the_spec(subject: Subject) -> None:
    """`normalise` gives the arrays that the spec describes: type, shape, range."""
    for array in subject.arrays:
        wrong = misfit(subject.spec, array)
        require(not wrong, wrong)


def numbers_vary(subject: Subject) -> None:
    """Among the examples, each channel of a map or number of a vector takes several values; none is always clipped."""
    if not isinstance(subject.spec.array, (FeatureMap, FeatureVector)):
        return
    channels = np.stack(subject.arrays, axis=1)  # [C, examples, ...]
    for number, channel in enumerate(channels.reshape(len(channels), -1)):
        known = channel[np.isfinite(channel)]
        require(
            len(known) < 2 or known.min() < known.max(),
            f"number {number} of {len(channels)}, from 0, is {known[:1].sum():.3g} in every example: normalise clips "
            "it, or the examples are all alike",
        )


def files_are_read_back(subject: Subject) -> None:
    """`read` gives back what `write` wrote, to the format's precision, in files with the spec's extensions."""
    modality, scale = subject.modality, spread(subject.arrays)
    for files, array in zip(subject.written, subject.arrays, strict=True):
        again = subject.array(modality.read(dict(files)))
        error = distance(array, again)
        require(
            error <= FILE_TOLERANCE * scale,
            f"written and read again it differs by {error:.3g}, examples among themselves by {scale:.3g}",
        )


def files_are_exact(subject: Subject) -> None:
    """Writing and reading changes no bit."""
    for value in subject.values:
        again = subject.modality.read(dict(subject.modality.write(value)))
        require(same(subject.array(value), subject.array(again)), "written and read again, its array differs")


def value_takes_every_input(subject: Subject) -> None:
    """`value` takes a path, bytes, a picture, an array or a tensor for what `read` makes of the file."""
    modality = subject.modality
    with tempfile.TemporaryDirectory() as folder:
        for files, value in zip(subject.files[:3], subject.values[:3], strict=True):
            truth = subject.array(value)
            for what, given in _forms(files, value, Path(folder), subject.spec.extensions):
                try:
                    came = subject.array(modality.value(given))
                except SampleError as error:
                    raise CheckFailed(f"{what} is refused: {error}") from error
                require(same(came, truth), f"{what} is not what `read` makes of the file")


def _forms(
    files: Mapping[str, bytes], value: Any, folder: Path, extensions: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """The forms in which a user may pass one sample, with a name for each."""
    yield "the value itself", value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype != np.uint16:
        yield "an array in another order of memory", np.asfortranarray(value)
        if importlib.util.find_spec("torch") is not None:
            import torch

            yield "a tensor", torch.from_numpy(value.copy())
    if len(files) != 1:
        return
    ((extension, content),) = files.items()
    path = folder / f"x.{extension}"
    path.write_bytes(content)
    yield "a path", path
    yield "a path, as a str", str(path)
    with contextlib.suppress(SampleError):  # ambiguous bytes
        if sniff(content, extensions) == extension:
            yield "the bytes", content
    if extension in ("png", "webp", "jpg", "jpeg"):
        yield "Image.open", Image.open(io.BytesIO(content))


def wrong_files_are_refused(subject: Subject) -> None:
    """Empty, truncated and foreign files raise SampleError with one line."""
    for files in subject.files[:3]:
        for extension, content in files.items():
            for what, damaged in (
                ("an empty", b""),
                ("a truncated", content[: len(content) // 2]),
                ("a foreign", b"\x00\xff\xfe not such a file \x00" * 4),
            ):
                refused = _refused(subject, {**files, extension: damaged}, f"{what} .{extension} file")
                # A truncated text is also a text.
                may_be_read = what == "a truncated" and isinstance(subject.spec.array, Text)
                require(refused or may_be_read, f"{what} .{extension} file is read as if it were whole")


def _refused(subject: Subject, files: dict[str, bytes], what: str) -> bool:
    try:
        subject.modality.read(files)
    except SampleError as error:
        lines = str(error).strip().splitlines()
        require(len(lines) == 1, f"{what}: the SampleError must say the reason in one line, not {len(lines)}")
        return True
    except Exception as error:
        require(False, f"{what} raises {type(error).__name__} ({error:.100}); raise SampleError with the reason")
    return False


def _difference(a: ModalitySpec, b: ModalitySpec) -> str:
    before, after = a.model_dump(mode="json"), b.model_dump(mode="json")
    changed = [f"{key} {before[key]!r} -> {after[key]!r}" for key in before if before[key] != after[key]]
    return "; ".join(changed)[:300] or "types differ"


CHECKS = (
    Check(examples_are_read),
    Check(arrays_fit_the_spec),
    Check(spec_survives_json),
    Check(fingerprint_is_stable),
    Check(spec_names_itself),
    Check(settings_rebuild_it),
    Check(examples_follow_the_seed),
    Check(numbers_vary),
    Check(files_are_read_back),
    Check(files_are_exact, claims=("exact_files",)),
    Check(value_takes_every_input),
    Check(wrong_files_are_refused),
)
