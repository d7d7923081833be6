"""Commands about the connection itself: protocol, login, database."""

from __future__ import annotations

from kvcd import REDIS_VERSION
from kvcd.client_modes import is_subscriber, set_reason
from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer, shown, wrong_arity
from kvcd.commands.keyspace import checked_database
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState, SlowReason
from kvcd.users import DEFAULT_USER
from protocol.replies import OK, Error, Reply, Simple

_WRONG_PASSWORD = "WRONGPASS invalid username-password pair or user is disabled."
_NO_PASSWORD_SET = (
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
)
_HELLO_BEFORE_AUTH = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> "
    "option can be used to authenticate the client and select the RESP protocol version at the same time"
)


def is_printable_name(text: bytes) -> bool:
    """Whether CLIENT LIST can show the text as one word: visible ASCII only."""
    return all(0x21 <= byte <= 0x7E for byte in text)


def checked_name(name: bytes) -> bytes:
    """Return a connection's name that may be set; raises CommandError."""
    if not is_printable_name(name):
        raise CommandError("ERR Client names cannot contain spaces, newlines or special characters.")
    return name


def _log_in(client: ClientState, server: ServerState, args: list[bytes], *, user: bytes, secret: bytes) -> None:
    if not server.access.log_in(client, user, secret, command=args[0]):
        raise CommandError(_WRONG_PASSWORD)


@handles("ping")
async def handle_ping(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PING [message]."""
    if len(args) > 2:
        raise CommandError(wrong_arity("ping"))
    if client.resp == 2 and is_subscriber(client):
        return [b"pong", args[1] if len(args) == 2 else b""]
    return args[1] if len(args) == 2 else Simple("PONG")


@handles("echo")
async def handle_echo(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ECHO message."""
    return args[1]


@handles("quit")
async def handle_quit(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """QUIT."""
    client.close_after_reply = True
    return OK


@handles("auth")
async def handle_auth(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """AUTH [username] password."""
    if len(args) > 3:
        raise CommandError(SYNTAX_ERROR)
    if len(args) == 2 and server.access.is_open:
        raise CommandError(_NO_PASSWORD_SET)
    _log_in(client, server, args, user=DEFAULT_USER if len(args) == 2 else args[1], secret=args[-1])
    return OK


@handles("select")
async def handle_select(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SELECT index."""
    client.db = checked_database(server, args[1])
    return OK


@handles("reset")
async def handle_reset(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """RESET."""
    server.modes.forget(client)
    client.modes, client.replies_off, client.skips_next = None, False, False
    client.slow_reasons &= SlowReason.ACCESS_RULES
    client.db, client.resp, client.name = server.order.place(0), 2, b""
    server.access.log_out(client)
    return Simple("RESET")


@handles("hello")
async def handle_hello(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """HELLO [protover [AUTH username password] [SETNAME clientname]]: the reply is already in the new protocol."""
    resp = client.resp
    if len(args) > 1:
        resp = parse_integer(args[1], "ERR Protocol version is not an integer or out of range")
        if resp not in (2, 3):
            return Error("NOPROTO unsupported protocol version")
    position = 2
    # As in Redis each option takes effect at once, also when a later one is refused; the protocol changes last.
    while position < len(args):
        word = args[position].lower()
        if word == b"auth" and position + 2 < len(args):
            _log_in(client, server, args, user=args[position + 1], secret=args[position + 2])
            position += 3
        elif word == b"setname" and position + 1 < len(args):
            client.name = checked_name(args[position + 1])
            position += 2
        else:
            raise CommandError(f"ERR Syntax error in HELLO option '{shown(args[position])}'")
    if not client.authenticated:
        raise CommandError(_HELLO_BEFORE_AUTH)
    client.resp = resp
    set_reason(client, SlowReason.SUBSCRIBED, resp == 2 and is_subscriber(client))
    return {
        b"server": b"redis",
        b"version": REDIS_VERSION.encode(),
        b"proto": resp,
        b"id": client.id,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }
