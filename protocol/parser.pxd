# cython: language_level=3
"""The request parser's C surface, for the session and the fast lane."""

cimport cython


cdef struct Argument:
    size_t offset  # from the buffer's base; of a staged one the number given to staged_done()
    size_t length  # payload bytes
    bint staged


cdef enum ParseStatus:
    PARSE_MORE = 0  # everything before `end` was looked at; more bytes are needed
    PARSE_COMMAND = 1  # args[0:argc] is a whole command (argc >= 1)
    PARSE_LARGE = 2  # a bulk of large_length bytes begins at `position`: staged_done() or decline_large()
    PARSE_ERROR = 3  # `error` says why; final, the connection is to be closed


cdef inline bint parse_integer(const char *text, size_t length, long long *value) noexcept nogil:
    """Reads a 64-bit integer as strictly as Redis does: no plus sign, no blanks, no leading zeros, no overflow."""
    cdef unsigned long long total = 0
    cdef size_t index = 0
    cdef unsigned char digit
    cdef bint negative = False
    if length == 0:
        return False
    if length == 1 and text[0] == c'0':
        value[0] = 0
        return True
    if text[0] == c'-':
        negative = True
        index = 1
    # 19 digits: 9223372036854775808 is the longest magnitude, and no 19 digits overflow 64 unsigned bits.
    if index == length or length - index > 19 or text[index] == c'0':
        return False
    while index < length:
        digit = <unsigned char>text[index] - 48
        if digit > 9:
            return False
        total = total * 10 + digit
        index += 1
    if total > 9223372036854775807ULL + (1 if negative else 0):
        return False
    value[0] = <long long>(0 - total) if negative else <long long>total
    return True


@cython.final
cdef class RequestParser:
    cdef Argument *args
    cdef int argc  # complete arguments so far
    cdef int multibulk_length  # announced arguments of the command in progress; argc of a complete inline command
    cdef size_t position  # next unread byte, from the buffer's base
    cdef size_t command_start  # where the current command's frame begins: the '*', or an inline line's first byte
    cdef bint is_inline
    cdef size_t large_length  # payload bytes of the bulk that PARSE_LARGE announced
    cdef size_t large_bytes  # bulks of at least this many bytes are announced by PARSE_LARGE
    cdef size_t max_bulk_bytes  # proto-max-bulk-len
    cdef bint authenticated  # while False: at most 10 arguments, 16384 bytes each, and never PARSE_LARGE
    cdef const char *error  # after PARSE_ERROR the reply's text after "-ERR ", else NULL

    # Private to parser.pyx.
    cdef int _state
    cdef int _capacity  # arguments that `args` has room for
    cdef size_t _bulk_length  # payload bytes of the bulk in progress
    cdef size_t _staged_number
    cdef size_t _end  # `end` of the last parse()
    cdef size_t _scanned_bytes  # of the line at `position`, already known to hold no terminator
    cdef bint _line_blocked  # the line at `position` holds a NUL: it never ends
    cdef char _error_text[64]

    # One step: parses from `position` up to `end`, and returns a ParseStatus. State survives between calls at any
    # split; `base` may differ from call to call as long as the bytes from command_start on are at the same offsets.
    cdef int parse(self, char *base, size_t end) noexcept nogil
    # Forgets the completed command. The parse() that follows a PARSE_COMMAND does it by itself; call it to release
    # a long argument list early. Must not be called in the middle of a command.
    cdef void begin(self) noexcept nogil
    # Goes back to `position`, where a frame begins: commands from there on are parsed again. Not for inline commands,
    # whose bytes parsing has changed, nor for frames of which the caller took a payload away.
    cdef void rewind(self, size_t position) noexcept nogil
    # The first byte that is still needed: of the command in progress, or of what was not looked at yet.
    cdef size_t keep_from(self) noexcept nogil
    # The caller moved the buffer's content down by `shift` bytes: every offset follows, partial arguments included.
    cdef void rebase(self, size_t shift) noexcept nogil
    # After PARSE_LARGE: wait for this bulk in the buffer, like for any other.
    cdef void decline_large(self) noexcept nogil
    # After PARSE_LARGE: the caller took the payload elsewhere, under `number`. First it sets `position` to where the
    # CRLF behind the payload is, or will be once it arrives.
    cdef void staged_done(self, size_t number, size_t length) noexcept nogil
    # Bytes still missing for the bulk in progress, its CRLF included; 0 when that is unknown.
    cdef size_t wanted(self) noexcept nogil

    cdef bint _take_plain_bulks(self, char *base, size_t end) noexcept nogil
    cdef int _line(self, const char *line, size_t available, char terminator, size_t *length) noexcept nogil
    cdef int _read_header(self, const char *header, size_t available, char kind, size_t *consumed, size_t *value) noexcept nogil
    cdef int _parse_inline(self, char *base, size_t end) noexcept nogil
    cdef int _split_inline(self, char *base, size_t length) noexcept nogil
    cdef int _add(self, size_t offset, size_t length, bint staged) noexcept nogil
    cdef int _fail(self, const char *text) noexcept nogil
    cdef int _fail_expected_bulk(self, char found) noexcept nogil
