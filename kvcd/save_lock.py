"""Save lock: one save of a snapshot file at a time, whichever process asks for it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid (0 for OFD locks)


def take_save_lock(path: str) -> int | None:
    """Lock the snapshot at ``path`` and return the descriptor that holds it, or None while somebody else does.

    The lock belongs to the open file: whoever inherits the descriptor holds it too, and it ends with the last of them, however
    that ends. Its file stays behind. Raises OSError where there can be none.
    """
    folder, name = os.path.split(path)
    descriptor = os.open(os.path.join(folder, f".{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    return descriptor
