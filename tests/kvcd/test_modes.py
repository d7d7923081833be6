"""What clients switch on, where redis-server cannot be the judge: expiry and eviction, slow listeners, redis-py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

from tests.servers import ServerProcess, Servers
from tests.wire import ReplyError, Wire

DEADLINE_S = 20


@pytest.fixture
def notifying(kvcd_server: ServerProcess) -> Iterator[ServerProcess]:
    """The shared server, while it tells of every event by its name."""
    kvcd_server.call("CONFIG", "SET", "notify-keyspace-events", "EA")
    yield kvcd_server
    kvcd_server.call("CONFIG", "SET", "notify-keyspace-events", "")


@pytest.mark.parametrize("reads", [True, False], ids=["found by a read", "found by background work"])
def test_a_key_that_expires_tells_so(notifying: ServerProcess, reads: bool) -> None:
    """Subscribers of the event and who tracks the key hear of it once, whether anybody reads it or not."""
    with notifying.connect(timeout_s=DEADLINE_S) as listener, notifying.connect() as tracker, notifying.connect() as writer:
        listener.call("SUBSCRIBE", "__keyevent@0__:expired")
        tracker.call("HELLO", 3)
        tracker.call("CLIENT", "TRACKING", "ON")
        writer.call("SET", "short", "x", "PX", 60)
        tracker.call("GET", "short")
        if reads:
            while writer.call("GET", "short") is not None:
                pass
        assert listener.reply() == [b"message", b"__keyevent@0__:expired", b"short"]
        assert tracker.reply() == [b"invalidate", [b"short"]]
        writer.call("SET", "short", "x", "PX", 60)
        while writer.call("PTTL", "short") != -2:
            pass
        # Overwritten once it had expired, whoever finds that.
        writer.call("SET", "short", "y")
        assert listener.reply() == [b"message", b"__keyevent@0__:expired", b"short"]
        listener.call("UNSUBSCRIBE")


def test_an_evicted_key_tells_so(servers: Servers) -> None:
    """Every key that is gone was told of, and no other."""
    count = 3000
    with (
        servers.kvcd(notify_keyspace_events="Ee", pool_size="16mb", maxmemory_policy="allkeys-lru", index_entries=16384) as server,
        server.connect(timeout_s=DEADLINE_S) as listener,
        server.connect() as writer,
    ):
        listener.call("SUBSCRIBE", "__keyevent@0__:evicted")
        for number in range(count):
            assert writer.call("SET", f"key:{number}", b"x" * 9000) == b"OK"
        gone = {b"key:%d" % number for number in range(count) if writer.call("EXISTS", f"key:{number}") == 0}
        assert gone
        told = set()
        while told != gone:
            message = listener.reply()
            assert isinstance(message, list)
            assert message[2] in gone
            told.add(message[2])


def test_a_subscriber_that_does_not_read_costs_itself_only(servers: Servers) -> None:
    """It is closed at the hard limit, and others hear everything in time."""
    with servers.kvcd(client_output_buffer_limit="pubsub 1mb 0 0") as server:
        with server.connect() as slow, server.connect() as quick, server.connect() as teller:
            slow.call("SUBSCRIBE", "x")
            quick.call("SUBSCRIBE", "x")
            message = b"m" * 100_000
            for _ in range(200):
                assert teller.call("PUBLISH", "x", message) in (1, 2)
                assert quick.reply() == [b"message", b"x", message]
            assert teller.call("PUBLISH", "x", message) == 1
            assert len(slow.rest()) < 200 * 100_000
        assert "does not read its messages" in server.log


def test_a_subscriber_above_the_soft_limit_is_closed_after_its_time(servers: Servers) -> None:
    """Also when nothing more is published."""
    with servers.kvcd(client_output_buffer_limit="pubsub 0 1mb 1") as server, server.connect() as slow, server.connect() as teller:
        slow.call("SUBSCRIBE", "x")
        for _ in range(200):
            assert teller.call("PUBLISH", "x", b"m" * 100_000) == 1
        end_s = time.monotonic() + DEADLINE_S
        while teller.call("PUBSUB", "NUMSUB", "x") != [b"x", 0]:
            assert time.monotonic() < end_s
        slow.rest()


def test_more_keys_than_the_table_holds(kvcd_server: ServerProcess) -> None:
    """Who has read what no longer fits is told to forget it."""
    kvcd_server.call("CONFIG", "SET", "tracking-table-max-keys", 10)
    try:
        with kvcd_server.connect(timeout_s=DEADLINE_S) as tracker:
            tracker.call("HELLO", 3)
            tracker.call("CLIENT", "TRACKING", "ON")
            for number in range(30):
                tracker.send(b"GET key:%d\r\n" % number)
            got = [tracker.reply() for _ in range(50)]
            told = [reply for reply in got if isinstance(reply, list)]
            assert len(told) == 20
            assert all(reply[0] == b"invalidate" and len(reply[1]) == 1 for reply in told)
    finally:
        kvcd_server.call("CONFIG", "SET", "tracking-table-max-keys", 1000000)


def test_reads_of_a_no_touch_client_are_no_accesses(kvcd_server: ServerProcess) -> None:
    """CLIENT NO-TOUCH: a key stays as old as it was; TOUCH still touches."""
    with kvcd_server.connect() as wire:
        assert wire.call("SET", "a", 1) == b"OK"
        assert wire.call("CLIENT", "NO-TOUCH", "MAYBE") == ReplyError("ERR syntax error")
        assert wire.call("CLIENT", "NO-TOUCH", "ON") == b"OK"
        before = _hits(wire)
        for words in (("GET", "a"), ("MGET", "a"), ("EXISTS", "a"), ("STRLEN", "a")):
            wire.call(*words)
        assert _hits(wire) == before
        wire.call("TOUCH", "a")
        assert _hits(wire) == before + 1
        assert b"flags=T " in wire.call("CLIENT", "INFO")  # type: ignore[operator]
        wire.call("CLIENT", "NO-TOUCH", "OFF")
        wire.call("GET", "a")
        assert _hits(wire) == before + 2


def _hits(wire: Wire) -> int:
    found = wire.call("PREFIX.INFO", "a")
    assert isinstance(found, list)
    hits = dict(zip(found[::2], found[1::2], strict=True))[b"hits"]
    assert isinstance(hits, int)
    return hits


def test_the_list_of_clients_shows_what_is_on(kvcd_server: ServerProcess) -> None:
    """Flags, subscriptions, queued commands and redirection, and the type pubsub."""
    with kvcd_server.connect() as one, kvcd_server.connect() as two, kvcd_server.connect() as asking:
        number = asking.call("CLIENT", "ID")
        one.call("CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", str(number))
        one.call("CLIENT", "NO-EVICT", "ON")
        one.call("MULTI")
        one.call("PING")
        two.call("SUBSCRIBE", "a", "b")
        two.call("PSUBSCRIBE", "c")
        two.call("SSUBSCRIBE", "d")
        lines = asking.call("CLIENT", "LIST")
        assert isinstance(lines, bytes)
        assert b"flags=xtBe " in lines
        assert b" multi=1 " in lines
        assert b" redir=%d " % number in lines
        subscribers = asking.call("CLIENT", "LIST", "TYPE", "pubsub")
        assert isinstance(subscribers, bytes)
        assert subscribers.count(b"\n") == 1
        assert b"flags=P db=0 sub=2 psub=1 ssub=1 " in subscribers
        fields = kvcd_server.info()
        assert (fields["tracking_clients"], fields["tracking_total_prefixes"], fields["pubsub_channels"]) == ("1", "1", "2")
        assert (fields["pubsub_patterns"], fields["pubsubshard_channels"]) == ("1", "1")
        assert asking.call("CLIENT", "KILL", "TYPE", "pubsub") == 1
        assert one.call("RESET") == b"RESET"
        fresh = one.call("CLIENT", "INFO")
        assert isinstance(fresh, bytes)
        assert b"flags=N " in fresh
        assert b" multi=-1 " in fresh
        assert b" redir=-1 " in fresh


# ------------------------------------------------------------------- redis-py


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_transactions(kvcd_server: ServerProcess, protocol: int) -> None:
    """Four threads add to one number under WATCH: none of their additions is lost."""
    client = redis.Redis(port=kvcd_server.port, protocol=protocol)

    def add() -> None:
        for _ in range(25):
            client.transaction(lambda pipe: (value := int(pipe.get("n") or 0), pipe.multi(), pipe.set("n", value + 1)), "n")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert client.get("n") == b"100"
    with client.pipeline() as pipe:
        pipe.watch("n")
        client.set("n", 1)
        pipe.multi()
        pipe.get("n")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    with client.pipeline(transaction=True) as pipe:
        assert pipe.set("a", 1).incr("a").get("a").mget("a", "b").execute() == [True, 2, b"2", [b"2", None]]
    client.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_subscriptions(kvcd_server: ServerProcess, protocol: int) -> None:
    """A thread of redis-py hears channels and patterns; its other methods agree."""
    client = redis.Redis(port=kvcd_server.port, protocol=protocol)
    heard: list[tuple[bytes, bytes]] = []
    all_heard = threading.Event()

    def hear(message: dict[str, bytes]) -> None:
        heard.append((message["channel"], message["data"]))
        if len(heard) == 200:
            all_heard.set()

    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(one=hear)
        pubsub.psubscribe(**{"t*": hear})
        thread = pubsub.run_in_thread(sleep_time=0.01, daemon=True)
        try:
            end_s = time.monotonic() + DEADLINE_S
            while client.pubsub_numpat() < 1 or client.pubsub_numsub("one") != [(b"one", 1)]:
                assert time.monotonic() < end_s
            for number in range(100):
                assert client.publish("one", number) == 1
                assert client.publish("two", number) == 1
            assert all_heard.wait(DEADLINE_S)
        finally:
            thread.stop()
            thread.join(DEADLINE_S)
    assert [data for channel, data in heard if channel == b"two"] == [b"%d" % number for number in range(100)]
    client.close()


def test_redis_py_client_side_caching(kvcd_server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py's cache answers until somebody else changes the key. It asks for Redis 7.4 by number, and needs nothing newer than 6."""
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "7.2.0")
    with (
        redis.Redis(port=kvcd_server.port, protocol=3, cache_config=CacheConfig()) as caching,
        redis.Redis(port=kvcd_server.port) as other,
    ):
        other.set("a", "old")
        assert caching.get("a") == b"old"
        cache = caching.get_cache()
        assert cache is not None
        assert cache.size == 1
        assert caching.get("a") == b"old"
        other.set("a", "new")
        end_s = time.monotonic() + DEADLINE_S
        while caching.get("a") != b"new":
            assert time.monotonic() < end_s
        other.flushall()
        while caching.get("a") is not None:
            assert time.monotonic() < end_s
