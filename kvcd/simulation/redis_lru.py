"""Redis's approximated LRU: five random keys are looked at, the longest idle of a pool of sixteen goes."""

from __future__ import annotations

import random
from bisect import insort

from kvcd.simulation.policy import Policy

_SAMPLES = 5  # maxmemory-samples
_POOL_SIZE = 16  # EVPOOL_SIZE


class RedisLru(Policy):
    """redis-server 7's evict.c (evictionPoolPopulate), with a clock that counts accesses instead of seconds."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._random = random.Random(capacity)
        self._last_use: dict[int, int] = {}
        self._blocks: list[int] = []
        self._place: dict[int, int] = {}
        self._pool: list[tuple[int, int]] = []  # (idle when sampled, block), longest idle last
        self._clock = 0

    def holds(self, block: int) -> bool:
        return block in self._last_use

    def access(self, block: int) -> None:
        self._clock += 1
        if block not in self._last_use:
            if len(self._blocks) >= self.capacity:
                self._evict()
            self._place[block] = len(self._blocks)
            self._blocks.append(block)
        self._last_use[block] = self._clock

    def _evict(self) -> None:
        while True:
            self._fill_pool()
            while self._pool:
                victim = self._pool.pop()[1]
                if victim in self._last_use:  # Redis too looks only whether it still exists, not whether it was used since
                    del self._last_use[victim]
                    place, moved = self._place.pop(victim), self._blocks.pop()
                    if moved != victim:
                        self._blocks[place] = moved
                        self._place[moved] = place
                    return

    def _fill_pool(self) -> None:
        pooled = {block for _, block in self._pool}
        for block in self._random.sample(self._blocks, min(_SAMPLES, len(self._blocks))):
            idle = self._clock - self._last_use[block]
            if block in pooled or (len(self._pool) == _POOL_SIZE and idle <= self._pool[0][0]):
                continue
            insort(self._pool, (idle, block))
            if len(self._pool) > _POOL_SIZE:
                del self._pool[0]
