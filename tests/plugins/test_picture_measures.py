"""SSIM is the published measure; a Fréchet distance compares sets of pictures in a network's features."""

import subprocess
import sys

import numpy as np
import pytest

from tests.plugins.instances import modality

RGB = modality("rgb")


def metric(name):
    return next(m for m in RGB.metrics() if m.name == name)


def test_ssim_is_what_the_library_computes():
    torch, image = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.functional.image")
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 255, (24, 40, 3), dtype=np.uint8) for _ in range(3)]
    guesses = [np.clip(t + rng.normal(0, s, t.shape), 0, 255).astype(np.uint8) for t, s in zip(truths, (5, 30, 90))]
    ours = metric("SSIM").compute(guesses, truths)
    a, b = (torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).double() for x in (guesses, truths))
    _, everywhere = image.structural_similarity_index_measure(a, b, data_range=255.0, return_full_image=True)
    assert ours == pytest.approx(float(everywhere[..., 5:-5, 5:-5].mean()), abs=1e-5)  # there it pads at the edges
    assert metric("SSIM").compute(truths, truths) == pytest.approx(1)
    small = truths[0][:4, :7]
    assert metric("SSIM").compute([small], [small]) == pytest.approx(1)
    assert metric("SSIM").compute([255 - small], [small]) < 0.5


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small vision network without a pooler, stored as a published one is."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**size, image_size=16, patch_size=8)
    folder = tmp_path_factory.mktemp("network") / "tiny-vit"
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


def test_the_frechet_distance_tells_sets_apart_and_names_its_network(network):
    pytest.importorskip("torchmetrics")
    rng = np.random.default_rng(0)
    sets = [[rng.integers(low, low + 60, (16, 16, 3), dtype=np.uint8) for _ in range(40)] for low in (0, 0, 150)]
    (found,) = RGB.network_metrics(network)
    assert (found.name, found.min_samples) == ("Fréchet distance, tiny-vit", 2048)
    assert found.compute(sets[0], sets[0]) == pytest.approx(0, abs=1e-3)
    assert found.compute(sets[2], sets[0]) > 5 * found.compute(sets[1], sets[0]) > 0
    with pytest.raises(ValueError, match="8 samples for 8 features"):
        found.compute(sets[0][:8], sets[1][:8])


def test_a_network_that_cannot_be_used_is_one_line(tmp_path):
    pytest.importorskip("torchmetrics")
    with pytest.raises(ValueError, match="cannot be used as a vision network"):
        RGB.network_metrics(str(tmp_path))
    assert modality("depth").network_metrics("any") == ()


def test_a_contrastive_model_compares_pictures_with_texts(tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "red": 1, "disc": 2, "<end>": 3}, "<pad>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 3)])
    folder = tmp_path / "tiny-clip"
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tower | {"vocab_size": 4, "max_position_embeddings": 6, "eos_token_id": 3, "pad_token_id": 0}
    vision = tower | {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=5)
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    transformers.CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(folder)
    picture = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    pictures = RGB.contrastive(str(folder))([picture, 255 - picture])
    texts = modality("caption").contrastive(str(folder))([("red disc", "disc"), "red disc", "disc " * 20])
    assert pictures.shape == (2, 5)
    assert texts.shape == (3, 5)
    assert np.allclose(np.linalg.norm(np.concatenate([pictures, texts]), axis=1), 1, atol=1e-5)
    assert np.allclose(texts[0], texts[1])
    assert not np.allclose(texts[0], texts[2], atol=1e-3)
    assert modality("depth").contrastive(str(folder)) is None


def test_a_network_of_pictures_alone_is_no_contrastive_model(network):
    with pytest.raises(ValueError, match="is not a contrastive model of pictures and texts"):
        RGB.contrastive(network)


def test_scoring_pictures_imports_no_library_that_takes_seconds():
    code = (
        "import sys, numpy as np; from fourm_rgb.measures import ssim\n"
        "x = np.zeros((12, 12, 3), np.uint8); assert ssim([x], [x]) == 1\n"
        "assert not {'torch', 'torchmetrics', 'matplotlib', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
