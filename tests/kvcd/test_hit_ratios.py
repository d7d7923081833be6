"""Hit ratios of real servers: as the simulator tells them, in both modes, however fast and over however many connections it is asked."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from kvcd.replay_engine import Mode
from kvcd.simulation.simulator import simulate
from kvcd.trace import Request, write_trace
from kvcd.trace_generate import Shape, generate
from tests.servers import Servers

VALUE_BYTES = 2_500  # three kilobytes each with everything
TOLERANCE = 0.01
LONG_CHAIN_BLOCKS = 1_000


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay said, and how many blocks the server held at its end."""

    block_hit_ratio: float
    refused_blocks: int
    blocks_held: int


def replay(
    servers: Servers,
    folder: Path,
    requests: Sequence[Request],
    mode: Mode,
    *,
    memory_mib: int,
    connections: int = 1,
    speed: str = "max",
    workers: int = 1,
) -> Replayed:
    """Play a trace against a fresh server with so much memory; every byte must be right."""
    trace, report = folder / "trace.jsonl", folder / "report.json"
    with trace.open("wb") as file:
        write_trace(requests, file)
    with servers.kvcd(pool_size=f"{max(32, 2 * memory_mib)}mb", maxmemory=f"{memory_mib}mb", workers=workers) as server:
        command = [
            sys.executable, "-m", "kvcd", "replay", str(trace), "--url", f"redis://127.0.0.1:{server.port}", "--mode", str(mode),
            "--value-size", str(VALUE_BYTES), "--connections", str(connections), "--speed", speed, "--json", str(report), "--quiet",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        held = server.call("DBSIZE")
    assert isinstance(held, int)
    result = orjson.loads(report.read_bytes())["result"]
    assert result["wrong_values"] == 0
    return Replayed(result["block_hit_ratio"], result["refused_blocks"], held)


def better_lru(requests: Sequence[Request], capacity: int) -> float:
    """The hit ratio of the better of both exact LRUs."""
    return max(simulate(requests, policy=policy, capacity=capacity, mode=Mode.PLAIN).block_hit_ratio for policy in ("lru", "leaf-lru"))


@pytest.mark.parametrize("mode", list(Mode))
def test_the_simulator_tells_the_servers_hit_ratio(servers: Servers, tmp_path: Path, mode: Mode) -> None:
    requests = list(generate(Shape.CONVERSATION, requests=1_500, seed=5))
    played = replay(servers, tmp_path, requests, mode, memory_mib=3)
    assert (played.refused_blocks > 0) is (mode is Mode.PREFIX)
    expected = simulate(requests, policy="allkeys-prefix", capacity=played.blocks_held, mode=mode)
    assert abs(played.block_hit_ratio - expected.block_hit_ratio) < TOLERANCE


@pytest.mark.parametrize("mode", list(Mode))
def test_a_pool_that_turns_over_in_milliseconds_keeps_what_was_used_lately(servers: Servers, tmp_path: Path, mode: Mode) -> None:
    """A window of chains that moves on: what LRU is made for, in few pages and as fast as it goes."""
    source = random.Random(1)
    chains = [number // 4 + source.randrange(22) for number in range(1_500)]
    requests = [Request(number, 512 * 16, 1, tuple(range(chain * 16, chain * 16 + 16))) for number, chain in enumerate(chains)]
    played = replay(servers, tmp_path, requests, mode, memory_mib=1)
    assert played.block_hit_ratio >= better_lru(requests, played.blocks_held) - TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("shape", list(Shape))
def test_no_load_has_fewer_hits_than_with_lru(servers: Servers, tmp_path: Path, shape: Shape, mode: Mode) -> None:
    # Chance decides between policies on a uniform load: of 1 500 requests by 0.01.
    requests = list(generate(shape, requests=4_000, seed=5))
    for memory_mib in (2, 8):
        played = replay(servers, tmp_path, requests, mode, memory_mib=memory_mib)
        assert played.block_hit_ratio >= better_lru(requests, played.blocks_held) - TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("mode", list(Mode))
def test_speed_connections_and_workers_leave_the_hit_ratio_alone(servers: Servers, tmp_path: Path, mode: Mode) -> None:
    requests = list(generate(Shape.CONVERSATION, requests=3_000, seed=5))
    alone = replay(servers, tmp_path, requests, mode, memory_mib=3).block_hit_ratio
    by_the_clock = replay(servers, tmp_path, requests, mode, memory_mib=3, speed="60x").block_hit_ratio
    assert abs(by_the_clock - alone) < TOLERANCE / 2
    for connections, workers in ((4, 1), (16, 1), (16, 2)):
        shared = replay(servers, tmp_path, requests, mode, memory_mib=3, connections=connections, workers=workers).block_hit_ratio
        assert abs(shared - alone) < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("mode", list(Mode))
def test_chains_nearly_as_long_as_the_cache_keep_their_heads(servers: Servers, tmp_path: Path, mode: Mode) -> None:
    chains = (number * number % 61 for number in range(400))
    requests = [
        Request(number, 512 * LONG_CHAIN_BLOCKS, 1, tuple(range(chain * LONG_CHAIN_BLOCKS, (chain + 1) * LONG_CHAIN_BLOCKS)))
        for number, chain in enumerate(chains)
    ]
    played = replay(servers, tmp_path, requests, mode, memory_mib=8)
    assert played.block_hit_ratio >= simulate(requests, policy="lru", capacity=played.blocks_held, mode=mode).block_hit_ratio - TOLERANCE
