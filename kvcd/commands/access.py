"""ACL: users, their rules, and what was refused to them."""

from __future__ import annotations

import secrets

from kvcd import logs
from kvcd.access_file import read_file, save_file
from kvcd.access_rules import Denial, Selector, has_spaces
from kvcd.commands.arguments import CommandError, parse_integer, shown, wrong_arity
from kvcd.commands.registry import answers, handles
from kvcd.config import ConfigError
from kvcd.context import ClientState, ServerState
from kvcd.users import DEFAULT_USER, Payload, RefusedRuleError, UnmatchedParenthesisError, User, merge_selectors
from protocol.access_table import CATEGORIES, members
from protocol.command_table import lookup, lookup_subcommand
from protocol.replies import OK, Members, Reply, Simple

_NO_FILE = (
    "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then "
    "issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration."
)
_PASSWORD_BITS_LIMIT = 4096
_LOG_LINES = 10
_LOG, _CLEAR_LOG = "access log", "clear access log"  # topics between workers

_HELP = """\
ACL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:
CAT [<category>]
    List all commands that belong to <category>, or all command categories
    when no category is specified.
DELUSER <username> [<username> ...]
    Delete a list of users.
DRYRUN <username> <command> [<arg> ...]
    Returns whether the user can execute the given command without executing the command.
GETUSER <username>
    Get the user's details.
GENPASS [<bits>]
    Generate a secure 256-bit user password. The optional `bits` argument can
    be used to specify a different size.
LIST
    Show users details in config file format.
LOAD
    Reload users from the ACL file.
LOG [<count> | RESET]
    Show the ACL log entries.
SAVE
    Save the current config to the ACL file.
SETUSER <username> <attribute> [<attribute> ...]
    Create or modify a user with the specified attributes.
USERS
    List all the registered usernames.
WHOAMI
    Return the current connection username.
HELP
    Prints this help."""

_log = logs.get_logger("access")


