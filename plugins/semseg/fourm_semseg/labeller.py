"""SemSegLabeller: class maps from pictures, with a segmentation model of `transformers` (SegFormer, Mask2Former, …).

In: pictures uint8 (H, W, 3). Out: int64 (H, W) of the modality's own ids, -1 where the model's class is none of them.
Classes are matched by name, whatever their case and punctuation; `mapping` settles the others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from fourm_plugins import Labeller, SampleError
from fourm_plugins.counting import counted
from fourm_plugins.labelling import NetworkOptions, PictureNetwork, class_targets, same_label

log = logging.getLogger(__name__)
_KINDS = ("AutoModelForSemanticSegmentation", "AutoModelForUniversalSegmentation")


class SemSegOptions(NetworkOptions):
    #: {model's class: modality's class, or null for none}, in addition to classes of the same name.
    mapping: dict[str, str | None] = Field(default_factory=dict)


class SemSegLabeller(Labeller):
    """`classes` are the modality's names, or () for `number` classes without names, as many as the model must have.
    `ignored`: whether pixels may have no class. Raises ValueError if no class of the model is one of the modality's."""

    def __init__(
        self, model: str, options: SemSegOptions, *, classes: Sequence[str], number: int, ignored: bool
    ) -> None:
        what = "a segmentation model"
        self._net = PictureNetwork(model, _KINDS, what=what, install="fourm-semseg[label]", options=options)
        names = [str(self._net.config.id2label[i]) for i in range(len(self._net.config.id2label))]
        if classes:
            self._ids = _match(names, classes, options.mapping, model)
        elif len(names) == number and not options.mapping:
            self._ids = np.arange(number)
        else:
            known = counted(len(names), "class", "classes")
            raise ValueError(
                f"{model} knows {known}, the modality has {number} without names; name them in its settings "
                f"(classes: [...])"
            )
        if unknown := [name for name, i in zip(names, self._ids) if i < 0]:
            if not ignored:
                raise ValueError(
                    f"{model}: {unknown[0]!r} is none of the classes; map it, or let the modality ignore an id"
                )
            number_left, shown = counted(len(unknown), "class", "classes"), ", ".join(unknown[:20])
            log.info("%s: %s left without one: %s", model, number_left, shown)

    def label(self, values: Sequence[np.ndarray]) -> list[Any]:
        def compute(inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[Any]:
            outputs = self._net.network(**inputs)
            predicted = self._net.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
            return [x.cpu().numpy() for x in predicted]

        maps = [self._ids[predicted] for predicted in self._net.run(values, compute)]
        return [x if (x >= 0).any() else SampleError("no pixel is of a class of the modality") for x in maps]


def _match(names: Sequence[str], classes: Sequence[str], mapping: Mapping[str, str | None], model: str) -> np.ndarray:
    """int64 (model's classes,): the id of each in the modality, -1 for none."""
    ids_by_name = {same_label(name): i for i, name in enumerate(classes)}
    targets = class_targets(names, mapping, model)
    for target in mapping.values():
        if target is not None and same_label(target) not in ids_by_name:
            raise ValueError(f"mapping: {target!r} is no class of the modality; it has {', '.join(classes[:30])}")
    ids = [-1 if target is None else ids_by_name.get(same_label(target), -1) for target in targets]
    if max(ids) < 0:
        raise ValueError(f"no class of {model} is one of the modality's: {', '.join(names[:10])}, …; give a mapping")
    return np.array(ids, np.int64)
