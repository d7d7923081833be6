# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Removals: the keys that expired or were evicted, for whoever wants to tell of them.

The engine notes them where it removes them, without the interpreter; the store hands them out in their order.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef enum:
    ROOM_BYTES = 1048576    # some 20 000 keys of 50 bytes: several turns of background work
    RECORD_HEAD_BYTES = 4


cdef class Removals:
    """A bounded queue; what finds no room is counted."""

    def __cinit__(self):
        self.records = <char *>malloc(ROOM_BYTES)
        if self.records == NULL:
            raise MemoryError("no memory for the keys that are removed")

    def __dealloc__(self):
        free(self.records)

    cdef void note(self, uint8_t reason, uint8_t database, const char *key, uint32_t key_bytes) noexcept nogil:
        cdef char *place = self.records + self.used_bytes
        cdef uint16_t length = <uint16_t>key_bytes
        if self.used_bytes + RECORD_HEAD_BYTES + key_bytes > ROOM_BYTES:
            self.lost += 1
            return
        place[0] = <char>reason
        place[1] = <char>database
        memcpy(place + 2, &length, 2)
        memcpy(place + RECORD_HEAD_BYTES, key, key_bytes)
        self.used_bytes += RECORD_HEAD_BYTES + key_bytes

    def take(self) -> list:
        """Whether each was evicted, its database and its key, oldest first; the queue is empty then."""
        cdef list taken = []
        cdef size_t position = 0
        cdef uint16_t length
        while position < self.used_bytes:
            memcpy(&length, self.records + position + 2, 2)
            taken.append((
                self.records[position] == REMOVED_EVICTED, <uint8_t>self.records[position + 1],
                PyBytes_FromStringAndSize(self.records + position + RECORD_HEAD_BYTES, length),
            ))
            position += RECORD_HEAD_BYTES + length
        self.used_bytes = 0
        return taken

    def take_lost(self) -> int:
        """How many found no room since this was asked last."""
        lost, self.lost = self.lost, 0
        return lost
