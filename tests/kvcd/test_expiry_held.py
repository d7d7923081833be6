"""What has expired stays where it is while clients are paused, or while nobody is to look for it: kvcd beside redis-server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.programs import require_program
from tests.servers import ServerProcess, Servers
from tests.wire import Wire

DEADLINE_S = 20
LIFE_MS = 40
LONG_S = 0.5  # several turns of background work
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def both() -> Iterator[list[ServerProcess]]:
    """Return a kvcd and a redis-server."""
    require_program("redis-server")
    servers = Servers()
    try:
        yield [
            servers.kvcd(pool_size="64mb", enable_debug_command="yes", maxmemory_policy="allkeys-lru"),
            servers.redis(enable_debug_command="yes"),
        ]
    finally:
        servers.close()


@pytest.fixture
def wires(both: list[ServerProcess]) -> Iterator[list[Wire]]:
    """Return a connection to each, both empty, neither paused."""
    with both[0].connect() as ours, both[1].connect() as theirs:
        wires = [ours, theirs]
        for words in (("CLIENT", "UNPAUSE"), ("DEBUG", "SET-ACTIVE-EXPIRE", "1"), ("FLUSHALL",), ("CONFIG", "RESETSTAT")):
            assert same(wires, *words) == b"OK"
        yield wires
        same(wires, "CLIENT", "UNPAUSE")
        same(wires, "DEBUG", "SET-ACTIVE-EXPIRE", "1")


def same(wires: list[Wire], *words: bytes | str | int) -> object:
    """Run a command on both; return their reply, which must be the same."""
    ours, theirs = (wire.call(*words) for wire in wires)
    assert ours == theirs, words
    return ours


def expired_keys(servers: list[ServerProcess]) -> list[str]:
    """Return what each has removed because its time was over."""
    return [server.info()["expired_keys"] for server in servers]


def test_nothing_expires_in_a_pause(both: list[ServerProcess], wires: list[Wire]) -> None:
    """Keys whose time is over are absent for readers, and there for who counts; they go when the pause is over."""
    for key in ("read", "unread"):
        same(wires, "SET", key, "value", "PX", LIFE_MS)
    same(wires, "CLIENT", "PAUSE", 60_000, "WRITE")
    time.sleep(LONG_S)
    assert same(wires, "GET", "read") is None
    assert same(wires, "EXISTS", "read") == 0
    assert same(wires, "DBSIZE") == 2
    assert expired_keys(both) == ["0", "0"]
    same(wires, "CLIENT", "UNPAUSE")
    assert same(wires, "GET", "read") is None
    end_s = time.monotonic() + DEADLINE_S
    while expired_keys(both) != ["2", "2"]:
        assert time.monotonic() < end_s, expired_keys(both)
        time.sleep(0.01)
    assert same(wires, "DBSIZE") == 0


def test_without_active_expiry_a_key_stays_until_somebody_asks_for_it(both: list[ServerProcess], wires: list[Wire]) -> None:
    """DEBUG SET-ACTIVE-EXPIRE 0."""
    same(wires, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
    for key in ("read", "unread"):
        same(wires, "SET", key, "value", "PX", LIFE_MS)
    time.sleep(LONG_S)
    assert same(wires, "DBSIZE") == 2
    assert same(wires, "GET", "read") is None
    assert same(wires, "DBSIZE") == 1
    assert expired_keys(both) == ["1", "1"]


def test_without_active_expiry_a_lower_limit_is_kept_all_the_same(both: list[ServerProcess], wires: list[Wire]) -> None:
    """Only the search for expired keys stops, not the rest of the background work."""
    ours = wires[0]
    for number in range(400):
        ours.call("SET", f"key{number}", b"v" * 60_000)
    same(wires, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
    ours.call("CONFIG", "SET", "maxmemory", 8 * MIB)
    try:
        end_s = time.monotonic() + DEADLINE_S
        while int(both[0].info()["used_memory"]) > 8 * MIB:
            assert time.monotonic() < end_s, "nothing was evicted"
            time.sleep(0.02)
    finally:
        ours.call("CONFIG", "SET", "maxmemory", 0)
