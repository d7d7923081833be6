# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Request parser: finds the arguments of RESP and inline requests in a buffer that the caller owns.

The rules, their oddities included, are those of Redis 7.0 (``processMultibulkBuffer``, ``processInlineBuffer``, ``sdssplitargs``):
a NUL hides the rest of a line, the two bytes behind a bulk are skipped unseen, ``*0`` and ``*-5`` are silently passed over. The one
difference: where Redis looks at a line of more than 64 KiB, its verdict depends on how the bytes fell into its reads; here it does not.
"""

cimport cython
from libc.stdint cimport SIZE_MAX
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memmove

cdef enum:
    LINE_LIMIT_BYTES = 65536  # PROTO_INLINE_MAX_SIZE of Redis: a header or an inline request
    INITIAL_CAPACITY = 16  # GET, SET and their options fit: most connections never grow it
    KEPT_CAPACITY = 1024  # a longer list is released after its command: 24 KiB is what an idle connection may hold
    UNAUTHENTICATED_ARGUMENTS = 10
    UNAUTHENTICATED_BULK_BYTES = 16384
    MULTIBULK_LIMIT = 2147483647

cdef enum State:
    BETWEEN_COMMANDS
    BULK_HEADER
    BULK_PAYLOAD
    LARGE_ANNOUNCED
    STAGED_CRLF
    COMPLETE
    FAILED

cdef enum:
    LINE_SKIPPED = -1  # of _parse_inline: nothing on that line, go on with the next


cdef inline size_t read_small_header(const char *header, size_t available, size_t *value) noexcept nogil:
    """Reads ``<type>digits CR LF`` of up to 8 digits; returns its length, or 0 for whatever is not plainly that."""
    cdef size_t index = 1
    cdef size_t limit = 10 if available > 10 else available
    cdef size_t total = 0
    cdef unsigned char digit
    while index < limit:
        digit = <unsigned char>header[index] - 48
        if digit > 9:
            break
        total = total * 10 + digit
        index += 1
    if index == 1 or index + 2 > available or header[index] != c'\r' or (header[1] == c'0' and index > 2):
        return 0
    value[0] = total
    return index + 2


cdef inline bint is_blank(char byte) noexcept nogil:
    return byte == 32 or 9 <= byte <= 13


cdef inline int hex_digit(char byte) noexcept nogil:
    if 48 <= byte <= 57:
        return byte - 48
    if 97 <= byte <= 102:
        return byte - 87
    if 65 <= byte <= 70:
        return byte - 55
    return -1


cdef inline char escaped(char byte) noexcept nogil:
    """What a backslash before ``byte`` means between double quotes."""
    if byte == c'n':
        return c'\n'
    if byte == c'r':
        return c'\r'
    if byte == c't':
        return c'\t'
    if byte == c'b':
        return c'\b'
    if byte == c'a':
        return c'\a'
    return byte


cdef inline char at(const char *line, size_t length, size_t index) noexcept nogil:
    """The byte at ``index``; 0 behind the end (a line that is being split holds no NUL)."""
    return line[index] if index < length else 0


@cython.final
cdef class RequestParser:
    """Incremental parser without I/O: the caller owns the buffer, the parser holds offsets into it.

    parser.pxd documents each call; compiled code uses it by cimport, Python only builds it.
    """

    def __cinit__(self, size_t large_bytes=65536, size_t max_bulk_bytes=536870912, bint authenticated=True):
        self.args = <Argument *>malloc(INITIAL_CAPACITY * sizeof(Argument))
        if self.args == NULL:
            raise MemoryError
        self._capacity = INITIAL_CAPACITY
        self.large_bytes = large_bytes
        self.max_bulk_bytes = max_bulk_bytes
        self.authenticated = authenticated
        self.error = NULL
        self._state = BETWEEN_COMMANDS

    def __dealloc__(self):
        free(self.args)

    cdef int parse(self, char *base, size_t end) noexcept nogil:
        cdef size_t position, available, consumed, length
        cdef int state, status
        self._end = end
        if self._state == COMPLETE:
            self.begin()
        while True:
            state = self._state
            position = self.position
            available = end - position if end > position else 0
            if state == BULK_HEADER:
                if self._take_plain_bulks(base, end):
                    return PARSE_COMMAND
                position = self.position
                available = end - position if end > position else 0
                consumed = 0
                if available >= 4 and base[position] == c'$':
                    consumed = read_small_header(base + position, available, &length)
                if consumed == 0:
                    status = self._read_header(base + position, available, c'$', &consumed, &length)
                    if status != PARSE_COMMAND:
                        return status
                if length > self.max_bulk_bytes:
                    return self._fail(b"Protocol error: invalid bulk length")
                if length > UNAUTHENTICATED_BULK_BYTES and not self.authenticated:
                    return self._fail(b"Protocol error: unauthenticated bulk length")
                position += consumed
                self.position = position
                self._scanned_bytes = 0
                self._bulk_length = length
                if length >= self.large_bytes and self.authenticated:
                    self.large_length = length
                    self._state = LARGE_ANNOUNCED
                    return PARSE_LARGE
                self._state = state = BULK_PAYLOAD
                available -= consumed
            if state == BULK_PAYLOAD:
                length = self._bulk_length
                if available < length or available - length < 2:
                    return PARSE_MORE
                self.position = position + length + 2
                if self._add(position, length, False) < 0:
                    return PARSE_ERROR
            elif state == BETWEEN_COMMANDS:
                if available == 0:
                    return PARSE_MORE
                self.command_start = position
                if base[position] != c'*':
                    status = self._parse_inline(base, end)
                    if status != LINE_SKIPPED:
                        return status
                    continue
                consumed = 0
                if available >= 4:
                    consumed = read_small_header(base + position, available, &length)
                if consumed == 0:
                    status = self._read_header(base + position, available, c'*', &consumed, &length)
                    if status != PARSE_COMMAND:
                        return status
                if length > UNAUTHENTICATED_ARGUMENTS and not self.authenticated:
                    return self._fail(b"Protocol error: unauthenticated multibulk length")
                self.position = position + consumed
                self._scanned_bytes = 0
                if length > 0:
                    self.multibulk_length = <int>length
                    self._state = BULK_HEADER
                continue
            elif state == STAGED_CRLF:
                if available < 2:
                    return PARSE_MORE
                self.position = position + 2
                if self._add(self._staged_number, self._bulk_length, True) < 0:
                    return PARSE_ERROR
            else:
                return PARSE_LARGE if state == LARGE_ANNOUNCED else PARSE_ERROR
            if self._state == COMPLETE:
                return PARSE_COMMAND

    cdef bint _take_plain_bulks(self, char *base, size_t end) noexcept nogil:
        """Takes bulks as long as they are small and all there; True when that completed the command.

        Whatever is not so is left to parse(). This loop halves the time of a GET: its state stays in registers.
        """
        cdef size_t position = self.position
        cdef size_t limit = UNAUTHENTICATED_BULK_BYTES if not self.authenticated else self.large_bytes - 1
        cdef size_t consumed, length
        cdef int argc = self.argc
        cdef int last = self.multibulk_length
        cdef int room = self._capacity
        cdef Argument *args = self.args
        if self.large_bytes == 0 or self._scanned_bytes:
            return False
        if limit > self.max_bulk_bytes:
            limit = self.max_bulk_bytes
        if last < room:
            room = last
        while argc < room and position + 4 <= end and base[position] == c'$':
            consumed = read_small_header(base + position, end - position, &length)
            if consumed == 0 or length > limit or end - position - consumed < length + 2:
                break
            args[argc].offset = position + consumed
            args[argc].length = length
            args[argc].staged = False
            argc += 1
            position += consumed + length + 2
        self.argc = argc
        self.position = position
        if argc < last:
            return False
        self._state = COMPLETE
        return True

    cdef void begin(self) noexcept nogil:
        cdef Argument *smaller
        if self._state == FAILED:
            return
        self.argc = 0
        self.multibulk_length = 0
        self.is_inline = False
        self._state = BETWEEN_COMMANDS
        if self._capacity > KEPT_CAPACITY:
            smaller = <Argument *>realloc(self.args, INITIAL_CAPACITY * sizeof(Argument))
            if smaller != NULL:
                self.args = smaller
                self._capacity = INITIAL_CAPACITY

    cdef void rewind(self, size_t position) noexcept nogil:
        if self._state == FAILED:
            return
        self._state = BETWEEN_COMMANDS
        self.begin()
        self.position = position
        self.command_start = position
        self._scanned_bytes = 0
        self._line_blocked = False

    cdef size_t keep_from(self) noexcept nogil:
        if self._state == BETWEEN_COMMANDS or self._state == COMPLETE:
            return self.position
        return self.command_start

    cdef void rebase(self, size_t shift) noexcept nogil:
        cdef int index
        self.position -= shift
        # The head of an unfinished frame may be dropped while its payload goes elsewhere; the frame then starts at 0.
        self.command_start = self.command_start - shift if self.command_start > shift else 0
        self._end = self._end - shift if self._end > shift else 0
        for index in range(self.argc):
            if not self.args[index].staged:
                self.args[index].offset -= shift

    cdef void decline_large(self) noexcept nogil:
        if self._state == LARGE_ANNOUNCED:
            self._state = BULK_PAYLOAD

    cdef void staged_done(self, size_t number, size_t length) noexcept nogil:
        if self._state == LARGE_ANNOUNCED:
            self._staged_number = number
            self._bulk_length = length
            self._state = STAGED_CRLF

    cdef size_t wanted(self) noexcept nogil:
        cdef size_t needed
        cdef size_t present = self._end - self.position if self._end > self.position else 0
        if self._state == BULK_PAYLOAD or self._state == LARGE_ANNOUNCED:
            # max_bulk_bytes may be anything; the sum must not wrap around to a small number.
            needed = self._bulk_length + 2 if self._bulk_length <= SIZE_MAX - 2 else SIZE_MAX
        elif self._state == STAGED_CRLF:
            needed = 2
        else:
            return 0
        return needed - present if needed > present else 0

    cdef int _line(self, const char *line, size_t available, char terminator, size_t *length) noexcept nogil:
        """Looks for ``terminator`` behind what earlier calls scanned.

        PARSE_COMMAND with its index in ``length``, PARSE_MORE, or PARSE_ERROR where the line is too long.
        """
        cdef size_t limit = available if available <= LINE_LIMIT_BYTES else LINE_LIMIT_BYTES + 1
        cdef size_t scanned = self._scanned_bytes
        cdef const char *found = NULL
        if not self._line_blocked and limit > scanned:
            found = <const char *>memchr(line + scanned, terminator, limit - scanned)
            if found != NULL:
                limit = found - line
            self._line_blocked = memchr(line + scanned, 0, limit - scanned) != NULL
            # The terminator itself counts as unseen: its header may have to wait for one more byte.
            self._scanned_bytes = limit
        if found != NULL and not self._line_blocked:
            length[0] = limit
            return PARSE_COMMAND
        return PARSE_MORE if available <= LINE_LIMIT_BYTES else PARSE_ERROR

    cdef int _read_header(self, const char *header, size_t available, char kind, size_t *consumed, size_t *value) noexcept nogil:
        """The general form of a ``*`` or ``$`` header: PARSE_COMMAND and its length and number, or what parse() is to return."""
        cdef size_t line_length
        cdef long long number
        cdef int status = self._line(header, available, c'\r', &line_length)
        cdef bint is_count = kind == c'*'
        if status == PARSE_ERROR:
            return self._fail(b"Protocol error: too big mbulk count string" if is_count else b"Protocol error: too big bulk count string")
        if status == PARSE_MORE or line_length + 2 > available:
            return PARSE_MORE
        if not is_count and header[0] != c'$':
            return self._fail_expected_bulk(header[0])
        if is_count:
            if not parse_integer(header + 1, line_length - 1, &number) or number > MULTIBULK_LIMIT:
                return self._fail(b"Protocol error: invalid multibulk length")
            if number < 0:
                number = 0
        elif not parse_integer(header + 1, line_length - 1, &number) or number < 0:
            return self._fail(b"Protocol error: invalid bulk length")
        value[0] = <size_t>number
        consumed[0] = line_length + 2
        return PARSE_COMMAND

    cdef int _parse_inline(self, char *base, size_t end) noexcept nogil:
        cdef size_t position = self.position
        cdef size_t length
        cdef int status = self._line(base + position, end - position, c'\n', &length)
        if status == PARSE_ERROR:
            return self._fail(b"Protocol error: too big inline request")
        if status == PARSE_MORE:
            return PARSE_MORE
        self._scanned_bytes = 0
        if length > 0 and base[position + length - 1] == c'\r':
            status = self._split_inline(base, length - 1)
        else:
            status = self._split_inline(base, length)
        if status < 0:
            return PARSE_ERROR
        self.position = position + length + 1
        if self.argc == 0:
            return LINE_SKIPPED
        self.is_inline = True
        self.multibulk_length = self.argc
        self._state = COMPLETE
        return PARSE_COMMAND

    cdef int _split_inline(self, char *base, size_t length) noexcept nogil:
        """Splits the line at ``position`` into arguments, unescaped in place (they only shrink); -1 after _fail()."""
        cdef char *line = base + self.position
        cdef char byte
        cdef char quote
        cdef size_t index = 0
        cdef size_t start, written
        while True:
            while index < length and is_blank(line[index]):
                index += 1
            if index >= length:
                return 0
            start = written = index
            quote = 0
            while True:
                byte = at(line, length, index)
                if quote == 0:
                    # As in Redis: \v and \f separate arguments only where a blank is skipped, not where one ends.
                    if byte == 0 or byte == 32 or byte == c'\t' or byte == c'\n' or byte == c'\r':
                        break
                    if byte == c'"' or byte == c"'":
                        quote = byte
                        index += 1
                        continue
                elif byte == 0:
                    self._fail(b"Protocol error: unbalanced quotes in request")
                    return -1
                elif byte == quote:
                    index += 1
                    byte = at(line, length, index)
                    if byte != 0 and not is_blank(byte):
                        self._fail(b"Protocol error: unbalanced quotes in request")
                        return -1
                    break
                elif byte == c'\\':
                    if quote == c"'":
                        if at(line, length, index + 1) == c"'":
                            index += 1
                            byte = c"'"
                    elif (
                        at(line, length, index + 1) == c'x'
                        and hex_digit(at(line, length, index + 2)) >= 0
                        and hex_digit(at(line, length, index + 3)) >= 0
                    ):
                        byte = <char>(hex_digit(line[index + 2]) * 16 + hex_digit(line[index + 3]))
                        index += 3
                    elif index + 1 < length:
                        index += 1
                        byte = escaped(line[index])
                line[written] = byte
                written += 1
                index += 1
            if self._add(self.position + start, written - start, False) < 0:
                return -1

    cdef int _add(self, size_t offset, size_t length, bint staged) noexcept nogil:
        """Appends one argument; the array grows with what has arrived, never with what a header announces. -1 after _fail()."""
        cdef Argument *larger
        cdef int index = self.argc
        if index == self._capacity:
            larger = NULL
            if self._capacity <= MULTIBULK_LIMIT // 2:
                larger = <Argument *>realloc(self.args, <size_t>self._capacity * 2 * sizeof(Argument))
            if larger == NULL:
                self._fail(b"Protocol error: out of memory")
                return -1
            self.args = larger
            self._capacity *= 2
        self.args[index].offset = offset
        self.args[index].length = length
        self.args[index].staged = staged
        self.argc = index + 1
        self._state = COMPLETE if self.argc == self.multibulk_length else BULK_HEADER
        return 0

    cdef int _fail(self, const char *text) noexcept nogil:
        self.error = text
        self._state = FAILED
        return PARSE_ERROR

    cdef int _fail_expected_bulk(self, char found) noexcept nogil:
        cdef const char *pattern = b"Protocol error: expected '$', got '?'"
        memcpy(self._error_text, pattern, 38)
        # Redis maps line breaks in an error to spaces; a raw one would end the reply early.
        self._error_text[35] = 32 if found == c'\r' or found == c'\n' else found
        return self._fail(self._error_text)


class ProtocolError(ValueError):
    """The request broke the protocol; the text is Redis's, without its ``ERR`` code."""


