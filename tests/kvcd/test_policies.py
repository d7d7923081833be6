"""Redis's maxmemory policies mean what they mean there: the same commands to kvcd and to redis-server at their maxmemory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.programs import require_program
from tests.servers import ServerProcess, Servers
from tests.wire import ReplyError, Wire

LIMIT_BYTES = 16 * 1024 * 1024
VALUE_BYTES = 20_000
DEADLINE_S = 20
REDIS_POLICIES = (
    "noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
)  # fmt: skip
V = b"v" * VALUE_BYTES
INFO_FIELDS = ("maxmemory", "maxmemory_human", "maxmemory_policy")
OOM = "OOM command not allowed when used memory > 'maxmemory'."


@pytest.fixture(scope="module")
def both() -> Iterator[dict[str, ServerProcess]]:
    """Return a kvcd and a redis-server with one limit; tests choose the policy and empty them."""
    require_program("redis-server")
    servers = Servers()
    try:
        yield {
            "kvcd": servers.kvcd(pool_size="48mb", maxmemory=LIMIT_BYTES),
            "redis": servers.redis(maxmemory=LIMIT_BYTES),
        }
    finally:
        servers.close()


@pytest.fixture
def wires(both: dict[str, ServerProcess]) -> Iterator[dict[str, Wire]]:
    """Return a connection to each."""
    with both["kvcd"].connect() as ours, both["redis"].connect() as theirs:
        yield {"kvcd": ours, "redis": theirs}


def begin(wires: dict[str, Wire], policy: str) -> None:
    """Empty both, under a policy."""
    for wire in wires.values():
        assert wire.call("FLUSHALL") == b"OK"
        for name, value in (("maxmemory", LIMIT_BYTES), ("lfu-log-factor", 10), ("lfu-decay-time", 1), ("maxmemory-policy", policy)):
            assert wire.call("CONFIG", "SET", name, value) == b"OK"


def same(wires: dict[str, Wire], *words: bytes | str | int) -> object:
    """Run a command on both; return their reply, which must be the same."""
    ours, theirs = (wires[name].call(*words) for name in ("kvcd", "redis"))
    assert ours == theirs, words
    return ours


def is_refused(wire: Wire, *words: bytes | str | int) -> bool:
    """Run a command; whether it was refused for want of memory. Any other error fails the test."""
    reply = wire.call(*words)
    assert not isinstance(reply, ReplyError) or str(reply) == OOM, (words, reply)
    return isinstance(reply, ReplyError)


def fill(wire: Wire, *, first: int = 0) -> int:
    """Write keys until one is refused; how many were not."""
    for number in range(3 * LIMIT_BYTES // VALUE_BYTES):
        if is_refused(wire, "SET", f"filler{first + number}", b"f" * VALUE_BYTES):
            return number
    raise AssertionError("nothing is ever refused")


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
def test_what_is_refused_at_a_full_pool_and_what_is_not(wires: dict[str, Wire], policy: str) -> None:
    """With nothing that may go: whatever adds memory is refused, everything else works, a changed expiry too."""
    begin(wires, policy)
    for wire in wires.values():
        for name in ("big", "other", "third"):
            assert wire.call("SET", name, V) == b"OK"
        assert fill(wire) > 100
    adding: list[tuple[str | bytes | int, ...]] = [
        ("SET", "new", V), ("SET", "new", V, "EX", 100), ("SETNX", "new", V), ("SETEX", "new", 100, V), ("PSETEX", "new", 100_000, V),
        ("GETSET", "new", V), ("APPEND", "big", V), ("SETRANGE", "new", 0, V), ("MSET", "new", V, "newer", V), ("MSETNX", "new", V),
    ]  # fmt: skip
    for words in adding:
        # What Redis counts goes up and down with its clients' buffers: a COPY, without a value in them, would pass.
        for wire in wires.values():
            fill(wire, first=2000)
        assert {name: is_refused(wire, *words) for name, wire in wires.items()} == {"kvcd": True, "redis": True}, words
    assert is_refused(wires["kvcd"], "COPY", "big", "new")
    for words in (("EXISTS", "new", "newer"), ("STRLEN", "big"), ("GET", "third"), ("TTL", "big")):
        same(wires, *words)
    keeping: list[tuple[str | bytes | int, ...]] = [
        ("EXPIRE", "big", 1000), ("PEXPIRE", "other", 2_000_000), ("EXPIREAT", "third", 9_999_999_999), ("PERSIST", "big"),
        ("GETEX", "other", "PERSIST"), ("GETEX", "third", "EX", 3000), ("TTL", "third"), ("TOUCH", "big", "other"),
        ("GETRANGE", "big", 0, 5), ("TYPE", "big"), ("GETDEL", "third"), ("DEL", "filler0"), ("UNLINK", "filler1"),
        ("OBJECT", "IDLETIME", "big"),
    ]  # fmt: skip
    if policy == "volatile-lru":
        keeping = [words for words in keeping if words[0] in ("TOUCH", "GETRANGE", "TYPE", "DEL", "UNLINK")]
    for words in keeping:
        assert not is_refused(wires["redis"], *words), words
        assert not is_refused(wires["kvcd"], *words), words
    same(wires, "EXISTS", "big", "other", "third", "filler0", "filler1")


def test_expiries_of_a_whole_full_pool_can_be_changed(both: dict[str, ServerProcess], wires: dict[str, Wire]) -> None:
    """Nothing grows by it, however often it is done: the little that is taken beyond the limit comes back."""
    begin(wires, "noeviction")
    wire = wires["kvcd"]
    count = fill(wire)
    for turn in range(2):
        for number in range(count):
            assert wire.call("EXPIRE", f"filler{number}", 1000 + turn) == 1, number
    used = int(both["kvcd"].info()["used_memory"])
    assert used <= LIMIT_BYTES + 17 * 65_536
    assert wire.call("DBSIZE") == count


@pytest.mark.parametrize("policy", REDIS_POLICIES)
def test_what_goes_and_what_stays(both: dict[str, ServerProcess], wires: dict[str, Wire], policy: str) -> None:
    """Half of the keys expire: under volatile policies the others stay, until there is nothing left to go."""
    begin(wires, policy)
    for name, wire in wires.items():
        before = int(both[name].info()["evicted_keys"])
        for number in range(200):
            assert wire.call("SET", f"lasting{number}", V) == b"OK"
            assert wire.call("SET", f"expiring{number}", V, "EX", 10_000 + number) == b"OK"
        refused = 0
        for number in range(700):
            refused += is_refused(wire, "SET", f"more{number}", V)
        lasting = wire.call("EXISTS", *(f"lasting{number}" for number in range(200)))
        expiring = wire.call("EXISTS", *(f"expiring{number}" for number in range(200)))
        evicted = int(both[name].info()["evicted_keys"]) - before
        assert isinstance(expiring, int)
        if policy == "noeviction":
            assert (lasting, expiring, evicted) == (200, 200, 0), name
            assert refused
        elif policy.startswith("volatile"):
            assert (lasting, expiring, evicted) == (200, 0, 200), name
            assert refused
        else:
            assert refused == 0
            assert evicted > 150


def test_volatile_ttl_takes_the_nearest_first(wires: dict[str, Wire]) -> None:
    """As sampled: of the keys that go nearly all would expire before those that stay, no less so than in Redis."""
    begin(wires, "volatile-ttl")
    shares = {}
    for name, wire in wires.items():
        for number in range(500):
            # Expiries in no order of age.
            assert wire.call("SET", f"k{number}", V, "EX", 10_000 + number * 7919 % 500) == b"OK"
        number = 0
        while wire.call("EXISTS", *(f"k{one}" for one in range(500))) > 250:  # type: ignore[operator]
            assert wire.call("SET", f"lasting{number}", V) == b"OK"
            number += 1
        near = [number for number in range(500) if number * 7919 % 500 < 250]
        gone = 250 - int(wire.call("EXISTS", *(f"k{number}" for number in near)))  # type: ignore[call-overload]
        shares[name] = gone / 250
    assert shares["kvcd"] > min(0.9, shares["redis"] - 0.03), shares


@pytest.mark.parametrize("policy", [*REDIS_POLICIES, "allkeys-prefix"])
def test_object_says_what_the_policy_keeps(wires: dict[str, Wire], policy: str) -> None:
    """FREQ under lfu alone, IDLETIME under all others; under allkeys-prefix as under lru."""
    begin(wires, "allkeys-lru" if policy == "allkeys-prefix" else policy)
    if policy == "allkeys-prefix":
        assert wires["kvcd"].call("CONFIG", "SET", "maxmemory-policy", policy) == b"OK"
    while not 0.2 < time.time() % 1 < 0.6:
        time.sleep(0.02)  # redis-server counts the beginnings of seconds, as often as its timer looks
    for words in (("SET", "k", "v"), ("OBJECT", "FREQ", "k"), ("OBJECT", "IDLETIME", "k"), ("OBJECT", "REFCOUNT", "k")):
        same(wires, *words)
    for subcommand in ("FREQ", "IDLETIME", "ENCODING", "REFCOUNT"):
        assert same(wires, "OBJECT", subcommand, "none") is None
    for value in ("1", "-7", "9223372036854775807", "9223372036854775808", "01", "x" * 44, "x" * 45, "", b"\xff\x00"):
        same(wires, "SET", "k", value)
        same(wires, "OBJECT", "ENCODING", "k")
    for words in (("OBJECT",), ("OBJECT", "FREQ"), ("OBJECT", "nonsense", "k"), ("OBJECT", "FREQ", "k", "k"), ("OBJECT", "ENCODING")):
        same(wires, *words)


def test_the_lfu_counter_counts_as_in_redis(wires: dict[str, Wire]) -> None:
    """Factor 0 counts every access, a very large one only the first; what only looks does not count."""
    begin(wires, "allkeys-lfu")
    same(wires, "CONFIG", "SET", "lfu-log-factor", 0)
    same(wires, "SET", "k", "v")
    assert same(wires, "OBJECT", "FREQ", "k") == 5
    for accesses, expected in ((10, 15), (100, 115), (300, 255)):
        for wire in wires.values():
            for _ in range(accesses):
                wire.call("GET", "k")
        assert same(wires, "OBJECT", "FREQ", "k") == expected
    for words in (("TTL", "k"), ("TYPE", "k"), ("OBJECT", "ENCODING", "k")):
        same(wires, *words)
    same(wires, "SET", "fresh", "v")
    for words in (("TTL", "fresh"), ("TYPE", "fresh"), ("OBJECT", "ENCODING", "fresh"), ("EXISTS", "fresh")):
        same(wires, *words)
    assert same(wires, "OBJECT", "FREQ", "fresh") == 5
    same(wires, "CONFIG", "SET", "lfu-log-factor", 2**31 - 1)
    for _ in range(20):
        same(wires, "GET", "fresh")
    assert same(wires, "OBJECT", "FREQ", "fresh") == 6


def test_the_directives_are_read_and_refused_alike(both: dict[str, ServerProcess], wires: dict[str, Wire]) -> None:
    """Every value at and beyond an edge, and what CONFIG GET and INFO say of it."""
    begin(wires, "allkeys-lru")
    values: dict[str, tuple[str, ...]] = {
        "maxmemory-policy": (*REDIS_POLICIES, "allkeys-nonsense", "", "ALLKEYS-LFU"),
        "maxmemory-samples": ("1", "5", "64", "0", "-1", "x"),
        "maxmemory-eviction-tenacity": ("0", "10", "100", "101", "-1"),
        "lfu-log-factor": ("0", "10", "2147483647", "2147483648", "-1", "x"),
        "lfu-decay-time": ("0", "1", "2147483647", "-1", ""),
        "maxmemory": ("32mb", "16777216", "1k", "-1", "x", "16mb"),
    }
    for directive, texts in values.items():
        for text in texts:
            replies = {name: wire.call("CONFIG", "SET", directive, text) for name, wire in wires.items()}
            if directive == "maxmemory-policy" and isinstance(replies["redis"], ReplyError):
                assert isinstance(replies["kvcd"], ReplyError), text  # the list of choices has one more
            else:
                assert replies["kvcd"] == replies["redis"], (directive, text)
            same(wires, "CONFIG", "GET", directive)
            fields = [[server.info()[field] for field in INFO_FIELDS] for server in both.values()]
            assert fields[0] == fields[1], (directive, text)


def test_a_lowered_limit_evicts_at_once(both: dict[str, ServerProcess], wires: dict[str, Wire]) -> None:
    """Without another write; and the count of evictions says so."""
    begin(wires, "allkeys-lru")
    for name, wire in wires.items():
        before = int(both[name].info()["evicted_keys"])
        for number in range(400):
            assert wire.call("SET", f"k{number}", V) == b"OK"
        assert wire.call("CONFIG", "SET", "maxmemory", LIMIT_BYTES // 2) == b"OK"
        deadline_s = time.monotonic() + DEADLINE_S
        while int(both[name].info()["used_memory"]) > LIMIT_BYTES // 2:
            assert time.monotonic() < deadline_s, name
        assert int(both[name].info()["evicted_keys"]) > before
        found = wire.call("EXISTS", *(f"k{number}" for number in range(400)))
        assert isinstance(found, int)
        assert 100 < found < 400
        assert wire.call("CONFIG", "SET", "maxmemory", 0) == b"OK"
        for number in range(800):
            assert wire.call("SET", f"free{number}", V) == b"OK"
        assert wire.call("EXISTS", *(f"free{number}" for number in range(800))) == 800


def refusal(wires: dict[str, Wire], *words: bytes | str | int) -> str:
    """Run a command on both, which refuse it in the same words; return these."""
    refused = same(wires, *words)
    assert isinstance(refused, ReplyError), words
    return str(refused)


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "allkeys-lru"])
def test_with_a_limit_that_leaves_room_for_nothing_every_write_is_refused_and_reads_are_not(wires: dict[str, Wire], policy: str) -> None:
    """In a transaction a command is refused when it is queued, and a queue that holds writes when it is to run."""
    begin(wires, policy)
    same(wires, "SET", "a", "1")
    same(wires, "CONFIG", "SET", "maxmemory", 1)
    for words in (("SET", "b", "1"), ("MSET", "b", "1", "c", "2"), ("APPEND", "a", "1"), ("INCR", "n"), ("SETBIT", "bits", 1, 1)):
        assert refusal(wires, *words) == OOM
    if policy != "allkeys-lru":  # which evicts it, now or in a moment
        assert same(wires, "GET", "a") == b"1"
    same(wires, "MULTI")
    assert refusal(wires, "GET", "a") == OOM
    assert refusal(wires, "EXEC").startswith("EXECABORT")
    same(wires, "MULTI")
    same(wires, "DISCARD")
    same(wires, "CONFIG", "SET", "maxmemory", LIMIT_BYTES)
    same(wires, "MULTI")
    same(wires, "SET", "b", "1")
    same(wires, "MGET", "b", "c")
    assert same(wires, "EXEC") == [b"OK", [b"1", None]]


def test_a_limit_below_what_is_used_refuses_what_is_queued_already(both: dict[str, ServerProcess], wires: dict[str, Wire]) -> None:
    """Without eviction; a queue that only reads runs."""
    begin(wires, "noeviction")
    for number in range(400):
        same(wires, "SET", f"key{number}", V)
    with both["kvcd"].connect() as ours, both["redis"].connect() as theirs:
        queues = {"kvcd": ours, "redis": theirs}
        same(queues, "MULTI")
        same(queues, "SET", "another", "1")
        same(wires, "CONFIG", "SET", "maxmemory", 3_000_000)
        assert refusal(wires, "SET", "another", "1") == OOM
        assert refusal(queues, "EXEC") == f"EXECABORT Transaction discarded because of: {OOM}"
        same(wires, "CONFIG", "SET", "maxmemory", LIMIT_BYTES)
        same(queues, "MULTI")
        same(queues, "GET", "key1")
        same(wires, "CONFIG", "SET", "maxmemory", 3_000_000)
        assert same(queues, "EXEC") == [V]
        same(wires, "FLUSHALL")
        end_s = time.monotonic() + DEADLINE_S
        while wires["kvcd"].call("SET", "another", "1") != b"OK":
            assert time.monotonic() < end_s, "what was flushed never made room"
            time.sleep(0.01)


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru", "allkeys-lfu", "volatile-lfu"])
def test_a_restored_key_was_used_when_and_as_often_as_its_payload_is_said_to_have_been(wires: dict[str, Wire], policy: str) -> None:
    """RESTORE with IDLETIME or FREQ: the one that the policy goes by counts."""
    begin(wires, policy)
    asked, unasked = ("FREQ", "IDLETIME") if policy.endswith("lfu") else ("IDLETIME", "FREQ")
    for wire in wires.values():
        wire.call("SET", "source", "value")
        payload = wire.call("DUMP", "source")
        assert isinstance(payload, bytes)
        for key, *options in (("said", asked, 100), ("of no account", unasked, 100), ("said again", "REPLACE", asked, 200)):
            assert wire.call("RESTORE", key, 0, payload, *options) == b"OK"
        counted = [wire.call("OBJECT", asked, key) for key in ("said", "said again")]
        assert counted in ([100, 200], [101, 200], [100, 201], [101, 201]), counted  # a second may have begun
        assert wire.call("OBJECT", asked, "of no account") in ((5,) if asked == "FREQ" else (0, 1))
        assert wire.call("GET", "said") == b"value"
