"""The vector quantiser against slow formulas."""

import json
import sys

import pytest
import torch
from torch.nn import functional as F

from fourm_engine.tokenizers.quantisers.base import codebook_use, count_codes
from fourm_engine.tokenizers.quantisers.vq import VectorQuantiser
from fourm_engine.train.averages import Buffers
from tests.distributed.launching import run


def usage(ids: torch.Tensor, size: int) -> tuple[float, float]:
    use = codebook_use(count_codes(ids, size))
    return float(use["usage"]), float(use["perplexity"])


def quantiser(size=12, dim=4, *, normalise=True, seed=0, **options):
    """A codebook in use, with random codes."""
    q = VectorQuantiser(size, dim, normalise=normalise, **options)
    generator = torch.Generator().manual_seed(seed)
    q.codes.copy_(torch.randn(size, dim, generator=generator))
    q.cluster_size.fill_(1.0)
    q.cluster_sum.copy_(q.codes)
    q.started.fill_(True)
    return q


@pytest.mark.parametrize("normalise", [True, False])
def test_nearest_code_equals_brute_force(normalise):
    q = quantiser(normalise=normalise)
    z = torch.randn(5, 7, 4)
    for i in range(5):
        for j in range(7):
            if normalise:
                distance = [-float(F.cosine_similarity(z[i, j], code, dim=0)) for code in q.codes]
            else:
                distance = [float((z[i, j] - code).norm()) for code in q.codes]
            assert int(q.nearest(z)[i, j]) == distance.index(min(distance))


def test_codes_that_are_not_of_unit_length_are_compared_by_cosine_and_returned_as_stored():
    q = VectorQuantiser(2, 2, normalise=True)
    q.codes.copy_(torch.tensor([[10.0, 0.0], [0.0, 0.1]]))
    q.started.fill_(True)
    ids = q.nearest(torch.tensor([[0.1, 0.2], [0.3, 0.2]]))
    assert ids.tolist() == [1, 0]
    assert torch.equal(q.lookup(ids), q.codes[ids])


def test_the_gradient_passes_straight_through():
    q = quantiser().eval()
    z = F.normalize(torch.randn(3, 4), dim=-1).requires_grad_()
    found = q(z)
    torch.testing.assert_close(found.latents, q.lookup(found.ids))
    weight = torch.randn(3, 4)
    (found.latents * weight).sum().backward()
    tangent = weight - (weight * z).sum(-1, keepdim=True) * z  # the part that normalisation lets through
    torch.testing.assert_close(z.grad, tangent.detach())


def test_commitment_is_the_squared_distance_to_the_code():
    q = quantiser(normalise=False).eval()
    z = torch.randn(6, 4)
    found = q(z)
    torch.testing.assert_close(found.losses["commitment"], ((z - q.codes[found.ids]) ** 2).sum(-1))


@pytest.mark.parametrize("normalise", [True, False])
def test_ema_step_equals_the_slow_formula(normalise):
    q = quantiser(normalise=normalise, decay=0.9, restart_below=0.0).train()
    size, total = q.cluster_size.clone(), q.cluster_sum.clone()
    z = torch.randn(40, 4)
    if normalise:
        z = F.normalize(z, dim=-1)
    ids = q.nearest(z)
    q(z)
    q.update()
    for k in range(q.size):
        mine = z[ids == k]
        size[k] = 0.9 * size[k] + 0.1 * len(mine)
        total[k] = 0.9 * total[k] + 0.1 * mine.sum(0)
    smoothed = (size + 1e-5) / (size.sum() + q.size * 1e-5) * size.sum()
    expected = F.normalize(total, dim=-1) if normalise else total / smoothed[:, None]
    torch.testing.assert_close(q.cluster_size, size)
    torch.testing.assert_close(q.codes, expected)


def test_micro_batches_teach_what_their_batch_teaches():
    z = torch.randn(40, 4)
    one, two = quantiser().train(), quantiser().train()
    one(z)
    two(z[:20])
    two(z[20:])
    one.update()
    two.update()
    torch.testing.assert_close(one.codes, two.codes)


