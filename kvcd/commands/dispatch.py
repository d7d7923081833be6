"""From a frame's arguments to a reply: look-up, arity, login, the handler, and the counts of it."""

from __future__ import annotations

import time
from typing import cast

from kvcd.client_modes import Tracking, is_subscriber, set_reason
from kvcd.commands.arguments import BUSY, OUT_OF_MEMORY, UNREACHABLE, CommandError, shown, value_bytes, wrong_arity
from kvcd.commands.protected import refuse_protected
from kvcd.commands.registry import HANDLERS
from kvcd.context import MAX_KEY_BYTES, ClientState, ServerState, SlowReason
from kvcd.monitors import line_of
from kvcd.observed import ObservedServer
from kvcd.persistence import MISCONF
from kvcd.slow_log import without_secrets
from protocol.command_table import CommandSpec, lookup, lookup_subcommand
from protocol.replies import Error, Reply, Simple

KEY_TOO_LONG = f"ERR key is longer than {MAX_KEY_BYTES} bytes"
_SHOWN_ARGUMENT_BYTES = 128  # Redis's bound on what an error repeats
_QUEUED = Simple("QUEUED")
_NEVER_QUEUED = ("exec", "discard", "multi", "watch", "quit", "reset")
_REPLICATED = ("publish", "spublish")  # no writes, and paused with them
_FOR_SUBSCRIBERS = (
    "ping",
    "subscribe",
    "psubscribe",
    "ssubscribe",
    "unsubscribe",
    "punsubscribe",
    "sunsubscribe",
    "quit",
    "reset",
)


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
        return _refused(client, server, "", refused.text)
    args = _with_real_name(server, args)
    count = statistics.of(spec.name)
    client.last_command = spec.name
    try:
        _admit(client, server, spec, args)
        if _needs_memory(client, spec) and server.store.is_over_limit():
            raise CommandError(OUT_OF_MEMORY.text)
        if server.persistence.refuses_writes and ("write" in spec.flags or spec.name == "ping"):
            raise CommandError(MISCONF)
        _refuse_lost_keys(client, server, spec, args)
        _admit_listener(client, spec)
    except CommandError as refused:
        count.rejected += 1
        statistics.count_error(refused.text)
        return _refused(client, server, spec.name, refused.text)
    modes, transaction = server.modes, None if client.modes is None else client.modes.transaction
    writes = modes.gate.is_closed and _uses_keys(client, spec, "write")
    if modes.gate.holds(client, writes=writes):
        await modes.gate.wait(client, writes=writes)
    if transaction is not None and spec.name not in _NEVER_QUEUED:
        transaction.add(spec, [value_bytes(argument) for argument in args])  # a staged value is the session's, until the reply
        return _QUEUED
    modes.tracking.limit()
    reply = await run_command(client, server, spec, args)
    if client.modes is not None and client.modes.own_changes:
        modes.tracking.tell_own(client)
    return reply


async def run_command(client: ClientState, server: ServerState, spec: CommandSpec, args: list[bytes]) -> Reply:
    """Run an admitted command: count it, show it to monitors, and let those know who are to hear of what it changes."""
    statistics, modes, own = server.statistics, server.modes, client.modes
    count = statistics.of(spec.name)
    words = None
    if modes.is_monitored and "admin" not in spec.flags:
        words = [value_bytes(argument) for argument in args]  # now: what is staged may be published
    observed = None
    # Not EXEC itself: each command that it runs is observed, and would be a second time.
    if spec.name != "exec" and (modes.are_changes_wanted or (own is not None and own.touches_nothing)):
        observed = ObservedServer(server, client, spec, args)
    started_ns = time.perf_counter_ns()
    try:
        reply = await HANDLERS[spec.name.encode()](client, server if observed is None else cast(ServerState, observed), args)
    except CommandError as refused:
        reply = Error(refused.text)
    except BlockingIOError:
        reply = BUSY  # a read found every pin in use
    except ConnectionError as lost:
        reply = Error(f"ERR {lost}") if str(lost) else UNREACHABLE
    finally:
        if observed is not None:
            observed.store.finish()
    _note_time(client, server, spec, args, time.perf_counter_ns() - started_ns)
    if isinstance(reply, Error):
        count.failed += 1
        statistics.count_error(reply.text)
    if words is not None:
        modes.show(line_of(client, spec.name, words, database=server.order.number(client.db)))
    own = client.modes
    if own is not None and own.tracking is not None:
        _track(client, server, own.tracking, spec, args)
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


