"""From a frame's arguments to a reply: look-up, arity, login, the handler, and the counts of it."""

from __future__ import annotations

import time

from kvcd.commands.arguments import BUSY, UNREACHABLE, CommandError, shown, wrong_arity
from kvcd.commands.protected import refuse_protected
from kvcd.commands.registry import HANDLERS
from kvcd.context import MAX_KEY_BYTES, ClientState, ServerState
from kvcd.persistence import MISCONF
from kvcd.slow_log import without_secrets
from protocol.command_table import CommandSpec, lookup, lookup_subcommand
from protocol.replies import Error, Reply

KEY_TOO_LONG = f"ERR key is longer than {MAX_KEY_BYTES} bytes"
_SHOWN_ARGUMENT_BYTES = 128  # Redis's bound on what an error repeats


async def dispatch(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """Run one command and return its reply; a refusal is an Error reply, never an exception.

    Suspends only where the store does. ``args`` holds the command's name as sent, then its arguments; at positions
    that the command table calls values there may be a ``StagedValue``, which stays the caller's to discard.
    """
    statistics = server.statistics
    try:
        spec = _resolve(server, args)
    except CommandError as refused:
        statistics.count_error(refused.text)
        return Error(refused.text)
    count = statistics.of(spec.name)
    client.last_command = spec.name
    try:
        _admit(client, server, spec, args)
        if server.persistence.refuses_writes and ("write" in spec.flags or spec.name == "ping"):
            raise CommandError(MISCONF)
        _refuse_lost_keys(client, server, spec, args)
    except CommandError as refused:
        count.rejected += 1
        statistics.count_error(refused.text)
        return Error(refused.text)
    started_ns = time.perf_counter_ns()
    try:
        reply = await HANDLERS[spec.name.encode()](client, server, args)
    except CommandError as refused:
        reply = Error(refused.text)
    except BlockingIOError:
        reply = BUSY  # a read found every pin in use
    except ConnectionError as lost:
        reply = Error(f"ERR {lost}") if str(lost) else UNREACHABLE
    _note_time(client, server, spec, args, time.perf_counter_ns() - started_ns)
    if isinstance(reply, Error):
        count.failed += 1
        statistics.count_error(reply.text)
    return reply


def _note_time(client: ClientState, server: ServerState, spec: CommandSpec, args: list[bytes], duration_ns: int) -> None:
    """Count a call that was carried out, and remember it where it took long."""
    statistics = server.statistics
    statistics.of(spec.name).add_call(duration_ns, in_histogram=statistics.tracks_latency)
    slow_log, duration_us = statistics.slow_log, duration_ns // 1000
    if 0 <= slow_log.threshold_us <= duration_us and "skip_slowlog" not in spec.flags:
        slow_log.note(
            without_secrets(spec.name, args),
            duration_us=duration_us,
            at_s=server.now_ms() // 1000,
            address=client.address,
            name=client.name,
        )
    if statistics.latency.threshold_ms:
        event = "fast-command" if "fast" in spec.flags else "command"
        statistics.latency.note(event, duration_ms=duration_us // 1000, at_s=server.now_ms() // 1000)


def _resolve(server: ServerState, args: list[bytes]) -> CommandSpec:
    """Return the command's row, or its subcommand's; raises CommandError."""
    spec = lookup(server.names.known_as(args[0])) if b"|" not in args[0] else None
    if spec is None:
        raise CommandError(_unknown_command(args))
    if spec.subcommands and len(args) > 1:
        subcommand = lookup_subcommand(spec, args[1])
        if subcommand is None:
            raise CommandError(f"ERR unknown subcommand '{shown(args[1][:_SHOWN_ARGUMENT_BYTES])}'. Try {spec.name.upper()} HELP.")
        return subcommand
    return spec


def _admit(client: ClientState, server: ServerState, spec: CommandSpec, args: list[bytes]) -> None:
    """Check what can be known before the handler runs; raises CommandError."""
    if not spec.accepts(len(args)):
        raise CommandError(wrong_arity(spec.name))
    refuse_protected(client, server, spec.name)
    if not client.authenticated and "no_auth" not in spec.flags:
        raise CommandError("NOAUTH Authentication required.")
    denied = server.access.refusal(client, spec, args)
    if denied is not None:
        raise CommandError(denied)
    for position in spec.key_positions(len(args)):
        if len(args[position]) > MAX_KEY_BYTES:
            raise CommandError(KEY_TOO_LONG)


def _refuse_lost_keys(client: ClientState, server: ServerState, spec: CommandSpec, args: list[bytes]) -> None:
    """A command that would change a key of a lost memory node is refused: to its handler the key would merely seem absent."""
    if "write" in spec.flags and spec.first_key:
        node = server.store.lost_node_of(client.db, [args[position] for position in spec.key_positions(len(args))])
        if node is not None:
            raise CommandError(f"ERR memory node {node} unreachable")


def _unknown_command(args: list[bytes]) -> str:
    beginning = b""
    for argument in args[1:]:
        if len(beginning) >= _SHOWN_ARGUMENT_BYTES:
            break
        beginning += b"'" + argument[: _SHOWN_ARGUMENT_BYTES - len(beginning)].partition(b"\0")[0] + b"' "
    return f"ERR unknown command '{shown(args[0][:_SHOWN_ARGUMENT_BYTES])}', with args beginning with: {shown(beginning)}"
