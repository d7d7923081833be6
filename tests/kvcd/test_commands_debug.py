"""DEBUG, MODULE, replication and what else is allowed only to some, or refused to all."""

from __future__ import annotations

import pytest

from protocol.replies import OK, Encoded, Error, Simple
from tests.kvcd.service import Service


def allowed() -> Service:
    """Return a service that takes DEBUG."""
    service = Service()
    service.server.config._values["enable-debug-command"] = "yes"
    return service


@pytest.mark.parametrize(("setting", "address", "is_allowed"), [
    ("no", "127.0.0.1:1", False), ("local", "127.0.0.1:1", True), ("local", "/run/x.sock:0", True), ("local", "10.0.0.1:1", False),
    ("local", "[::1]:1", True), ("yes", "10.0.0.1:1", True),
])  # fmt: skip
def test_debug_is_for_whom_the_directive_allows_it(setting: str, address: str, is_allowed: bool) -> None:
    """Whoever it is, before a login too."""
    service = Service()
    service.server.config._values["enable-debug-command"] = setting
    service.client.address = address
    reply = service.do("DEBUG", "SLEEP", 0)
    assert (reply == OK) == is_allowed
    service.client.authenticated = False
    refused = service.do("DEBUG", "SLEEP", 0)
    assert isinstance(refused, Error)
    assert refused.text.startswith("NOAUTH" if is_allowed else "ERR DEBUG command not allowed.")


def test_replies_of_every_kind() -> None:
    """For tests of clients."""
    service = allowed()
    assert service.do("DEBUG", "PROTOCOL", "string") == b"Hello World"
    service.client.resp = 3
    reply = service.do("DEBUG", "PROTOCOL", "attrib")
    assert isinstance(reply, Encoded)
    assert reply.data.startswith(b"|1\r\n")


def test_keys_are_made_and_have_a_digest() -> None:
    """POPULATE leaves what is there; equal keys have equal digests, wherever they came from."""
    service = allowed()
    service.do("SET", "key:1", "mine")
    assert service.do("DEBUG", "POPULATE", 3) == OK
    assert service.do("MGET", "key:0", "key:1", "key:2") == [b"value:0", b"mine", b"value:2"]
    assert service.do("DEBUG", "POPULATE", 1, "k", 10) == OK
    assert service.do("GET", "k:0") == b"value:0\0\0\0"
    digest = service.do("DEBUG", "DIGEST")
    service.do("SET", "other", "x")
    assert service.do("DEBUG", "DIGEST") != digest
    service.do("DEL", "other")
    assert service.do("DEBUG", "DIGEST") == digest
    service.do("FLUSHALL")
    assert service.do("DEBUG", "DIGEST") == Simple("0" * 40)


def test_expiry_in_the_background_can_be_switched_off() -> None:
    """And on."""
    service = allowed()
    service.do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    assert not service.server.expires_in_background
    service.do("DEBUG", "SET-ACTIVE-EXPIRE", 1)
    assert service.server.expires_in_background


@pytest.mark.parametrize("line", ["REPLICAOF 10.0.0.1 6379", "SYNC", "PSYNC ? -1", "MIGRATE h 1 k 0 1", "BGREWRITEAOF", "MODULE LOAD /x"])
def test_what_is_not_to_be_had_is_a_clear_error(line: str) -> None:
    """It says what to do instead, or why."""
    reply = Service().do(*line.split())
    assert isinstance(reply, Error)
    assert reply.text.startswith("ERR ")


def test_object_tells_how_redis_would_keep_a_value() -> None:
    """By length and whether it is a number; a look does not count as use."""
    service = Service()
    for value, name in (
        (b"12", b"int"),
        (b"-9223372036854775808", b"int"),
        (b"012", b"embstr"),
        (b"x" * 44, b"embstr"),
        (b"x" * 45, b"raw"),
    ):
        service.do("SET", "a", value)
        assert service.do("OBJECT", "ENCODING", "a") == name
    service.server.store.now_ms += 5000
    assert service.do("OBJECT", "IDLETIME", "a") == 5
    assert service.do("OBJECT", "IDLETIME", "a") == 5
    assert isinstance(service.do("OBJECT", "FREQ", "a"), Error)
    service.server.config.set_many({"maxmemory-policy": "allkeys-lfu"})
    assert isinstance(service.do("OBJECT", "IDLETIME", "a"), Error)
    assert isinstance(service.do("OBJECT", "FREQ", "a"), int)


def test_a_value_moves_by_dump_and_restore() -> None:
    """With its time to live, over what is there only when asked to."""
    service = Service()
    service.do("SET", "a", "v")
    payload = service.do("DUMP", "a")
    assert service.do("RESTORE", "a", 0, payload) == Error("BUSYKEY Target key name already exists.")
    assert service.do("RESTORE", "b", 5000, payload) == OK
    assert service.do("PTTL", "b") == 5000
    assert service.do("RESTORE", "b", 1, payload, "ABSTTL", "REPLACE") == OK
    assert service.do("EXISTS", "b") == 0
    assert service.do("MOVE", "a", 3) == 1
    assert service.do("MOVE", "a", 3) == 0


def test_what_debug_sets_is_the_servers_while_somebody_watches() -> None:
    """Handlers see the server through an observer then."""
    service = allowed()
    service.do("WATCH", "k")
    assert service.do("DEBUG", "SET-ACTIVE-EXPIRE", 0) == OK
    assert not service.server.expires_in_background
