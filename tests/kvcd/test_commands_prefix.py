"""PREFIX.*: chains of ordinary keys."""

from __future__ import annotations

import pytest

from protocol.replies import OK, Error
from tests.kvcd.service import PlainServer, Service
from tests.model import ModelStore


@pytest.fixture
def chain() -> Service:
    """A service that holds blocks 0, 1, 2 and 4."""
    made = Service()
    made.do("MSET", "b0", "v0", "b1", "v1", "b2", "v2", "b4", "v4")
    return made


def test_match_counts_the_leading_run(chain: Service) -> None:
    """What stands behind the first miss does not count."""
    assert chain.do("PREFIX.MATCH", "b0", "b1", "b2", "b3", "b4") == 3
    assert chain.do("PREFIX.MATCH", "b3", "b4") == 0
    assert chain.do("prefix.match", "b4") == 1


def test_exists_answers_for_each_key(chain: Service) -> None:
    """In order, as integers."""
    reply = chain.do("PREFIX.EXISTS", "b0", "b3", "b4", "b0")
    assert reply == [1, 0, 1, 1]
    assert isinstance(reply, list)
    assert all(type(item) is int for item in reply)  # a boolean would be another RESP3 type


def test_get_returns_the_leading_values(chain: Service) -> None:
    """Shorter than the argument list at the first miss."""
    assert chain.do("PREFIX.GET", "b0", "b1", "b3", "b4") == [b"v0", b"v1"]
    assert chain.do("PREFIX.GET", "b3") == []


def test_set_stores_pairs_and_counts_them(chain: Service) -> None:
    """Existing ones are overwritten, and with NX stay and count."""
    assert chain.do("PREFIX.SET", "b0", "new", "b5", "v5") == 2
    assert chain.do("PREFIX.GET", "b0", "b5") == [b"new", b"v5"]
    assert chain.do("PREFIX.SET", "NX", "PARENT", "b0", "b1", "other", "b6", "v6") == 2
    assert chain.do("PREFIX.GET", "b1", "b6") == [b"v1", b"v6"]


@pytest.mark.parametrize(("options", "left_ms"), [(("EX", 10), 10_000), (("px", 10), 10), (("nx", "PX", 7), 7), (("PX", 7, "NX"), 7)])
def test_set_takes_an_expiry(options: tuple[object, ...], left_ms: int) -> None:
    """Seconds or milliseconds, in any order with the other options."""
    made = Service()
    assert made.do("PREFIX.SET", *options, "k", "v", "j", "w") == 2
    assert made.do("PTTL", "k") == made.do("PTTL", "j") == left_ms


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (("k",), "ERR wrong number of arguments for 'prefix.set' command"),
        (("k", "v", "j"), "ERR wrong number of arguments for 'prefix.set' command"),
        (("NX", "k"), "ERR wrong number of arguments for 'prefix.set' command"),
        (("PARENT", "k"), "ERR wrong number of arguments for 'prefix.set' command"),
        (("EX", 0, "k", "v"), "ERR invalid expire time in 'prefix.set' command"),
        (("PX", "x", "k", "v"), "ERR value is not an integer or out of range"),
        (("EX", 1, "PX", 1, "k", "v"), "ERR syntax error"),
    ],
)
def test_set_refuses_what_it_cannot_read(command: tuple[object, ...], error: str) -> None:
    """In Redis's words."""
    assert Service().do("PREFIX.SET", *command) == Error(error)


def test_a_full_pool_cuts_the_tail_and_refuses_only_an_empty_run() -> None:
    """The count says how far it got; an error only if nothing could be stored."""
    made = Service(server=PlainServer(store=ModelStore(limit_bytes=25)))
    assert made.do("PREFIX.SET", "b0", "x" * 8, "b1", "x" * 8, "b2", "x" * 8) == 2
    assert made.do("PREFIX.MATCH", "b0", "b1", "b2") == 2
    assert made.do("PREFIX.SET", "b3", "x" * 8) == Error("OOM command not allowed when used memory > 'maxmemory'.")
    assert made.do("PREFIX.SET", "NX", "b0", "y", "b3", "x" * 8) == 1


