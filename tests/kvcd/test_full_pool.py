"""A pool that is full: one command that needs room for many values gets it for all of them, and takes what is coldest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.servers import ServerProcess, Servers
from tests.wire import Wire, encode

DEADLINE_S = 20
LIMIT_BYTES = 32 * 1024 * 1024


@pytest.mark.parametrize("value_bytes", [100, 3000, 40_000, 60_000])
def test_a_chain_written_into_a_full_pool_is_stored_whole(servers: Servers, value_bytes: int) -> None:
    """Room is promised once: a hundred values that wait for memory together are not all woken for one freed page."""
    with servers.kvcd(pool_size="48mb", maxmemory="16mb", maxmemory_policy="allkeys-lru") as server, server.connect() as wire:
        filled = 2 * 16 * 1024 * 1024 // (value_bytes + 60)
        for start in range(0, filled, 100):
            wire.call("MSET", *(word for number in range(start, start + 100) for word in (f"old{number}", b"o" * value_bytes)))
        pairs = [word for number in range(100) for word in (f"new{number}", bytes([number]) * value_bytes)]
        time.sleep(0.1)  # the chain's last blocks count as some ms older than its first; what was there before is older than all
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


def set_many(wire: Wire, name: str, count: int, length: int) -> None:
    """Set keys of one length; every answer is OK."""
    together = max(1, min(500, 1_000_000 // length))
    for start in range(0, count, together):
        numbers = range(start, min(start + together, count))
        wire.send(b"".join(encode("SET", f"{name}{number}", bytes([number & 127]) * length) for number in numbers))
        assert wire.replies(len(numbers)) == [b"OK"] * len(numbers)


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll what background work makes true."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        threading.Event().wait(0.005)


def used_bytes(server: ServerProcess) -> int:
    """Return the bytes of pages in use."""
    return int(server.info()["used_memory"])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("policy", ["allkeys-prefix", "allkeys-lru"])
def test_a_pool_of_small_values_turns_to_large_ones_and_back(servers: Servers, policy: str, workers: int) -> None:
    """And to a third size: no SET fails, and every page comes back."""
    with servers.kvcd(pool_size="64mb", maxmemory=LIMIT_BYTES, maxmemory_policy=policy, workers=workers, index_entries=400_000) as server:
        wires = [server.connect() for _ in range(4)]  # the kernel spreads them over the workers
        for turn, (count, length) in enumerate([(80_000, 64), (20, 1 << 20), (3_000, 5_000), (40_000, 64)]):
            for number, wire in enumerate(wires):
                set_many(wire, f"{turn}:{number}:", count // len(wires), length)
            assert used_bytes(server) <= LIMIT_BYTES
            last = count // len(wires) - 1
            assert wires[-1].call("GET", f"{turn}:{len(wires) - 1}:{last}") == bytes([last & 127]) * length
        assert wires[0].call("FLUSHALL") == b"OK"
        # A class may keep one empty page, in each worker.
        until(lambda: used_bytes(server) <= 8 * 65_536 * workers, "the pages come back")
        for wire in wires:
            wire.close()


def test_others_are_served_while_room_is_made_for_a_large_value(servers: Servers) -> None:
    """A few pages at a time are emptied of small values, and in between the event loop goes round."""
    full = servers.kvcd(pool_size="64mb", maxmemory=LIMIT_BYTES, index_entries=400_000, maxmemory_policy="allkeys-lru")
    with full as server, server.connect() as wire, server.connect() as other:
        set_many(wire, "small", 300_000, 64)
        answered = 0
        stored = threading.Event()

        def store() -> None:
            assert wire.call("SET", "large", b"l" * (16 << 20)) == b"OK"
            stored.set()

        writer = threading.Thread(target=store)
        writer.start()
        while not stored.is_set():
            assert other.call("PING") == b"PONG"
            answered += 1
        writer.join()
        # 256 pages, 4 at a time: 64 turns. Without them the whole value came in three or four.
        assert answered > 20
        assert wire.call("STRLEN", "large") == 16 << 20


def test_a_write_finds_pages_that_were_made_free_before(servers: Servers) -> None:
    roomy = servers.kvcd(pool_size="64mb", maxmemory=LIMIT_BYTES, eviction_low_watermark=2, eviction_high_watermark="5%")
    with roomy as server, server.connect() as wire:
        set_many(wire, "k", 600, 60_000)
        until(lambda: used_bytes(server) <= LIMIT_BYTES * 0.98, "free pages")
        evicted = int(server.info()["evicted_keys"])
        assert wire.call("SET", "one more", b"x" * 60_000) == b"OK"
        assert int(server.info()["evicted_keys"]) == evicted
        assert wire.call("CONFIG", "SET", "eviction-low-watermark", "0") == b"OK"
        assert wire.call("CONFIG", "GET", "eviction-high-watermark") == [b"eviction-high-watermark", b"5"]
        set_many(wire, "later", 100, 60_000)
        assert used_bytes(server) > LIMIT_BYTES * 0.98
