"""allkeys-prefix through the server: admission of chains, chains told from plain commands, and hit ratios as the simulator gives them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from kvcd.replay_engine import Mode
from kvcd.simulation.simulator import simulate
from kvcd.trace import write_trace
from kvcd.trace_generate import Shape, generate
from tests.servers import Servers

VALUE_BYTES = 40_000


def pairs(name: str, count: int) -> list[str | bytes]:
    """Return keys of a chain and their values."""
    return [word for number in range(count) for word in (f"{name}:{number}", b"b" * VALUE_BYTES)]


def keys(name: str, count: int) -> list[str]:
    return [f"{name}:{number}" for number in range(count)]


def test_a_new_chain_does_not_push_out_what_is_used(servers: Servers) -> None:
    """PREFIX.SET stops at the first block that is worth less than what would go for it, and says so; SET stores whatever comes."""
    with servers.kvcd(pool_size="48mb", maxmemory="16mb") as server, server.connect() as wire:
        assert wire.call("CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"allkeys-prefix"]
        for chain in range(12):
            wire.call("PREFIX.SET", *pairs(f"used{chain}", 20))
        for _ in range(8):
            for chain in range(12):
                found = wire.call("PREFIX.MATCH", *keys(f"used{chain}", 20))
                assert isinstance(found, int)
                if found:
                    wire.call("PREFIX.GET", *keys(f"used{chain}", found))
        wire.call("PREFIX.SET", *pairs("filler", 60))
        stored = wire.call("PREFIX.SET", *pairs("endless", 200))
        assert isinstance(stored, int)
        assert stored < 100
        assert wire.call("PREFIX.MATCH", *keys("endless", 200)) == stored
        assert sum(wire.call("PREFIX.MATCH", *keys(f"used{chain}", 20)) for chain in range(12)) > 150  # type: ignore[misc]
        for number in range(50):
            assert wire.call("SET", f"plain{number}", b"p" * VALUE_BYTES) == b"OK"
            assert wire.call("EXISTS", f"plain{number}") == 1


@pytest.mark.parametrize("mode", [Mode.PREFIX, Mode.PLAIN])
def test_the_simulator_tells_the_servers_hit_ratio(servers: Servers, tmp_path: Path, mode: Mode) -> None:
    """A trace of sessions, played by the replay, beside the simulation at the number of blocks that fitted."""
    requests = list(generate(Shape.CONVERSATION, requests=900, seed=5))
    trace = tmp_path / "trace.jsonl"
    with trace.open("wb") as file:
        write_trace(requests, file)
    report = tmp_path / "report.json"
    with servers.kvcd(pool_size="96mb", maxmemory="40mb") as server:
        command = [
            sys.executable, "-m", "kvcd", "replay", str(trace), "--url", f"redis://127.0.0.1:{server.port}", "--mode", str(mode),
            "--value-size", str(VALUE_BYTES), "--connections", "1", "--json", str(report), "--quiet",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with server.connect() as wire:
            capacity = wire.call("DBSIZE")
    assert isinstance(capacity, int)
    result = orjson.loads(report.read_bytes())["result"]
    assert result["wrong_values"] == 0
    assert (result["refused_blocks"] > 0) is (mode is Mode.PREFIX)
    expected = simulate(requests, policy="allkeys-prefix", capacity=capacity, mode=mode).block_hit_ratio
    assert abs(result["block_hit_ratio"] - expected) < 0.01
