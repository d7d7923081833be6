"""Protected commands: those that a directive must allow before anything else is looked at, a login included."""

from __future__ import annotations

from kvcd.commands.arguments import CommandError
from kvcd.context import ClientState, ServerState

# Command -> the name that Redis's refusal gives it, and the directive; both hold "no", "yes" or "local".
_DIRECTIVES = {
    "debug": ("DEBUG", "enable-debug-command"),
    "module|load": ("MODULE", "enable-module-command"),
    "module|loadex": ("MODULE", "enable-module-command"),
    "module|unload": ("MODULE", "enable-module-command"),
}
_OF_THIS_MACHINE = ("127.", "[::1]", "/", "[::ffff:127.")


def refuse_protected(client: ClientState, server: ServerState, full_name: str) -> None:
    """Raise CommandError where the command's directive does not let this client use it; "local": from this machine only."""
    protection = _DIRECTIVES.get(full_name)
    if protection is None:
        return
    name, directive = protection
    allowed = server.config.string(directive)
    if allowed == "no" or (allowed == "local" and not client.address.startswith(_OF_THIS_MACHINE)):
        raise CommandError(
            f'ERR {name} command not allowed. If the {directive} option is set to "local", you can run it from a local connection, '
            "otherwise you need to set this option in the configuration file, and then restart the server."
        )
