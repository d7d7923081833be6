"""Restart and workers benchmarks, short: they run through, find every key again, and write figures that can be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from bench.workers import Shape, family
from tests.programs import require_program
from tests.servers import ROOT

DEADLINE_S = 120


def run(*words: str) -> str:
    """Run a module of the benchmarks and return what it printed; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_every_key_is_there_after_a_kill(tmp_path: Path) -> None:
    require_program("redis-server")
    figures = tmp_path / "figures.json"
    run("bench.restart", "--keys", "2000", "--rounds", "1", "--pool-size", "128mb", "--disk", str(tmp_path), "--json", str(figures))
    restarts = orjson.loads(figures.read_bytes())["restarts"]
    assert len(restarts) == 4
    for name, rounds in restarts.items():
        (one,) = rounds
        assert one["keys_there"] == 2000, name
        assert 0 < one["listening_s"] <= one["hit_s"]


@pytest.mark.long
def test_workers_are_measured_side_by_side(tmp_path: Path) -> None:
    require_program("redis-benchmark")
    figures = tmp_path / "figures.json"
    words = ["--workers", "1", "--depth", "16", "--value-bytes", "64", "--rounds", "1", "--seconds", "0.2", "--json", str(figures)]
    assert "Workers on one pool" in run("bench.workers", *words)
    cases = orjson.loads(figures.read_bytes())["cases"]
    assert [case["command"] for case in cases] == ["GET", "SET"]
    assert all(case["services"]["1"]["processor_us_per_operation"][0] > 0 for case in cases)


def test_a_family_has_all_that_descend_from_a_process() -> None:
    program = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent:
        child = int(parent.stdout.readline())
        assert family(parent.pid) == [parent.pid, child]
        assert child in family(os.getpid())
        parent.stdin.write("\n\n")
    assert family(parent.pid) == [parent.pid]


def test_large_values_have_fewer_keys() -> None:
    assert Shape("GET", 1, 64).keys == 100_000
    assert Shape("SET", 16, 65_536).name == "SET 64 KiB, pipeline 16"
    assert Shape("SET", 16, 65_536).keys * 65_536 < 100e6