@cython.final
cdef class PythonParser:
    """Drives a RequestParser over a buffer of its own, for tests and tools: ``feed`` bytes, ``take_all`` commands.

    With ``stage`` large bulks leave the buffer as a session makes them leave it; otherwise they are declined.
    """

    cdef RequestParser _parser
    cdef char *_buffer
    cdef size_t _end
    cdef bint _stage
    cdef bint _staging
    cdef list _staged
    cdef size_t _staged_count
    cdef bytearray _payload
    cdef readonly list inline_flags

    def __cinit__(self, *, size_t large_bytes=65536, size_t max_bulk_bytes=536870912, bint authenticated=True, bint stage=False):
        self._parser = RequestParser(large_bytes, max_bulk_bytes, authenticated)
        self._stage = stage
        self._staged = []
        self.inline_flags = []

    def __dealloc__(self):
        free(self._buffer)

    @property
    def wanted_bytes(self):
        return self._parser.wanted()

    @property
    def argument_capacity(self):
        return self._parser._capacity

    @property
    def staged_count(self):
        return self._staged_count

    def authenticate(self):
        self._parser.authenticated = True

    def feed(self, bytes data not None):
        cdef const char *source = data
        cdef size_t length = len(data)
        cdef size_t shift
        cdef char *larger
        # What is in front of the command in progress goes, so that every feed exercises rebase().
        shift = self._parser.command_start if self._parser.argc or self._parser.multibulk_length else self._parser.position
        if shift > self._parser.position:
            shift = self._parser.position
        if shift:
            memmove(self._buffer, self._buffer + shift, self._end - shift)
            self._end -= shift
            self._parser.rebase(shift)
        if length == 0:
            return
        # To the byte, so that a sanitizer sees the parser read behind the end.
        larger = <char *>realloc(self._buffer, self._end + length)
        if larger == NULL:
            raise MemoryError
        self._buffer = larger
        memcpy(self._buffer + self._end, source, length)
        self._end += length

    def take_all(self):
        cdef list commands = []
        cdef list arguments
        cdef Argument argument
        cdef int status, index
        while True:
            if self._staging and not self._take_payload():
                return commands
            status = self._parser.parse(self._buffer, self._end)
            if status == PARSE_MORE:
                return commands
            if status == PARSE_ERROR:
                if commands:
                    # What came before the error is answered first; the error is final and comes again.
                    return commands
                raise ProtocolError(self._parser.error.decode("latin-1"))
            if status == PARSE_LARGE:
                if self._stage:
                    self._staging = True
                    self._payload = bytearray()
                else:
                    self._parser.decline_large()
                continue
            arguments = []
            for index in range(self._parser.argc):
                argument = self._parser.args[index]
                if argument.staged:
                    arguments.append(bytes(self._staged[argument.offset]))
                else:
                    arguments.append(self._buffer[argument.offset:argument.offset + argument.length])
            self._staged.clear()
            self.inline_flags.append(bool(self._parser.is_inline))
            commands.append(arguments)

    cdef bint _take_payload(self):
        """Moves what has arrived of the large bulk out of the buffer; True once it is complete."""
        cdef size_t position = self._parser.position
        cdef size_t missing = self._parser.large_length - len(self._payload)
        cdef size_t count = min(missing, self._end - position)
        self._payload += self._buffer[position:position + count]
        # The payload's bytes leave the buffer, so that the CRLF behind it comes to `position`.
        memmove(self._buffer + position, self._buffer + position + count, self._end - position - count)
        self._end -= count
        if count < missing:
            return False
        self._staged.append(self._payload)
        self._staged_count += 1
        self._parser.staged_done(len(self._staged) - 1, self._parser.large_length)
        self._staging = False
        return True
