"""Coexistence with other plugins: a checkpoint means the same if more is installed, and names what is missing if less
is."""

from __future__ import annotations

from typing import Any

import numpy as np

from fourm_plugins.testing import toys
from fourm_plugins.testing.check import Check, require
from fourm_plugins.testing.compare import same
from fourm_plugins.testing.harness import TinyModel
from fourm_plugins.testing.subject import Subject


def checkpoint_loads_beside_others(subject: Subject) -> None:
    """A checkpoint with this modality loads beside further plugins and instances with identical ids and logits."""
    model, folder = subject.model, subject.folder / "beside"
    ids, logits = _seen_by(subject, model)
    model.save(folder)
    host = toys.ToyManager()
    host.modality(toys.OTHER)
    host.modality(f"{subject.name.partition('@')[0]}@kit", plugin=subject.name, **subject.settings)
    # Loading compares the stored settings with those of the modality made from them.
    loaded = subject.once("loaded beside others", "settings_rebuild_it", lambda: subject.harness.load(folder, host))
    again, other_logits = _seen_by(subject, loaded)
    require(all(same(a, b) for a, b in zip(ids, again, strict=True)), "beside another plugin its ids are others")
    for name, numbers in logits.items():
        require(np.array_equal(numbers, other_logits[name]), f"beside another plugin the logits of {name} are others")


def missing_plugin_is_named(subject: Subject) -> None:
    """Without the plugin a checkpoint still serves the other modalities, and names the package that is missing."""
    folder = subject.folder / "missing"
    subject.model.save(folder)
    model = subject.harness.load(folder, toys.ToyManager(without={subject.name}))
    toy = subject.members[1]
    ids, _ = model.generate(toys.TOY, {}, seed=0)
    require(len(ids) == toy.modality.spec.layout.num_tokens, "without the plugin the other modality is not generated")
    try:
        model.generate(subject.name, {}, seed=0)
    except ValueError as error:
        wanted = f"pip install {subject.plugin.distribution}"
        require(wanted in str(error), f"without the plugin the error does not say {wanted!r} but: {error}")
    else:
        require(False, "without the plugin its modality is generated all the same")


def _seen_by(subject: Subject, model: TinyModel) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """A model's output for two examples: ids, and the logits of one masked sample."""
    subject_member, toy = subject.members
    arrays: dict[str, Any] = {}
    array = subject.array(subject.values[0])
    if subject.spec.continuous:
        arrays, ids = {subject_member.name: array}, np.arange(subject.spec.layout.num_tokens)
    else:
        ids = model.encode(subject_member.name, array)
    rows = [ids, model.encode(toys.TOY, toy.arrays[0])]
    budget = max(2, len(ids) // 3)
    masked = {}
    for member, row in zip((subject_member, toy), rows, strict=True):
        targets = budget if member.modality.spec.target else 0
        inputs = budget if member.modality.spec.input else 0
        rng = np.random.default_rng(0)
        masked[member.name] = member.masker.mask(row, input_budget=inputs, target_budget=targets, keep="all", rng=rng)
    return rows, model.forward(masked, arrays)[1]


CHECKS: tuple[Check, ...] = (Check(checkpoint_loads_beside_others), Check(missing_plugin_is_named))
