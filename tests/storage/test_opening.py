"""Opening: which URLs name a pool, who may have it, and what becomes of an existing file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import membership, opening, pool
from storage.opening import OpenedPool, make_memory, open_pool
from storage.pool import PoolError
from storage.recovery import recover
from storage.store import Store

POOL_BYTES = 8 << 20
BOOT, NEXT_BOOT = bytes(range(16)), bytes(range(1, 17))


class Log:
    """Keeps events and their facts."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))


@pytest.fixture
def log() -> Iterator[Log]:
    """A log in which nothing may be left unexpected: tests take out what they expect."""
    log = Log()
    yield log
    assert log.events == []


@pytest.fixture(autouse=True)
def boot(monkeypatch: pytest.MonkeyPatch) -> None:
    set_boot(monkeypatch, BOOT)


def set_boot(monkeypatch: pytest.MonkeyPatch, identity: bytes) -> None:
    monkeypatch.setattr(opening, "boot_identity", lambda: identity)
    monkeypatch.setattr(pool, "boot_identity", lambda: identity)


def opened(path: Path, log: Log, *, size: int = POOL_BYTES, entries: int | None = 700, default: bool = False) -> OpenedPool:
    pool = open_pool(f"file:{path}", pool_size_bytes=size, index_entries=entries, log=log, pool_size_is_default=default)
    pool.ready()
    return pool


def end_without_closing(one: OpenedPool) -> None:
    """What the system does for a process that is killed."""
    one._fabric.close()
    for descriptor in one._lock_descriptors:
        os.close(descriptor)
    one._closed = True


def put(one: OpenedPool, key: bytes, value: bytes) -> None:
    store = Store(one.pool)
    if one.recovered:
        recover(store)
    with pytest.raises(StopIteration):
        store.write(0, key, value).send(None)


def get(one: OpenedPool, key: bytes) -> bytes | None:
    store = Store(one.pool)
    if one.recovered:
        recover(store)
    with pytest.raises(StopIteration) as answer:
        store.read(0, key).send(None)
    return answer.value.value.payload if answer.value.value else None


# ------------------------------------------------------------------------ URLs


def test_shm_is_memory_that_nobody_else_has(log: Log) -> None:
    first = open_pool("shm:", pool_size_bytes=POOL_BYTES, index_entries=700, log=log)
    second = open_pool("shm:", pool_size_bytes=POOL_BYTES, index_entries=None, log=log)
    assert (first.path, first.recovered) == (None, False)
    put(first, b"key", b"value")
    assert get(second, b"key") is None
    assert first.pool.layout()["slot_count"] == 700
    first.close()
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is no pool URL: it must be shm: .*, file:PATH .* or verbs://HOST:PORT"),
        ("/dev/shm/pool", "is no pool URL: it must be shm: .*, file:PATH .* or verbs://HOST:PORT"),
        ("redis://localhost", "unknown kind of pool 'redis'; it must be shm: .*, file:PATH .* or verbs://HOST:PORT"),
        ("shm:name", "takes no name; .* file:/dev/shm/NAME"),
        ("file:", "names no file"),
        ("file://", "names the host ''; .* file:///PATH"),
        ("file://host/pool", "names the host 'host'; .* file:///PATH"),
        ("file:a\0b", "holds no NUL"),
    ],
)
def test_other_urls_are_refused_with_what_would_be_right(url: str, says: str, log: Log) -> None:
    with pytest.raises(PoolError, match=says):
        open_pool(url, pool_size_bytes=POOL_BYTES, index_entries=None, log=log)


def test_paths_may_be_relative_absolute_or_with_slashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    monkeypatch.chdir(tmp_path)
    for number, url in enumerate((f"file:{tmp_path}/a", f"file://{tmp_path}/b", "file:c", "file:./d")):
        one = open_pool(url, pool_size_bytes=POOL_BYTES, index_entries=700, log=log)
        assert (tmp_path / "abcd"[number]).stat().st_size == POOL_BYTES
        assert not one.recovered
        one.close()


# ----------------------------------------------------------- life of a file pool


def test_a_closed_pool_is_taken_up_again_even_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    one = opened(tmp_path / "pool", log)
    put(one, b"key", b"value")
    assert not one.pool.is_clean
    one.close()
    set_boot(monkeypatch, NEXT_BOOT)
    two = opened(tmp_path / "pool", log)
    assert two.recovered
    assert not two.pool.is_clean
    assert get(two, b"key") == b"value"
    # Opened under the new boot: a kill, and the same boot again.
    end_without_closing(two)
    three = opened(tmp_path / "pool", log)
    assert three.recovered
    assert get(three, b"key") == b"value"
    three.close()