def test_info_tells_of_one_block(chain: Service) -> None:
    """A map; null without the key."""
    chain.server.store.records[0, b"b1"].parent = b"b0"
    chain.server.store.now_ms += 5000
    chain.do("GET", "b1")
    assert chain.do("PREFIX.INFO", "b1") == {
        b"parent": b"b0",
        b"depth": 1,
        b"children": 0,
        b"hits": 1,
        b"last-use": chain.server.now_ms(),
        b"size": 2,
        b"lease": 0,
        b"node": 0,
    }
    assert chain.do("PREFIX.INFO", "b0")[b"children"] == 1  # type: ignore[index, call-overload]
    assert chain.do("PREFIX.INFO", "b3") is None


def test_stats_are_the_stores_counters(chain: Service) -> None:
    """Since the start: CONFIG RESETSTAT leaves them."""
    chain.do("GET", "b0")
    chain.do("GET", "b3")
    assert chain.do("CONFIG", "RESETSTAT") == OK
    stats = chain.do("PREFIX.STATS")
    assert stats == {b"hits": 1, b"misses": 1, b"expired": 0, b"evicted": 0}


def test_a_wrong_number_of_arguments() -> None:
    """Refused before anything runs."""
    for name in ("MATCH", "GET", "EXISTS", "INFO"):
        assert Service().do(f"PREFIX.{name}") == Error(f"ERR wrong number of arguments for 'prefix.{name.lower()}' command")
    assert Service().do("PREFIX.STATS", "x") == Error("ERR wrong number of arguments for 'prefix.stats' command")


def test_leases_cover_the_leading_run_and_end_early(chain: Service) -> None:
    """Integers: how many are safe, how many were."""
    assert chain.do("PREFIX.LEASE", 1000, "b0", "b1", "b3", "b4") == 2
    assert chain.do("prefix.lease", 1, "b3") == 0
    assert chain.do("PREFIX.UNLEASE", "b0", "b3", "b4") == 1
    assert chain.do("PREFIX.UNLEASE", "b0") == 0


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ((1000,), "ERR wrong number of arguments for 'prefix.lease' command"),
        (("soon", "b0"), "ERR value is not an integer or out of range"),
        ((0, "b0"), "ERR invalid lease time in 'prefix.lease' command, it has 1 to 3600000 milliseconds (lease-max-ms)"),
        ((-5, "b0"), "ERR invalid lease time in 'prefix.lease' command, it has 1 to 3600000 milliseconds (lease-max-ms)"),
        ((3_600_001, "b0"), "ERR invalid lease time in 'prefix.lease' command, it has 1 to 3600000 milliseconds (lease-max-ms)"),
    ],
)
def test_a_lease_of_an_impossible_time_is_refused(command: tuple[object, ...], error: str) -> None:
    """The error says what is possible."""
    assert Service().do("PREFIX.LEASE", *command) == Error(error)


def test_top_names_the_chains_that_are_read_most(chain: Service) -> None:
    """An array of maps, hottest first."""
    for _ in range(3):
        chain.do("GET", "b4")
    reply = chain.do("PREFIX.TOP", 1)
    assert isinstance(reply, list)
    assert isinstance(reply[0], dict)
    assert reply[0][b"key"] == b"b4"
    assert reply[0][b"hits"] == 3
    assert list(reply[0]) == [b"key", b"head", b"hits", b"depth", b"blocks", b"bytes", b"last-use"]


@pytest.mark.parametrize(
    ("count", "error"),
    [
        (("0",), "ERR value is out of range, must be between 1 and 1000"),
        (("1001",), "ERR value is out of range, must be between 1 and 1000"),
        (("many",), "ERR value is not an integer or out of range"),
        (("1", "2"), "ERR syntax error"),
    ],
)
def test_top_refuses_an_impossible_count(count: tuple[str, ...], error: str) -> None:
    """The error says what is possible."""
    assert Service().do("PREFIX.TOP", *count) == Error(error)
