"""Node memory: what a memory node lends, anonymous or a file that outlives it, and the few words in it that are the node's own.

The rest belongs to the front ends: one of them formats it. The node's words lie in the superblock outside its checksum:
clean mark, boot record, instance.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from storage import pool_files
from storage.membership import lock_whole
from storage.pool import MAGIC, VERSION, PoolError, boot_identity

LEAST_BYTES = 4 << 20  # the fixed parts of a pool and its 8 pages take about 3 MB
MOST_BYTES = 256 << 30  # what the 22 bits of a page number address
INSTANCE_BYTES = 16

_FABRIC_VERBS = 2
_HEAD = struct.Struct("<8sIIQ")  # magic, version, fabric, pool bytes
_CHECKED_BYTES = 128  # of the superblock; their CRC-32 follows
_CLEAN = slice(1024, 1032)
_BOOT = slice(2048, 2068)
_INSTANCE = slice(3072, 3088)
_BOOT_RECORD = struct.Struct("<16sI")  # boot, CRC-32
_MAP_HUGETLB = 0x40000  # not in Python's mmap
_MEMINFO = Path("/proc/meminfo")

Log = Callable[..., None]


class NodeMemory:
    """The mapped memory of a node. ``instance`` tells whether it is still the one that somebody saw before."""

    def __init__(self, memory: mmap.mmap, *, kept: bool, path: str | None, lock: int, log: Log) -> None:
        self.memory = memory
        self.kept = kept  # holds the pool of an earlier process
        self.path = path
        self.instance = memory[_INSTANCE] if kept else secrets.token_bytes(INSTANCE_BYTES)
        self._lock = lock
        self._log = log

    @property
    def size_bytes(self) -> int:
        """How much memory it is."""
        return len(self.memory)

    @property
    def is_formatted(self) -> bool:
        """Whether a front end has formatted it: the magic is what formatting writes last."""
        return self.memory[: len(MAGIC)] == MAGIC

    def close(self) -> None:
        """Leave a file in order and let go. Only after the region was deregistered: before that its pages may not count as written.

        Harmless when called again.
        """
        if self.memory.closed:
            return
        try:
            if self.path is not None:
                # The mark comes after everything that it vouches for, on the disk too.
                self.memory.flush()
                self.memory[_CLEAN] = (1).to_bytes(8, "little")
                self.memory.flush()
        except OSError as error:
            self._log("pool not marked clean", path=self.path, error=str(error), effect="emptied if the machine restarts")
        finally:
            self.memory.close()
            if self._lock >= 0:
                os.close(self._lock)


def anonymous(size_bytes: int, *, huge_pages: bool, log: Log) -> NodeMemory:
    """Map fresh memory that ends with this process. Raises PoolError with what to do."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if huge_pages:
        page_bytes = _meminfo_bytes("Hugepagesize")
        _check_huge_pages(size_bytes, page_bytes)
        size_bytes = size_bytes // page_bytes * page_bytes
        flags |= _MAP_HUGETLB
    try:
        memory = mmap.mmap(-1, size_bytes, flags=flags)
    except (OSError, ValueError, OverflowError) as error:
        raise PoolError(f"{size_bytes} bytes of memory cannot be had ({error}): give a smaller --size") from None
    if not huge_pages:
        # Fewer translations for the device too, where the kernel can; where it cannot, nothing is lost.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return NodeMemory(memory, kept=False, path=None, lock=-1, log=log)


def file(path: str, size_bytes: int, *, log: Log) -> NodeMemory:
    """Map a file, locked against every other process; a pool that front ends left in it is kept.

    Emptied is one of another boot that was not left in order. Raises PoolError with what to do.
    """
    try:
        lock = pool_files.open_or_create(os.path.realpath(path) + ".lock", "lock file")
        try:
            if not lock_whole(lock, f"pool file {path}"):
                raise PoolError(f"pool file {path} is in use by another process: stop that one, or choose another path")
            return _map_file(path, size_bytes, lock, log)
        except BaseException:
            os.close(lock)
            raise
    except PoolError as error:
        raise PoolError(str(error).replace("pool-size", "--size")) from None  # the words of a front end's own pool files


def _map_file(path: str, size_bytes: int, lock: int, log: Log) -> NodeMemory:
    descriptor = pool_files.open_or_create(os.path.realpath(path), "pool file")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PoolError(f"pool file {path} is no regular file: name one that is, or one that does not exist yet")
        # The pool file too: another name of it (a hard link, a bind mount) has another lock file.
        if not lock_whole(descriptor, f"pool file {path}"):
            raise PoolError(f"pool file {path} is in use by another process under another name")
        block_bytes = os.fstatvfs(descriptor).f_bsize
        if block_bytes > pool_files.LARGE_BLOCK_BYTES:
            size_bytes = size_bytes // block_bytes * block_bytes
        is_blank = _is_blank(descriptor, status.st_size)
        pool_files.check_space(descriptor, path, size_bytes, 0 if is_blank else status.st_blocks * 512)
        if not is_blank:
            is_blank = not _is_kept(descriptor, path, size_bytes, status.st_size, log)
        if is_blank:
            os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, size_bytes)
        memory = mmap.mmap(descriptor, size_bytes, flags=mmap.MAP_SHARED)
        node = NodeMemory(memory, kept=not is_blank, path=path, lock=lock, log=log)  # the mapping keeps the open file, and its lock
        _begin(node)
        with contextlib.suppress(OSError):  # for people who look; hugetlbfs takes no writes
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return node
    except OSError as error:
        raise PoolError(pool_files.reason(error, path, "pool file")) from error
    finally:
        os.close(descriptor)


