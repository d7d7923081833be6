"""Snapshots of a running service: redis-server is the judge both ways, and nothing is lost, torn or half loaded."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcd.config import Config
from kvcd.logs import get_logger
from kvcd.persistence import MISCONF, Persistence, SaveRefused
from kvcd.save_lock import take_save_lock
from protocol.rdb_decoder import RdbDecoder, RdbEntry
from tests.programs import require_program
from tests.servers import ROOT, ServerProcess, Servers
from tests.wire import ReplyError, encode

DEADLINE_S = 30.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something has happened."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"in vain: {what}"
        threading.Event().wait(0.01)


def contents(server: ServerProcess, databases: int = 16) -> dict[tuple[int, bytes], tuple[object, object]]:
    """Return every key of a server: value and absolute expiry in milliseconds, -1 without."""
    found: dict[tuple[int, bytes], tuple[object, object]] = {}
    with server.connect() as wire:
        for database in range(databases):
            wire.call("SELECT", database)
            keys = wire.call("KEYS", "*")
            assert isinstance(keys, list)
            for key in keys:
                found[database, key] = (wire.call("GET", key), wire.call("PEXPIRETIME", key))
    return found


def in_file(path: Path) -> dict[bytes, bytes]:
    """Return keys and values of a snapshot, as the decoder sees them, from all databases."""
    decoder = RdbDecoder()
    found: dict[bytes, bytes] = {}
    key = b""
    for item in decoder.feed(path.read_bytes()):
        if isinstance(item, RdbEntry):
            key = item.key
            assert key not in found, f"{key!r} is there twice: redis-server panics at that"
            found[key] = b"" if item.value is None else item.value
        else:
            found[key] += item
    decoder.finish()
    return found


def fill(server: ServerProcess) -> None:
    """Keys of every kind in three databases: all sizes, expiries, chains, numbers, what packs well and what does not."""
    noise = random.Random(5)
    with server.connect() as wire:
        for database in (0, 3, 15):
            wire.call("SELECT", database)
            for number, size in enumerate((0, 1, 63, 64, 500, 16_383, 16_384, 32_700, 65_536, 70_000, 1_000_000)):
                wire.call("SET", b"noise:%d" % size, noise.randbytes(size))
                wire.call("SET", b"same:%d" % size, b"abc" * (size // 3), "PX", 3_600_000 + number)
            for number in (0, -1, 127, 128, -32769, 70_000, 2**31 - 1, -(2**31), 2**40):
                wire.call("SET", f"number:{number}", str(number))
            wire.call("MSET", *[word for number in range(2000) for word in (b"key:%d" % number, b"value of %d" % number)])
            wire.call("SET", b"\x00\r\n\xff" * 50, b"odd key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for snapshots."""
    return tmp_path


@contextlib.contextmanager
def started(server: ServerProcess) -> Iterator[ServerProcess]:
    """Keep a server for as long as the block runs."""
    with server:
        yield server


def test_redis_server_loads_what_kvcd_saved(servers: Servers, folder: Path) -> None:
    require_program("redis-server")
    with servers.kvcd(dir=str(folder), pool_size="128mb") as server:
        fill(server)
        expected = contents(server)
        before_s = int(time.time())
        assert server.call("SAVE") == b"OK"
        assert before_s <= int(str(server.call("LASTSAVE"))) <= time.time()
        facts = server.info()
        assert (facts["rdb_changes_since_last_save"], facts["rdb_saves"], facts["rdb_last_bgsave_status"]) == ("0", "1", "ok")
    with servers.redis(dir=str(folder), enable_debug_command="yes") as judge:
        assert contents(judge) == expected
        assert judge.call("DEBUG", "RELOAD") == b"OK"
        assert contents(judge) == expected
    assert list(folder.glob("temp-*")) == []


