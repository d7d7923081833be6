"""Transactions, channels, events, tracking and monitors: several connections to kvcd and redis-server, byte for byte."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.lockstep import Lockstep
from tests.servers import ServerProcess

Steps = list[tuple[str, ...]]


@pytest.fixture(params=[(2, 2, 2), (3, 3, 3), (3, 2, 3), (2, 3, 2)], ids=lambda versions: "-".join(map(str, versions)))
def lockstep(request: pytest.FixtureRequest, kvcd_server: ServerProcess, redis_server: ServerProcess) -> Iterator[Lockstep]:
    """Connections A, B and C in the protocol versions of the parameter, to two empty servers that notify nobody."""
    for server in (kvcd_server, redis_server):
        with server.connect() as wire:
            assert wire.call("FLUSHALL") == b"OK"
            assert wire.call("CONFIG", "SET", "notify-keyspace-events", "") == b"OK"
    with Lockstep((kvcd_server.address, redis_server.address), dict(zip("ABC", request.param, strict=True))) as found:
        yield found
    for server in (kvcd_server, redis_server):
        server.call("CONFIG", "SET", "notify-keyspace-events", "")


def run(lockstep: Lockstep, text: str) -> None:
    """Run a script: a connection and a command in each line."""
    for line in text.strip().splitlines():
        name, *words = line.split()
        lockstep.step(name, *(word.replace('""', "") for word in words))


TRANSACTIONS = {
    "queue": """
        A MULTI
        A SET a 1
        B GET a
        A INCR a
        A GET nothing
        A MGET a nothing
        B SET a 9
        A EXEC
        B GET a
        A EXEC
        A DISCARD
    """,
    "refusals": """
        A EXEC
        A DISCARD
        A MULTI
        A MULTI
        A WATCH a
        A EXEC
        A MULTI
        A NOSUCH x
        A SET a 1
        A EXEC
        A GET a
        A MULTI
        A GET
        A GET a
        A EXEC
        A MULTI
        A CLIENT NOSUCH
        A EXEC
        A MULTI
        A EXEC a
        A EXEC
        A EXEC a
        A MULTI a
        A MULTI
        A SAVE
        A EXEC
        A MULTI
        A SET a x
        A INCR a
        A SET b 2
        A EXEC
        A GET b
        A WATCH
        A UNWATCH a
        A DISCARD a
    """,
    "watch": """
        A SET a 1
        A WATCH a
        B SET a 2
        A MULTI
        A GET a
        A EXEC
        A MULTI
        A GET a
        A EXEC
        A WATCH a a b
        A MULTI
        A GET a
        A EXEC
        A WATCH b
        B SET b 1
        B DEL b
        A MULTI
        A PING
        A EXEC
        A WATCH a
        B SET a 2
        A UNWATCH
        A MULTI
        A PING
        A EXEC
        A WATCH a
        B EXPIRE a 1000
        A MULTI
        A PING
        A EXEC
        A WATCH a
        B PERSIST a
        A MULTI
        A EXEC
        A WATCH a
        B PERSIST a
        A MULTI
        A EXEC
        A WATCH a
        B FLUSHALL
        A MULTI
        A EXEC
        A WATCH a
        B FLUSHALL
        A MULTI
        A EXEC
        A WATCH a
        A SELECT 1
        B SET a 5
        A MULTI
        A SET a 6
        A EXEC
        A SELECT 0
        A WATCH a
        B SELECT 1
        B SET a 7
        A MULTI
        A EXEC
        A WATCH a
        A SET a 1
        A MULTI
        A EXEC
        A WATCH a
        A MULTI
        A DISCARD
        B SELECT 0
        B SET a 1
        A MULTI
        A EXEC
        A WATCH c
        B SET c 1
        A WATCH d
        A RESET
        A MULTI
        A EXEC
    """,
    "dirty while queued": """
        A WATCH a
        A MULTI
        A SET a mine
        B SET a theirs
        A EXEC
        B GET a
        A WATCH a
        A MULTI
        B SET a theirs
        A NOSUCH
        A EXEC
    """,
    "versions inside": """
        A MULTI
        A HELLO 3
        A MGET a
        A GET a
        A HELLO 2
        A GET a
        A EXEC
        A GET a
    """,
    "channels inside": """
        B SUBSCRIBE here
        A MULTI
        A PUBLISH here 1
        A SET a 1
        A PUBLISH here 2
        A EXEC
        A MULTI
        A SUBSCRIBE one two
        A PING
        A GET a
        A PUBLISH one x
        A UNSUBSCRIBE one two
        A EXEC
        A MULTI
        A SSUBSCRIBE one
        A EXEC
        A MULTI
        A MONITOR
        A EXEC
        A MULTI
        A WAIT 1 0
        A EXEC
    """,
    "reset": """
        A MULTI
        A SET a 1
        A RESET
        A EXEC
        A GET a
        A SUBSCRIBE x
        A RESET
        B PUBLISH x 1
        A GET a
    """,
}

CHANNELS = {
    "subscribe": """
        A SUBSCRIBE one two
        A SUBSCRIBE one
        B PUBLISH one hello
        B PUBLISH nobody hello
        A PSUBSCRIBE o* t?o
        B PUBLISH one both
        B PUBSUB CHANNELS o*
        B PUBSUB CHANNELS t*
        B PUBSUB CHANNELS x*
        B PUBSUB NUMSUB
        B PUBSUB NUMSUB one nobody one
        B PUBSUB NUMPAT
        C PSUBSCRIBE o*
        B PUBSUB NUMPAT
        B PUBLISH one three
        A UNSUBSCRIBE one
        A UNSUBSCRIBE one
        A UNSUBSCRIBE
        A UNSUBSCRIBE
        B PUBLISH two gone
        A PUNSUBSCRIBE t?o
        A PUNSUBSCRIBE
        A PUNSUBSCRIBE
        A GET a
    """,
    "restricted": """
        A SUBSCRIBE one
        A GET a
        A GET
        A NOSUCH
        A PING
        A PING x
        A PING x y
        A CLIENT ID x
        A PUBLISH one x
        A SSUBSCRIBE shard
        A UNSUBSCRIBE
        A GET a
        A SUNSUBSCRIBE
        A GET a
        A SET a 1
    """,
    "shards": """
        A SSUBSCRIBE one two
        B SPUBLISH one hello
        B PUBLISH one hello
        A SUBSCRIBE one
        B SPUBLISH one hello
        B PUBLISH one hello
        B PUBSUB SHARDCHANNELS o*
        B PUBSUB SHARDCHANNELS t*
        B PUBSUB SHARDNUMSUB one two three
        B PUBSUB NUMSUB one two three
        A SUNSUBSCRIBE one
        A SUNSUBSCRIBE one
        A SUNSUBSCRIBE
        A SUNSUBSCRIBE
        A UNSUBSCRIBE
        A GET a
    """,
    "refusals": """
        A SUBSCRIBE
        A PSUBSCRIBE
        A PUBLISH a
        A SPUBLISH a
        A PUBSUB
        A PUBSUB NOSUCH
        A PUBSUB CHANNELS a b
        A PUBSUB SHARDCHANNELS a b
        A PUBSUB NUMPAT a
        A GET a
    """,
    "own messages": """
        A HELLO 3
        A SUBSCRIBE me
        A PUBLISH me hello
        A GET a
        A MULTI
        A PUBLISH me 1
        A PUBLISH me 2
        A EXEC
        A HELLO 2
        A GET a
        A PING
        A HELLO 3
    """,
}

EVENTS = {
    "strings": """
        C SUBSCRIBE __keyevent@0__:expire
        C PSUBSCRIBE __key*__:*
        A SET a 1
        A SET a 1 EX 100
        A SET a 1 NX
        A SET b 1 NX
        A SET nothing 1 XX
        A SETNX c 1
        A SETNX c 1
        A SETEX d 100 x
        A PSETEX d 100000 x
        A GETSET a 2
        A GETSET new 2
        A SET a 3 GET
        A SET a 3 KEEPTTL
        A MSET a 1 b 2 a 3
        A MSETNX e 1 f 2
        A MSETNX e 1 g 2
        A INCR n
        A INCRBY n 5
        A DECR n
        A DECRBY n 2
        A INCRBYFLOAT n 1.5
        A APPEND t abc
        A APPEND t abc
        A SETRANGE t 2 xx
        A SETRANGE t 2 ""
        A SETRANGE absent 0 ""
        A GETEX t EX 100
        A GETEX t PERSIST
        A GETEX t PERSIST
        A GETEX t
        A GETEX t EXAT 1
        A GETDEL a
        A GETDEL a
        A GET a
        A STRLEN a
        A MGET b a
        A EXISTS a b a
        A TTL a
        A TYPE a
        A TOUCH a b
        A GETRANGE a 0 1
        A SET absent 1 GET
        A GETEX nothing
        A INCR t
    """,
    "keyspace": """
        C PSUBSCRIBE __key*__:*
        A SET a 1
        A SET b 2
        A DEL a b nothing a
        A SET a 1
        A UNLINK a
        A SET a 1
        A EXPIRE a 100
        A PEXPIRE a 100000
        A EXPIREAT a 99999999999
        A PEXPIREAT a 99999999999999
        A PERSIST a
        A PERSIST a
        A EXPIRE a -1
        A EXPIRE a 100
        A SET a 1
        A EXPIRE a 100 XX
        A RENAME a b
        A RENAME b b
        A RENAME nothing b
        A SET a 1
        A RENAME a b
        A SET a 1
        A RENAMENX a b
        A RENAMENX a c
        A COPY c d
        A COPY c d
        A COPY c d REPLACE
        A COPY nothing d
        A COPY c d DB 2
        A SELECT 3
        A SET a 1
        A FLUSHDB
        A FLUSHALL
    """,
}


# Connections whose ids are told: A tracks, B writes, C may hear for A.
TRACKING = {
    "default": """
        B MSET a 1 b 2 c 3
        A CLIENT TRACKINGINFO
        A CLIENT GETREDIR
        A CLIENT TRACKING ON
        A CLIENT TRACKINGINFO
        A CLIENT GETREDIR
        A GET a
        A GET a
        B SET a 2
        B SET a 3
        A MGET a b nothing
        B DEL b
        B SET nothing 1
        B SET unread 1
        A GET a
        A SET a 5
        A GET a
        A INCR a
        A GET a
        B EXPIRE a 100
        A GET a
        B PERSIST a
        A GET a
        B PERSIST a
        B RENAME a z
        A GET z
        A SELECT 1
        A GET a
        B SET a 1
        A SELECT 0
        A GET a
        B FLUSHDB
        A GET a
        B FLUSHALL
        A FLUSHALL
        A GET a
        A CLIENT TRACKING OFF
        B SET a 1
        A CLIENT TRACKING OFF
        A CLIENT TRACKING ON
        A GET a
        A HELLO 2
        B SET a 1
        A HELLO 3
        A GET a
        B SET a 1
    """,
    "transactions": """
        A CLIENT TRACKING ON
        A MULTI
        A GET a
        A SET b 1
        A EXEC
        B SET a 1
        A GET b
        A MULTI
        A SET b 2
        A GET b
        A SET b 3
        A EXEC
        A GET b
        B MULTI
        B SET b 1
        B SET b 2
        B EXEC
    """,
    "loops": """
        A CLIENT TRACKING ON NOLOOP
        A CLIENT TRACKINGINFO
        A GET a
        A SET a 1
        A GET a
        B SET a 2
        A SET a 3
    """,
    "opting": """
        A CLIENT TRACKING ON OPTIN
        A CLIENT TRACKINGINFO
        A GET a
        B SET a 1
        A CLIENT CACHING NO
        A CLIENT CACHING maybe
        A CLIENT CACHING YES
        A CLIENT TRACKINGINFO
        A GET a
        B SET a 1
        A GET a
        B SET a 1
        A CLIENT CACHING YES
        A MULTI
        A GET a
        A GET b
        A EXEC
        A GET c
        B SET a 1
        B SET b 1
        B SET c 1
        A CLIENT TRACKING ON OPTOUT
        A CLIENT TRACKING OFF
        A CLIENT TRACKING ON OPTOUT
        A CLIENT TRACKINGINFO
        A CLIENT CACHING YES
        A CLIENT CACHING NO
        A CLIENT TRACKINGINFO
        A GET a
        B SET a 1
        A GET a
        B SET a 1
        A CLIENT TRACKING ON OPTIN
        A CLIENT TRACKING ON
        A CLIENT CACHING YES
        A CLIENT TRACKING OFF
        A CLIENT CACHING YES
    """,
    "broadcast": """
        A CLIENT TRACKING ON BCAST
        A CLIENT TRACKINGINFO
        B SET a 1
        B MSET b 1
        A SET c 1
        A CLIENT TRACKING OFF
        A CLIENT TRACKING ON BCAST PREFIX user: PREFIX item: NOLOOP
        A CLIENT TRACKINGINFO
        B SET a 1
        B SET user:1 1
        B SET user: 1
        B SET item 1
        A SET user:1 1
        A CLIENT TRACKING ON BCAST PREFIX other: NOLOOP
        A CLIENT TRACKINGINFO
        B SET other:1 1
        B FLUSHALL
        A CLIENT TRACKING ON
        A CLIENT TRACKING ON BCAST PREFIX user:x
        A CLIENT TRACKING ON BCAST PREFIX us
        A CLIENT TRACKING OFF
        B SET user:1 1
    """,
    "redirected": """
        A CLIENT TRACKING ON REDIRECT {C}
        A GET a
        B SET a 1
        C SUBSCRIBE __redis__:invalidate
        A GET a
        B SET a 1
        A MGET a b
        A SET a 1
        B FLUSHALL
        A CLIENT TRACKING ON REDIRECT {C} BCAST
        A CLIENT TRACKING OFF
        A CLIENT TRACKING ON REDIRECT {C} BCAST
        B SET a 1
        C SET a 1
        B FLUSHALL
    """,
    "refusals": """
        A CLIENT TRACKING
        A CLIENT TRACKING MAYBE
        A CLIENT TRACKING ON NOSUCH
        A CLIENT TRACKING ON REDIRECT
        A CLIENT TRACKING ON REDIRECT x
        A CLIENT TRACKING ON REDIRECT 999999
        A CLIENT TRACKING ON REDIRECT {B} REDIRECT {C}
        A CLIENT TRACKING ON PREFIX a
        A CLIENT TRACKING ON BCAST PREFIX
        A CLIENT TRACKING ON BCAST PREFIX a PREFIX ab
        A CLIENT TRACKING ON BCAST OPTIN
        A CLIENT TRACKING ON BCAST OPTOUT
        A CLIENT TRACKING ON OPTIN OPTOUT
        A CLIENT TRACKING OFF BCAST NOSUCH
        A CLIENT TRACKING OFF OPTIN OPTOUT BCAST
        A CLIENT CACHING YES
        A CLIENT CACHING
        A CLIENT GETREDIR x
        A CLIENT TRACKINGINFO x
    """,
}

MONITORS = {
    "commands": """
        C MONITOR
        A SET a 1
        A GET a
        A NOSUCH
        A GET
        A SELECT 3
        A GET a
        A MULTI
        A SET a 1
        A GET a
        A EXEC
        A MULTI
        A DISCARD
        A WATCH a
        A MULTI
        A EXEC
        A EXEC
        A CONFIG GET nothing
        A CONFIG SET nothing x
        A AUTH secret
        A AUTH default secret
        A HELLO 3 AUTH default secret SETNAME me
        A HELLO 3 SETNAME me
        A CLIENT SETNAME me
        A PUBLISH x y
        A SUBSCRIBE x
        A UNSUBSCRIBE x
        A INFO nothing
        A KEYS nothing
        C MONITOR
        C GET a
        C RESET
        A GET a
    """,
}

SWITCHES = {
    "numbers of lolwut": """
        A LOLWUT VERSION x
        A LOLWUT VERSION 5 x
        A LOLWUT VERSION 5 10 x
        A LOLWUT VERSION 5 10 10 x
        A LOLWUT VERSION 6 x
        A LOLWUT version 6 10 1.5
    """,
    "refusals": """
        A CLIENT REPLY
        A CLIENT REPLY MAYBE
        A CLIENT NO-EVICT
        A CLIENT NO-EVICT MAYBE
        A CLIENT NO-EVICT ON
        A CLIENT NO-EVICT off
        A CLIENT PAUSE
        A CLIENT PAUSE x
        A CLIENT PAUSE -1
        A CLIENT PAUSE 1 x
        A CLIENT PAUSE 1 WRITE x
        A CLIENT PAUSE 9223372036854775807
        A CLIENT PAUSE 99999999999999999999
        A CLIENT UNPAUSE x
        A CLIENT UNPAUSE
        A CLIENT UNBLOCK
        A CLIENT UNBLOCK x
        A CLIENT UNBLOCK 999999
        A CLIENT UNBLOCK {B}
        A CLIENT UNBLOCK {B} TIMEOUT
        A CLIENT UNBLOCK {B} NEVER
        A CLIENT UNBLOCK {B} ERROR x
        A WAIT
        A WAIT 0 0
        A WAIT 0 100
        A WAIT -1 100
        A WAIT x 0
        A WAIT 0 x
        A WAIT 0 -1
        A WAIT 1 10
    """,
    "pause": """
        A CLIENT PAUSE 100000 WRITE
        A GET a
        A PING
        A CLIENT UNPAUSE
        A SET a 1
    """,
}


def test_muted_replies(lockstep: Lockstep) -> None:
    """CLIENT REPLY OFF, SKIP and ON."""
    for _ in range(2):
        lockstep.burst(
            "A",
            ("CLIENT", "REPLY", "OFF"),
            ("SET", "a", 1),
            ("CLIENT", "REPLY", "SKIP"),
            ("GET",),
            ("CLIENT", "REPLY", "ON"),
            ("GET", "a"),
            ("CLIENT", "REPLY", "SKIP"),
            ("GET", "a"),
            ("GET", "a"),
            ("CLIENT", "REPLY", "SKIP"),
            ("CLIENT", "REPLY", "SKIP"),
            ("GET", "a"),
            ("PING", "one"),
            ("CLIENT", "REPLY", "SKIP"),
            ("CLIENT", "REPLY", "OFF"),
            ("CLIENT", "REPLY", "ON"),
            ("CLIENT", "REPLY", "SKIP"),
            ("NOSUCH",),
            ("CLIENT", "REPLY", "SKIP"),
            ("CLIENT", "REPLY", "ON"),
            ("PING", "two"),
            ("PING", "the end"),
            end=b"the end\r\n",
        )


@pytest.mark.parametrize("muting", ["OFF", "SKIP"])
def test_confirmations_of_subscriptions_reach_muted_clients(lockstep: Lockstep, muting: str) -> None:
    """They are messages."""
    for line in ("SUBSCRIBE x", "PSUBSCRIBE z*", "SSUBSCRIBE s", "UNSUBSCRIBE x", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE"):
        muted = [] if lockstep.resp["A"] == 2 and "UN" in line else [("CLIENT", "REPLY", muting)]  # a subscriber may not ask for it
        end = b":1\r\n" if line in ("SSUBSCRIBE s", "SUBSCRIBE x", "UNSUBSCRIBE x") else b":2\r\n" if line[0:2] == "PS" else b":0\r\n"
        if line == "PSUBSCRIBE z*" and lockstep.resp["A"] == 2:
            muted = []
        lockstep.burst("A", *muted, tuple(line.split()), end=end)


def test_messages_reach_muted_clients(lockstep: Lockstep) -> None:
    """Replies are off, messages are not."""
    for words in (("SUBSCRIBE", "x"), ("CLIENT", "REPLY", "OFF")) if lockstep.resp["A"] == 3 else (("SUBSCRIBE", "x"),):
        lockstep.burst("A", words, end=b"" if words[0] == "CLIENT" else b":1\r\n")
    lockstep.step("B", "PUBLISH", "x", "hello", but=("A",))
    lockstep.wait_for("A", b"hello\r\n")


def test_a_paused_client_waits(lockstep: Lockstep) -> None:
    """What is paused is answered when the pause ends, in its order; what is not goes on."""
    lockstep.step("A", "CLIENT", "PAUSE", "100000", "WRITE")
    lockstep.burst("B", ("SET", "a", 1), ("GET", "a"), end=b"")
    lockstep.step("C", "GET", "a", but=("B",))
    lockstep.step("A", "CLIENT", "UNPAUSE", but=("B",))
    lockstep.wait_for("B", b"$1\r\n1\r\n")
    lockstep.step("A", "CLIENT", "PAUSE", "50", "ALL", but=("A", "B", "C"))
    lockstep.wait_for("A", b"+OK\r\n")
    lockstep.step("B", "PUBLISH", "a", "1")
    lockstep.step("A", "MULTI")
    lockstep.step("A", "SET", "a", 2)
    lockstep.step("C", "CLIENT", "PAUSE", "100000", "WRITE")
    lockstep.burst("A", ("EXEC",), end=b"")
    lockstep.step("C", "GET", "a", but=("A",))
    lockstep.step("C", "CLIENT", "UNPAUSE", but=("A",))
    lockstep.wait_for("A", b"*1\r\n+OK\r\n")


def test_a_new_threshold_of_the_slow_log_is_meant_for_the_command_that_sets_it(lockstep: Lockstep) -> None:
    """The last word of CONFIG SET is in force before it is noted itself, whichever way."""
    lockstep.step("A", "SLOWLOG", "RESET")
    for threshold in ("0", "-1", "0", "100000000", "0"):
        lockstep.burst("A", ("CONFIG", "SET", "slowlog-log-slower-than", threshold), end=b"+OK\r\n")
    lockstep.burst("A", ("SLOWLOG", "LEN"), end=b"\r\n")
    lockstep.burst("A", ("CONFIG", "SET", "slowlog-log-slower-than", "10000"), end=b"+OK\r\n")


def test_nothing_expires_while_writes_are_paused(lockstep: Lockstep) -> None:
    """What has expired is not found, and goes when the pause has ended."""
    lockstep.step("A", "CONFIG", "RESETSTAT")
    lockstep.step("A", "MULTI")
    for key in ("a", "b"):
        lockstep.step("A", "SET", key, "1", "PX", "10")
    lockstep.step("A", "CLIENT", "PAUSE", "100000", "WRITE")
    lockstep.step("A", "EXEC")
    threading.Event().wait(0.5)  # some turns of background work, which are to leave the keys alone
    for words in (("GET", "a"), ("TTL", "a"), ("EXISTS", "a", "b"), ("MGET", "a", "b"), ("STRLEN", "b"), ("DBSIZE",)):
        lockstep.step("B", *words)
    assert _expired_counts(lockstep) == [0, 0]
    lockstep.step("A", "CLIENT", "UNPAUSE")
    lockstep.step("B", "EXISTS", "a", "b")
    assert _expired_counts(lockstep) == [2, 2]


def _expired_counts(lockstep: Lockstep) -> list[int]:
    """Return `expired_keys` of both servers."""
    counts = []
    for peer in lockstep.peers["C"]:
        peer.send("INFO", "stats")
        text = peer.read_until(b"\r\nevicted_keys:")
        counts.append(int(text.split(b"expired_keys:")[1].split(b"\r\n")[0]))
        peer.send("PING", "the end")
        peer.read_until(b"the end\r\n")
    return counts


def test_a_blocked_client_is_unblocked(lockstep: Lockstep) -> None:
    """CLIENT UNBLOCK ends a WAIT as if its time had passed, or with an error."""
    for reason, end in (("TIMEOUT", b":0\r\n"), ("ERROR", b"UNBLOCK\r\n")):
        lockstep.burst("A", ("WAIT", 1, 0), ("PING",), end=b"")
        for side in (0, 1):
            peer, blocked = lockstep.peers["B"][side], lockstep.peers["A"][side]
            reply = b":0\r\n"
            while reply == b":0\r\n":  # until it is blocked
                peer.send("CLIENT", "UNBLOCK", blocked.number, reason)
                reply = peer.read_until(b"\r\n")
            assert reply == b":1\r\n"
        lockstep.wait_for("A", end)
        lockstep.wait_for("A", b"+PONG\r\n")


@pytest.mark.parametrize("script", TRACKING.values(), ids=TRACKING)
def test_tracking(lockstep: Lockstep, script: str) -> None:
    """Who cached a key hears of its change once, as CLIENT TRACKING says."""
    run(lockstep, script)


def test_a_writer_is_told_that_its_key_expired(lockstep: Lockstep) -> None:
    """NOLOOP hides what a client did itself, not what became of its key, be it in the same turn; nor the other way round."""
    if lockstep.resp["A"] != 3:
        pytest.skip("messages to the client itself need RESP3")
    lockstep.step("A", "CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP")
    for last in (("GET", "b"), ("SET", "b", "2")):
        lockstep.step("A", "MULTI")
        for words in (("SET", "b", "1", "PX", "1"), ("SET", "c", "1"), ("DEBUG", "SLEEP", "0.02"), last):
            lockstep.step("A", *words)
        lockstep.step("A", "EXEC")
    for words in (("MULTI",), ("SET", "z", "1"), ("SET", "a", "1"), ("SET", "m", "1"), ("EXEC",)):
        lockstep.step("B", *words)  # told in the order of their names


def test_a_redirection_is_told_by_its_id(lockstep: Lockstep) -> None:
    """CLIENT GETREDIR and TRACKINGINFO name the client that is told instead; when that is gone the tracking one hears of it."""
    lockstep.step("A", "CLIENT", "TRACKING", "ON", "REDIRECT", "{C}")
    lockstep.compare_ids("A", "CLIENT", "GETREDIR")
    lockstep.compare_ids("A", "CLIENT", "TRACKINGINFO")
    lockstep.compare_ids("A", "GET", "a")
    for peer in lockstep.peers["C"]:
        peer.socket.close()
    del lockstep.peers["C"]
    lockstep.compare_ids("B", "SET", "a", "1")


@pytest.mark.parametrize("script", MONITORS.values(), ids=MONITORS)
def test_monitors(lockstep: Lockstep, script: str) -> None:
    """A monitor is shown what is run, secrets hidden."""
    run(lockstep, script)
    lockstep.step("C", "MONITOR")
    lockstep.step("A", "sEt", "q\"'\\", bytes(range(256)), "", "ä")


@pytest.mark.parametrize("script", SWITCHES.values(), ids=SWITCHES)
def test_switches(lockstep: Lockstep, script: str) -> None:
    """What CLIENT switches on for one connection, and refuses."""
    run(lockstep, script)


@pytest.mark.parametrize("script", TRANSACTIONS.values(), ids=TRANSACTIONS)
def test_transactions(lockstep: Lockstep, script: str) -> None:
    """MULTI, EXEC, DISCARD, WATCH and UNWATCH as redis-server has them."""
    run(lockstep, script)


@pytest.mark.parametrize("script", CHANNELS.values(), ids=CHANNELS)
def test_channels(lockstep: Lockstep, script: str) -> None:
    """Subscriptions, messages and what a subscriber may run."""
    run(lockstep, script)


@pytest.mark.parametrize("lockstep", [(2, 2, 2), (3, 3, 3)], indirect=True, ids=["2", "3"])
@pytest.mark.parametrize("classes", ["AKE", "KEA", "AKEnm", "Kg$", "E$n", "Em", "A", "Kx", "KEgm"])
@pytest.mark.parametrize("script", EVENTS.values(), ids=EVENTS)
def test_keyspace_events(lockstep: Lockstep, script: str, classes: str) -> None:
    """Every write tells of itself in the classes that are on."""
    lockstep.step("A", "CONFIG", "SET", "notify-keyspace-events", classes)
    lockstep.step("A", "CONFIG", "GET", "notify-keyspace-events")
    run(lockstep, script)
