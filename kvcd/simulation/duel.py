"""Duel: two shadow caches, one by LRU and one by the rule, kept as counts; who has more hits leads the real one."""

from __future__ import annotations

import math

from kvcd.simulation.heat import Heat

_BUCKETS = 1024
_BUCKETS_PER_CAPACITY = 16  # so the ring reaches 32 capacities back and as far ahead; 8 gave the same
_MEMORY = 16  # capacities' worth of accesses; 8 took noise of the real trace for a reason to change
_MEMORY_LEAST = 25_600  # accesses: a hundredth of a small cache's 16 capacities is less than chance
_LEAST_LEAD = 0.005  # of the accesses remembered
_LEAST_LEAD_BLOCKS = 128  # a single long request must not decide
_MOST_LEAD = 2  # limits that the rule's lead counts for at most: it may be from another load
_MOST_LAG = 3


class Threshold:
    """The value above which the capacity's worth of known blocks lie: what a cache ordered by it would hold now.

    Known blocks are counted in a ring of buckets around the clock. Nothing is stored for a block, and nothing is sampled.
    """

    def __init__(self, capacity: int) -> None:
        self.value = -math.inf
        self._capacity = capacity
        self._width = max(1, capacity // _BUCKETS_PER_CAPACITY)
        self._counts = [0] * _BUCKETS
        self._middle = 0  # the clock's bucket

    def add(self, value: float) -> None:
        """Count a block."""
        self._counts[self._clamped(value) % _BUCKETS] += 1

    def remove(self, value: float) -> None:
        """Take a block out again that was counted with this value."""
        if value // self._width > self._middle - _BUCKETS // 2 and self._counts[place := self._clamped(value) % _BUCKETS]:
            self._counts[place] -= 1

    def advance(self, clock: int) -> bool:
        """Let time pass; True when a bucket's width went by and the value was found anew."""
        bucket = clock // self._width
        if bucket == self._middle:
            return False
        while self._middle < bucket:
            self._middle += 1
            self._counts[(self._middle + _BUCKETS // 2 - 1) % _BUCKETS] = 0  # was the lowest, becomes the highest
        self.value = self._find()
        return True

    def _find(self) -> float:
        above = 0
        for bucket in range(self._middle + _BUCKETS // 2 - 1, self._middle - _BUCKETS // 2, -1):
            count = self._counts[bucket % _BUCKETS]
            if above + count >= self._capacity:
                return (bucket + 1 - (self._capacity - above) / count) * self._width
            above += count
        return -math.inf

    def _clamped(self, value: float) -> int:
        half = _BUCKETS // 2 - 1
        return min(self._middle + half, max(self._middle - half, int(value // self._width)))


class Duel:
    """Judges at every access of a known block which of the two would have had it."""

    def __init__(self, capacity: int) -> None:
        self.rule_leads = True
        self._lru = Threshold(capacity)
        self._rule = Threshold(capacity)
        self._score = 0.0  # hits of the rule beyond LRU's, the old ones decayed
        self._limit = _LEAST_LEAD * _MEMORY * capacity + _LEAST_LEAD_BLOCKS
        self._memory = max(_MEMORY * capacity, _MEMORY_LEAST)
        self._judged = 0  # the clock when it was judged last

    def leave(self, heat: Heat) -> None:
        """A known block is asked for: judge by what it was worth, which is about to change."""
        priority = heat.last + heat.bonus
        self._score += (priority >= self._rule.value) - (heat.last >= self._lru.value)
        self._lru.remove(heat.last)
        self._rule.remove(priority)

    def enter(self, heat: Heat) -> None:
        """The block has its new worth."""
        self._lru.add(heat.last)
        self._rule.add(heat.last + heat.bonus)

    def advance(self, clock: int) -> bool:
        """Let time pass; True when the leader changed."""
        if not self._lru.advance(clock):
            return False
        self._rule.advance(clock)
        self._score *= math.exp((self._judged - clock) / self._memory)
        self._score = max(-_MOST_LAG * self._limit, min(_MOST_LEAD * self._limit, self._score))
        self._judged = clock
        led = self.rule_leads
        if self._score < -self._limit:
            self.rule_leads = False
        elif self._score > 0:
            self.rule_leads = True
        return led != self.rule_leads
