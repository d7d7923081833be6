"""Logs: structured lines, as JSON for machines or in colour for people, at Redis's four levels."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any, cast

import orjson
import structlog

from kvcd.config import Config
from kvcd.directive import ConfigError, Value

DEBUG, VERBOSE, NOTICE, WARNING = 10, 15, 20, 30
LEVELS = {"debug": DEBUG, "verbose": VERBOSE, "notice": NOTICE, "warning": WARNING}

# Below this level nothing is rendered. One number for the process, so that CONFIG SET loglevel reaches every logger.
_least = NOTICE
_file: IO[bytes] | None = None  # the open log file, if there is one

Event = MutableMapping[str, Any]

_SIGNS = {"debug": ".", "verbose": "-", "notice": "*", "warning": "#"}
# As in C's locale, whatever this process's is: tools read these lines.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Logger(structlog.BoundLoggerBase):
    """Logs one line per call: what happened in a few plain words, and the particulars as key=value."""

    def debug(self, event: str, **particulars: object) -> None:
        """Log what only a developer wants to see."""
        if _least <= DEBUG:
            self._proxy_to_logger("debug", event, **particulars)

    def verbose(self, event: str, **particulars: object) -> None:
        """Log what comes with every connection."""
        if _least <= VERBOSE:
            self._proxy_to_logger("verbose", event, **particulars)

    def notice(self, event: str, **particulars: object) -> None:
        """Log what an operator wants to know."""
        if _least <= NOTICE:
            self._proxy_to_logger("notice", event, **particulars)

    def warning(self, event: str, **particulars: object) -> None:
        """Log what an operator must know."""
        self._proxy_to_logger("warning", event, **particulars)

    def exception(self, event: str, **particulars: object) -> None:
        """Log a warning together with the exception that is being handled."""
        self._proxy_to_logger("warning", event, exc_info=True, **particulars)


class LineWriter:
    """Writes rendered lines; every level's method is the same write."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, line: str | bytes) -> None:
        """Write one line and flush it. A log that cannot be written (disk full, reader gone) must not stop the service."""
        encoded = line.encode("utf-8", "backslashreplace") if isinstance(line, str) else line
        try:
            self._stream.write(encoded + b"\n")
            self._stream.flush()
        except OSError:
            return

    debug = verbose = notice = warning = write


class _ForwardHandler(logging.Handler):
    """Takes what libraries log (asyncio above all) into the same stream."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = get_logger(record.name)
        method = logger.warning if record.levelno >= logging.WARNING else logger.debug
        particulars: dict[str, object] = {"exc_info": record.exc_info} if record.exc_info else {}
        method(record.getMessage(), **particulars)


def get_logger(component: str) -> Logger:
    """Return a logger whose lines carry ``component``. Cheap; call it at import."""
    return cast(Logger, structlog.get_logger(component=component))


def configure(config: Config, *, worker: int | None = None) -> None:
    """Send all logs where ``logfile``, ``loglevel`` and ``log-format`` say, and follow CONFIG SET loglevel.

    Every line carries ``worker``, if there is one.

    Raises ConfigError if the log file cannot be opened.
    """
    stream = _open(config.path("logfile"))
    chosen = config.string("log-format")
    for_people = chosen == "console" or (chosen == "auto" and stream.isatty())
    set_level(config["loglevel"])
    config.on_change("loglevel", set_level)
    structlog.configure(
        processors=[
            partial(_stamp, {} if worker is None else {"worker": worker}),
            structlog.processors.dict_tracebacks if not for_people and chosen != "plain" else _unchanged,
            _renderer(chosen, stream, for_people=for_people),
        ],
        wrapper_class=Logger,
        logger_factory=lambda *_: LineWriter(stream),
        # Loggers are made at import, before this runs, and tests configure more than once.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ForwardHandler()], level=logging.DEBUG if _least <= DEBUG else logging.WARNING, force=True)


def _renderer(chosen: str, stream: IO[bytes], *, for_people: bool) -> Callable[[object, str, Event], str | bytes]:
    if chosen == "plain":
        return _render_plain
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=36) if for_people else _render_json


def close() -> None:
    """Close the log file; lines from then on go to standard output."""
    global _file
    structlog.configure(logger_factory=lambda *_: LineWriter(sys.stdout.buffer))
    if _file is not None:
        _file.close()
        _file = None


def _open(path: str) -> IO[bytes]:
    global _file
    if not path:
        return sys.stdout.buffer
    try:
        _file = open(path, "ab", buffering=0)  # noqa: SIM115  open for as long as the process runs
    except OSError as error:
        raise ConfigError(f"logfile {path}: {error.strerror}") from None
    return _file


def set_level(level: Value) -> None:
    """Log from this level (a name of ``LEVELS``) on."""
    global _least
    assert isinstance(level, str)
    _least = LEVELS[level]


def _stamp(always: dict[str, object], _: object, level: str, event: Event) -> Event:
    stamp = {"timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "pid": os.getpid(), **always}
    return {**stamp, "event": event.pop("event"), **event}  # JSON keeps this order: what happened comes before the particulars


def _unchanged(_: object, level: str, event: Event) -> Event:
    return event


def _render_json(_: object, level: str, event: Event) -> bytes:
    return orjson.dumps(event, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _render_plain(_: object, level: str, event: Event) -> str:
    """Return redis-server's line: process, role, time, a sign for the level, what happened; then the particulars."""
    at = datetime.fromisoformat(event.pop("timestamp")).astimezone()
    head = f"{event.pop('pid')}:M {at:%d} {_MONTHS[at.month - 1]} {at:%Y %H:%M:%S}.{at.microsecond // 1000:03}"
    sign, what = _SIGNS[event.pop("level")], event.pop("event")
    trouble = event.pop("exc_info", None)
    particulars = "".join(f" {name}={_word(value)}" for name, value in event.items() if name != "component")
    traceback = "\n" + structlog.processors.ExceptionRenderer()(None, level, {"exc_info": trouble})["exception"] if trouble else ""
    return f"{head} {sign} {what}{particulars}{traceback}"


def _word(value: object) -> str:
    text = value if isinstance(value, str) else _plain(value)
    return repr(text) if " " in text or not text.isprintable() else text


def _plain(value: object) -> str:
    """Return text for what JSON has no form for; bytes (keys, names of clients) as they would be written in code."""
    return value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else repr(value)
