"""The order for shards that are fetched: few shards at a time, every record once, whoever resumes."""

import numpy as np
import pytest

from alexnet_fast.loaders.order import window_order

SHARDS = (100, 90, 110, 100, 100, 50, 100, 100)
TOTAL = sum(SHARDS)


def order(**changes):
    return window_order(SHARDS, **{"seed": 3, "epoch": 1, "window": 2, **changes})


def shards_of(records):
    return np.searchsorted(np.cumsum(SHARDS), records, side="right")


def test_an_epoch_is_a_permutation_and_another_each_epoch():
    first, second = order(epoch=0), order(epoch=1)
    assert sorted(first) == sorted(second) == list(range(TOTAL))
    assert (first != second).mean() > 0.9
    assert np.array_equal(first, order(epoch=0))


def test_ranks_are_disjoint_and_of_equal_length():
    parts = [order(rank=r, world_size=3) for r in range(3)]
    assert {len(part) for part in parts} == {TOTAL // 3}
    assert len(np.unique(np.concatenate(parts))) == 3 * (TOTAL // 3)


def test_a_rank_reads_its_own_shards_and_shares_only_where_runs_meet():
    parts = [set(shards_of(order(rank=r, world_size=4)).tolist()) for r in range(4)]
    assert sum(map(len, parts)) <= len(SHARDS) + 3


def test_no_more_than_a_window_of_shards_is_open_at_a_time():
    shards = shards_of(order())
    spans = [np.flatnonzero(shards == s) for s in range(len(SHARDS))]
    # Two shards' worth of records are mixed: a window touches three at most, and a shard two windows.
    assert max(span[-1] - span[0] for span in spans) < 2 * 2 * TOTAL / len(SHARDS) + 1
    for begin in range(0, TOTAL, 188):
        assert len(set(shards[begin : begin + 188].tolist())) <= 4


def test_a_window_is_mixed():
    shards = shards_of(order())
    assert np.mean(shards[1:] != shards[:-1]) > 0.3  # 0.5 where two equal shards are mixed evenly


def test_a_hundred_changes_of_the_number_of_ranks_lose_and_double_nothing():
    random = np.random.default_rng(0)
    for _ in range(100):
        done, seen, left = [], [], TOTAL
        for _ in range(int(random.integers(1, 5))):
            ranks = int(random.choice([1, 2, 3, 4, 8]))
            read = int(random.integers(0, left // ranks + 1))
            parts = [order(rank=r, world_size=ranks, done=done) for r in range(ranks)]
            seen += [record for part in parts for record in part[:read].tolist()]
            done.append((ranks, read))
            left -= ranks * read
        ranks = int(random.choice([1, 2, 4, 8]))
        seen += [r for rank in range(ranks) for r in order(rank=rank, world_size=ranks, done=done).tolist()]
        assert len(seen) == len(set(seen)), done
        assert TOTAL - len(seen) < ranks


@pytest.mark.parametrize("change", [{"seed": -1}, {"epoch": -1}, {"window": 0}, {"rank": 2, "world_size": 2}])
def test_what_is_out_of_range_is_refused(change):
    with pytest.raises(ValueError):
        order(**change)
