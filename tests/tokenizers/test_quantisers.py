"""Every quantiser against slow formulas, and what holds for all of them."""

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fourm_engine.tokenizers.quantisers.base import codebook_use, count_codes, usage_of
from fourm_engine.tokenizers.quantisers.fsq import FiniteScalarQuantiser
from fourm_engine.tokenizers.quantisers.lfq import LookupFreeQuantiser
from fourm_engine.tokenizers.quantisers.product import PositionQuantiser, ProductQuantiser
from fourm_engine.tokenizers.quantisers.settings import CodebookSettings, make_quantiser
from fourm_engine.tokenizers.quantisers.vq import VectorQuantiser

SETTINGS = {
    "cosine": {"latent_dim": 4},
    "euclidean": {"latent_dim": 4, "normalise_codes": False},
    "product": {"latent_dim": 4, "heads": 2, "normalise_codes": False},
    "fsq": {"quantiser": "fsq", "levels": [4, 4, 4]},
    "lfq": {"quantiser": "lfq"},
}
SIZE = 64


def usage(ids: torch.Tensor, size: int) -> tuple[float, float]:
    use = codebook_use(count_codes(ids, size))
    return float(use["usage"]), float(use["perplexity"])


def made(name, seed=0):
    """In use: codebooks have random codes."""
    quantiser = make_quantiser(CodebookSettings(**SETTINGS[name]), SIZE)
    generator = torch.Generator().manual_seed(seed)
    for part in quantiser.modules():
        if isinstance(part, VectorQuantiser):
            codes = torch.randn(part.codes.shape, generator=generator)
            part.codes.copy_(F.normalize(codes, dim=-1) if part.normalise else codes)
            part.cluster_size.fill_(1.0)
            part.cluster_sum.copy_(part.codes)
    quantiser.mark_fitted()
    return quantiser


each = pytest.mark.parametrize("name", sorted(SETTINGS))


@each
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_ids_are_in_range_and_name_the_latents_that_are_passed_on(name, seed, scale):
    quantiser = made(name).eval()
    z = scale * torch.randn(3, 5, quantiser.dim, generator=torch.Generator().manual_seed(seed))
    found = quantiser(z)
    assert found.ids.shape == (3, 5)
    assert found.ids.dtype == torch.int64
    assert 0 <= found.ids.min() <= found.ids.max() < SIZE
    assert torch.equal(found.ids, quantiser.nearest(z))
    torch.testing.assert_close(found.latents, quantiser.lookup(found.ids), atol=1e-5, rtol=1e-5)


@each
def test_every_id_has_a_code_of_its_own(name):
    quantiser = made(name)
    codes = quantiser.lookup(torch.arange(SIZE))
    assert codes.shape == (SIZE, quantiser.dim)
    assert len(torch.unique(codes, dim=0)) == SIZE


