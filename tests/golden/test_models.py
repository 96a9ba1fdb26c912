"""Published models compute here what they computed there: losses, logits, encoder outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm_engine.batch import Batch
from fourm_engine.masking.pack import patchify
from fourm_engine.model import FourM
from tests.golden.cases import Case, cases, write_checkpoint
from tests.golden.packing import Packing

LOSS, LOGITS = 1e-6, 3e-5  # relative, absolute


def batch_of(case: Case, model: FourM) -> Batch:
    """The recorded inputs and targets, packed."""
    data, published = case.data(), {name: m.spec.published_name for name, m in model.modalities.items()}
    size = len(next(value for key, value in data.items() if key.endswith("/tensor")))
    packing = Packing(model.vocabulary, size)
    for b in range(size):
        for entry in model.vocabulary:
            stem = f"in/{published[entry.name]}"
            values, shown = data[f"{stem}/tensor"][b], np.flatnonzero(data[f"{stem}/input_mask"][b] == 0)
            targets = np.flatnonzero(data[f"{stem}/target_mask"][b] == 0) if entry.size else []
            if entry.patch_dim:
                values = patchify(values.astype(np.float32), model.modalities[entry.name].spec)
            text = entry.layout.kind != "grid"
            packing.fill(b, entry, values, shown, targets, text=text)
    return packing.batch()


@pytest.mark.parametrize("case", cases("fm"))
@torch.inference_mode()
def test_a_published_model_gives_the_recorded_losses_and_logits(case, tmp_path):
    model = FourM.from_pretrained(write_checkpoint(case, tmp_path / "model.safetensors"), device="cpu")
    assert not model.missing
    batch, data = batch_of(case, model), case.data()
    published = {name: m.spec.published_name for name, m in model.modalities.items()}

    losses = {name: float(total) / max(count, 1) for name, (total, count) in model.network(batch).items()}
    recorded = case.content["per_modality_loss"]
    for name, loss in losses.items():
        assert loss == pytest.approx(recorded.get(published[name], 0.0), rel=LOSS), name
    asked = [name for name in losses if published[name] in case.config["domains_out"]]
    # "average_over: all" of the loss section: an absent modality counts as zero.
    assert sum(losses[n] for n in asked) / len(asked) == pytest.approx(case.content["loss_mod"], rel=LOSS)
    tokens = {name: batch.target_counts[name] * model.vocabulary[name].size for name in asked}
    by_token = sum(losses[name] * tokens[name] for name in asked) / sum(tokens.values())
    assert by_token == pytest.approx(case.content["loss_token"], rel=LOSS)

    features, valid = model.network.encode_features(batch.encoder, batch.continuous)
    encoder_sum = (features * valid[..., None]).double().sum((1, 2)).numpy()
    np.testing.assert_allclose(encoder_sum, data["out/encoder_sum"], rtol=1e-4, atol=2e-3)

    context, valid = model.network.encode(batch.encoder, batch.continuous)
    y = model.network.decode(batch.decoder, context, valid).flatten(0, 1)
    start = 0
    for name, count in batch.target_counts.items():
        rows, stem = slice(start, start + count), f"out/{published[name]}"
        start += count
        if f"{stem}/argmax" not in data:
            assert not count
            continue
        logits = model.network.logits(y[batch.target_index[rows]], name).numpy()
        np.testing.assert_array_equal(batch.target_ids[rows], data[f"{stem}/target_ids"])
        np.testing.assert_allclose(logits[:, :32], data[f"{stem}/logits_first32"], rtol=0, atol=LOGITS)
        sums = torch.from_numpy(logits).double().logsumexp(1).numpy()
        np.testing.assert_allclose(sums, data[f"{stem}/logsumexp"], rtol=0, atol=LOGITS)
        np.testing.assert_array_equal(logits.argmax(1), data[f"{stem}/argmax"])
