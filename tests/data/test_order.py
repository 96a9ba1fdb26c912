"""The order of samples: every epoch once each, whatever the shards; the same for any number of processes and workers;
storage read a few shards at a time."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_engine.data.loader import default_workers, micro_batches
from fourm_engine.data.order import FULL_ROWS, LANES, Order, Share, epoch_order, sample_rng

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum)
SHARDS = np.full(200, 100)


@settings(max_examples=80, deadline=None)
@given(sizes=SIZES, lanes=st.integers(1, 20), window=st.integers(1, 5), epoch=st.integers(0, 5))
def test_every_epoch_holds_every_row_once_whatever_the_shards_lanes_and_windows(sizes, lanes, window, epoch):
    order, n = Order(np.array(sizes), 3, lanes=lanes, window=window), sum(sizes)
    assert sorted(order.row(epoch * n + index) for index in range(n)) == list(range(n))


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, lanes=st.integers(1, 20), window=st.integers(1, 5), epoch=st.integers(0, 9))
def test_the_position_of_a_row_is_where_it_comes(sizes, lanes, window, epoch):
    order = Order(np.array(sizes), 3, lanes=lanes, window=window)
    for row in range(0, order.n, max(1, order.n // 20)):
        position = order.position(row, epoch)
        assert position // order.n == epoch
        assert order.row(position) == row


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, lanes=st.integers(1, 20), at=st.integers(0, 1000))
def test_a_row_that_cannot_be_used_is_replaced_by_each_other_one_at_most_once(sizes, lanes, at):
    order = Order(np.array(sizes), 0, lanes=lanes)
    rows = list(order.rows(at))
    assert rows[0] == order.row(at)
    assert sorted(rows) == list(range(sum(sizes)))


def test_a_row_is_replaced_by_the_next_of_its_lane():
    order = Order(SHARDS, 0, lanes=8)
    assert list(islice(order.rows(24), 5)) == [order.row(24 + 8 * ahead) for ahead in range(5)]


def test_small_data_and_data_in_one_shard_keep_the_full_permutation():
    for sizes, lanes in ((SHARDS, None), (np.array([500]), 64), (np.array([500]), None)):
        order, n = Order.choose(sizes, 7, lanes=lanes), int(sizes.sum())
        assert order.identity() == {"lanes": 1}
        for epoch in range(2):
            assert [order.row(epoch * n + i) for i in range(n)] == epoch_order(n, 7, epoch).tolist()
    assert Order.choose(SHARDS, 7, lanes=8, window=2).identity() == {"lanes": 8, "window": 2}


def test_large_data_gets_lanes_and_no_array_as_long_as_the_data():
    for sizes in (np.full(5000, 20_000), np.array([100_000_000])):  # a store that is one shard is read in pieces
        order = Order.choose(sizes, 0)
        assert order.n > FULL_ROWS
        assert order.lanes == LANES
        assert len({order.row(position) for position in range(1000)}) == 1000
        kept = [*order._epoch(0), *(order._shuffled.__wrapped__(0, 0, 0, order._window_rows),)]
        assert max(map(len, kept)) <= 100_000


@pytest.mark.parametrize(("shards", "lanes"), [(1, 1), (39, 1), (40, 2), (100, 4), (1000, 32), (1_000_000, 64)])
def test_remote_data_is_read_a_quarter_of_its_shards_at_a_time(shards, lanes):
    sizes = np.ones(shards, np.int64)
    order = Order.choose(sizes, 0, remote=True)
    assert order.lanes == lanes
    assert Order.choose(sizes, 0).lanes == 1
    if lanes > 1:
        assert lanes * (order.window + 1) * 4 <= shards
        seen = min(shards // 8, 20_000)
        rows = {order.row(position) for position in range(seen)}
        assert len(rows) == seen
    assert order.identity()["lanes"] == lanes


@given(st.integers(1, 3000), st.integers(1, 12), st.integers(1, 6), st.integers(1, 40), st.booleans())
def test_lanes_that_are_chosen_always_suit_processes_and_batch_size(shards, world, accumulate, micro, large):
    batch_size = world * accumulate * micro
    sizes = np.full(shards, 1 + FULL_ROWS // shards if large else 1)
    order = Order.choose(sizes, 0, remote=True, batch_size=batch_size, world=world)
    Share(0, world, batch_size, accumulate, order.lanes)  # raises where they do not


def test_a_process_reads_few_shards_at_a_time():
    order = Order(SHARDS, 0, lanes=8, window=2)
    share = Share(1, 4, 64, lanes=8)  # two lanes
    for step in range(0, 100, 10):
        rows = [order.row(position) for s in range(step, step + 10) for position in share.positions(s, 0)]
        # 160 samples: a window of two shards and the next, in each lane; windows may begin amid shards.
        assert len({row // 100 for row in rows}) <= 2 * 6


def test_another_epoch_seed_or_data_set_of_a_mixture_has_another_order():
    n = int(SHARDS.sum())
    orders = [
        [order.row(position) for position in range(first, first + 500)]
        for order, first in (
            (Order(SHARDS, 0, lanes=8), 0),
            (Order(SHARDS, 0, lanes=8), n),
            (Order(SHARDS, 1, lanes=8), 0),
            (Order(SHARDS, 0, lanes=8, part=1), 0),
            (Order(SHARDS, 0, lanes=4), 0),
            (Order(SHARDS, 0, lanes=8, window=3), 0),
        )
    ]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert [Order(SHARDS, 0, lanes=8).row(p) for p in range(500)] == orders[0]


def test_an_order_sent_to_a_worker_takes_nothing_per_row_along():
    order = Order(np.array([500_000]), 0)
    expected = [order.row(position) for position in range(10)]  # computes the whole permutation
    sent = pickle.dumps(order)
    assert len(sent) < 2000
    assert [pickle.loads(sent).row(position) for position in range(10)] == expected


@settings(max_examples=80, deadline=None)
@given(
    world=st.sampled_from([1, 2, 4, 8]),
    accumulate=st.integers(1, 3),
    batches=st.sampled_from([(8, 8), (8, 24), (8, 48), (16, 8), (1, 24)]),
    start=st.integers(0, 5),
)
def test_any_number_of_processes_that_divides_the_lanes_sees_the_same_global_batches(world, accumulate, batches, start):
    lanes, batch_size = batches
    batch_size *= accumulate
    if lanes > 1 and max(lanes, batch_size) % min(lanes, batch_size):
        batch_size = lanes * accumulate
    parts = [
        list(islice(micro_batches(Share(rank, world, batch_size, accumulate, lanes), start), 3 * accumulate))
        for rank in range(world)
    ]
    for step in range(3):
        positions = [p for part in parts for micro in part[step * accumulate : (step + 1) * accumulate] for p in micro]
        first = (start + step) * batch_size
        assert sorted(positions) == list(range(first, first + batch_size))
    if lanes > 1:
        owners = {(position % lanes, rank) for rank, part in enumerate(parts) for micro in part for position in micro}
        assert max(Counter(lane for lane, _ in owners).values()) == 1  # each lane is one process's


def test_a_run_resumed_by_another_number_of_processes_goes_on_exactly():
    order = Order(SHARDS, 0, lanes=8)

    def rows(world, steps):
        shares = [Share(rank, world, 16, lanes=8) for rank in range(world)]
        return [sorted(order.row(p) for share in shares for p in share.positions(step, 0)) for step in steps]

    whole = rows(1, range(30))
    assert whole == rows(4, range(10)) + rows(2, range(10, 20)) + rows(8, range(20, 30))


def test_lanes_that_do_not_fit_are_an_error_that_names_the_setting():
    with pytest.raises(ValueError, match=r"data\.lanes=64 and train\.batch_size=96: one must be a multiple"):
        Share(0, 1, 96, lanes=64)
    with pytest.raises(ValueError, match=r"data\.lanes=64 cannot be shared by 3 processes; set data\.lanes to a mult"):
        Share(0, 3, 192, lanes=64)


def test_workers_are_chosen_for_the_machine(monkeypatch):
    monkeypatch.setattr("fourm_engine.data.loader.usable_cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers(on_gpu=True) == 4
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert default_workers(on_gpu=True) == 8
    assert default_workers(on_gpu=False) == 0


@given(n=st.integers(1, 200), seed=st.integers(0, 2**63), epoch=st.integers(0, 2**32))
def test_every_epoch_is_a_permutation_that_follows_from_its_number(n, seed, epoch):
    order = epoch_order(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert (order == epoch_order(n, seed, epoch)).all()
    if n > 50:
        assert (order != epoch_order(n, seed, epoch + 1)).any()
        assert (order != epoch_order(n, seed + 1, epoch)).any()


def test_samples_have_generators_of_their_own():
    draws = {sample_rng(s, e, p).random() for s in range(3) for e in range(3) for p in range(30)}
    assert len(draws) == 270
