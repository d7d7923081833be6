"""Residents: the blocks that are held, sampled for victims as the pool samples its heat entries."""

from __future__ import annotations

import random
from collections.abc import Callable
from operator import attrgetter

from kvcd.simulation.heat import Heat

_SAMPLE = 256  # entries of one 4 KiB read
_VICTIMS_PER_SAMPLE = 4  # 64 live samples for each: as good as a heap; 16 lose .003, 6 lose .01
_NEWEST = 64  # blocks added last that are no victims, at most;
_NEWEST_SHARE = 64  # a 64th of all,
_NEWEST_LEAST = 2  # and at least these, where they are not a quarter of all
_POOL_SIZE = 64  # 16 lose .001


class Residents:
    """Every place is random, as a hash is, so that neighbours are a fair sample."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._heats: list[Heat] = []
        self._newest: list[int] = []  # added last, in this order
        self._place: dict[int, int] = {}
        self._pool: list[tuple[float, Heat]] = []  # (priority when sampled, heat), the least last
        self._taken = _VICTIMS_PER_SAMPLE

    def __len__(self) -> int:
        return len(self._heats)

    def add(self, heat: Heat) -> None:
        """Put the block at a random place."""
        self._newest.append(heat.block)
        if len(self._newest) > 2 * _NEWEST:
            del self._newest[:_NEWEST]
        place = self._random.randrange(len(self._heats) + 1)
        self._heats.append(heat)
        self._swap(place, len(self._heats) - 1)

    def remove(self, heat: Heat) -> None:
        """Take the block out."""
        place = self._place.pop(heat.block)
        last = self._heats.pop()
        if last is not heat:
            self._heats[place] = last
            self._place[last.block] = place

    def victim(self) -> Heat:
        """The block of least priority among those sampled, which is not taken out by this; none that was just added."""
        if self._taken >= _VICTIMS_PER_SAMPLE:
            self._sample()
        while True:
            while self._pool:
                priority, heat = self._pool[-1]
                if heat.is_held and heat.priority == priority:
                    return heat
                self._pool.pop()
            self._sample()

    def take(self, heat: Heat) -> None:
        """Evict the victim."""
        self._pool.pop()
        self._taken += 1
        self.remove(heat)

    def reorder(self, priority_of: Callable[[Heat], float]) -> None:
        """Priorities are other ones now."""
        for heat in self._heats:
            heat.priority = priority_of(heat)
        self._pool.clear()
        self._taken = _VICTIMS_PER_SAMPLE

    def _sample(self) -> None:
        begin = self._random.randrange(max(1, len(self._heats) - _SAMPLE + 1))
        sampled = {heat.block: heat for heat in self._heats[begin : begin + _SAMPLE]}
        sampled |= {heat.block: heat for priority, heat in self._pool if heat.is_held and heat.priority == priority}
        count = min(max(len(self._heats) // _NEWEST_SHARE, _NEWEST_LEAST), _NEWEST, len(self._heats) // 4)
        newest = set(self._newest[len(self._newest) - count :])
        old = [heat for heat in sampled.values() if heat.block not in newest]
        least = sorted(old or sampled.values(), key=attrgetter("priority"), reverse=True)[-_POOL_SIZE:]
        self._pool = [(heat.priority, heat) for heat in least]
        self._taken = 0

    def _swap(self, first: int, second: int) -> None:
        heats = self._heats
        heats[first], heats[second] = heats[second], heats[first]
        self._place[heats[first].block] = first
        self._place[heats[second].block] = second
