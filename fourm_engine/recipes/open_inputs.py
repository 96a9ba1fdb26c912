"""Open the inputs of many samples, as given on the command line: folders, a data set, lines, values for all samples.

In: arguments of `fourm generate` or `fourm predict`. Out: `SampleInputs`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm_engine.data.raw.names import say as remark
from fourm_engine.data.raw.names import shown
from fourm_engine.generate.input_types import Typed
from fourm_engine.recipes.sample_inputs import MASK, FileInputs, LineInputs, SampleInputs
from fourm_plugins.inputs import looks_like_path, read_file
from fourm_plugins.modality import Modality


def is_folder(given: Any) -> bool:
    """Whether an input is a folder of files."""
    return isinstance(given, (str, os.PathLike)) and os.path.isdir(given)  # False for a text too long for a name


def open_inputs(
    inputs: Mapping[str, Any],
    find: Callable[[str], Modality],
    out: Path,
    *,
    data: str | None,
    split: str | None = None,
    lines: Path | None = None,
    beside: Sequence[str] = (),
) -> tuple[SampleInputs, list[str]]:
    """The samples, and the names of everything given for them.

    Args:
        inputs: name -> a folder of its files, or one value for all samples; with `data`, None for a modality of it;
            `MASK` -> a folder of masks.
        find: the modality of a name. Raises ValueError if there is none.
        out: the folder of the results.
        data, split: a data set as in `data.train`, and a list in its `splits.json`.
        lines: a file of JSON lines, see `LineInputs`.
        beside: further modalities of `data`, not given to the model.

    Raises ValueError for problems that a user can fix."""
    folders = {name: Path(given) for name, given in inputs.items() if is_folder(given)}
    taken = [name for name, given in inputs.items() if given is None]
    single = {name: given for name, given in inputs.items() if name not in folders and given is not None}
    common = {name: _once(find(name), given) for name, given in single.items()}
    ways = [way for way, there in (("--data", data), ("--lines", lines), ("folders", folders)) if there]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} both name the samples; give one of them")
    for folder in folders.values():
        if out.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{shown(out)}: results would mix with inputs in {shown(folder)}; choose another --out")
    if split is not None and data is None:
        raise ValueError("--split is for a data set; name it with --data")
    if taken and data is None:
        raise ValueError(f"--input {taken[0]}: has no value, which only --data allows; give a file, a folder or words")
    if beside and data is None:
        raise ValueError(f"--with {beside[0]}: is for a modality of --data; name the data set")
    if twice := [name for name in beside if name in inputs]:
        raise ValueError(f"--with {twice[0]}: is an input; leave it out, and add --with-inputs")
    source: SampleInputs
    if data is not None:
        if not taken:
            raise ValueError("--data: name the modalities to give with --input NAME")
        source = FileInputs.of_data(data, split, [*taken, *beside], find, common)
    elif lines is not None:
        if not lines.is_file():
            raise ValueError(f'{lines}: no such file; it has a line for each sample, such as {{"NAME": "FILE"}}')
        source = LineInputs(lines, find, common)
        return source, source.keys
    else:
        source = FileInputs.of_folders(folders, find, common)
    for note in source.notes:
        remark(note)
    return source, [name for name in (*(taken or folders), *common, *beside) if name != MASK]


def find_once(names: Sequence[str], find: Callable[[str], Modality]) -> dict[str, Modality]:
    """Name as given -> its modality. Raises ValueError if two names have one."""
    modalities = {name: find(name) for name in names}
    if twice := [n for n in names if sum(m is modalities[n] for m in modalities.values()) > 1]:
        raise ValueError(f"{' and '.join(twice)} are both shown as {modalities[twice[0]].name!r}; give one")
    return modalities


def _once(modality: Modality, given: Any) -> Any:
    """A value shared by all samples: the content of a file, read once, or typed text."""
    if isinstance(given, str):
        if looks_like_path(given, modality.spec.extensions, typed=modality.accepts_text):
            return read_file(Path(given), modality.spec.extensions)
        return Typed(given)
    return given
