# cython: language_level=3
"""Reply writer: appends RESP to a growing byte buffer, without the interpreter.

Every ``out_`` function that appends returns 0, or -1 when memory ran out; then nothing of that call was appended. ``resp`` is 2 or 3.
"""

from libc.math cimport isinf, isnan
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy


cdef enum:
    OUT_MINIMUM_BYTES = 4096  # first allocation: a page, some hundred small replies
    HEADER_ROOM_BYTES = 24  # type byte, sign, 19 digits, CR LF
    DOUBLE_ROOM_BYTES = 64  # %.17g needs 24 at most, a bulk header in front and CR LF behind


cdef struct OutBuffer:
    char *data  # NULL while nothing was written; begin with OutBuffer(NULL, 0, 0)
    size_t length
    size_t capacity


cdef inline int out_reserve(OutBuffer *out, size_t extra) noexcept nogil:
    """Makes room for `extra` more bytes; `data` may move."""
    cdef size_t capacity
    cdef char *larger
    if out.capacity - out.length >= extra:
        return 0
    if extra > (<size_t>-1) // 4 - out.length:
        return -1
    capacity = out.capacity * 2
    if capacity < OUT_MINIMUM_BYTES:
        capacity = OUT_MINIMUM_BYTES
    if capacity < out.length + extra:
        capacity = out.length + extra
    larger = <char *>realloc(out.data, capacity)
    if larger == NULL:
        return -1
    out.data = larger
    out.capacity = capacity
    return 0


cdef inline void out_release(OutBuffer *out) noexcept nogil:
    """Frees the buffer; it may be written to again."""
    free(out.data)
    out.data = NULL
    out.length = 0
    out.capacity = 0


cdef inline void out_clear(OutBuffer *out, size_t kept_bytes) noexcept nogil:
    """Empties the buffer, and frees it if one long reply made it larger than `kept_bytes`."""
    out.length = 0
    if out.capacity > kept_bytes:
        out_release(out)


cdef inline size_t write_unsigned(char *target, unsigned long long value) noexcept nogil:
    """Writes the decimal digits of `value`, at most 20; returns how many."""
    cdef const char *pairs = (
        b"00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748"
        b"49505152535455565758596061626364656667686970717273747576777879808182838485868788899091929394959697"
        b"9899"
    )
    cdef char digits[20]
    cdef size_t start = 20
    if value < 10:
        target[0] = <char>(48 + value)
        return 1
    while value >= 100:
        start -= 2
        memcpy(&digits[start], pairs + (value % 100) * 2, 2)
        value //= 100
    if value >= 10:
        start -= 2
        memcpy(&digits[start], pairs + value * 2, 2)
    else:
        start -= 1
        digits[start] = <char>(48 + value)
    memcpy(target, &digits[start], 20 - start)
    return 20 - start


cdef inline size_t write_signed(char *target, long long value) noexcept nogil:
    """Writes `value` in decimal, at most 20 bytes; returns how many."""
    if value < 0:
        target[0] = c'-'
        # Negated as unsigned: the smallest number has no positive twin.
        return 1 + write_unsigned(target + 1, 0 - <unsigned long long>value)
    return write_unsigned(target, <unsigned long long>value)


cdef inline int out_raw(OutBuffer *out, const char *data, size_t length) noexcept nogil:
    """Appends bytes as they are."""
    if out_reserve(out, length) < 0:
        return -1
    if length:
        memcpy(out.data + out.length, data, length)
        out.length += length
    return 0


cdef inline int out_number(OutBuffer *out, char kind, long long value) noexcept nogil:
    """Appends a type byte, a number and CR LF: integers and every kind of header."""
    cdef char *target
    cdef size_t length
    if out_reserve(out, HEADER_ROOM_BYTES) < 0:
        return -1
    target = out.data + out.length
    target[0] = kind
    length = 1 + write_signed(target + 1, value)
    target[length] = c'\r'
    target[length + 1] = c'\n'
    out.length += length + 2
    return 0


cdef inline int out_integer(OutBuffer *out, long long value) noexcept nogil:
    return out_number(out, c':', value)


cdef inline int out_bulk_header(OutBuffer *out, size_t length) noexcept nogil:
    """The head of a bulk whose payload, and the CR LF behind it, the caller sends from elsewhere."""
    return out_number(out, c'$', <long long>length)


cdef inline int out_bulk(OutBuffer *out, const char *data, size_t length) noexcept nogil:
    cdef char *target
    if length > (<size_t>-1) // 4 or out_reserve(out, length + HEADER_ROOM_BYTES + 2) < 0:
        return -1
    out_number(out, c'$', <long long>length)
    target = out.data + out.length
    if length:
        memcpy(target, data, length)
    target[length] = c'\r'
    target[length + 1] = c'\n'
    out.length += length + 2
    return 0


