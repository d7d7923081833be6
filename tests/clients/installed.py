"""Client libraries beside this environment's own: each installed once, into a folder of build/clients."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.programs import cannot_run, require_program
from tests.servers import ROOT

FOLDER = ROOT / "build" / "clients"
NODE_SOURCES = ROOT / "tests" / "clients" / "node"
INSTALL_DEADLINE_S = 300
# Folder and requirement. The newest redis-py and hiredis are this environment's own (pyproject.toml).
PYTHON_CLIENTS = {
    "redis-py-5": "redis>=5.2,<6",
    "redis-py-6": "redis>=6,<7",
    "valkey-py": "valkey[libvalkey]>=6,<7",
    "valkey-glide": "valkey-glide>=2,<3",
    "valkey-glide-sync": "valkey-glide-sync>=2,<3",
    "coredis": "coredis>=6,<7",
}


def python_client(name: str) -> Path:
    """Return the folder to put before all others on Python's path; fail or skip where no index can be reached."""
    requirement = PYTHON_CLIENTS[name]
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", requirement, "--target"]
    return _installed(name, requirement, command)


def node_clients() -> Path:
    """Return the folder whose node_modules has the Node.js clients; fail or skip where no registry can be reached."""
    require_program("node")
    require_program("npm")
    lock = (NODE_SOURCES / "package-lock.json").read_text()
    # Their install scripts are left out: the clients are JavaScript alone.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", "--prefix"]
    return _installed("node", lock, command, files=("package.json", "package-lock.json"))


def _installed(name: str, wanted: str, command: list[str], *, files: tuple[str, ...] = ()) -> Path:
    folder = FOLDER / name
    mark = folder / ".wanted"
    if mark.is_file() and mark.read_text() == wanted:
        return folder
    # Beside its place and then moved there: what an interrupted run left is not taken for whole.
    begun = FOLDER / f"{name}.{os.getpid()}"
    begun.mkdir(parents=True)
    try:
        for file in files:
            shutil.copy(NODE_SOURCES / file, begun)
        done = subprocess.run([*command, str(begun)], capture_output=True, text=True, timeout=INSTALL_DEADLINE_S, check=False)
        if done.returncode != 0:
            cannot_run(f"{name} cannot be installed: {done.stderr.strip()[-600:]}", required_by="REQUIRE_CLIENTS")
        (begun / ".wanted").write_text(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        begun.rename(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return folder


def install_all() -> None:
    """Install every client that is not there yet, so that the tests need not: `python -m tests.clients.installed`."""
    for name in PYTHON_CLIENTS:
        python_client(name)
    node_clients()


if __name__ == "__main__":
    install_all()
