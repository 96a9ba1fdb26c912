"""Speed of tokenizers, codec by codec, also as a share of the machine's matrix-product rate.

    OMP_NUM_THREADS=1 python -m benchmarks.tokenizer_speed              # all that take under a minute of CPU time
    python -m benchmarks.tokenizer_speed --codec "ViT-L" --codec "published"

Prints images per second through `Tokenizer.encode` and `decode` (vectors per second for the MLP), the arithmetic of
products and convolutions over that time, and as a share of one large product's rate, which is measured before and after
each codec. In float32, as everywhere: bf16 cannot tell codes apart. On a CPU in seconds of CPU time, so that other load
on the machine hardly matters. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train_step import matmul_rate, now
from fourm_engine.tokenizers.divae import DiVAETokenizer
from fourm_engine.tokenizers.mlp import MLPTokenizer
from fourm_engine.tokenizers.neural import NeuralTokenizer, chunk
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_plugins.spec import FeatureMap, FeatureVector, Grid, ModalitySpec, TokenizerRecipe, TokenSpace, Vector

SMALL = {"encoder": {"blocks": 0, "mlp_ratio": 2}, "decoder": {"blocks": 2, "mlp_ratio": 2, "post_mlp": False}}
PUBLISHED_UNET = {"patch": 4, "width": 256, "multipliers": (1, 2, 2, 2), "blocks": 3, "attention": (4, 8), "groups": 32}


def pictures(kind: type[NeuralTokenizer], pixels: int, patch: int, **settings: Any) -> NeuralTokenizer:
    """A tokenizer of square RGB pictures, 16,384 codes."""
    side = pixels // patch
    return kind([_spec(Grid(height=side, width=side), FeatureMap(channels=3, height=pixels, width=pixels))], **settings)


def vectors(size: int, tokens: int) -> NeuralTokenizer:
    return MLPTokenizer([_spec(Vector(length=tokens), FeatureVector(size=size))])


def _spec(layout: Any, array: Any) -> ModalitySpec:
    return ModalitySpec(
        name="x",
        layout=layout,
        array=array,
        token_space=TokenSpace(name="x", size=16384),
        tokenizer=TokenizerRecipe(kind="any"),
        source="x",
        extensions=("npy",),
    )


def vit(size: str) -> Callable[[], NeuralTokenizer]:
    return lambda: pictures(VQVAETokenizer, 224, 16, encoder={"size": size}, decoder={"size": size}, latent_dim=32)


def unet(size: str, decoder: dict[str, Any]) -> Callable[[], NeuralTokenizer]:
    return lambda: pictures(DiVAETokenizer, 224, 16, encoder={"size": size}, decoder=decoder, latent_dim=32)


#: Name -> factory, and whether it takes more than a minute of CPU time.
CODECS: dict[str, tuple[Callable[[], NeuralTokenizer], bool]] = {
    "MLP, 768 features to 16 tokens": (lambda: vectors(768, 16), False),
    "patch-wise MLP and 2 blocks, 64 px": (lambda: pictures(VQVAETokenizer, 64, 8, **SMALL), False),
    "patch-wise MLP and small UNet, 64 px": (
        lambda: pictures(DiVAETokenizer, 64, 8, encoder={"blocks": 0, "mlp_ratio": 2}),
        False,
    ),
    "ViT-S, 224 px": (vit("S"), False),
    "ViT-B, 224 px": (vit("B"), False),
    "ViT-L, 224 px": (vit("L"), True),
    "ViT-B and UNet, published, 224 px": (unet("B", PUBLISHED_UNET), True),
}


def measure(call: Callable[[], Any], device: torch.device, repeat: int) -> tuple[float, float]:
    """(seconds of one call, the fastest of `repeat`; floating-point operations of one call)."""
    with FlopCounterMode(display=False) as counter:
        call()  # also warms up
    spent = []
    for _ in range(repeat):
        began = now(device)
        call()
        spent.append(now(device) - began)
    return min(spent), counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", action="append", default=[], help="part of its name; default: the quick ones")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = [
        name
        for name, (_, slow) in CODECS.items()
        if any(part.lower() in name.lower() for part in options.codec) or not (options.codec or slow)
    ]
    if not wanted:
        parser.error(f"no codec {', '.join(options.codec)}; there are {', '.join(CODECS)}")
    images = chunk(device)
    print(f"{device}, float32, {torch.get_num_threads()} threads, {images} images at a time")
    for name in wanted:
        torch.manual_seed(0)
        tokenizer = CODECS[name][0]().to(device)
        array = tokenizer.spec.array
        shape = (array.channels, array.height, array.width) if isinstance(array, FeatureMap) else (array.size,)
        arrays = list(np.random.default_rng(0).standard_normal((images, *shape), dtype=np.float32))
        peak = matmul_rate(device, torch.float32)
        results = {
            "encode": measure(partial(tokenizer.encode, arrays), device, options.repeat),
            "decode": measure(partial(tokenizer.decode, tokenizer.encode(arrays)), device, options.repeat),
        }
        peak = (peak + matmul_rate(device, torch.float32)) / 2
        shown = "; ".join(
            f"{what} {images / seconds:.3g}/s, {flops / images / 1e9:.3g} GFLOP each, {flops / seconds / peak:.0%}"
            for what, (seconds, flops) in results.items()
        )
        print(f"{name}: {shown} of {peak / 1e9:.1f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
