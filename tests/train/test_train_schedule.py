import pytest
from pydantic import ValidationError
from torch import nn

from fourm_engine.train import schedule
from fourm_engine.train.optimiser import decay_groups
from tests.train.toy_task import ToyTask, config


def learning_rate(step, config):
    plan = config.plan()
    return schedule.learning_rate(step, plan, getattr(schedule, config.schedule))


def test_a_cosine_rises_linearly_peaks_after_the_warm_up_and_ends_at_min_lr():
    c = config(steps=101, warmup=10, lr=1.0, min_lr=0.1)
    assert [learning_rate(s, c) for s in (0, 4, 9)] == pytest.approx([1 / 11, 5 / 11, 10 / 11])
    assert learning_rate(10, c) == 1.0
    assert learning_rate(55, c) == pytest.approx(0.55)  # half-way
    assert learning_rate(100, c) == pytest.approx(0.1)
    rates = [learning_rate(s, c) for s in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_a_constant_rate_stays():
    c = config(steps=50, warmup=5, lr=0.3, schedule="constant")
    assert {learning_rate(s, c) for s in range(5, 50)} == {0.3}


def test_wsd_stays_and_then_falls_linearly_to_min_lr():
    c = config(steps=101, warmup=0, lr=1.0, min_lr=0.2, schedule="wsd", cooldown=40)
    assert {learning_rate(s, c) for s in range(61)} == {1.0}
    assert learning_rate(80, c) == pytest.approx(0.6)
    assert learning_rate(100, c) == pytest.approx(0.2)


def test_invsqrt_falls_with_the_root_of_the_step_and_cools_down_at_the_end():
    c = config(steps=401, warmup=24, lr=1.0, min_lr=0.1, schedule="invsqrt", cooldown=100)
    assert learning_rate(24, c) == 1.0
    assert learning_rate(99, c) == pytest.approx(0.5)
    assert learning_rate(224, c) == pytest.approx(1 / 3)
    begin = learning_rate(300, c)
    assert learning_rate(350, c) == pytest.approx((begin + 0.1) / 2)
    assert learning_rate(400, c) == pytest.approx(0.1)
    longer = config(steps=801, warmup=24, lr=1.0, min_lr=0.1, schedule="invsqrt", cooldown=100)
    assert [learning_rate(s, c) for s in range(301)] == [learning_rate(s, longer) for s in range(301)]
    assert learning_rate(900, config(steps=1000, warmup=1, lr=1.0, min_lr=0.1, schedule="invsqrt")) == 0.1


def test_the_highest_rate_may_grow_with_the_batch_as_in_the_paper():
    assert config(lr=None, base_lr=1e-4, batch_size=8192).plan().lr == pytest.approx(3.2e-3)
    assert config(lr=None, base_lr=1e-4, batch_size=256).plan().lr == pytest.approx(1e-4)


def test_a_length_in_samples_or_tokens_is_so_many_steps_a_begun_one_included():
    assert config(steps=None, samples=160, batch_size=16).plan().steps == 10
    assert config(steps=None, samples=161, batch_size=16).plan().steps == 11
    lengths = {"steps": None, "warmup": 0, "schedule": "wsd", "batch_size": 10}
    c = config(**lengths, tokens=1e6, warmup_tokens=2e5, cooldown_tokens=100_001)
    plan = c.plan(100)
    assert (plan.steps, plan.warmup, plan.cooldown) == (1000, 200, 101)
    assert learning_rate_of(plan, 199) == pytest.approx(0.05 * 200 / 201)
    with pytest.raises(ValueError, match="tokens: this task has no fixed number of tokens per sample"):
        c.plan()
    with pytest.raises(ValueError, match="exceed steps=100"):
        config(**lengths, tokens=1e5, warmup_tokens=2e5, cooldown_tokens=1).plan(100)


def learning_rate_of(plan, step):
    return schedule.learning_rate(step, plan, getattr(schedule, plan.schedule))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"min_lr": 1.0}, "min_lr"),
        ({"warmup": 21}, "warmup"),
        ({"cooldown": 3}, "wsd"),
        ({"samples": 100}, "steps and samples are both set; keep one"),
        ({"steps": None}, "set steps or samples or tokens"),
        ({"base_lr": 1e-4}, "lr and base_lr are both set"),
        ({"lr": None}, "set lr or base_lr"),
        ({"warmup_tokens": 100}, "warmup and warmup_tokens are both set"),
        ({"schedule": "invsqrt", "warmup": 0}, "set warmup or warmup_tokens"),
        ({"export": "ema"}, "set ema"),
        ({"export": "both"}, "set ema"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"schedule": "wsd"}, "wsd"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"batch_sise": 3}, "batch_sise"),
    ],
)
def test_a_contradictory_config_is_refused_by_name(changes, word):
    with pytest.raises(ValidationError, match=word):
        config(**changes)


def test_biases_norms_vectors_and_embeddings_do_not_decay():
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "linear": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
    model["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    decayed, free = decay_groups(model, ToyTask())
    assert [id(p) for p in decayed] == [id(model["linear"].weight)]
    assert len(free) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 10**9 + 1}, "steps: more than 1,000,000,000 steps; lower it"),
        ({"steps": None, "samples": 10**15}, "samples: more than 1,000,000,000 steps; lower it"),
        ({"lr": 1e41}, r"a peak learning rate of 1e\+41 is above 10000; lower lr, or base_lr"),
        ({"lr": None, "base_lr": 9e3, "batch_size": 512}, "a peak learning rate of 1.8e"),
        ({"batch_size": 10**9}, "batch_size"),
        ({"lr": 1.0, "weight_decay": 1.0}, "leaves no weight its sign"),
    ],
)
def test_lengths_and_rates_that_nobody_can_mean_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        config(**settings)