def test_kvcd_loads_what_redis_server_saved(servers: Servers, folder: Path) -> None:
    require_program("redis-server")
    with servers.redis(dir=str(folder)) as judge:
        fill(judge)
        judge.call("SET", "soon", "gone", "PX", 1)
        judge.call("FUNCTION", "LOAD", "#!lua name=one\nredis.register_function('f', function() return 1 end)")
        assert judge.call("SAVE") == b"OK"
        expected = {name: held for name, held in contents(judge).items() if name[1] != b"soon"}
    with servers.kvcd(dir=str(folder), pool_size="128mb") as server:
        assert contents(server) == expected
        facts = server.info()
        assert int(facts["rdb_last_load_keys_loaded"]) == len(expected)
        assert facts["rdb_changes_since_last_save"] == "0"
        assert "functions in the snapshot are passed over" in server.log


def test_chains_outlive_a_restart_and_redis_server_does_not_mind(servers: Servers, folder: Path) -> None:
    require_program("redis-server")
    large = bytes(200_000)
    with servers.kvcd(dir=str(folder)) as server:
        server.call("PREFIX.SET", "b:1", "one", "b:2", large, "b:3", "three")
        server.call("PREFIX.SET", "PARENT", "b:1", "b:2x", "other")
        facts = [server.call("PREFIX.INFO", key) for key in ("b:1", "b:2", "b:3", "b:2x")]
        assert server.call("SAVE") == b"OK"
    with servers.redis(dir=str(folder)) as judge:
        assert judge.call("GET", "b:2") == large
    with servers.kvcd(dir=str(folder)) as server:
        again = [server.call("PREFIX.INFO", key) for key in ("b:1", "b:2", "b:3", "b:2x")]
    names = (b"parent", b"depth", b"children", b"size")

    def stable(reply: object) -> dict[object, object]:
        assert isinstance(reply, list)
        pairs = dict(zip(reply[::2], reply[1::2], strict=True))
        return {name: value for name, value in pairs.items() if name in names}

    assert [stable(reply) for reply in again] == [stable(reply) for reply in facts]
    assert any(stable(reply).get(b"depth") == 2 for reply in again)


