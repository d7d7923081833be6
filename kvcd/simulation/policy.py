"""Policy: a cache of a fixed number of blocks that requests are played against."""

from __future__ import annotations

import abc
from collections.abc import Sequence


class Policy(abc.ABC):
    """Holds at most ``capacity`` blocks; a request looks its chain up, uses what it found and stores the rest.

    The order is that of ``kvcd replay``: the leading run of blocks that are held is the hit, every block is then used or stored,
    head first. Replay's two modes differ only for a policy that may refuse what is stored.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache holds at least one block, not {capacity}")
        self.capacity = capacity
        self.refused_blocks = 0

    def play(self, blocks: Sequence[int]) -> int:
        """Play one request; returns how many leading blocks were held when it came."""
        hits = self.leading_run(blocks)
        for block in blocks:
            self.access(block)
        return hits

    def leading_run(self, blocks: Sequence[int]) -> int:
        """How many leading ``blocks`` are held."""
        for position, block in enumerate(blocks):
            if not self.holds(block):
                return position
        return len(blocks)

    @abc.abstractmethod
    def holds(self, block: int) -> bool:
        """Whether the block is in the cache."""

    @abc.abstractmethod
    def access(self, block: int) -> None:
        """Use the block if it is held, else store it and evict what must go."""
