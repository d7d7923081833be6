"""Loading mark: a word of the superblock that says how far a new pool has come with what it begins with."""

from __future__ import annotations

import enum
import struct

from storage.pool import Pool

_OFFSET = 2304  # in the superblock, outside its checksum; zeros in a new pool
_MARK = struct.Struct("<Q")


class Loading(enum.IntEnum):
    """How far."""

    NOT_BEGUN = 0  # whoever made the pool has not looked for anything to load yet
    UNDER_WAY = 1  # found by one who is alone: a kill came in between, what is there is a part
    DONE = 2


def loading_mark(pool: Pool) -> Loading:
    """Return the mark; one that cannot be read says that nothing is whole."""
    (value,) = _MARK.unpack(pool.read(_OFFSET, _MARK.size))
    return Loading(value) if value in tuple(Loading) else Loading.UNDER_WAY


def set_loading_mark(pool: Pool, mark: Loading) -> None:
    """Write the mark. Only for who is alone in the pool."""
    pool.write(_OFFSET, _MARK.pack(mark))
