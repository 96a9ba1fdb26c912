"""Records how the labels in a folder were made, so that they are not mixed with others.

In: the modality that labels are about to be made from, the model, its options. Out: `.made.json` in the folder, which
readers skip, or a ValueError that names the difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm_engine.files import read_object, write_atomically
from fourm_engine.identity import Difference, compare, facts, refuse
from fourm_plugins.modality import Modality

FILE = ".made.json"
MAX_BYTES = 1 << 20


def record_labels(
    folder: Path, source: Modality, target: Modality, *, model: str | None, options: Mapping[str, Any]
) -> None:
    """Record in the target's `folder` how its labels are made. Raises ValueError if the existing ones were made
    differently."""
    settings = facts(source) | facts(target)
    now = {"--from": source.name, f"--model {target.name}": model, **settings}
    now |= {f"--option {target.name}.{key}": value for key, value in options.items()}
    now = json.loads(json.dumps(now))
    path = folder / FILE
    labelled = folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())
    if labelled and path.is_file():
        made_by = read_object(path, most=MAX_BYTES, what="how labels were made", remedy="remove it")
        differences = [Difference(key, *pair) for key, pair in compare(made_by, now).items()]
        refuse(differences, where=path, remedy=f"move {folder} away to label again")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(now, indent=1) + "\n")
