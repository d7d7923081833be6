"""Database order: which of the pool's databases each number means, kept in the superblock, so that SWAPDB is one small write."""

from __future__ import annotations

from storage.pool import Pool

_OFFSET = 2560  # in the superblock, outside its checksum; zeros in a new pool
_MOST_DATABASES = 256


def read_order(pool: Pool, databases: int) -> list[int] | None:
    """Return each number's place; None where nobody has ever written one, or for another count of databases."""
    places = list(pool.read(_OFFSET, _MOST_DATABASES)[:databases])
    return places if sorted(places) == list(range(databases)) else None


def write_order(pool: Pool, places: list[int]) -> None:
    """Write it down for this pool's other front ends, and for who comes later."""
    pool.write(_OFFSET, bytes(places).ljust(_MOST_DATABASES, b"\0"))
