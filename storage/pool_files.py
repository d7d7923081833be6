"""Pool files: opening them, what may stand in the way, and whether one holds anything."""

from __future__ import annotations

import errno
import os

from storage.pool import MAGIC, PoolError

SUPERBLOCK_BYTES = 4096
LARGE_BLOCK_BYTES = 1 << 20  # a file system with larger blocks (hugetlbfs) takes only whole ones
_BLANK_LIMIT_BYTES = 16 << 20  # zeros that are read before a file without a superblock counts as somebody's data


def open_or_create(path: str, what: str) -> int:
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
        raise PoolError(reason(error, path, what)) from error


def reason(error: OSError, path: str, what: str) -> str:
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
        return no_memory(f"{prefix}its memory", error)
    if error.errno == errno.EINVAL:
        return f"{prefix}{error.strerror}: this file system cannot back a pool of that size, choose another"
    return f"{prefix}{error.strerror or error}"


def is_blank(descriptor: int, size_bytes: int) -> bool:
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


def check_space(descriptor: int, path: str, size_bytes: int, allocated_bytes: int) -> None:
    """A sparse file that meets a full file system kills the process in the middle of a write: refuse it up front."""
    system = os.fstatvfs(descriptor)
    if system.f_blocks:
        free_bytes = system.f_bavail * system.f_frsize
    elif system.f_bsize > LARGE_BLOCK_BYTES:
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


def no_memory(what: str, error: Exception) -> str:
    return f"{what} cannot be had ({error}): give a smaller pool-size, or allow the process more memory (ulimit -v, vm.overcommit_memory)"
