"""Order of messages and replies: what a change makes others hear stands on each connection where redis-server has it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.lockstep import Lockstep
from tests.servers import ServerProcess
from tests.wire import Word, encode

RANDOM_WALKS = 60
Line = tuple[Word, ...]


@pytest.fixture(autouse=True)
def empty_servers(kvcd_server: ServerProcess, redis_server: ServerProcess) -> Iterator[None]:
    """Both begin without keys, and notify nobody."""
    for server in (kvcd_server, redis_server):
        server.call("CONFIG", "SET", "notify-keyspace-events", "")
        server.call("FLUSHALL")
    yield
    for server in (kvcd_server, redis_server):
        server.call("CONFIG", "SET", "notify-keyspace-events", "")


def connected(kvcd_server: ServerProcess, redis_server: ServerProcess, *versions: int) -> Lockstep:
    """Return connections A, B and C in these protocol versions."""
    return Lockstep((kvcd_server.address, redis_server.address), dict(zip("ABC", versions, strict=True)))


def run(lockstep: Lockstep, text: str) -> None:
    """Run a script: a connection and a command in each line."""
    for line in text.strip().splitlines():
        name, *words = line.split()
        lockstep.step(name, *words)


REDIRECTED_TO_THE_WRITER = """
    B CLIENT TRACKING ON REDIRECT {A}
    B MGET a b
    A SET a 1
    B MGET a b
    A SET a 2 GET
    B GET a
    A GETSET a 3
    B GET a
    A GETEX a EX 100
    B GET a
    A GETEX a PERSIST
    B GET a
    A EXPIRE a 100
    B GET a
    A PERSIST a
    B GET a
    A BITFIELD a SET u8 0 65
    B GET a
    A APPEND a 1
    B MGET a b
    A RENAME a b
    B MGET a b
    A COPY b a
    B MGET a b
    A DEL a b
    B MGET a b
    A MSET a 1 b 2
    B MGET a b
    A GETDEL a
    B MGET a b
    A EXPIRE b -1
    B MGET a b
    A MULTI
    A GETSET a 1
    A SET b 1
    A PING
    A EXEC
"""


OWN_CHANGES = """
    A CLIENT TRACKING ON
    A MGET a b
    A SET a 1
    A MGET a b
    A GETDEL a
    A MULTI
    A GET a
    A SET a 1
    A MGET a b
    A DEL a b
    A GET a
    A FLUSHALL
    A PING
    A EXEC
    A CLIENT TRACKING OFF
    A CLIENT TRACKING ON NOLOOP
    A GET a
    A SET a 1
    A GET a
    A PEXPIREAT a 1
    A CLIENT TRACKING OFF
    A CLIENT TRACKING ON BCAST PREFIX b PREFIX a
    A MULTI
    A SET a 1
    A GET b
    A SET b 1
    A PING
    A EXEC
    B MSET a 2 b 3
"""


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("script", [REDIRECTED_TO_THE_WRITER, OWN_CHANGES], ids=["redirected to the writer", "own changes"])
def test_invalidations_and_replies(kvcd_server: ServerProcess, redis_server: ServerProcess, script: str, version: int) -> None:
    """What concerns others stands before the writer's reply, or behind it where that is given first; its own stands behind all of it."""
    with connected(kvcd_server, redis_server, 3, version, 3) as lockstep:
        run(lockstep, script)


def test_a_transaction_tells_of_each_change_once(kvcd_server: ServerProcess, redis_server: ServerProcess) -> None:
    """Of what it did to others, and to the client itself; each between its replies."""
    with connected(kvcd_server, redis_server, 3, 3, 2) as lockstep:
        run(
            lockstep,
            """
            A CONFIG SET notify-keyspace-events AKEn
            A PSUBSCRIBE __key*
            B PSUBSCRIBE __key*
            B CLIENT TRACKING ON
            B MGET a b
            A MULTI
            A SET a 1
            A GETDEL a
            A BITFIELD b SET u8 0 65
            A RENAME b a
            A EXPIRE a 100
            A FLUSHALL
            A EXEC
            """,
        )


def test_one_command_tells_of_its_keys_one_after_the_other(kvcd_server: ServerProcess, redis_server: ServerProcess) -> None:
    """The change of a key, its events, then the next key's; a name that is given up stands before the new one."""
    with connected(kvcd_server, redis_server, 3, 3, 2) as lockstep:
        run(
            lockstep,
            """
            A CONFIG SET notify-keyspace-events AKEn
            B PSUBSCRIBE __key*
            B CLIENT TRACKING ON
            B MGET a b
            A MSET b 1 a 2
            B MGET a b
            A DEL b a
            A SET b 1
            B MGET a b
            A RENAME b a
            B MGET a b
            A COPY a b
            B MGET a b
            A MOVE b 1
            """,
        )


