"""LFU: the block that was used least often since it was stored goes, the oldest of several."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

from kvcd.simulation.policy import Policy


class Lfu(Policy):
    """Blocks in one list per count, so that each step costs the same at any size (Shah, Mitra, Matani: An O(1) algorithm for LFU, 2010)."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._uses: dict[int, int] = {}
        self._by_uses: defaultdict[int, OrderedDict[int, None]] = defaultdict(OrderedDict)
        self._least = 1

    def holds(self, block: int) -> bool:
        return block in self._uses

    def access(self, block: int) -> None:
        uses = self._uses.get(block, 0)
        if uses:
            self._leave(block, uses)
        else:
            if len(self._uses) >= self.capacity:
                self._evict()
            self._least = 1
        self._uses[block] = uses + 1
        self._by_uses[uses + 1][block] = None

    def _leave(self, block: int, uses: int) -> None:
        peers = self._by_uses[uses]
        del peers[block]
        if not peers:
            del self._by_uses[uses]
            if self._least == uses:
                self._least = uses + 1  # where the block goes now

    def _evict(self) -> None:
        peers = self._by_uses[self._least]
        victim, _ = peers.popitem(last=False)
        if not peers:
            del self._by_uses[self._least]
        del self._uses[victim]
