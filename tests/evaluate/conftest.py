"""A tiny model over the fake modalities, held-out data, and an evaluation record."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.evaluate.samples import load_samples
from fourm_engine.modalities import Modalities
from fourm_engine.model import FourM
from fourm_engine.nn.transformer import ModelConfig, Transformer
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data


@pytest.fixture
def model() -> FourM:
    torch.manual_seed(1)
    modalities = Modalities(fake_modalities().values(), {})
    vocabulary = modalities.vocabulary()
    config = ModelConfig(width=16, encoder_blocks=1, decoder_blocks=1, heads=2)
    network = Transformer(config, vocabulary)
    with torch.no_grad():  # a new model ignores its input; a trained one does not
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return FourM(network, modalities, fake_tokenizers(modalities), vocabulary)


@pytest.fixture
def data(tmp_path):
    """Twelve samples; the last two lack `b`."""
    modalities, names = fake_modalities(), sample_names(12)
    write_data(tmp_path / "val", modalities, {"a": names, "b": names[:10], "words": names})
    return tmp_path / "val"


@pytest.fixture
def held_out(model, data):
    return load_samples(AlignedData(data, model.modalities), DataConfig(), samples=12, seed=0)


@pytest.fixture
def pixels():
    from PIL import Image

    return Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