cdef inline int out_line(OutBuffer *out, char kind, const char *text, size_t length) noexcept nogil:
    """Appends a one-line reply; CR and LF in its text become spaces, or they would end it early."""
    cdef char *target
    cdef size_t index
    if length > (<size_t>-1) // 4 or out_reserve(out, length + 3) < 0:
        return -1
    target = out.data + out.length
    target[0] = kind
    target += 1
    for index in range(length):
        target[index] = 32 if text[index] == c'\r' or text[index] == c'\n' else text[index]
    target[length] = c'\r'
    target[length + 1] = c'\n'
    out.length += length + 3
    return 0


cdef inline int out_simple(OutBuffer *out, const char *text, size_t length) noexcept nogil:
    """`text` without the plus sign and without a line end."""
    return out_line(out, c'+', text, length)


cdef inline int out_error(OutBuffer *out, const char *text, size_t length) noexcept nogil:
    """`text` begins with its code ("ERR ..."); line breaks at its end are dropped, as Redis does."""
    while length and (text[length - 1] == c'\r' or text[length - 1] == c'\n'):
        length -= 1
    return out_line(out, c'-', text, length)


cdef inline int out_array_header(OutBuffer *out, size_t length) noexcept nogil:
    return out_number(out, c'*', <long long>length)


cdef inline int out_map_header(OutBuffer *out, size_t pairs, int resp) noexcept nogil:
    """In RESP2 a map is a flat array of keys and values."""
    if resp >= 3:
        return out_number(out, c'%', <long long>pairs)
    return out_number(out, c'*', <long long>(pairs * 2))


cdef inline int out_set_header(OutBuffer *out, size_t length, int resp) noexcept nogil:
    return out_number(out, c'~' if resp >= 3 else c'*', <long long>length)


cdef inline int out_push_header(OutBuffer *out, size_t length, int resp) noexcept nogil:
    return out_number(out, c'>' if resp >= 3 else c'*', <long long>length)


cdef inline int out_null(OutBuffer *out, int resp) noexcept nogil:
    """The null bulk string of RESP2, the null of RESP3."""
    if resp >= 3:
        return out_raw(out, b"_\r\n", 3)
    return out_raw(out, b"$-1\r\n", 5)


cdef inline int out_null_array(OutBuffer *out, int resp) noexcept nogil:
    if resp >= 3:
        return out_raw(out, b"_\r\n", 3)
    return out_raw(out, b"*-1\r\n", 5)


cdef inline int out_boolean(OutBuffer *out, bint value, int resp) noexcept nogil:
    if resp >= 3:
        return out_raw(out, b"#t\r\n" if value else b"#f\r\n", 4)
    return out_raw(out, b":1\r\n" if value else b":0\r\n", 4)


cdef inline int out_double(OutBuffer *out, double value, int resp) noexcept nogil:
    """17 significant digits, as Redis 7.0 writes them: every double survives, 0.1 reads 0.10000000000000001."""
    cdef char text[32]
    cdef size_t length
    if out_reserve(out, DOUBLE_ROOM_BYTES) < 0:
        return -1
    if isnan(value):
        # Without the sign that printf gives some of them.
        length = <size_t>snprintf(text, sizeof(text), b"nan")
    elif isinf(value):
        length = <size_t>snprintf(text, sizeof(text), b"inf" if value > 0 else b"-inf")
    else:
        length = <size_t>snprintf(text, sizeof(text), b"%.17g", value)
    if resp >= 3:
        return out_line(out, c',', text, length)
    return out_bulk(out, text, length)


cdef inline int out_big_number(OutBuffer *out, const char *digits, size_t length, int resp) noexcept nogil:
    """An integer beyond 64 bits, given as its decimal text."""
    if resp >= 3:
        return out_line(out, c'(', digits, length)
    return out_bulk(out, digits, length)


cdef inline int out_verbatim(OutBuffer *out, const char *format, const char *text, size_t length, int resp) noexcept nogil:
    """`format` is three bytes ("txt", "mkd")."""
    if resp < 3:
        return out_bulk(out, text, length)
    # Reserved at once, so that the pieces below cannot fail halfway.
    if length > (<size_t>-1) // 4 or out_reserve(out, length + HEADER_ROOM_BYTES + 6) < 0:
        return -1
    out_number(out, c'=', <long long>(length + 4))
    out_raw(out, format, 3)
    out_raw(out, b":", 1)
    out_raw(out, text, length)
    return out_raw(out, b"\r\n", 2)
