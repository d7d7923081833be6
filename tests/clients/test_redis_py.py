"""redis-py of every generation in use, and valkey-py: synchronous and asynchronous, RESP2 and RESP3, both readers of replies."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.drive import Judge
from tests.clients.installed import python_client
from tests.kvcd.worker_servers import start
from tests.servers import ServerProcess, Servers

# Name, library to import, start of its version; without a folder of its own it is this environment's.
GENERATIONS = [
    ("redis-py-5", "redis", "5."),
    ("redis-py-6", "redis", "6."),
    ("redis-py-newest", "redis", importlib.metadata.version("redis")),
    ("valkey-py", "valkey", "6."),
]
generations = pytest.mark.parametrize(("name", "library", "version"), GENERATIONS, ids=[name for name, *_ in GENERATIONS])


def folder_of(name: str) -> Path | None:
    """Where the generation is; None for this environment's own."""
    return None if name == "redis-py-newest" else python_client(name)


@generations
@pytest.mark.parametrize("reader", ["plain", "compiled"])
def test_synchronous(judge: Judge, name: str, library: str, version: str, reader: str) -> None:
    """Data, pipelines, transactions, channels, MONITOR, locks, caching, and all that it asks about the server."""
    told = judge.compare_python(name, "redis_py.py", library, reader, client_folder=folder_of(name))
    assert told.version.startswith(version)
    assert len(told.lines) > 550


@pytest.fixture(scope="module")
def two_workers(servers: Servers) -> ServerProcess:
    """A kvcd of two workers of this module's own, for the drive changes settings."""
    return start(servers, pool_size="256mb", maxmemory_policy="noeviction").process


@pytest.mark.parametrize("script", ["redis_py.py", "redis_py_asyncio.py"])
def test_with_several_workers(judge: Judge, two_workers: ServerProcess, script: str) -> None:
    """The same whichever worker a connection is at: messages, CLIENT LIST and KILL, ACL, CONFIG SET, caching, MONITOR.

    Not compared: SWAPDB, which is refused there, and DBSIZE, whose sum over workers tests/kvcd/test_workers.py looks at.
    """
    words = ["redis", "compiled"] if script == "redis_py.py" else ["redis"]
    told = replace(judge, kvcd=two_workers).compare_python("redis-py-newest", script, *words, without=(" swaps ", " dbsize() "))
    assert len(told.lines) > 80


@generations
def test_asynchronous(judge: Judge, name: str, library: str, version: str) -> None:
    """Many commands at once on one event loop, pipelines, transactions, channels, blocking pools."""
    told = judge.compare_python(name, "redis_py_asyncio.py", library, client_folder=folder_of(name))
    assert told.version.startswith(version)
    assert len(told.lines) > 80
