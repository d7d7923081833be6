"""Command handlers, by group; ``dispatch`` runs one command, ``HANDLERS`` has them by full name in lower case."""

from __future__ import annotations

from kvcd.commands import (
    client,
    client_switches,
    client_tracking,
    configuration,
    connection,
    expiry,
    information,
    introspection,
    keyspace,
    numbers,
    prefix,
    pubsub,
    shutdown,
    snapshots,
    strings,
    transactions,
)
from kvcd.commands.dispatch import dispatch
from kvcd.commands.registry import ANSWERS, HANDLERS

__all__ = [
    "ANSWERS",
    "HANDLERS",
    "client",
    "client_switches",
    "client_tracking",
    "configuration",
    "connection",
    "dispatch",
    "expiry",
    "information",
    "introspection",
    "keyspace",
    "numbers",
    "prefix",
    "pubsub",
    "shutdown",
    "snapshots",
    "strings",
    "transactions",
]
