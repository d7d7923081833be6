"""What clients switch on holds for the whole service: two workers, one client at each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.kvcd.worker_servers import WorkerServer
from tests.wire import ReplyError, Wire

DEADLINE_S = 20


@dataclass
class Pair:
    """A connection to each of the two workers."""

    here: Wire
    there: Wire


@pytest.fixture
def pair(worker_server: WorkerServer) -> Iterator[Pair]:
    """Connections to both workers of the shared service."""
    with worker_server.connect_to(0, timeout_s=DEADLINE_S) as here, worker_server.connect_to(1, timeout_s=DEADLINE_S) as there:
        yield Pair(here, there)


def test_messages_reach_subscribers_of_every_worker(pair: Pair) -> None:
    """And PUBLISH counts them; order of one publisher is kept."""
    assert pair.here.call("SUBSCRIBE", "x") == [b"subscribe", b"x", 1]
    assert pair.here.call("PSUBSCRIBE", "x*") == [b"psubscribe", b"x*", 2]
    assert pair.here.call("SSUBSCRIBE", "shard") == [b"ssubscribe", b"shard", 1]
    for number in range(50):
        assert pair.there.call("PUBLISH", "x", b"\xff%d" % number) == 2
    for number in range(50):
        assert pair.here.reply() == [b"message", b"x", b"\xff%d" % number]
        assert pair.here.reply() == [b"pmessage", b"x*", b"x", b"\xff%d" % number]
    assert pair.there.call("SPUBLISH", "shard", "s") == 1
    assert pair.here.reply() == [b"smessage", b"shard", b"s"]
    assert pair.there.call("PUBSUB", "CHANNELS") == [b"x"]
    assert pair.there.call("PUBSUB", "SHARDCHANNELS") == [b"shard"]
    assert pair.there.call("PUBSUB", "NUMSUB", "x", "y") == [b"x", 1, b"y", 0]
    assert pair.there.call("PUBSUB", "SHARDNUMSUB", "shard") == [b"shard", 1]
    assert pair.there.call("PUBSUB", "NUMPAT") == 1


def test_a_transaction_that_tells_other_workers_is_one(pair: Pair, worker_server: WorkerServer) -> None:
    """While its PUBLISH waits for the other worker, no other client of its own comes in between."""
    pair.there.call("SUBSCRIBE", "x")
    with worker_server.connect_to(0) as rival:
        for _ in range(50):
            pair.here.call("SET", "n", 0)
            pair.here.send(b"MULTI\r\nINCR n\r\nPUBLISH x 1\r\nINCR n\r\nPUBLISH x 2\r\nGET n\r\nEXEC\r\n")
            rival.send(b"INCRBY n 100\r\nINCRBY n 100\r\n")
            replies = pair.here.replies(7)[-1]
            assert isinstance(replies, list)
            assert replies[2] == replies[0] + 1
            assert replies[4] == b"%d" % replies[2]
            rival.replies(2)


def test_watch_sees_what_another_worker_does(pair: Pair) -> None:
    """Changed, created, deleted, given an expiry, flushed; and nothing when nothing was done."""
    changes: list[tuple[str, ...]] = [
        ("SET", "k", "theirs"),
        ("SET", "k", "mine"),
        ("DEL", "k"),
        ("EXPIRE", "k", "1000"),
        ("APPEND", "k", "x"),
        ("FLUSHALL",),
        ("RENAME", "k", "l"),
    ]
    for change in changes:
        pair.here.call("SET", "k", "mine")
        assert pair.here.call("WATCH", "k") == b"OK"
        pair.there.call(*change)
        pair.here.call("MULTI")
        pair.here.call("SET", "k", "after")
        assert pair.here.call("EXEC") is None, change
    pair.here.call("DEL", "k")
    pair.here.call("WATCH", "k")
    pair.there.call("SET", "k", 1)
    pair.here.call("MULTI")
    assert pair.here.call("EXEC") is None
    pair.here.call("WATCH", "k")
    pair.there.call("GET", "k")
    pair.here.call("MULTI")
    pair.here.call("GET", "k")
    assert pair.here.call("EXEC") == [b"1"]


def test_tracked_keys_that_another_worker_changes(pair: Pair) -> None:
    """By default, by prefix, on flush; from the moment that CLIENT TRACKING is answered."""
    pair.here.call("HELLO", 3)
    for _ in range(20):
        pair.there.call("SET", "a", 1)
        assert pair.here.call("CLIENT", "TRACKING", "ON") == b"OK"
        pair.here.call("GET", "a")
        pair.there.call("SET", "a", 2)
        assert pair.here.reply() == [b"invalidate", [b"a"]]
        pair.here.call("GET", "a")
        pair.there.call("FLUSHDB")
        assert pair.here.reply() == [b"invalidate", None]
        pair.here.call("CLIENT", "TRACKING", "OFF")
    pair.here.call("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "p:")
    pair.there.call("MSET", "a", 1, "p:1", 1, "b", 2)
    assert pair.here.reply() == [b"invalidate", [b"p:1"]]


def test_a_redirection_to_a_client_of_another_worker(pair: Pair, worker_server: WorkerServer) -> None:
    """It hears of the keys, and the tracking client hears when it is gone."""
    with worker_server.connect_to(1, timeout_s=DEADLINE_S) as listener:
        number = listener.call("CLIENT", "ID")
        assert isinstance(number, int)
        listener.call("SUBSCRIBE", "__redis__:invalidate")
        pair.here.call("HELLO", 3)
        assert pair.here.call("CLIENT", "TRACKING", "ON", "REDIRECT", number) == b"OK"
        assert isinstance(pair.here.call("CLIENT", "TRACKING", "ON", "REDIRECT", 1 << 40), ReplyError)
        pair.here.call("GET", "a")
        pair.there.call("SET", "a", 1)
        assert listener.reply() == [b"message", b"__redis__:invalidate", [b"a"]]
        pair.here.call("GET", "a")
        assert pair.there.call("CLIENT", "KILL", "ID", number) == 1
    pair.there.call("SET", "a", 2)
    assert pair.here.reply() == [b"tracking-redir-broken", number]


def test_events_of_every_worker_are_told_everywhere(pair: Pair) -> None:
    """Keyspace events, expiry among them."""
    pair.there.call("CONFIG", "SET", "notify-keyspace-events", "EA")
    try:
        pair.here.call("PSUBSCRIBE", "__keyevent@*")
        pair.there.call("SET", "a", 1)
        assert pair.here.reply() == [b"pmessage", b"__keyevent@*", b"__keyevent@0__:set", b"a"]
        pair.there.call("PEXPIRE", "a", 20)
        assert pair.here.reply() == [b"pmessage", b"__keyevent@*", b"__keyevent@0__:expire", b"a"]
        assert pair.here.reply() == [b"pmessage", b"__keyevent@*", b"__keyevent@0__:expired", b"a"]
    finally:
        pair.there.call("CONFIG", "SET", "notify-keyspace-events", "")


def test_a_monitor_is_shown_the_commands_of_every_worker(pair: Pair) -> None:
    """From the moment that MONITOR is answered."""
    assert pair.here.call("MONITOR") == b"OK"
    pair.there.call("SET", "a", b"\xff")
    line = pair.here.reply()
    assert isinstance(line, bytes)
    assert line.endswith(b'"SET" "a" "\\xff"')


def test_a_pause_holds_for_every_worker(pair: Pair, worker_server: WorkerServer) -> None:
    """And UNPAUSE of any worker ends it; so does UNBLOCK a wait at another one."""
    assert pair.here.call("CLIENT", "PAUSE", 100000, "WRITE") == b"OK"
    with worker_server.connect_to(1, timeout_s=DEADLINE_S) as writer:
        number = writer.call("CLIENT", "ID")
        assert isinstance(number, int)
        writer.send(b"SET a 1\r\n")
        while b"flags=b " not in pair.here.call("CLIENT", "LIST", "ID", number):  # type: ignore[operator]
            pass
        assert pair.there.call("GET", "a") is None
        assert pair.here.call("CLIENT", "UNPAUSE") == b"OK"
        assert writer.reply() == b"OK"
        writer.send(b"WAIT 1 0\r\n")
        while pair.here.call("CLIENT", "UNBLOCK", number, "ERROR") == 0:
            pass
        assert isinstance(writer.reply(), ReplyError)