def test_values_are_of_one_instant_while_clients_write(servers: Servers, folder: Path) -> None:
    """Every saved version lies between what was acknowledged before the save began and what was sent before it ended."""
    keys, clients = 400, 4
    sent = [0] * keys
    acknowledged = [0] * keys
    stop = threading.Event()

    def value_of(key: int, version: int) -> bytes:
        size = (20, 300, 5_000, 80_000)[key % 4]
        body = b"%d:%d:" % (key, version) + random.Random(version).randbytes(size)
        return body + b"%08x" % zlib.crc32(body)

    def write(client: int, server: ServerProcess) -> None:
        choose = random.Random(client)
        with server.connect() as wire:
            while not stop.is_set():
                key = choose.randrange(keys // clients) * clients + client
                if choose.random() < 0.05:
                    # It may come back in another slot, never twice in the file.
                    wire.call("DEL", b"k%d" % key)
                sent[key] += 1
                wire.call("SET", b"k%d" % key, value_of(key, sent[key]))
                acknowledged[key] = sent[key]

    with servers.kvcd(dir=str(folder), pool_size="128mb", maxmemory_policy="noeviction") as server:
        with server.connect() as wire:
            for key in range(keys):
                sent[key] = acknowledged[key] = 1
                wire.call("SET", b"k%d" % key, value_of(key, 1))
            for first in range(0, 20_000, 1000):
                wire.call("MSET", *[word for number in range(first, first + 1000) for word in (b"still:%d" % number, b"x" * 100)])
        threads = [threading.Thread(target=write, args=(client, server)) for client in range(clients)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                least = list(acknowledged)
                assert server.call("SAVE") == b"OK"
                most = list(sent)
                found = in_file(folder / "dump.rdb")
                assert sum(key.startswith(b"still:") for key in found) == 20_000
                missing = 0
                for key in range(keys):
                    value = found.get(b"k%d" % key)
                    if value is None:
                        missing += 1  # deleted at that instant, which one write in twenty does for a moment
                        continue
                    named, version, _ = value.split(b":", 2)
                    assert int(named) == key
                    assert int(value[-8:], 16) == zlib.crc32(value[:-8])
                    assert least[key] <= int(version) <= most[key]
                assert missing < keys // 4
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert "Traceback" not in server.log


def test_bgsave_answers_at_once_and_says_when_one_is_under_way(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder), pool_size="128mb") as server, server.connect() as wire:
        for number in range(200):
            wire.call("SET", b"k%d" % number, b"x" * 100_000)
        assert wire.call("BGSAVE") == b"Background saving started"
        assert wire.call("BGSAVE") == "ERR Background save already in progress"
        assert wire.call("BGSAVE", "SCHEDULE") == "ERR Background save already in progress"
        assert wire.call("SAVE") == "ERR Background save already in progress"
        assert server.info()["rdb_bgsave_in_progress"] == "1"
        assert wire.call("BGSAVE", "NOW") == "ERR syntax error"
        assert wire.call("BGSAVE", "SCHEDULE", "x") == "ERR syntax error"
        until(lambda: server.info()["rdb_bgsave_in_progress"] == "0", "the save ends")
        assert server.info()["rdb_last_bgsave_status"] == "ok"
        assert wire.call("BGSAVE", "schedule") == b"Background saving started"


def saver_of(server: ServerProcess) -> int:
    """Return the process id of the service's saver."""
    found: list[int] = []

    def look() -> bool:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        found[:] = [int(child) for child in children if b"kvcd.saver" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return bool(found)

    until(look, "a saver runs")
    return found[0]


def test_a_killed_saver_leaves_the_old_file(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder), pool_size="128mb") as server:
        server.call("SET", "a", "old")
        assert server.call("SAVE") == b"OK"
        before = (folder / "dump.rdb").read_bytes()
        server.call("SET", "a", "new")
        assert server.call("BGSAVE") == b"Background saving started"
        os.kill(saver_of(server), signal.SIGKILL)
        until(lambda: server.info()["rdb_bgsave_in_progress"] == "0", "the save ends")
        facts = server.info()
        if facts["rdb_last_bgsave_status"] == "err":  # else it had been quicker than the signal
            assert (folder / "dump.rdb").read_bytes() == before
            assert facts["rdb_changes_since_last_save"] == "1"
            assert "ended by signal 9" in server.log
        assert list(folder.glob("temp-*")) == []
        assert server.call("SAVE") == b"OK"
        assert in_file(folder / "dump.rdb") == {b"a": b"new"}


def test_a_killed_service_takes_its_saver_along(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder), pool_size="256mb") as server:
        for number in range(100):
            server.call("SET", b"k%d" % number, bytes(1_500_000))
        assert server.call("BGSAVE") == b"Background saving started"
        saver = saver_of(server)
        server.kill()
        until(lambda: not Path(f"/proc/{saver}").exists(), "the saver ends")
        lock = take_save_lock(str(folder / "dump.rdb"))
        assert lock is not None
        os.close(lock)
        assert list(folder.glob("temp-*")) == []
        if (folder / "dump.rdb").exists():
            assert len(in_file(folder / "dump.rdb")) == 100  # it had been quicker than the signal
        server.may_be_killed = True  # type: ignore[attr-defined]


def test_a_full_disk_is_told_and_stops_writes(servers: Servers, folder: Path) -> None:
    """With RLIMIT_FSIZE for the disk's end: the saver inherits it."""
    with servers.kvcd(dir=str(folder), pool_size="64mb", save="3600 1000000") as server:
        server.call("SET", "a", "1")
        assert server.call("SAVE") == b"OK"
        before = (folder / "dump.rdb").read_bytes()
        server.call("SET", "large", bytes(2_000_000))
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        try:
            assert server.call("SAVE") == "ERR"
            assert (folder / "dump.rdb").read_bytes() == before
            assert list(folder.glob("temp-*")) == []
            assert server.info()["rdb_last_bgsave_status"] == "err"
            for refused in (("SET", "a", "2"), ("DEL", "a"), ("INCR", "n"), ("FLUSHALL",), ("PING",), ("PREFIX.SET", "p", "v")):
                assert server.call(*refused) == MISCONF
            assert server.call("GET", "a") == b"1"
            assert server.call("CONFIG", "SET", "stop-writes-on-bgsave-error", "no") == b"OK"
            assert server.call("SET", "b", "2") == b"OK"
            assert server.call("CONFIG", "SET", "stop-writes-on-bgsave-error", "yes") == b"OK"
            assert server.call("SET", "b", "3") == MISCONF
            assert server.call("CONFIG", "SET", "save", "") == b"OK"
            assert server.call("SET", "b", "3") == b"OK"
            assert server.call("CONFIG", "SET", "save", "3600 1000000") == b"OK"
            assert server.call("SET", "b", "4") == MISCONF
        finally:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert server.call("SAVE") == b"OK"
        assert server.call("SET", "b", "4") == b"OK"


