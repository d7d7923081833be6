"""Opening: turns a pool's URL into a pool and a front end's place in it, new, as earlier processes left it, or as others use it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.fabric.shm import SharedMemoryFabric
from storage.membership import FrontEndLocks
from storage.pool import MAGIC, Pool, PoolError, boot_identity
from storage.pool_files import LARGE_BLOCK_BYTES, SUPERBLOCK_BYTES, check_space, is_blank, no_memory, open_or_create, reason

SLOTS_PER_SET = 7
# Boot under which the pool was last opened, outside the superblock's checksum so that no kill can tear that.
_BOOT_RECORD_OFFSET = 2048
_BOOT_RECORD = struct.Struct("<16sI")
_URLS = "shm: (memory of this process), file:PATH (a file on tmpfs, hugetlbfs or a disk) or verbs://HOST:PORT,... (memory nodes)"

Log = Callable[..., None]


@dataclass(slots=True)
class OpenedPool:
    """A pool and a front end's place in it, until ``close``.

    ``alone`` says that no other front end lives, ``recovered`` that the pool then holds the values of earlier ones:
    ``storage.recovery.recover`` must run on the store before its first request. Whether alone or not, other front ends wait
    until ``ready``.
    """

    pool: Pool
    recovered: bool
    path: str | None  # of a file pool
    alone: bool
    locks: FrontEndLocks
    memory_fd: int  # of a pool in memory: what another process opens it with; -1 for files
    _fabric: SharedMemoryFabric
    _log: Log
    _lock_descriptors: tuple[int, ...] = ()
    _closed: bool = field(default=False, init=False)

    @property
    def front_end(self) -> int:
        """This front end's number."""
        return self.locks.number

    def ready(self) -> None:
        """The pool is formatted, recovered and loaded: other front ends may enter."""
        self.locks.open_gate()

    def close(self) -> None:
        """Leave the pool in order and let go of it; a file pool's content survives even a reboot after the last one did.

        Nothing may use the pool afterwards, so transports that still send from its pages are closed first. Harmless when
        called again.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with self.locks.leaving() as is_last:
                self.pool.leave()
                if self.path is not None and is_last:
                    # The mark comes after everything that it vouches for, on the disk too.
                    self._fabric.flush_to_disk()
                    self.pool.mark_clean(True)
                    self._fabric.flush_to_disk()
        except (OSError, PoolError) as error:
            self._log("pool not marked clean", path=self.path, error=str(error), effect="emptied if the machine restarts")
        finally:
            self._fabric.close()
            for descriptor in self._lock_descriptors:
                os.close(descriptor)


def make_memory(size_bytes: int) -> int:
    """Return a descriptor of anonymous memory (memfd, close-on-exec) for processes that share a ``shm:`` pool.

    It is freed when the last of them ends. Raises PoolError.
    """
    try:
        descriptor = os.memfd_create("kvcd-pool", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size_bytes)
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, OverflowError) as error:
        raise PoolError(no_memory(f"a pool of {size_bytes} bytes in memory", error)) from error
    return descriptor


def open_pool(
    url: str,
    *,
    pool_size_bytes: int,
    index_entries: int | None,
    log: Log,
    pool_size_is_default: bool = False,
    memory_fd: int | None = None,
) -> OpenedPool:
    """Open or make the pool that ``url`` names, as one more front end of it; call ``ready`` when it can be used.

    ``index_entries`` None takes what an existing pool has, else the default; with ``pool_size_is_default`` an existing
    file keeps its size too. ``memory_fd`` is the memory of a ``shm:`` pool that ``make_memory`` made; it stays the
    caller's. ``log`` gets an event and key=value facts. Raises PoolError with what to do.
    """
    path = _path_of(url)
    if path is None:
        own = memory_fd is None
        descriptor = make_memory(pool_size_bytes) if memory_fd is None else memory_fd
        try:
            return _open_memory(descriptor, index_entries, log)
        finally:
            if own:
                os.close(descriptor)
    lock = open_or_create(os.path.realpath(path) + ".lock", "lock file")  # it stays behind: removing it would let a second pool in
    try:
        return _open_file(path, pool_size_bytes, pool_size_is_default, index_entries, log, lock)
    except BaseException:
        os.close(lock)
        raise


def _path_of(url: str) -> str | None:
    """Return the file's path, or None for anonymous memory."""
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise PoolError(f"{url!r} is no pool URL: it must be {_URLS}")
    if scheme == "verbs":
        raise PoolError(f"{url!r}: memory nodes are opened by storage.remote")
    if scheme == "shm":
        if rest:
            raise PoolError(f"{url!r}: shm: takes no name; memory that outlives the process is file:/dev/shm/NAME")
        return None
    if scheme != "file":
        raise PoolError(f"{url!r}: unknown kind of pool {scheme!r}; it must be {_URLS}")
    if rest.startswith("//"):
        host, slash, _ = rest[2:].partition("/")
        if host or not slash:
            raise PoolError(f"{url!r} names the host {host!r}; a path on this machine is file:PATH or file:///PATH")
        rest = rest[2:]
    if not rest:
        raise PoolError(f"{url!r} names no file; it must be file:PATH")
    if "\0" in rest:
        raise PoolError(f"{url!r}: a path holds no NUL byte")
    return rest


