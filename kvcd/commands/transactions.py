"""Transactions: commands that are queued and then run together, unless what was watched has changed."""

from __future__ import annotations

from kvcd.client_modes import Transaction, modes_of, set_reason
from kvcd.commands.arguments import CommandError
from kvcd.commands.dispatch import run_command
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState, SlowReason
from protocol.command_spec import CommandSpec
from protocol.encoder import encode
from protocol.replies import NO_REPLY, NULL_ARRAY, OK, Encoded, Error, Reply

_SPOILED = "EXECABORT Transaction discarded because of previous errors."


def discard(client: ClientState, server: ServerState) -> None:
    """Leave the transaction, if there is one, and watch nothing any more."""
    if client.modes is not None:
        client.modes.transaction = None
        set_reason(client, SlowReason.TRANSACTION, False)
        server.modes.unwatch(client)


@handles("multi")
async def handle_multi(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MULTI."""
    modes = modes_of(client)
    if modes.transaction is not None:
        raise CommandError("ERR MULTI calls can not be nested")
    modes.transaction = Transaction()
    set_reason(client, SlowReason.TRANSACTION, True)
    return OK


@handles("discard")
async def handle_discard(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """DISCARD."""
    if client.modes is None or client.modes.transaction is None:
        raise CommandError("ERR DISCARD without MULTI")
    discard(client, server)
    return OK


@handles("watch")
async def handle_watch(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """WATCH key [key ...]: what each key is now is compared when EXEC comes."""
    modes = modes_of(client)
    if modes.transaction is not None:
        raise CommandError("ERR WATCH inside MULTI is not allowed")
    if modes.is_dirty:
        return OK
    fresh = [key for key in dict.fromkeys(args[1:]) if (client.db, key) not in modes.watched]
    for key, stamp in zip(fresh, await server.store.stamps(client.db, fresh), strict=True):
        modes.watched[client.db, key] = stamp
    server.modes.watch(client)
    return OK


@handles("unwatch")
async def handle_unwatch(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """UNWATCH."""
    server.modes.unwatch(client)
    return OK


async def _was_changed(client: ClientState, server: ServerState) -> bool:
    """Whether something that the client watches is not as it was, whoever changed it."""
    assert client.modes is not None
    databases: dict[int, list[bytes]] = {}
    for database, key in client.modes.watched:
        databases.setdefault(database, []).append(key)
    for database, keys in databases.items():
        for key, stamp in zip(keys, await server.store.stamps(database, keys), strict=True):
            if stamp != client.modes.watched[database, key]:
                return True
    return client.modes.is_dirty


async def _run_queued(client: ClientState, server: ServerState, spec: CommandSpec, words: list[bytes]) -> Reply:
    """Run one command, unless the client may not run it any more: it may be another user by now, or the rules may have changed."""
    refused = server.access.refusal_at_exec(client, spec, words)
    if refused is None:
        return await run_command(client, server, spec, words)
    server.statistics.of(spec.name).rejected += 1
    server.statistics.count_error(refused)
    return Error(refused)


@handles("exec")
async def handle_exec(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """EXEC: nothing of this worker's other clients runs between the look at what is watched and the last command."""
    transaction = client.modes.transaction if client.modes is not None else None
    if client.modes is None or transaction is None:
        raise CommandError("ERR EXEC without MULTI")
    if transaction.is_spoiled:
        discard(client, server)
        raise CommandError(_SPOILED)
    gate = server.modes.gate
    gate.enter(client)
    try:
        if await _was_changed(client, server):
            return NULL_ARRAY
        server.modes.unwatch(client)
        parts = [b"*%d\r\n" % len(transaction.queue)]
        for spec, words in transaction.queue:
            reply = await _run_queued(client, server, spec, words)
            # What it told this very client comes before its reply or behind it, as everywhere; and that in the protocol that holds now.
            parts.append(client.take_pushes())
            parts.append(b"" if reply is NO_REPLY else encode(reply, client.resp))
            parts.append(client.take_late_pushes())
        return Encoded(b"".join(parts))
    finally:
        discard(client, server)
        gate.leave()
