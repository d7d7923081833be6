"""OBJECT ENCODING and REFCOUNT of strings: what redis-server says after each way to make and change one."""

from __future__ import annotations

import pytest

from tests.servers import ServerProcess

MAKE = {
    "set": (("SET", "k", "12345"),),
    "text": (("SET", "k", "abc"),),
    "long": (("SET", "k", "a" * 60),),
    "longest short": (("SET", "k", "a" * 44),),
    "zero in front": (("SET", "k", "0123"),),
    "beyond 64 bits": (("SET", "k", "123456789012345678901"),),
    "append": (("APPEND", "k", "77"),),
    "setrange": (("SETRANGE", "k", "0", "12"),),
    "setbit": (("SETBIT", "k", "1", "1"),),
    "bitop": (("SET", "s", "1"), ("BITOP", "NOT", "k", "s")),
    "bitfield": (("BITFIELD", "k", "SET", "u8", "0", "49"),),
    "incr": (("INCR", "k"),),
    "incrbyfloat": (("INCRBYFLOAT", "k", "5"),),
    "mset": (("MSET", "k", "1"),),
}
CHANGE = {
    "not at all": (),
    "append": (("APPEND", "k", "6"),),
    "setrange": (("SETRANGE", "k", "0", "1"),),
    "setrange of nothing": (("SETRANGE", "k", "0", ""),),
    "setbit": (("SETBIT", "k", "100", "1"),),
    "bitfield that reads": (("BITFIELD", "k", "GET", "u8", "0"),),
    "incrby": (("INCRBY", "k", "5"),),
    "incrbyfloat": (("INCRBYFLOAT", "k", "1"),),
    "expire": (("EXPIRE", "k", "100"),),
    "persist": (("EXPIRE", "k", "100"), ("PERSIST", "k")),
    "getex": (("GETEX", "k", "EX", "100"),),
    "getset": (("GETSET", "k", "12"),),
    "keepttl": (("SET", "k", "7", "KEEPTTL"),),
}
CARRY = (
    (),
    (("RENAME", "k", "l"), ("RENAME", "l", "k")),
    (("COPY", "k", "l"), ("DEL", "k"), ("COPY", "l", "k")),
    (("MOVE", "k", "1"), ("SELECT", "1")),
)


@pytest.mark.parametrize("made", MAKE)
def test_encodings_are_redis_servers(kvcd_server: ServerProcess, redis_server: ServerProcess, made: str) -> None:
    """Every way to make a string, then every way to change it, then every way to carry it elsewhere."""
    for changed, change in CHANGE.items():
        for carry in CARRY:
            said = []
            asked = ("ENCODING",) if ("COPY", "k", "l") in carry else ("ENCODING", "REFCOUNT")  # redis-server shares no number with a copy
            for server in (kvcd_server, redis_server):
                with server.connect() as wire:
                    words = (("FLUSHALL",), *MAKE[made], *change, *carry, *(("OBJECT", what, "k") for what in asked))
                    said.append([wire.call(*command) for command in words])
            assert said[0] == said[1], (changed, carry)
