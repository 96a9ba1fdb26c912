"""The identity of a run, which must be equal in all its processes and in the checkpoint that it resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fourm_engine.identity import PREFIX, Difference, compare, refuse
from fourm_engine.train.checkpoint import SAMPLES
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import FILES, PACKAGES, SETTINGS, check_same, together, world_size
from fourm_engine.train.task import Task
from fourm_plugins.discovery import ENGINE
from fourm_plugins.manager import PluginManager
from fourm_plugins.settings import flat

#: Prefixes of keys of an identity that follow from files.
_OF_FILES = ("data", "tokenizers.", "finetune.source", "extend.source")


@dataclass(frozen=True)
class RunIdentity:
    """`keys`: JSON that must be equal when a run resumes. `versions`: versions of plugins and the like, which may
    change. `defaults`: values of keys that older checkpoints lack."""

    keys: dict[str, Any]
    versions: dict[str, str]
    defaults: Mapping[str, Any]

    @classmethod
    def agreed(cls, task: Task, config: TrainConfig, host: PluginManager, *, seed: int) -> RunIdentity:
        """The identity of a run. Raises RankMismatch if processes differ in versions, settings or data."""
        keys = {
            "task": task.name,
            "seed": seed,
            "train.batch_size": config.batch_size,
            "train.optimiser": config.optimiser,
            **json.loads(json.dumps(task.identity())),
        }
        used = [host.find("optimiser", config.optimiser), host.find("schedule", config.schedule)]
        packages = {f"{p.kind} {p.name}": f"{p.distribution} {p.version}" for p in used if p.distribution != ENGINE}
        versions = task.versions() | packages
        if world_size() > 1:
            settings = {f"train.{key}": value for key, value in config.model_dump(mode="json").items()}
            of_files = {key: value for key, value in keys.items() if key.startswith(_OF_FILES)}
            check_same({**versions, "torch": torch.__version__}, PACKAGES)
            check_same({key: value for key, value in {**keys, **settings}.items() if key not in of_files}, SETTINGS)
            check_same(of_files, FILES)
            check_same(together(task.shared_facts), FILES)
        return cls(keys, versions, task.defaults())

    def check_resumable(self, folder: Path, saved: Mapping[str, Any]) -> None:
        """Raise ValueError, naming the keys that differ, if the checkpoint in `folder`, with the state `saved`, belongs
        to another run."""
        now = flat(self.keys)
        was = {key: value for key, value in self.defaults.items() if key in now} | flat(saved["identity"])
        before = saved.get("versions", {})
        here = {*self.versions.values()}  # of a package that is, another plugin took part
        gone = sorted(name for name in before.keys() - self.versions.keys() if before[name] not in here)
        absent = "".join(
            f"; {name} took part and does not now (pip install {before[name].replace(' ', '==')})" for name in gone
        )
        differences = [Difference(key, *pair) for key, pair in compare(was, now).items()]
        # Differences that follow from a modality's settings, such as vocabulary rows, say less than the setting itself.
        settings = [difference for difference in differences if difference.key.startswith(PREFIX)]
        # If samples were added or removed, digests of names, views and contents differ, too.
        if any(difference.key == SAMPLES for difference in differences):
            differences = [d for d in differences if d.key == SAMPLES or not d.key.startswith("data.")]
        refuse(settings or differences, where=folder, remedy=f"train anew in another `run` folder{absent}")
