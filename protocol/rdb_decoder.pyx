# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""RDB decoder: finds keys and string values in a snapshot's bytes, however these are split, and checks all of it."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from protocol.crc64 cimport crc64_of
from protocol.lzf cimport LzfUnpacker
from protocol.rdb cimport (
    CHECKSUM_BYTES,
    CHECKSUM_VERSION,
    ENCODED_INT16,
    ENCODED_INT32,
    ENCODED_INT8,
    ENCODED_LZF,
    LENGTH_14_BITS,
    LENGTH_32_BITS,
    LENGTH_64_BITS,
    LENGTH_6_BITS,
    LENGTH_ENCODED,
    MAGIC_BYTES,
    NEWEST_VERSION,
    OPCODE_AUX,
    OPCODE_END,
    OPCODE_EXPIRE_MS,
    OPCODE_EXPIRE_S,
    OPCODE_FREQUENCY,
    OPCODE_FUNCTION,
    OPCODE_FUNCTION_PREVIEW,
    OPCODE_IDLE,
    OPCODE_MODULE_AUX,
    OPCODE_RESIZE_DATABASE,
    OPCODE_SELECT_DATABASE,
    TYPE_STRING,
)

from protocol.rdb_encoder import CHAIN_FIELD

cdef enum:
    WHOLE_BYTES = 65536           # larger values are handed on in pieces
    NAME_BYTES_MAX = 1048576      # of a key or an AUX field: they are gathered, and nobody's is that long
    VALUE_BYTES_MAX = 536870912   # Redis's largest string
    FACTS_MAX = 64                # AUX fields that are kept

cdef enum Mode:
    MODE_ITEM = 0
    MODE_VALUE = 1       # bytes of a large value
    MODE_PACKED = 2      # LZF bytes of one
    MODE_SKIP = 3        # bytes that nobody wants
    MODE_END = 4

# What a piece of a snapshot turned out to be.
cdef enum Outcome:
    SHORT = 0            # more bytes are needed
    WHOLE = 1

cdef object chain_field = CHAIN_FIELD
_TYPES = {
    1: "list", 2: "set", 3: "sorted set", 4: "hash", 5: "sorted set", 6: "module value", 7: "module value", 9: "hash", 10: "list",
    11: "set", 12: "sorted set", 13: "hash", 14: "list", 15: "stream", 16: "hash", 17: "sorted set", 18: "list", 19: "stream",
    20: "set", 21: "stream",
}


class RdbError(ValueError):
    """A snapshot that cannot be read: ``offset`` is where (bytes from its beginning), ``reason`` is why."""

    offset = 0
    reason = ""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


@cython.final
@cython.freelist(256)
cdef class RdbEntry:
    """A key of a snapshot. ``value`` None: it is large and follows in pieces, ``size_bytes`` in all."""

    cdef readonly uint32_t database
    cdef readonly bytes key
    cdef readonly bytes value
    cdef readonly uint64_t size_bytes
    cdef readonly int64_t expire_at_ms   # Unix milliseconds, -1 without
    cdef readonly bytes parent           # of a block of a chain, where it is known
    cdef readonly uint32_t depth


# A string in the buffer: where its bytes are, or what number it is.
cdef struct RdbString:
    uint64_t size             # of the string
    uint64_t stored           # of its bytes here
    uint8_t encoding          # of RdbEncoding, or RAW
    int32_t number

cdef enum:
    RAW = 255


