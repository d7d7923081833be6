"""Keys of calls: where they are, and what is done with them; and that no command hides any."""

from __future__ import annotations

import pytest

from protocol.command_keys import KeyAccess, key_accesses
from protocol.command_table import COMMANDS, CommandSpec


def found(line: str, spec: CommandSpec | None = None) -> str | None:
    """Return positions with r and w, such as "1r 2w"."""
    args = [word.encode() if word != "''" else b"" for word in line.split()]
    row = spec or COMMANDS[args[0].lower()]
    keys = key_accesses(row, args)
    return None if keys is None else " ".join(_shown(key) for key in keys)


def _shown(key: KeyAccess) -> str:
    return f"{key.position}{'r' * key.reads}{'w' * key.writes}"


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("GET k", "1r"),
        ("SET k v", "1w"),
        ("SET k get", "1w"),
        ("SET k v EX 5 get", "1rw"),
        ("MGET a b c", "1r 2r 3r"),
        ("MSET a 1 b 2", "1w 3w"),
        ("DEL a b", "1w 2w"),
        ("EXISTS a b", "1 2"),
        ("RENAME a b", "1rw 2w"),
        ("COPY a b DB 1", "1r 2w"),
        ("GETEX a", "1rw"),
        ("PING x", ""),
        ("KEYS *", ""),
        ("PREFIX.GET a b", "1r 2r"),
        ("PREFIX.SET a v", "1w"),
        ("PREFIX.SET NX a v b w", "2w 4w"),
        ("PREFIX.SET NX NX v", "2w"),
        ("PREFIX.SET EX 5 PARENT p NX a v", "4 6w"),
        ("PREFIX.SET PARENT p PARENT v", "2 3w"),
        ("PREFIX.SET EX", "1w"),
    ],
)
def test_keys_are_found(line: str, keys: str) -> None:
    assert found(line) == keys


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("SORT k", "1r"),
        ("SORT k BY store LIMIT 0 store GET store DESC STORE d", "1r 11w"),
        ("SORT k STORE a STORE b", "1r 5w"),
        ("SORT k STORE", "1r"),
        ("MIGRATE h 1 k 0 9 KEYS a", "3rw"),
        ("MIGRATE h 1 '' 0 9 COPY KEYS a b", "8rw 9rw"),
    ],
)
def test_keys_in_odd_places_are_found(line: str, keys: str) -> None:
    name = line.split()[0].lower()
    assert found(line, CommandSpec(name, -2, ("write", "movablekeys"), "generic", "1.0.0", "")) == keys


def test_unknown_places_are_owned_up_to() -> None:
    assert found("x a", CommandSpec("x", -2, ("movablekeys",), "generic", "1.0.0", "")) is None


def test_every_command_that_moves_keys_says_where() -> None:
    """One that is added without that could only be run by users with all keys."""
    rows = [spec for row in COMMANDS.values() for spec in (row, *row.subcommands) if "movablekeys" in spec.flags]
    assert rows
    assert [spec.name for spec in rows if key_accesses(spec, [b"x"] * 9) is None] == []
