"""The optimum: knows the future, keeps the blocks that are asked for next, and stores nothing that is not worth its place."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence

from kvcd.simulation.policy import Policy

_NEVER = 1 << 62


class Optimum(Policy):
    """Belady (IBM Systems Journal 5, 1966) with bypass.

    Of blocks that the same request wants next the deeper goes first: no hit without its ancestors.
    """

    def __init__(self, capacity: int, future: Iterable[Sequence[int]]) -> None:
        super().__init__(capacity)
        uses: defaultdict[int, list[int]] = defaultdict(list)
        for number, blocks in enumerate(future):
            for block in blocks:
                uses[block].append(number)
        self._uses = {block: numbers[::-1] for block, numbers in uses.items()}  # the next one last
        self._next_use: dict[int, int] = {}  # of what is held
        self._heap: list[tuple[int, int, int]] = []  # (-next use, -depth, block), with entries that are no longer true

    def holds(self, block: int) -> bool:
        return block in self._next_use

    def access(self, block: int) -> None:
        self._use(block, 0)

    def play(self, blocks: Sequence[int]) -> int:
        hits = self.leading_run(blocks)
        for depth, block in enumerate(blocks):
            self._use(block, depth)
        return hits

    def _use(self, block: int, depth: int) -> None:
        uses = self._uses[block]
        uses.pop()
        next_use = uses[-1] if uses else _NEVER
        was_held = self._next_use.pop(block, None) is not None
        if next_use == _NEVER:
            self.refused_blocks += not was_held
            return
        entry = (-next_use, -depth, block)
        if len(self._next_use) >= self.capacity:
            while self._next_use.get(self._heap[0][2]) != -self._heap[0][0]:
                heapq.heappop(self._heap)
            if entry <= self._heap[0]:
                self.refused_blocks += 1
                return
            del self._next_use[heapq.heappop(self._heap)[2]]
        self._next_use[block] = next_use
        heapq.heappush(self._heap, entry)
