"""Python clients of other families: hiredis, coredis, valkey-glide with and without asyncio."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.clients.drive import Judge
from tests.clients.installed import python_client


def test_hiredis(judge: Judge) -> None:
    """The reader in C, fed large pieces and seven bytes at a time, in both protocols."""
    told = judge.compare_python("hiredis", "hiredis_drive.py")
    assert told.version == importlib.metadata.version("hiredis")
    assert len(told.lines) > 110


def test_coredis(judge: Judge) -> None:
    """It speaks RESP3 only, knows the type of every reply, and looks at the server's version."""
    told = judge.compare_python("coredis", "coredis_drive.py", client_folder=python_client("coredis"))
    assert told.version.startswith("6.")
    assert len(told.lines) > 80


@pytest.mark.parametrize(("name", "library"), [("valkey-glide", "glide"), ("valkey-glide-sync", "glide_sync")])
def test_valkey_glide(judge: Judge, name: str, library: str) -> None:
    """A core in Rust under Python: batches, reconnecting, channels, both protocols."""
    told = judge.compare_python(name, "valkey_glide.py", library, client_folder=python_client(name))
    assert told.version.startswith("2.")
    assert len(told.lines) > 170
