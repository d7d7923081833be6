"""allkeys-prefix through the server: what is admitted, and what is not."""

from __future__ import annotations

from tests.servers import Servers

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
