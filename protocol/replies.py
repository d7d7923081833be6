"""Reply values: what a command handler returns, before it becomes RESP bytes.

A handler returns plain Python values where RESP has them (``bytes`` bulk string, ``int`` integer,
``None`` null bulk, ``list`` array, ``dict`` map, ``set``/``frozenset`` set, ``float`` double,
``bool`` boolean) and the classes below for the rest. ``protocol.encoder`` turns them into RESP2
or RESP3 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Simple:
    """Simple string (``+OK``)."""

    text: str


@dataclass(frozen=True, slots=True)
class Error:
    """Error reply; ``text`` begins with its code (``ERR``, ``WRONGTYPE``, ...)."""

    text: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Verbatim string: ``=`` with a three-letter format in RESP3, a bulk string in RESP2."""

    text: bytes
    format: str = "txt"


@dataclass(frozen=True, slots=True)
class Push:
    """Out-of-band push (RESP3 ``>``); an array in RESP2."""

    items: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """A set (RESP3 ``~``) whose members go out in this order; an array in RESP2."""

    items: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """RESP bytes that stand for themselves: several replies to one command, what EXEC gathered, forms that only tests of clients want."""

    data: bytes


class _NullArray:
    """RESP2 ``*-1``, RESP3 ``_``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NULL_ARRAY"


class _NoReply:
    """Nothing at all: the connection closes instead (SHUTDOWN)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NO_REPLY"


NULL_ARRAY = _NullArray()
NO_REPLY = _NoReply()
OK = Simple("OK")

# A recursive type: mypy sees the leaves, containers hold object.
_Container = list[object] | dict[object, object] | set[object] | frozenset[object]
Reply = Simple | Error | Verbatim | Push | Members | Encoded | _NullArray | _NoReply | bytes | int | float | bool | None | _Container
