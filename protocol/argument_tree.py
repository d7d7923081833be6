"""Argument trees: what COMMAND DOCS says of a command's arguments, read from ``protocol.commands.argument_trees``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from protocol.commands.argument_trees import TREES

_PART = re.compile(r"([^=\s]+)=([a-z-]+)((?:[@#~^][^\s@#~^?*+()]+|[?*+])*)(\(?)")
_MARK = re.compile(r"[@#~^][^@#~^?*+]+|[?*+]")
_FLAGS = {"?": "optional", "*": "multiple", "+": "multiple_token"}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command, or a group of them."""

    name: str
    type: str
    key_spec: int | None = None
    token: str = ""
    since: str = ""
    deprecated_since: str = ""
    flags: tuple[str, ...] = ()
    parts: tuple[Argument, ...] = ()


def _argument(name: str, kind: str, marks: str, parts: tuple[Argument, ...]) -> Argument:
    found = {mark[0]: mark[1:] for mark in _MARK.findall(marks)}
    return Argument(
        name,
        kind,
        key_spec=int(found["#"]) if "#" in found else None,
        token="" if found.get("@") == '""' else found.get("@", ""),
        since=found.get("~", ""),
        deprecated_since=found.get("^", ""),
        flags=tuple(flag for letter, flag in _FLAGS.items() if letter in found),
        parts=parts,
    )


def _read(text: str, at: int) -> tuple[tuple[Argument, ...], int]:
    """Return the arguments from ``at`` to the bracket that closes, or the end, and the place behind it."""
    out: list[Argument] = []
    while at < len(text):
        if text[at] == " ":
            at += 1
        elif text[at] == ")":
            return tuple(out), at + 1
        else:
            part = _PART.match(text, at)
            assert part is not None, text[at:]
            at = part.end()
            parts: tuple[Argument, ...] = ()
            if part[4]:
                parts, at = _read(text, at)
            out.append(_argument(part[1], part[2], part[3], parts))
    return tuple(out), at


@cache
def _lines() -> dict[str, str]:
    joined = TREES.strip().replace("\n    ", " ")
    return {name: text for name, _, text in (line.partition(": ") for line in joined.splitlines())}


@cache
def arguments_of(full_name: str) -> tuple[Argument, ...]:
    """Return a command's arguments; none where there are none, or where redis-server 7.0 does not know it."""
    return _read(_lines().get(full_name, ""), 0)[0]
