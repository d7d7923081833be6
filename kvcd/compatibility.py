"""Compatibility page: docs/compatibility.md, made from the command table. `python -m kvcd.compatibility` prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from kvcd import REDIS_VERSION
from protocol.command_table import COMMANDS, CommandSpec
from protocol.redis_commands import REDIS_COMMANDS
from storage.store import MAX_KEY_BYTES

_HEAD = f"""\
# Commands: what is there, what is not

Made from the command table by `make docs`. Measured against all commands of Redis 7.2; the tests compare replies with those of a real
redis-server, byte by byte, in RESP2 and RESP3. HELLO and INFO give {REDIS_VERSION} as the server's version, because clients decide by
it what they may send.

*Full*: as in Redis, with every option, error text and edge case that the tests could find. *Partial*: the note says what is missing.
*Fast*: answered in compiled code without a Python object per command. A command that is not there is answered as Redis answers an
unknown one.
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
- **Values are strings.** TYPE says `string` or `none`; no command here can meet a key of another type.
"""


def page() -> str:
    """Return the page's text."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "## Served"
    yield ""
    yield "| command | status | lane | what it does |"
    yield "|---|---|---|---|"
    for spec in sorted(COMMANDS.values(), key=lambda spec: (spec.group, spec.name)):
        yield _row(spec)
        yield from (_row(subcommand) for subcommand in spec.subcommands if subcommand.short_name != "help")
    yield ""
    yield _DIFFERENCES
    yield "## Not served"
    yield ""
    yield from _absent_lines()


def _row(spec: CommandSpec) -> str:
    name = spec.name.upper().replace("|", " ")
    call = f"{name} {spec.syntax}".strip().replace("|", "\\|")
    note = f" {spec.note[0].upper()}{spec.note[1:]}." if spec.note else ""
    return f"| `{call}` | {spec.status} | {spec.lane} | {spec.summary}{note} |"


def _absent_lines() -> Iterator[str]:
    total = sum(len(commands) for commands in REDIS_COMMANDS.values())
    served = sum(name.encode() in COMMANDS for commands in REDIS_COMMANDS.values() for name in commands)
    yield f"kvcd serves {served} of Redis's {total} commands, and {len(COMMANDS) - served} of its own (PREFIX.*). The others:"
    yield ""
    yield "| group | commands |"
    yield "|---|---|"
    for group, commands in REDIS_COMMANDS.items():
        absent = [text for name, subcommands in commands.items() if (text := _absence(name, subcommands))]
        if absent:
            yield f"| {group} | {', '.join(absent)} |"
    yield ""


def _absence(name: str, subcommands: tuple[str, ...]) -> str:
    """What of a Redis command is not there: its name, its missing subcommands, or nothing."""
    spec = COMMANDS.get(name.encode())
    if spec is None:
        return name.upper()
    served = {subcommand.short_name for subcommand in spec.subcommands}
    missing = [subcommand.upper() for subcommand in subcommands if subcommand not in served]
    return f"{name.upper()} ({', '.join(missing)})" if missing else ""


if __name__ == "__main__":
    sys.stdout.write(page())
