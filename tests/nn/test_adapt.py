"""A network that grew: what it knew keeps its bits, what is new learns, and what is exported is an ordinary network."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fourm_engine.batch import Patches
from fourm_engine.nn.adapt import add_lora, copy_weights, freeze, freeze_known, plain_state
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.spec import Grid, Sequence, Vector
from tests.nn.conftest import make_vocabulary, outputs, packed, random_batch, small_config

NEW = [
    ("heat", 13, Grid(height=3, width=4), 0),
    ("volts", 0, Grid(height=2, width=2), 3),
    ("mood", 5, Vector(length=2), 0),
    ("note", 23, Sequence(max_tokens=8), 0),
]


@pytest.fixture
def larger(vocabulary) -> Vocabulary:
    return make_vocabulary([(e.name, e.size, e.layout, e.patch_dim) for e in vocabulary] + NEW)


def grow(source, vocabulary, larger, how, *, rank=4):
    torch.manual_seed(1)
    network = Transformer(small_config(), larger)
    copy_weights(network, source)
    if how != "all":
        freeze_known(network, vocabulary)
    if how == "lora":
        add_lora(network, rank=rank, alpha=8)
    return network


def asking_for_new(larger, batch):
    """`batch` with its first decoder tokens asking for the new grid, and the new grid and vector shown."""
    index = {e.name: e.index for e in larger}
    decoder, encoder = batch.decoder, batch.encoder
    decoder.mod[:, :4], decoder.ids[:, :4], decoder.pos[:, :4] = index["heat"], -1, torch.arange(4)
    encoder.mod[:, 0], encoder.ids[:, 0], encoder.pos[:, 0] = index["heat"], larger["heat"].start + 3, 7
    encoder.mod[:, 1], encoder.ids[:, 1], encoder.pos[:, 1] = index["mood"], larger["mood"].start + 2, 1
    encoder.mod[:, 2], encoder.ids[:, 2], encoder.pos[:, 2] = index["volts"], -1, 3
    volts = packed(torch.tensor([1.0, -2.0, 0.5]).expand(*encoder.shape, 3), encoder.mod == index["volts"])
    pixels = batch.continuous["pixels"]
    left = encoder.mod[pixels.row, pixels.slot] == index["pixels"]
    batch.continuous = {"pixels": Patches(*(x[left] for x in vars(pixels).values())), "volts": volts}
    width = decoder.shape[1]
    batch.target_index = torch.tensor([0, 1, 2, 3, width, width + 1])
    batch.target_ids = torch.tensor([3, 1, 12, 0, 7, 7])
    batch.target_counts = {"heat": 6}
    return batch


def train(network, larger, batch, *, steps=5):
    """AdamW with a decay that would show on anything it touches; half the steps are about known modalities alone."""
    learning = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=0.05, weight_decay=0.5)
    for step in range(steps):
        current = asking_for_new(larger, random_batch(larger, step)) if step % 2 == 0 else batch
        optimiser.zero_grad()
        sum(loss for loss, count in network(current).values() if count).backward()
        optimiser.step()


def logits(network, batch):
    y = outputs(network, batch)
    return {name: network.logits(y, name) for name in ("colour", "depth", "text", "pose")}


@pytest.mark.parametrize("how", ["rows", "lora", "all"])
def test_growing_changes_no_bit_of_what_was_known(model, vocabulary, larger, batch, how):
    before, after = logits(model, batch), logits(grow(model, vocabulary, larger, how), batch)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def test_new_rows_alone_leave_every_known_logit_and_weight_bit_identical(model, vocabulary, larger, batch):
    before, weights = logits(model, batch), {n: t.clone() for n, t in model.state_dict().items()}
    network = grow(model, vocabulary, larger, "rows")
    start = {name: t.clone() for name, t in plain_state(network).items()}
    train(network, larger, batch)
    for name, tensor in logits(network, batch).items():
        assert torch.equal(tensor, before[name]), name
    state = plain_state(network)
    for name, tensor in weights.items():
        assert torch.equal(state[name][: len(tensor)], tensor), name
    changed = {name for name in state if not torch.equal(state[name], start[name])}
    assert changed == {
        "embedding.encoder_table",
        "embedding.decoder_table",  # by decay alone: no grid has decoder ids
        "embedding.modality",
        "embedding.projections.volts.weight",
        "embedding.encoder_positions.mood",
        "embedding.decoder_positions.mood",  # by decay alone
        "heads.weight",
    }


def test_new_rows_learn_to_predict_the_new_modality(model, vocabulary, larger, batch):
    network = grow(model, vocabulary, larger, "rows")

    def loss():
        return float(network(asking_for_new(larger, random_batch(larger, 0)))["heat"][0].detach())

    first = loss()
    train(network, larger, batch, steps=12)
    assert loss() < first - 1


def test_adapters_change_known_logits_only_once_they_learn_and_known_rows_never(model, vocabulary, larger, batch):
    before = logits(model, batch)
    network = grow(model, vocabulary, larger, "lora")
    train(network, larger, batch)
    assert not torch.equal(logits(network, batch)["depth"], before["depth"])
    state, old = plain_state(network), model.state_dict()
    for name in ("embedding.encoder_table", "heads.weight", "embedding.modality"):
        assert torch.equal(state[name][: len(old[name])], old[name])
    assert torch.equal(state["context_proj.weight"], old["context_proj.weight"])
    linear = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and ("attn" in n or "mlp" in n)]
    assert len(linear) == 2 * 5 + 2 * 8  # encoder: qkv, proj, fc1-3; decoder: with q, kv and a second proj
    for name in linear:
        assert not torch.equal(state[f"{name}.weight"], old[f"{name}.weight"]), name


@pytest.mark.parametrize("how", ["rows", "lora"])
def test_what_is_exported_is_an_ordinary_network_with_the_very_same_outputs(model, vocabulary, larger, batch, how):
    network = grow(model, vocabulary, larger, how)
    train(network, larger, batch)
    plain = Transformer(small_config(), larger)
    plain.load_state_dict(plain_state(network))
    for name, tensor in logits(network, batch).items():
        assert torch.equal(tensor, logits(plain, batch)[name]), name


def test_new_embeddings_are_drawn_at_the_size_of_those_that_are_there(model, vocabulary, larger):
    with torch.no_grad():
        model.embedding.encoder_table.mul_(0.03)
    network = grow(model, vocabulary, larger, "all")
    new, known = network.embedding.encoder_table[vocabulary.size :].detach(), model.embedding.encoder_table.detach()
    assert float(new.square().mean().sqrt()) == pytest.approx(float(known.square().mean().sqrt()))
    assert float(network.heads.weight.detach()[vocabulary.size :].std()) == pytest.approx(0.1 * 32**-0.5, rel=0.2)


def test_the_loss_by_token_adds_up_to_the_loss(model, batch, monkeypatch):
    monkeypatch.setattr("fourm_engine.nn.heads.MAX_LOGITS", 40)  # in chunks
    with torch.no_grad():
        whole, by_token = model(batch), model(batch, by_token=True)
    for name, (total, count) in whole.items():
        nats, number = by_token[name]
        assert (len(nats), number) == (count, count)
        assert nats.sum() == pytest.approx(float(total), rel=1e-5)


def test_a_resized_network_computes_from_the_same_weights_at_interpolated_positions(model, vocabulary):
    """Grids by their centres, learned positions in between; back at the size of before, it is the network of before."""

    def at(height, width, length, other):
        sizes = {"grid": Grid(height=height, width=width), "vector": Vector(length=length)}
        specs = [resized_spec(e, sizes.get(e.layout.kind, e.layout)) for e in other]
        return other.resized(specs)

    larger = at(6, 8, 6, vocabulary)
    assert {e.position_grid for e in larger if e.layout.kind == "grid"} == {(3, 4)}
    assert [e.start for e in larger] == [e.start for e in vocabulary]
    network = Transformer(small_config(), larger)
    copy_weights(network, model)
    before, after = model.embedding, network.embedding
    colour = after.fixed_positions[: 6 * 8].view(6, 8, -1).unflatten(-1, (4, -1))
    rows, columns = colour[:, 0, 0, 0].asin(), colour[0, :, 2, 0]
    torch.testing.assert_close(rows[:2], torch.tensor([-0.25, 0.25]), atol=1e-6, rtol=0)
    torch.testing.assert_close(columns[:2], torch.tensor([-0.25, 0.25]).sin(), atol=1e-6, rtol=0)
    learned, known = after.encoder_positions["pose"], before.encoder_positions["pose"]
    assert learned.shape == (6, 32)
    torch.testing.assert_close(learned[0], known[0])
    torch.testing.assert_close(learned[1], 0.75 * known[0] + 0.25 * known[1])

    again = at(3, 4, 3, larger)
    assert again.entries == vocabulary.entries


def resized_spec(entry, layout):
    """As far as `Vocabulary.resized` looks at it."""
    space = SimpleNamespace(size=entry.size) if entry.size else None
    return SimpleNamespace(name=entry.name, layout=layout, token_space=space, patch_dim=entry.patch_dim)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("encodr", "did you mean 'encoder'?"),
        ("encoder.9", "did you mean 'encoder.1'?"),
        ("decoder.0.mlp.fc9", "did you mean 'decoder.0.mlp.fc3'?"),
        ("zzz", "its parts: context_proj, decoder"),
        ("zzz.9.qqqqqqqq", "its parts: context_proj, decoder"),
        ("*.mpl", "did you mean '*.mlp'?"),
    ],
)
def test_a_name_that_no_parameter_has_is_told_with_the_nearest(model, pattern, hint):
    with pytest.raises(ValueError, match=rf"^x.y: no parameter is called '{re.escape(pattern)}'; ") as error:
        freeze(model, [pattern], setting="x.y")
    assert hint in str(error.value)
    assert len(str(error.value)) < 200


def test_frozen_parts_are_named_by_their_beginning_or_a_pattern(model):
    freeze(model, ["encoder.0", "*.mlp"], setting="x")
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name for name in frozen if ".mlp." not in name} == {
        name for name, _ in model.named_parameters() if name.startswith("encoder.0.") and ".mlp." not in name
    }
    assert "decoder.1.mlp.fc1.weight" in frozen
