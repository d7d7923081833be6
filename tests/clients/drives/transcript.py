"""Transcript of a drive: every call of a client and what came of it, to be the same at kvcd and at redis-server."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

DEADLINE_S = 20
LINE_LIMIT = 1500  # longer results are written down as their beginning and their digest


def written(value: object) -> str:
    """A value as text that is equal for equal values."""
    text = repr(_ordered(value))
    if len(text) > LINE_LIMIT:
        return f"{text[:200]} ... {len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return text


def _ordered(value: Any) -> Any:
    """The same with every set within as a list in order, for sets of strings are shown in another order by every process."""
    if isinstance(value, dict):
        return {key: _ordered(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_ordered(part) for part in value)
    if isinstance(value, set | frozenset):
        return sorted((_ordered(part) for part in value), key=repr)
    return value


class Transcript:
    """Calls and results in order. An error that the drive did not ask for fails the drive; so does one that does not come."""

    def __init__(self, errors: type[BaseException] | tuple[type[BaseException], ...]) -> None:
        """``errors`` are the client's own for what a server refuses."""
        self.errors = errors
        self.lines: list[str] = []
        self.failures: list[str] = []
        self.title = ""

    def note(self, label: str, value: object) -> None:
        """Write down a value under a name."""
        # The port is the last word of every drive's command line; errors name it.
        self.lines.append(f"{self.title} {label} -> {written(value)}".replace(f":{sys.argv[-1]}", ":PORT"))

    def ask(self, call: Callable[..., Any], *given: object, **named: object) -> Any:
        """Call, write down the result and return it."""
        result = call(*given, **named)
        self.note(_label(call, given, named), result)
        return result

    def ask_for(self, shape: Callable[[Any], object], call: Callable[..., Any], *given: object, **named: object) -> Any:
        """Call, write down what ``shape`` keeps of the result (the rest may differ from server to server), and return all of it."""
        result = call(*given, **named)
        self.note(_label(call, given, named), shape(result))
        return result

    def refused(self, call: Callable[..., Any], *given: object, **named: object) -> None:
        """Call, and write down the error, which must be one of the client's for what a server refuses."""
        try:
            result = call(*given, **named)
        except self.errors as error:
            self.note(_label(call, given, named), _said(error))
        else:
            raise AssertionError(f"{_label(call, given, named)} gave {result!r}, wanted an error")

    async def wait(self, call: Callable[..., Awaitable[Any]], *given: object, **named: object) -> Any:
        """The same as ask() for what is awaited."""
        result = await call(*given, **named)
        self.note(_label(call, given, named), result)
        return result

    async def wait_for(self, shape: Callable[[Any], object], call: Callable[..., Awaitable[Any]], *given: object, **named: object) -> Any:
        """The same as ask_for() for what is awaited."""
        result = await call(*given, **named)
        self.note(_label(call, given, named), shape(result))
        return result

    async def wait_refused(self, call: Callable[..., Awaitable[Any]], *given: object, **named: object) -> None:
        """The same as refused() for what is awaited."""
        try:
            result = await call(*given, **named)
        except self.errors as error:
            self.note(_label(call, given, named), _said(error))
        else:
            raise AssertionError(f"{_label(call, given, named)} gave {result!r}, wanted an error")

    def run(self, part: Callable[[Any], None], drive: Any, *, title: str) -> None:
        """Run one part; its failure is kept, and the next part runs nevertheless."""
        self.title = title
        try:
            part(drive)
        except Exception:  # noqa: BLE001  whatever a client raises is its own: all of it is a failed part, and told
            self.fail()

    async def run_async(self, part: Callable[[Any], Awaitable[None]], drive: Any, *, title: str) -> None:
        """Run one part that is awaited."""
        self.title = title
        try:
            await part(drive)
        except Exception:  # noqa: BLE001  the same
            self.fail()

    def fail(self) -> None:
        """Keep the failure that is being handled."""
        self.failures.append(f"{self.title}\n{traceback.format_exc(limit=-5)}")

    def finish(self, version: str) -> None:
        """Print everything for the test that started the drive; the last word of this process."""
        json.dump({"version": version, "lines": self.lines, "failures": self.failures}, sys.stdout)
        print(flush=True)


def _label(call: Callable[..., object], given: tuple[object, ...], named: dict[str, object]) -> str:
    words = [_word(value) for value in given] + [f"{name}={_word(value)}" for name, value in named.items()]
    return f"{getattr(call, '__name__', 'call')}({', '.join(words)})"


def _said(error: BaseException) -> str:
    # Whether a closed connection is seen as closed or as reset is a matter of time.
    name = type(error).__name__
    return name if isinstance(error, OSError) or "Connection" in name else f"{name}: {error}"


def _word(value: object) -> str:
    return value.__name__ if hasattr(value, "__name__") else written(value)[:60]


def eventually(look: Callable[[], Any], *, wanted: Callable[[Any], bool] = bool) -> Any:
    """Ask until the answer is the wanted one; fail when the deadline passes."""
    ends = time.monotonic() + DEADLINE_S
    while not wanted(answer := look()):
        if time.monotonic() > ends:
            raise AssertionError(f"the last answer in {DEADLINE_S} s was {answer!r}")
    return answer


async def eventually_true(look: Callable[[], Awaitable[object]]) -> None:
    """The same for what is awaited; each look is a round trip."""
    ends = time.monotonic() + DEADLINE_S
    while not await look():
        if time.monotonic() > ends:
            raise AssertionError(f"not so in {DEADLINE_S} s")


def in_order(fields: dict[str, object]) -> list[tuple[str, object]]:
    """Names and values by name, where the order belongs to the server."""
    return sorted(fields.items())


def keys_of(fields: dict[str, object]) -> list[str]:
    """The names alone, where values belong to the server."""
    return sorted(fields)


def kind_of(value: object) -> str:
    """The type alone, where the value belongs to the server."""
    return type(value).__name__

