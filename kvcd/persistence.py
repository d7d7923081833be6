"""Persistence: when a snapshot is saved, by which process, how the last one went; and what a new pool begins with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import orjson

from kvcd.config import Config
from kvcd.directive import ConfigError, Value
from kvcd.logs import Logger
from kvcd.save_lock import take_save_lock
from kvcd.saver import Task
from kvcd.snapshot_reader import Snapshot, SnapshotError
from kvcd.snapshot_writer import temporary_path
from storage.loading_mark import Loading, loading_mark, set_loading_mark
from storage.opening import OpenedPool
from storage.store import Store

ENDING_SIGNALS = {signal.SIGTERM: "shutdown-on-sigterm", signal.SIGINT: "shutdown-on-sigint"}  # and the directives for them
RETRY_DELAY_S = 5  # as Redis: how soon a rule tries again after a save that failed
RULES_INTERVAL_S = 1.0  # between two looks at the save rules
LOADING_REPORT_S = 1.0
END_DEADLINE_S = 600.0  # for another service's save of the same file, before our own at the end
LOCK_PAUSE_S = 0.05
STOP_DEADLINE_S = 5.0  # for a saver that is told to stop
LINE_BYTES_MAX = 65536  # of a saver's report
ERROR_BYTES_MAX = 4096  # of what a saver that crashed had to say

ALREADY_SAVING = "ERR Background save already in progress"
FAILED = "ERR"  # Redis says no more to its client; the log does
REMOTE = "ERR snapshots are made of pools in this machine's memory: the keys of this one live on memory nodes, which keep them"
MISCONF = (
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data "
    "set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails "
    "(stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error."
)


class SaveRefused(Exception):
    """No save was begun; ``text`` is the whole error reply."""

    def __init__(self, text: str) -> None:
        """Keep the reply's text."""
        super().__init__(text)
        self.text = text


@dataclass(slots=True)
class SaveState:
    """What INFO and LASTSAVE tell of the service's snapshots; times are Unix seconds."""

    in_progress: bool = False
    begun_s: float = 0.0  # of the save in progress
    keys_done: int = 0
    keys_total: int = 0
    last_save_s: int = 0  # the start of the service before the first one
    last_failed: bool = False
    last_try_s: float = 0.0
    last_duration_s: int = -1
    saves: int = 0
    changes_at_save: int = 0  # of the counter of changes, when the last save began
    keys_loaded: int = 0
    keys_expired: int = 0  # in the snapshot that was loaded


