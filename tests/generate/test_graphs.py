"""What runs on a GPU, where steps are recorded, run on the CPU: nothing but the recording itself is left out."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fourm_engine import device
from fourm_engine.generate import graphs, sampling
from fourm_engine.generate.guidance import Guide
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sampler import Sampler
from tests.generate.test_sampler import IDS, MODALITIES, partly, sample
from tests.generate.toys import network

DRAWN = {"temperature": 1.0, "top_p": 0.8}
ROAR = {"target": "height", "scheme": "random_order", "schedule": "linear"}
STAGES = [
    Stage(target="height", scheme="parallel", steps=5),
    Stage(target="height", scheme="parallel", steps=5, guidance=2.0, **DRAWN),
    Stage(target="height", scheme="parallel", steps=3, readout="expected", temperature=1.0, top_k=3),
    Stage(**ROAR, steps=12, guidance=[0.0, 3.0], **DRAWN),
    Stage(target="height", scheme="halton", steps=4, guidance={"words": -1.0, "colour@pixels": 2.0}),
    Stage(target="height", scheme="entropy", steps=4, **DRAWN),
    Stage(target="pose", scheme="remask", steps=3, **DRAWN),
    Stage(target="words", scheme="autoregressive"),
    Stage(target="words", scheme="autoregressive", guidance=2.0, **DRAWN),
    Stage(target="words", scheme="autoregressive", guidance=[0.0, 3.0], temperature=1.0, top_k=5),
]


def batches():
    """The second of other values, the third of other shapes, too."""
    pair = [sample(0), sample(1)]
    return [pair, [sample(2), sample(3)], [*pair, partly(sample(4, names=("pose",)), "height", [3, 5], [1, 2])], pair]


@pytest.fixture
def recorded(monkeypatch):
    """A list of what has been recorded, on a device whose numbers the host does not know."""
    made = []
    monkeypatch.setattr(device, "HOST_TYPES", ())
    monkeypatch.setattr(graphs, "RECORDED_ON", ("cpu",))
    monkeypatch.setattr(graphs, "record", lambda work, *_: made.append(work) or work)
    return made


def sampler() -> Sampler:
    net, vocabulary = network(MODALITIES)
    return Sampler(net, vocabulary, sequences=IDS, inputs=set(MODALITIES))


def tokens(sampler, stage, **guided):
    runs = [sampler.run(batch, [stage], range(5, 5 + len(batch)), **guided) for batch in batches()]
    return [one[stage.target].ids.tolist() for run in runs for one in run]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: f"{stage.target}-{stage.scheme}")
def test_recorded_steps_give_the_tokens_of_the_others(stage, request):
    expected = tokens(sampler(), stage)
    made = request.getfixturevalue("recorded")
    without = sampler()
    without.graphs.enabled = False
    assert tokens(without, stage) == expected
    assert not made
    assert tokens(sampler(), stage) == expected
    assert made


def test_a_batch_of_known_shape_records_nothing_new(recorded):
    for stage in (STAGES[0], STAGES[8]):
        s = sampler()
        s.run(batches()[0], [stage], [5, 6])
        s.run(batches()[0], [stage], [5, 6])
        assert recorded
        recorded.clear()
        s.run(batches()[1], [stage], [5, 6])
        assert not recorded


@pytest.mark.parametrize("stage", [STAGES[0], STAGES[8]], ids=lambda stage: stage.target)
def test_a_second_thread_leaves_the_recordings_of_the_first_alone(stage, recorded):
    s, expected = sampler(), tokens(sampler(), stage)
    recorded.clear()
    with s.graphs.in_use(), ThreadPoolExecutor(1) as other:
        assert other.submit(tokens, s, stage).result() == expected
    assert not recorded
    assert tokens(s, stage) == expected
    assert recorded


@pytest.mark.parametrize("target", ["height", "words"])
def test_a_guide_is_recorded_and_another_one_takes_no_part_in_it(target, request):
    weak, other = (SimpleNamespace(**dict(zip(("network", "vocabulary"), network(MODALITIES, i)))) for i in (2, 3))
    model = sampler()

    def results():
        stage = Stage(target=target, scheme="autoregressive" if target == "words" else "parallel", **DRAWN)
        return [tokens(model, stage, guide=Guide(guide, 2.0)) for guide in (weak, other, weak)]

    expected = results()
    made = request.getfixturevalue("recorded")
    assert results() == expected
    assert expected[0] != expected[1]
    assert made


def test_moved_weights_and_a_copied_sampler_record_anew(recorded):
    for stage in (STAGES[0], STAGES[7]):
        s = sampler()
        before = tokens(s, stage)
        head = s.network.heads.weight
        head.data = -head.data
        moved = tokens(s, stage)
        assert moved != before
        assert tokens(copy.deepcopy(s), stage) == moved
        assert s.graphs is not copy.deepcopy(s).graphs
        s.graphs.enabled = False
        assert not copy.deepcopy(s).graphs.enabled


def test_recordings_are_few_and_go_with_the_sampler(recorded, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    monkeypatch.setattr(graphs, "record", lambda *_: lambda: None)  # as a graph, which holds no Python object
    s = sampler()
    for stage in (STAGES[3], STAGES[3], STAGES[7], *STAGES[8:]):
        s.run(batches()[0], [stage], [5, 6])
    (shapes,) = s.graphs._shapes.values()
    assert 1 <= len(shapes._recorded) <= 2
    assert len(s.graphs._steps) == graphs.MOST_SEQUENCES
    net = weakref.ref(s.network)
    del s, shapes
    gc.collect()
    assert net() is None


def test_what_recordings_of_sequences_hold_is_bounded_in_bytes(recorded, monkeypatch):
    stages, s = STAGES[7:10], sampler()
    expected = [s.run(batches()[0], [stage], [5, 6])[0]["words"].ids.tolist() for stage in stages]
    kept = [step.memory() for step, _ in s.graphs._steps.values()]
    config, length = s.network.config, MODALITIES["words"].spec.layout.num_tokens - 1
    keys_and_values = 2 * 4 * config.decoder_blocks * 2 * length * config.width  # float32, of two sequences
    assert all(memory > keys_and_values for memory in kept)
    for most, number in ((sum(kept) - 1, 1), (0, 0)):
        monkeypatch.setattr(graphs, "MOST_BYTES", most)
        s = sampler()
        assert [s.run(batches()[0], [stage], [5, 6])[0]["words"].ids.tolist() for stage in stages] == expected
        assert len(s.graphs._steps) == number


def test_a_recording_that_does_not_fit_is_done_without(recorded, monkeypatch):
    def full(*_):
        recorded.append(1)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(graphs, "record", full)
    for stage in (STAGES[1], STAGES[8]):
        s = sampler()
        s.graphs.enabled = False
        expected = tokens(s, stage)
        s.graphs.enabled = True
        assert tokens(s, stage) == expected
    assert recorded


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.9999])
def test_a_device_that_is_waited_for_draws_the_same(rows, top_p, monkeypatch):
    generator = torch.Generator().manual_seed(rows)
    logits = 3 * torch.randn(rows, 900, generator=generator)
    logits[::2] = logits[::2].round()  # many equals
    uniform, heat = torch.rand(rows, generator=generator), torch.full((1,), 1.5)
    expected = sampling.draw(logits, uniform, temperature=heat, top_p=top_p)
    monkeypatch.setattr(device, "HOST_TYPES", ())
    monkeypatch.setattr(sampling, "_SORTED", 8)
    np.testing.assert_array_equal(sampling.draw(logits, uniform, temperature=heat, top_p=top_p), expected)


def test_no_two_live_recordings_share_a_stream(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: object())
    monkeypatch.setattr(graphs, "_FREE", defaultdict(list))
    first, second = Counter(), Counter()  # of a type that can be referred to weakly
    streams = [graphs._lent(torch.device("cuda"), each) for each in (first, second)]
    assert streams[0] is not streams[1]
    del first
    assert graphs._lent(torch.device("cuda"), Counter()) is streams[0]
