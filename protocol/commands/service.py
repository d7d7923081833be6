"""Rows of the commands about the server."""

from __future__ import annotations

from protocol.command_spec import CommandSpec

_ALWAYS = ("loading", "stale")
_ADMIN = ("admin", "noscript", "loading", "stale")
_CONNECTION = ("connection",)
_ANY_ORDER = ("nondeterministic_output_order",)
_ALL_SHARDS = ("request_policy:all_shards", "response_policy:all_succeeded")
_PER_NAME = "O(N) for N names"

_COMMAND = (
    CommandSpec("command|count", 2, _ALWAYS, "server", "2.8.13", "How many commands there are.", categories=_CONNECTION),
    CommandSpec(
        "command|docs",
        -2,
        _ALWAYS,
        "server",
        "7.0.0",
        "What commands are for.",
        "[command-name [command-name ...]]",
        _PER_NAME,
        categories=_CONNECTION,
        tips=_ANY_ORDER,
        status="partial",
        note="arguments are given as one line of syntax, not as a tree",
    ),
    CommandSpec(
        "command|info",
        -2,
        _ALWAYS,
        "server",
        "2.8.13",
        "What commands take and touch.",
        "[command-name [command-name ...]]",
        _PER_NAME,
        categories=_CONNECTION,
        tips=_ANY_ORDER,
    ),
    CommandSpec(
        "command|list",
        -2,
        _ALWAYS,
        "server",
        "7.0.0",
        "Names of the commands, or of some of them.",
        "[FILTERBY MODULE module-name | ACLCAT category | PATTERN pattern]",
        "O(N) for N commands",
        categories=_CONNECTION,
        tips=_ANY_ORDER,
    ),
    CommandSpec(
        "command|getkeys",
        -4,
        _ALWAYS,
        "server",
        "2.8.13",
        "The keys in a command line.",
        "command [arg ...]",
        "O(N) for N arguments",
        categories=_CONNECTION,
    ),
    CommandSpec("command|help", 2, _ALWAYS, "server", "5.0.0", "The subcommands of COMMAND.", categories=_CONNECTION),
)

_CONFIG = (
    CommandSpec(
        "config|get", -3, _ADMIN, "server", "2.0.0", "Directives that patterns match.", "parameter [parameter ...]", "O(N) for N directives"
    ),
    CommandSpec(
        "config|set",
        -4,
        _ADMIN,
        "server",
        "2.0.0",
        "Changes directives, all or none.",
        "parameter value [parameter value ...]",
        "O(N) for N directives",
        tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
    ),
    CommandSpec("config|resetstat", 2, _ADMIN, "server", "2.0.0", "Starts the counters of INFO again."),
    CommandSpec("config|help", 2, _ALWAYS, "server", "5.0.0", "The subcommands of CONFIG."),
)

ROWS = (
    CommandSpec(
        "command",
        -1,
        _ALWAYS,
        "server",
        "2.8.13",
        "What all commands take and touch.",
        complexity="O(N) for N commands",
        categories=_CONNECTION,
        tips=_ANY_ORDER,
        subcommands=_COMMAND,
        status="partial",
        note="without GETKEYSANDFLAGS",
    ),
    CommandSpec(
        "info",
        -1,
        _ALWAYS,
        "server",
        "1.0.0",
        "State and counters of the server.",
        "[section [section ...]]",
        categories=("dangerous",),
        tips=("nondeterministic_output", "request_policy:all_shards", "response_policy:special"),
    ),
    CommandSpec(
        "config",
        -2,
        (),
        "server",
        "2.0.0",
        "Commands about the configuration.",
        complexity="as the subcommand",
        subcommands=_CONFIG,
        status="partial",
        note="without REWRITE",
    ),
    CommandSpec(
        "dbsize",
        1,
        ("readonly", "fast"),
        "server",
        "1.0.0",
        "How many keys the database holds.",
        categories=("keyspace",),
        tips=("request_policy:all_shards", "response_policy:agg_sum"),
    ),
    CommandSpec(
        "flushdb",
        -1,
        ("write",),
        "server",
        "1.0.0",
        "Empties the database.",
        "[ASYNC | SYNC]",
        "O(1): what is left is swept in the background",
        categories=("keyspace", "dangerous"),
        tips=_ALL_SHARDS,
    ),
    CommandSpec(
        "flushall",
        -1,
        ("write",),
        "server",
        "1.0.0",
        "Empties all databases.",
        "[ASYNC | SYNC]",
        "O(1): what is left is swept in the background",
        categories=("keyspace", "dangerous"),
        tips=_ALL_SHARDS,
    ),
    CommandSpec(
        "time",
        1,
        ("loading", "stale", "fast"),
        "server",
        "2.6.0",
        "Unix time in seconds, and microseconds of the second.",
        tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "shutdown",
        -1,
        ("admin", "noscript", "loading", "stale", "no_multi", "allow_busy"),
        "server",
        "1.0.0",
        "Stops the server, with all its workers.",
        "[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
        "O(1)",
        status="partial",
        note="SAVE and NOSAVE mean the same: there are no snapshots",
    ),
)
