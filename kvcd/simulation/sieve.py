"""SIEVE: a queue in order of arrival, and a hand that passes over what was used since it last came by."""

from __future__ import annotations

from kvcd.simulation.policy import Policy

_HEAD = -1  # stands before the newest and behind the oldest; no block has this number


class Sieve(Policy):
    """Zhang et al.: SIEVE is Simpler than LRU, NSDI 2024, algorithm 1."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._visited: dict[int, bool] = {}
        self._newer: dict[int, int] = {_HEAD: _HEAD}  # _HEAD's newer neighbour is the oldest block
        self._older: dict[int, int] = {_HEAD: _HEAD}
        self._hand = _HEAD

    def holds(self, block: int) -> bool:
        return block in self._visited

    def access(self, block: int) -> None:
        if block in self._visited:
            self._visited[block] = True
            return
        if len(self._visited) >= self.capacity:
            self._evict()
        self._visited[block] = False
        newest = self._older[_HEAD]
        self._newer[newest] = self._older[_HEAD] = block
        self._older[block], self._newer[block] = newest, _HEAD

    def _evict(self) -> None:
        hand = self._hand if self._hand != _HEAD else self._newer[_HEAD]
        while self._visited[hand]:
            self._visited[hand] = False
            hand = self._newer[hand]
            if hand == _HEAD:
                hand = self._newer[_HEAD]
        newer, older = self._newer.pop(hand), self._older.pop(hand)
        self._newer[older], self._older[newer] = newer, older
        self._hand = newer
        del self._visited[hand]
