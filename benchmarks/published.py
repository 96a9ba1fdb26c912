"""Specs of the modalities of the published 4M-7 models, and random batches of them, for the benchmarks.

specs() -> one spec per modality; batch(...) -> a real `Batch`, masked and packed as in training
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many

import numpy as np

from fourm_engine.batch import Batch, PackedSample, collate
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.masking.draw import BatchMasker, Unmasked
from fourm_engine.masking.grid import GridMasker
from fourm_engine.masking.span import SpanMasker
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import (
    FeatureMap,
    Grid,
    Masker,
    ModalitySpec,
    Sequence,
    SpecialTokens,
    Text,
    TokenizerRecipe,
    TokenSpace,
)

GRIDS = {"picture": 16384, "depths": 8192, "normals": 8192, "classes": 4096, "features": 8192}
TEXTS = ("sentence", "boxlist")
SPECIALS = SpecialTokens(end_id=3, sentinel_ids=tuple(range(4, 204)))


def specs(side: int = 14, shrink: int = 1) -> list[ModalitySpec]:
    """Five token grids of `side` x `side`, two sequences, and pixels; vocabularies `shrink` times smaller."""
    shared = {"layout": Grid(height=side, width=side), "extensions": ("bin",)}
    array = FeatureMap(channels=3, height=16 * side, width=16 * side)
    grids = [
        ModalitySpec(
            name=name,
            source=name,
            array=array,
            token_space=TokenSpace(name=name, size=size // shrink),
            tokenizer=TokenizerRecipe(kind="vqvae"),
            **shared,
        )
        for name, size in GRIDS.items()
    ]
    texts = [
        ModalitySpec(
            name=name,
            source=name,
            array=Text(),
            layout=Sequence(max_tokens=256),
            extensions=("txt",),
            token_space=TokenSpace(name="words", size=30000 // shrink, shared=True),
            tokenizer=TokenizerRecipe(kind="wordpiece"),
        )
        for name in TEXTS
    ]
    return [*grids, *texts, ModalitySpec(name="pixels", source="picture", array=array, target=False, **shared)]


class Samples:
    """Random tokens, masked and packed: `pack` does what training samples cost beyond reading them."""

    def __init__(self, *, tokens: int, side: int = 14, shrink: int = 1) -> None:
        self.specs = {spec.name: spec for spec in specs(side, shrink)}
        self.vocabulary = Vocabulary.build(self.specs.values())
        mixture = (Component(name="pixels to all", input={"pixels": 1000.0}), Component(name="all to all"))
        self.config = MaskingConfig(input_tokens=(tokens, tokens), target_tokens=(tokens, tokens), mixture=mixture)
        self.budgets = Budgets(self.config, self.specs.values())
        self.maskers: dict[str, Masker] = {
            name: SpanMasker(spec, SPECIALS) if name in TEXTS else GridMasker(spec) for name, spec in self.specs.items()
        }

        self.mask = BatchMasker(self.maskers, self.vocabulary)

    def contents(self, rng: np.random.Generator, words: int | None = None) -> dict[str, np.ndarray]:
        """What a store would load: every modality, sequences of `words` tokens or of any length up to the most."""
        made = {}
        for name, spec in self.specs.items():
            n = spec.layout.num_tokens
            if spec.continuous:
                made[name] = rng.standard_normal((n, spec.patch_dim), dtype=np.float32)
            else:
                assert spec.token_space is not None
                length = (words or int(rng.integers(8, n))) if name in TEXTS else n
                made[name] = rng.integers(204, spec.token_space.size, length)
        return made

    def pack(self, contents: Many[Mapping[str, np.ndarray]], rngs: Many[np.random.Generator]) -> list[PackedSample]:
        """Draw, mask and pack samples, each with its generator."""
        unmasked = []
        for loaded, rng in zip(contents, rngs, strict=True):
            drawn = self.budgets.draw(rng, frozenset(loaded))
            assert drawn is not None
            unmasked.append(Unmasked(loaded, drawn, rng))
        return self.mask(unmasked)

    def collate(self, samples: Many[PackedSample]) -> Batch:
        return collate(samples, self.vocabulary, self.config.encoder_tokens, self.config.decoder_tokens)

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        contents = [self.contents(rng, words=40) for _ in range(size)]
        return self.collate(self.pack(contents, rng.spawn(size)))
