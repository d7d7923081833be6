"""Configuration of workers: how many, and how each gets the settings that its service has at the moment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kvcd.config import Config, ConfigError, Origin
from kvcd.directives import BY_NAME
from kvcd.machine import usable_cores


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("256", 256), ("auto", "auto"), ("AUTO", "auto"), ("0", None), ("257", None), ("some", None), ("1.5", None)],
)
def test_workers_is_a_number_or_auto(text: str, value: object) -> None:
    """And auto is the cores that this process may use."""
    if value is None:
        with pytest.raises(ConfigError, match=f"--workers {text}: argument must be"):
            Config.load(["--workers", text], environment={})
    else:
        config = Config.load(["--workers", text], environment={})
        assert config["workers"] == value
        assert config.workers == (usable_cores() if value == "auto" else value)


def test_cores_are_those_that_a_container_pays_for(tmp_path: Path) -> None:
    """A quota of 1.5 processors is two workers; none is what the machine has; one that cannot be read is none."""
    cores = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == cores
    file = tmp_path / "sys/fs/cgroup/cpu.max"
    file.parent.mkdir(parents=True)
    for text, expected in (("max 100000\n", cores), ("50000 100000\n", 1), ("150000 100000\n", min(2, cores)), ("nonsense", cores)):
        file.write_text(text)
        assert usable_cores(tmp_path) == expected


def test_a_configuration_travels_to_another_process() -> None:
    """With every value, of every kind, and where it came from; paths and passwords in any bytes."""
    words = ["--bind", "a b", "--save", "60 1 30 2", "--client-output-buffer-limit", "normal 1 2 3", "--pool-size", "30%", "--logfile"]
    words += ["/tmp/\udcff", "--workers", "auto", "--notify-keyspace-events", "KEA", "--unixsocketperm", "700"]
    words += ["--requirepass", "p\xe4\udc80"]
    config = Config.load(words, environment={})
    config.set_many({"maxmemory": "1gb", "maxmemory-policy": "noeviction"})
    restored = Config.restored(json.loads(json.dumps(config.dump())))
    names = [name for name, directive in BY_NAME.items() if directive.shown]
    assert {name: restored[name] for name in names} == {name: config[name] for name in names}
    assert all(restored.origin(name) is config.origin(name) for name in names)
    assert restored.origin("maxmemory") is Origin.RUN_TIME
    assert Config.restored(Config().dump())["maxmemory-policy"] == "allkeys-prefix"
