"""HELP subcommands of the containers that Redis has."""

from __future__ import annotations

from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.commands.help_texts import HELP
from protocol.replies import Reply, Simple


def help_lines(container: str) -> Reply:
    """Return the lines of a container's HELP."""
    return [Simple(line) for line in HELP[container]]


@handles(
    "client|help",
    "command|help",
    "config|help",
    "latency|help",
    "memory|help",
    "module|help",
    "object|help",
    "pubsub|help",
    "slowlog|help",
)
async def handle_help(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """HELP of a container."""
    return help_lines(args[0].decode("latin-1").lower())
