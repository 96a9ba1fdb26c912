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


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"min_lr": 1.0}, "min_lr"),
        ({"warmup": 21}, "warmup"),
        ({"cooldown": 3}, "wsd"),
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
