"""Runs a drive of a client at kvcd and at redis-server: both must give the same transcript, call by call."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import ServerProcess

DRIVES = Path(__file__).parent / "drives"
DEADLINE_S = 120
CLIENT_VERSIONS = pytest.StashKey[dict[str, str]]()


@dataclass(frozen=True)
class Drive:
    """What one drive told at one server."""

    version: str
    lines: list[str]


@dataclass(frozen=True)
class Judge:
    """The two servers that a drive is run at, and where the versions that ran are kept."""

    kvcd: ServerProcess
    redis: ServerProcess
    versions: dict[str, str]

    def compare_python(self, name: str, script: str, *words: str, client_folder: Path | None = None, without: Sequence[str] = ()) -> Drive:
        """Run a script of drives/ with the libraries of ``client_folder`` first; the port is its last word.

        Lines with a word of ``without`` are not compared.
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        if client_folder is not None:
            environment["PYTHONPATH"] = str(client_folder)
        # Clients of years ago use what newer Pythons warn of; the warnings are theirs.
        command = [sys.executable, "-W", "ignore", str(DRIVES / script), *words]
        return self.compare(name, command, environment=environment, folder=DRIVES, without=without)

    def compare(
        self, name: str, command: Sequence[str], *, environment: dict[str, str], folder: Path, without: Sequence[str] = ()
    ) -> Drive:
        """Run the command with each server's port as its last word; fail unless both transcripts are whole and the same."""
        with ThreadPoolExecutor(2) as threads:
            runs = [
                threads.submit(run, command, server, environment=environment, folder=folder, place=f"at {place}")
                for place, server in (("kvcd", self.kvcd), ("redis-server", self.redis))
            ]
        ours, theirs = (each.result() for each in runs)
        wanted, found = ([line for line in told.lines if not any(word in line for word in without)] for told in (theirs, ours))
        difference = list(difflib.unified_diff(wanted, found, "redis-server", "kvcd", lineterm="", n=0))
        assert not difference, "\n".join(line[:1000] for line in difference[:60])
        assert ours.version == theirs.version
        assert ours.lines, "the drive asked for nothing"
        self.versions[name] = ours.version
        return ours


def run(command: Sequence[str], server: ServerProcess, *, environment: dict[str, str], folder: Path, place: str) -> Drive:
    """Run a drive at a server; fail with all its failures."""
    server.call("FLUSHALL")
    done = subprocess.run(
        [*command, str(server.port)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE_S,
        check=False,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, f"{place}: {done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    told = json.loads(done.stdout.strip().rpartition("\n")[2])
    assert not told["failures"], f"{place}:\n" + "\n".join(told["failures"])
    return Drive(version=told["version"], lines=told["lines"])
