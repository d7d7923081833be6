"""Transactions, channels, events, tracking and monitors: several connections to kvcd and redis-server, byte for byte."""

from __future__ import annotations

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
        A MULTI
        A QUIT x y
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
        B PUBSUB CHANNELS
        B PUBSUB CHANNELS o*
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
        A MULTI
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
        B PUBSUB SHARDCHANNELS
        B PUBSUB SHARDCHANNELS o*
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


@pytest.mark.parametrize("script", TRANSACTIONS.values(), ids=TRANSACTIONS)
def test_transactions(lockstep: Lockstep, script: str) -> None:
    """MULTI, EXEC, DISCARD, WATCH and UNWATCH as redis-server has them."""
    run(lockstep, script)


@pytest.mark.parametrize("script", CHANNELS.values(), ids=CHANNELS)
def test_channels(lockstep: Lockstep, script: str) -> None:
    """Subscriptions, messages and what a subscriber may run."""
    run(lockstep, script)


@pytest.mark.parametrize("classes", ["AKE", "KEA", "AKEnm", "Kg$", "E$n", "Em", "A", "Kx", "KEgm"])
@pytest.mark.parametrize("script", EVENTS.values(), ids=EVENTS)
def test_keyspace_events(lockstep: Lockstep, script: str, classes: str) -> None:
    """Every write tells of itself in the classes that are on."""
    lockstep.step("A", "CONFIG", "SET", "notify-keyspace-events", classes)
    lockstep.step("A", "CONFIG", "GET", "notify-keyspace-events")
    run(lockstep, script)