def test_restarts_bring_dead_codes_back_into_use():
    q = quantiser(size=16, decay=0.8, restart_below=0.1, normalise=False).train()
    q.codes[8:] = 100.0  # out of reach
    q.cluster_sum.copy_(q.codes)
    z = torch.randn(400, 4)
    assert set(q.nearest(z).tolist()) <= set(range(8))
    for _ in range(40):
        q(z)
        q.update()
    assert usage(q.nearest(z), 16)[0] == 1.0


def test_without_restarts_dead_codes_stay_dead():
    q = quantiser(size=16, decay=0.8, restart_below=0.0, normalise=False).train()
    q.codes[8:] = 100.0
    q.cluster_sum.copy_(q.codes)
    z = torch.randn(400, 4)
    for _ in range(40):
        q(z)
        q.update()
    assert usage(q.nearest(z), 16)[0] <= 0.5


def test_splitting_halves_the_most_used_codes():
    q = quantiser(size=6, dim=3, normalise=False, restart="split", restart_below=0.1)
    q.cluster_size.copy_(torch.tensor([10.0, 0.0, 30.0, 20.0, 0.01, 0.02]))
    q.cluster_sum.copy_(q.codes * q.cluster_size[:, None])
    means = q.codes.clone()
    q._restart_unused(torch.zeros(4, 3), torch.ones(4, dtype=torch.bool), step=0)
    assert q.cluster_size.tolist() == [5.0, 15.0, 15.0, 10.0, 10.0, 5.0]
    assert float(q.cluster_size.sum()) == 60
    q._recompute_codes()
    for parent, child in ((2, 1), (3, 4), (0, 5)):
        torch.testing.assert_close((q.codes[parent] + q.codes[child]) / 2, means[parent], atol=1e-4, rtol=1e-4)
        apart = (q.codes[parent] - q.codes[child]).norm() / means[parent].norm()
        assert 0.01 < float(apart) < 0.03


def test_codes_of_which_a_half_would_be_unused_are_not_split():
    q = quantiser(size=4, restart="split", restart_below=0.5)
    before = torch.tensor([1.0, 1.0, 1.0, 0.0])  # half of one is above half the mean, but hardly
    q.cluster_size.copy_(before)
    q._restart_unused(torch.zeros(4, 4), torch.ones(4, dtype=torch.bool), step=0)
    assert sorted(q.cluster_size.tolist()) == [0.5, 0.5, 1.0, 1.0]
    q.cluster_size.copy_(torch.tensor([0.9, 0.9, 0.9, 0.45]))
    q.restart_below = 0.65
    kept = q.cluster_size.clone()
    q._restart_unused(torch.zeros(4, 4), torch.ones(4, dtype=torch.bool), step=0)
    assert torch.equal(q.cluster_size, kept)


@pytest.mark.parametrize("restart", ["batch", "split"])
@pytest.mark.parametrize("normalise", [True, False])
def test_dead_codes_are_counted_and_brought_back(restart, normalise):
    torch.manual_seed(0)
    q = VectorQuantiser(32, 4, normalise=normalise, decay=0.9, kmeans_start=False, restart=restart, warmup=0.0).train()
    corner = F.normalize(torch.tensor([3.0, 1.0, 1.0, 1.0]), dim=0)
    for step in range(60):
        q(corner + 0.1 * torch.randn(256, 4))
        q.after_step(step, 60)
        if step == 0:
            assert q.started
    found = q.progress()
    assert float(found["dead codes"]) == 0
    assert float(found["usage"]) == 1.0
    assert usage(q.nearest(corner + 0.1 * torch.randn(2000, 4)), 32)[0] > 0.95


