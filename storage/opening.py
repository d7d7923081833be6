"""Opening: turns a pool's URL into a pool that this process alone may use, new or as an earlier process left it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.fabric.shm import SharedMemoryFabric
from storage.pool import MAGIC, Pool, PoolError, boot_identity

SUPERBLOCK_BYTES = 4096
SLOTS_PER_SET = 7
# Boot under which the pool was last opened, outside the superblock's checksum so that no kill can tear that.
_BOOT_RECORD_OFFSET = 2048
_BOOT_RECORD = struct.Struct("<16sI")
_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid (0 for OFD locks)
_LARGE_BLOCK_BYTES = 1 << 20  # a file system with larger blocks (hugetlbfs) takes only whole ones
_BLANK_LIMIT_BYTES = 16 << 20  # zeros that are read before a file without a superblock counts as somebody's data
_URLS = "shm: (memory of this process), file:PATH (a file on tmpfs, hugetlbfs or a disk) or verbs://HOST:PORT,... (memory nodes)"

Log = Callable[..., None]


@dataclass(slots=True)
class OpenedPool:
    """A pool and the right to use it, until ``close``.

    ``recovered`` says that the pool holds the values of an earlier process: ``storage.recovery.recover`` must run on the
    store before its first request.
    """

    pool: Pool
    recovered: bool
    path: str | None  # of a file pool
    _fabric: SharedMemoryFabric
    _log: Log
    _lock: int = -1
    _closed: bool = field(default=False, init=False)

    def close(self) -> None:
        """Leave the pool in order and let go of it; a file pool's content survives even a reboot after that.

        Nothing may use the pool afterwards, so transports that still send from its pages are closed first. Harmless when
        called again.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self.path is not None:
                # The mark comes after everything that it vouches for, on the disk too.
                self._fabric.flush_to_disk()
                self.pool.mark_clean(True)
                self._fabric.flush_to_disk()
        except OSError as error:
            self._log("pool not marked clean", path=self.path, error=str(error), effect="emptied if the machine restarts")
        finally:
            self._fabric.close()
            if self._lock >= 0:
                os.close(self._lock)


def open_pool(
    url: str, *, pool_size_bytes: int, index_entries: int | None, log: Log, pool_size_is_default: bool = False
) -> OpenedPool:
    """Open or make the pool that ``url`` names, as front end 0 and alone.

    ``index_entries`` None takes what an existing pool has, else the default; with ``pool_size_is_default`` an existing
    file keeps its size too. ``log`` gets an event and key=value facts. Raises PoolError with what to do.
    """
    path = _path_of(url)
    if path is None:
        return _open_memory(pool_size_bytes, index_entries, log)
    lock = _take_lock(path)
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


def _open_memory(size_bytes: int, index_entries: int | None, log: Log) -> OpenedPool:
    try:
        fabric = SharedMemoryFabric.memory(size_bytes)
    except (OSError, OverflowError) as error:
        raise PoolError(_no_memory(f"a pool of {size_bytes} bytes in memory", error)) from error
    try:
        return OpenedPool(Pool.format(fabric, index_entries=index_entries), False, None, fabric, log)
    except BaseException:
        fabric.close()
        raise


def _no_memory(what: str, error: Exception) -> str:
    return f"{what} cannot be had ({error}): give a smaller pool-size, or allow the process more memory (ulimit -v, vm.overcommit_memory)"


# --------------------------------------------------------------------- files


def _open_file(
    path: str, size_bytes: int, size_is_default: bool, index_entries: int | None, log: Log, lock: int
) -> OpenedPool:
    descriptor = _open_or_create(os.path.realpath(path), "pool file")
    fabric: SharedMemoryFabric | None = None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PoolError(f"pool file {path} is no regular file: name one that is, or one that does not exist yet")
        # The pool file too: another name of it (a hard link, a bind mount) has another lock file.
        if not _lock_byte(descriptor, path):
            raise PoolError(f"pool file {path} is in use by another process under another name")
        is_new = status.st_size == 0 or _is_blank(descriptor, status.st_size)
        block_bytes = os.fstatvfs(descriptor).f_bsize
        if block_bytes > _LARGE_BLOCK_BYTES:
            size_bytes = size_bytes // block_bytes * block_bytes
        if not is_new and size_is_default:
            size_bytes = status.st_size
        _check_space(descriptor, path, size_bytes, 0 if is_new else status.st_blocks * 512)
        recovered = False
        if is_new:
            fabric = _resize_and_map(descriptor, path, size_bytes)
            pool = _format(fabric, descriptor, path, index_entries)
        else:
            fabric = _map(descriptor, path, status.st_size)
            pool = _attach(fabric, path)
            _check_geometry(pool, path, size_bytes, index_entries)
            boot = _last_boot(pool)
            recovered = pool.is_clean or (any(boot) and boot == boot_identity())
            if not recovered:
                log(
                    "pool emptied", path=path, reason="the machine restarted without a clean shutdown of the pool",
                    why="its pages reached the disk in any order",
                )
                # The mapping stays: it shows zeros again as soon as the file has its size back.
                entries = pool.layout()["slot_count"]
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size_bytes)
                pool = _format(fabric, descriptor, path, entries)
        # On the disk before the first change is: a mark that is older than what it vouches for would be a lie.
        _record_boot(pool, fabric)
        pool.mark_clean(False)
        fabric.flush_to_disk()
        _write_holder(lock)
        return OpenedPool(pool, recovered, path, fabric, log, lock)
    except OSError as error:
        _close(fabric, descriptor)
        raise PoolError(_reason(error, path, "pool file")) from error
    except BaseException:
        _close(fabric, descriptor)
        raise


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