def _open_memory(shared: int, index_entries: int | None, log: Log) -> OpenedPool:
    """Open memory that other processes may have too."""
    size_bytes = os.fstat(shared).st_size
    descriptors: list[int] = []
    fabric: SharedMemoryFabric | None = None
    try:
        # Opened anew: a lock belongs to the open file, and a descriptor that processes inherit is one open file for all of them.
        descriptors.append(os.open(f"/proc/self/fd/{shared}", os.O_RDWR | os.O_CLOEXEC))
        locks = FrontEndLocks(descriptors, "the pool in memory")
        memory_fd = os.dup(shared)
        fabric = SharedMemoryFabric(memory_fd, size_bytes)
        place = locks.enter()
        is_new = place.alone and not os.pread(shared, len(MAGIC), 0).strip(b"\0")
        if is_new:
            pool = Pool.format(fabric, index_entries=index_entries, front_end=place.number)
        else:
            pool = Pool.attach(fabric, place.number)
        return OpenedPool(
            pool, place.alone and not is_new, None, place.alone, locks, memory_fd, fabric, log, tuple(descriptors)
        )
    except BaseException as error:
        if fabric is not None:
            fabric.close()
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(error, (OSError, OverflowError)):
            raise PoolError(no_memory(f"a pool of {size_bytes} bytes in memory", error)) from error
        raise


# --------------------------------------------------------------------- files


def _open_file(
    path: str, size_bytes: int, size_is_default: bool, index_entries: int | None, log: Log, lock: int
) -> OpenedPool:
    descriptor = open_or_create(os.path.realpath(path), "pool file")
    fabric: SharedMemoryFabric | None = None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PoolError(f"pool file {path} is no regular file: name one that is, or one that does not exist yet")
        # The pool file first: another name of it (a hard link, a bind mount) has another lock file.
        locks = FrontEndLocks((descriptor, lock), f"pool file {path}")
        place = locks.enter()
        status = os.fstat(descriptor)  # whoever was in before may have made it
        is_new = place.alone and (status.st_size == 0 or is_blank(descriptor, status.st_size))
        block_bytes = os.fstatvfs(descriptor).f_bsize
        if block_bytes > LARGE_BLOCK_BYTES:
            size_bytes = size_bytes // block_bytes * block_bytes
        if not is_new and size_is_default:
            size_bytes = status.st_size
        if place.alone:
            check_space(descriptor, path, size_bytes, 0 if is_new else status.st_blocks * 512)
        recovered = False
        if is_new:
            fabric = _resize_and_map(descriptor, path, size_bytes)
            pool = _format(fabric, descriptor, path, index_entries, place.number)
        else:
            fabric = _map(descriptor, path, status.st_size)
            pool = _attach(fabric, path, place.number)
            _check_geometry(pool, path, size_bytes, index_entries)
            if place.alone:
                recovered = _may_be_kept(pool)
                if not recovered:
                    pool = _empty(pool, fabric, descriptor, path, size_bytes, log, place.number)
        if place.alone:
            # On the disk before the first change is: a mark that is older than what it vouches for would be a lie.
            _record_boot(pool, fabric)
            pool.mark_clean(False)
            fabric.flush_to_disk()
        _write_holder(lock, place.number)
        return OpenedPool(pool, recovered, path, place.alone, locks, -1, fabric, log, (lock,))
    except OSError as error:
        _close(fabric, descriptor)
        raise PoolError(reason(error, path, "pool file")) from error
    except BaseException:
        _close(fabric, descriptor)
        raise