def test_rules_save_by_themselves_and_at_the_end(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder), save="1 3") as server:
        server.call("SET", "a", "1")
        server.call("SET", "b", "1")
        server.call("FLUSHALL")
        until(lambda: server.info()["rdb_saves"] == "1", "the rule saves")
        assert in_file(folder / "dump.rdb") == {}
        server.call("SET", "last", "word")
        assert server.stop() == 0
    assert in_file(folder / "dump.rdb") == {b"last": b"word"}
    with servers.kvcd(dir=str(folder)) as server:
        assert server.call("GET", "last") == b"word"
        server.call("SET", "not", "saved")
        assert server.stop() == 0
    assert in_file(folder / "dump.rdb") == {b"last": b"word"}


def test_a_flush_of_everything_is_saved_at_once_where_rules_save(servers: Servers, folder: Path) -> None:
    """Or a crash would bring all keys back; FLUSHDB waits for the rules, and without rules the snapshot stays."""
    with servers.kvcd(dir=str(folder), save="3600 1") as server:
        server.call("SET", "a", "1")
        server.call("SAVE")
        server.call("FLUSHDB")
        server.call("PING")
        assert in_file(folder / "dump.rdb") == {b"a": b"1"}
        server.call("SET", "b", "1")
        with server.connect() as wire:  # the second one comes while the first one is being saved
            wire.send(encode("FLUSHALL") + encode("SET", "c", "1") + encode("FLUSHALL"))
            until(lambda: server.info()["rdb_saves"] == "3", "each flush is saved")
        assert server.info()["rdb_changes_since_last_save"] == "0"
        with server.connect() as wire:
            for words in (("SAVE",), ("BGSAVE",)):
                assert wire.call("FLUSHALL") == b"OK"
                assert wire.call(*words) in (b"OK", b"Background saving started")
        until(lambda: server.info()["rdb_saves"] == "7", "all four were saved")
        server.call("SET", "d", "1")
        server.may_be_killed = True
        server.kill()
    assert in_file(folder / "dump.rdb") == {}
    with servers.kvcd(dir=str(folder)) as server:
        server.call("SET", "a", "1")
        server.call("SAVE")
        server.call("FLUSHALL")
        assert server.stop() == 0
    assert in_file(folder / "dump.rdb") == {b"a": b"1"}


def test_without_a_folder_to_save_to_it_does_not_stop(servers: Servers, folder: Path) -> None:
    place = folder / "place"
    place.mkdir()
    server = servers.kvcd(dir=str(place), save="3600 1")
    with started(server):
        server.call("SET", "a", "1")
        place.rmdir()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "can't exit" in server.log, "the log says why it goes on")
        assert server.call("GET", "a") == b"1"
        place.mkdir()
        assert server.stop() == 0
    assert in_file(place / "dump.rdb") == {b"a": b"1"}