def test_a_killed_process_leaves_a_pool_to_the_next_of_the_same_boot(tmp_path: Path, log: Log) -> None:
    one = opened(tmp_path / "pool", log)
    put(one, b"key", b"value")
    end_without_closing(one)
    two = opened(tmp_path / "pool", log)
    assert two.recovered
    assert get(two, b"key") == b"value"
    two.close()


def test_after_a_restart_without_a_clean_end_the_pool_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    one = opened(tmp_path / "pool", log)
    put(one, b"key", b"value")
    end_without_closing(one)
    set_boot(monkeypatch, NEXT_BOOT)
    two = opened(tmp_path / "pool", log, entries=None)
    ((event, facts),) = log.events
    log.events.clear()
    assert event == "pool emptied"
    assert facts["path"] == str(tmp_path / "pool")
    assert not two.recovered
    assert two.pool.layout()["slot_count"] == 700
    assert get(two, b"key") is None
    put(two, b"other", b"new")
    end_without_closing(two)
    three = opened(tmp_path / "pool", log)
    assert three.recovered
    assert get(three, b"other") == b"new"
    three.close()


def test_a_boot_that_cannot_be_told_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    set_boot(monkeypatch, bytes(16))
    end_without_closing(opened(tmp_path / "pool", log))
    two = opened(tmp_path / "pool", log)
    assert [event for event, _ in log.events] == ["pool emptied"]
    log.events.clear()
    two.close()


def test_the_mark_is_on_the_disk_before_and_after_what_it_vouches_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    steps: list[str] = []

    class Watched(opening.SharedMemoryFabric):
        def flush_to_disk(self) -> None:
            steps.append("flush")
            super().flush_to_disk()

    class WatchedPool:
        @staticmethod
        def attach(fabric: Any, front_end: int) -> Any:
            one = pool.Pool.attach(fabric, front_end)

            class Proxy:
                def mark_clean(self, clean: bool) -> None:
                    steps.append(f"clean={clean}")
                    one.mark_clean(clean)

                def __getattr__(self, name: str) -> Any:
                    return getattr(one, name)

            return Proxy()

    opened(tmp_path / "pool", log).close()
    monkeypatch.setattr(opening, "SharedMemoryFabric", Watched)
    monkeypatch.setattr(opening, "Pool", WatchedPool)
    set_boot(monkeypatch, NEXT_BOOT)
    one = opened(tmp_path / "pool", log)
    assert steps == ["flush", "clean=False", "flush"]  # the boot, then the mark, then nothing else yet
    steps.clear()
    one.close()
    assert steps == ["flush", "clean=True", "flush"]


def test_a_flush_that_fails_leaves_the_pool_unclean_and_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    class Failing(opening.SharedMemoryFabric):
        fails = False

        def flush_to_disk(self) -> None:
            if self.fails:
                raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(opening, "SharedMemoryFabric", Failing)
        one = opened(tmp_path / "pool", log)
    Failing.fails = True
    one.close()
    assert [event for event, _ in log.events] == ["pool not marked clean"]
    log.events.clear()
    set_boot(monkeypatch, NEXT_BOOT)
    opened(tmp_path / "pool", log).close()
    assert [event for event, _ in log.events] == ["pool emptied"]
    log.events.clear()


# ------------------------------------------------------------- files as found


@pytest.mark.parametrize("size", [0, 4096, POOL_BYTES, 3 * POOL_BYTES])
def test_empty_and_blank_files_become_pools(tmp_path: Path, size: int, log: Log) -> None:
    (tmp_path / "pool").touch()
    os.truncate(tmp_path / "pool", size)
    one = opened(tmp_path / "pool", log)
    assert not one.recovered
    assert (tmp_path / "pool").stat().st_size == POOL_BYTES
    one.close()


