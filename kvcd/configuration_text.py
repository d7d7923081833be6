"""Configuration text: redis.conf lines, and redis-server's command line, as directives with their origin."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvcd.directive import ConfigError
from kvcd.directives import find

INCLUDE_DEPTH_LIMIT = 16  # a file that includes itself is found out instead of recursing

BLANKS = " \t\n\v\f\r"  # ASCII's only, as in C: a password may hold other ones

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}


@dataclass(frozen=True, slots=True)
class Line:
    """One directive as it was written, and where: ``redis.conf:12``, ``--port``, ``KVCD_CONF_PORT``."""

    name: str
    arguments: tuple[str, ...]
    origin: str


def split_arguments(text: str) -> list[str]:
    r"""Split a line as redis.conf has it: blanks part, "..." takes \n, \xHH and the like, '...' only \'.

    Raises ConfigError on a quote that is not closed, or that something touches.
    """
    arguments: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at] in BLANKS:
            at += 1
        if at >= len(text):
            return arguments
        word: list[str] = []
        while at < len(text) and text[at] not in BLANKS:
            if text[at] in "\"'":
                at = _read_quoted(text, at, word)
            else:
                word.append(text[at])
                at += 1
        arguments.append("".join(word))


def _read_quoted(text: str, start: int, word: list[str]) -> int:
    """Append what the quotes at ``start`` hold to ``word``; return the position behind them."""
    quote = text[start]
    at = start + 1
    while at < len(text):
        if text[at] == quote:
            if at + 1 < len(text) and text[at + 1] not in BLANKS:
                break
            return at + 1
        if text[at] == "\\" and at + 1 < len(text):
            hexadecimal = re.compile("x([0-9a-fA-F]{2})").match(text, at + 1)
            if quote == "'":
                escaped = text[at + 1] == "'"
                word.append("'" if escaped else "\\")
                at += 2 if escaped else 1
            elif hexadecimal:
                word.append(chr(int(hexadecimal[1], 16)))
                at += 4
            else:
                word.append(_ESCAPES.get(text[at + 1], text[at + 1]))
                at += 2
        else:
            word.append(text[at])
            at += 1
    raise ConfigError("Unbalanced quotes in configuration line")


def read_text(text: str, origin: str, depth: int = 0) -> Iterator[Line]:
    """Yield the directives of a file's text, the ones of included files in their place.

    Raises ConfigError, beginning with file and line number.
    """
    for number, raw in enumerate(text.split("\n"), start=1):
        stripped = raw.strip(BLANKS)
        if not stripped or stripped.startswith("#"):
            continue
        where = f"{origin}:{number}"
        try:
            words = split_arguments(stripped)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        if not words or not words[0]:
            continue
        if words[0].lower() == "include":
            if len(words) != 2:
                raise ConfigError(f"{where}: include: wrong number of arguments")
            yield from _read_included(words[1], where, depth + 1)
        else:
            yield Line(words[0], tuple(words[1:]), where)


def read_file(path: str, depth: int = 0) -> Iterator[Line]:
    """Yield the directives of a file. Raises ConfigError if it cannot be read."""
    try:
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(f"can't open config file '{path}': {error.strerror}") from None
    yield from read_text(text, path, depth)


def _read_included(pattern: str, where: str, depth: int) -> Iterator[Line]:
    if depth > INCLUDE_DEPTH_LIMIT:
        raise ConfigError(f"{where}: include: nested more than {INCLUDE_DEPTH_LIMIT} deep")
    # As in Redis, a pattern may match nothing, but a name must be there.
    paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    for path in paths:
        try:
            yield from read_file(path, depth)
        except ConfigError as error:
            raise ConfigError(f"{where}: include: {error}" if str(error).startswith("can't open") else str(error)) from None


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command line taken apart: the file to read first, if any, whether standard input holds more, and the flags."""

    file: str | None
    reads_stdin: bool
    flags: tuple[Line, ...]


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """Take ``[FILE] [-] [--directive value ...] [-]`` apart as redis-server does; ``--directive=value`` works too.

    A value may begin with two dashes unless that makes it the name of a directive. Raises ConfigError.
    """
    rest = list(arguments)
    file = rest.pop(0) if rest and not rest[0].startswith("-") else None
    reads_stdin = False
    if rest and rest[0] == "-":
        reads_stdin = True
        rest.pop(0)
    if rest and rest[-1] == "-":
        reads_stdin = True
        rest.pop()
    flags: list[tuple[str, list[str]]] = []
    for argument in rest:
        is_flag = argument.startswith("--") and len(argument) > 2
        waits_for_value = bool(flags) and not flags[-1][1] and flags[-1][0].lower() != "save"
        name, equals, value = argument[2:].partition("=")
        name, *in_same_argument = name.split(maxsplit=1) or [""]  # "--port 7000", quoted as one
        if is_flag and (not waits_for_value or find(name)):
            if waits_for_value:
                raise ConfigError(f"--{flags[-1][0]} needs a value, but --{name} follows")
            flags.append((name, split_arguments(in_same_argument[0]) if in_same_argument else [value] if equals else []))
        elif not flags:
            hint = f"; did you mean -{argument}?" if argument.startswith("-") and find(argument[1:]) else ""
            raise ConfigError(f"what is {argument!r}? A file comes first, then --directive value ...{hint}")
        else:
            flags[-1][1].append(argument)
    if flags and not flags[-1][1] and flags[-1][0].lower() != "save":
        raise ConfigError(f"--{flags[-1][0]} needs a value")
    # As in Redis, `--save` alone is `--save ""`.
    return CommandLine(file, reads_stdin, tuple(Line(name, tuple(values or [""]), f"--{name}") for name, values in flags))
