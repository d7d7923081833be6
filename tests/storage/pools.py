"""Pools for the store's tests: small ones over every fabric that is there, and a way to run the store's coroutines."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from storage.cells import cell_sizes
from storage.fabric.base import Fabric
from storage.fabric.shm import SharedMemoryFabric
from storage.fabric.sim import SimulatedFabric
from storage.pool import Pool
from storage.store import Store

NOW_MS = 1_700_000_000_000
PAGE_BYTES = 65_536
LARGEST_CELL_BYTES = cell_sizes()[-1]
HEAD_BYTES = 24  # of a cell without optional fields
INDEX_BYTES = 2_664_000  # what stands before the index: superblock, front ends, hazard rows, counters, counts

Result = TypeVar("Result")

HAS_VERBS = os.environ.get("KVCD_VERBS") == "1"  # set where an RDMA device is, as in the Soft-RoCE guest
FABRICS = ("shm", "sim", *([pytest.param("verbs", marks=pytest.mark.verbs)] if HAS_VERBS else []))
every_fabric = pytest.mark.parametrize("kind", FABRICS)
remote_fabrics = pytest.mark.parametrize("kind", FABRICS[1:])  # where an operation takes a round trip


def finish(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine of the store, which must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("the store suspended")


def make_fabric(kind: str, size_bytes: int, seed: int = 1) -> Fabric:
    """Return memory of ``size_bytes`` behind the fabric of this kind."""
    if kind == "verbs":
        from tests.rdma.loopback import loopback_fabric  # it wants pyverbs

        return loopback_fabric(size_bytes)
    return SharedMemoryFabric.memory(size_bytes) if kind == "shm" else SimulatedFabric(size_bytes, seed)


def make_pool(
    kind: str, *, pages: int = 64, index_entries: int = 1022, seed: int = 1, binding_bits: int = 8, version_bits: int = 14
) -> Pool:
    """Return a pool with room for about ``pages`` pages."""
    size_bytes = INDEX_BYTES + index_entries * 36 + (pages + 3) * (PAGE_BYTES + 8)
    size_bytes += size_bytes // 63 // 4096 * 4096  # ghosts: a 64th of all
    return Pool.format(
        make_fabric(kind, size_bytes, seed),
        index_entries=index_entries,
        secret=bytes(16),
        binding_bits=binding_bits,
        version_bits=version_bits,
    )


def make_store(kind: str, *, policy: str = "noeviction", pages: int = 64, index_entries: int = 1022, seed: int = 1) -> Store:
    """Return a store over a pool of its own, with a clock that stands still."""
    store = Store(make_pool(kind, pages=pages, index_entries=index_entries, seed=seed), policy)
    store.set_clock(NOW_MS)
    return store


def forgetful_store(store: Store, policy: str = "noeviction") -> Store:
    """Return a store over the same memory, as the same front end, that remembers nothing of where keys lie."""
    return second_store(store, store.pool.front_end, policy)


def second_store(store: Store, front_end: int = 1, policy: str = "noeviction") -> Store:
    """Return another front end's store over the same memory."""
    other = Store(Pool.attach(store.pool.fabric, front_end), policy)
    other.set_clock(NOW_MS)
    return other


def pages_used(store: Store) -> int:
    """Return how many pages of the pool are in use."""
    return int(store.memory()["pages_used"])


def largest_inline_bytes(key: bytes) -> int:
    """Return the length of the largest value that still lies in the key's cell."""
    return LARGEST_CELL_BYTES - HEAD_BYTES - len(key)


def sweep(store: Store) -> None:
    """Let the background work finish."""
    for _ in range(10_000):
        if not store.maintain(1000.0):
            return
    raise AssertionError("the background work never ends")


def filler(length: int, seed: int) -> bytes:
    """Return bytes in which a page in the wrong place, or another value's page, shows."""
    word = seed.to_bytes(4, "little")
    blocks = [word + number.to_bytes(4, "little") for number in range(length // 4096 + 1)]
    return b"".join((block * 512)[:4096] for block in blocks)[:length]