def _track(client: ClientState, server: ServerState, tracking: Tracking, spec: CommandSpec, args: list[bytes]) -> None:
    """Remember what a tracking client has read; CLIENT CACHING is over then."""
    if "readonly" in spec.flags:
        server.modes.tracking.remember(client, [args[position] for position in spec.key_positions(len(args))])
        server.modes.tracking.limit_soon()
    in_transaction = client.modes is not None and client.modes.transaction is not None
    if not in_transaction and not spec.name.startswith("client|"):
        tracking.is_caching = False


def _refused(client: ClientState, server: ServerState, name: str, text: str) -> Error:
    """Return the refusal; a transaction that it happens in will not run."""
    transaction = None if client.modes is None else client.modes.transaction
    if name == "exec":
        if client.modes is not None:
            client.modes.transaction = None
            set_reason(client, SlowReason.TRANSACTION, False)
            server.modes.unwatch(client)
        return Error(f"EXECABORT Transaction discarded because of: {text.removeprefix('ERR ')}")
    if transaction is not None:
        transaction.is_spoiled = True
    return Error(text)


def _needs_memory(client: ClientState, spec: CommandSpec) -> bool:
    """Whether the command takes memory: it stores something, runs what does, or is kept for EXEC."""
    if client.modes is None or client.modes.transaction is None:
        return "denyoom" in spec.flags
    if spec.name == "exec":
        return any("denyoom" in queued.flags for queued, _ in client.modes.transaction.queue)
    return spec.name not in ("discard", "quit", "reset")


def _uses_keys(client: ClientState, spec: CommandSpec, *flags: str) -> bool:
    """Whether the command, or what is queued before EXEC, has one of these flags; what replicas are told of counts as a write."""
    specs = [spec]
    if spec.name == "exec" and client.modes is not None and client.modes.transaction is not None:
        specs += [queued for queued, _ in client.modes.transaction.queue]
    return any(one.name in _REPLICATED or any(flag in one.flags for flag in flags) for one in specs)


def _admit_listener(client: ClientState, spec: CommandSpec) -> None:
    """Check what a client may run that is sent messages: in RESP2 they cannot be told from replies; raises CommandError."""
    if client.modes is not None and client.modes.is_monitor and _uses_keys(client, spec, "write", "readonly"):
        raise CommandError("ERR Replica can't interact with the keyspace")
    if client.resp == 2 and spec.name not in _FOR_SUBSCRIBERS and is_subscriber(client):
        raise CommandError(
            f"ERR Can't execute '{spec.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        )


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


def _with_real_name(server: ServerState, args: list[bytes]) -> list[bytes]:
    """Return the arguments as if no command had been renamed: some handlers tell by the name what they are asked."""
    name = server.names.known_as(args[0])
    return args if name is args[0] else [name, *args[1:]]


def _admit(client: ClientState, server: ServerState, spec: CommandSpec, args: list[bytes]) -> None:
    """Check what can be known before the handler runs; raises CommandError."""
    if not spec.accepts(len(args)):
        raise CommandError(wrong_arity(spec.name))
    refuse_protected(client, server, spec.name)
    if not client.authenticated and "no_auth" not in spec.flags:
        raise CommandError("NOAUTH Authentication required.")
    in_transaction = client.modes is not None and client.modes.transaction is not None
    if in_transaction and "no_multi" in spec.flags:
        raise CommandError("ERR Command not allowed inside a transaction")
    denied = server.access.refusal(client, spec, args, context="multi" if in_transaction else "toplevel")
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
