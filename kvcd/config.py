"""Configuration: the value of every directive, where it came from, and changes at run time."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from kvcd.configuration_text import Line, read_command_line, read_file, read_text, split_arguments
from kvcd.directive import ConfigError, Directive, Kind, OutputLimit, Percent, Standing, Value
from kvcd.directives import BY_NAME, DIRECTIVES, find, nearest_name
from kvcd.machine import available_memory_bytes, usable_cores
from kvcd.portable import portable, restored
from protocol.glob import matches

__all__ = ["Config", "ConfigError", "Origin", "OutputLimit", "Percent", "available_memory_bytes"]

ENVIRONMENT_PREFIX = "KVCD_CONF_"
# An image's or a package's own defaults: below the file, and nobody's explicit choice.
DEFAULT_PREFIX = "KVCD_DEFAULT_"

_SECRET = ("requirepass", "tls-key-file-pass", "user")  # not repeated in messages

HZ_LIMITS = (1, 500)  # as Redis, a rate outside them is taken for the nearer end

Callback = Callable[[Value], object]  # what it returns is nobody's business


class Origin(enum.IntEnum):
    """Where a setting came from; the larger one wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3
    RUN_TIME = 4


class Config:
    """Every directive's value. ``config["maxmemory"]`` is typed as the directive's kind says.

    Made with the defaults; ``Config.load`` is how the service gets its own.
    """

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}
        self._origins: dict[str, Origin] = {}
        self._callbacks: dict[str, list[Callback]] = {}
        self._lines: dict[str, list[tuple[str, ...]]] = {}  # of directives whose every line counts
        self.file = ""  # path of the configuration file, absolute; empty without one
        for directive in DIRECTIVES:
            if directive.shown:
                default = directive.default
                self._values[directive.name] = directive.read(split_arguments(default) if directive.takes_many else [default])
                self._origins[directive.name] = Origin.DEFAULT

    @classmethod
    def load(cls, arguments: Sequence[str] = (), *, environment: Mapping[str, str] | None = None, stdin: TextIO | None = None) -> Config:
        """Return the configuration of a command line ``[FILE] [--directive value ...]`` and the environment.

        A flag beats the environment, the environment beats the file. Raises ConfigError, which names the place and, for
        a name that nobody knows, the nearest one that is known.
        """
        config = cls()
        variables = os.environ if environment is None else environment
        command_line = read_command_line(arguments)
        config._apply(_environment_lines(variables, DEFAULT_PREFIX), Origin.DEFAULT)
        if command_line.file is not None:
            config.file = os.path.abspath(command_line.file)
            config._apply(read_file(command_line.file), Origin.FILE)
        if command_line.reads_stdin:
            config._apply(read_text((stdin or sys.stdin).read(), "standard input"), Origin.FILE)
        config._apply(_environment_lines(variables, ENVIRONMENT_PREFIX), Origin.ENVIRONMENT)
        config._apply(command_line.flags, Origin.FLAG)
        return config

    def __getitem__(self, name: str) -> Value:
        """Return the typed value. Raises KeyError for a name that is no directive."""
        return self._values[BY_NAME[name].name]

    def number(self, name: str) -> int:
        """Return the value of a directive that is an integer, bytes, a percentage or a mode."""
        value = self[name]
        assert type(value) is int, f"{name} is no number"
        return value

    def flag(self, name: str) -> bool:
        """Return the value of a yes/no directive."""
        value = self[name]
        assert isinstance(value, bool), f"{name} is no yes/no"
        return value

    def string(self, name: str) -> str:
        """Return the value of a directive that is a text or a choice."""
        value = self[name]
        assert isinstance(value, str), f"{name} is no text"
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """Return the value of a directive that is a list."""
        value = self[name]
        assert isinstance(value, tuple), f"{name} is no list"
        return tuple(item for item in value if isinstance(item, str))

    def path(self, name: str) -> str:
        """Return the value of a directive that is a path, from `dir` on where somebody set that; empty without one."""
        path = self.string(name)
        return os.path.join(self.text("dir"), path) if path and self._values["dir"] else path

    def lines(self, name: str) -> list[tuple[str, ...]]:
        """Return the arguments of each line of a directive that may have several, in their order."""
        return self._lines.get(name, [])

    def output_limit(self, client_class: str = "normal") -> OutputLimit:
        """Return when a client of that class that does not read is closed."""
        limits = self["client-output-buffer-limit"]
        assert isinstance(limits, dict)
        return limits[client_class]

    @property
    def pool_size_bytes(self) -> int:
        """The pool's size: as given, or the given percentage of what this machine or container has."""
        size = self["pool-size"]
        if isinstance(size, Percent):
            return size.of(available_memory_bytes())
        assert isinstance(size, int)
        return size

    @property
    def planned_pool_bytes(self) -> int:
        """Size of a pool that is made now: what is asked for, and by default never less than an explicit maxmemory needs."""
        size_bytes = self.pool_size_bytes
        wanted_bytes = self.number("maxmemory")
        if not self.is_explicit("pool-size") and wanted_bytes > 0:
            # A sixteenth more: the index, heat and page table come out of the same pool.
            size_bytes = max(size_bytes, wanted_bytes + wanted_bytes // 16)
        return size_bytes

    @property
    def workers(self) -> int:
        """How many processes serve clients."""
        return usable_cores() if self["workers"] == "auto" else self.number("workers")

    def dump(self) -> dict[str, object]:
        """Return everything as plain values, from which ``restored`` makes the same configuration in another process."""
        values = {name: [portable(BY_NAME[name].show(value)), int(self._origins[name])] for name, value in self._values.items()}
        lines = {name: [[portable(word) for word in words] for words in found] for name, found in self._lines.items()}
        return {"file": portable(self.file), "values": values, "lines": lines}

    @classmethod
    def restored(cls, dumped: Mapping[str, Any]) -> Config:
        """Return the configuration that ``dumped`` describes."""
        config = cls()
        config.file = restored(dumped["file"])
        for name, (text, origin) in dumped["values"].items():
            config._values[name] = BY_NAME[name].read([restored(text)])
            config._origins[name] = Origin(origin)
        config._lines = {name: [tuple(map(restored, words)) for words in found] for name, found in dumped["lines"].items()}
        return config

    def text(self, name: str) -> str:
        """Return the value as CONFIG GET shows it."""
        directive = BY_NAME[name]
        if directive.name == "dir":
            return os.path.abspath(directive.show(self._values["dir"]))
        return directive.show(self._values[directive.name])

    def origin(self, name: str) -> Origin:
        """Return where the value came from."""
        return self._origins[BY_NAME[name].name]

    def is_explicit(self, name: str) -> bool:
        """Whether somebody chose the value, be it the default's."""
        return self.origin(name) is not Origin.DEFAULT

    def ignored(self) -> dict[str, list[str]]:
        """Return the directives that somebody set and that mean nothing here, by the reason why."""
        found: dict[str, list[str]] = {}
        for directive in DIRECTIVES:
            is_set = directive.shown and self.is_explicit(directive.name)
            # `appendonly no` asks for nothing, and gets what it asks for.
            if is_set and directive.standing is Standing.IGNORED and not directive.is_met(self[directive.name]):
                found.setdefault(directive.help, []).append(directive.name)
        return found

    def on_ignored_change(self, callback: Callable[[str, str], object]) -> None:
        """Call ``callback`` with name and reason when a change at run time asks for what means nothing here."""

        def watch(directive: Directive) -> None:
            self.on_change(directive.name, lambda value: None if directive.is_met(value) else callback(directive.name, directive.help))

        for directive in DIRECTIVES:
            if directive.shown and directive.standing is Standing.IGNORED:
                watch(directive)

    def matching(self, patterns: Iterable[bytes | str]) -> list[tuple[str, str]]:
        """Return (name, text) of every directive that one of the glob patterns matches, in any case, by name."""
        encoded = [pattern.encode("utf-8", "surrogateescape") if isinstance(pattern, str) else pattern for pattern in patterns]
        return [
            (name, self.text(name))
            for name, directive in sorted(BY_NAME.items())
            if directive.shown and any(matches(pattern, name.encode(), True) for pattern in encoded)
        ]

    def on_change(self, name: str, callback: Callback) -> None:
        """Call ``callback`` with the new value after each change of ``name`` at run time.

        It may refuse the value by raising ConfigError, or OSError from the attempt; then nothing of that CONFIG SET happens.
        """
        self._callbacks.setdefault(BY_NAME[name].name, []).append(callback)

    def set_many(self, changes: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        """Make all changes, or none and raise ConfigError with CONFIG SET's words (without the error code)."""
        pairs = list(changes.items()) if isinstance(changes, Mapping) else list(changes)
        directives = [_changeable(name) for name, _ in pairs]
        values: dict[str, Value] = {}
        for (name, text), directive in zip(pairs, directives, strict=True):
            try:
                if not directive.mutable:
                    raise ConfigError("can't set immutable config")
                if directive.protected and self._values["enable-protected-configs"] == "no":
                    raise ConfigError("can't set protected config")
                if directive.name in values:
                    raise ConfigError("duplicate parameter")
                afresh = directive.kind is Kind.SAVE_POINTS
                values[directive.name] = self._read(directive, _run_time_arguments(directive, text), afresh=afresh)
            except ConfigError as error:
                raise _not_set(name, error) from None
        self._change(values, {directive.name: name for (name, _), directive in zip(pairs, directives, strict=True)})

    def _change(self, values: dict[str, Value], names: dict[str, str]) -> None:
        before = {name: (self._values[name], self._origins[name]) for name in values}
        for name, value in values.items():
            self._values[name], self._origins[name] = value, Origin.RUN_TIME
        told: list[tuple[Callback, Value]] = []
        for name, value in values.items():
            for callback in self._callbacks.get(name, []):
                try:
                    callback(value)
                except (ConfigError, OSError) as error:
                    for changed, (value_before, origin_before) in before.items():
                        self._values[changed], self._origins[changed] = value_before, origin_before
                    for already_told, value_before in reversed(told):
                        already_told(value_before)
                    raise _not_set(names[name], error) from None
                told.append((callback, before[name][0]))

    def _apply(self, lines: Iterable[Line], origin: Origin) -> None:
        """Take the lines of one origin; its first `save` replaces what lesser origins said, further ones add to it."""
        seen: set[str] = set()
        for line in lines:
            directive = find(line.name)
            if directive is None:
                near = nearest_name(line.name)
                raise ConfigError(f"{line.origin}: there is no directive '{line.name}'" + (f"; did you mean '{near}'?" if near else ""))
            afresh = directive.kind is Kind.SAVE_POINTS and directive.name not in seen
            try:
                value = self._read(directive, line.arguments, afresh=afresh)
            except ConfigError as error:
                given = "..." if directive.name in _SECRET else " ".join(argument or '""' for argument in line.arguments)
                where = line.origin if line.origin.startswith("--") else f"{line.origin}: {directive.name}"
                raise ConfigError(f"{where} {given}: {error}") from None
            seen.add(directive.name)
            if directive.repeats:
                words = line.arguments
                self._lines.setdefault(directive.name, []).append(tuple(words[0].split()) if len(words) == 1 else words)
            if directive.shown:
                self._values[directive.name], self._origins[directive.name] = value, origin

    def _read(self, directive: Directive, arguments: Sequence[str], *, afresh: bool) -> Value:
        value = directive.read(arguments, previous=None if afresh else self._values.get(directive.name))
        if directive.name == "hz":
            assert isinstance(value, int)
            return min(max(value, HZ_LIMITS[0]), HZ_LIMITS[1])
        return value


def _changeable(name: str) -> Directive:
    directive = find(name)
    if directive is None or not directive.shown:
        raise ConfigError(f"Unknown option or number of arguments for CONFIG SET - '{name}'")
    return directive


def _not_set(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"CONFIG SET failed (possibly related to argument '{name}') - {error}")


def _run_time_arguments(directive: Directive, text: str) -> list[str]:
    # CONFIG SET parts a list at single blanks and knows no quotes.
    return text.split() or [""] if directive.takes_many else [text]


def _environment_lines(environment: Mapping[str, str], prefix: str) -> Iterable[Line]:
    """Yield <prefix><NAME> as directives: dashes are underscores, and several arguments are written as in a file."""
    by_variable = {name.replace("-", "_").upper(): directive for name, directive in BY_NAME.items()}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(prefix):
            continue
        rest = variable.removeprefix(prefix)
        directive = by_variable.get(rest.upper())
        if directive is None:
            near = nearest_name(rest)
            hint = f"; did you mean {prefix}{near.replace('-', '_').upper()}?" if near else ""
            raise ConfigError(f"{variable}: there is no directive '{rest.lower().replace('_', '-')}'{hint}")
        yield Line(directive.name, tuple(split_arguments(text) or [""]) if directive.takes_many else (text,), variable)
