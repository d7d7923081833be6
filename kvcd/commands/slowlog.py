"""SLOWLOG: the commands that took longest, of all workers together."""

from __future__ import annotations

from typing import Any

from kvcd.commands.arguments import CommandError, parse_integer
from kvcd.commands.registry import answers, handles
from kvcd.context import ClientState, ServerState
from kvcd.slow_log import SlowCommand
from protocol.replies import OK, Reply

_DEFAULT_COUNT = 10
_NO_COUNT = "ERR count should be greater than or equal to -1"
_GET, _LEN, _RESET = "slow log", "length of slow log", "reset slow log"  # topics between workers


def _plain(entry: SlowCommand) -> list[Any]:
    words = [word.decode("latin-1") for word in entry.words]
    return [entry.number, entry.at_s, entry.duration_us, words, entry.address, entry.name.decode("latin-1")]


def _entry(fields: list[Any]) -> list[object]:
    number, at_s, duration_us, words, address, name = fields
    shown = [word.encode("latin-1") for word in words]
    return [number, at_s, duration_us, shown, address.encode("utf-8", "surrogateescape"), name.encode("latin-1")]


@handles("slowlog|get")
async def handle_slowlog_get(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SLOWLOG GET [count]: newest first, -1 for all."""
    count = parse_integer(args[2], _NO_COUNT) if len(args) > 2 else _DEFAULT_COUNT
    if len(args) > 3 or count < -1:
        raise CommandError(_NO_COUNT if len(args) == 3 else _unknown(args))
    wanted = server.statistics.slow_log.longest if count == -1 else count
    entries = list_entries(server, wanted)
    others = await server.service.channel.ask_all(_GET, wanted)
    if others:
        for answer in others:
            entries += answer.payload
        # Every worker counts its own: by time is the order that all have in common.
        entries.sort(key=lambda fields: (fields[1], fields[0]), reverse=True)
    return [_entry(fields) for fields in entries[:wanted]]


def _unknown(args: list[bytes]) -> str:
    return f"ERR unknown subcommand or wrong number of arguments for '{args[1].decode('utf-8', 'surrogateescape')}'. Try SLOWLOG HELP."


@answers(_GET)
def list_entries(server: ServerState, count: int) -> list[list[Any]]:
    """Return this worker's newest entries in plain values."""
    return [_plain(entry) for entry in server.statistics.slow_log.latest(count)]


@handles("slowlog|len")
async def handle_slowlog_len(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SLOWLOG LEN."""
    elsewhere = await server.service.channel.ask_all(_LEN, None)
    return count_entries(server, None) + sum(int(answer.payload) for answer in elsewhere)


@answers(_LEN)
def count_entries(server: ServerState, _payload: None) -> int:
    """Return how many entries this worker has."""
    return len(server.statistics.slow_log)


@handles("slowlog|reset")
async def handle_slowlog_reset(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SLOWLOG RESET."""
    reset_entries(server, None)
    await server.service.channel.ask_all(_RESET, None)
    return OK


@answers(_RESET)
def reset_entries(server: ServerState, _payload: None) -> bool:
    """Forget this worker's entries."""
    server.statistics.slow_log.reset()
    return True
