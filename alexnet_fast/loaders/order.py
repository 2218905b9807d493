"""Which record is read when: pure functions of their arguments, numpy only.

Because the order of an epoch is a value and not the state of a generator, resuming at step k is slicing it, and
nothing has to be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


def epoch_order(
    num_records: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool = True,
) -> Int64Array:
    """The record numbers that one rank reads in one epoch of training, in order.

    The epoch is a full permutation of ``range(num_records)`` drawn from (seed, epoch), the same on every rank. Rank r
    takes places r, r + world_size, r + 2 * world_size, ... of it, so the ranks' parts are disjoint, of equal length
    ``num_records // world_size``, and one global batch holds the same records however many ranks share it. The fewer
    than ``world_size`` records left over are a different random few each epoch.

    Args:
        num_records: records in the split, 0 or more.
        seed: of the run, 0 or more.
        epoch: counted from 0.
        rank: of this process, ``0 <= rank < world_size``.
        world_size: number of processes that share the epoch.
        shuffle: False gives ascending order instead of a permutation.

    Returns:
        int64 array of shape ``(num_records // world_size,)``.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(num_records, rank, world_size)
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed and epoch must be 0 or more, got seed={seed} and epoch={epoch}")
    if shuffle:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
        order = generator.permutation(num_records)
    else:
        order = np.arange(num_records, dtype=np.int64)
    equal_part = num_records // world_size
    return np.ascontiguousarray(order[rank::world_size][:equal_part], dtype=np.int64)


def window_order(
    shard_records: Sequence[int],
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    window: int = 8,
    done: Sequence[tuple[int, int]] = (),
) -> Int64Array:
    """As `epoch_order`, but so that a rank needs few shards at a time, and the ranks different ones.

    The shards are shuffled and laid end to end. Each rank takes an equal run of that line, so ranks share a shard only
    where two runs meet. Within its run, a rank reads a window of about `window` shards in random order, then the next.
    It is for shards that are fetched, or lie on a disk that seeks slowly; records were shuffled over the whole split
    when they were packed, so each shard is a random sample of it already.

    Args:
        shard_records: records of each shard, in the order of their numbers.
        seed, epoch, rank, world_size: as of `epoch_order`.
        window: shards whose records are mixed, 1 or more.
        done: how far this epoch was read before it was interrupted, by other numbers of ranks: for each stretch, how
            many ranks there were and how many records each of them read. What they did not read is dealt out anew, so
            over all stretches no record comes twice, and at the end fewer than `world_size` are left.

    Returns:
        int64 array of record numbers, of shape ``(what is left // world_size,)``.

    Raises:
        ValueError: an argument is out of its range.
    """
    total = int(sum(shard_records))
    _check(total, rank, world_size)
    if seed < 0 or epoch < 0 or window < 1:
        raise ValueError(f"seed and epoch must be 0 or more and window 1 or more, got {seed}, {epoch} and {window}")
    sizes = np.asarray(shard_records, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    shuffled = np.random.default_rng([seed, epoch]).permutation(len(sizes))
    line = np.concatenate([np.arange(starts[s], starts[s] + sizes[s]) for s in shuffled] or [np.empty(0, np.int64)])
    mixed = max(1, round(window * total / max(1, len(sizes))))  # records of a window
    left: Int64Array = np.arange(total)
    for stretch, (ranks, read) in enumerate(done):
        taken = np.concatenate([_deal(left, seed, epoch, stretch, r, ranks, mixed)[:read] for r in range(ranks)])
        left = np.setdiff1d(left, taken, assume_unique=True)
    return np.ascontiguousarray(line[_deal(left, seed, epoch, len(done), rank, world_size, mixed)], dtype=np.int64)


def _deal(left: Int64Array, seed: int, epoch: int, stretch: int, rank: int, ranks: int, mixed: int) -> Int64Array:
    """The places of the line that a rank reads in one stretch, in order."""
    count = len(left) // ranks
    part: Int64Array = left[rank * count : (rank + 1) * count].copy()
    random = np.random.default_rng([seed, epoch, stretch, rank, ranks])
    for begin in range(0, count, mixed):
        random.shuffle(part[begin : begin + mixed])
    return part


def evaluation_order(num_records: int, *, rank: int = 0, world_size: int = 1) -> Int64Array:
    """The record numbers that one rank evaluates: ascending, no record dropped and none twice over all ranks.

    The parts of two ranks may differ in length by one, so sums (not means) are what ranks should exchange.

    Returns:
        int64 array of shape ``(ceil((num_records - rank) / world_size),)``.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(num_records, rank, world_size)
    return np.arange(rank, num_records, world_size, dtype=np.int64)


def _check(num_records: int, rank: int, world_size: int) -> None:
    if num_records < 0:
        raise ValueError(f"num_records must be 0 or more, got {num_records}")
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..world_size-1, got rank={rank} and world_size={world_size}")
