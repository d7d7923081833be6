"""Compatibility page: docs/compatibility.md, made from the command table. `python -m kvcd.compatibility` prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from kvcd import REDIS_VERSION
from protocol.command_table import COMMANDS, CommandSpec, lookup
from protocol.redis_commands import REDIS_COMMANDS
from storage.store import MAX_KEY_BYTES

_HEAD = f"""\
# Commands: what is there, what is not

Made from the command table by `make docs`. Measured against all commands of Redis 7.2; the tests compare replies with those of a real
redis-server, byte by byte, in RESP2 and RESP3. HELLO and INFO give {REDIS_VERSION} as the server's version, because clients decide by
it what they may send.

*Full*: as in Redis, with every option, error text and edge case that the tests could find. *Partial*: the note says what is missing.
*Absent*: answered as Redis answers an unknown command. *Fast*: answered in compiled code without a Python object per command.
"""

_DIFFERENCES = f"""\
## What differs without being missing

- **A full pool evicts** unless `maxmemory-policy` says otherwise; redis-server's default is to refuse writes.
- **What is refused when nothing may go** (`noeviction`, or a volatile policy and no key with a TTL): what finds no room, be it for one
  of several keys of an MSET, whose others may be stored. redis-server asks before it runs a command, refuses one that would shrink a
  value, and lets the last one through that exceeds `maxmemory`. RENAME writes the value anew here and is refused without room for that;
  EXPIRE, PERSIST and the like find room while `maxmemory` is less than the pool.
- **OBJECT** under `allkeys-prefix` is that under lru policies: IDLETIME tells seconds, FREQ is an error.
- **`maxmemory-samples`** is taken and ignored: at least 6 keys are looked at for each that goes.
- **Key length.** A key has at most {MAX_KEY_BYTES} bytes (Redis: 512 MB); a longer one is an error. Values have up to 512 MiB, as in
  Redis (`proto-max-bulk-len`).
- **Commands on several keys.** Per connection, commands take effect in order. MSET, MSETNX, RENAME, COPY, DEL of several keys and the
  like are atomic among the clients of one worker; beside other workers, and other processes on the same pool, they are atomic for each
  key ([operations.md](operations.md) says what that means). With one worker, the default, nobody sees any of them half done.
- **Read-modify-write commands** (INCR, APPEND, SETRANGE, RENAME, ...) repeat their attempt when the key changed under them; the result
  is that of some order of the commands, as in Redis.
- **SCAN** gives a key that is there from the first call to the last at least once, as in Redis. Its cursors are of kvcd's own making.
- **FLUSHALL and FLUSHDB** make keys unreachable at once and free their memory afterwards, with ASYNC and without.
- **DUMP** does not pack values, as redis-server does with those of more than 20 bytes; either reads what the other wrote.
- **DEBUG RELOAD** and the like do nothing: what is in the pool is there already. DEBUG POPULATE, DIGEST, OBJECT, PROTOCOL, SLEEP and
  SET-ACTIVE-EXPIRE do what they do in Redis.
- **CLUSTER, READONLY, READWRITE, ASKING** answer as a redis-server does that is in no cluster: with an error.
- **BITFIELD, SETBIT, SETRANGE, APPEND** write the value anew, so each costs as much as the value is long.
- **COMMAND DOCS** has kvcd's own words as summaries and complexities, and no history; the arguments are Redis's.
- **INFO** has all sections and fields that redis-server 7.0 has and that mean something here; what does not exist here is 0.
- **Values are strings.** TYPE says `string` or `none`; no command here can meet a key of another type.
"""


# Why the commands of a group are not there, if none of it is.
_REASONS = {
    "hash": "values are strings",
    "list": "values are strings",
    "set": "values are strings",
    "sorted-set": "values are strings",
    "hyperloglog": "values are strings",
    "geo": "values are strings",
    "stream": "values are strings",
    "scripting": "no scripts and functions",
    "server": "not offered",
}


def page() -> str:
    """Return the page's text."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield from _totals()
    for group, commands in REDIS_COMMANDS.items():
        yield f"## {group.capitalize()}"
        yield ""
        yield "| command | status | lane | what it does |"
        yield "|---|---|---|---|"
        for name, subcommands in commands.items():
            yield from _rows_of(group, name, subcommands)
        yield ""
    yield "## Of kvcd's own"
    yield ""
    yield "| command | status | lane | what it does |"
    yield "|---|---|---|---|"
    known = {name for commands in REDIS_COMMANDS.values() for name in commands}
    for spec in COMMANDS.values():
        if spec.name not in known:
            yield _row(spec)
    yield ""
    yield _DIFFERENCES


def _totals() -> Iterator[str]:
    """How many of Redis's commands, those with subcommands counted by these, have which status."""
    counts = {"full": 0, "partial": 0, "absent": 0}
    for commands in REDIS_COMMANDS.values():
        for name, subcommands in commands.items():
            for full_name in [f"{name}|{subcommand}" for subcommand in subcommands] or [name]:
                spec = lookup(full_name.encode())
                counts["absent" if spec is None else spec.status] += 1
    total = sum(counts.values())
    yield f"Of Redis's {total} commands and subcommands {counts['full']} are full, {counts['partial']} partial, {counts['absent']} absent."
    yield ""


def _rows_of(group: str, name: str, subcommands: tuple[str, ...]) -> Iterator[str]:
    """A command's row, or one for each of its subcommands."""
    if COMMANDS.get(name.encode()) is None or not subcommands:
        spec = COMMANDS.get(name.encode())
        yield _absent_row(group, name) if spec is None else _row(spec)
        return
    for subcommand in subcommands:
        spec = lookup(f"{name}|{subcommand}".encode())
        yield _absent_row("", f"{name} {subcommand}") if spec is None else _row(spec)


def _absent_row(group: str, name: str) -> str:
    reason = _REASONS.get(group, "not offered")
    return f"| `{name.upper()}` | absent | | {reason[0].upper()}{reason[1:]}. |"


def _row(spec: CommandSpec) -> str:
    name = spec.name.upper().replace("|", " ")
    call = f"{name} {spec.syntax}".strip().replace("|", "\\|")
    note = f" {spec.note[0].upper()}{spec.note[1:]}." if spec.note else ""
    return f"| `{call}` | {spec.status} | {spec.lane} | {spec.summary}{note} |"


if __name__ == "__main__":
    sys.stdout.write(page())
