"""Node.js clients: ioredis and node-redis, two generations each, RESP2 and RESP3."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.clients.drive import Judge
from tests.clients.installed import NODE_SOURCES, node_clients

# Generation by its name in package.json, drive, start of its version, protocols that it speaks.
GENERATIONS = [
    ("ioredis-5", "ioredis.mjs", "5.", (2,)),
    ("ioredis-6", "ioredis.mjs", "6.", (2, 3)),
    ("redis-5", "node_redis.mjs", "5.", (2, 3)),
    ("redis-6", "node_redis.mjs", "6.", (2, 3)),
]
RUNS = [(name, script, version, protocol) for name, script, version, protocols in GENERATIONS for protocol in protocols]


@pytest.mark.parametrize(("name", "script", "version", "protocol"), RUNS, ids=[f"{name}-RESP{protocol}" for name, _, _, protocol in RUNS])
def test_node_client(judge: Judge, name: str, script: str, version: str, protocol: int) -> None:
    """Strings, keys, pipelines, transactions, channels, events, connections that are killed, caching, what the server says of itself."""
    folder = node_clients()
    command = ["node", "--no-deprecation", str(NODE_SOURCES / script), name, str(protocol)]
    label = name.replace("redis-", "node-redis-") if name.startswith("redis") else name
    told = judge.compare(f"{label} (Node.js {node_version()})", command, environment=dict(os.environ), folder=folder)
    assert told.version.startswith(version)
    assert len(told.lines) > 80


def node_version() -> str:
    """Version of the Node.js that runs them."""
    return subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout.strip().removeprefix("v")


def test_lock_file_names_no_registry() -> None:
    """Whoever installs them does so from the registry of their own settings."""
    assert '"resolved"' not in (NODE_SOURCES / "package-lock.json").read_text()
