"""Ghost table: the heat of blocks that are not held, hashed into small buckets as in the pool."""

from __future__ import annotations

from kvcd.simulation.heat import Heat

_BUCKET_ENTRIES = 8  # 16 bytes each: a bucket is one read of 128 bytes
_MASK = (1 << 64) - 1
_GHOSTS_PER_BLOCK = 16  # 8 lose .002 to .007 of the hit ratio at small caches, 32 gain nothing more


class GhostTable:
    """In a full bucket the least priority gives way: the oldest instead costs as much as halving the table."""

    def __init__(self, capacity: int) -> None:
        self._buckets: list[list[Heat]] = [[] for _ in range(max(1, capacity * _GHOSTS_PER_BLOCK // _BUCKET_ENTRIES))]
        self._heats: dict[int, Heat] = {}

    def find(self, block: int) -> Heat | None:
        """The block's heat, if it is remembered."""
        return self._heats.get(block)

    def add(self, heat: Heat) -> None:
        """Remember ``heat``, and forget another where its bucket is full."""
        bucket = self._bucket(heat.block)
        if len(bucket) >= _BUCKET_ENTRIES:
            least = min(bucket, key=lambda other: other.last + other.bonus)
            bucket.remove(least)
            del self._heats[least.block]
        bucket.append(heat)
        self._heats[heat.block] = heat

    def remove(self, block: int) -> None:
        """Forget the block, which is held again."""
        self._bucket(block).remove(self._heats.pop(block))

    def _bucket(self, block: int) -> list[Heat]:
        return self._buckets[_mixed(block) % len(self._buckets)]


def _mixed(number: int) -> int:
    """Like a random number, as the hash of a key is: ids of a chain are consecutive, and evenly spread buckets would be another table.

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014 (the finalizer of SplitMix64).
    """
    number += 0x9E3779B97F4A7C15
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & _MASK
    return number ^ (number >> 31)
