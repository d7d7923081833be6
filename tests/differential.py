"""Two RESP servers given the same random commands must answer with the same bytes.

``Generator`` makes command sequences from a seed; ``compare_sequences`` sends each to both servers over raw sockets and
returns the differences. What cannot be equal is declared in ``TOLERANCES`` and nowhere else.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from protocol.dump_payload import restore
from tests.differential_kinds import KINDS, weighted

Command = tuple[bytes, ...]
Address = str | tuple[str, int]  # path of a unix socket, or host and port

TTL_TOLERANCE_MS = 2000
TIMEOUT_S = 20
PASSWORD = b"secret"
_REPLY_LIMIT_BYTES = 64 * 1024 * 1024


def encode_command(command: Command) -> bytes:
    """Return the command as a RESP array of bulk strings."""
    return b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in command)


class RawConnection:
    """A socket whose replies are read whole and left as the bytes that came."""

    def __init__(self, address: Address) -> None:
        """Connect; raises OSError."""
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(address)
        self.buffer = b""
        self.position = 0

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def exchange(self, commands: Sequence[Command]) -> list[bytes]:
        """Send commands in one pipeline and return their replies.

        Reads while it sends: a server that waits for its replies to be read must not wait for ever.
        """
        unsent = memoryview(b"".join(map(encode_command, commands)))
        while unsent:
            readable, writable, _ = select.select([self.socket], [self.socket], [], TIMEOUT_S)
            if readable:
                self._more()
            if writable:
                unsent = unsent[self.socket.send(unsent[:65536]) :]
            elif not readable:
                raise TimeoutError("the server neither reads nor answers")
        return [self.reply() for _ in commands]

    def _line(self) -> bytes:
        while (end := self.buffer.find(b"\r\n", self.position)) < 0:
            self._more()
        line = self.buffer[self.position : end]
        self.position = end + 2
        return line

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError(f"closed after {self.buffer[-200:]!r}")
        self.buffer = self.buffer[self.position :] + data
        self.position = 0
        assert len(self.buffer) < _REPLY_LIMIT_BYTES

    def reply(self) -> bytes:
        """Return the next reply's bytes, containers with all they hold."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        text = line + b"\r\n"
        if kind in b"$=!":
            length = int(rest)
            if length >= 0:
                while len(self.buffer) - self.position < length + 2:
                    self._more()
                text += self.buffer[self.position : self.position + length + 2]
                self.position += length + 2
        elif kind in b"*~>%|":
            text += b"".join(self.reply() for _ in range(max(int(rest), 0) * (2 if kind in b"%|" else 1)))
        elif kind not in b"+-:_#,(":
            raise ValueError(f"no reply begins with {line[:80]!r}")
        return text


def _elements(reply: bytes) -> list[bytes]:
    """Return the elements of an array of bulk strings, in no order."""
    parser = RawConnection.__new__(RawConnection)
    parser.buffer, parser.position = reply, 0
    count = int(parser._line()[1:])
    return sorted(parser.reply() for _ in range(count))


def _same_elements(left: bytes, right: bytes) -> bool:
    return left[:1] == right[:1] == b"*" and _elements(left) == _elements(right)


def _near(tolerance: int) -> Callable[[bytes, bytes], bool]:
    def near(left: bytes, right: bytes) -> bool:
        if left[:1] != b":" or right[:1] != b":":
            return False
        numbers = int(left[1:]), int(right[1:])
        return min(numbers) > 0 and abs(numbers[0] - numbers[1]) <= tolerance

    return near


def _same_kind(left: bytes, right: bytes) -> bool:
    """Both are errors with the same text (that was compared already) or both are no errors and of one type."""
    return left[:1] == right[:1] and left[:1] != b"-"


def _same_after_version(left: bytes, right: bytes) -> bool:
    """HELLO's map but for the version and the connection's number."""
    lines = [reply.split(b"\r\n") for reply in (left, right)]
    if any(len(found) < 20 for found in lines) or len(lines[0]) != len(lines[1]):
        return False
    start = lines[0].index(b"version") + 1  # its length and text follow
    skipped = {start, start + 1, lines[0].index(b"id") + 1}
    return all(one == other or place in skipped for place, (one, other) in enumerate(zip(*lines, strict=True)))


