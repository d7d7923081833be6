# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""LZF: unpacks what redis-server packed, piece by piece: it keeps the last 8 KiB of the output, never all of it.

The format (Marc Lehmann's LibLZF): a byte below 32 announces that many literal bytes and one more. Any other is a reference: three
bits of length (7: another byte is added), then 13 bits of distance; it copies length + 2 bytes from distance + 1 bytes ago.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memmove

cdef enum:
    CONTROL = 0      # a control byte comes next
    LITERAL = 1      # literal bytes
    LENGTH = 2       # the byte that is added to a length
    DISTANCE = 3     # the lower half of a distance
    COPY = 4         # a reference is being copied

@cython.final
cdef class LzfUnpacker:
    """One value after the other; what a call unpacked lies in ``output[begin:end]`` until the next."""

    cdef void start(self, uint64_t size) noexcept nogil:
        """A value of ``size`` bytes begins."""
        self.begin = self.end = LZF_HISTORY
        self.left = size
        self.unpacked = 0
        self.state = CONTROL
        self.wrong = NULL

    cdef size_t unpack(self, const unsigned char *data, size_t length) noexcept nogil:
        """Take packed bytes; how many were taken: fewer than given when the piece is full, or ``wrong`` says why not."""
        cdef size_t at = 0
        cdef uint32_t count, control, room
        # What was unpacked before becomes history.
        if self.end > LZF_HISTORY:
            memmove(self.output, self.output + self.end - LZF_HISTORY, LZF_HISTORY)
        self.begin = self.end = LZF_HISTORY
        while self.wrong == NULL:
            room = LZF_HISTORY + LZF_PIECE - self.end
            if self.state == COPY:
                if room == 0:
                    break
                count = self.run if self.run < room else room
                self._copy(count)
                self._filled(count)
                continue
            if at == length:
                break
            if self.state == CONTROL:
                control = data[at]
                at += 1
                if control < 32:
                    self.run = control + 1
                    self.state = LITERAL
                else:
                    self.run = (control >> 5) + 2
                    self.distance = (control & 31) << 8
                    self.state = LENGTH if control >> 5 == 7 else DISTANCE
                    continue
                if self.run > self.left:
                    self.wrong = "packed data yields more than it should"
            elif self.state == LENGTH:
                self.run += data[at]
                at += 1
                self.state = DISTANCE
            elif self.state == DISTANCE:
                self.distance += data[at] + 1
                at += 1
                self.state = COPY
                if self.run > self.left:
                    self.wrong = "packed data yields more than it should"
                elif self.distance > self.unpacked:
                    self.wrong = "packed data refers to what lies before its beginning"
            else:
                if room == 0:
                    break
                count = self.run if self.run < room else room
                if count > length - at:
                    count = <uint32_t>(length - at)
                memcpy(self.output + self.end, data + at, count)
                at += count
                self._filled(count)
        return at

    cdef bint is_idle(self) noexcept nogil:
        """Whether nothing is begun that needs more bytes, or more room."""
        return self.state == CONTROL

    cdef void _copy(self, uint32_t count) noexcept nogil:
        """A reference may reach into what it writes itself: such bytes go one by one."""
        cdef unsigned char *target = self.output + self.end
        cdef uint32_t i
        if self.distance >= count:
            memcpy(target, target - self.distance, count)
            return
        for i in range(count):
            target[i] = (target - self.distance)[i]

    cdef void _filled(self, uint32_t count) noexcept nogil:
        self.end += count
        self.unpacked += count
        self.left -= count
        self.run -= count
        if self.run == 0:
            self.state = CONTROL


def unpack(const unsigned char[::1] data not None, uint64_t size) -> bytes:
    """Return the ``size`` bytes that ``data`` packs; ValueError with what is wrong with it."""
    cdef LzfUnpacker unpacker = LzfUnpacker()
    cdef size_t at = 0, length = <size_t>data.shape[0]
    cdef list pieces = []
    unpacker.start(size)
    while True:
        at += unpacker.unpack(&data[at] if at < length else NULL, length - at)
        if unpacker.wrong != NULL:
            raise ValueError((<bytes>unpacker.wrong).decode())
        if unpacker.end == unpacker.begin:
            break
        pieces.append(unpacker.output[unpacker.begin:unpacker.end])
    if unpacker.left or unpacker.state != CONTROL or at != length:
        raise ValueError("packed data yields less than it should")
    return b"".join(pieces)
