"""Kinds of random commands for ``tests.differential``: bits, payloads, what looks into the server, what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.dump_payload import dump

if TYPE_CHECKING:
    from tests.differential import Generator

Kind = Callable[["Generator"], list[bytes]]

_TYPES = (b"u8", b"i8", b"u1", b"i1", b"u63", b"i64", b"u13", b"i27", b"i5", b"u64", b"i65", b"u0", b"x8", b"u", b"", b"i08", b"i-1")


def offset(make: Generator) -> bytes:
    """Return where a bit is, mostly near the beginning."""
    pick = make.random
    near = b"%d" % pick.randint(0, 300)
    # 4294967296 is the first bit beyond what proto-max-bulk-len allows.
    return pick.choice((near, near, near, near, make.integer(), b"4294967296", b"-1", b"#1"))


def small_offset(make: Generator) -> bytes:
    """Return an offset that fills no half gigabyte on both servers."""
    found = offset(make)
    return b"17" if found.isdigit() and 100_000 < int(found) < 2**32 else found


def setbit(make: Generator) -> list[bytes]:
    """Return SETBIT or GETBIT."""
    if make.random.random() < 0.4:
        return [b"GETBIT", make.key(), offset(make)]
    return [b"SETBIT", make.key(), small_offset(make), make.random.choice((b"0", b"1", b"1", b"2", b"-1", b"x"))]


def bitcount(make: Generator) -> list[bytes]:
    """Return BITCOUNT or BITPOS with any part of its range."""
    pick = make.random
    words = [b"BITCOUNT", make.key()] if pick.random() < 0.5 else [b"BITPOS", make.key(), pick.choice((b"0", b"1", b"0", b"1", b"2", b"x"))]
    words += [make.integer() for _ in range(pick.choice((0, 1, 2, 2, 2)))]
    if pick.random() < 0.4:
        words.append(make.word(b"BIT", b"BYTE"))
    return words


def bitop(make: Generator) -> list[bytes]:
    """Return BITOP on some keys."""
    name = make.word(b"AND", b"OR", b"XOR", b"NOT")
    return [b"BITOP", name, make.key(), *(make.key() for _ in range(make.random.choice((1, 1, 2, 3))))]


def field_offset(make: Generator) -> bytes:
    """Return a place for a bit field."""
    pick = make.random
    return pick.choice(
        (b"#%d" % pick.randint(0, 9), b"%d" % pick.randint(0, 99), b"#", b"-1", b"#-1", b"x", b"4294967296", b"#99999999999")
    )


def bitfield(make: Generator) -> list[bytes]:
    """Return BITFIELD or BITFIELD_RO with some operations."""
    pick = make.random
    words = [pick.choice((b"BITFIELD", b"BITFIELD", b"BITFIELD", b"BITFIELD_RO")), make.key()]
    for _ in range(pick.choice((0, 1, 1, 2, 3))):
        word = make.word(b"GET", b"SET", b"INCRBY", b"OVERFLOW")
        if word.upper() == b"OVERFLOW":
            words += [word, make.word(b"WRAP", b"SAT", b"FAIL")]
            continue
        kind = pick.choice(_TYPES[:9]) if pick.random() < 0.9 else pick.choice(_TYPES)
        place = b"#%d" % pick.randint(0, 9) if pick.random() < 0.8 else field_offset(make)
        words += [word, kind, place]
        if word.upper() != b"GET":
            words.append(make.integer())
    return words[:-1] if pick.random() < 0.05 else words


def lcs(make: Generator) -> list[bytes]:
    """Return LCS with some options."""
    words = [b"LCS", make.key(), make.key()]
    for _ in range(make.random.choice((0, 1, 1, 2, 3))):
        words += make.random.choice(
            ([make.word(b"IDX")], [make.word(b"IDX")], [make.word(b"LEN")], [make.word(b"WITHMATCHLEN")], [b"MINMATCHLEN", make.integer()])
        )
    return words


def text(make: Generator) -> list[bytes]:
    """Return a SET of a value that has something in common with others like it."""
    return [b"SET", make.key(), bytes(make.random.choice(b"abc") for _ in range(make.random.randint(0, 60)))]


def object_(make: Generator) -> list[bytes]:
    """Return OBJECT; an encoding is asked only of a value that was just set, since only that is known here."""
    pick = make.random
    if pick.random() < 0.5:
        key = make.key()
        make.next.append((b"OBJECT", pick.choice((b"ENCODING", b"encoding", b"REFCOUNT")), key))
        return [b"SET", key, make.value()]
    return [
        b"OBJECT",
        *pick.choice(((b"FREQ", make.key()), (b"ENCODING", b"absent"), (b"FOO", b"x"), (b"ENCODING",), (b"FREQ", b"a", b"b"), (b"HELP",))),
    ]


def restore(make: Generator) -> list[bytes]:
    """Return RESTORE of a payload, a damaged one now and then."""
    pick = make.random
    payload = dump(make.value())
    if pick.random() < 0.15:
        payload = pick.choice((payload[:-1], payload[:9], b"", payload[:-1] + bytes((payload[-1] ^ 1,)), b"\x01" + payload[1:]))
    words = [b"RESTORE", make.key(), pick.choice((b"0", b"0", b"0", make.span(milliseconds=True))), payload]
    for _ in range(pick.choice((0, 0, 1, 1, 2))):
        words += pick.choice(
            (
                [make.word(b"REPLACE")],
                [make.word(b"REPLACE")],
                [make.word(b"ABSTTL")],
                [make.word(b"IDLETIME"), make.integer()],
                [make.word(b"FREQ"), pick.choice((b"0", b"255", b"256", b"-1", b"x"))],
                [b"FREQ"],
            )
        )
    return words


def move(make: Generator) -> list[bytes]:
    """Return MOVE."""
    return [b"MOVE", make.key(), make.random.choice((b"0", b"1", b"1", b"15", b"16", b"-1", b"x", b"99999999999"))]


def sort(make: Generator) -> list[bytes]:
    """Return SORT or SORT_RO of what is absent or a string."""
    pick = make.random
    words = [pick.choice((b"SORT", b"SORT_RO")), pick.choice((make.key(), b"absent"))]
    for _ in range(pick.choice((0, 1, 2))):
        words += pick.choice(
            (
                [make.word(b"ASC", b"DESC", b"ALPHA")],
                [make.word(b"LIMIT"), make.integer(), make.integer()],
                [make.word(b"BY"), b"w*"],
                [make.word(b"GET"), b"#"],
                [make.word(b"STORE"), make.key()],
                [b"LIMIT", b"0"],
                [b"STORE"],
            )
        )
    return words


def swapdb(make: Generator) -> list[bytes]:
    """Return SWAPDB."""
    numbers = (b"0", b"1", b"0", b"1", b"2", b"15", b"16", b"-1", b"x", b"")
    return [b"SWAPDB", make.random.choice(numbers), make.random.choice(numbers)]


_REFUSED: tuple[tuple[bytes, ...], ...] = (
    (b"CLUSTER", b"INFO"),
    (b"CLUSTER", b"NODES"),
    (b"CLUSTER", b"SLOTS"),
    (b"CLUSTER", b"SHARDS"),
    (b"CLUSTER", b"KEYSLOT", b"a"),
    (b"CLUSTER", b"KEYSLOT"),
    (b"CLUSTER", b"MYID"),
    (b"CLUSTER", b"HELP"),
    (b"CLUSTER", b"COUNTKEYSINSLOT", b"0"),
    (b"CLUSTER", b"FOO"),
    (b"CLUSTER",),
    (b"READONLY",),
    (b"READWRITE",),
    (b"ASKING",),
    (b"ROLE",),
    (b"REPLICAOF", b"NO", b"ONE"),
    (b"SLAVEOF", b"no", b"one"),
    (b"REPLICAOF", b"localhost", b"x"),
    (b"REPLICAOF", b"a"),
    (b"FAILOVER",),
    (b"FAILOVER", b"ABORT"),
    (b"FAILOVER", b"ABORT", b"x"),
    (b"FAILOVER", b"TO", b"a"),
    (b"FAILOVER", b"TO", b"a", b"1"),
    (b"FAILOVER", b"TO", b"a", b"1", b"FORCE"),
    (b"FAILOVER", b"TO", b"a", b"1", b"FORCE", b"TIMEOUT", b"10"),
    (b"FAILOVER", b"TIMEOUT", b"x"),
    (b"FAILOVER", b"TIMEOUT", b"0"),
    (b"FAILOVER", b"FORCE"),
    (b"REPLCONF",),
    (b"REPLCONF", b"a"),
    (b"REPLCONF", b"foo", b"bar"),
    (b"MODULE", b"LIST"),
    (b"MODULE", b"LOAD", b"/x"),
    (b"MODULE", b"UNLOAD", b"x"),
    (b"MODULE", b"HELP"),
    (b"DEBUG", b"SLEEP", b"0"),
    (b"DEBUG",),
    (b"SLOWLOG", b"HELP"),
    (b"SLOWLOG", b"GET", b"-2"),
    (b"SLOWLOG", b"GET", b"x"),
    (b"SLOWLOG", b"GET", b"1", b"2"),
    (b"SLOWLOG", b"FOO"),
    (b"SLOWLOG",),
    (b"LATENCY", b"LATEST"),
    (b"LATENCY", b"HISTORY", b"command"),
    (b"LATENCY", b"GRAPH", b"command"),
    (b"LATENCY", b"RESET"),
    (b"LATENCY", b"RESET", b"x", b"x"),
    (b"LATENCY", b"DOCTOR"),
    (b"LATENCY", b"HELP"),
    (b"LATENCY", b"HISTOGRAM", b"nonsense"),
    (b"MEMORY", b"HELP"),
    (b"MEMORY", b"DOCTOR"),
    (b"MEMORY", b"PURGE"),
    (b"MEMORY", b"USAGE", b"absent"),
    (b"MEMORY", b"USAGE", b"absent", b"SAMPLES"),
    (b"MEMORY", b"USAGE", b"absent", b"SAMPLES", b"0"),
    (b"MEMORY", b"USAGE", b"absent", b"SAMPLES", b"-1"),
    (b"MEMORY", b"USAGE", b"absent", b"FOO", b"1"),
    (b"MEMORY", b"USAGE"),
    (b"OBJECT",),
    (b"OBJECT", b"HELP"),
    (b"COMMAND", b"HELP"),
    (b"CONFIG", b"HELP"),
    (b"CONFIG", b"REWRITE"),
    (b"COMMAND", b"GETKEYSANDFLAGS", b"set", b"a", b"b"),
    (b"COMMAND", b"GETKEYSANDFLAGS", b"set", b"a", b"b", b"get"),
    (b"COMMAND", b"GETKEYSANDFLAGS", b"bitfield", b"a", b"get", b"u8", b"0"),
    (b"COMMAND", b"GETKEYSANDFLAGS", b"bitop", b"and", b"a", b"b", b"c"),
    (b"COMMAND", b"GETKEYSANDFLAGS", b"sort", b"a", b"store", b"b"),
    (b"COMMAND", b"GETKEYSANDFLAGS", b"ping", b"a"),
    (b"COMMAND", b"GETKEYS", b"sort", b"a", b"store", b"b"),
    (b"COMMAND", b"GETKEYS", b"sort_ro", b"a", b"get", b"b"),
    (b"COMMAND", b"GETKEYS", b"memory", b"usage", b"x"),
    (b"COMMAND", b"GETKEYS", b"object", b"encoding", b"x"),
    (b"COMMAND", b"GETKEYS", b"object", b"foo", b"x"),
    (b"COMMAND", b"GETKEYS", b"migrate", b"h", b"1", b"k", b"0", b"1"),
    (b"COMMAND", b"GETKEYS", b"migrate", b"h", b"1", b"", b"0", b"1", b"keys", b"a", b"b"),
    (b"COMMAND", b"GETKEYS", b"migrate", b"h", b"1", b"k", b"0", b"1", b"keys", b"a", b"b"),
    (b"SHUTDOWN", b"ABORT"),
    (b"SHUTDOWN", b"FOO"),
)


def looked_into(make: Generator) -> list[bytes]:
    """Return a command about the server whose reply does not depend on what it is."""
    return list(make.random.choice(_REFUSED))


KINDS: tuple[tuple[int, Kind], ...] = (
    (5, setbit),
    (5, bitcount),
    (3, bitop),
    (6, bitfield),
    (3, lcs),
    (3, text),
    (3, object_),
    (3, restore),
    (2, move),
    (2, sort),
    (4, looked_into),
    (1, swapdb),
    (1, lambda make: [b"DUMP", make.key()]),
)


def weighted(pick: random.Random) -> Kind:
    """Return one of the kinds."""
    return pick.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])[0]
