"""Rows of the commands about the connection itself."""

from __future__ import annotations

from protocol.command_spec import CommandSpec

_CONNECTION = ("connection",)
_ALWAYS = ("loading", "stale", "fast")
_BEFORE_AUTH = ("noscript", "loading", "stale", "fast", "no_auth", "allow_busy")
_QUIET = ("noscript", "loading", "stale")
_ADMIN = ("admin", "noscript", "loading", "stale")
_PER_CLIENT = "O(N) for N connections"

_CLIENT = (
    CommandSpec("client|id", 2, _QUIET, "connection", "5.0.0", "Number of this connection.", categories=_CONNECTION),
    CommandSpec("client|setname", 3, _QUIET, "connection", "2.6.9", "Names this connection.", "connection-name", categories=_CONNECTION),
    CommandSpec("client|getname", 2, _QUIET, "connection", "2.6.9", "Name of this connection.", categories=_CONNECTION),
    CommandSpec(
        "client|setinfo",
        4,
        _QUIET,
        "connection",
        "7.2.0",
        "Records which client library this connection uses.",
        "LIB-NAME libname | LIB-VER libver",
        categories=_CONNECTION,
        tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
    ),
    CommandSpec(
        "client|info",
        2,
        _QUIET,
        "connection",
        "6.2.0",
        "Facts about this connection.",
        categories=_CONNECTION,
        tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "client|list",
        -2,
        _ADMIN,
        "connection",
        "2.4.0",
        "Facts about all connections, or some of them.",
        "[TYPE NORMAL | MASTER | REPLICA | PUBSUB] [ID client-id [client-id ...]]",
        _PER_CLIENT,
        categories=_CONNECTION,
        tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "client|kill",
        -3,
        _ADMIN,
        "connection",
        "2.4.0",
        "Closes connections.",
        "ip:port | [ID client-id] [TYPE NORMAL | MASTER | REPLICA | PUBSUB] [USER username] [ADDR ip:port] [LADDR ip:port] [SKIPME yes|no]",
        _PER_CLIENT,
        categories=_CONNECTION,
    ),
    CommandSpec("client|help", 2, ("loading", "stale"), "connection", "5.0.0", "The subcommands of CLIENT.", categories=_CONNECTION),
)

ROWS = (
    CommandSpec(
        "ping",
        -1,
        ("fast",),
        "connection",
        "1.0.0",
        "Answers PONG, or the message.",
        "[message]",
        categories=_CONNECTION,
        tips=("request_policy:all_shards", "response_policy:all_succeeded"),
        lane="fast",
    ),
    CommandSpec("echo", 2, _ALWAYS, "connection", "1.0.0", "Returns the message.", "message", categories=_CONNECTION),
    CommandSpec("quit", -1, _BEFORE_AUTH, "connection", "1.0.0", "Closes the connection after an OK.", categories=_CONNECTION),
    CommandSpec(
        "hello",
        -1,
        _BEFORE_AUTH,
        "connection",
        "6.0.0",
        "Chooses the protocol version, and logs in and names the connection if wanted.",
        "[protover [AUTH username password] [SETNAME clientname]]",
        categories=_CONNECTION,
    ),
    CommandSpec("auth", -2, _BEFORE_AUTH, "connection", "1.0.0", "Logs in.", "[username] password", categories=_CONNECTION),
    CommandSpec("select", 2, _ALWAYS, "connection", "1.0.0", "Chooses the database.", "index", categories=_CONNECTION),
    CommandSpec(
        "reset", 1, _BEFORE_AUTH, "connection", "6.2.0", "Puts the connection back as it was at its start.", categories=_CONNECTION
    ),
    CommandSpec(
        "client",
        -2,
        (),
        "connection",
        "2.4.0",
        "Commands about connections.",
        complexity="as the subcommand",
        subcommands=_CLIENT,
        status="partial",
        note="without CACHING, GETREDIR, NO-EVICT, NO-TOUCH, PAUSE, REPLY, TRACKING, TRACKINGINFO, UNBLOCK, UNPAUSE",
    ),
)
