"""Which handler answers which command, and which function what another worker asks for a command's sake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kvcd.context import Handler, ServerState

HANDLERS: dict[bytes, Handler] = {}

# What another worker's payload asks of this one; plain values both ways (kvcd.channel.Channel).
Answering = Callable[[ServerState, Any], object]
_Answer = TypeVar("_Answer", bound=Answering)
ANSWERS: dict[str, Answering] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler under its commands' full names in lower case ("get", "client|id")."""

    def register(handler: Handler) -> Handler:
        for name in names:
            assert name.encode() not in HANDLERS, name
            HANDLERS[name.encode()] = handler
        return handler

    return register


def answers(topic: str) -> Callable[[_Answer], _Answer]:
    """Register what answers other workers' questions under ``topic``."""

    def register(answering: _Answer) -> _Answer:
        assert topic not in ANSWERS, topic
        ANSWERS[topic] = answering
        return answering

    return register