def _same_payload(left: bytes, right: bytes) -> bool:
    """Both hold the same value: redis-server packs the longer ones, kvcd packs none."""
    if left[:1] != b"$" or right[:1] != b"$" or b"$-1" in (left[:3], right[:3]):
        return False
    return restore(left.partition(b"\r\n")[2][:-2]) == restore(right.partition(b"\r\n")[2][:-2])


TOLERANCES: dict[bytes, Callable[[bytes, bytes], bool]] = {
    b"ttl": _near(TTL_TOLERANCE_MS // 1000),
    b"pttl": _near(TTL_TOLERANCE_MS),
    b"expiretime": _near(TTL_TOLERANCE_MS // 1000),
    b"pexpiretime": _near(TTL_TOLERANCE_MS),
    b"keys": _same_elements,
    b"scan": _same_kind,  # cursors are the server's own; that SCAN finds every key is asserted elsewhere
    b"randomkey": _same_kind,
    b"time": _same_kind,
    b"info": _same_kind,
    b"dump": _same_payload,
    b"hello": _same_after_version,
    b"client": _same_kind,  # numbers, addresses and sizes
    b"command": _same_kind,  # the set of commands differs
}


def equal(command: Command, left: bytes, right: bytes) -> bool:
    """Whether two replies to a command are the same, but for its declared tolerance."""
    if left == right:
        return True
    tolerance = TOLERANCES.get(command[0].lower())
    return tolerance is not None and tolerance(left, right)


class Generator:
    """Random command sequences over few keys, so that commands meet; with arguments at and beyond every edge.

    Expiries are far in the future or in the past, never near: which side of a deadline a command falls on must not
    depend on how fast a server is.
    """

    def __init__(self, seed: int, *, now_ms: int, large_values: bool = True) -> None:
        """Seed the sequence; ``now_ms`` is about the servers' Unix time."""
        self.large_values = large_values
        self.random = random.Random(seed)
        self.now_ms = now_ms
        names = (b"a", b"b", b"c", b"key:1", b"\x00\xff\r\n", b"", b"with space", b"[a-c]*?")
        self.keys = [self.random.choice(names) for _ in range(3)] + [b"n", b"f"]
        self.next: list[Command] = []  # commands that must follow

    def key(self) -> bytes:
        """Return one of the few keys."""
        return self.random.choice(self.keys)

    def integer(self) -> bytes:
        """Return something where an integer is wanted, mostly one."""
        pick = self.random
        return pick.choice(
            (
                b"%d" % pick.randint(-5, 30),
                b"%d" % pick.randint(-5, 30),
                b"%d" % pick.randint(-5, 30),
                b"%d" % pick.randint(-(10**18), 10**18),
                self.edge(),
                pick.choice((b"", b" 1", b"1 ", b"+1", b"-0", b"007", b"1.0", b"x", b"0x10", b"1\x00", b"99999999999999999999999", b"-")),
            )
        )

    def float(self) -> bytes:
        """Return something where a number with a fraction is wanted."""
        pick = self.random
        return pick.choice(
            (
                b"%d" % pick.randint(-100, 100),
                repr(round(pick.uniform(-1000, 1000), pick.randint(0, 12))).encode(),
                repr(pick.uniform(-1, 1) * 10 ** pick.randint(-20, 20)).encode(),
                b"%de%d" % (pick.randint(-99, 99), pick.randint(-30, 30)),
                pick.choice((b"1e4932", b"1e-4940", b"-1e4931", b"1e5000", b"1e-5000", b"0x1p3", b"3.", b".5", b"+5", b"-0", b"1e400")),
                pick.choice((b"inf", b"-inf", b"nan", b"", b" 1", b"1 ", b"x", b"1e", b"--1", b"1,5", b"infinity", b"1\x00")),
            )
        )

    def value(self) -> bytes:
        """Return a value: text, number, binary, empty or of some size."""
        pick = self.random
        return pick.choice(
            (
                b"",
                b"hello",
                self.integer(),
                self.float(),
                bytes(pick.randrange(256) for _ in range(pick.randint(1, 40))),
                bytes([pick.randrange(256)]) * pick.choice((1, 100, 5000, 40_000, 70_000) if self.large_values else (1, 100, 5000)),
            )
        )

    def span(self, *, milliseconds: bool) -> bytes:
        """Return a time span for EX or PX."""
        pick = self.random
        if pick.random() < 0.25:
            return pick.choice((b"0", b"-1", b"", b"x", b"9223372036854775807", b"9223372036854775", b"-9223372036854775808", b"1.5"))
        return b"%d" % (pick.randint(10_000, 10_000_000) * (1000 if milliseconds else 1))

    def instant(self, *, milliseconds: bool) -> bytes:
        """Return a Unix time for EXAT or PXAT, far from now on either side."""
        pick = self.random
        if pick.random() < 0.2:
            return pick.choice((b"0", b"-1", b"", b"x", b"9223372036854775807", b"9223372036854775", b"1"))
        instant_ms = self.now_ms + pick.choice((-1, 1, 1, 1)) * pick.randint(10_000_000, 10_000_000_000)
        return b"%d" % (instant_ms if milliseconds else instant_ms // 1000)

    def edge(self) -> bytes:
        """Return a number next to where 64 bits end."""
        return b"%d" % (self.random.choice((2**63 - 1, -(2**63))) + self.random.randint(-2, 2))

    def word(self, *words: bytes) -> bytes:
        """Return one of the words in some case of letters, rarely a wrong one."""
        word = self.random.choice(words if self.random.random() > 0.03 else (b"FOO", b"", b"E"))
        return self.random.choice((word, word, word.lower(), word.title()))

    def expiry_option(self) -> list[bytes]:
        """Return an option that sets an expiry, now and then without its argument."""
        name = self.word(b"EX", b"PX", b"EXAT", b"PXAT")
        milliseconds = name.lower().startswith(b"p")
        argument = self.instant(milliseconds=milliseconds) if name.lower().endswith(b"at") else self.span(milliseconds=milliseconds)
        return [name] if self.random.random() < 0.03 else [name, argument]

    def pattern(self) -> bytes:
        """Return a glob pattern."""
        return self.random.choice((b"*", b"?", b"k*", b"*[0-9]", b"[^a]", b"[a-c]", b"\\*", b"", b"[", b"**", b"\\", b"a*b", self.key()))

    def _set(self) -> list[bytes]:
        words = [b"SET", self.key(), self.value()]
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 3))):
            words += self.random.choice((self.expiry_option(), [self.word(b"NX", b"XX", b"GET", b"KEEPTTL", b"PERSIST")]))
        return words

    def _getex(self) -> list[bytes]:
        words = [b"GETEX", self.key()]
        for _ in range(self.random.choice((0, 1, 1, 2))):
            words += self.random.choice((self.expiry_option(), [self.word(b"PERSIST", b"KEEPTTL", b"NX")]))
        return words

    def _expire(self) -> list[bytes]:
        name = self.random.choice((b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT"))
        milliseconds = name.startswith(b"P")
        argument = self.instant(milliseconds=milliseconds) if name.endswith(b"AT") else self.span(milliseconds=milliseconds)
        conditions = [self.word(b"NX", b"XX", b"GT", b"LT") for _ in range(self.random.choice((0, 0, 1, 1, 2)))]
        return [name, self.key(), argument, *conditions]

    def _copy(self) -> list[bytes]:
        words = [b"COPY", self.key(), self.key()]
        for _ in range(self.random.choice((0, 1, 2))):
            words += self.random.choice(
                ([self.word(b"REPLACE")], [self.word(b"DB"), self.random.choice((b"0", b"1", b"16", b"-1", b"x", b"99999999999"))])
            )
        return words

    def _scan(self) -> list[bytes]:
        words = [b"SCAN", self.random.choice((b"0", b"0", b"0", b"x", b"-1", b"", b" 1", b"+0", b"99999999999999999999", b"0\x00"))]
        for _ in range(self.random.choice((0, 1, 2))):
            words += self.random.choice(
                (
                    [self.word(b"MATCH"), self.pattern()],
                    [self.word(b"COUNT"), self.integer()],
                    [self.word(b"TYPE"), self.word(b"string", b"list")],
                    [b"COUNT"],
                )
            )
        return words

    def _pairs(self) -> list[bytes]:
        words = [self.random.choice((b"MSET", b"MSETNX"))]
        for _ in range(self.random.randint(1, 3)):
            words += [self.key(), self.value()]
        return words[:-1] if self.random.random() < 0.1 else words

    def _several(self) -> list[bytes]:
        name = self.random.choice((b"MGET", b"EXISTS", b"DEL", b"UNLINK", b"TOUCH"))
        return [name, *(self.key() for _ in range(self.random.randint(1, 4)))]

    def _one(self) -> list[bytes]:
        names = (
            b"GET",
            b"GET",
            b"GETDEL",
            b"STRLEN",
            b"TYPE",
            b"PERSIST",
            b"TTL",
            b"PTTL",
            b"EXPIRETIME",
            b"PEXPIRETIME",
            b"INCR",
            b"DECR",
        )
        return [self.random.choice(names), self.key()]

    def _hello(self) -> list[bytes]:
        words = [b"HELLO"]
        if self.random.random() < 0.8:
            words.append(self.random.choice((b"2", b"3", b"2", b"3", b"4", b"x", b"")))
            words += self.random.choice(
                (
                    [],
                    [],
                    [b"AUTH", b"default", PASSWORD],
                    [b"SETNAME", b"me"],
                    [b"AUTH", b"nobody", b"x"],
                    [b"SETNAME"],
                    [b"SETNAME", b"a b"],
                )
            )
        return words

    def _connection(self) -> list[bytes]:
        pick = self.random
        return pick.choice(
            (
                [b"PING"],
                [b"PING", self.value()],
                [b"PING", b"a", b"b"],
                [b"ECHO", self.value()],
                [b"SELECT", pick.choice((b"0", b"0", b"1", b"15", b"16", b"-1", b"x", b"99999999999"))],
                [b"RESET"],
                self._hello(),
                [b"AUTH", b"x"],
                [b"AUTH", PASSWORD],
                [b"AUTH", b"default", PASSWORD],
                [b"AUTH", b"default", b"x"],
                [b"AUTH", b"nobody", b"x"],
                [b"AUTH", b"a", b"b", b"c"],
                [b"CLIENT", b"SETNAME", pick.choice((b"me", b"", b"a b", b"\xff"))],
                [b"CLIENT", b"GETNAME"],
                [b"CLIENT", b"ID"],
                [b"CLIENT", b"KILL", pick.choice((b"nobody:1", b"ID"))],
                [b"CLIENT", b"KILL", b"ID", pick.choice((b"0", b"-1", b"x", b"999999999"))],
                [b"CLIENT", b"KILL", pick.choice((b"TYPE", b"USER", b"FOO", b"SKIPME")), pick.choice((b"replica", b"x"))],
                [b"CLIENT", b"LIST", b"TYPE", pick.choice((b"pubsub", b"x", b"master"))],
                [b"CLIENT", b"LIST", b"ID", pick.choice((b"999999999", b"x", b""))],
                [b"CLIENT", pick.choice((b"FOO", b"ID", b"a\r\nb")), b"x"],
                [b"CLIENT"],
            )
        )

    def _service(self) -> list[bytes]:
        pick = self.random
        return pick.choice(
            (
                [b"DBSIZE"],
                [b"TIME"],
                [b"RANDOMKEY"],
                [b"KEYS", self.pattern()],
                [b"KEYS", self.pattern()],
                [pick.choice((b"FLUSHDB", b"FLUSHALL")), *pick.choice(([], [b"SYNC"], [b"async"], [b"x"], [b"SYNC", b"x"]))],
                [b"INFO", b"nonsense"],
                [b"CONFIG", b"GET", pick.choice((b"nonsense", b"maxmemory", b"MAXMEMORY", b"proto-max-bulk-le?"))],
                [b"CONFIG", b"SET", b"maxmemory", pick.choice((b"0", b"x", b"-1"))],
                [
                    b"CONFIG",
                    b"SET",
                    *pick.choice(((b"a", b"b", b"c"), (b"nonsense", b"1"), (b"maxmemory",), (b"maxmemory", b"0", b"maxmemory", b"0"))),
                ],
                [b"CONFIG", b"RESETSTAT", *pick.choice(([], [b"x"]))],
                [b"CONFIG", pick.choice((b"FOO", b"GET"))],
                [b"COMMAND", b"INFO", b"nonsense"],
                [b"COMMAND", b"DOCS", b"nonsense"],
                [
                    b"COMMAND",
                    b"GETKEYS",
                    *pick.choice(((b"mset", b"a", b"b", b"c"), (b"get",), (b"get", b"a", b"b"), (b"nonsense", b"a"), (b"ping", b"x"))),
                ],
                [
                    b"COMMAND",
                    b"LIST",
                    *pick.choice(((b"FILTERBY", b"MODULE", b"x"), (b"FILTERBY", b"FOO", b"x"), (b"x",), (b"FILTERBY", b"ACLCAT", b"x"))),
                ],
            )
        )

    def _wrong(self) -> list[bytes]:
        """Return an unknown command, or a known one with any number of arguments."""
        names = (b"FOO", b"", b"get\x00", b"client|id", b"a\r\nb", b"\xff", b"x" * 200)
        known = (
            b"GET",
            b"SET",
            b"MGET",
            b"INCRBY",
            b"SETRANGE",
            b"EXPIRE",
            b"RENAME",
            b"COPY",
            b"DBSIZE",
            b"KEYS",
            b"GETEX",
            b"SCAN",
            b"SELECT",
        )
        return [self.random.choice(names + known), *(self.value()[:100] for _ in range(self.random.randint(0, 5)))]

    def command(self) -> Command:
        """Return one random command."""
        if self.next:
            return self.next.pop()
        pick = self.random
        kinds: tuple[tuple[int, Callable[[], list[bytes]]], ...] = (
            (12, self._set),
            (12, self._one),
            (4, self._getex),
            (8, self._expire),
            (4, self._several),
            (3, self._pairs),
            (2, lambda: [b"SETNX", self.key(), self.value()]),
            (2, lambda: [b"SETEX", self.key(), self.span(milliseconds=False), self.value()]),
            (2, lambda: [b"PSETEX", self.key(), self.span(milliseconds=True), self.value()]),
            (2, lambda: [b"GETSET", self.key(), self.value()]),
            (4, lambda: [b"APPEND", self.key(), self.value()]),
            (4, lambda: [pick.choice((b"GETRANGE", b"SUBSTR")), self.key(), self.integer(), self.integer()]),
            (4, lambda: [b"SETRANGE", self.key(), pick.choice((self.integer(), b"3", b"536870912", b"536870911")), self.value()[:100]]),
            (6, lambda: [pick.choice((b"INCRBY", b"DECRBY")), pick.choice((b"n", self.key())), self.integer()]),
            (3, lambda: [pick.choice((b"SET", b"GETSET", b"SETNX")), b"n", self.edge()]),
            (3, lambda: [pick.choice((b"INCR", b"DECR")), b"n"]),
            (6, lambda: [b"INCRBYFLOAT", pick.choice((b"f", self.key())), self.float()]),
            (4, lambda: [pick.choice((b"RENAME", b"RENAMENX")), self.key(), self.key()]),
            (4, self._copy),
            (3, self._scan),
            (5, self._connection),
            (4, self._service),
            (3, self._wrong),
            (sum(weight for weight, _ in KINDS), lambda: weighted(pick)(self)),
        )
        made = pick.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]()
        if pick.random() < 0.2:
            made[0] = made[0].lower()
        # A SETRANGE to the far end would make both servers fill half a gigabyte.
        if made[0].upper() == b"SETRANGE" and len(made) == 4 and made[3] and made[2].isdigit() and 100_000 < int(made[2]) < 2**29:
            made[2] = b"17"
        # A SET into the past leaves Redis a dead key, which DBSIZE counts until something looks at it.
        if made[0].upper() == b"SET" and any(word.upper() in (b"EXAT", b"PXAT") for word in made):
            self.next.append((b"EXISTS", made[1]))
        # Before a login both servers close a connection that sends more than ten arguments.
        return tuple(made) if self.large_values else tuple(made[:10])

    def sequence(self, length: int) -> list[Command]:
        """Return ``length`` commands, then what shows the whole state they left."""
        return [*(self.command() for _ in range(length)), *self.look()]

    def look(self) -> Iterator[Command]:
        """Yield commands that show every key's value and expiry in the first two databases."""
        for database in (b"0", b"1"):
            yield (b"SELECT", database)
            yield (b"KEYS", b"*")
            for key in dict.fromkeys(self.keys):
                yield from ((b"GET", key), (b"PTTL", key), (b"TYPE", key), (b"EXISTS", key))


@dataclass(frozen=True, slots=True)
class Difference:
    """Two replies that should have been the same."""

    seed: int
    number: int
    command: Command
    left: bytes
    right: bytes
    before: tuple[Command, ...]  # the commands that led there and touched one of its arguments

    def __str__(self) -> str:
        """Show the replies and the commands before."""
        led = "".join(f"\n    {_short(command)}" for command in self.before[-8:])
        head = f"seed {self.seed}, command {self.number}: {_short(self.command)}"
        return f"{head}\n  {self.left[:200]!r}\n  {self.right[:200]!r}\n  after{led}"


def _short(command: Command) -> Command:
    return tuple(word[:60] for word in command)


def compare_sequence(
    left: Address, right: Address, *, seed: int, length: int, now_ms: int, resp: int = 2, with_password: bool = False
) -> list[Difference]:
    """Send one sequence to both servers, on new connections and emptied databases; return the differences.

    ``with_password``: the servers ask for ``PASSWORD`` meanwhile, and the sequence begins without having given it.
    """
    # Before a login both servers close a connection that sends more than 16 KiB in one argument.
    generator = Generator(seed, now_ms=now_ms, large_values=not with_password)
    commands = [(b"HELLO", b"%d" % resp), *generator.sequence(length)]
    replies = []
    for address in (left, right):
        control = RawConnection(address)
        try:
            control.exchange([(b"FLUSHALL",), (b"CONFIG", b"SET", b"requirepass", PASSWORD if with_password else b"")])
            # Redis closes an unauthenticated connection whose unread replies outgrow its buffer: no pipeline there.
            replies.append(_replies_to(address, commands, pipeline=1 if with_password else len(commands)))
        finally:
            control.exchange([(b"CONFIG", b"SET", b"requirepass", b"")])
            control.close()
    return [
        Difference(seed, number, command, ours, theirs, tuple(_related(commands[:number], command)))
        for number, (command, ours, theirs) in enumerate(zip(commands, *replies, strict=True))
        if not equal(command, ours, theirs)
    ]


def _replies_to(address: Address, commands: Sequence[Command], *, pipeline: int) -> list[bytes]:
    connection = RawConnection(address)
    try:
        return [reply for start in range(0, len(commands), pipeline) for reply in connection.exchange(commands[start : start + pipeline])]
    finally:
        connection.close()


def _related(earlier: Sequence[Command], command: Command) -> Iterator[Command]:
    words = set(command[1:2]) | set(command[2:3] if command[0].upper() in (b"RENAME", b"RENAMENX", b"COPY") else ())
    yield from (other for other in earlier if words & set(other[1:]) or other[0].upper() in (b"SELECT", b"FLUSHALL", b"FLUSHDB", b"RESET"))


SEQUENCE_LENGTH = 200


def compare_servers(left: Address, right: Address, *, seeds: Sequence[int], length: int = SEQUENCE_LENGTH) -> list[Difference]:
    """Compare sequences in both protocols, every third with a password; return the first differing sequence's differences."""
    for seed in seeds:
        now_ms = time.time_ns() // 1_000_000
        found = compare_sequence(left, right, seed=seed, length=length, now_ms=now_ms, resp=2 + seed % 2, with_password=seed % 3 == 0)
        if found:
            return found
    return []


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return (host or "127.0.0.1", int(port)) if port.isdigit() else text


def main() -> int:
    """Compare two running servers, whose data is lost: ``python -m tests.differential LEFT RIGHT [FIRST_SEED [SEQUENCES]]``."""
    if len(sys.argv) < 3:
        print(main.__doc__, file=sys.stderr)
        return 2
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 100
    found = compare_servers(_address(sys.argv[1]), _address(sys.argv[2]), seeds=range(first, first + count))
    print("\n".join(map(str, found[:5])) or f"{count} sequences, {count * (SEQUENCE_LENGTH + 1)} replies, no difference")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
