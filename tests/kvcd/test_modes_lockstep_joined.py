"""Transactions, channels, events and monitors with users' rules, swapped databases and every write: byte for byte as redis-server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lockstep import Lockstep, Peer
from tests.servers import ServerProcess

_USERS = ("strict", "weak", "hearer")


@pytest.fixture(params=[(2, 2, 2), (3, 3, 3)], ids=["RESP2", "RESP3"])
def lockstep(request: pytest.FixtureRequest, kvcd_server: ServerProcess, redis_server: ServerProcess) -> Iterator[Lockstep]:
    """Connections A, B and C to two empty servers without users; they are left so."""

    def clean() -> None:
        for server in (kvcd_server, redis_server):
            server.call("FLUSHALL")
            server.call("CONFIG", "SET", "notify-keyspace-events", "")
            server.call("ACL", "DELUSER", *_USERS)

    clean()
    with Lockstep((kvcd_server.address, redis_server.address), dict(zip("ABC", request.param, strict=True))) as found:
        yield found
    clean()


def run(lockstep: Lockstep, text: str) -> None:
    """Run a script: a connection and a command in each line."""
    for line in text.strip().splitlines():
        name, *words = line.split()
        lockstep.step(name, *words)


SCRIPTS = {
    "rules that change before EXEC": """
        A ACL SETUSER strict on nopass +@all ~* &*
        B AUTH strict x
        B MULTI
        B SET a 1
        B GET b
        B PUBLISH news hello
        B STRLEN a
        A ACL SETUSER strict -set resetkeys ~a* resetchannels &other
        B EXEC
        A GET a
        B MULTI
        B GET b
        B GET a
        B EXEC
        B AUTH default x
    """,
    "another user after queueing": """
        A ACL SETUSER weak on nopass +@all -set ~* &*
        B MULTI
        B SET a 1
        B AUTH weak x
        B SET a 2
        B ACL WHOAMI
        B EXEC
        A GET a
        B MULTI
        B SET a 3
        B EXEC
        B AUTH default x
        B SET a 4
    """,
    "RESET ends all of it": """
        A ACL SETUSER weak on nopass +@all -set ~* &*
        B AUTH weak x
        B MULTI
        B GET a
        B RESET
        B SET a 1
        B ACL WHOAMI
        B EXEC
    """,
    "an unknown command and a wrong one": """
        A ACL SETUSER weak on nopass +@all -get ~a* &*
        B AUTH weak x
        B MULTI
        B GET a
        B EXEC
        B MULTI
        B SORT ab STORE other
        B EXEC
        B MULTI
        B NOSUCH
        B EXEC
        B AUTH default x
    """,
    "watched keys of swapped databases": """
        A SET x 1
        B WATCH x
        A SWAPDB 0 1
        B MULTI
        B PING
        B EXEC
        B WATCH x
        A SWAPDB 0 1
        B MULTI
        B PING
        B EXEC
        B WATCH nothing
        A SWAPDB 0 1
        B MULTI
        B PING
        B EXEC
        B WATCH nothing
        A SWAPDB 0 1
        A SET nothing 1
        B MULTI
        B PING
        B EXEC
        B WATCH x
        A SWAPDB 2 3
        B MULTI
        B GET x
        B EXEC
        A SWAPDB 2 3
    """,
    "events and monitors of swapped databases": """
        A CONFIG SET notify-keyspace-events KEA
        A SELECT 1
        A SET b 1
        A SELECT 0
        C PSUBSCRIBE *
        A SWAPDB 0 1
        A SET n 1
        A DEL b
        A SELECT 1
        A SET n 1
        A EXPIRE n 100
        A SWAPDB 0 1
        A DEL n
        A SELECT 0
        A DEL n
        C PUNSUBSCRIBE *
        B MONITOR
        A SWAPDB 0 1
        A SET n 1
        A SELECT 1
        A GET n
        A SWAPDB 0 1
        A SELECT 0
        B RESET
    """,
    "events of every write": """
        A CONFIG SET notify-keyspace-events KEAnm
        C PSUBSCRIBE *
        A SETBIT b 7 1
        A SETBIT b 7 1
        A GETBIT b 7
        A GETBIT none 7
        A BITFIELD b SET u8 0 5
        A BITFIELD b GET u8 0
        A BITFIELD none GET u8 0
        A BITFIELD_RO b GET u8 0
        A BITOP AND d b
        A BITOP AND d none
        A BITCOUNT none
        A BITPOS none 1
        A SET k v
        A MOVE k 1
        A MOVE k 1
        A SET k w
        A MOVE k 1
        A SELECT 1
        A DEL k
        A SELECT 0
        A SORT none STORE k
        A SORT none STORE k
        A LCS none other
        A DUMP none
        A OBJECT ENCODING none
        A SUBSTR none 0 1
        A GETEX k EX 100
        A SET k v
        A GETEX k EX 100
        A GETEX k PERSIST
        A GETEX k
        A GETDEL k
        A GETDEL k
    """,
    "watched keys and every write": """
        A WATCH b
        B SETBIT b 7 1
        A MULTI
        A EXEC
        A WATCH b
        B BITFIELD b GET u8 0
        A MULTI
        A EXEC
        A WATCH b
        B BITFIELD b SET u8 0 5
        A MULTI
        A EXEC
        A WATCH d
        B BITOP NOT d b
        A MULTI
        A EXEC
        A WATCH d
        B MOVE d 1
        A MULTI
        A EXEC
        A WATCH b
        B SORT none STORE b
        A MULTI
        A EXEC
    """,
    "tracked keys and every write": """
        B HELLO 3
        B CLIENT TRACKING ON
        A SETBIT b 7 1
        B GETBIT b 7
        A SETBIT b 6 1
        B BITCOUNT b
        A BITFIELD b SET u8 0 5
        B GET b
        A MOVE b 1
        B MGET b c
        A BITOP NOT c none
        A SET c 1
        B STRLEN c
        A SORT none STORE c
        B CLIENT TRACKING OFF
    """,
    "switches, help and keys of calls": """
        B CLIENT NO-EVICT ON
        B CLIENT NO-EVICT OFF
        B CLIENT TRACKINGINFO
        B SUBSCRIBE a
        A PUBSUB HELP
        A CLIENT HELP
        A COMMAND GETKEYSANDFLAGS SET a 1 GET
        A COMMAND GETKEYSANDFLAGS SORT a BY x STORE d
        A COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0
        A COMMAND GETKEYSANDFLAGS BITOP AND d a b
        A COMMAND GETKEYS MIGRATE h 1 k 0 1 KEYS a
        A COMMAND GETKEYSANDFLAGS MIGRATE h 1 k 0 1
        A COMMAND GETKEYS MULTI
        A COMMAND GETKEYS NOSUCH
    """,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_what_clients_switch_on_goes_together(lockstep: Lockstep, script: str) -> None:
    """Every script of several connections is answered alike."""
    run(lockstep, script)


def test_a_restored_key_is_told_of(lockstep: Lockstep, redis_server: ServerProcess) -> None:
    """RESTORE and its twin, with an expiry and over another value."""
    run(lockstep, "A CONFIG SET notify-keyspace-events KEAn\nC PSUBSCRIBE *\nA SET k v\nB WATCH k")
    payload = redis_server.call("DUMP", "k")
    for words in (("k", "0"), ("k", "0", "REPLACE"), ("l", "100000")):
        lockstep.step("A", "RESTORE", *words[:2], payload, *words[2:])
    run(lockstep, "B MULTI\nB PING\nB EXEC\nA GET l")
    lockstep.step("A", "RESTORE-ASKING", "m", 0, payload)


def test_who_may_not_hear_a_channel_any_more_is_closed(lockstep: Lockstep) -> None:
    """Of channels, patterns and shard channels; who may still hear all goes on."""
    for kind, spared in (("SUBSCRIBE", False), ("PSUBSCRIBE", False), ("SSUBSCRIBE", False), ("SUBSCRIBE", True)):
        lockstep.step("A", "ACL", "SETUSER", "hearer", "reset", "on", "nopass", "+@all", "~*", "&news", "&old")
        pair = (Peer(lockstep.addresses[0]), Peer(lockstep.addresses[1]))
        for peer in pair:
            peer.send("AUTH", "hearer", "x")
            peer.send(kind, "news")
            assert peer.read_until(b":1\r\n").startswith(b"+OK\r\n")
        lockstep.step("A", "ACL", "SETUSER", "hearer", "resetchannels", "&news" if spared else "&old")
        for peer in pair:
            if spared:
                peer.drain(b"still here")
            else:
                assert peer.socket.recv(1) == b""
            peer.socket.close()
