"""Logs: one JSON object a line, levels as Redis names them, a log that cannot be written stops nothing."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import structlog

from kvcd import logs
from kvcd.config import Config, ConfigError

log = logs.get_logger("test")  # made at import, before anything is configured, as everywhere in kvcd


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logs.close()
    structlog.reset_defaults()
    logs.set_level("notice")
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def configured(tmp_path: Path, *arguments: str) -> tuple[Config, Path]:
    file = tmp_path / "log"
    config = Config.load(["--logfile", str(file), *arguments], environment={})
    logs.configure(config)
    return config, file


def test_a_line_is_one_json_object_with_what_happened_first(tmp_path: Path) -> None:
    _, file = configured(tmp_path)
    log.notice("pool is full", used_bytes=5, key=b"k\xff", path=Path("/x"))
    (line,) = map(orjson.loads, file.read_bytes().splitlines())
    assert list(line)[:4] == ["timestamp", "level", "pid", "event"]
    assert (line["level"], line["pid"], line["event"], line["component"]) == ("notice", os.getpid(), "pool is full", "test")
    assert (line["used_bytes"], line["key"], line["path"]) == (5, "k\\xff", "PosixPath('/x')")


def test_the_level_filters_and_follows_config_set(tmp_path: Path) -> None:
    config, file = configured(tmp_path, "--loglevel", "warning")

    def log_all() -> list[str]:
        before = len(file.read_bytes())
        log.debug("one")
        log.verbose("two")
        log.notice("three")
        log.warning("four")
        return [orjson.loads(line)["event"] for line in file.read_bytes()[before:].splitlines()]

    assert log_all() == ["four"]
    config.set_many({"loglevel": "verbose"})
    assert log_all() == ["two", "three", "four"]
    config.set_many({"loglevel": "debug"})
    assert log_all() == ["one", "two", "three", "four"]


def test_an_exception_is_one_line_with_its_frames(tmp_path: Path) -> None:
    _, file = configured(tmp_path)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.exception("it went wrong")
    (line,) = map(orjson.loads, file.read_bytes().splitlines())
    assert line["exception"][0]["exc_value"] == "broken"


def test_what_libraries_log_joins_the_stream(tmp_path: Path) -> None:
    _, file = configured(tmp_path)
    logging.getLogger("asyncio").error("socket %s failed", 7)
    (line,) = map(orjson.loads, file.read_bytes().splitlines())
    assert (line["component"], line["event"], line["level"]) == ("asyncio", "socket 7 failed", "warning")


def test_people_get_plain_lines(tmp_path: Path) -> None:
    _, file = configured(tmp_path, "--log-format", "console")
    log.notice("Ready to accept connections", port=7)
    text = file.read_text()
    assert "Ready to accept connections" in text
    assert "port=7" in text
    assert not text.startswith("{")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"logfile .*/no/log: No such file or directory"):
        configured(tmp_path / "no")


def test_a_log_whose_reader_is_gone_stops_nothing() -> None:
    class Gone(io.RawIOBase):
        def write(self, data: object) -> int:
            raise BrokenPipeError

    logs.LineWriter(Gone()).write("lost")
