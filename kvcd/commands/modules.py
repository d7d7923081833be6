"""MODULE: there are none, and none can be loaded."""

from __future__ import annotations

from kvcd.commands.arguments import CommandError
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply


@handles("module|list")
async def handle_module_list(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MODULE LIST."""
    return []


@handles("module|load", "module|loadex", "module|unload")
async def handle_module_load(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MODULE LOAD path, LOADEX path, UNLOAD name: refused, even where `enable-module-command` would allow it."""
    raise CommandError("ERR kvcd loads no modules")
