"""Pictures are altered as they are learned from: by what a seed draws, and as strongly as is set."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_engine.data.config import DataConfig
from fourm_engine.modalities import ModalitiesConfig, load_manager, load_modalities
from fourm_engine.transfer.augmentation import augmentation_of
from fourm_engine.transfer.config import ClassificationConfig, RegressionConfig
from tests.transfer.heads import PIXELS, needs_torchvision, picture

pytestmark = needs_torchvision

FRESH = DataConfig(augment=True)
SHOWN = picture((200, 80, 30), 0, (32, 32))


@pytest.fixture(scope="module")
def inputs():
    settings = {"rgb@pixels": PIXELS, "depth": {"image_size": 32, "patch_size": 8}}
    config = ModalitiesConfig(select=list(settings), settings=settings)
    return load_modalities(config, load_manager(config))


def test_rand_augment_is_drawn_by_sample_and_view_and_is_stronger_the_stronger_it_is_set(inputs):
    alone = {"rgb@pixels": inputs["rgb@pixels"]}

    def altered(strength, seed=0):
        augmentation = augmentation_of(ClassificationConfig(rand_augment=strength), alone, FRESH, seed=seed)
        return np.stack([augmentation(f"{i}", "rgb@pixels", 3, SHOWN) for i in range(12)])

    strong = altered((9, 0.5))
    assert (strong.shape, strong.dtype) == ((12, 32, 32, 3), np.uint8)
    assert np.array_equal(strong, altered((9, 0.5)))
    assert not np.array_equal(strong, altered((9, 0.5), seed=1))
    assert len({one.tobytes() for one in strong}) > 6
    weak = altered((1, 0))
    difference = [np.abs(one.astype(float) - SHOWN).mean() for one in (weak, strong)]
    assert difference[0] < difference[1]


def test_colour_jitter_alters_pictures_alone_and_leaves_what_is_where(inputs):
    augmentation = augmentation_of(RegressionConfig(target="x", colour_jitter=0.4), inputs, FRESH, seed=0)
    assert augmentation.pictures == {"rgb@pixels"}
    metres = np.ones((32, 32), np.float32)
    assert augmentation("a", "depth", 0, metres) is metres
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, 16:] = 200
    for view in range(4):
        seen = augmentation("a", "rgb@pixels", view, half)
        assert (seen[:, :15].max(), seen[:, 17:].min() > 50) == (seen[0, 0].max(), True)
        assert not np.array_equal(seen, half)


def test_what_cannot_be_altered_is_refused_with_the_setting(inputs):
    jitter = RegressionConfig(target="x", colour_jitter=0.4)
    with pytest.raises(ValueError, match=r"task.colour_jitter is for pictures, and none of the inputs is one"):
        augmentation_of(jitter, {"depth": inputs["depth"]}, FRESH, seed=0)
    with pytest.raises(ValueError, match=r"task.colour_jitter needs data.augment: true"):
        augmentation_of(jitter, inputs, DataConfig(), seed=0)
    assert augmentation_of(RegressionConfig(target="x"), inputs, DataConfig(), seed=0) is None
