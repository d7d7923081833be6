# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""RDB encoder: turns keys and values into a snapshot that redis-server 7.0 loads (version 10, strings)."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from protocol.crc64 cimport crc64_of
from protocol.rdb cimport (
    CHECKSUM_BYTES,
    LENGTH_32_BITS,
    LENGTH_64_BITS,
    OPCODE_AUX,
    OPCODE_END,
    OPCODE_EXPIRE_MS,
    OPCODE_RESIZE_DATABASE,
    OPCODE_SELECT_DATABASE,
    TYPE_STRING,
    WRITTEN_VERSION,
)

cdef enum:
    LENGTH_BYTES_MAX = 9
    BUFFER_BYTES = 65536

CHAIN_FIELD = b"kvcd-chain"  # AUX before a block of a chain: its depth, a blank, and its parent's key where that was known


@cython.final
cdef class RdbEncoder:
    """Builds a snapshot in pieces: call what is to come next, ``take`` what is ready, write it out.

    Order: ``aux`` fields, then for each database (in any order, repeatedly) ``select_database`` and its values, then ``finish``.
    """

    cdef char *buffer
    cdef size_t length, capacity
    cdef uint64_t crc
    cdef uint64_t value_left         # bytes that the value under way still lacks
    cdef readonly uint64_t taken_bytes
    cdef readonly bint checksum
    cdef bint finished

    def __cinit__(self, bint checksum=True):
        self.checksum = checksum
        self._bytes(b"REDIS%04d" % WRITTEN_VERSION)

    def __dealloc__(self):
        PyMem_Free(self.buffer)

    # ------------------------------------------------------------------ pieces

    cdef int _reserve(self, size_t wanted) except -1:
        cdef size_t capacity = self.capacity if self.capacity else BUFFER_BYTES
        cdef char *buffer
        if self.length + wanted <= self.capacity:
            return 0
        while capacity < self.length + wanted:
            capacity *= 2
        buffer = <char *>PyMem_Realloc(self.buffer, capacity)
        if buffer == NULL:
            raise MemoryError("no memory for a snapshot's buffer")
        self.buffer = buffer
        self.capacity = capacity
        return 0

    cdef int _copy(self, const char *data, size_t length) except -1:
        self._reserve(length)
        memcpy(self.buffer + self.length, data, length)
        self.length += length
        return 0

    cdef int _bytes(self, bytes data) except -1:
        return self._copy(PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))

    cdef int _byte(self, uint8_t value) except -1:
        return self._copy(<char *>&value, 1)

    cdef int _length(self, uint64_t value) except -1:
        """Big-endian behind its first byte; the shortest form, as redis-server writes it."""
        cdef uint8_t out[LENGTH_BYTES_MAX]
        cdef int i, size
        if value < 1 << 6:
            return self._byte(<uint8_t>value)
        if value < 1 << 14:
            out[0] = <uint8_t>(0x40 | value >> 8)
            out[1] = <uint8_t>value
            return self._copy(<char *>out, 2)
        size = 4 if value <= <uint64_t>0xFFFFFFFF else 8
        out[0] = LENGTH_32_BITS if size == 4 else LENGTH_64_BITS
        for i in range(size):
            out[1 + i] = <uint8_t>(value >> (8 * (size - 1 - i)))
        return self._copy(<char *>out, 1 + size)

    cdef int _string(self, bytes data) except -1:
        self._length(<uint64_t>PyBytes_GET_SIZE(data))
        return self._bytes(data)

    cdef int _head(self, bytes key, int64_t expire_at_ms, bytes parent, uint32_t depth) except -1:
        """Everything of an entry before its value. Expiry little-endian, unlike lengths."""
        if self.value_left or self.finished:
            raise ValueError("the value before this one is not complete, or the snapshot is finished")
        if depth or parent is not None:
            self.aux(CHAIN_FIELD, b"%d" % depth if parent is None else b"%d %b" % (depth, parent))
        if expire_at_ms >= 0:
            self._byte(OPCODE_EXPIRE_MS)
            self._copy(<char *>&expire_at_ms, 8)
        self._byte(TYPE_STRING)
        return self._string(key)

    # ------------------------------------------------------------------ surface

    def aux(self, bytes name, bytes value) -> None:
        """A fact about the snapshot, which readers that do not know its name pass over."""
        self._byte(OPCODE_AUX)
        self._string(name)
        self._string(value)

    def select_database(self, uint64_t number) -> None:
        """The values that follow belong to this database."""
        self._byte(OPCODE_SELECT_DATABASE)
        self._length(number)

    def resize_database(self, *, uint64_t keys, uint64_t expires) -> None:
        """About how many keys the selected database will get, so that a reader can make room once."""
        self._byte(OPCODE_RESIZE_DATABASE)
        self._length(keys)
        self._length(expires)

    def add(self, bytes key, bytes value, *, int64_t expire_at_ms=-1, bytes parent=None, uint32_t depth=0) -> None:
        """One key and its value; ``expire_at_ms`` in Unix milliseconds, -1 without."""
        self._head(key, expire_at_ms, parent, depth)
        self._string(value)

    def begin_value(self, bytes key, uint64_t size_bytes, *, int64_t expire_at_ms=-1, bytes parent=None, uint32_t depth=0) -> None:
        """One key, whose value follows through ``pass_by``."""
        self._head(key, expire_at_ms, parent, depth)
        self._length(size_bytes)
        self.value_left = size_bytes

    def pass_by(self, const unsigned char[::1] piece not None) -> None:
        """Count in the next piece of the value that was begun. The caller writes it out itself, after what ``take`` had ready."""
        cdef size_t length = <size_t>piece.shape[0]
        if self.length:
            raise ValueError("take what is ready before the value's pieces")
        if length > self.value_left:
            raise ValueError("more bytes than the value was said to have")
        if length == 0:
            return
        if self.checksum:
            with nogil:
                self.crc = crc64_of(self.crc, &piece[0], length)
        self.value_left -= length
        self.taken_bytes += length

    def finish(self) -> None:
        """The end of the snapshot: ``take`` has the last bytes then, the checksum among them (zeros without one)."""
        cdef uint64_t crc = 0
        if self.value_left or self.finished:
            raise ValueError("the value before the end is not complete, or the snapshot is finished")
        self._byte(OPCODE_END)
        if self.checksum:
            crc = crc64_of(self.crc, <unsigned char *>self.buffer, self.length)
        self._copy(<char *>&crc, CHECKSUM_BYTES)
        self.finished = True

    @property
    def ready_bytes(self) -> int:
        """How much ``take`` would return."""
        return self.length

    def take(self) -> bytes:
        """Return what is ready to be written, and forget it."""
        cdef bytes out = PyBytes_FromStringAndSize(self.buffer, <Py_ssize_t>self.length)
        if self.checksum and not self.finished:
            self.crc = crc64_of(self.crc, <unsigned char *>self.buffer, self.length)
        self.taken_bytes += self.length
        self.length = 0
        return out