@cython.final
cdef class RdbDecoder:
    """Takes a snapshot's bytes in order; each ``feed`` returns what became complete by it.

    Nothing that it returned can be trusted before ``finish`` has returned: the checksum comes last.
    """

    cdef bytes pending                # the beginning of an item
    cdef const unsigned char *data    # of the feed under way
    cdef size_t length, position
    cdef readonly uint64_t offset     # of the first byte that is not dealt with
    cdef uint64_t crc
    cdef int mode
    cdef readonly int version         # of the format; 0 before it is known
    cdef bint begun
    cdef uint64_t left                # stored bytes of the string under way
    cdef LzfUnpacker unpacker
    cdef uint32_t database
    cdef int64_t expire_at_ms
    cdef object parent
    cdef uint32_t depth
    cdef readonly dict facts          # AUX fields
    cdef readonly uint64_t entries
    cdef readonly uint64_t functions  # libraries of functions, which are passed over
    cdef readonly bint has_checksum
    cdef list out

    def __cinit__(self):
        self.pending = b""
        self.unpacker = LzfUnpacker()
        self.facts = {}
        self.expire_at_ms = -1

    @property
    def is_finished(self) -> bool:
        """Whether the end of the snapshot was seen."""
        return self.mode == MODE_END

    def feed(self, data) -> list:
        """Take more bytes: entries, and the pieces (bytes) of large values behind theirs. Raises RdbError."""
        cdef const unsigned char[::1] view
        cdef size_t dealt
        self.out = []
        if self.pending:
            data = self.pending + bytes(data)
            self.pending = b""
        view = data
        if view.shape[0] == 0:
            return self.out
        self.data = &view[0]
        self.length = <size_t>view.shape[0]
        self.position = 0
        while self._advance():
            pass
        if self.position < self.length:
            self.pending = PyBytes_FromStringAndSize(<const char *>self.data + self.position, self.length - self.position)
        self.data = NULL
        return self.out

    def finish(self) -> None:
        """All bytes were fed. Raises RdbError unless the snapshot is whole."""
        if self.mode != MODE_END:
            raise RdbError(self.offset + len(self.pending), "the file ends in the middle: it is truncated")

    # -------------------------------------------------------------------- items

    cdef int _advance(self) except -1:
        """Deal with one item, or with a part of a large value; 0 when that needs more bytes."""
        cdef size_t before = self.position
        cdef int outcome
        if self.mode == MODE_END:
            if self.position < self.length:
                raise self._error("bytes follow the end of the snapshot")
            return 0
        if self.mode != MODE_ITEM:
            outcome = self._pass_on()
        elif not self.begun:
            outcome = self._magic()
        else:
            outcome = self._item()
        if outcome == SHORT:
            self.position = before
            return 0
        if self.mode != MODE_END:
            self.crc = crc64_of(self.crc, self.data + before, self.position - before)
        self.offset += self.position - before
        return 1

    cdef object _error(self, str reason):
        return RdbError(self.offset, reason)

    cdef int _magic(self) except -1:
        cdef size_t known = self.length - self.position
        if memcmp(self.data + self.position, b"REDIS", 5 if known > 5 else known) != 0:
            raise self._error("this is no RDB file: it does not begin with REDIS")
        if known < MAGIC_BYTES:
            return SHORT
        digits = PyBytes_FromStringAndSize(<const char *>self.data + self.position + 5, 4)
        if not digits.isdigit() or not 1 <= int(digits) <= NEWEST_VERSION:
            raise self._error(f"version {digits.decode('latin-1')!r} of the format is not known: 1 to {NEWEST_VERSION} are")
        self.version = int(digits)
        self.position += MAGIC_BYTES
        self.begun = True
        return WHOLE

    cdef int _item(self) except -1:
        cdef uint8_t opcode
        cdef uint64_t number, other
        cdef int32_t seconds
        if not self._byte(&opcode):
            return SHORT
        if opcode == TYPE_STRING:
            return self._entry()
        if opcode == OPCODE_EXPIRE_MS:
            return self._fixed(&self.expire_at_ms, 8)
        if opcode == OPCODE_EXPIRE_S:
            if not self._fixed(&seconds, 4):
                return SHORT
            self.expire_at_ms = <int64_t>seconds * 1000
            return WHOLE
        if opcode == OPCODE_SELECT_DATABASE:
            if not self._plain_length(&number):
                return SHORT
            if number > <uint64_t>0x7FFFFFFF:
                raise self._error(f"there is no database {number}")
            self.database = <uint32_t>number
            return WHOLE
        if opcode == OPCODE_RESIZE_DATABASE:
            return WHOLE if self._plain_length(&number) and self._plain_length(&other) else SHORT
        if opcode == OPCODE_AUX:
            return self._fact()
        if opcode == OPCODE_IDLE:
            return self._plain_length(&number)
        if opcode == OPCODE_FREQUENCY:
            return self._byte(&opcode)
        if opcode == OPCODE_END:
            return self._end()
        if opcode == OPCODE_FUNCTION:
            return self._skip_string()
        if opcode == OPCODE_FUNCTION_PREVIEW:
            raise self._error("functions of a preview release of Redis 7 are not known")
        if opcode == OPCODE_MODULE_AUX:
            return self._module()
        return self._foreign(opcode)

    cdef int _foreign(self, uint8_t opcode) except -1:
        """Another type: say of which key."""
        cdef bytes key
        if opcode not in _TYPES:
            raise self._error(f"opcode {opcode} is not known: the file is damaged, or of another program")
        key = self._name()
        if key is None:
            return SHORT
        raise self._error(f"the key {_shown(key)} holds a {_TYPES[opcode]} (type {opcode}): only strings can be held here")

    cdef int _module(self) except -1:
        """A module's name: nine characters of six bits each above ten bits of version."""
        cdef uint64_t number
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        if not self._plain_length(&number):
            return SHORT
        name = "".join([letters[(number >> (10 + 6 * (8 - place))) & 63] for place in range(9)])
        raise self._error(f"data of the module {name}: no modules here")

    cdef int _fact(self) except -1:
        cdef bytes name = self._name()
        cdef bytes value = None if name is None else self._name()
        if value is None:
            return SHORT
        if name == chain_field:
            depth, _blank, parent = value.partition(b" ")
            if not depth.isdigit() or len(depth) > 5 or int(depth) > 65535:
                raise self._error(f"the chain field {_shown(value)} is no depth and key")
            self.depth = <uint32_t>int(depth)
            self.parent = parent or None
        elif len(self.facts) < FACTS_MAX:
            self.facts[name] = value
        return WHOLE

    cdef int _entry(self) except -1:
        cdef bytes key = self._name()
        cdef RdbString text
        cdef RdbEntry entry
        if key is None or not self._string(&text):
            return SHORT
        if text.size > VALUE_BYTES_MAX:
            raise self._error(f"the key {_shown(key)} has a value of {text.size} bytes: the largest has {VALUE_BYTES_MAX}")
        entry = RdbEntry.__new__(RdbEntry)
        if text.size <= WHOLE_BYTES:
            # A packed value is hardly ever longer than it says, but who made this file may have meant harm.
            if text.stored > 2 * WHOLE_BYTES:
                raise self._error(f"the key {_shown(key)} has a value of {text.size} bytes in {text.stored}")
            if self.length - self.position < text.stored:
                return SHORT
            entry.value = self._take(&text)
        else:
            self.left = text.stored
            self.mode = MODE_VALUE
            if text.encoding == ENCODED_LZF:
                self.mode = MODE_PACKED
                self.unpacker.start(text.size)
        entry.key = key
        entry.database = self.database
        entry.size_bytes = text.size
        entry.expire_at_ms = self.expire_at_ms
        entry.parent = self.parent
        entry.depth = self.depth
        self.expire_at_ms = -1
        self.parent = None
        self.depth = 0
        self.entries += 1
        self.out.append(entry)
        return WHOLE

    cdef int _end(self) except -1:
        cdef uint64_t expected, found = crc64_of(self.crc, self.data + self.position - 1, 1)
        if self.version >= CHECKSUM_VERSION:
            if not self._fixed(&expected, CHECKSUM_BYTES):
                return SHORT
            if expected != 0 and expected != found:
                raise self._error(f"the checksum is {found:016x} and should be {expected:016x}: the file is damaged")
            self.has_checksum = expected != 0
        self.mode = MODE_END
        return WHOLE

    # ------------------------------------------------------------ large values

    cdef int _pass_on(self) except -1:
        """The next bytes of a string that is not gathered."""
        cdef size_t count = self.length - self.position
        if count > self.left:
            count = <size_t>self.left
        if self.mode == MODE_PACKED:
            return self._unpack(count)
        if count == 0 and self.left:
            return SHORT
        if self.mode == MODE_VALUE and count:
            self.out.append(PyBytes_FromStringAndSize(<const char *>self.data + self.position, count))
        self.position += count
        self.left -= count
        if self.left == 0:
            self.mode = MODE_ITEM
        return WHOLE

    cdef int _unpack(self, size_t count) except -1:
        cdef size_t taken = self.unpacker.unpack(self.data + self.position, count)
        if self.unpacker.wrong != NULL:
            raise self._error((<bytes>self.unpacker.wrong).decode())
        if self.unpacker.end > self.unpacker.begin:
            self.out.append(self._unpacked())
        elif taken == 0 and self.left:
            return SHORT
        self.position += taken
        self.left -= taken
        if self.left == 0 and self.unpacker.left == 0 and self.unpacker.is_idle():
            self.mode = MODE_ITEM
        elif self.left == 0 and self.unpacker.end == self.unpacker.begin:
            raise self._error("packed data yields less than it should")
        return WHOLE

    cdef bytes _unpacked(self):
        return PyBytes_FromStringAndSize(
            <const char *>self.unpacker.output + self.unpacker.begin, self.unpacker.end - self.unpacker.begin
        )

    cdef int _skip_string(self) except -1:
        cdef RdbString text
        if not self._string(&text):
            return SHORT
        self.functions += 1
        self.left = text.stored
        if text.stored:
            self.mode = MODE_SKIP
        return WHOLE

    # ------------------------------------------------------------------ parts

    cdef int _byte(self, uint8_t *value) noexcept:
        return self._fixed(value, 1)

    cdef int _fixed(self, void *target, size_t count) noexcept:
        """Little-endian, as expiries and encoded numbers are."""
        if self.length - self.position < count:
            return SHORT
        memcpy(target, self.data + self.position, count)
        self.position += count
        return WHOLE

    cdef int _length(self, uint64_t *value, uint8_t *encoding) except -1:
        """A length, or the encoding that stands in its place."""
        cdef uint8_t first, following
        cdef int i, count
        encoding[0] = RAW
        if not self._byte(&first):
            return SHORT
        if first >> 6 == LENGTH_6_BITS:
            value[0] = first
            return WHOLE
        if first >> 6 == LENGTH_ENCODED:
            encoding[0] = first & 63
            if encoding[0] > ENCODED_LZF:
                raise self._error(f"a string has the encoding {encoding[0]}, which is not known")
            return WHOLE
        if first >> 6 == LENGTH_14_BITS:
            value[0] = first & 63
            count = 1
        elif first == LENGTH_32_BITS or first == LENGTH_64_BITS:
            value[0] = 0
            count = 4 if first == LENGTH_32_BITS else 8
        else:
            raise self._error(f"a length begins with the byte {first}, which none does")
        for i in range(count):
            if not self._byte(&following):
                return SHORT
            value[0] = value[0] << 8 | following
        return WHOLE

    cdef int _plain_length(self, uint64_t *value) except -1:
        cdef uint8_t encoding
        if not self._length(value, &encoding):
            return SHORT
        if encoding != RAW:
            raise self._error("a string stands where a number should")
        return WHOLE

    cdef int _string(self, RdbString *text) except -1:
        """The head of a string; its stored bytes follow."""
        cdef int8_t small
        cdef int16_t middle
        text.number = 0
        text.stored = text.size = 0
        if not self._length(&text.size, &text.encoding):
            return SHORT
        if text.encoding == RAW:
            text.stored = text.size
            return WHOLE
        if text.encoding == ENCODED_LZF:
            return WHOLE if self._plain_length(&text.stored) and self._plain_length(&text.size) else SHORT
        if text.encoding == ENCODED_INT8:
            if not self._fixed(&small, 1):
                return SHORT
            text.number = small
        elif text.encoding == ENCODED_INT16:
            if not self._fixed(&middle, 2):
                return SHORT
            text.number = middle
        elif not self._fixed(&text.number, 4):
            return SHORT
        text.size = len(b"%d" % text.number)
        return WHOLE

    cdef bytes _take(self, RdbString *text):
        """The whole string, whose stored bytes are all there."""
        cdef bytes out
        cdef const unsigned char *start = self.data + self.position
        self.position += text.stored
        if text.encoding == RAW:
            return PyBytes_FromStringAndSize(<const char *>start, text.stored)
        if text.encoding != ENCODED_LZF:
            return b"%d" % text.number
        return self._unpack_whole(start, text.stored, text.size)

    cdef bytes _unpack_whole(self, const unsigned char *packed, size_t stored, uint64_t size):
        cdef list pieces = []
        cdef size_t taken = 0
        self.unpacker.start(size)
        while True:
            taken += self.unpacker.unpack(packed + taken, stored - taken)
            if self.unpacker.wrong != NULL:
                raise self._error((<bytes>self.unpacker.wrong).decode())
            if self.unpacker.end == self.unpacker.begin:
                break
            pieces.append(self._unpacked())
        if self.unpacker.left or not self.unpacker.is_idle():
            raise self._error("packed data yields less than it should")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    cdef bytes _name(self):
        """A key, or a part of an AUX field; None when it is not all there."""
        cdef RdbString text
        if not self._string(&text):
            return None
        if text.size > NAME_BYTES_MAX or text.stored > NAME_BYTES_MAX:
            raise self._error(f"a key or a field of {text.size} bytes: the longest has {NAME_BYTES_MAX}")
        if self.length - self.position < text.stored:
            return None
        return self._take(&text)


def _shown(data: bytes) -> str:
    """A key as an error names it: short, and printable."""
    text = repr(data[:64])[1:]
    return text if len(data) <= 64 else f"{text}..."
