"""Models of 4M-21 and of super-resolution compute here what they computed there, with all 19 domains, register tokens,
learned positions and embeddings of text as input; and those with a plugin generate the recorded tokens.

The cases are those of the folder that FOURM_GOLDEN21 names; the text formats are in `cases21`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fourm_engine.batch import Batch
from fourm_engine.convert import published_model
from fourm_engine.convert.tensors import Domain, vocabulary_of
from fourm_engine.generate.guidance import branches_of
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample
from fourm_engine.masking.pack import Shown
from fourm_engine.model import FourM
from fourm_plugins.spec import Grid, Sequence
from tests.golden.cases import Case, write_checkpoint
from tests.golden.packing import Packing
from tests.golden.test_models import LOGITS, LOSS
from tests.plugins.more21 import installed

installed = pytest.fixture(installed)
#: Beyond this rank, decoders of the published code count from 0 again; ours goes on.
USED = {"human_poses": 263}


def case_of(name: str) -> Case:
    folder = os.environ.get("FOURM_GOLDEN21")
    if not folder:
        pytest.skip("FOURM_GOLDEN21 does not name the folder with the cases of 4M-21")
    stem = Path(folder) / name
    return Case(stem, "fm", json.loads(stem.with_name(f"{name}.json").read_text("utf-8")))


def batch_of(data: dict[str, np.ndarray], domains: list[Domain]) -> Batch:
    """The recorded inputs and targets, packed."""
    size = len(data[f"in/{domains[0].name}/tensor"])
    packing = Packing(vocabulary_of(domains), size)
    for b in range(size):
        for domain in domains:
            entry, text = packing.vocabulary[domain.name], isinstance(domain.layout, Sequence)
            values = data[f"in/{domain.name}/tensor"][b]
            used = np.flatnonzero(data[f"in/{domain.name}/input_mask"][b] == 0) if domain.input else []
            targets = np.flatnonzero(data[f"in/{domain.name}/target_mask"][b] == 0) if domain.target else []
            if domain.patch_dim and isinstance(domain.layout, Grid):
                edge = domain.layout.height
                pixels = values.reshape(3, edge, 16, edge, 16).transpose(1, 3, 2, 4, 0)
                values = pixels.reshape(edge**2, domain.patch_dim)
            packing.fill(b, entry, values, used, targets, text=text)
    return packing.batch()


@pytest.mark.parametrize("name", ["fm21_all", "fm21_registers", "fm21_full_poses", "fm_sr"])
@torch.inference_mode()
def test_a_published_model_of_any_domains_gives_the_recorded_losses_and_logits(name, tmp_path):
    case = case_of(name)
    checkpoint = published_model.open_checkpoint(write_checkpoint(case, tmp_path / "model.safetensors"))
    domains, data = checkpoint.domains, case.data()
    network = published_model.build_network(checkpoint, domains, {domain.name: domain.name for domain in domains})
    batch = batch_of(data, domains)
    ranks = batch.decoder.order.flatten()[batch.target_index].numpy()
    tokens, registers = batch.encoder, network.config.registers
    embedded = network.embedding.encoder(tokens.ids, tokens.pos, tokens.mod, batch.continuous)
    (x,), _, valid = network.encode_embedded(*embedded, tokens.mod >= 0)
    if registers:
        sums = x[:, :registers].double().sum((1, 2))
        np.testing.assert_allclose(sums, data["out/register_sum"], rtol=1e-4, atol=2e-3)
    sums = (x * valid[..., None])[:, registers:].double().sum((1, 2))
    np.testing.assert_allclose(sums, data["out/encoder_sum"], rtol=1e-4, atol=2e-3)
    losses = {domain: float(total) / max(count, 1) for domain, (total, count) in network(batch).items()}
    y = network.decode(batch.decoder, *network.encode(batch.encoder, batch.continuous)).flatten(0, 1)
    start = 0
    for domain, count in batch.target_counts.items():
        rows, stem = slice(start, start + count), f"out/{domain}"
        start += count
        if not count:
            continue
        within = ranks[rows] < USED.get(domain, 1 << 20)
        if within.all():
            assert losses[domain] == pytest.approx(case.content["per_modality_loss"][domain], rel=LOSS)
        logits = network.logits(y[batch.target_index[rows]], domain).numpy()
        np.testing.assert_array_equal(batch.target_ids[rows], data[f"{stem}/target_ids"])
        first, best = data[f"{stem}/logits_first32"], data[f"{stem}/argmax"]
        np.testing.assert_allclose(logits[within, :32], first[within], rtol=0, atol=LOGITS)
        np.testing.assert_array_equal(logits.argmax(1)[within], best[within])


@torch.inference_mode()
def test_the_recorded_tokens_of_every_domain_with_a_plugin_are_generated(tmp_path, installed):
    case = case_of("fm21_all")
    model = FourM.from_pretrained(write_checkpoint(case, tmp_path / "model.safetensors"), device="cpu")
    assert list(model.missing) == ["t5_caption"]
    names = {m.spec.published_name: name for name, m in model.modalities.items()}
    content = case_of("generate21")
    data, runs = content.data(), content.content["runs"]
    for run in runs:
        if "t5_caption" in run["condition"]:
            continue
        shown: dict[str, list[Shown]] = {}
        for domain, key in run["condition"].items():
            modality, values = model.modalities[names[domain]], data[f"in/{key}"]
            pixels = modality.spec.continuous
            shown[names[domain]] = [
                Shown.continuous(modality.spec, x.astype(np.float32)) if pixels else Shown.tokens(x) for x in values
            ]
        samples = [Sample(dict(zip(shown, one, strict=True))) for one in zip(*shown.values(), strict=True)]
        if len(run["targets"]) > 1:
            continue
        (target,) = run["targets"]
        name, recorded = names[target["domain"]], data[f"out/{run['name']}/{target['domain']}"]
        stage = Stage(target=name, scheme=target["scheme"], guidance=target["guidance"], prompt_sentinel=True)
        if target["scheme"] == "parallel":
            found = [f[name].ids for f in model.sampler.run(samples, [stage], [0] * len(samples))]
        else:
            plan, length = branches_of(stage, samples, model.sampler.sequences), recorded.shape[1]
            uniform = torch.zeros(len(samples), length)
            rows = plan.rows(samples)
            found, _ = model.sampler.autoregressive(rows, plan, name, length, stop=(), uniform_BL=uniform)
        np.testing.assert_array_equal(found, recorded, err_msg=run["name"])
