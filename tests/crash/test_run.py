"""A short crash run: separate servers on one pool file, killed and stopped; nothing is lost, wrong or leaked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.servers import ROOT

DEADLINE_S = 180


@pytest.mark.long
@pytest.mark.parametrize("stop", [False, True])
def test_killed_servers_lose_nothing(tmp_path: Path, stop: bool) -> None:
    figures = tmp_path / "figures.json"
    words = ["--separate", "--workers", "3", "--clients", "4", "--seconds", "15", "--kill-every-ms", "700", "--json", str(figures)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", *words, *(["--stop"] if stop else [])],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = orjson.loads(figures.read_bytes())
    assert found["failures"] == []
    assert found["figures"]["kills"] > 3
    assert found["figures"]["operations"] > 5000
    assert not stop or found["figures"]["stops"] > 0
