"""Command handlers, by group; ``dispatch`` runs one command, ``HANDLERS`` has them by full name in lower case."""

from __future__ import annotations

from kvcd.commands import (
    client,
    configuration,
    connection,
    expiry,
    information,
    introspection,
    keyspace,
    numbers,
    objects,
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
    "client",
    "configuration",
    "connection",
    "dispatch",
    "expiry",
    "information",
    "introspection",
    "keyspace",
    "numbers",
    "objects",
    "prefix",
    "shutdown",
    "snapshots",
    "strings",
]
