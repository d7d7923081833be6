"""The command table: against a live redis-server's COMMAND INFO, and against the handlers."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import hiredis
import pytest

from kvcd.commands import HANDLERS
from protocol.command_table import COMMANDS, CommandSpec, KeySpec, lookup, lookup_subcommand
from tests.differential import RawConnection
from tests.programs import require_program

EVERY = [spec for command in COMMANDS.values() for spec in (command, *command.subcommands)]
NEWER_THAN_7_0 = {"client|setinfo", "client|no-touch", "cluster|myshardid", "waitaof"}
IN_REDIS_7_0 = [spec for spec in EVERY if spec.group != "prefix" and spec.name not in NEWER_THAN_7_0]


@pytest.fixture(scope="module")
def redis_info() -> dict[str, Any]:
    """COMMAND INFO of redis-server for the table's commands and their subcommands, by full name."""
    with tempfile.TemporaryDirectory(prefix="kvcd-") as folder:
        path = str(Path(folder) / "redis.sock")
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", "--daemonize", "no"]
        require_program("redis-server")
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            next(line for line in process.stdout if b"eady to accept connections" in line)
            connection = RawConnection(path)
            reader = hiredis.Reader(encoding="utf-8")
            reader.feed(connection.exchange([(b"COMMAND", b"INFO", *COMMANDS)])[0])
            connection.close()
        finally:
            process.terminate()
            process.communicate()
    found: dict[str, Any] = {}
    for entry in reader.gets():
        if entry is not None:
            found[entry[0]] = entry
            found.update((subcommand[0], subcommand) for subcommand in entry[9])
    return found


@pytest.mark.parametrize("spec", IN_REDIS_7_0, ids=lambda spec: spec.name)
def test_row_is_what_redis_says(spec: CommandSpec, redis_info: dict[str, Any]) -> None:
    """Arity, flags, keys, categories, tips and key specifications are redis-server's."""
    entry = redis_info[spec.name]
    assert spec.arity == entry[1]
    assert set(spec.flags) == set(entry[2])
    assert [spec.first_key, spec.last_key, spec.key_step] == entry[3:6]
    assert list(spec.acl_categories) == entry[6]
    assert list(spec.tips) == entry[7]
    assert [_key_spec(dict(zip(keys[::2], keys[1::2], strict=True))) for keys in entry[8]] == [
        _described(keys) for keys in spec.keys
    ]


def _described(keys: KeySpec) -> tuple[object, ...]:
    if keys.place == "unknown":
        return (set(keys.flags), "unknown")
    if keys.place == "keyword":
        return (set(keys.flags), keys.keyword, keys.first, keys.last, keys.step)
    return (set(keys.flags), keys.first, keys.last, keys.step)


def _key_spec(keys: dict[str, Any]) -> tuple[object, ...]:
    kind, begin, find = keys["begin_search"][1], keys["begin_search"][3], keys["find_keys"][3]
    if kind == "unknown":
        return (set(keys["flags"]), "unknown")
    if kind == "keyword":
        return (set(keys["flags"]), begin[1], begin[3], find[1], find[3])
    return (set(keys["flags"]), begin[1], find[1], find[3])


def test_every_row_has_a_handler_and_every_handler_a_row() -> None:
    """A container whose arity forbids the bare name needs no handler of its own."""
    needed = {spec.name.encode() for spec in EVERY if not (spec.subcommands and not spec.accepts(1))}
    assert needed == set(HANDLERS)


def test_a_partial_row_says_what_is_missing() -> None:
    """The compatibility page is made of these notes."""
    assert [spec.name for spec in EVERY if (spec.status == "partial") != bool(spec.note)] == []


@pytest.mark.parametrize(
    ("name", "found"), [(b"GeT", "get"), (b"client|ID", "client|id"), (b"nonsense", None), (b"client|", None), (b"", None)]
)
def test_look_up_ignores_case_and_knows_subcommands(name: bytes, found: str | None) -> None:
    """Also by the full name of a subcommand."""
    spec = lookup(name)
    assert (None if spec is None else spec.name) == found


def test_subcommand_look_up() -> None:
    """A container's subcommand by its own name; none where there are none."""
    client = lookup(b"client")
    get = lookup(b"get")
    assert client is not None
    assert get is not None
    found = lookup_subcommand(client, b"List")
    assert found is not None
    assert found.name == "client|list"
    assert lookup_subcommand(client, b"nonsense") is None
    assert lookup_subcommand(get, b"list") is None


@pytest.mark.parametrize(
    ("name", "count", "positions"),
    [
        (b"get", 2, [1]),
        (b"mset", 7, [1, 3, 5]),
        (b"rename", 3, [1, 2]),
        (b"copy", 6, [1, 2]),
        (b"ping", 2, []),
        (b"del", 4, [1, 2, 3]),
        (b"get", 1, []),
    ],
)
def test_key_positions(name: bytes, count: int, positions: list[int]) -> None:
    """Only positions that the call has."""
    spec = lookup(name)
    assert spec is not None
    assert list(spec.key_positions(count)) == positions


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (b"set", [2]),
        (b"setex", [3]),
        (b"mset", [2, 4, 6]),
        (b"setrange", [3]),
        (b"get", []),
        (b"getset", [2]),
        (b"prefix.set", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_value_positions(name: bytes, values: list[int]) -> None:
    """Which arguments a session may receive straight into the pool."""
    spec = lookup(name)
    assert spec is not None
    assert [position for position in range(7) if spec.is_value(position)] == values
