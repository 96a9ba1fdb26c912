"""Measures with a contrastive model how well predictions agree with the inputs: pictures with texts, and vice versa.

In: features of the inputs, of the predictions and of the truth, unit vectors (n, D). Out: an `Agreement`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.evaluate.results import Agreement
from fourm_engine.evaluate.tasks import Task
from fourm_plugins import calls
from fourm_plugins.modality import Modality

if TYPE_CHECKING:
    from jaxtyping import Float

#: Modality -> a function from its values to features, all by the same contrastive model.
Features = Mapping[str, Callable[[Sequence[Any]], np.ndarray]]


def features_of(model: str, modalities: Mapping[str, Modality], tasks: Sequence[Task]) -> Features:
    """The features by a contrastive model. Raises ValueError for an unusable model, or one that can compare an input
    with a target in none of `tasks`."""
    by_name = {}
    for name in dict.fromkeys(name for task in tasks for name in [*task.inputs.values(), *task.targets]):
        if (features := modalities[name].contrastive(model)) is not None:
            by_name[name] = partial(calls.features, modalities[name], features)
    if not any(pairs(task, modalities, by_name) for task in tasks):
        raise ValueError(
            "--agreement: no task has an input and a target that such a model compares, a text and a picture; add one "
            "to evaluate.tasks, or leave it out"
        )
    return by_name


def pairs(task: Task, modalities: Mapping[str, Modality], features: Features) -> list[tuple[str, str]]:
    """Pairs (input, target) of different sources that both have features. Partial inputs are excluded."""
    given = [(name, shown) for name, shown in task.inputs.items() if shown in features and name not in task.keep]
    return [
        (shown, target)
        for target in task.targets
        if target in features
        for _, shown in given
        if modalities[shown].spec.source != modalities[target].spec.source
    ]


def agreement(
    shown: Float[np.ndarray, "n D"], predicted: Float[np.ndarray, "n D"], truth: Float[np.ndarray, "n D"], **names: str
) -> Agreement:
    """`names`: the fields `given` and `target`. Row i of all three arrays is the same sample; at least two rows."""
    similarity, true = predicted @ shown.T, truth @ shown.T
    others = ~np.eye(len(shown), dtype=bool)
    return Agreement(
        **names,
        samples=len(shown),
        cosine=float(similarity.diagonal().mean()),
        truth=float(true.diagonal().mean()),
        others=float(similarity[others].mean()),
        recall_at_1=_retrieved(similarity),
        truth_recall_at_1=_retrieved(true),
    )


def _retrieved(similarity: Float[np.ndarray, "n n"]) -> float:
    """The fraction of rows whose largest value is on the diagonal."""
    return float((similarity.diagonal() >= similarity.max(1)).mean())