def test_without_restarts_and_k_means_most_codes_are_dead_and_said_to_be():
    torch.manual_seed(0)
    q = VectorQuantiser(32, 4, normalise=True, decay=0.9, kmeans_start=False, restart_below=0.0, warmup=0.0).train()
    corner = F.normalize(torch.tensor([3.0, 1.0, 1.0, 1.0]), dim=0)
    for step in range(60):
        q(corner + 0.1 * torch.randn(256, 4))
        q.after_step(step, 60)
    used = usage(q.nearest(corner + 0.1 * torch.randn(2000, 4)), 32)[0]
    assert used < 0.5
    assert float(q.progress()["dead codes"]) == pytest.approx(32 * (1 - used), abs=2)


@pytest.mark.parametrize("normalise", [True, False])
def test_without_k_means_codes_start_at_random_where_latents_are(normalise):
    q = VectorQuantiser(64, 3, normalise=normalise, kmeans_start=False).train()
    z = 5 + 2 * torch.randn(500, 3)
    q(z)
    q.start(q.update())
    if normalise:
        torch.testing.assert_close(q.codes.norm(dim=-1), torch.ones(64))
        assert (q.codes > 0).float().mean() == pytest.approx(0.5, abs=0.15)  # of all directions
    else:
        torch.testing.assert_close(q.codes.mean(0), z.mean(0), atol=1.0, rtol=0)
        torch.testing.assert_close(q.codes.std(0), z.std(0), atol=0.7, rtol=0)
    assert float(q.cluster_size.sum()) == pytest.approx(500)


@pytest.mark.parametrize("normalise", [True, False])
def test_k_means_starts_the_codes_at_the_clusters(normalise):
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(6, 4), dim=-1)
    points = centres.repeat(50, 1) + 0.01 * torch.randn(300, 4)
    q = VectorQuantiser(6, 4, normalise=normalise).train()
    q(points)
    q.start(q.update())
    found = F.normalize(q.codes, dim=-1) @ centres.T
    assert q.started
    assert (found.max(0).values > 0.99).sum() >= 5  # Lloyd's iterations may merge two clusters
    assert float(q.cluster_size.sum()) == pytest.approx(300, rel=1e-4)


def test_before_the_start_latents_pass_unquantised():
    q = VectorQuantiser(6, 4, normalise=False).train()
    z = torch.randn(9, 4)
    found = q(z)
    assert found.ids is None
    assert torch.equal(found.latents, z)
    assert not found.losses["commitment"].any()


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("seen", [torch.nan, 5.0])
def test_latents_of_a_skipped_step_teach_nothing_and_the_next_step_teaches_all(started, seen):
    skipped, plain = quantiser().train(), quantiser().train()
    z = torch.randn(40, 4)
    for q in (skipped, plain):
        q.started.fill_(started)
        if q is skipped:
            buffers = Buffers(q, learn=True)
            buffers.snapshot()
            q(torch.full((8, 4), seen))
            q.update()
            buffers.undo_unless(torch.tensor(False))
        q(z)
        assert q.update() == 40
    for name, tensor in plain.state_dict().items():
        assert torch.equal(skipped.state_dict()[name], tensor), name
    assert not started or not torch.equal(plain.codes, quantiser().codes)


@pytest.mark.parametrize("started", [True, False])
def test_a_latent_that_is_not_finite_counts_nowhere(started):
    spoilt, plain = quantiser().train(), quantiser().train()
    z = torch.randn(40, 4)
    with_gap = torch.cat([z[:7], torch.full((1, 4), torch.nan), z[7:]])
    for q, latents in ((spoilt, with_gap), (plain, z)):
        q.started.fill_(started)
        q(latents)
        assert q.update() == 40
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(spoilt.state_dict()[name], tensor)


