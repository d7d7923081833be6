"""S3-FIFO: a small queue that most blocks leave again soon, a main queue for those used meanwhile, and ghosts."""

from __future__ import annotations

from collections import OrderedDict

from kvcd.simulation.policy import Policy

_SMALL_SHARE = 0.1
_MOST_USES = 3
_USES_TO_STAY = 2  # uses while in the small queue that lead to the main one


class S3Fifo(Policy):
    """Yang et al.: FIFO Queues are All You Need for Cache Eviction, SOSP 2023, algorithm 1."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._small: OrderedDict[int, int] = OrderedDict()  # block -> uses, oldest first
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._small_capacity = max(1, int(capacity * _SMALL_SHARE))
        self._ghost_capacity = max(1, capacity - self._small_capacity)

    def holds(self, block: int) -> bool:
        return block in self._small or block in self._main

    def access(self, block: int) -> None:
        queue = self._small if block in self._small else self._main
        if block in queue:
            queue[block] = min(queue[block] + 1, _MOST_USES)
            return
        while len(self._small) + len(self._main) >= self.capacity:
            if len(self._small) >= self._small_capacity or not self._main:
                self._leave_small()
            else:
                self._leave_main()
        if block in self._ghosts:
            del self._ghosts[block]
            self._main[block] = 0
        else:
            self._small[block] = 0

    def _leave_small(self) -> None:
        block, uses = self._small.popitem(last=False)
        if uses >= _USES_TO_STAY:
            self._main[block] = 0
            return
        self._ghosts[block] = None
        if len(self._ghosts) > self._ghost_capacity:
            self._ghosts.popitem(last=False)

    def _leave_main(self) -> None:
        block, uses = self._main.popitem(last=False)
        if uses:
            self._main[block] = uses - 1