def _begin(node: NodeMemory) -> None:
    """Write down under which boot the file is in use and whose it is, then take the clean mark away."""
    boot, memory = boot_identity(), node.memory
    memory[_BOOT] = _BOOT_RECORD.pack(boot, zlib.crc32(boot))
    memory[_INSTANCE] = node.instance
    memory.flush(0, pool_files.SUPERBLOCK_BYTES)  # while the mark of the boot before still stands
    memory[_CLEAN] = bytes(8)
    memory.flush(0, pool_files.SUPERBLOCK_BYTES)


def _last_boot(block: bytes) -> bytes:
    """Return the boot under which a node last used the file; nothing when none did."""
    if len(block) < pool_files.SUPERBLOCK_BYTES:
        return b""
    boot, checksum = _BOOT_RECORD.unpack(block[_BOOT])
    return boot if any(boot) and zlib.crc32(boot) == checksum else b""


def _is_blank(descriptor: int, size_bytes: int) -> bool:
    """Whether nothing was ever stored in the file: it is new, or its node ended before a front end had formatted it.

    The latter cannot be told by looking for zeros: registering a file allocates all of it.
    """
    if size_bytes == 0:
        return True
    block = os.pread(descriptor, pool_files.SUPERBLOCK_BYTES, 0)
    if block[: len(MAGIC)].strip(b"\0"):
        return False
    return bool(_last_boot(block)) or pool_files.is_blank(descriptor, size_bytes)


def _is_kept(descriptor: int, path: str, size_bytes: int, found_bytes: int, log: Log) -> bool:
    """Whether the pool in the file is kept. Raises PoolError for what must not be touched."""
    block = os.pread(descriptor, pool_files.SUPERBLOCK_BYTES, 0)
    left = "It was left as it is: remove it to begin with an empty pool"
    if len(block) < pool_files.SUPERBLOCK_BYTES or block[: len(MAGIC)] != MAGIC:
        raise PoolError(f"pool file {path} holds other data, not a pool. {left}, or choose another path")
    _magic, version, fabric, pool_bytes = _HEAD.unpack_from(block)
    if version != VERSION:
        raise PoolError(f"pool file {path}: pool layout version {version}, this kvcd reads version {VERSION}. {left}")
    if struct.unpack_from("<I", block, _CHECKED_BYTES)[0] != zlib.crc32(block[:_CHECKED_BYTES]):
        raise PoolError(f"pool file {path}: damaged superblock, its checksum is wrong. {left}")
    if fabric != _FABRIC_VERBS:
        raise PoolError(f"pool file {path}: a front end's own pool, not one of a memory node. {left}, or choose another path")
    if not pool_bytes == found_bytes == size_bytes:
        raise PoolError(
            f"pool file {path}: found a pool of {pool_bytes} bytes in {found_bytes}, expected --size {size_bytes}: "
            f"give --size {found_bytes}, or remove the file to begin with an empty pool"
        )
    if _last_boot(block) == boot_identity() or int.from_bytes(block[_CLEAN], "little") == 1:
        return True
    log(
        "pool emptied", path=path, reason="the machine restarted without a clean shutdown of the memory node",
        why="its pages reached the disk in any order",
    )
    return False


def _check_huge_pages(size_bytes: int, page_bytes: int) -> None:
    if page_bytes == 0:
        raise PoolError("this kernel has no huge pages: leave --huge-pages out")
    free = _meminfo_bytes("HugePages_Free") - _meminfo_bytes("HugePages_Rsvd")
    wanted = size_bytes // page_bytes
    if wanted == 0:
        raise PoolError(f"a huge page has {page_bytes} bytes: give --size at least that, or leave --huge-pages out")
    if wanted > free:
        raise PoolError(
            f"{wanted} huge pages of {page_bytes >> 10} KiB are needed, {free} are free: sysctl vm.nr_hugepages={wanted} "
            "(soon after boot, while memory is in one piece), or leave --huge-pages out"
        )


def _meminfo_bytes(name: str) -> int:
    """Return a line of /proc/meminfo, in bytes or as a count; 0 when there is no such line."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith(f"{name}:"):
                words = line.split()
                return int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    return 0
