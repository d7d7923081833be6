"""Heat: what is remembered of one block, while it is held and after it was evicted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Heat:
    """``last`` and ``bonus`` are apart, as in the pool: together they are the priority, ``last`` alone is LRU's."""

    block: int
    last: int = 0  # accesses since the beginning, at the last use
    bonus: float = 0.0  # accesses that its history is worth
    count: float = 0.0  # uses, the old ones decayed
    is_tail: bool = False  # was the last block of its request
    priority: float = 0.0  # what it is evicted by under the present leader
    is_held: bool = False
