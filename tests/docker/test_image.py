"""The image's entry point and files, without Docker; `make docker-test` builds and runs the real thing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from kvcd.config import Config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH whose programs print how they were called."""
    for name in ("kvcd", "redis-server", "redis-cli"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\nprintf "%s" "$(basename "$0")"\nfor word in "$@"; do printf " [%s]" "$word"; done\n')
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], "kvcd [serve]"),
        (["kvcd", "serve", "--port", "7"], "kvcd [serve] [--port] [7]"),
        (["serve"], "kvcd [serve]"),
        (["ping"], "kvcd [ping]"),
        (["--save", "", "--maxmemory", "1gb"], "kvcd [serve] [--save] [] [--maxmemory] [1gb]"),
        (["/etc/redis/redis.conf", "--port", "7"], "kvcd [serve] [/etc/redis/redis.conf] [--port] [7]"),
        (["redis-server", "--save", ""], "redis-server [--save] []"),
        (["redis-server", "/usr/local/etc/redis/redis.conf"], "redis-server [/usr/local/etc/redis/redis.conf]"),
        (["redis-cli", "-h", "redis", "ping"], "redis-cli [-h] [redis] [ping]"),
        (["sh", "-c", "redis-server --port 7"], "redis-server [--port] [7]"),
    ],
)
def test_the_entry_point_takes_what_stacks_give_to_redis(programs: Path, arguments: list[str], called: str) -> None:
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "docker/entrypoint", *arguments], capture_output=True, text=True, timeout=10, check=True, env=environment
    )
    assert done.stdout == called


def image_environment() -> dict[str, str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return dict(word.split("=", 1) for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for word in shlex.split(line))


def test_the_image_opens_all_interfaces_and_leaves_the_last_word_to_everybody_else() -> None:
    config = Config.load([], environment=image_environment())
    assert (config["bind"], config["protected-mode"]) == (("0.0.0.0", "-::"), False)
    assert not config.is_explicit("bind")
    assert Config.load(["--bind", "127.0.0.1"], environment=image_environment())["bind"] == ("127.0.0.1",)


def test_the_image_runs_as_nobody_special_and_is_checked_by_ping() -> None:
    final_stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER kvcd$", final_stage, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*CMD \["kvcd", "ping"\]$', final_stage, re.MULTILINE)
    assert "PIP_" not in final_stage


def test_the_stacks_command_is_one_that_kvcd_takes() -> None:
    command = re.search(r"^    command: (redis-server .*)$", (ROOT / "docker/compose.yaml").read_text(), re.MULTILINE)
    assert command is not None
    words = shlex.split(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", command[1]))
    assert Config.load(words[1:], environment={})["maxmemory"] == 192 * 2**20


def test_what_the_image_copies_is_not_kept_from_the_build() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]}
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
