"""Snapshots of a service with several workers: one save for all of them, whoever is asked, and one at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from kvcd.exchange import Message
from kvcd.placement import Placement
from kvcd.service import CHANGES, READY, Service
from tests.kvcd.test_workers import until
from tests.kvcd.worker_servers import WorkerServer, fields_of, start
from tests.servers import Servers
from tests.wire import encode

if TYPE_CHECKING:
    from kvcd.channel import Channel
    from kvcd.context import ServerState

KEYS = 50


def saves_of(server: WorkerServer, worker: int) -> dict[str, str]:
    with server.connect_to(worker) as wire:
        return fields_of(wire, "persistence")


def changes_of(server: WorkerServer, worker: int) -> int:
    return int(saves_of(server, worker)["rdb_changes_since_last_save"])


def fill(server: WorkerServer) -> None:
    """Store something through each worker."""
    for worker in (0, 1):
        with server.connect_to(worker) as wire:
            for number in range(KEYS):
                assert wire.call("SET", f"{worker}:{number}", "x" * (number * 3000), "EX", 1000) == b"OK"


def test_a_save_is_the_whole_services(servers: Servers, tmp_path: Path) -> None:
    """It holds what all workers stored, and each tells of it; one that is started later does too."""
    server = start(servers, dir=str(tmp_path), dbfilename="all.rdb")
    with server.process:
        fill(server)
        for worker in (0, 1):
            until(lambda worker=worker: changes_of(server, worker) == 2 * KEYS, "all changes are known")
        with server.connect_to(0) as wire:
            before = wire.call("LASTSAVE")
            assert wire.call("SAVE") == b"OK"
        until(lambda: saves_of(server, 1)["rdb_saves"] == "1", "the other worker knows of it")
        for worker in (0, 1):
            facts = saves_of(server, worker)
            assert (facts["rdb_bgsave_in_progress"], facts["rdb_last_bgsave_status"]) == ("0", "ok")
            assert int(facts["rdb_changes_since_last_save"]) == 0
            assert int(facts["rdb_last_save_time"]) >= before  # type: ignore[operator]
        pid = server.pid_of(1)
        with server.connect_to(1) as wire:
            wire.call("CONFIG", "SET", "save", "3600 1000000")
        os.kill(pid, signal.SIGKILL)
        server.wait_for_other(1, pid)
        assert saves_of(server, 1)["rdb_saves"] == "1"
        assert (tmp_path / "all.rdb").stat().st_size > KEYS * KEYS * 3000 // 2
        assert server.process.stop() == 0


@pytest.mark.parametrize(
    ("words", "rules", "is_saved"), [(["SAVE"], "", True), (["NOSAVE"], "3600 1", False), ([], "3600 1", True), ([], "", False)]
)
def test_shutdown_saves_what_every_worker_stored(servers: Servers, tmp_path: Path, words: list[str], rules: str, is_saved: bool) -> None:
    """Once, when all clients are gone; as SHUTDOWN says, or else the rules."""
    server = start(servers, dir=str(tmp_path), dbfilename="end.rdb", save=rules)
    with server.process:
        fill(server)
        with server.connect_to(1) as wire:
            wire.send(encode("SHUTDOWN", *words))
            assert server.process.wait() == 0
    assert (tmp_path / "end.rdb").exists() is is_saved
    if is_saved:
        assert server.process.log.count('"event":"snapshot saved"') == 1
        again = start(servers, dir=str(tmp_path), dbfilename="end.rdb")
        with again.process, again.connect_to(0) as wire:
            assert wire.call("DBSIZE") == 2 * KEYS
            assert again.process.stop() == 0


def test_changes_before_the_first_report_count() -> None:
    """Workers begin at the same time: what one has changed before it reports for the first time is not taken for older than the other."""
    handlers: dict[str, Callable[[Message], object]] = {}
    sent: list[tuple[str, object]] = []
    channel = SimpleNamespace(
        is_alone=False,
        on=handlers.__setitem__,
        broadcast=lambda topic, payload: sent.append((topic, payload)),
        tell=lambda _place, topic, payload: sent.append((topic, payload)),
    )
    older, younger = Service(Placement(workers=2)), Service(Placement(place=1, workers=2, start_number=1))
    older.channel = younger.channel = cast("Channel", channel)
    younger.attach(cast("ServerState", None), on_client_count=lambda: None)
    older.ready({})
    assert [topic for topic, _ in sent] == [CHANGES, READY]  # who asks after the second has an answer, who asked before gets the first
    older.tell_changes(37)
    for topic, payload in sent:
        if topic == CHANGES:
            handlers[CHANGES](Message(topic, payload, b"", 0))
    assert younger.changes_elsewhere == 37
