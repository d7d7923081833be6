"""Rows of the commands about replication, which this server does not take part in."""

from __future__ import annotations

from protocol.command_spec import CommandSpec

ROWS = (
    CommandSpec(
        "role",
        1,
        ("noscript", "loading", "stale", "fast"),
        "server",
        "2.8.12",
        "Return the role of the instance in the context of replication.",
        categories=("admin", "dangerous"),
    ),
    CommandSpec(
        "replicaof",
        3,
        ("admin", "noscript", "stale", "no_async_loading"),
        "server",
        "5.0.0",
        "Make the server a replica of another instance, or promote it as master.",
        "host port | NO ONE",
        status="partial",
        note="only NO ONE",
    ),
    CommandSpec(
        "slaveof",
        3,
        ("admin", "noscript", "stale", "no_async_loading"),
        "server",
        "1.0.0",
        "Make the server a replica of another instance, or promote it as master.",
        "host port | NO ONE",
        status="partial",
        note="only NO ONE",
    ),
    CommandSpec(
        "failover",
        -1,
        ("admin", "noscript", "stale"),
        "server",
        "6.2.0",
        "Start a coordinated failover between this server and one of its replicas.",
        "[TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]",
    ),
    CommandSpec(
        "psync",
        -3,
        ("admin", "noscript", "no_async_loading", "no_multi"),
        "server",
        "2.8.0",
        "Internal command used for replication.",
        "replicationid offset",
        status="partial",
        note="always refused",
    ),
    CommandSpec(
        "sync",
        1,
        ("admin", "noscript", "no_async_loading", "no_multi"),
        "server",
        "1.0.0",
        "Internal command used for replication.",
        status="partial",
        note="always refused",
    ),
    CommandSpec(
        "replconf",
        -1,
        ("admin", "noscript", "loading", "stale", "allow_busy"),
        "server",
        "3.0.0",
        "An internal command for configuring the replication stream.",
    ),
)
