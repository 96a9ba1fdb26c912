"""Configurations that no recorded case covers: causal decoders, other widths and depths, QK-norm with biases. The
reference is the published format's description (docs of the golden cases), written out one token at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from fourm_engine.batch import Batch
from fourm_engine.convert import published_model
from fourm_engine.convert.tensors import Domain, vocabulary_of
from fourm_engine.model import FourM
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_plugins.spec import Grid, Sequence
from tests.golden.packing import Packing

GRID = Grid(height=3, width=3)
DOMAINS = [
    Domain("tok_depth@48", GRID, 11, 0, True, True),
    Domain("tok_normal@48", GRID, 7, 0, True, True),
    Domain("caption", Sequence(max_tokens=8), 4300, 0, True, True),
]
#: Domain -> (inputs, targets), (id, place) each; a sequence's places are ranks.
SHOWN = {
    "tok_depth@48": ([(3, 0), (9, 4)], [(1, 1), (0, 5), (10, 7)]),
    "tok_normal@48": ([(6, 8)], [(2, 0), (4, 3)]),
    "caption": ([(210, 0), (5, 1), (300, 2)], [(5, 0), (400, 1), (401, 2), (6, 3)]),
}


class Reference:
    def __init__(self, tensors, *, heads, causal, gated, qk_norm):
        self.w, self.heads, self.causal, self.gated, self.qk_norm = tensors, heads, causal, gated, qk_norm

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), eps=1e-6)

    def attend(self, name, q, k, v, allowed):
        """One query, one head at a time."""
        d, out = q.shape[1] // self.heads, torch.zeros_like(q)
        for h in range(self.heads):
            part = slice(h * d, (h + 1) * d)
            qh, kh, vh = q[:, part], k[:, part], v[:, part]
            if self.qk_norm:
                qh, kh = self.norm(f"{name}.q_norm", qh), self.norm(f"{name}.k_norm", kh)
            for i in range(len(q)):
                seen = [j for j in range(len(k)) if allowed(i, j)]
                out[i, part] = (kh[seen] @ qh[i] / d**0.5).softmax(0) @ vh[seen]
        return self.linear(f"{name}.proj", out)

    def mlp(self, name, x):
        if self.gated:
            return self.linear(f"{name}.fc2", F.silu(self.linear(f"{name}.fc1", x)) * self.linear(f"{name}.fc3", x))
        return self.linear(f"{name}.fc2", F.gelu(self.linear(f"{name}.fc1", x)))

    def encode(self, depth):
        tokens, places = [], []
        for domain, (inputs, _) in SHOWN.items():
            stem = f"encoder_embeddings.{domain}"
            for id_, place in inputs:
                tokens.append(self.w[f"{stem}.token_emb.weight"][id_])
                places.append(self.w[f"{stem}.pos_emb"][0, place] + self.w[f"{stem}.mod_emb"][0, 0])
        place = torch.stack(places)
        x = torch.stack(tokens) + place
        for block in range(depth):
            stem = f"encoder.{block}"
            qkv = self.linear(f"{stem}.attn.qkv", self.norm(f"{stem}.norm1", x)).chunk(3, -1)
            x = x + self.attend(f"{stem}.attn", *qkv, lambda i, j: True)
            x = x + self.mlp(f"{stem}.mlp", self.norm(f"{stem}.norm2", x))
        return self.linear("decoder_proj_context", self.norm("encoder_norm", x)) + place

    def logits(self, domain, encoder_depth, decoder_depth):
        """(predicted tokens, ids), alone: a decoder token attends within its own modality only."""
        stem, sequence, context = f"decoder_embeddings.{domain}", domain == "caption", self.encode(encoder_depth)
        targets = SHOWN[domain][1][:-1] if sequence else SHOWN[domain][1]
        content = [
            self.w[f"{stem}.token_emb.weight"][i] if sequence else self.w["mask_token"][0, 0] for i, _ in targets
        ]
        place = self.w[f"{stem}.pos_emb"][0, [place for _, place in targets]]
        y = torch.stack(content) + place + self.w[f"{stem}.mod_emb"][0, 0]
        for block in range(decoder_depth):
            stem_ = f"decoder.{block}"
            qkv = self.linear(f"{stem_}.self_attn.qkv", self.norm(f"{stem_}.norm1", y)).chunk(3, -1)
            ordered = sequence or self.causal
            y = y + self.attend(f"{stem_}.self_attn", *qkv, lambda i, j: j <= i if ordered else True)  # noqa: B023
            q = self.linear(f"{stem_}.cross_attn.q", self.norm(f"{stem_}.query_norm", y))
            k, v = self.linear(f"{stem_}.cross_attn.kv", self.norm(f"{stem_}.context_norm", context)).chunk(2, -1)
            y = y + self.attend(f"{stem_}.cross_attn", q, k, v, lambda i, j: True)
            y = y + self.mlp(f"{stem_}.mlp", self.norm(f"{stem_}.norm2", y))
        return F.linear(self.norm("decoder_norm", y), self.w[f"{stem}.to_logits.weight"])


def batch_of(model: FourM) -> Batch:
    packing = Packing(model.vocabulary, 1)
    names = {m.spec.published_name: name for name, m in model.modalities.items()}
    for domain, (inputs, targets) in SHOWN.items():
        entry = model.vocabulary[names[domain]]
        for token, place in inputs:
            packing.show(0, entry, place, token)
        if domain == "caption":
            packing.predict_in_order(0, entry, [token for token, _ in targets])
        else:
            for token, place in targets:
                packing.predict(0, entry, place, token)
    return packing.batch()


@pytest.mark.parametrize(
    "config",
    [
        {"width": 24, "encoder_blocks": 1, "decoder_blocks": 3, "heads": 3, "mlp": "gelu", "decoder_causal": True},
        {"width": 40, "encoder_blocks": 3, "decoder_blocks": 1, "heads": 2, "mlp": "gelu", "qk_norm": True},
        {"width": 16, "encoder_blocks": 2, "decoder_blocks": 2, "heads": 4, "mlp": "swiglu", "decoder_causal": True},
    ],
)
@torch.inference_mode()
def test_a_published_model_of_any_configuration_computes_what_the_format_says(config, tmp_path):
    bias = config["mlp"] == "gelu"
    settings = ModelConfig(bias=bias, **config)
    vocabulary = vocabulary_of(DOMAINS)
    torch.manual_seed(0)
    network = Transformer(settings, vocabulary)
    for name, parameter in network.named_parameters():
        parameter.copy_(
            torch.randn(parameter.shape) * 0.2 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        )
    names = {domain.name: domain.name for domain in DOMAINS}
    tensors = published_model.to_published(network, vocabulary, DOMAINS, names)
    arguments = published_model.arguments_of(settings, DOMAINS, image_size=48, patch_size=16)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt", **{key: str(value) for key, value in arguments.items()}})
    model = FourM.from_pretrained(path, device="cpu")
    batch = batch_of(model)

    reference = Reference(
        tensors,
        heads=settings.heads,
        causal=settings.decoder_causal,
        gated=settings.mlp == "swiglu",
        qk_norm=settings.qk_norm,
    )
    context, valid = model.network.encode(batch.encoder, batch.continuous)
    y = model.network.decode(batch.decoder, context, valid).flatten(0, 1)
    losses = {name: float(total) / count for name, (total, count) in model.network(batch).items()}
    start = 0
    by_name = {name: m.spec.published_name for name, m in model.modalities.items()}
    for name, count in batch.target_counts.items():
        rows = slice(start, start + count)
        start += count
        found = model.network.logits(y[batch.target_index[rows]], name)
        expected = reference.logits(by_name[name], settings.encoder_blocks, settings.decoder_blocks)
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5, err_msg=by_name[name])
        assert losses[name] == pytest.approx(float(F.cross_entropy(expected, batch.target_ids[rows])), rel=1e-5)