@handles("acl|setuser")
async def handle_acl_setuser(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL SETUSER username [rule [rule ...]]: all rules or none."""
    name = args[2]
    if has_spaces(name):
        raise CommandError("ERR Usernames can't contain spaces or null characters")
    try:
        user = server.access.users.changed(name, merge_selectors(args[3:]))
    except UnmatchedParenthesisError as error:
        raise CommandError(f"ERR Unmatched parenthesis in acl selector starting at '{error}'.") from None
    except RefusedRuleError as error:
        raise CommandError(f"ERR Error in ACL SETUSER modifier '{shown(error.rule)}': {error}") from None
    await server.service.change_users(server, {_text(name): user.dump()}, asking=client)
    return OK


@handles("acl|deluser")
async def handle_acl_deluser(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL DELUSER username [username ...]: how many there were."""
    names = set(args[2:])
    if DEFAULT_USER in names:
        raise CommandError("ERR The 'default' user cannot be removed")
    found = [name for name in names if server.access.users.get(name) is not None]
    if found:
        await server.service.change_users(server, {_text(name): None for name in found}, asking=client)
    return len(found)


@handles("acl|getuser")
async def handle_acl_getuser(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL GETUSER username."""
    user = server.access.users.get(args[2])
    if user is None:
        return None
    return {
        b"flags": _flags(user),
        b"passwords": list(user.password_hashes),
        **_describe(user.selectors[0]),
        b"selectors": [_describe(selector) for selector in user.selectors[1:]],
    }


def _describe(selector: Selector) -> dict[object, object]:
    return {
        b"commands": selector.describe_commands(),
        b"keys": selector.describe_keys(),
        b"channels": selector.describe_channels(),
    }


@handles("acl|list")
async def handle_acl_list(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL LIST."""
    return [b"user " + name + b" " + user.describe() for name, user in server.access.users]


@handles("acl|users")
async def handle_acl_users(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL USERS."""
    return [name for name, _user in server.access.users]


@handles("acl|whoami")
async def handle_acl_whoami(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL WHOAMI."""
    return client.user


@handles("acl|cat")
async def handle_acl_cat(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL CAT [category]."""
    if len(args) > 3:
        raise _wrong_form(args)
    if len(args) == 2:
        return [category.encode() for category in CATEGORIES]
    category = _text(args[2]).lower()
    if category not in CATEGORIES:
        raise CommandError(f"ERR Unknown category '{shown(args[2][:128])}'")
    return [name.encode() for name in members(category)]


@handles("acl|genpass")
async def handle_acl_genpass(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL GENPASS [bits]: hexadecimal digits, each of four bits."""
    if len(args) > 3:
        raise _wrong_form(args)
    bits = parse_integer(args[2]) if len(args) == 3 else 256
    if not 0 < bits <= _PASSWORD_BITS_LIMIT:
        raise CommandError(
            f"ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to {_PASSWORD_BITS_LIMIT}"
        )
    digits = (bits + 3) // 4
    return secrets.token_hex((digits + 1) // 2)[:digits].encode()


@handles("acl|dryrun")
async def handle_acl_dryrun(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL DRYRUN username command [arg ...]: OK, or why not."""
    user = server.access.users.get(args[2])
    if user is None:
        raise CommandError(f"ERR User '{shown(args[2])}' not found")
    line = [server.names.known_as(args[3]), *args[4:]]
    spec = lookup(line[0]) if b"|" not in line[0] else None
    if spec is not None and spec.subcommands and len(line) > 1:
        spec = lookup_subcommand(spec, line[1])
    if spec is None:
        raise CommandError(f"ERR Command '{shown(args[3])}' not found")
    if not spec.accepts(len(line)):
        raise CommandError(wrong_arity(spec.name))
    denied = user.check(spec, line)
    if denied is None:
        return OK
    reason, position = denied
    if reason is Denial.COMMAND:
        return f"This user has no permissions to run the '{spec.name}' command".encode()
    what = b"key" if reason is Denial.KEY else b"channel"
    return b"This user has no permissions to access the '" + line[position] + b"' " + what


@handles("acl|save")
async def handle_acl_save(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL SAVE."""
    if not server.config.string("aclfile"):
        raise CommandError(_NO_FILE)
    try:
        save_file(server.config, server.access.users)
    except OSError as error:
        _log.warning("the ACL file could not be written", file=server.config.string("aclfile"), reason=error.strerror)
        raise CommandError("ERR There was an error trying to save the ACLs. Please check the server logs for more information") from None
    return OK


@handles("acl|load")
async def handle_acl_load(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL LOAD: all users of the file and no others, or none of it."""
    if not server.config.string("aclfile"):
        raise CommandError(_NO_FILE)
    users = server.access.users
    try:
        found = read_file(server.config, users)
    except ConfigError as error:
        raise CommandError(f"ERR {error}") from None
    # All users are new ones, as in Redis 7.0: clients of the old ones are closed, whether their user is there again or not.
    await server.service.change_users(server, {_text(name): None for name, _user in users if name != DEFAULT_USER}, asking=client)
    await server.service.change_users(server, {_text(name): user.dump() for name, user in found.items()}, asking=client)
    return OK


@handles("acl|log")
async def handle_acl_log(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL LOG [count | RESET]: of all workers together."""
    if len(args) > 3:
        raise _wrong_form(args)
    count = _LOG_LINES
    if len(args) == 3:
        if args[2].lower() == b"reset":
            server.access.log.clear()
            await server.service.channel.ask_all(_CLEAR_LOG)
            return OK
        count = max(parse_integer(args[2]), 0)
    others = [answer.payload for answer in await server.service.channel.ask_all(_LOG)]
    now_ms = server.now_ms()
    return [
        {
            b"count": entry.count,
            b"reason": entry.reason.encode(),
            b"context": entry.context.encode(),
            b"object": entry.object.encode("latin-1"),
            b"username": entry.username.encode("latin-1"),
            b"age-seconds": max(now_ms - entry.updated_at_ms, 0) / 1000,
            b"client-info": entry.client_info.encode("latin-1"),
            b"entry-id": entry.number,
            b"timestamp-created": entry.created_at_ms,
            b"timestamp-last-updated": entry.updated_at_ms,
        }
        for entry in server.access.log.with_others(others)[:count]
    ]


@answers(_LOG)
def log_entries(server: ServerState, _payload: object) -> list[dict[str, object]]:
    """Return this worker's entries."""
    return server.access.log.plain()


@answers(_CLEAR_LOG)
def clear_log(server: ServerState, _payload: object) -> bool:
    """Forget this worker's entries."""
    server.access.log.clear()
    return True


@handles("acl|help")
async def handle_acl_help(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ACL HELP."""
    return [Simple(line) for line in _HELP.splitlines()]


def _flags(user: User) -> Members:
    words = [b"on" if user.enabled else b"off"]
    words += [b"nopass"] if user.any_password else []
    words += [user.payload.value] if user.payload is not Payload.UNSAID else []
    return Members(tuple(words))


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _wrong_form(args: list[bytes]) -> CommandError:
    return CommandError(f"ERR unknown subcommand or wrong number of arguments for '{shown(args[1][:128])}'. Try ACL HELP.")