@each
def test_codes_are_their_own_nearest(name):
    quantiser = made(name)
    codes = quantiser.lookup(torch.arange(SIZE))
    if name == "fsq":  # codes live behind its bound: undo it
        rounded = codes * (quantiser.levels // 2)
        shift = torch.atanh(quantiser.offset / quantiser.half_range)
        codes = torch.atanh((rounded + quantiser.offset) / quantiser.half_range) - shift
    assert torch.equal(quantiser.nearest(codes), torch.arange(SIZE))


@each
def test_the_gradient_passes_straight_through(name):
    quantiser = made(name).eval()
    z = torch.randn(7, quantiser.dim, requires_grad=True)
    weight = torch.randn(7, quantiser.dim)
    (quantiser(z).latents * weight).sum().backward()
    other = z.detach().clone().requires_grad_()
    if name == "cosine":
        smooth = F.normalize(other, dim=-1)
    elif name == "fsq":
        smooth = quantiser.bound(other) / (quantiser.levels // 2)
    else:
        smooth = other
    (smooth * weight).sum().backward()
    torch.testing.assert_close(z.grad, other.grad)
    assert z.grad.abs().sum() > 0


@each
def test_expected_latents_are_the_probability_weighted_codes(name):
    quantiser = made(name)
    probabilities = torch.softmax(torch.randn(2, 3, SIZE), dim=-1)
    slow = sum(probabilities[..., k, None] * quantiser.lookup(torch.tensor(k)) for k in range(SIZE))
    torch.testing.assert_close(quantiser.expected(probabilities), slow)


@pytest.mark.parametrize("name", ["fsq", "lfq"])
def test_use_of_codes_is_followed(name):
    quantiser = made(name).train()
    assert [float(value) for value in quantiser.progress().values()] == [0, 0, 0]
    for step in range(3):
        quantiser(torch.ones(50, quantiser.dim))
        quantiser.after_step(step, 9)
    found = quantiser.progress()
    assert float(found["usage"]) == pytest.approx(1 / SIZE)
    assert float(found["perplexity"]) == pytest.approx(1 / SIZE)
    assert float(found["dead codes"]) == SIZE - 1
    assert quantiser.cluster_size.argmax() == quantiser.nearest(torch.ones(1, quantiser.dim))


@each
def test_bf16_around_it_changes_no_id(name):
    quantiser = made(name).train()
    z = torch.randn(64, quantiser.dim).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantiser(z)
    assert found.latents.dtype == torch.float32
    assert torch.equal(found.ids, quantiser.nearest(z.float()))


@each
def test_latents_that_are_not_numbers_end_no_run(name):
    """The trainer leaves the step out, but not before the forward pass."""
    quantiser = made(name).train()
    found = quantiser(torch.full((4, quantiser.dim), torch.nan))
    assert 0 <= found.ids.min() <= found.ids.max() < SIZE


# Product codes


def test_ids_of_heads_are_the_digits_of_the_token():
    quantiser = made("product").eval()
    z = torch.randn(40, 4)
    first, second = quantiser.each()
    digits = first.nearest(z[:, :2]), second.nearest(z[:, 2:])
    assert quantiser.radix == 8
    assert torch.equal(quantiser.nearest(z), digits[0] + 8 * digits[1])
    assert torch.equal(quantiser.lookup(torch.tensor([1 + 8 * 5]))[0], torch.cat([first.codes[1], second.codes[5]]))
    torch.testing.assert_close(
        quantiser(z).losses["commitment"], (z - quantiser.lookup(quantiser.nearest(z))).square().sum(-1)
    )


def test_positions_have_codes_of_their_own():
    parts = [VectorQuantiser(6, 3, normalise=False, seed=n) for n in range(4)]
    for n, part in enumerate(parts):
        part.codes.copy_(torch.randn(6, 3, generator=torch.Generator().manual_seed(n)))
    quantiser = PositionQuantiser(parts).eval()
    quantiser.mark_fitted()
    z = torch.randn(5, 4, 3)
    found = quantiser(z)
    for n, part in enumerate(parts):
        assert torch.equal(found.ids[:, n], part.nearest(z[:, n]))
        assert torch.equal(found.latents[:, n].detach(), part(z[:, n]).latents)
    assert found.losses["commitment"].shape == (5, 4)
    probabilities = torch.softmax(torch.randn(2, 4, 6), -1)
    slow = torch.stack([probabilities[:, n] @ part.codes for n, part in enumerate(parts)], dim=1)
    torch.testing.assert_close(quantiser.expected(probabilities), slow)


def test_heads_learn_and_report_the_use_of_whole_tokens():
    torch.manual_seed(0)
    quantiser = ProductQuantiser([VectorQuantiser(4, 2, normalise=False, seed=n, warmup=0.0) for n in range(2)]).train()
    for step in range(60):
        assert (quantiser(torch.randn(64, 4)).ids is None) == (step == 0)
        quantiser.after_step(step, 60)
    found = quantiser.progress()
    assert float(found["usage"]) == 1.0
    assert float(found["dead codes"]) == 0
    assert float(found["perplexity"]) > 0.7
    assert usage(quantiser.nearest(torch.randn(500, 4)), 16)[0] == 1.0


# FSQ


@pytest.mark.parametrize("levels", [(3,), (4, 5), (8, 5, 5, 5), (7, 6, 3)])
def test_fsq_equals_choosing_the_nearest_level_of_each_dimension(levels):
    quantiser = FiniteScalarQuantiser(levels)
    z = 2 * torch.randn(200, len(levels))
    bounded = quantiser.bound(z)
    ids = quantiser.nearest(z)
    for row in range(200):
        digit, place = 0, 1
        for d, n in enumerate(levels):
            grid = [level - n // 2 for level in range(n)]
            digit += place * min(range(n), key=lambda i: abs(grid[i] - float(bounded[row, d])))
            place *= n
        assert int(ids[row]) == digit
    assert quantiser.lookup(torch.arange(quantiser.size)).abs().max() == 1
    torch.testing.assert_close(quantiser.bound(torch.zeros(len(levels))), torch.zeros(len(levels)))


def test_all_codes_of_fsq_are_used_on_spread_latents():
    quantiser = FiniteScalarQuantiser((8, 5, 5)).train()
    quantiser(torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)))
    quantiser.after_step(0, 1)
    assert float(quantiser.progress()["usage"]) == 1.0


# LFQ


def test_lfq_reads_the_bits_of_the_id_off_the_signs():
    quantiser = LookupFreeQuantiser(3)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)))
    expected = [int((row[0] > 0) + 2 * (row[1] > 0) + 4 * (row[2] > 0)) for row in signs]
    assert quantiser.nearest(0.3 * signs).tolist() == expected
    assert torch.equal(quantiser.lookup(torch.tensor(expected)), signs)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_entropy_term_equals_the_formula_in_value_and_gradient(temperature):
    quantiser = LookupFreeQuantiser(4, temperature=temperature)
    z = torch.randn(30, 4, requires_grad=True)
    quantiser(z).losses["entropy"].mean().backward()
    other = z.detach().clone().requires_grad_()
    codes = quantiser.lookup(torch.arange(16))
    q = torch.softmax(-(other[:, None] - codes).square().sum(-1) / temperature, dim=-1)
    mean = q.mean(0)
    slow = -(q * q.log()).sum(-1).mean() + (mean * mean.log()).sum()
    slow.backward()
    assert float(quantiser(z).losses["entropy"].mean().detach()) == pytest.approx(float(slow.detach()), abs=1e-5)
    torch.testing.assert_close(z.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_many_bits_are_grouped_and_independent_groups_add_up():
    few, many = LookupFreeQuantiser(10), LookupFreeQuantiser(13)
    assert [len(group) for group in few.groups] == [10]
    assert [len(group) for group in many.groups] == [6, 7]
    z = torch.randn(20, 13)
    parts = [LookupFreeQuantiser(len(group))._entropy(z[:, group]) for group in many.groups]
    torch.testing.assert_close(many._entropy(z), parts[0] + parts[1])


def test_the_entropy_term_spreads_the_codes():
    torch.manual_seed(0)
    quantiser = LookupFreeQuantiser(4)
    z = (0.1 * torch.randn(256, 4) + 0.5).requires_grad_()  # all of one code
    assert usage(quantiser.nearest(z), 16)[0] < 0.3
    optimiser = torch.optim.Adam([z], lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        quantiser(z).losses["entropy"].mean().backward()
        optimiser.step()
    assert usage(quantiser.nearest(z), 16) == (1.0, pytest.approx(1.0, abs=0.1))


# Settings

REFUSED = [
    ({"quantiser": "fsq", "levels": [8, 5, 5, 5]}, 1024, "levels 8x5x5x5 make 1000 codes, the token space has 1024"),
    ({"quantiser": "lfq"}, 1000, r"2\^bits codes, the token space 1000; .* to 512 or 1024"),
    ({"heads": 2}, 1000, "2 heads of 32 codes make 1024 codes, the token space has 1000"),
    ({"quantiser": "fsq"}, 64, "'fsq' needs levels"),
    ({"levels": [8, 8]}, 64, "'fsq' needs levels"),
    ({"quantiser": "fsq", "levels": [32, 2]}, 64, "each must be in 3…256"),
    ({"quantiser": "lfq", "restart": "split"}, 64, "restart is not a setting of quantiser 'lfq'"),
    ({"temperature": 0.5}, 64, "temperature is not a setting of quantiser 'vq'"),
    ({"heads": 3}, 64, "latent_dim 16 does not divide into 3 heads"),
]


@pytest.mark.parametrize(("values", "size", "message"), REFUSED)
def test_settings_that_do_not_fit_are_refused_with_a_remedy(values, size, message):
    with pytest.raises(ValueError, match=message):
        make_quantiser(CodebookSettings(**values), size)


@each
def test_settings_survive_being_stored(name):
    given = CodebookSettings(**SETTINGS[name])
    assert CodebookSettings(**given.model_dump(mode="json")) == given


def test_a_default_that_a_kind_of_tokenizer_changes_reaches_its_quantiser():
    class Splitting(CodebookSettings):
        restart: Literal["batch", "split"] = "split"

    assert make_quantiser(Splitting(), 16).restart == "split"


def test_heads_of_exact_powers_are_found_without_rounding_errors():
    for radix, heads in ((10, 3), (7, 5), (2, 16), (1000, 2)):
        settings = CodebookSettings(latent_dim=heads * 2, heads=heads)
        assert make_quantiser(settings, radix**heads).radix == radix


def test_where_each_position_has_codes_of_its_own_their_use_is_the_mean_over_positions():
    """Two positions that each use one code of four: pooled they would look like two codes in use."""
    ids = torch.tensor([[0, 3], [0, 3]])
    use = codebook_use(count_codes(ids, 4, positional=True))
    assert {name: float(value) for name, value in use.items()} == pytest.approx(
        {"usage": 1 / 4, "perplexity": 1 / 4, "dead codes": 6}
    )
    assert float(codebook_use(count_codes(ids, 4))["usage"]) == 0.5
    assert set(map(float, codebook_use(torch.zeros(2, 4)).values())) == {0.0}


@pytest.mark.parametrize(("positional", "rows"), [(False, 4), (True, 8)])  # 8 codes; 4 ids a row
def test_use_of_too_few_ids_per_code_says_nothing(positional, rows):
    ids = [np.arange(4) + 4 * (row % 2) for row in range(rows)]
    options = {"positional": positional, "least": 2 if not positional else 1}
    assert usage_of(ids, 8, **options).keys() == {"usage", "perplexity", "dead codes"}
    assert usage_of(ids[:-1], 8, **options) == {}