@pytest.mark.parametrize("normalise", [True, False])
def test_averaged_codes_follow_from_averaged_statistics(normalise):
    q = quantiser(normalise=normalise)
    averages = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    averages["cluster_sum"][0] = torch.tensor([0.0, 3.0, 0.0, 4.0])
    averages["cluster_size"][0] = 2.0
    kept = q.codes.clone()
    q.after_average(averages)
    expected = torch.tensor([0.0, 3.0, 0.0, 4.0]) / (5 if normalise else 2)
    torch.testing.assert_close(averages["codes"][0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(q.codes, kept)


@pytest.mark.parametrize("normalise", [True, False])
def test_ids_are_the_same_within_bf16_autocast(normalise):
    q = quantiser(size=256, normalise=normalise)
    z = torch.randn(2000, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(q.nearest(z), q.nearest(z.float()))
        within = q.nearest(z)
    assert torch.equal(within, q.nearest(z))


def test_usage_and_perplexity_are_shares_of_the_codebook():
    assert usage(torch.arange(8), 8) == (1.0, pytest.approx(1.0))
    assert usage(torch.zeros(5, dtype=torch.int64), 8) == (0.125, pytest.approx(0.125))


PROGRAM = """
import json, os, sys, torch
import torch.distributed as dist
from fourm_engine.tokenizers.quantisers.settings import CodebookSettings, make_quantiser
torch.set_num_threads(1)
world = int(os.environ["WORLD_SIZE"])
if world > 1:
    dist.init_process_group("gloo")
rank = dist.get_rank() if world > 1 else 0
out = {}
for name, settings in json.loads(sys.argv[1]).items():
    q = make_quantiser(CodebookSettings(**settings), 16).train()
    generator = torch.Generator().manual_seed(3)
    loss = gradient = torch.zeros(())
    for step in range(12):
        z = torch.randn(32, q.dim, generator=generator) * torch.tensor([3.0, 1.0, 0.2, 0.1])[: q.dim]
        own = z.chunk(world)[rank].requires_grad_()
        loss = sum(value.sum() for value in q(own).losses.values()) / 32 + 0 * own.sum()
        loss.backward()
        q.after_step(step, 12)
    state = [value.double().reshape(-1) for key, value in sorted(q.state_dict().items()) if not key.endswith("recent")]
    state = torch.cat(state)
    states = [torch.empty_like(state) for _ in range(world)]
    sums = torch.cat([loss.detach().reshape(1), torch.zeros(32 * q.dim)])
    sums[1:].view(32, q.dim)[rank * 32 // world : (rank + 1) * 32 // world] = own.grad
    if world > 1:
        dist.all_gather(states, state)
        dist.all_reduce(sums)
    else:
        states = [state]
    out[name] = {"states": [s.tolist() for s in states], "losses": sums.tolist()}
if rank == 0:
    print(json.dumps(out))
if world > 1:
    dist.destroy_process_group()
"""
VARIANTS = {
    "batch": {"latent_dim": 4, "decay": 0.8, "restart_below": 0.3, "warmup": 0.3},
    "split": {"latent_dim": 4, "decay": 0.8, "restart_below": 0.3, "restart": "split", "normalise_codes": False},
    "random": {"latent_dim": 4, "decay": 0.8, "kmeans_start": False, "warmup": 0.0},
    "product": {"latent_dim": 4, "heads": 2, "decay": 0.8, "restart_below": 0.3},
    "fsq": {"quantiser": "fsq", "levels": [4, 4]},
    "lfq": {"quantiser": "lfq"},
}


def learnt(world: int) -> dict[str, dict[str, list]]:
    """By variant: the state of every process after the same run on `world` processes, the last loss and gradients."""
    ended = run([sys.executable, "-c", PROGRAM, json.dumps(VARIANTS)], world=world)
    assert not any(code for code, _, _ in ended), ended
    return json.loads(ended[0][1])


@pytest.fixture(scope="module")
def one_and_two():
    return learnt(1), learnt(2)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_learn_what_one_learns(one_and_two, name):
    one, two = (found[name] for found in one_and_two)
    first, second = (torch.tensor(state) for state in two["states"])
    assert torch.equal(first, second)
    torch.testing.assert_close(first, torch.tensor(one["states"][0]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), atol=1e-5, rtol=1e-4)