def _open_or_create(path: str, what: str) -> int:
    """Open for reading and writing.

    Without O_CREAT where the file exists: the kernel (fs.protected_regular) refuses O_CREAT on another user's file in a
    sticky directory such as /dev/shm, even to root.
    """
    try:
        for _attempt in range(8):
            try:
                return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                try:
                    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                except FileExistsError:
                    continue
        raise PoolError(f"{what} {path} comes and goes, or is a link to nowhere: choose another path")
    except OSError as error:
        raise PoolError(_reason(error, path, what)) from error


def _reason(error: OSError, path: str, what: str) -> str:
    """Say what stands in the way and what removes it."""
    prefix = f"{what} {path}: "
    if error.errno == errno.EISDIR:
        return f"{prefix}this is a directory: name a file in it"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{prefix}{os.path.dirname(path) or '.'} is no directory: create it, or choose another path"
    if error.errno in (errno.EACCES, errno.EPERM):
        try:
            owner = f"it belongs to user {os.stat(path).st_uid}"
        except OSError:
            owner = "its directory is closed to it"
        return (
            f"{prefix}this process (user {os.geteuid()}) may not open it for writing, {owner}: "
            "change owner or mode, run as that user, or choose another path"
        )
    if error.errno == errno.EROFS:
        return f"{prefix}the file system is read-only: choose a path on another"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{prefix}no space is left: free some, give a smaller pool-size, or choose a path on another file system"
    if error.errno == errno.EFBIG:
        return f"{prefix}larger than this file system or this process (ulimit -f) allows: give a smaller pool-size"
    if error.errno == errno.ENOMEM:
        return _no_memory(f"{prefix}its memory", error)
    if error.errno == errno.EINVAL:
        return f"{prefix}{error.strerror}: this file system cannot back a pool of that size, choose another"
    return f"{prefix}{error.strerror or error}"


def _is_blank(descriptor: int, size_bytes: int) -> bool:
    """Whether the file is what a process leaves that was killed before it finished a superblock.

    The magic is written last, so it is absent; and behind the superblock there is nothing but zeros.
    """
    if os.pread(descriptor, len(MAGIC), 0).strip(b"\0"):
        return False
    position, looked = SUPERBLOCK_BYTES, 0
    while position < size_bytes:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO  # no data from here to the end
        piece = os.pread(descriptor, 1 << 20, position)
        looked += len(piece)
        if piece.strip(b"\0") or looked > _BLANK_LIMIT_BYTES:
            return False
        position += max(1, len(piece))
    return True


def _check_space(descriptor: int, path: str, size_bytes: int, allocated_bytes: int) -> None:
    """A sparse file that meets a full file system kills the process in the middle of a write: refuse it up front."""
    system = os.fstatvfs(descriptor)
    if system.f_blocks:
        free_bytes = system.f_bavail * system.f_frsize
    elif system.f_bsize > _LARGE_BLOCK_BYTES:
        try:  # hugetlbfs without a limit of its own: the free huge pages of that size
            with open(f"/sys/kernel/mm/hugepages/hugepages-{system.f_bsize // 1024}kB/free_hugepages") as file:
                free_bytes = int(file.read()) * system.f_bsize
        except (OSError, ValueError):
            return
    else:
        return  # tmpfs without a limit
    if size_bytes - allocated_bytes > free_bytes:
        raise PoolError(
            f"pool file {path}: a pool of {size_bytes} bytes needs {size_bytes - allocated_bytes} more bytes, its file system has "
            f"{free_bytes} free: give pool-size at most {free_bytes + allocated_bytes}, or choose a path on a larger one"
        )


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


def _format(fabric: SharedMemoryFabric, descriptor: int, path: str, index_entries: int | None) -> Pool:
    try:
        pool = Pool.format(fabric, index_entries=index_entries)
    except PoolError as error:
        os.ftruncate(descriptor, 0)
        raise PoolError(f"pool file {path}: {error}") from error
    fabric.flush_to_disk()  # else a power failure might leave values on the disk and no superblock before them
    return pool


def _attach(fabric: SharedMemoryFabric, path: str) -> Pool:
    try:
        return Pool.attach(fabric)
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


# --------------------------------------------------------------------- locks


def _lock_byte(descriptor: int, path: str) -> bool:
    """Take front end 0's byte for this open file; False when somebody else holds it.

    An OFD lock: it belongs to the open file, ends with the last descriptor of it however the process ends, and works
    between containers, where process numbers do not.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise PoolError(
            f"pool file {path}: its file system gives no locks ({error.strerror}): choose a path on a local one"
        ) from error
    return True


def _take_lock(path: str) -> int:
    """Hold PATH.lock, or raise PoolError. The file stays behind: removing it would let two processes in."""
    lock_path = os.path.realpath(path) + ".lock"
    lock = _open_or_create(lock_path, "lock file")
    try:
        if not _lock_byte(lock, path):
            holder = os.pread(lock, 32, 0).strip(b"\0\n").decode("ascii", "replace")
            raise PoolError(
                f"pool file {path} is in use by another process"
                + (f" (process {holder}, as its lock file says)" if holder else "")
                + ": stop that one, or choose another path"
            )
    except BaseException:
        os.close(lock)
        raise
    return lock


def _write_holder(lock: int) -> None:
    """For people who look; the proof is the lock. hugetlbfs takes no writes, and does without."""
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
