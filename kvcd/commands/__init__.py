"""Command handlers, by group; ``dispatch`` runs one command, ``HANDLERS`` has them by full name in lower case."""

from __future__ import annotations

from kvcd.commands import (
    access,
    client,
    configuration,
    connection,
    expiry,
    information,
    introspection,
    keyspace,
    numbers,
    prefix,
    shutdown,
    snapshots,
    strings,
)
from kvcd.commands.dispatch import dispatch
from kvcd.commands.registry import ANSWERS, HANDLERS

__all__ = [
    "ANSWERS",
    "HANDLERS",
    "access",
    "client",
    "configuration",
    "connection",
    "dispatch",
    "expiry",
    "information",
    "introspection",
    "keyspace",
    "numbers",
    "prefix",
    "shutdown",
    "snapshots",
    "strings",
]