def test_a_kill_while_formatting_leaves_a_blank_file(tmp_path: Path, log: Log) -> None:
    opened(tmp_path / "whole", log).close()
    superblock = (tmp_path / "whole").read_bytes()[:132]
    for written in (8, 40, 131):
        with open(tmp_path / "pool", "wb") as file:
            file.write(bytes(8) + superblock[8:written])  # the magic comes last
            file.truncate(POOL_BYTES)
        one = opened(tmp_path / "pool", log)
        assert not one.recovered
        put(one, b"key", b"value")
        one.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"somebody's notes", "holds 16 bytes and no pool: expected a superblock of 4096 bytes"),
        (b"somebody's notes" * 1000, "not a kvcd pool: it begins with b'somebody', expected b'KVCDPOOL'"),
        (bytes(5000) + b"data", r"not a kvcd pool: it begins with b'\\x00"),
        (bytes(8) + b"x" * 4000 + bytes(100_000) + b"data", r"not a kvcd pool: it begins with b'\\x00"),
    ],
)
def test_what_is_no_pool_is_left_alone(tmp_path: Path, content: bytes, says: str, log: Log) -> None:
    (tmp_path / "pool").write_bytes(content)
    with pytest.raises(PoolError, match=says) as error:
        opened(tmp_path / "pool", log)
    assert str(tmp_path / "pool") in str(error.value)
    assert "left as it is" in str(error.value) or "left as it was" in str(error.value) or "It was left" in str(error.value)
    assert (tmp_path / "pool").read_bytes() == content


def test_a_damaged_superblock_is_refused_and_kept(tmp_path: Path, log: Log) -> None:
    opened(tmp_path / "pool", log).close()
    with open(tmp_path / "pool", "r+b") as file:
        file.seek(30)
        byte = file.read(1)[0]
        file.seek(30)
        file.write(bytes([byte ^ 1]))
    before = (tmp_path / "pool").read_bytes()
    with pytest.raises(PoolError, match=r"damaged superblock: checksum .*, expected .* remove it"):
        opened(tmp_path / "pool", log)
    assert (tmp_path / "pool").read_bytes() == before


def test_a_cut_or_longer_file_is_refused(tmp_path: Path, log: Log) -> None:
    for size in (POOL_BYTES - 4096, POOL_BYTES + 4096):
        opened(tmp_path / "pool", log).close()
        os.truncate(tmp_path / "pool", size)
        with pytest.raises(PoolError, match=f"the superblock says {POOL_BYTES} bytes, the memory has {size}"):
            opened(tmp_path / "pool", log)
        (tmp_path / "pool").unlink()


def test_another_geometry_is_refused_and_nothing_is_lost(tmp_path: Path, log: Log) -> None:
    one = opened(tmp_path / "pool", log)
    put(one, b"key", b"value")
    one.close()
    with pytest.raises(PoolError, match=f"found a pool of {POOL_BYTES} bytes, expected pool-size {2 * POOL_BYTES}"):
        opened(tmp_path / "pool", log, size=2 * POOL_BYTES)
    with pytest.raises(PoolError, match="found an index of 700 entries, expected index-entries 7000"):
        opened(tmp_path / "pool", log, entries=7000)
    # Not asked for: what is there is taken.
    two = opened(tmp_path / "pool", log, size=3 * POOL_BYTES, entries=None, default=True)
    assert two.recovered
    assert get(two, b"key") == b"value"
    two.close()


def test_too_small_a_pool_leaves_no_half_made_file(tmp_path: Path, log: Log) -> None:
    with pytest.raises(PoolError, match=r"no room for 700 index entries .* give pool-size at least"):
        opened(tmp_path / "pool", log, size=1 << 20)
    opened(tmp_path / "pool", log).close()
    with pytest.raises(PoolError, match="no room"):
        open_pool("shm:", pool_size_bytes=1 << 20, index_entries=700, log=log)


# ----------------------------------------------------------- what stands in the way


def test_a_directory_and_a_pipe_are_no_pools(tmp_path: Path, log: Log) -> None:
    with pytest.raises(PoolError, match="this is a directory: name a file in it"):
        opened(tmp_path, log)
    with pytest.raises(PoolError, match=f"{tmp_path}/none is no directory: create it"):
        opened(tmp_path / "none" / "pool", log)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PoolError, match="no regular file"):
        opened(tmp_path / "pipe", log)


def test_a_file_system_that_is_too_small_says_what_would_fit(tmp_path: Path, log: Log) -> None:
    with pytest.raises(PoolError, match=r"needs \d+ more bytes, its file system has \d+ free: give pool-size at most \d+"):
        opened(tmp_path / "pool", log, size=1 << 50, entries=None)
    assert (tmp_path / "pool").stat().st_size == 0


def test_memory_that_cannot_be_had_says_what_to_do(log: Log) -> None:
    with pytest.raises(PoolError, match="give a smaller pool-size"):
        open_pool("shm:", pool_size_bytes=1 << 62, index_entries=None, log=log)


