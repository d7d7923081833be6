"""Commands about Redis Cluster, answered as a redis-server answers them that is in none."""

from __future__ import annotations

from kvcd.commands.arguments import CommandError
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.command_table import COMMANDS
from protocol.replies import Reply

NO_CLUSTER = "ERR This instance has cluster support disabled"


@handles("readonly", "readwrite", "asking", *(subcommand.name for subcommand in COMMANDS[b"cluster"].subcommands))
async def handle_cluster(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLUSTER subcommand, READONLY, READWRITE, ASKING."""
    raise CommandError(NO_CLUSTER)