class Persistence:
    """Saves and loads of one service.

    ``changes`` counts what was ever written, deleted or flushed, over all front ends: a number that only grows.
    """

    def __init__(self, config: Config, log: Logger, changes: Callable[[], int]) -> None:
        self._config = config
        self._log = log
        self._count_changes = changes
        self._state = SaveState(last_save_s=int(time.time()))
        self._pool: OpenedPool | None = None
        self._saving: asyncio.Task[bool] | None = None
        self._saver: asyncio.subprocess.Process | None = None
        self._looked_at_rules_s = 0.0
        self._flushes = 0
        self._saves_flush = False  # the save in progress is there because of FLUSHALL
        self._save_again = False  # when it has ended
        self._changes_when_begun = 0  # the save of another worker that is in progress
        self.on_own_change: Callable[[], object] = lambda: None  # to be told to other workers
        self.on_change: Callable[[SaveState], object] = lambda _state: None  # a save began or ended, or `apply` was called
        if config.is_explicit("dir"):
            _check_folder(config["dir"])
        config.on_change("dir", _check_folder)

    # ------------------------------------------------------------------- state

    def state(self) -> dict[str, int | float | bool]:
        """Return all that is known about saves, as plain values for other workers."""
        return {**asdict(self._state), "changes": self.changes()}

    def apply(self, state: dict[str, int | float | bool]) -> None:
        """Take over what another worker knows about the service's saves: its save is this one's too."""
        own, now = self._state, self._count_changes() + self._flushes
        if state["in_progress"] and not own.in_progress:
            self._changes_when_begun = now
        # Each worker counts changes from where it began, so what is known of them comes as how many there were since.
        since = now - self._changes_when_begun if state["saves"] == own.saves + 1 and own.in_progress else state["changes"]
        known = {field.name for field in fields(SaveState)} - {"changes_at_save"}
        for name, value in state.items():
            if name in known:
                setattr(own, name, value)
        own.changes_at_save = now - int(since)
        self.on_change(own)

    @property
    def path(self) -> str:
        """Where the snapshot is."""
        return os.path.join(os.path.abspath(self._config.text("dir")), self._config.string("dbfilename"))

    @property
    def last_save_s(self) -> int:
        """Unix time of the last save that went well."""
        return self._state.last_save_s

    def changes(self) -> int:
        """Changes since the last save began that went well."""
        return max(0, self._count_changes() + self._flushes - self._state.changes_at_save)

    def note_flush(self) -> None:
        """A database was emptied: that counts as a change."""
        self._flushes += 1

    def save_flushed(self) -> None:
        """All keys were flushed: where rules keep a snapshot it loses them too, as in Redis, or they would be back after a crash."""
        self.note_flush()
        self._save_again = self._saving is not None  # that one may hold keys of before
        if not self._save_again:
            self._save_empty()

    @property
    def can_save(self) -> bool:
        """Whether there is a pool that snapshots are made of."""
        return self._pool is not None

    @property
    def has_rules(self) -> bool:
        """Whether snapshots are saved by themselves, and at the end."""
        return bool(self._config["save"]) and self._pool is not None

    @property
    def refuses_writes(self) -> bool:
        """Whether writes are answered with MISCONF: rules are on and the last save failed."""
        return self._state.last_failed and self.has_rules and self._config.flag("stop-writes-on-bgsave-error")

    def information(self) -> dict[str, object]:
        """INFO's fields, in Redis's order."""
        state = self._state
        return {
            "loading": 0,  # nobody is listened to before that is done
            "async_loading": 0,
            "current_cow_peak": 0,
            "current_cow_size": 0,
            "current_cow_size_age": 0,
            "current_fork_perc": "0.00",
            "current_save_keys_processed": state.keys_done if state.in_progress else 0,
            "current_save_keys_total": state.keys_total if state.in_progress else 0,
            "rdb_changes_since_last_save": self.changes(),
            "rdb_bgsave_in_progress": int(state.in_progress),
            "rdb_last_save_time": state.last_save_s,
            "rdb_last_bgsave_status": "err" if state.last_failed else "ok",
            "rdb_last_bgsave_time_sec": state.last_duration_s,
            "rdb_current_bgsave_time_sec": int(time.time() - state.begun_s) if state.in_progress else -1,
            "rdb_saves": state.saves,
            "rdb_last_cow_size": 0,
            "rdb_last_load_keys_expired": state.keys_expired,
            "rdb_last_load_keys_loaded": state.keys_loaded,
            "aof_enabled": 0,
            "aof_rewrite_in_progress": 0,
            "aof_rewrite_scheduled": 0,
            "aof_last_rewrite_time_sec": -1,
            "aof_current_rewrite_time_sec": -1,
            "aof_last_bgrewrite_status": "ok",
            "aof_last_write_status": "ok",
        }

    # -------------------------------------------------------------------- load

    def begin(self, pool: OpenedPool, store: Store) -> None:
        """Know the pool that is saved; a new one is filled from the snapshot, if there is any.

        Only between opening a pool and ``ready``, when nobody else uses it. Raises SnapshotError.
        """
        self._pool = pool
        if not pool.alone:
            return
        mark = loading_mark(pool.pool)
        if mark is Loading.UNDER_WAY:
            # Whoever filled the pool was killed: a part of a snapshot is worth nothing.
            _finish_flush(store)
        if mark is not Loading.DONE and not any(store.database_size(number).keys for number in range(store.databases)):
            set_loading_mark(pool.pool, Loading.UNDER_WAY)
            self._load(store)
        set_loading_mark(pool.pool, Loading.DONE)
        self._state.changes_at_save = self._count_changes()

    def _load(self, store: Store) -> None:
        """All of the snapshot, after it was verified; without a file nothing."""
        try:
            snapshot = Snapshot(self.path)
        except FileNotFoundError:
            return
        now_ms = int(time.time() * 1000)
        with snapshot:
            self._log.notice("loading a snapshot", path=self.path, size_bytes=snapshot.size_bytes)
            summary = snapshot.verify(databases=store.databases, now_ms=now_ms, progress=self._reporter("verifying the snapshot"))
            if summary.functions:
                self._log.warning("functions in the snapshot are passed over", libraries=summary.functions)
            loaded = snapshot.load(store, now_ms=now_ms, progress=self._reporter("loading the snapshot"))
        self._state.keys_loaded, self._state.keys_expired = loaded.keys, loaded.expired
        self._log.notice("snapshot loaded", keys=loaded.keys, expired=loaded.expired, seconds=round(loaded.seconds, 3))

    def _reporter(self, event: str) -> Callable[[int, int, int], None]:
        """A line a second for who waits."""
        reported_s = time.monotonic()

        def report(read_bytes: int, size_bytes: int, keys: int) -> None:
            nonlocal reported_s
            if time.monotonic() - reported_s >= LOADING_REPORT_S:
                reported_s = time.monotonic()
                self._log.notice(event, percent=round(100 * read_bytes / max(1, size_bytes)), keys=keys)

        return report

    # -------------------------------------------------------------------- save

    async def save(self) -> bool:
        """Save now and wait for it (SAVE); whether it went well. Raises SaveRefused when it was not begun."""
        while self._saving is not None and self._saves_flush:
            await asyncio.shield(self._saving)  # nobody has asked for that one, and so nobody is refused for it
        done = self._start("SAVE")
        return await asyncio.shield(done) if done is not None else False

    def save_in_background(self, why: str = "BGSAVE") -> None:
        """Begin to save (BGSAVE). Raises SaveRefused."""
        if self._saving is not None and self._saves_flush:
            self._save_again = True
        else:
            self._start(why)

    def _start(self, why: str) -> asyncio.Task[bool] | None:
        """The save as a task; None when it failed at once, as the state says then."""
        if self._pool is None:
            raise SaveRefused(REMOTE)
        if self._state.in_progress:
            raise SaveRefused(ALREADY_SAVING)
        path = self.path
        try:
            lock = take_save_lock(path)
        except OSError as error:
            self._ended(time.time(), failed=f"{os.path.dirname(path)}: {error.strerror}")
            return None
        if lock is None:
            raise SaveRefused(ALREADY_SAVING)
        state = self._state
        state.in_progress, state.begun_s, state.keys_done, state.keys_total = True, time.time(), 0, 0
        self._log.notice("saving a snapshot", path=path, why=why)
        self.on_change(state)
        self.on_own_change()
        self._saving = asyncio.get_running_loop().create_task(self._save(path, lock))
        return self._saving

    async def _save(self, path: str, lock: int) -> bool:
        begun_s, changes = self._state.begun_s, self._count_changes() + self._flushes
        failed: str | None = "the service stops"
        try:
            failed = await self._run_saver(path, lock)
        except (OSError, ValueError) as error:
            failed = str(error)
        finally:
            os.close(lock)
            if failed is None:
                self._state.changes_at_save = changes
            self._ended(begun_s, failed=failed)
            self._saving, self._saves_flush = None, False
        if self._save_again:
            self._save_again = False
            self._save_empty()
        return failed is None

    def _save_empty(self) -> None:
        if self.has_rules:
            with contextlib.suppress(SaveRefused):  # another worker's save: the rules count the flush as a change since it began
                self._saves_flush = self._start("FLUSHALL") is not None

    def _ended(self, begun_s: float, *, failed: str | None) -> None:
        state = self._state
        state.in_progress, state.last_failed, state.last_try_s = False, failed is not None, begun_s
        state.last_duration_s = int(time.time() - begun_s)
        if failed is None:
            state.last_save_s = int(time.time())
            state.saves += 1
        else:
            self._log.warning("the snapshot was not saved; the last one stays as it is", path=self.path, reason=failed)
        self.on_change(state)
        self.on_own_change()

    async def _run_saver(self, path: str, lock: int) -> str | None:
        """Start a saver and follow it to its end; why it failed, or None."""
        assert self._pool is not None
        config = self._config
        task = Task(config.string("pool"), self._pool.memory_fd, config.number("databases"), path, config.flag("rdbchecksum"))
        inherited = (lock, self._pool.memory_fd) if self._pool.memory_fd >= 0 else (lock,)
        self._saver = saver = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kvcd.saver",
            task.encode(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=inherited,
            limit=LINE_BYTES_MAX,
        )
        try:
            assert saver.stdout is not None
            assert saver.stderr is not None
            last, said, status = await asyncio.gather(self._follow(saver.stdout), _tail(saver.stderr), saver.wait())
        finally:
            self._saver = None
            # One that was killed could not clean up.
            with contextlib.suppress(OSError):
                os.unlink(temporary_path(path, saver.pid))
        if status == 0 and last.get("event") == "saved":
            self._log.notice("snapshot saved", **{name: fact for name, fact in last.items() if name != "event"})
            return None
        if last.get("event") == "failed":
            return str(last["reason"])
        return f"the saver ended by signal {-status}" if status < 0 else f"the saver ended with status {status}: {said}"

    async def _follow(self, reports: asyncio.StreamReader) -> dict[str, object]:
        """Read a saver's lines; the last one."""
        last: dict[str, object] = {}
        async for line in reports:
            last = orjson.loads(line)
            if last["event"] == "progress":
                self._state.keys_done, self._state.keys_total = int(str(last["keys"])), int(str(last["keys_total"]))
        return last

    # ------------------------------------------------------------ rules and end

    def tick(self) -> None:
        """Look at the save rules, once a second."""
        now_s = time.monotonic()
        if now_s - self._looked_at_rules_s < RULES_INTERVAL_S or not self.has_rules or self._state.in_progress:
            return
        self._looked_at_rules_s = now_s
        state, now = self._state, time.time()
        if state.last_failed and now - state.last_try_s <= RETRY_DELAY_S:
            return
        changes = self.changes()
        rules = self._config["save"]
        assert isinstance(rules, tuple)
        for rule in rules:
            assert isinstance(rule, tuple)
            seconds, least = rule
            if changes >= least and now - state.last_save_s > seconds:
                with contextlib.suppress(SaveRefused):  # another worker was first
                    self.save_in_background(f"{changes} changes in {seconds} seconds")
                return

    def why_not(self) -> str | None:
        """Why a save at this moment would fail, as far as can be told before; None when it can be begun."""
        folder = os.path.dirname(self.path)
        try:
            if not os.access(folder, os.W_OK | os.X_OK):
                return f"{folder} cannot be written to"
            if os.path.isdir(self.path):
                return f"{self.path} is a folder"
            if os.statvfs(folder).f_bavail == 0:
                return f"{folder}: no space left on its device"
        except OSError as error:
            return f"{folder}: {error.strerror}"
        return None

    async def save_at_end(self) -> bool:
        """Save when every client is gone; whether that went well. A save in progress is let finish first."""
        if self._saving is not None:
            await asyncio.shield(self._saving)
        deadline_s = time.monotonic() + END_DEADLINE_S
        while True:
            try:
                return await self.save()
            except SaveRefused as refused:
                # Somebody else's save may have begun before the last of our clients' writes.
                if refused.text != ALREADY_SAVING or time.monotonic() > deadline_s:
                    self._log.warning("no snapshot at the end", reason=refused.text)
                    return False
            await asyncio.sleep(LOCK_PAUSE_S)  # a file lock tells nobody that it is free

    async def stop(self) -> None:
        """End a save in progress; the old snapshot stays."""
        self._save_again = False
        saving, saver = self._saving, self._saver
        if saving is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if saver is not None:
                saver.terminate()
        done, _ = await asyncio.wait((saving,), timeout=STOP_DEADLINE_S)
        if not done:
            if self._saver is not None:
                self._saver.kill()
            saving.cancel()
            await asyncio.wait((saving,), timeout=STOP_DEADLINE_S)


def wanted_save(words: tuple[str, ...]) -> bool | None:
    """Whether `shutdown-on-sigterm` and its like ask for a snapshot at the end; None: as the save rules say."""
    return True if "save" in words else False if "nosave" in words else None


def _check_folder(value: Value) -> None:
    """CONFIG SET dir: refused where redis-server could not change to it, in its words."""
    try:
        if not os.path.isdir(os.path.abspath(str(value))):
            os.stat(str(value))
            raise ConfigError("Not a directory")
    except OSError as error:
        raise ConfigError(str(error.strerror)) from None


async def _tail(stream: asyncio.StreamReader) -> str:
    """The last of what comes."""
    said = b""
    while data := await stream.read(ERROR_BYTES_MAX):
        said = (said + data)[-ERROR_BYTES_MAX:]
    return said.decode("utf-8", "replace").strip()


def _finish_flush(store: Store) -> None:
    """Empty a store on shared memory, which never suspends."""
    try:
        store.flush(None).send(None)
    except StopIteration:
        return
    raise AssertionError("a store on shared memory suspended")


__all__ = ["ENDING_SIGNALS", "FAILED", "MISCONF", "Persistence", "SaveRefused", "SaveState", "SnapshotError"]
