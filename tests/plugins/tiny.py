"""Small models with random weights, stored as published ones are: `save(kind, folder)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CLASSES = {0: "wall", 1: "floor", 2: "sky-other"}
THINGS = {0: "cat", 1: "dog"}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cube", "on", "the", "floor", "[DEC]", "[ENC]"]
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}


def save(kind: str, folder: Path, **settings: Any) -> str:
    """Write a model of `kind` to `folder`, whose name is returned. Weights are large enough for outputs that differ
    from place to place and from picture to picture."""
    import torch

    torch.manual_seed(0)
    network, processor, words = globals()[f"_{kind}"](**settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    for part in (network, processor, words):
        if part is not None:
            part.save_pretrained(folder)
    return str(folder)


def _depth(*, size: int = 28, **settings: Any) -> tuple:
    import transformers as t

    stages = ["stage1", "stage2", "stage3", "stage4"]
    vit = {**LAYERS, "num_hidden_layers": 4, "image_size": 28, "patch_size": 14}
    backbone = t.Dinov2Config(**vit, out_features=stages, reshape_hidden_states=False)
    config = t.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        patch_size=14,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        **settings,
    )
    sides = {"height": size, "width": size}
    processor = t.DPTImageProcessor(size=sides, keep_aspect_ratio=True, ensure_multiple_of=14)
    return t.DepthAnythingForDepthEstimation(config), processor, None


def _segformer() -> tuple:
    import transformers as t

    config = t.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
        id2label=CLASSES,
        label2id={name: i for i, name in CLASSES.items()},
    )
    try:
        processor = t.SegformerImageProcessor(size={"height": 32, "width": 32})
    except ImportError as error:  # transformers 5.20 asks for torchvision, without need
        pytest.skip(str(error).strip().partition(".")[0])
    return t.SegformerForSemanticSegmentation(config), processor, None


def _mask2former() -> tuple:
    import transformers as t

    swin = t.SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = t.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=4,
        id2label=CLASSES,
        label2id={name: i for i, name in CLASSES.items()},
    )
    processor = t.Mask2FormerImageProcessor(size={"height": 64, "width": 64})
    return t.Mask2FormerForUniversalSegmentation(config), processor, None


def _yolos() -> tuple:
    import transformers as t

    labels = {"id2label": THINGS, "label2id": {name: i for i, name in THINGS.items()}}
    config = t.YolosConfig(**LAYERS, image_size=[32, 32], patch_size=8, num_detection_tokens=5, **labels)
    processor = t.YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 48})
    return t.YolosForObjectDetection(config), processor, None


def _detr() -> tuple:
    import transformers as t

    resnet = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], out_features=["stage4"])
    config = t.DetrConfig(
        use_timm_backbone=False,
        backbone_config=resnet,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=4,
        id2label=THINGS,
        label2id={name: i for i, name in THINGS.items()},
    )
    processor = t.DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 48})
    return t.DetrForObjectDetection(config), processor, None


def _words() -> Any:
    import transformers as t
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    model = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "bos": "[DEC]", "eos": "[SEP]"}
    return t.PreTrainedTokenizerFast(tokenizer_object=model, **{f"{k}_token": v for k, v in special.items()})


def _blip() -> tuple:
    import transformers as t

    ids = {"bos_token_id": 11, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    text = {**LAYERS, **ids, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 32}
    config = t.BlipConfig(text_config=text, vision_config={**LAYERS, "image_size": 32, "patch_size": 8})
    processor = t.BlipImageProcessor(size={"height": 32, "width": 32})
    return t.BlipForConditionalGeneration(config), processor, _words()


def _encoder_decoder() -> tuple:
    import transformers as t

    encoder = t.ViTConfig(**LAYERS, image_size=32, patch_size=8)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": len(WORDS)}
    decoder = t.GPT2Config(**sizes, bos_token_id=11, eos_token_id=3, add_cross_attention=True, is_decoder=True)
    network = t.VisionEncoderDecoderModel(t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    for config in (network.config, network.generation_config):
        config.decoder_start_token_id, config.pad_token_id = 11, 0
    network.generation_config.eos_token_id = 3
    return network, t.ViTImageProcessor(size={"height": 32, "width": 32}), _words()
