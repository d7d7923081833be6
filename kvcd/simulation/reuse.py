"""Reuse: what all blocks together tell of when, and whether, a block is asked for again."""

from __future__ import annotations

import math

_STEP = 2 ** (1 / 256)  # of the median at each interval: 1 in 1/256 octave is one fetch-and-add in the pool
_MEDIAN_LIMIT = 16  # times the capacity; 4 costs .005 at small caches
_MEMORY = 16  # times the capacity: how many accesses the odds remember
_MOST_TAIL_PENALTY = 4.0


class ReuseMedian:
    """Online median of reuse intervals, in accesses; begins at the capacity and forgets that in about a thousand."""

    def __init__(self, capacity: int) -> None:
        self.accesses = float(capacity)
        self._most = float(_MEDIAN_LIMIT * capacity)

    def observe(self, interval: int) -> None:
        """Move a step towards ``interval``."""
        if interval > self.accesses:
            self.accesses = min(self._most, self.accesses * _STEP)
        else:
            self.accesses = max(1.0, self.accesses / _STEP)


class TailOdds:
    """How much rarer the last blocks of requests are asked for again than all others.

    Where stacks store a partial last block it is almost never seen again; where they store whole blocks only it is like any
    other. So it is learned, not assumed.
    """

    def __init__(self, capacity: int) -> None:
        self._made = [0.0, 0.0]  # body, tail
        self._back = [0.0, 0.0]
        self._memory = float(_MEMORY * capacity)
        self.penalty = 0.0  # octaves, 0 to 4

    def observe_return(self, *, was_tail: bool) -> None:
        """A known block was asked for."""
        self._back[was_tail] += 1

    def observe_request(self, length: int) -> None:
        """A request of ``length`` blocks was played."""
        kept = math.exp(-length / self._memory)
        for odds in (self._made, self._back):
            odds[0] *= kept
            odds[1] *= kept
        self._made[0] += length - 1
        self._made[1] += 1
        body, tail = ((back + 1) / (made + 2) for back, made in zip(self._back, self._made, strict=True))
        self.penalty = min(_MOST_TAIL_PENALTY, max(0.0, math.log2(body / tail)))
