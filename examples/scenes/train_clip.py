"""Train a small CLIP on the pictures and captions of the scenes:

    python examples/scenes/train_clip.py --data data/scenes/train --out data/scenes/clip_model --steps 300 --seed 0

In: the `rgb` and `caption` shards of a split written by `render.py`. Out: a folder in Hugging Face's format
(safetensors, config, tokenizer, preprocessor_config), which `transformers.CLIPModel.from_pretrained` loads.

The model is `transformers.CLIPModel` made small; the loss is CLIP's symmetric cross-entropy over the batch (Radford et
al. 2021, section 2.3). Prints the retrieval accuracy on the held-out split beside `--data`: expect about 50% (chance
among 64 is 1.6%) after 45 seconds of one core. The folder appears only when complete; an existing one is kept.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.utils import logging

from fourm_engine.device import settle_threads

MAX_TOKENS = 48
PAD, BEGIN, END, UNKNOWN = "<pad>", "<|startoftext|>", "<|endoftext|>", "<unk>"
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # of colours in [0, 1]; written to preprocessor_config.json


def read_split(root: Path) -> tuple[np.ndarray, list[list[str]]]:
    """Pictures uint8 (n, S, S, 3) and the captions of each. Raises ValueError if shards are missing or do not align."""
    pictures, captions = _members(root / "rgb"), _members(root / "caption")
    if not pictures:
        raise ValueError(f"--data {root} holds no rgb/shard-*.tar; render the scenes first (examples/scenes/render.py)")
    if pictures.keys() != captions.keys():
        raise ValueError(f"--data {root}: the samples of rgb and caption differ; delete the shards, render again")
    rgb = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures.values()])
    return rgb, [captions[name].decode().removesuffix("\n").split("\n") for name in pictures]


def _members(folder: Path) -> dict[str, bytes]:
    files = {}
    for shard in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                files[Path(member.name).stem] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return files


def train_tokenizer(captions: list[list[str]]) -> PreTrainedTokenizerFast:
    """The lower-cased words of the captions, framed by begin and end tokens as in CLIP.

    Whole words, because `WordPieceTrainer` numbers its pieces differently in each run, and these captions have few."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = [PAD, BEGIN, UNKNOWN, END]
    trainer = trainers.WordLevelTrainer(vocab_size=512, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator((line for lines in captions for line in lines), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(t, tokenizer.token_to_id(t)) for t in (BEGIN, END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
    )


def build(tokenizer: PreTrainedTokenizerFast, *, size: int, width: int = 128, blocks: int = 3) -> CLIPModel:
    """A CLIP of `width` and `blocks` in both towers, for pictures of `size` x `size` pixels in patches of 8."""
    if size % 8:
        raise ValueError(f"pictures of {size} pixels do not divide into patches of 8; render them with another --size")
    tower = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": width // 32,
        "hidden_act": "gelu",  # the exact one, which is the fast one on a CPU
        "projection_dim": width,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {"image_size": size, "patch_size": 8}
    config = CLIPConfig(text_config={**tower, **text}, vision_config={**tower, **vision}, projection_dim=width)
    return CLIPModel(config)


def contrast(similarity: torch.Tensor) -> torch.Tensor:
    """CLIP's loss on logits (B, B) of pictures against captions: the mean of both directions' cross-entropies."""
    target = torch.arange(similarity.shape[0])
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def train(
    rgb: np.ndarray, captions: list[list[str]], *, steps: int, seed: int = 0, batch: int = 32, rate: float = 1.5e-3
) -> tuple[CLIPModel, PreTrainedTokenizerFast]:
    """A model trained for `steps` batches, each picture beside one of its captions at random."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = train_tokenizer(captions)
    model = build(tokenizer, size=rgb.shape[1]).train()
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=rate
    )
    warm = max(1, min(30, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min((k + 1) / warm, 0.5 * (1 + math.cos(math.pi * k / steps)) + 0.01)
    )
    batch = min(batch, len(rgb))
    order = np.empty(0, dtype=np.int64)
    began = time.perf_counter()
    for step in range(steps):
        if order.size < batch:
            order = rng.permutation(len(rgb))
        chosen, order = order[:batch], order[batch:]
        lines = [captions[k][int(rng.integers(len(captions[k])))] for k in chosen]
        output = model(pixel_values=pixels(rgb[chosen]), **tokenise(tokenizer, lines))
        loss = contrast(output.logits_per_image)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))  # as in the paper
        if (step + 1) % 50 == 0 or step + 1 == steps:
            rate_now = (step + 1) / (time.perf_counter() - began)
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {rate_now:.1f} steps a second", flush=True)
    return model.eval(), tokenizer


def pixels(rgb: np.ndarray) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> float (B, 3, S, S), normalised as the saved preprocessor_config says."""
    x = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def tokenise(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> dict[str, torch.Tensor]:
    tokens = tokenizer(lines, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


@torch.no_grad()
def matching_accuracy(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, rgb: np.ndarray, captions: list[list[str]], *, group: int = 64
) -> tuple[float, float]:
    """Top-1 accuracy in [0, 1] of picture -> caption and caption -> picture, among groups of `group` held-out pairs."""
    group = min(group, len(rgb))
    right = np.zeros(2)
    starts = range(0, len(rgb) - group + 1, group)
    for start in starts:
        lines = [captions[k][0] for k in range(start, start + group)]
        logits = model(pixel_values=pixels(rgb[start : start + group]), **tokenise(tokenizer, lines)).logits_per_image
        target = torch.arange(group)
        right += [(logits.argmax(dim).eq(target).float().mean().item()) for dim in (1, 0)]
    to_caption, to_picture = right / len(starts)
    return float(to_caption), float(to_picture)


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, out: Path, *, size: int) -> None:
    """Write the folder, for pictures of `size` pixels, under a temporary name and rename it: complete or absent."""
    from transformers import CLIPImageProcessor  # here, because importing it warns that torchvision is absent

    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=MEAN, image_std=STD
    ).save_pretrained(part)
    os.replace(part, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a rendered split: the folder with rgb/ and caption/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.set_verbosity_error()  # such as that torchvision, which nothing here needs, is absent
    logging.disable_progress_bar()
    if options.out.exists():
        print(f"{options.out} is there already and is kept")
        return
    print(settle_threads())
    try:
        rgb, captions = read_split(options.data)
        model, tokenizer = train(rgb, captions, steps=options.steps, seed=options.seed)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    held_out = options.data.parent / "val"
    if held_out.exists():
        to_caption, to_picture = matching_accuracy(model, tokenizer, *read_split(held_out))
        print(f"held out, top-1 among 64: picture -> caption {to_caption:.0%}, caption -> picture {to_picture:.0%}")
    save(model, tokenizer, options.out, size=rgb.shape[1])
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