def test_a_file_of_another_user_is_refused_by_name(tmp_path: Path, log: Log) -> None:
    (tmp_path / "pool").touch(mode=0o400)
    (tmp_path / "pool.lock").touch(mode=0o666)
    os.chmod(tmp_path / "pool.lock", 0o666)
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        if os.geteuid() == 0:
            os.chmod(directory, 0o755)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(PoolError, match=r"pool: this process \(user \d+\) may not open it .* change owner or mode"):
            opened(tmp_path / "pool", log)
    finally:
        if was_root:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("code", "says"),
    [(28, "no space is left: free some"), (30, "read-only"), (12, "smaller pool-size"), (27, "ulimit -f"), (5, "Input/output error")],
)
def test_errors_of_the_system_say_what_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, says: str, log: Log
) -> None:
    def fail(_descriptor: int, _size: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(opening.os, "ftruncate", fail)
        with pytest.raises(PoolError, match=says):
            opened(tmp_path / "pool", log)
    opened(tmp_path / "pool", log).close()  # nothing is held after a failure


# ------------------------------------------------------------------------ locks

_HOLDER = """
import sys
from storage.opening import open_pool
pool = open_pool("file:" + sys.argv[1], pool_size_bytes=int(sys.argv[2]), index_entries=700, log=print)
pool.ready()
print("open", flush=True)
sys.stdin.read()
"""


def test_a_pool_that_another_process_uses_is_shared_with_it(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "pool"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), str(POOL_BYTES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"open\n"
    one = opened(path, log)
    assert (one.front_end, one.alone, one.recovered) == (1, False, False)
    assert not one.locks.prove_dead(0, 1)
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert one.locks.prove_dead(0, 1)
    one.locks.release(0)
    log.events.clear()
    one.close()


def test_links_to_the_file_are_the_same_pool(tmp_path: Path, log: Log) -> None:
    one = opened(tmp_path / "pool", log)
    os.symlink(tmp_path / "pool", tmp_path / "symbolic")
    os.link(tmp_path / "pool", tmp_path / "hard")
    others = [opened(tmp_path / name, log) for name in ("symbolic", "hard")]
    assert [other.front_end for other in others] == [1, 2]
    for opened_pool in (*others, one):
        assert not opened_pool.pool.is_clean
        opened_pool.close()
    two = opened(tmp_path / "hard", log)
    assert two.recovered
    two.close()


def test_a_file_that_was_replaced_under_its_users_is_refused(tmp_path: Path, log: Log) -> None:
    one = opened(tmp_path / "pool", log)
    os.unlink(tmp_path / "pool")
    with pytest.raises(PoolError, match=r"was replaced while it was in use .its lock file is held by front end 0"):
        opened(tmp_path / "pool", log)
    one.close()


def test_the_last_of_several_leaves_the_mark(tmp_path: Path, log: Log) -> None:
    one, two = opened(tmp_path / "pool", log), opened(tmp_path / "pool", log)
    one.close()
    assert not two.pool.is_clean
    assert two.pool.life_of(0) == (2, False)
    two.close()
    three = opened(tmp_path / "pool", log)
    assert three.recovered
    three.close()


def test_others_wait_at_the_gate_until_the_first_is_ready(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_pool(f"file:{tmp_path / 'pool'}", pool_size_bytes=POOL_BYTES, index_entries=700, log=log)
    monkeypatch.setattr(membership, "_GATE_LIMIT_S", 0.0)
    with pytest.raises(PoolError, match="is being opened by another process"):
        opened(tmp_path / "pool", log)
    one.ready()
    two = opened(tmp_path / "pool", log)
    assert two.front_end == 1
    two.close()
    one.close()


def test_a_pool_has_room_for_so_many_front_ends(log: Log) -> None:
    memory = make_memory(POOL_BYTES)
    pools = []
    for number in range(membership.FRONT_ENDS):
        pools.append(open_pool("shm:", pool_size_bytes=0, index_entries=700, log=log, memory_fd=memory))
        pools[-1].ready()
        assert pools[-1].front_end == number
    with pytest.raises(PoolError, match="in use by 64 front ends, which is the most"):
        open_pool("shm:", pool_size_bytes=0, index_entries=700, log=log, memory_fd=memory)
    for one in pools:
        one.close()
    os.close(memory)


def test_a_lock_is_not_inherited_by_other_programs(tmp_path: Path, log: Log) -> None:
    one = opened(tmp_path / "pool", log)
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import sys; print('runs', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False,
    )
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == b"runs\n"
    end_without_closing(one)
    two = opened(tmp_path / "pool", log)
    two.close()
    assert sleeper.stdin is not None
    sleeper.stdin.close()
    sleeper.stdout.close()
    sleeper.wait()
