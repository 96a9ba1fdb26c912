"""A published model with register tokens, of the folder that FOURM_GOLDEN21 names: the same losses and logits.

The format's readers do not know two kinds of its domains; here they are what computes the same. Embeddings of texts are
patches with a last number of 1, for the bias of their projection. A domain with learned positions, of which encoder and
decoder have a table each, is two modalities.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fourm_engine.batch import Batch
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_plugins.spec import Grid, Sequence, Vector
from tests.golden.cases import Case, state_dict
from tests.golden.packing import Packing
from tests.golden.test_models import LOGITS, LOSS
from tests.nn.conftest import make_vocabulary

GRID, VECTOR, TEXT = Grid(height=14, width=14), Vector(length=16), Sequence(max_tokens=256)
#: Modality -> (its domain, ids, layout, numbers a patch, whether input, whether target).
MODALITIES = {
    "pixels": ("rgb@224", 0, GRID, 768, True, False),
    "clip": ("tok_clip@224", 8192, GRID, 0, True, True),
    "global in": ("tok_imagebind_global", 8192, VECTOR, 0, True, False),
    "global out": ("tok_imagebind_global", 8192, VECTOR, 0, False, True),
    "caption": ("caption", 30000, TEXT, 0, True, True),
    "metadata": ("metadata", 30000, TEXT, 0, True, True),
    "t5": ("t5_caption", 0, TEXT, 4097, True, False),
}


@pytest.fixture(scope="module")
def case() -> Case:
    folder = os.environ.get("FOURM_GOLDEN21")
    if not folder:
        pytest.skip("FOURM_GOLDEN21 does not name the folder with the cases of 4M-21")
    stem = Path(folder) / "fm21_registers"
    return Case(stem, "fm", json.loads(stem.with_name(stem.name + ".json").read_text("utf-8")))


@torch.no_grad()
def network_of(case: Case) -> Transformer:
    vocabulary = make_vocabulary([(name, *facts[1:4]) for name, facts in MODALITIES.items()])
    config = ModelConfig(
        width=48, encoder_blocks=2, decoder_blocks=1, heads=6, mlp="gelu", bias=True, registers=4
    )  # fmt: skip
    network, state = Transformer(config, vocabulary).eval(), state_dict(case)
    network.registers.copy_(state["register_tokens"][0])
    embedding = network.embedding
    embedding.mask_token.copy_(state["mask_token"][0, 0])
    for name, parameter in network.named_parameters():
        if not name.startswith(("embedding.", "heads.", "registers")):
            parameter.copy_(state[name.replace("context_proj", "decoder_proj_context")])
    for name, (domain, _, layout, patch_dim, shown, asked) in MODALITIES.items():
        entry, rows = vocabulary[name], slice(vocabulary[name].start, vocabulary[name].stop)
        side = f"{'encoder' if shown else 'decoder'}_embeddings.{domain}"
        embedding.modality[entry.index] = state[f"{side}.mod_emb"][0, 0]
        if layout is VECTOR:
            embedding.learned_positions[name].copy_(state[f"{side}.pos_emb"][0])
        if patch_dim == 768:
            embedding.projections[name].weight.copy_(state[f"{side}.proj.weight"])
        elif patch_dim:
            weight, bias = (state[f"{side}.emb_proj.{part}"] for part in ("weight", "bias"))
            embedding.projections[name].weight.copy_(torch.cat([weight, bias[:, None]], 1))
        elif shown:
            embedding.encoder_table[rows] = state[f"{side}.token_emb.weight"]
        if asked:
            embedding.decoder_table[rows] = state[f"decoder_embeddings.{domain}.token_emb.weight"]
            network.heads.weight[rows] = state[f"decoder_embeddings.{domain}.to_logits.weight"]
    return network


def batch_of(data: dict[str, np.ndarray]) -> Batch:
    """The recorded inputs and targets, packed."""
    packing = Packing(make_vocabulary([(name, *facts[1:4]) for name, facts in MODALITIES.items()]), 2)
    for b in range(2):
        for entry in packing.vocabulary:
            domain, _, layout, patch_dim, shown, asked = MODALITIES[entry.name]
            values = data[f"in/{domain}/tensor"][b]
            used = np.flatnonzero(data[f"in/{domain}/input_mask"][b] == 0) if shown else []
            targets = np.flatnonzero(data[f"in/{domain}/target_mask"][b] == 0) if asked else []
            if patch_dim == 768:
                values = values.reshape(3, 14, 16, 14, 16).transpose(1, 3, 2, 4, 0).reshape(196, 768)
            elif patch_dim:
                values = np.concatenate([values, np.ones((len(values), 1))], 1)
            for rank, p in enumerate(used):
                packing.show(b, entry, rank if layout is TEXT else p, values[p])
            if layout is TEXT:
                packing.predict_in_order(b, entry, [values[p] for p in targets])
            else:
                for p in targets:
                    packing.predict(b, entry, p, values[p])
    return packing.batch()


@torch.inference_mode()
def test_a_published_model_with_registers_gives_the_recorded_losses_and_logits(case):
    network, data = network_of(case), case.data()
    batch = batch_of(data)
    tokens = batch.encoder
    embedded = network.embedding.encoder(tokens.ids, tokens.pos, tokens.mod, batch.continuous)
    (x,), _, valid = network.encode_embedded(*embedded, tokens.mod >= 0)
    np.testing.assert_allclose(x[:, :4].double().sum((1, 2)), data["out/register_sum"], rtol=1e-4, atol=2e-3)
    tokens = (x * valid[..., None])[:, 4:].double().sum((1, 2))
    np.testing.assert_allclose(tokens, data["out/encoder_sum"], rtol=1e-4, atol=2e-3)
    losses = {name: float(total) / max(count, 1) for name, (total, count) in network(batch).items()}
    y = network.decode(batch.decoder, *network.encode(batch.encoder, batch.continuous)).flatten(0, 1)
    start = 0
    for name, count in batch.target_counts.items():
        rows, stem = slice(start, start + count), f"out/{MODALITIES[name][0]}"
        start += count
        if not count:
            continue
        assert losses[name] == pytest.approx(case.content["per_modality_loss"][MODALITIES[name][0]], rel=LOSS)
        logits = network.logits(y[batch.target_index[rows]], name).numpy()
        np.testing.assert_allclose(logits[:, :32], data[f"{stem}/logits_first32"], rtol=0, atol=LOGITS)
        np.testing.assert_array_equal(logits.argmax(1), data[f"{stem}/argmax"])
