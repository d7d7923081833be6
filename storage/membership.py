"""Membership: the locks that prove which front ends of a pool in memory of this machine live."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from storage.pool import PoolError

FRONT_ENDS = 64  # rows of a pool's front-end table
_GATE = FRONT_ENDS  # the byte of who enters or leaves
_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid (0 for OFD locks)
_GATE_LIMIT_S = 120.0  # another front end formats, recovers or loads the pool meanwhile: 64 GiB take seconds
_GATE_PAUSE_S = 0.02


class Membership(Protocol):
    """Who else uses a pool, and who is proven to be gone."""

    def prove_dead(self, number: int, incarnation: int) -> bool:
        """Whether front end ``number`` is gone for good; if so nobody can become it until ``release``."""
        ...

    def release(self, number: int) -> None:
        """The proof is not needed any more: the number may be had again."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """What ``enter`` gives: a number, and whether nobody else lives."""

    number: int
    alone: bool


class FrontEndLocks:
    """One byte for each front end, locked by it for as long as its process lives.

    OFD locks: they belong to the open file, end with the last descriptor of it however the process ends, and work between
    containers, where process numbers do not. ``descriptors`` are open files of this process alone (close-on-exec, never
    inherited): the pool itself, and its lock file where it has one, which still proves something when the pool file was replaced.
    """

    def __init__(self, descriptors: Sequence[int], where: str) -> None:
        self._descriptors = tuple(descriptors)
        self._where = where
        self.number = -1

    def enter(self) -> Place:
        """Take a number. The gate stays shut behind it until ``open_gate``: one at a time formats, recovers or attaches.

        Raises PoolError when all numbers are taken or the gate stays shut.
        """
        self._shut_gate()
        try:
            taken = [number for number in range(FRONT_ENDS) if self._is_held(self._descriptors[0], number)]
            for descriptor in self._descriptors[1:]:
                stray = [number for number in range(FRONT_ENDS) if number not in taken and self._is_held(descriptor, number)]
                if stray:
                    raise PoolError(
                        f"{self._where} was replaced while it was in use (its lock file is held by front end {stray[0]} of the old "
                        "one): stop what uses the old one, or choose another path"
                    )
            for number in range(FRONT_ENDS):
                if number not in taken and self._lock_all(number):
                    self.number = number
                    return Place(number, alone=not taken)
        except BaseException:
            self.open_gate()
            raise
        self.open_gate()
        raise PoolError(f"{self._where} is in use by {FRONT_ENDS} front ends, which is the most: stop one of them")

    def open_gate(self) -> None:
        """Others may enter and leave from now on."""
        _unlock(self._descriptors[0], _GATE)

    @contextlib.contextmanager
    def leaving(self) -> Iterator[bool]:
        """Shut the gate and say whether this is the last one; afterwards the number is free."""
        self._shut_gate()
        try:
            yield not any(self._is_held(self._descriptors[0], number) for number in range(FRONT_ENDS) if number != self.number)
        finally:
            self.release(self.number)
            self.open_gate()

    def prove_dead(self, number: int, incarnation: int) -> bool:
        """Whether that front end is gone for good, whatever its incarnation; if so its number is held until ``release``."""
        return number != self.number and self._lock_all(number)

    def release(self, number: int) -> None:
        """Let go of a number."""
        for descriptor in self._descriptors:
            _unlock(descriptor, number)

    def _shut_gate(self) -> None:
        deadline_s = time.monotonic() + _GATE_LIMIT_S
        while not try_lock(self._descriptors[0], _GATE, where=self._where):
            if time.monotonic() > deadline_s:
                raise PoolError(f"{self._where} is being opened by another process for more than {_GATE_LIMIT_S:.0f} s: see what it does")
            time.sleep(_GATE_PAUSE_S)  # at start and end, when there is nobody to serve

    def _lock_all(self, number: int) -> bool:
        for done, descriptor in enumerate(self._descriptors):
            if not try_lock(descriptor, number, where=self._where):
                for earlier in self._descriptors[:done]:
                    _unlock(earlier, number)
                return False
        return True

    def _is_held(self, descriptor: int, number: int) -> bool:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def lock_whole(descriptor: int, where: str) -> bool:
    """Take every front end's byte and the gate: nobody else may use what is locked so (a memory node)."""
    return try_lock(descriptor, 0, FRONT_ENDS + 1, where=where)


def try_lock(descriptor: int, first: int, count: int = 1, *, where: str) -> bool:
    """Lock bytes for this open file; False when somebody else holds one. Raises PoolError where there are no locks."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise PoolError(f"{where}: its file system gives no locks ({error.strerror}): choose a path on a local one") from error
    return True


def _unlock(descriptor: int, byte: int) -> None:
    with contextlib.suppress(OSError):  # a descriptor that is closed already holds nothing
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))
