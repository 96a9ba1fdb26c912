"""Specs of the modalities of the published 4M-7 models, and random batches of them, for the benchmarks.

specs() -> one spec per modality; batch(...) -> a real `Batch`, masked and packed as in training
"""

from __future__ import annotations

import numpy as np

from fourm_engine.batch import Batch, PackedSample, collate
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.masking.grid import GridMasker
from fourm_engine.masking.pack import pack
from fourm_engine.masking.span import SpanMasker
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import FeatureMap, Grid, Masker, ModalitySpec, Sequence, Specials, Text, TokenizerRecipe, TokenSpace

GRIDS = {"picture": 16384, "depths": 8192, "normals": 8192, "classes": 4096, "features": 8192}
TEXTS = ("sentence", "boxlist")
SPECIALS = Specials(end=3, sentinels=tuple(range(4, 204)))


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
    """Random tokens, masked and packed: `sample(rng)` does what a training sample costs beyond reading it."""

    def __init__(self, *, tokens: int, side: int = 14, shrink: int = 1) -> None:
        self.specs = {spec.name: spec for spec in specs(side, shrink)}
        self.vocabulary = Vocabulary.build(self.specs.values())
        mixture = (Component(name="pixels to all", input={"pixels": 1000.0}), Component(name="all to all"))
        self.config = MaskingConfig(input_tokens=(tokens, tokens), target_tokens=(tokens, tokens), mixture=mixture)
        self.budgets = Budgets(self.config, self.specs.values())
        self.maskers: dict[str, Masker] = {
            name: SpanMasker(spec, SPECIALS) if name in TEXTS else GridMasker(spec) for name, spec in self.specs.items()
        }

    def sample(self, rng: np.random.Generator) -> PackedSample:
        drawn = self.budgets.draw(rng, frozenset(self.specs))
        assert drawn is not None
        masked, patches = {}, {}
        for name in drawn.modalities:
            spec = self.specs[name]
            if spec.continuous:
                ids = np.arange(spec.layout.num_tokens)
                patches[name] = rng.standard_normal((len(ids), spec.patch_dim), dtype=np.float32)
            else:
                length = 40 if name in TEXTS else spec.layout.num_tokens
                assert spec.token_space is not None
                ids = rng.integers(204, spec.token_space.size, length)
            masked[name] = self.maskers[name].mask(
                ids,
                input_budget=drawn.inputs.get(name, 0),
                target_budget=drawn.targets.get(name, 0),
                keep=drawn.keep.get(name, "random"),
                rng=rng,
            )
        return pack(self.vocabulary, masked, patches)

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        rows = [self.sample(rng) for _ in range(size)]
        return collate(rows, self.vocabulary, self.config.encoder_tokens, self.config.decoder_tokens)