def test_with_a_folder_in_the_snapshots_place_it_does_not_stop(servers: Servers, folder: Path) -> None:
    """Neither by a signal nor by SHUTDOWN, unless that is told not to save."""
    server = servers.kvcd(dir=str(folder), save="3600 1")
    with started(server):
        (folder / "dump.rdb").mkdir()
        server.call("SET", "a", "1")
        for words in (("SHUTDOWN",), ("SHUTDOWN", "NOW")):
            assert server.call(*words) == ReplyError("ERR Errors trying to SHUTDOWN. Check logs.")
        server.process.send_signal(signal.SIGINT)
        until(lambda: "Error trying to save the DB, can't exit" in server.log, "the log says why it goes on, in Redis's words")
        assert server.call("GET", "a") == b"1"
        with server.connect() as wire:
            wire.send(encode("SHUTDOWN", "NOSAVE"))
            assert wire.rest() == b""
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("words", "save", "is_saved"),
    [("default", "", False), ("save", "", True), ("nosave now", "3600 1", False), ("default", "3600 1", True)],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_as_its_directive_says(
    servers: Servers, folder: Path, words: str, save: str, is_saved: bool, workers: str
) -> None:
    with servers.kvcd(dir=str(folder), save=save, workers=workers) as server:
        assert server.call("CONFIG", "SET", "shutdown-on-sigterm", words) == b"OK"
        server.call("SET", "a", "1")
        assert server.stop() == 0
    assert (folder / "dump.rdb").exists() == is_saved


def test_a_signal_that_forces_ends_what_cannot_be_saved(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder), save="3600 1", shutdown_on_sigterm="force") as server:
        (folder / "dump.rdb").mkdir()
        server.call("SET", "a", "1")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 1


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda data: data[:-20], "truncated"),
    "empty": (lambda data: b"", "truncated"),
    "a flipped bit": (lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], "at byte"),
    "another program's": (lambda data: b"\x7fELF" + data, "does not begin with REDIS"),
    "a list": (lambda data: b"REDIS0010\x01\x04name\x01\x01x\xff" + bytes(8), "'name' holds a list"),
    "too many databases": (lambda data: b"REDIS0010\xfe\x40\x63\x00\x01k\x01v\xff" + bytes(8), "databases 100"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_snapshot_that_is_not_whole_ends_the_start(servers: Servers, folder: Path, name: str) -> None:
    spoil, said = DAMAGE[name]
    with servers.kvcd(dir=str(folder)) as server:
        with server.connect() as wire:
            for number in range(100):
                wire.call("SET", b"k%d" % number, b"x" * number)
        assert server.call("SAVE") == b"OK"
    path = folder / "dump.rdb"
    spoiled = spoil(path.read_bytes())
    path.write_bytes(spoiled)
    words = ("--port", "0", "--unixsocket", str(folder / "s"), "--dir", str(folder), "--pool-size", "32mb")
    # A pool file is there already the second time.
    for pool in (f"file:{folder}/pool",) * 2 if name == "truncated" else ("shm:",):
        refused = servers.launch_kvcd(*words, "--pool", pool)
        assert refused.wait() == 1
        assert said in refused.log
        assert str(path) in refused.log
        assert "Nothing of it was loaded" in refused.log
    assert path.read_bytes() == spoiled


def test_a_snapshot_larger_than_the_pool_is_refused_or_evicts(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder), pool_size="64mb") as server, server.connect() as wire:
        for number in range(200):
            wire.call("SET", b"k%d" % number, bytes(150_000))
        assert wire.call("SAVE") == b"OK"
    words = ("--port", "0", "--unixsocket", str(folder / "s"), "--dir", str(folder), "--pool-size", "16mb")
    refused = servers.launch_kvcd(*words, "--maxmemory-policy", "noeviction")
    assert refused.wait() == 1
    assert "maxmemory-policy" in refused.log
    with servers.kvcd(dir=str(folder), pool_size="16mb", maxmemory_policy="allkeys-lru") as server:
        assert 20 < int(str(server.call("DBSIZE"))) < 120


def test_a_pool_file_with_keys_takes_nothing_from_the_snapshot(servers: Servers, folder: Path) -> None:
    flags: dict[str, Any] = {"dir": str(folder), "pool": f"file:{folder}/pool", "pool_size": "32mb"}
    with servers.kvcd(**flags) as server:
        server.call("SET", "a", "1")
        assert server.call("SAVE") == b"OK"
        server.call("SET", "a", "2")
    with servers.kvcd(**flags) as server:
        assert server.call("GET", "a") == b"2"
        server.call("FLUSHALL")
    with servers.kvcd(**flags) as server:
        assert server.call("DBSIZE") == 0  # emptied on purpose
    (folder / "pool").unlink()
    with servers.kvcd(**flags) as server:
        assert server.call("GET", "a") == b"1"


