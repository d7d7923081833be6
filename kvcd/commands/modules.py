"""MODULE: there are none, and none can be loaded."""

from __future__ import annotations

from kvcd.commands.arguments import CommandError
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply

_NOT_ALLOWED = (
    'ERR MODULE command not allowed. If the enable-module-command option is set to "local", you can run it from a local connection, '
    "otherwise you need to set this option in the configuration file, and then restart the server."
)


@handles("module|list")
async def handle_module_list(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MODULE LIST."""
    return []


@handles("module|load", "module|loadex", "module|unload")
async def handle_module_load(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MODULE LOAD path, LOADEX path, UNLOAD name: refused, in Redis's words where these hold."""
    raise CommandError(_NOT_ALLOWED if server.config.string("enable-module-command") == "no" else "ERR kvcd loads no modules")
