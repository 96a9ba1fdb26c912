"""What one may rely on of the encoder-decoder: packing changes nothing, and who sees whom."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from fourm_engine.batch import Batch, Patches, Tokens
from fourm_engine.nn import heads
from fourm_engine.nn.transformer import Transformer
from tests.nn.conftest import lively, outputs, random_batch, small_config, tokens

VARIANTS = [{"mlp": "gelu", "bias": True}, {}, {"qk_norm": True}, {"qk_norm": True, "bias": True}, {"registers": 3}]


def take(t: Tokens, index: torch.Tensor) -> Tokens:
    return Tokens(t.ids[:, index], t.pos[:, index], t.mod[:, index], t.order[:, index])


def pad(t: Tokens, count: int) -> Tokens:
    def extend(x, value):
        return torch.cat([x, torch.full((len(x), count), value)], dim=1)

    return Tokens(extend(t.ids, 3), extend(t.pos, 1), extend(t.mod, -1), extend(t.order, 0))


def with_encoder(batch: Batch, encoder: Tokens, pixels: Patches) -> Batch:
    return Batch(encoder, batch.decoder, {"pixels": pixels}, batch.target_index, batch.target_ids, batch.target_counts)


def test_padding_changes_nothing(model, batch):
    padded = with_encoder(batch, pad(batch.encoder, 5), batch.continuous["pixels"])
    m = batch.decoder.shape[1]
    padded.decoder = pad(batch.decoder, 4)
    valid = batch.decoder.mod >= 0
    got, expected = outputs(model, padded)[:, :m][valid], outputs(model, batch)[valid]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_order_of_the_encoders_tokens_changes_nothing(model, batch):
    index = torch.randperm(batch.encoder.shape[1], generator=torch.Generator().manual_seed(1))
    pixels = batch.continuous["pixels"]
    moved = Patches(pixels.values, pixels.row, index.argsort()[pixels.slot])
    shuffled = with_encoder(batch, take(batch.encoder, index), moved)
    torch.testing.assert_close(outputs(model, shuffled), outputs(model, batch), atol=1e-5, rtol=1e-5)


def changed_by(model, batch, slot):
    """Which decoder slots of sample 0 change when the token in `slot` becomes another one."""
    before = outputs(model, batch)
    ids = batch.decoder.ids.clone()
    ids[0, slot] = torch.where(ids[0, slot] == 5, 6, 5)
    d = batch.decoder
    after = outputs(
        model,
        Batch(batch.encoder, Tokens(ids, d.pos, d.mod, d.order), batch.continuous, *([None] * 3)),  # type: ignore[arg-type]
    )
    assert torch.equal(after[1], before[1])
    return ((after - before).abs().amax(-1)[0] > 1e-6).nonzero()[:, 0].tolist()


def test_registers_are_seen_by_all_and_are_no_features_of_a_sample(vocabulary, batch):
    torch.manual_seed(0)
    model = lively(Transformer(small_config(registers=3), vocabulary))
    features, valid = model.encode_features(batch.encoder, batch.continuous)
    assert features.shape[:2] == valid.shape == batch.encoder.shape
    before = outputs(model, batch)
    with torch.no_grad():
        model.registers[1].normal_()
    after, changed = outputs(model, batch), model.encode_features(batch.encoder, batch.continuous)[0]
    assert not torch.isclose(before, after)[batch.decoder.mod >= 0].all(-1).any()
    assert not torch.isclose(features, changed)[valid].all(-1).any()
    without = Transformer(small_config(), vocabulary).parameter_counts()["backbone"]
    assert model.parameter_counts()["backbone"] == without + 3 * 32


def test_grid_targets_see_each_other_and_sequences_only_what_came_before(model, batch):
    mod = batch.decoder.mod[0].tolist()
    colour, text = [i for i, m in enumerate(mod) if m == 0], [i for i, m in enumerate(mod) if m == 3]
    assert changed_by(model, batch, colour[1]) == colour
    assert len(text) == 3
    assert changed_by(model, batch, text[0]) == text
    assert changed_by(model, batch, text[1]) == text[1:]
    assert changed_by(model, batch, text[2]) == text[2:]


def test_with_decoder_causal_grid_targets_see_only_earlier_positions(vocabulary, batch):
    model = lively(Transformer(small_config(decoder_causal=True), vocabulary))
    mod, pos = batch.decoder.mod[0], batch.decoder.pos[0]
    slot = int((mod == 0).nonzero()[1, 0])
    later = ((mod == 0) & (pos >= pos[slot])).nonzero()[:, 0].tolist()
    assert changed_by(model, batch, slot) == later


def test_with_nothing_visible_the_output_is_that_of_no_context(vocabulary, batch):
    model = lively(Transformer(small_config(mlp="gelu", bias=True), vocabulary)).eval()
    empty = tokens([[], []])
    context, valid = model.encode(empty, {})
    assert context.isfinite().all()
    assert not valid.any()
    got = model.decode(batch.decoder, context, valid)
    torch.testing.assert_close(got, model.decode(batch.decoder, torch.randn(2, 7, 32), torch.zeros(2, 7).bool()))
    assert got.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_finite_in_every_variant(vocabulary, batch, variant):
    torch.manual_seed(0)
    model = Transformer(small_config(**variant), vocabulary)
    batch.encoder.mod[1] = -1  # a sample that shows nothing
    losses = model(batch)
    total = sum(loss / count for loss, count in losses.values())
    total.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    for name, (loss, count) in losses.items():
        assert loss.dtype == torch.float32
        # ln V at first: nothing is preferred yet.
        assert loss.item() / count == pytest.approx(torch.tensor(float(vocabulary[name].size)).log().item(), abs=0.3)


def test_every_parameter_gets_a_gradient_whatever_the_batch_holds(model, batch):
    """Ranks that reduce gradients in shards must agree on which there are."""
    batch.encoder.mod.clamp_(max=0)
    batch.encoder.ids.clamp_(min=0, max=3)
    batch.continuous = {}
    batch.target_counts = {"colour": 0, "depth": 0}
    sum(loss for loss, _ in model(batch).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_loss_is_the_cross_entropy_over_the_modalitys_own_ids(model, batch, vocabulary):
    losses = model(batch)
    y = outputs(model, batch).flatten(0, 1)
    start = 0
    for name, count in batch.target_counts.items():
        index, ids = batch.target_index[start : start + count], batch.target_ids[start : start + count]
        logits = model.logits(y[index], name)
        assert logits.shape == (count, vocabulary[name].size)
        expected = -logits.log_softmax(-1)[torch.arange(count), ids].sum()
        torch.testing.assert_close(losses[name][0], expected)
        assert losses[name][1] == count
        start += count
    assert start == len(batch.target_ids)


def test_a_loss_computed_in_chunks_is_the_same_with_the_same_gradients(model, batch, monkeypatch):
    def run():
        model.zero_grad()
        losses = model(batch)
        sum(loss for loss, _ in losses.values()).backward()
        return {n: x.detach() for n, (x, _) in losses.items()}, {n: p.grad.clone() for n, p in model.named_parameters()}

    whole, whole_grads = run()
    monkeypatch.setattr(heads, "MAX_LOGITS", 24)  # 1 to 3 tokens at a time
    chunked, chunked_grads = run()
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(chunked_grads, whole_grads, atol=1e-5, rtol=1e-4)


def test_under_autocast_the_loss_is_about_the_same(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch)
        sum(loss for loss, _ in half.values()).backward()
    assert [loss.item() for loss, _ in half.values()] == pytest.approx(
        [loss.item() for loss, _ in model(batch).values()], rel=0.02
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_a_target_whose_probability_rounds_to_zero_has_a_finite_loss_and_gradient(model, batch, monkeypatch, frozen):
    model.heads.weight.requires_grad_(not frozen)
    with torch.no_grad():
        model.heads.weight.mul_(3000)

    def run():
        model.zero_grad()
        losses = model(batch)
        sum(loss for loss, _ in losses.values()).backward()
        named = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        return [loss.item() for loss, _ in losses.values()], named

    sums, gradients = run()
    monkeypatch.setattr(heads, "MAX_LOGITS", 24)
    expected, of_chunks = run()
    assert max(sums) > 200
    assert sums == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_chunks[name], rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_asking_for_logits_of_an_input_only_modality_is_an_error(model):
    with pytest.raises(ValueError, match="cannot predict 'pixels'"):
        model.logits(torch.zeros(1, 32), "pixels")


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_decoding_equals_the_full_causal_decoder(vocabulary, batch, variant):
    torch.manual_seed(0)
    model = lively(Transformer(small_config(**variant), vocabulary)).eval()
    batch.encoder.mod[1] = -1  # one row without condition
    with torch.no_grad():
        context, valid = model.encode(batch.encoder, batch.continuous)
        ids = torch.randint(18, 41, (2, 8))
        pos = torch.arange(8).expand(2, 8)
        mod = torch.full((2, 8), 3)
        full = model.decode(Tokens(ids, pos, mod, pos), context, valid)
        cache = model.start_cache([(context, valid, 1)], 8)
        steps = [model.decode_step(ids[:, i], pos[:, i], mod[:, i], cache) for i in range(8)]
        fixed, index_1 = model.start_cache([(context, valid, 1)], 8), torch.zeros(1, dtype=torch.int64)
        alike = [model.decode_step(ids[:, i], pos[:, i], mod[:, i], fixed, index_1 + i) for i in range(8)]
    torch.testing.assert_close(torch.stack(steps, dim=1), full, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.stack(alike, dim=1), full, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="max_len=8"):
        model.decode_step(ids[:, 0], pos[:, 0], mod[:, 0], cache)


def test_bfloat16_autocast_stays_close_and_caches(model, batch):
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        rough = model(batch)
        context, valid = model.encode(batch.encoder, batch.continuous)
        cache = model.start_cache([(context, valid, 1)], 2)
        one = torch.ones(2, dtype=torch.int64)
        assert model.decode_step(20 * one, 0 * one, 3 * one, cache).isfinite().all()
    for name in exact:
        assert rough[name][0].dtype == torch.float32
        assert rough[name][0].item() == pytest.approx(exact[name][0].item(), rel=0.1)


def test_compiled_blocks_trace_without_a_graph_break(vocabulary, batch):
    """One graph serves all encoder blocks, one all decoder blocks, for any mix of modalities of one shape."""
    torch.manual_seed(0)
    model = lively(Transformer(small_config(), vocabulary))
    expected = model(batch)
    torch._dynamo.reset()
    counter = CompileCounter()
    for block in (*model.encoder, *model.decoder):
        block.compile(fullgraph=True, dynamic=False, backend=counter)
    for seed in (0, 1):  # another mix of modalities, the same shapes
        other = random_batch(vocabulary, seed)
        got = model(other)
        if seed == 0:
            for name in expected:
                torch.testing.assert_close(got[name][0], expected[name][0])
    assert counter.frame_count == 2
