"""allkeys-prefix through the server: what is admitted, and what is not."""

from __future__ import annotations

import random

from tests.servers import Servers
from tests.wire import Wire

VALUE_BYTES = 40_000


def pairs(name: str, count: int) -> list[str | bytes]:
    """Return keys of a chain and their values."""
    return [word for number in range(count) for word in (f"{name}:{number}", b"b" * VALUE_BYTES)]


def keys(name: str, count: int) -> list[str]:
    return [f"{name}:{number}" for number in range(count)]


def test_a_new_chain_does_not_push_out_what_is_used(servers: Servers) -> None:
    """PREFIX.SET stops at the first block that is worth less than what would go for it, and says so; SET stores whatever comes."""
    with servers.kvcd(pool_size="48mb", maxmemory="16mb") as server, server.connect() as wire:
        assert wire.call("CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"allkeys-prefix"]
        for chain in range(12):
            wire.call("PREFIX.SET", *pairs(f"used{chain}", 20))
        for _ in range(8):
            for chain in range(12):
                found = wire.call("PREFIX.MATCH", *keys(f"used{chain}", 20))
                assert isinstance(found, int)
                if found:
                    wire.call("PREFIX.GET", *keys(f"used{chain}", found))
        wire.call("PREFIX.SET", *pairs("filler", 60))
        stored = wire.call("PREFIX.SET", *pairs("endless", 200))
        assert isinstance(stored, int)
        assert stored < 100
        assert wire.call("PREFIX.MATCH", *keys("endless", 200)) == stored
        assert sum(wire.call("PREFIX.MATCH", *keys(f"used{chain}", 20)) for chain in range(12)) > 150  # type: ignore[misc]
        for number in range(50):
            assert wire.call("SET", f"plain{number}", b"p" * VALUE_BYTES) == b"OK"
            assert wire.call("EXISTS", f"plain{number}") == 1


def test_what_was_just_stored_is_not_the_next_to_go(servers: Servers) -> None:
    """Though last blocks of requests have never come back, and this may be one."""
    with servers.kvcd(pool_size="48mb", maxmemory="4mb") as server, server.connect() as wire:
        for number in range(200):
            head = keys(f"chat{number % 4}", 12)
            found = wire.call("PREFIX.MATCH", *head)
            assert isinstance(found, int)
            if found:
                wire.call("PREFIX.GET", *head[:found])
            parent = ["PARENT", head[found - 1]] if found else []
            wire.call("PREFIX.SET", *parent, *pairs(f"chat{number % 4}", 12)[2 * found :], f"end{number}", b"e")
        for number in range(100):
            fresh = [f"fresh{number}:{each}" for each in range(3)]
            for key in fresh:
                assert wire.call("SET", key, b"p" * VALUE_BYTES) == b"OK"
            assert wire.call("EXISTS", *fresh) == 3


def test_no_block_outlives_what_stands_before_it_in_its_chain(servers: Servers) -> None:
    """Without its head it is of no use. The interval between two uses, which is learned, moves while a chain is asked for."""
    source = random.Random(5)
    chains = [keys(f"c{number}", 16) for number in range(32)]
    useless = looks = 0
    server = servers.kvcd(pool_size="64mb", maxmemory="24mb", lookup_protection_ms=0)
    with server, server.connect() as wire, server.connect() as other:
        for number in range(600):
            chain = source.choice(chains)
            hits = 0
            while hits < len(chain) and wire.call("EXISTS", chain[hits]) == 1:
                hits += 1
            for key in chain[:hits]:
                assert wire.call("GET", key) is not None
            for key in chain[hits:]:
                assert wire.call("SET", key, b"v" * VALUE_BYTES) == b"OK"
            if number >= 200 and number % 20 == 0:
                held = [[other.call("EXISTS", key) == 1 for key in chain] for chain in chains]
                assert sum(sum(each) for each in held) < 32 * 16
                useless += sum(sum(each[each.index(False) :]) for each in held if False in each)
                looks += 1
    assert useless < 2 * looks


def test_plain_clients_tell_parents_by_the_order_of_what_they_store(servers: Servers) -> None:
    """EXISTS from the head until the first block that is missing, then SET for what is missing; both keys of a pair are one block."""
    with servers.kvcd(pool_size="48mb") as server, server.connect() as wire, server.connect() as other:
        for number in range(3):
            assert wire.call("EXISTS", f"a{number}") == 0
            assert wire.call("SET", f"a{number}", "v") == b"OK"
        for number in range(3):
            assert other.call("EXISTS", f"a{number}") == 1
        assert other.call("EXISTS", "a3") == 0
        for number in range(3):
            assert other.call("GET", f"a{number}") == b"v"
        for number in range(3, 6):
            assert other.call("SET", f"a{number}", "v") == b"OK"
        info = [facts(wire, f"a{number}") for number in range(3, 6)]
        assert [(each["parent"], each["depth"]) for each in info] == [(b"a2", 3), (b"a3", 4), (b"a4", 5)]
        for number in range(3):
            assert wire.call("EXISTS", f"b{number}metadata") == 0
        for number in range(3):
            assert wire.call("SET", f"b{number}kv_bytes", "v") == b"OK"
            assert wire.call("SET", f"b{number}metadata", "v") == b"OK"
        assert [facts(wire, f"b{number}{half}")["depth"] for number in range(3) for half in ("kv_bytes", "metadata")] == [0, 0, 1, 1, 2, 2]
        assert other.call("SET", "alone", "v") == b"OK"
        assert other.call("CONFIG", "SET", "chain-inference", "no") == b"OK"
        assert wire.call("EXISTS", "c0") == 0
        assert wire.call("SET", "c0", "v") == b"OK"
        assert wire.call("SET", "c1", "v") == b"OK"
        assert facts(wire, "c1")["depth"] == 0


def facts(wire: Wire, key: str) -> dict[str, object]:
    """PREFIX.INFO as a dictionary."""
    reply = wire.call("PREFIX.INFO", key)
    assert isinstance(reply, list)
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
