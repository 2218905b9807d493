"""Which record is read when: pure functions of their arguments, numpy only.

Because the order of an epoch is a value and not the state of a generator, resuming at step k is slicing it, and
nothing has to be replayed.
"""

from __future__ import annotations

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
