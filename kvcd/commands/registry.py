"""Which handler answers which command."""

from __future__ import annotations

from collections.abc import Callable

from kvcd.context import Handler

HANDLERS: dict[bytes, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler under its commands' full names in lower case ("get", "client|id")."""

    def register(handler: Handler) -> Handler:
        for name in names:
            assert name.encode() not in HANDLERS, name
            HANDLERS[name.encode()] = handler
        return handler

    return register
