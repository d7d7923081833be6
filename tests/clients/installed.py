"""Client libraries beside this environment's own: each installed once, into a folder of build/clients."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.programs import cannot_run
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

_missing: dict[str, str] = {}  # what this run tried in vain, and why: no second try for every test


class NotInstalled(Exception):
    """A client is not there and cannot be had; the text says why."""


def python_client(name: str) -> Path:
    """Return the folder to put before all others on Python's path; fails the test, or skips it, where there is none."""
    try:
        return install_python_client(name)
    except NotInstalled as reason:
        cannot_run(str(reason), required_by="REQUIRE_CLIENTS")


def node_clients() -> Path:
    """Return the folder whose node_modules has the Node.js clients; fails the test, or skips it, where there is none."""
    try:
        return install_node_clients()
    except NotInstalled as reason:
        cannot_run(str(reason), required_by="REQUIRE_CLIENTS")


def install_python_client(name: str) -> Path:
    """Return its folder, after installing it if it is not there; raises NotInstalled."""
    requirement = PYTHON_CLIENTS[name]
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "2", requirement, "--target"]
    return _installed(name, requirement, command)


def install_node_clients() -> Path:
    """The same of all Node.js clients; raises NotInstalled."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise NotInstalled(f"the Node.js clients need {program}")
    lock = (NODE_SOURCES / "package-lock.json").read_text()
    # Their install scripts are left out: the clients are JavaScript alone.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--loglevel=error", "--prefix"]
    return _installed("node", lock, command, files=("package.json", "package-lock.json"))


def _installed(name: str, wanted: str, command: list[str], *, files: tuple[str, ...] = ()) -> Path:
    if name in _missing:
        raise NotInstalled(_missing[name])
    try:
        return _install(name, wanted, command, files)
    except NotInstalled as reason:
        _missing[name] = str(reason)
        raise


def _install(name: str, wanted: str, command: list[str], files: tuple[str, ...]) -> Path:
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
        try:
            done = subprocess.run([*command, str(begun)], capture_output=True, text=True, timeout=INSTALL_DEADLINE_S, check=False)
        except subprocess.TimeoutExpired as late:
            raise NotInstalled(f"{name} was not installed within {INSTALL_DEADLINE_S} s") from late
        if done.returncode != 0:
            raise NotInstalled(f"{name} cannot be installed: {done.stderr.strip()[-600:]}")
        (begun / ".wanted").write_text(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        begun.rename(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return folder


def install_all() -> None:
    """Install every client that is not there yet, before the tests begin; what cannot be had is said."""
    for install in (*(partial(install_python_client, name) for name in PYTHON_CLIENTS), install_node_clients):
        try:
            install()
        except NotInstalled as reason:
            print(f"{reason}\nits tests will not run", file=sys.stderr)


if __name__ == "__main__":
    install_all()
