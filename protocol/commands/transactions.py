"""Rows of the commands of transactions."""

from __future__ import annotations

from protocol.command_spec import CommandSpec, KeySpec

_AT_ONCE = ("noscript", "loading", "stale", "fast", "allow_busy")
_TRANSACTION = ("transaction",)

ROWS = (
    CommandSpec("multi", 1, _AT_ONCE, "transactions", "1.2.0", "Begins a transaction.", categories=_TRANSACTION),
    CommandSpec(
        "exec",
        1,
        ("noscript", "loading", "stale", "skip_slowlog"),
        "transactions",
        "1.2.0",
        "Runs what was queued since MULTI; nothing of this worker's other clients runs in between.",
        complexity="as the commands",
        categories=_TRANSACTION,
    ),
    CommandSpec(
        "discard",
        1,
        _AT_ONCE,
        "transactions",
        "2.0.0",
        "Forgets what was queued.",
        complexity="O(N) for N commands",
        categories=_TRANSACTION,
    ),
    CommandSpec(
        "watch",
        -2,
        _AT_ONCE,
        "transactions",
        "2.2.0",
        "Lets EXEC do nothing if one of the keys has changed until then.",
        "key [key ...]",
        "O(N) for N keys",
        keys=(KeySpec(("RO",), last=-1),),
        categories=_TRANSACTION,
    ),
    CommandSpec(
        "unwatch",
        1,
        _AT_ONCE,
        "transactions",
        "2.2.0",
        "Watches nothing any more.",
        complexity="O(N) for N keys",
        categories=_TRANSACTION,
    ),
)