def test_a_service_killed_while_it_loads_begins_again(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder), pool_size="256mb", index_entries=1_000_000) as server:
        with server.connect() as wire:
            for first in range(0, 200_000, 1000):
                wire.call("MSET", *[word for number in range(first, first + 1000) for word in (b"k%d" % number, b"x" * 50)])
        assert server.call("SAVE") == b"OK"
    flags = ["--dir", str(folder), "--pool", f"file:{folder}/pool", "--pool-size", "256mb", "--index-entries", "1000000"]
    loading = servers.launch_kvcd("--port", "0", "--unixsocket", str(folder / "s"), *flags)
    until(lambda: "loading a snapshot" in loading.log, "it loads")
    loading.kill()
    with servers.kvcd(dir=str(folder), pool=f"file:{folder}/pool", pool_size="256mb", index_entries=1_000_000) as server:
        assert server.call("DBSIZE") == 200_000


def test_two_services_of_one_folder_do_not_save_at_once(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder)) as server:
        lock = take_save_lock(str(folder / "dump.rdb"))
        assert lock is not None
        assert take_save_lock(str(folder / "dump.rdb")) is None
        assert server.call("BGSAVE") == "ERR Background save already in progress"
        os.close(lock)
        assert server.call("SAVE") == b"OK"


def test_config_set_changes_file_and_folder(servers: Servers, folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    with servers.kvcd(dir=str(folder), enable_protected_configs="yes") as server:
        assert server.call("CONFIG", "SET", "dbfilename", "x.rdb", "dir", str(other)) == b"OK"
        assert server.call("SAVE") == b"OK"
        assert (other / "x.rdb").exists()
        refused = server.call("CONFIG", "SET", "dbfilename", "a/b")
        assert refused == "ERR CONFIG SET failed (possibly related to argument 'dbfilename') - dbfilename can't be a path, just a filename"
        refused = server.call("CONFIG", "SET", "dir", str(folder / "nowhere"))
        assert refused == "ERR CONFIG SET failed (possibly related to argument 'dir') - No such file or directory"
        assert server.call("CONFIG", "GET", "dir") == [b"dir", str(other).encode()]
        assert isinstance(server.call("CONFIG", "SET", "save", "1"), ReplyError)


def test_check_snapshot_says_what_is_there_and_what_is_wrong(servers: Servers, folder: Path) -> None:
    with servers.kvcd(dir=str(folder)) as server:
        server.call("SET", "a", "1", "EX", 100)
        server.call("SAVE")
    path = folder / "dump.rdb"

    def check(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kvcd", "check-snapshot", *words], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
        )

    good = check(str(path), "--json")
    assert good.returncode == 0
    assert '"keys": 1' in good.stdout or '"keys":1' in good.stdout
    assert "whole" in check(str(path)).stdout
    path.write_bytes(path.read_bytes()[:-9])
    bad = check(str(path))
    assert bad.returncode == 1
    assert "truncated" in bad.stdout + bad.stderr
    assert check(str(folder / "nowhere")).returncode == 1


def test_what_one_worker_knows_of_a_save_another_takes_over() -> None:
    log = get_logger("persistence")
    one, other = Persistence(Config(), log, lambda: 40), Persistence(Config(), log, lambda: 40)
    one.apply({"in_progress": True, "begun_s": time.time(), "keys_done": 3, "keys_total": 9, "saves": 0, "changes": 7, "unknown": 1})
    seen: list[bool] = []
    other.on_change = lambda state: seen.append(state.in_progress)
    other.apply(one.state())
    assert seen == [True]
    assert other.information() == one.information()
    facts = other.information()
    assert (facts["rdb_bgsave_in_progress"], facts["current_save_keys_total"], facts["rdb_changes_since_last_save"]) == (1, 9, 7)
    assert not other.refuses_writes


def test_memory_nodes_are_not_saved() -> None:
    nowhere = Persistence(Config(), get_logger("persistence"), lambda: 0)  # begin() is never called for them
    with pytest.raises(SaveRefused) as refused:
        nowhere.save_in_background()
    assert "memory nodes" in refused.value.text
