"""Exact LRU: the block that was used longest ago goes."""

from __future__ import annotations

from collections import OrderedDict

from kvcd.simulation.policy import Policy


class Lru(Policy):
    """Blocks in the order of their last use, oldest first."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def holds(self, block: int) -> bool:
        return block in self._blocks

    def access(self, block: int) -> None:
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return
        if len(self._blocks) >= self.capacity:
            self._blocks.popitem(last=False)
        self._blocks[block] = None