# ------------------------------------------------------------------ random walks

_WRITES = """SET k 1|SET k 2 GET|INCR k|DEL k|DEL k l|UNLINK k l|GETSET k 3|GETDEL k|GETEX k EX 100|GETEX k PERSIST|EXPIRE k 100|PERSIST k
MSET k 1 l 2|MSETNX k 1 l 2|RENAME k l|RENAMENX k l|COPY k l|COPY k l REPLACE|MOVE k 1|APPEND k 1|SETRANGE k 1 1|SETBIT k 1 1|BITOP OR k l k
FLUSHDB|FLUSHALL|BITFIELD k SET u8 0 9|INCRBYFLOAT k 1|PSETEX k 100000 1|SETEX k 100 1|SETNX k 1|EXPIRE k -1|PEXPIREAT k 1|GETEX k PXAT 1
SORT l STORE k|DECRBY k 2""".replace("\n", "|").split("|")
_READS = [
    "GET k",
    "MGET k l",
    "EXISTS k l",
    "STRLEN k",
    "TTL k",
    "GETRANGE k 0 1",
    "BITCOUNT k",
    "TYPE k",
    "PING",
    "PUBLISH ch m",
    "TOUCH k",
]


class Walk:
    """Three clients that track, subscribe and write at random; the same for the same seed."""

    def __init__(self, lockstep: Lockstep, choose: random.Random) -> None:
        """Let each client switch something on."""
        self.lockstep = lockstep
        self.random = choose
        for name in "ABC":
            self.listen(name)
            self.track(name)

    def listen(self, name: str) -> None:
        """Perhaps subscribe; a client with RESP3 goes on as before."""
        if self.lockstep.resp[name] == 3:
            if self.random.random() < 0.3:
                self.lockstep.step(name, "SUBSCRIBE", "ch")
            if self.random.random() < 0.4:
                self.lockstep.step(name, "PSUBSCRIBE", "__key*")

    def track(self, name: str) -> None:
        """Perhaps track, in some way."""
        options = self.random.choice([[], [], ["BCAST"], ["BCAST", "PREFIX", "a"], None])
        if options is None:
            return
        if self.random.random() < 0.3:
            options = [*options, "NOLOOP"]
        # Of a flush redis-server tells in the tracking client's protocol, be it that of who hears it or not: only like tells like here.
        others = [other for other in "ABC" if other != name and self.lockstep.resp[other] == 3 == self.lockstep.resp[name]]
        if others and self.random.random() < 0.3:
            options = [*options, "REDIRECT", "{" + self.random.choice(others) + "}"]
        self.lockstep.step(name, "CLIENT", "TRACKING", "ON", *options)

    def batch(self) -> list[Line]:
        """Return some commands that are sent together."""
        lines = []
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 5))):
            names = {"k": self.random.choice(("a", "b", "ab")), "l": self.random.choice(("a", "b", "ab"))}
            text = self.random.choice(self.random.choice((_WRITES, _READS)))
            lines.append(tuple(names.get(word, word) for word in text.split()))
        return [("MULTI",), *lines, ("EXEC",)] if self.random.random() < 0.25 else lines

    def step(self, number: int) -> None:
        """Let one client send a batch, and compare what each of them is sent."""
        name, lines, token = self.random.choice("ABC"), self.batch(), b"batch-%d" % number
        order = [name, *(other for other in "ABC" if other != name)]
        for peer in self.lockstep.peers[name]:
            peer.socket.sendall(b"".join(encode(*line) for line in lines))
        seen = [{other: self.lockstep.peers[other][side].drain(token) for other in order} for side in (0, 1)]
        assert seen[0] == seen[1], f"{name}: {lines!r}\n one  {seen[0]!r}\n other {seen[1]!r}"


@pytest.mark.parametrize("seed", range(RANDOM_WALKS))
def test_random_walks(kvcd_server: ServerProcess, redis_server: ServerProcess, seed: int) -> None:
    """Clients that track, hear events and write, alone, in pipelines and in transactions, are sent the same bytes by both."""
    choose = random.Random(seed)
    classes = choose.choice(["", "", "AKE", "AKEn"])
    for server in (kvcd_server, redis_server):
        server.call("CONFIG", "SET", "notify-keyspace-events", classes)
    with connected(kvcd_server, redis_server, *(choose.choice((2, 3, 3)) for _ in "ABC")) as lockstep:
        walk = Walk(lockstep, choose)
        for number in range(12):
            walk.step(number)
