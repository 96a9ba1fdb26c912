"""Batches reach the step's device whole and in order, and the wait for them is measured."""

from __future__ import annotations

import time
from itertools import count

import pytest
import torch

from fourm_engine.batch import Batch, Tokens
from fourm_engine.train.prefetch import Prefetcher


def numbers():
    for n in count():
        time.sleep(0.002)
        yield torch.full((3,), float(n))


def test_a_cpu_gets_the_micro_batches_of_each_step_and_nothing_is_fetched_ahead():
    source = numbers()
    feed = Prefetcher(source, 2, torch.device("cpu"))
    for step in range(3):
        pairs = feed.next_step()
        feed.prefetch()
        assert [int(batch[0]) for _, batch in pairs] == [2 * step, 2 * step + 1]
        assert all(host is batch for host, batch in pairs)
    assert int(next(source)[0]) == 6
    assert feed.waited >= 6 * 0.002


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_next_step_while_it_works_on_this_one():
    def batches():
        for n in count():
            tokens = Tokens(*(torch.full((2, 3), n) for _ in range(4)))
            yield Batch(
                tokens, tokens, {"a": torch.full((2, 3, 4), n)}, tokens.ids[0], tokens.ids[0], {"a": 3}
            ).pin_memory()

    source = batches()
    feed = Prefetcher(source, 1, torch.device("cuda"))
    for step in range(20):
        ((host, batch),) = feed.next_step()
        feed.prefetch()
        assert host.encoder.ids.is_pinned()
        assert batch.continuous["a"].is_cuda
        assert (batch.encoder.ids == step).all()
    assert int(next(source).encoder.ids[0, 0]) == 21  # one ahead
