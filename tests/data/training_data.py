"""Tokens and raw files of three modalities, and the training samples made of them."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from fourm_engine.batch import Batch, Patches, Tokens
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.vocabulary import Vocabulary
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data

MODALITIES = fake_modalities()
TOKENIZERS = fake_tokenizers(MODALITIES)
VOCABULARY = Vocabulary.build(m.spec for m in MODALITIES.values())
MASKING = MaskingConfig(
    input_tokens=(4, 12),
    target_tokens=14,
    mixture=(
        Component(name="all2all"),
        Component(name="pixels2all", weight=2, input={"a@pixels": 10}, target={"*": 0.5}),
    ),
)


def write(root, names, views=2, augment=True):
    """Raw data and tokens below `root`; the config that reads them."""
    write_data(root / "raw", MODALITIES, names)
    config = DataConfig(train=root / "raw", tokens=root / "tokens", views=views, augment=augment, shard_size=8)
    tokenize_split(AlignedData(root / "raw", MODALITIES), root / "tokens/train", TOKENIZERS, config)
    return config


def open_data(config, seed=0, masking=MASKING, **options):
    return MaskedSamples.from_config(config, masking, MODALITIES, TOKENIZERS, VOCABULARY, seed=seed, **options)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    names = {"a": sample_names(20), "b": sample_names(18, start=2), "words": sample_names(9)}
    return write(tmp_path_factory.mktemp("data"), names)


def tensors(batch):
    """Every tensor of a batch, by name."""
    found = {"counts": torch.tensor(list(batch.target_counts.values()))}
    for field in fields(Batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tokens):
            found |= {f"{field.name}.{f.name}": getattr(value, f.name) for f in fields(Tokens)}
        elif isinstance(value, torch.Tensor):
            found[field.name] = value
    for name, patches in batch.continuous.items():
        found |= {f"{name}.{f.name}": getattr(patches, f.name) for f in fields(Patches)}
    return found


def assert_same(x, y):
    x, y = tensors(x), tensors(y)
    assert x.keys() == y.keys()
    for name, tensor in x.items():
        assert torch.equal(tensor, y[name]), name


def one(data, name, modality, view=0):
    return data.store.load(data.store.names.index(name), modality, view)
