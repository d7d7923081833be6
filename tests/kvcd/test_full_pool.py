"""A pool that is full: one command that needs room for many values gets it for all of them, and takes what is coldest."""

from __future__ import annotations

import pytest

from tests.servers import Servers


@pytest.mark.parametrize("value_bytes", [100, 3000, 40_000, 60_000])
def test_a_chain_written_into_a_full_pool_is_stored_whole(servers: Servers, value_bytes: int) -> None:
    """Room is promised once: a hundred values that wait for memory together are not all woken for one freed page."""
    with servers.kvcd(pool_size="48mb", maxmemory="16mb", maxmemory_policy="allkeys-lru") as server, server.connect() as wire:
        filled = 2 * 16 * 1024 * 1024 // (value_bytes + 60)
        for start in range(0, filled, 100):
            wire.call("MSET", *(word for number in range(start, start + 100) for word in (f"old{number}", b"o" * value_bytes)))
        pairs = [word for number in range(100) for word in (f"new{number}", bytes([number]) * value_bytes)]
        assert wire.call("PREFIX.SET", *pairs) == 100
        assert wire.call("PREFIX.MATCH", *(f"new{number}" for number in range(100))) == 100
        values = [bytes([number]) * value_bytes for number in range(100)]
        assert wire.call("PREFIX.GET", *(f"new{number}" for number in range(100))) == values
        assert int(server.info()["used_memory"]) <= 16 * 1024 * 1024


def test_of_a_chain_used_at_one_time_the_tail_is_evicted_first(servers: Servers) -> None:
    """A chain without its head is worth nothing, so the deeper block counts as used a little earlier."""
    with servers.kvcd(pool_size="48mb", maxmemory="16mb", maxmemory_policy="allkeys-lru") as server, server.connect() as wire:
        chain = [f"block{number}" for number in range(200)]
        assert wire.call("PREFIX.SET", *(word for key in chain for word in (key, b"b" * 60_000))) == 200
        assert wire.call("PREFIX.MATCH", *chain) == 200
        # 256 pages hold 255 of these values and the cells of all: 100 more push out about 45 of the 200.
        wire.call("MSET", *(word for number in range(100) for word in (f"other{number}", b"x" * 60_000)))
        present = wire.call("PREFIX.EXISTS", *chain)
        assert isinstance(present, list)
        lost = [number for number, there in enumerate(present) if not there]
        assert lost, "nothing had to go"
        assert sum(number < 100 for number in lost) <= len(lost) // 10
