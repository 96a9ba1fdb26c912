"""Whether a checkpoint belongs to the run that would go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm_engine.identity import PREFIX, Difference, compare, refuse
from fourm_plugins.modality import flat

_SAMPLES = "data.samples"


def check_same_run(
    folder: Path,
    saved: Mapping[str, Any],
    identity: Mapping[str, Any],
    versions: Mapping[str, str],
    defaults: Mapping[str, Any],
) -> None:
    """Raise ValueError, naming the keys, where the checkpoint in `folder`, with the state `saved`, is of another run
    than that with `identity` and `versions`. `defaults`: of keys that an older checkpoint lacks."""
    now = flat(dict(identity))
    was = {key: value for key, value in defaults.items() if key in now} | flat(saved["identity"])
    gone = sorted(saved.get("versions", {}).keys() - versions.keys())
    absent = "".join(
        f"; {name} took part and does not now (pip install {saved['versions'][name].replace(' ', '==')})"
        for name in gone
    )
    differences = [Difference(key, *pair) for key, pair in compare(was, now).items()]
    # What follows from a modality's settings, such as rows of the vocabulary, says less than the setting.
    settings = [difference for difference in differences if difference.key.startswith(PREFIX)]
    # Where samples were added or taken away, so are their names, views and contents.
    if any(difference.key == _SAMPLES for difference in differences):
        differences = [d for d in differences if d.key == _SAMPLES or not d.key.startswith("data.")]
    refuse(settings or differences, where=folder, remedy=f"train anew in another `run` folder{absent}")
