"""`fourm generate`: any modalities in, any modalities out, as files of each modality's own format and as pictures."""

from __future__ import annotations

from typing import Annotated

import typer

from fourm_engine.cli.options import (
    Device,
    Disable,
    Given,
    Guidance,
    Out,
    Providers,
    Run,
    Samples,
    Seed,
    Steps,
    Temperature,
    Tokenizers,
    TopK,
    TopP,
    pairs,
    values,
)


def generate(
    run: Run,
    target: Annotated[list[str], typer.Option(help="Modality to generate; repeat it, in the order wanted.")],
    out: Out,
    given: Given = None,
    seed: Seed = 0,
    samples: Samples = 1,
    steps: Steps = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    guidance: Guidance = None,
    device: Device = None,
    tokenizer: Tokenizers = None,
    provider: Providers = None,
    disable: Disable = None,
) -> None:
    """Generate modalities from others with a trained model."""
    inputs = values("--input", given)
    tokenizers = pairs("--tokenizer", tokenizer, "MODALITY=PLACE")
    providers = pairs("--provider", provider, "NAME=DISTRIBUTION")

    from fourm_engine.recipes import generate as recipe

    recipe.generate(
        run,
        inputs,
        target,
        out,
        seed=seed,
        samples=samples,
        device=device,
        tokenizers=tokenizers,
        providers=providers,
        disable=disable or (),
        steps=steps,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        guidance=guidance,
    )
