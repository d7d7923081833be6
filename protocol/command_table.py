"""The command table: every command that is served, and look-up by name."""

from __future__ import annotations

from protocol.command_spec import CommandSpec, CommandStatus, KeySpec, Lane
from protocol.commands import (
    access,
    bitmap,
    cluster,
    connection,
    diagnosis,
    generic,
    prefix,
    pubsub,
    replication,
    service,
    strings,
    transactions,
)

__all__ = ["COMMANDS", "CommandSpec", "CommandStatus", "KeySpec", "Lane", "lookup", "lookup_subcommand"]

COMMANDS: dict[bytes, CommandSpec] = {
    row.name.encode(): row
    for rows in (
        connection.ROWS,
        access.ROWS,
        service.ROWS,
        diagnosis.ROWS,
        replication.ROWS,
        cluster.ROWS,
        generic.ROWS,
        strings.ROWS,
        bitmap.ROWS,
        prefix.ROWS,
        transactions.ROWS,
        pubsub.ROWS,
    )
    for row in rows
}
_SUBCOMMANDS: dict[bytes, dict[bytes, CommandSpec]] = {
    name: {row.short_name.encode(): row for row in spec.subcommands} for name, spec in COMMANDS.items() if spec.subcommands
}


def lookup(name: bytes) -> CommandSpec | None:
    """Return the row of a command in any case of letters, or of a subcommand as ``container|subcommand``; None if unknown."""
    folded = name.lower()
    spec = COMMANDS.get(folded)
    if spec is None and b"|" in folded:
        container, _, short_name = folded.partition(b"|")
        spec = _SUBCOMMANDS.get(container, {}).get(short_name)
    return spec


def lookup_subcommand(container: CommandSpec, short_name: bytes) -> CommandSpec | None:
    """Return the row of a container's subcommand in any case of letters, or None."""
    return _SUBCOMMANDS.get(container.name.encode(), {}).get(short_name.lower())
