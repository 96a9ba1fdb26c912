"""BatchMasker: samples that are loaded and have budgets, masked and packed together.

The result for a sample depends on its contents, budgets and generator alone, whatever samples are masked beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fourm_engine.batch import PackedSample
from fourm_engine.masking.budgets import Drawn
from fourm_engine.masking.pack import ordered, pack
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.masker import Masker


@dataclass(frozen=True)
class Unmasked:
    """One sample before masking."""

    contents: Mapping[str, np.ndarray]  # modality -> what a store loads, of at least `drawn.modalities`
    drawn: Drawn
    rng: np.random.Generator  # after the budgets have been drawn from it


class BatchMasker:
    """Masks with `maskers` (modality -> masker) and packs as rows of `vocabulary`."""

    def __init__(self, maskers: Mapping[str, Masker], vocabulary: Vocabulary) -> None:
        self.maskers, self.vocabulary = maskers, vocabulary

    def __call__(self, samples: Sequence[Unmasked]) -> list[PackedSample]:
        """Raises ValueError for a masker that exceeds its budgets."""
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Unmasked) -> PackedSample:
        masked, drawn = {}, sample.drawn
        for name in ordered(self.vocabulary, drawn.modalities):
            content, inputs, targets = sample.contents[name], drawn.inputs.get(name, 0), drawn.targets.get(name, 0)
            ids, masker = np.arange(len(content)) if self.vocabulary[name].patch_dim else content, self.maskers[name]
            m = masker.mask(ids, input_budget=inputs, target_budget=targets, keep=drawn.keep[name], rng=sample.rng)
            if len(m.input_ids) > inputs or len(m.labels) > targets:
                raise ValueError(
                    f"masker {type(masker).__name__} of {name} gave {len(m.input_ids)} inputs and "
                    f"{len(m.labels)} targets for budgets {inputs} and {targets}"
                )
            masked[name] = m
        return pack(self.vocabulary, masked, sample.contents, drawn.component)
