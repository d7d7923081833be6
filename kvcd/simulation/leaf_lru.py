"""Leaf-first LRU: exact LRU in which a chain's head is younger than its tail, so chains shrink from the tail."""

from __future__ import annotations

from collections.abc import Sequence

from kvcd.simulation.lru import Lru


class LeafLru(Lru):
    """LRU that uses each request's blocks tail first; of a chain that cannot fit the tail is not stored."""

    def play(self, blocks: Sequence[int]) -> int:
        hits = self.leading_run(blocks)
        for block in reversed(blocks[: self.capacity]):
            self.access(block)
        self.refused_blocks += max(0, len(blocks) - self.capacity)
        return hits