def _may_be_kept(pool: Pool) -> bool:
    """Whether what is in the file is whole: it was left in order, or this machine has not restarted since."""
    boot = _last_boot(pool)
    return pool.is_clean or (any(boot) and boot == boot_identity())


def _empty(
    pool: Pool, fabric: SharedMemoryFabric, descriptor: int, path: str, size_bytes: int, log: Log, front_end: int
) -> Pool:
    log(
        "pool emptied", path=path, reason="the machine restarted without a clean shutdown of the pool",
        why="its pages reached the disk in any order",
    )
    # The mapping stays: it shows zeros again as soon as the file has its size back.
    entries = pool.layout()["slot_count"]
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, size_bytes)
    return _format(fabric, descriptor, path, entries, front_end)


def _close(fabric: SharedMemoryFabric | None, descriptor: int) -> None:
    if fabric is not None:
        fabric.close()
        return
    try:
        os.close(descriptor)
    except OSError as error:
        # A mapping that failed has closed it already.
        if error.errno != errno.EBADF:
            raise


def _map(descriptor: int, path: str, size_bytes: int) -> SharedMemoryFabric:
    if size_bytes < SUPERBLOCK_BYTES:
        raise PoolError(
            f"pool file {path} holds {size_bytes} bytes and no pool: expected a superblock of {SUPERBLOCK_BYTES} bytes. "
            "It was left as it is: remove it, or choose another path"
        )
    return SharedMemoryFabric(descriptor, size_bytes, path)


def _resize_and_map(descriptor: int, path: str, size_bytes: int) -> SharedMemoryFabric:
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, size_bytes)
    return SharedMemoryFabric(descriptor, size_bytes, path)


def _format(fabric: SharedMemoryFabric, descriptor: int, path: str, index_entries: int | None, front_end: int) -> Pool:
    try:
        pool = Pool.format(fabric, index_entries=index_entries, front_end=front_end)
    except PoolError as error:
        os.ftruncate(descriptor, 0)
        raise PoolError(f"pool file {path}: {error}") from error
    fabric.flush_to_disk()  # else a power failure might leave values on the disk and no superblock before them
    return pool


def _attach(fabric: SharedMemoryFabric, path: str, front_end: int) -> Pool:
    try:
        return Pool.attach(fabric, front_end)
    except PoolError as error:
        raise PoolError(f"pool file {path}: {error}. It was left as it is: remove it to begin with an empty pool") from error


def _check_geometry(pool: Pool, path: str, size_bytes: int, index_entries: int | None) -> None:
    layout = pool.layout()
    if layout["pool_bytes"] != size_bytes:
        raise PoolError(
            f"pool file {path}: found a pool of {layout['pool_bytes']} bytes, expected pool-size {size_bytes}: "
            f"give pool-size {layout['pool_bytes']}, or remove the file to begin with an empty pool"
        )
    if index_entries is not None and layout["set_count"] != -(-index_entries // SLOTS_PER_SET):
        raise PoolError(
            f"pool file {path}: found an index of {layout['slot_count']} entries, expected index-entries {index_entries}: "
            f"give index-entries {layout['slot_count']} or none, or remove the file to begin with an empty pool"
        )


def _last_boot(pool: Pool) -> bytes:
    """Boot under which the pool was last opened; zeros when that cannot be told."""
    record = pool.read(_BOOT_RECORD_OFFSET, _BOOT_RECORD.size)
    if not any(record):
        return pool.boot  # never opened again since it was formatted
    boot, checksum = _BOOT_RECORD.unpack(record)
    return boot if zlib.crc32(boot) == checksum else bytes(16)


def _record_boot(pool: Pool, fabric: SharedMemoryFabric) -> None:
    """Write this boot down, while the clean mark of the one before still stands: a torn record harms nobody then."""
    boot = boot_identity()
    if _last_boot(pool) != boot:
        pool.write(_BOOT_RECORD_OFFSET, _BOOT_RECORD.pack(boot, zlib.crc32(boot)))
        fabric.flush_to_disk()


def _write_holder(lock: int, number: int) -> None:
    """Each front end's process number, for people who look; the proof is the lock. hugetlbfs takes no writes, and does without."""
    with contextlib.suppress(OSError):
        os.pwrite(lock, f"{number:2d} {os.getpid():11d}\n".encode(), number * 15)
