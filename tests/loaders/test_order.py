"""The order of records: literal lists, and what holds for any arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_fast.loaders import epoch_order
from alexnet_fast.loaders.order import evaluation_order

COUNTS = st.integers(0, 300)
SEEDS = st.integers(0, 2**64)
EPOCHS = st.integers(0, 10**6)
RANKS = st.integers(1, 9).flatmap(lambda world: st.tuples(st.integers(0, world - 1), st.just(world)))


def test_literal_orders():
    """Pinned, so that a run begun with one version goes on with the same order under the next."""
    assert epoch_order(10, seed=0, epoch=0).tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    assert epoch_order(10, seed=0, epoch=1).tolist() == [9, 1, 3, 8, 7, 6, 0, 4, 2, 5]
    assert epoch_order(10, seed=1, epoch=0).tolist() == [8, 4, 7, 0, 1, 2, 5, 9, 6, 3]
    assert epoch_order(10, seed=0, epoch=0, rank=1, world_size=3).tolist() == [6, 3, 0]
    assert epoch_order(7, seed=0, epoch=3, shuffle=False).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert epoch_order(7, seed=0, epoch=3, rank=1, world_size=2, shuffle=False).tolist() == [1, 3, 5]
    assert evaluation_order(7).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert evaluation_order(7, rank=0, world_size=2).tolist() == [0, 2, 4, 6]
    assert evaluation_order(7, rank=1, world_size=2).tolist() == [1, 3, 5]


@given(COUNTS, SEEDS, EPOCHS)
def test_an_epoch_is_a_permutation(count, seed, epoch):
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert order.flags.c_contiguous
    assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(order, epoch_order(count, seed=seed, epoch=epoch))


@given(COUNTS, SEEDS, EPOCHS, st.integers(1, 9), st.booleans())
def test_ranks_take_disjoint_equal_parts_of_one_order(count, seed, epoch, world, shuffle):
    whole = epoch_order(count, seed=seed, epoch=epoch, shuffle=shuffle)
    parts = [
        epoch_order(count, seed=seed, epoch=epoch, rank=rank, world_size=world, shuffle=shuffle)
        for rank in range(world)
    ]
    assert {len(part) for part in parts} == {count // world}
    # Step for step, the ranks together read what one rank alone would.
    assert np.array_equal(np.stack(parts, axis=1).reshape(-1), whole[: count // world * world])


@given(COUNTS, RANKS)
def test_evaluation_reads_every_record_once(count, ranks):
    _, world = ranks
    parts = [evaluation_order(count, rank=rank, world_size=world) for rank in range(world)]
    assert all(part.dtype == np.int64 for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(SEEDS, SEEDS, EPOCHS, EPOCHS)
def test_other_seeds_and_epochs_give_other_orders(seed, other_seed, epoch, other_epoch):
    if (seed, epoch) != (other_seed, other_epoch):
        first, second = epoch_order(64, seed=seed, epoch=epoch), epoch_order(64, seed=other_seed, epoch=other_epoch)
        assert not np.array_equal(first, second)


def test_the_shuffle_is_fair():
    """Each record is as often in each place: chi-squared over 20,000 orders of 8, 49 degrees of freedom."""
    counts = np.zeros((8, 8))
    for epoch in range(20_000):
        counts[np.arange(8), epoch_order(8, seed=5, epoch=epoch)] += 1
    expected = 20_000 / 8
    assert ((counts - expected) ** 2 / expected).sum() < 94.0  # p = 0.0001


def test_as_many_records_as_imagenet_has():
    order = epoch_order(1_281_167, seed=0, epoch=1)
    assert np.array_equal(np.sort(order), np.arange(1_281_167))
    third = epoch_order(1_281_167, seed=0, epoch=1, rank=2, world_size=3)
    assert np.array_equal(third, order[2::3][:427_055])
    assert third.base is None or third.base.nbytes == third.nbytes  # a rank does not keep the whole order alive


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_records": -1}, "num_records must be 0 or more, got -1"),
        ({"seed": -1}, "got seed=-1 and epoch=0"),
        ({"epoch": -2}, "got seed=0 and epoch=-2"),
        ({"rank": 2, "world_size": 2}, "got rank=2 and world_size=2"),
        ({"rank": -1}, "got rank=-1 and world_size=1"),
        ({"world_size": 0}, "got rank=0 and world_size=0"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        epoch_order(**{"num_records": 4, "seed": 0, "epoch": 0, **arguments})
