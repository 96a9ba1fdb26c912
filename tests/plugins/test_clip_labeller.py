"""Labelling with a CLIP model: a small one, stored and loaded as a published one is."""

import json

import numpy as np
import pytest

from tests.plugins.instances import modality

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=size | {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2},
        vision_config=size | {"image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return str(folder)


@pytest.fixture(scope="module")
def pictures():
    rgb = modality("rgb")
    return [rgb.read(files) for files in rgb.example_samples(5, seed=0)]


def test_features_are_the_models_own_of_each_patch(model, pictures):
    import torch
    from PIL import Image

    clip = modality("clip")
    found = clip.labeller(modality("rgb"), model, batch_size=2).label(pictures)
    assert [(f.shape, f.dtype) for f in found] == [((2, 2, 16), np.float32)] * 5
    reference = transformers.CLIPModel.from_pretrained(model).eval()
    squeezed = np.asarray(Image.fromarray(pictures[3]).resize((16, 16), Image.Resampling.BICUBIC), np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy((squeezed / 255 - 0.5) / 0.25).permute(2, 0, 1)[None]
        hidden = reference.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][0, 1:]
        expected = reference.visual_projection(reference.vision_model.post_layernorm(hidden))
        expected = expected / expected.norm(dim=-1, keepdim=True)
    assert np.allclose(found[3].reshape(4, 16), expected, atol=1e-5)


def test_labels_can_be_written_and_read(model, pictures):
    clip = modality("clip")
    value = clip.labeller(modality("rgb"), model).label(pictures[:1])[0]
    assert np.allclose(clip.read(clip.write(value)), value, atol=1e-3)


def test_what_cannot_be_labelled_is_said(model, tmp_path):
    clip, rgb = modality("clip"), modality("rgb")
    with pytest.raises(ValueError, match="needs a CLIP model"):
        clip.labeller(rgb, None)
    with pytest.raises(ValueError, match="set channels: 16"):
        modality("clip", channels=8).labeller(rgb, model)
    with pytest.raises(ValueError, match="cannot be used as a CLIP model"):
        clip.labeller(rgb, str(tmp_path))
    with pytest.raises(ValueError, match=r"not from float32 \(4, 4\)"):
        clip.labeller(rgb, model).label([np.zeros((4, 4), np.float32)])
    with pytest.raises(ValueError, match="has no labeller"):
        rgb.labeller(clip, model)
