# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Fast lane: commands that are answered without a Python object each.

The session offers one parsed command after the other. Those that do not depend on each other gather in a
run, and a run goes to the store as one batch; then all replies are written in order. A command in a form
that this lane does not know (odd options, wrong arity) is left to the slow lane, which words the errors.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from protocol.parser cimport RequestParser, parse_integer
from protocol.writer cimport (
    OutBuffer,
    out_array_header,
    out_bulk,
    out_bulk_header,
    out_error,
    out_integer,
    out_null,
    out_raw,
    out_release,
)
from storage.batch cimport (
    CONDITION_NX,
    CONDITION_XX,
    HAS_PARENT,
    IS_TAIL,
    KEEP_TTL,
    KIND_DELETE,
    KIND_LOOKUP,
    KIND_READ,
    KIND_WRITE,
    SILENT,
    STATUS_BUSY,
    STATUS_FULL,
    STATUS_INDEX_FULL,
    STATUS_MISS,
    STATUS_OK,
    STATUS_PRESENT,
    STATUS_UNREACHABLE,
    TOUCH,
    WANT_GHOST,
    WANT_PAYLOAD,
    Batch,
    Request,
)
from storage.cluster cimport Cluster, Node
from storage.engine cimport Engine
from storage.reclaim cimport PIN_ROOM, Reclaimer
from storage.reuse cimport GHOST_BYTES, ChainWorth, Ghost
from storage.staging cimport PinnedValue, StagedValue, take_pin
from storage.store cimport Store
from storage.words cimport SUFFIX_BYTES, Heat, is_half

from kvcd.commands.arguments import BUSY, INDEX_FULL, OUT_OF_MEMORY

cdef enum:
    RUN_REQUESTS = 1024        # requests of one run of several commands
    RUN_COMMANDS = 256         # commands of one run: bounds what one run can answer
    KEYS_PER_COMMAND = 768     # a command with more goes to the slow lane, which cuts it
    CHAIN_KEYS = 1536          # the same of PREFIX.MATCH and PREFIX.SET: in the slow lane nobody knows what a long chain is worth
    TOUCHED_SLOTS = 4096       # power of two, several times RUN_REQUESTS and CHAIN_KEYS
    KEY_BYTES_LIMIT = 16384
    BLOCKS_PER_RANK = 16       # of a chain, that count as used at the same millisecond: a long chain must not seem old at its end
    CHAIN_LIMIT = 4096         # blocks of one chain that a connection's commands are taken for

cdef bytes OOM_ERROR = OUT_OF_MEMORY.text.encode()
cdef bytes INDEX_ERROR = INDEX_FULL.text.encode()
cdef bytes BUSY_ERROR = BUSY.text.encode()

_NAMES = (
    None, "get", "set", "mget", "mset", "exists", "del", "unlink", "strlen", "ttl", "pttl", "ping", "prefix.match",
    "prefix.exists", "prefix.get", "prefix.set",
)


cdef int fast_command(const char *name, size_t length) noexcept nogil:
    """The command of this name, whatever its case, or COMMAND_NONE."""
    cdef char upper[16]
    cdef size_t i
    if length < 3 or length > 13:
        return COMMAND_NONE
    for i in range(length):
        upper[i] = name[i] - 32 if c'a' <= name[i] <= c'z' else name[i]
    if length == 3:
        if memcmp(upper, b"GET", 3) == 0:
            return COMMAND_GET
        if memcmp(upper, b"SET", 3) == 0:
            return COMMAND_SET
        if memcmp(upper, b"DEL", 3) == 0:
            return COMMAND_DEL
        if memcmp(upper, b"TTL", 3) == 0:
            return COMMAND_TTL
    elif length == 4:
        if memcmp(upper, b"MGET", 4) == 0:
            return COMMAND_MGET
        if memcmp(upper, b"MSET", 4) == 0:
            return COMMAND_MSET
        if memcmp(upper, b"PING", 4) == 0:
            return COMMAND_PING
        if memcmp(upper, b"PTTL", 4) == 0:
            return COMMAND_PTTL
    elif length == 6:
        if memcmp(upper, b"EXISTS", 6) == 0:
            return COMMAND_EXISTS
        if memcmp(upper, b"UNLINK", 6) == 0:
            return COMMAND_UNLINK
        if memcmp(upper, b"STRLEN", 6) == 0:
            return COMMAND_STRLEN
    elif length == 10:
        if memcmp(upper, b"PREFIX.GET", 10) == 0:
            return COMMAND_PREFIX_GET
        if memcmp(upper, b"PREFIX.SET", 10) == 0:
            return COMMAND_PREFIX_SET
    elif length == 12 and memcmp(upper, b"PREFIX.MATCH", 12) == 0:
        return COMMAND_PREFIX_MATCH
    elif length == 13 and memcmp(upper, b"PREFIX.EXISTS", 13) == 0:
        return COMMAND_PREFIX_EXISTS
    return COMMAND_NONE


cdef uint64_t key_mark(const char *key, size_t length, uint32_t database) noexcept nogil:
    """A cheap mark of a key. Two keys with one mark only end a run early, so it need not be keyed."""
    cdef uint64_t mark = (length << 8 | database) * <uint64_t>0x9E3779B97F4A7C15 + 1
    cdef uint64_t word
    while length >= 8:
        memcpy(&word, key, 8)
        mark = (mark ^ word) * <uint64_t>0xD6E8FEB86659FD93
        mark ^= mark >> 32
        key += 8
        length -= 8
    if length:
        word = 0
        memcpy(&word, key, length)
        mark = (mark ^ word) * <uint64_t>0xD6E8FEB86659FD93
        mark ^= mark >> 32
    return mark


cdef bint same_word(const char *text, size_t length, const char *upper, size_t upper_length) noexcept nogil:
    cdef size_t i
    cdef char letter
    if length != upper_length:
        return False
    for i in range(length):
        letter = text[i] - 32 if c'a' <= text[i] <= c'z' else text[i]
        if letter != upper[i]:
            return False
    return True


cdef class FastLane:
    """Runs of fast commands over one store; shared by all sessions, which use it one after the other."""

    def __cinit__(self, Store store):
        self.store = store
        self.cluster = store.cluster
        self.batch = Batch(CHAIN_KEYS + 1, store.cluster.node_count)
        self.pending = <Pending *>malloc(RUN_COMMANDS * sizeof(Pending))
        self.touched = <uint64_t *>calloc(TOUCHED_SLOTS, 8)
        if self.pending == NULL or self.touched == NULL:
            raise MemoryError("no memory for the fast lane")
        self.staged = []
        self.generation = 1
        self.set_time()

    def __dealloc__(self):
        free(self.pending)
        free(self.touched)
        out_release(&self.out)

    cdef void set_time(self) noexcept:
        """Time for everything until the next call: Unix milliseconds."""
        self.now_ms = self.store.now()

    # ------------------------------------------------------------ dependencies

    cdef bint _touch(self, uint64_t key) noexcept:
        """Note a key of this run; True when it was there already."""
        cdef uint64_t place = (key >> 32) & (TOUCHED_SLOTS - 1)
        cdef uint64_t mark = (key << 16) | self.generation
        # An entry of an earlier run has another generation in its low bits and counts as free.
        while self.touched[place] & 0xFFFF == self.generation:
            if self.touched[place] == mark:
                return True
            place = (place + 1) & (TOUCHED_SLOTS - 1)
        self.touched[place] = mark
        return False

    cdef void _forget_touched(self) noexcept:
        """No key of the run counts as touched any more."""
        self.has_write = False
        self.generation += 1
        if self.generation > 0xFFFF:
            # Its 16 bits are used up: entries of runs long ago would count as of this one.
            self.generation = 1
            memset(self.touched, 0, TOUCHED_SLOTS * 8)

    cdef bint _depends(self, RequestParser parser, char *base, int first, int step, uint32_t database, bint write) noexcept:
        """Whether the command at hand reads or writes a key that the run so far writes, or writes one that it reads.

        Also True when a writing command names one key twice. Runs that only read are not looked at.
        """
        cdef int i
        cdef uint32_t j
        cdef bint found = False
        cdef Request *request
        if not write and not self.has_write:
            return False
        if write and not self.has_write:
            # The first write of the run: note what was read before it.
            self.has_write = True
            for j in range(self.batch.count):
                request = &self.batch.requests[j]
                self._touch(key_mark(request.key, request.key_bytes, request.database))
        i = first
        while i < parser.argc:
            if self._touch(key_mark(base + parser.args[i].offset, parser.args[i].length, database)):
                # Reads may name a key twice, and of a read-only key that is harmless.
                found = True
            i += step
        return found

    # ------------------------------------------------------------------ taking

    cdef int take(self, RequestParser parser, char *base, uint32_t database, list staged_values) except -1:
        """Add the parsed command to the run; a TakeResult. ``staged_values`` are its large arguments, by number."""
        cdef int command = fast_command(base + parser.args[0].offset, parser.args[0].length)
        cdef Pending *pending
        cdef int result
        cdef uint32_t before = self.batch.count
        if command == COMMAND_NONE or parser.args[0].staged:
            return NOT_FAST
        if self.pending_count == RUN_COMMANDS or (self.pending_count and self.batch.count + <uint32_t>parser.argc > RUN_REQUESTS):
            return RUN_FIRST
        if command == COMMAND_GET:
            if parser.argc != 2:
                return NOT_FAST
            result = self._add_keys(parser, base, database, command, KIND_READ, WANT_PAYLOAD | TOUCH)
        elif command == COMMAND_SET:
            result = self._take_set(parser, base, database, staged_values)
        elif command == COMMAND_MGET or command == COMMAND_PREFIX_GET:
            result = self._add_keys(parser, base, database, command, KIND_READ, WANT_PAYLOAD | TOUCH)
        elif command == COMMAND_EXISTS or command == COMMAND_PREFIX_MATCH or command == COMMAND_PREFIX_EXISTS:
            result = self._add_keys(parser, base, database, command, KIND_LOOKUP, TOUCH)
        elif command == COMMAND_DEL or command == COMMAND_UNLINK:
            result = self._add_keys(parser, base, database, command, KIND_DELETE, 0)
        elif command == COMMAND_MSET:
            result = self._take_pairs(parser, base, database, staged_values)
        elif command == COMMAND_PREFIX_SET:
            result = self._take_prefix_set(parser, base, database, staged_values)
        elif command == COMMAND_STRLEN:
            result = NOT_FAST if parser.argc != 2 else self._add_keys(parser, base, database, command, KIND_READ, TOUCH)
        elif command == COMMAND_TTL or command == COMMAND_PTTL:
            result = NOT_FAST if parser.argc != 2 else self._add_keys(parser, base, database, command, KIND_READ, 0)
        else:  # PING
            result = NOT_FAST if parser.argc > 2 or (parser.argc == 2 and parser.args[1].staged) else TAKEN
        if result != TAKEN:
            self.batch.count = before
            if self.pending_count == 0 and self.has_write:
                # No run will follow that forgets the keys that were noted, and their table has an end.
                self._forget_touched()
            return result
        pending = &self.pending[self.pending_count]
        self.pending_count += 1
        pending.command = command
        pending.first = before
        pending.count = self.batch.count - before
        if self.pending_count == 1:
            self.first_frame = parser.command_start
        if command == COMMAND_GET or command == COMMAND_MGET or command == COMMAND_PREFIX_GET:
            self.payload_reads += pending.count
        pending.argument = NULL
        if command == COMMAND_PING and parser.argc == 2:
            pending.argument = base + parser.args[1].offset
            pending.argument_bytes = parser.args[1].length
        self.calls[command] += 1
        return TAKEN

    cdef int _add_keys(self, RequestParser parser, char *base, uint32_t database, int command, int kind, int flags) except -1:
        """One request for each argument after the name."""
        cdef Request *request
        cdef int i
        if parser.argc < 2 or parser.argc - 1 > (CHAIN_KEYS if command == COMMAND_PREFIX_MATCH else KEYS_PER_COMMAND):
            return NOT_FAST
        for i in range(1, parser.argc):
            if parser.args[i].length > KEY_BYTES_LIMIT or parser.args[i].staged:
                return NOT_FAST
        if self._depends(parser, base, 1, 1, database, kind == KIND_DELETE) and self.pending_count:
            return RUN_FIRST
        for i in range(1, parser.argc):
            request = self.batch.add()
            request.kind = kind
            request.flags = flags
            request.database = database
            request.key = base + parser.args[i].offset
            request.key_bytes = <uint32_t>parser.args[i].length
            if command >= COMMAND_PREFIX_MATCH:
                request.rank = (i - 1) // BLOCKS_PER_RANK
                request.place = self._behind(i - 1)
            elif self.infers_chains and parser.argc == 2:
                self._place_key(request, command)
        if command == COMMAND_PREFIX_MATCH:
            self.chain.phase = PHASE_LOOKUP
            self.chain.asked = parser.argc - 1
            self.chain.found = self.chain.place = self.chain.unknown = self.chain.strange = self.chain.made = 0
        elif command == COMMAND_PREFIX_GET:
            # The last block of a request is often a partial one, and those come back less often.
            if self.chain.phase == PHASE_NONE or self.chain.phase == PHASE_SET:
                self.chain.asked = self.chain.place = self.chain.found = self.chain.unknown = self.chain.strange = self.chain.made = 0
            self.chain.phase = PHASE_GET
            self.chain.place += parser.argc - 1
            if self.chain.asked == 0 or self.chain.place == self.chain.asked:
                request.flags |= IS_TAIL
        return TAKEN

    cdef uint16_t _behind(self, uint32_t place) noexcept:
        """How far behind the clock a block of the chain counts as used: its head is the youngest, whatever was counted since it began."""
        cdef uint64_t behind = <uint64_t>place + self.chain.made
        return <uint16_t>behind if behind < 65535 else 65535

    cdef void _place_key(self, Request *request, int command) noexcept:
        """Where in its chain a single key stands: clients ask from the head, EXISTS or GET first, then store what was missing."""
        cdef Chain *chain = self.chain
        cdef uint64_t stem = 0
        if is_half(request.key, request.key_bytes):
            # Both keys of a pair are one block.
            stem = key_mark(request.key, request.key_bytes - SUFFIX_BYTES, request.database)
            if stem == chain.stem and command == chain.stem_command:
                request.place = chain.stem_place
                request.flags |= chain.stem_flags
                request.unknown = chain.unknown
                request.depth = chain.stem_depth
                request.parent_hash = chain.stem_parent
                chain.stem = 0
                return
        self._place_block(request, command)
        chain.stem = stem
        chain.stem_command = <uint8_t>command
        chain.stem_place = request.place
        chain.stem_flags = request.flags & (IS_TAIL | WANT_GHOST | HAS_PARENT)
        chain.stem_depth = request.depth
        chain.stem_parent = request.parent_hash

    cdef void _place_block(self, Request *request, int command) noexcept:
        cdef Chain *chain = self.chain
        if command == COMMAND_EXISTS:
            if chain.phase != PHASE_LOOKUP or chain.asked >= CHAIN_LIMIT:
                chain.asked = chain.found = chain.unknown = chain.strange = chain.made = 0
                chain.phase = PHASE_LOOKUP
                chain.last_hash = 0
            chain.is_looked_up = True
            request.place = <uint16_t>chain.asked
            request.flags |= WANT_GHOST
            chain.asked += 1
            chain.place = 0
        elif command == COMMAND_GET:
            if chain.phase == PHASE_SET or chain.phase == PHASE_NONE or chain.place >= chain.found:
                chain.asked = chain.found = chain.place = chain.unknown = chain.strange = chain.made = 0
            chain.phase = PHASE_GET
            request.place = self._behind(chain.place)
            chain.place += 1
            if chain.asked > 1 and chain.place == chain.asked:
                request.flags |= IS_TAIL
        else:  # SET
            if chain.phase == PHASE_SET and chain.place < CHAIN_LIMIT:
                chain.place += 1
            else:
                if chain.phase == PHASE_SET or chain.phase == PHASE_NONE:
                    chain.is_looked_up = False
                chain.place = chain.found if chain.phase != PHASE_SET else 0
                chain.phase = PHASE_SET
            if chain.is_looked_up:
                # Who asked for the blocks one by one, and now stores those that were missing, tells their parents thereby.
                request.depth = <uint16_t>(chain.place if chain.place < 65535 else 65535)
                # The first has one too, which is nobody: so it takes a cell of the size that the others take.
                request.flags |= HAS_PARENT
                request.parent_hash = chain.last_hash if chain.place else 0
                self.cluster.hash(request)
                chain.last_hash = request.hash_low
            request.place = self._behind(chain.place)
            # Of clients that stop asking at the first block that is missing the rest shows as it is stored.
            request.unknown = chain.unknown if chain.unknown > chain.strange or chain.asked == 0 else chain.strange
            if chain.asked > 1 and chain.place + 1 == chain.asked:
                request.flags |= IS_TAIL

    cdef int _set_value(self, Request *request, RequestParser parser, char *base, int number, list staged_values) except -1:
        """Point a write at its value: bytes of the buffer, or pages that were filled on arrival."""
        cdef StagedValue staged
        if parser.args[number].staged:
            staged = staged_values[parser.args[number].offset]
            request.value = staged.tail
            request.value_bytes = staged.size_bytes
            request.pages = staged.pages
            request.page_count = staged.page_count
            self.staged.append((self.batch.count - 1, staged))
        else:
            request.value = base + parser.args[number].offset
            request.value_bytes = parser.args[number].length
        return 0

    cdef int _take_set(self, RequestParser parser, char *base, uint32_t database, list staged_values) except -1:
        """SET key value [NX | XX] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]; anything else is the slow lane's."""
        cdef Request *request
        cdef int i = 3
        cdef int condition = 0
        cdef bint keep_ttl = False
        cdef long long number, expire_at_ms = -1
        cdef const char *word
        cdef size_t length
        if parser.argc < 3 or parser.args[1].length > KEY_BYTES_LIMIT or parser.args[1].staged:
            return NOT_FAST
        while i < parser.argc:
            word = base + parser.args[i].offset
            length = parser.args[i].length
            if parser.args[i].staged:
                return NOT_FAST
            if length == 2 and i + 1 < parser.argc and expire_at_ms < 0 and not keep_ttl and (
                same_word(word, 2, b"EX", 2) or same_word(word, 2, b"PX", 2)
            ):
                if parser.args[i + 1].staged or not parse_integer(
                    base + parser.args[i + 1].offset, parser.args[i + 1].length, &number
                ):
                    return NOT_FAST
                # Far below every overflow; the slow lane words what lies outside.
                if number <= 0 or number > 1000000000000:
                    return NOT_FAST
                expire_at_ms = self.now_ms + (number * 1000 if word[0] == c'E' or word[0] == c'e' else number)
                i += 2
            elif same_word(word, length, b"NX", 2) and condition == 0:
                condition = CONDITION_NX
                i += 1
            elif same_word(word, length, b"XX", 2) and condition == 0:
                condition = CONDITION_XX
                i += 1
            elif same_word(word, length, b"KEEPTTL", 7) and expire_at_ms < 0 and not keep_ttl:
                keep_ttl = True
                i += 1
            else:
                return NOT_FAST
        if self._depends(parser, base, 1, 1 << 30, database, True):
            if self.pending_count:
                return RUN_FIRST
        request = self.batch.add()
        request.kind = KIND_WRITE
        request.database = database
        request.key = base + parser.args[1].offset
        request.key_bytes = <uint32_t>parser.args[1].length
        request.condition = condition
        request.expire_at_ms = expire_at_ms
        if keep_ttl:
            request.flags = KEEP_TTL
        if self.infers_chains:
            self._place_key(request, COMMAND_SET)
        self._set_value(request, parser, base, 2, staged_values)
        return TAKEN

    cdef int _take_pairs(self, RequestParser parser, char *base, uint32_t database, list staged_values) except -1:
        """MSET key value [key value ...]; with a key named twice the slow lane keeps the order."""
        cdef Request *request
        cdef int i
        if parser.argc < 3 or parser.argc % 2 == 0 or parser.argc > 2 * KEYS_PER_COMMAND:
            return NOT_FAST
        for i in range(1, parser.argc, 2):
            if parser.args[i].length > KEY_BYTES_LIMIT or parser.args[i].staged:
                return NOT_FAST
        if self._depends(parser, base, 1, 2, database, True):
            return RUN_FIRST if self.pending_count else NOT_FAST
        for i in range(1, parser.argc, 2):
            request = self.batch.add()
            request.kind = KIND_WRITE
            request.database = database
            request.key = base + parser.args[i].offset
            request.key_bytes = <uint32_t>parser.args[i].length
            self._set_value(request, parser, base, i + 1, staged_values)
        return TAKEN

    cdef int _take_prefix_set(self, RequestParser parser, char *base, uint32_t database, list staged_values) except -1:
        """PREFIX.SET [NX] [EX s | PX ms] [PARENT key] key value [key value ...].

        A PARENT is looked up by the store only for its hash and depth; it need not be resident.
        """
        cdef Request *request
        cdef Request *parent
        cdef Request head
        cdef int i = 1, first
        cdef int condition = 0
        cdef long long number, expire_at_ms = -1
        cdef int parent_number = 0
        cdef uint64_t parent_hash = 0
        cdef uint32_t depth = 0, place, unknown
        cdef int admitted
        cdef const char *word
        cdef size_t length
        while i < parser.argc and not parser.args[i].staged:
            word = base + parser.args[i].offset
            length = parser.args[i].length
            if same_word(word, length, b"NX", 2) and condition == 0:
                condition = CONDITION_NX
                i += 1
            elif i + 1 < parser.argc and (same_word(word, length, b"EX", 2) or same_word(word, length, b"PX", 2)):
                if expire_at_ms >= 0 or parser.args[i + 1].staged or not parse_integer(
                    base + parser.args[i + 1].offset, parser.args[i + 1].length, &number
                ) or number <= 0 or number > 1000000000000:
                    return NOT_FAST
                expire_at_ms = self.now_ms + (number * 1000 if word[0] == c'E' or word[0] == c'e' else number)
                i += 2
            elif i + 1 < parser.argc and same_word(word, length, b"PARENT", 6) and parent_number == 0:
                if parser.args[i + 1].staged or parser.args[i + 1].length > KEY_BYTES_LIMIT:
                    return NOT_FAST
                parent_number = i + 1
                i += 2
            else:
                break
        first = i
        if first >= parser.argc or (parser.argc - first) % 2 or parser.argc - first > 2 * CHAIN_KEYS:
            return NOT_FAST
        for i in range(first, parser.argc, 2):
            if parser.args[i].length > KEY_BYTES_LIMIT or parser.args[i].staged:
                return NOT_FAST
        if self._depends(parser, base, first, 2, database, True):
            return RUN_FIRST if self.pending_count else NOT_FAST
        if parent_number:
            # The parent's depth must be known before its children are written: what is pending may write it.
            if self.pending_count:
                return RUN_FIRST
            request = self.batch.add()
            request.kind = KIND_READ
            request.database = database
            request.key = base + parser.args[parent_number].offset
            request.key_bytes = <uint32_t>parser.args[parent_number].length
            self.cluster.now_ms = self.now_ms
            self.cluster.run(self.batch)
            parent_hash = request.hash_low
            if request.status == STATUS_OK:
                depth = request.out_depth + 1
            else:
                depth = 1
            self.batch.clear()
        place = depth if parent_number and depth > 1 else (
            0 if not parent_number else (self.chain.found if self.chain.phase != PHASE_SET else self.chain.place)
        )
        admitted = (parser.argc - first) // 2
        unknown = 0
        if self.cluster.first.engine.reuse.is_on:
            if self.pending_count and self.cluster.first.engine.reuse.evicted_at:
                return RUN_FIRST  # what is pending may change what is there
            admitted = self._plan_chain(parser, base, database, first, place, &unknown)
        self.chain.phase = PHASE_SET
        self.chain.place = place + (parser.argc - first) // 2
        for i in range(first, first + 2 * admitted, 2):
            request = self.batch.add()
            request.kind = KIND_WRITE
            request.database = database
            request.place = self._behind(place + (i - first) // 2)
            request.unknown = unknown
            if i + 2 >= parser.argc and self._is_end(place + (parser.argc - first) // 2):
                request.flags = IS_TAIL
            request.key = base + parser.args[i].offset
            request.key_bytes = <uint32_t>parser.args[i].length
            request.condition = condition
            request.expire_at_ms = expire_at_ms
            request.depth = depth if depth < 65535 else 65535
            request.rank = <uint16_t>((i - first) // 2 // BLOCKS_PER_RANK)
            # The first has one too, which is nobody: so it takes a cell of the size that the others take.
            request.flags |= HAS_PARENT
            request.parent_hash = parent_hash
            self._set_value(request, parser, base, i + 1, staged_values)
            self.cluster.hash(request)
            parent_hash = request.hash_low
            depth += 1
        return TAKEN

    cdef bint _is_end(self, uint32_t place) noexcept:
        """Whether the chain ends before ``place``, as far as its look-up tells; without one every command is a whole request."""
        return self.chain.asked <= 1 or place >= self.chain.asked

    cdef int _plan_chain(self, RequestParser parser, char *base, uint32_t database, int first, uint32_t place, uint32_t *unknown) except -1:
        """How many pairs of a PREFIX.SET are stored: while memory is short, those before the first that is worth less than what would go.

        ``unknown`` becomes how many of its keys are neither there nor remembered. Those that are not stored are remembered.
        """
        cdef uint32_t count = (parser.argc - first) // 2, i, admitted, new = 0, end = place + count
        cdef Request *request
        cdef Node node = self.cluster.first
        cdef Engine engine
        cdef Heat heat
        cdef Ghost ghost
        cdef ChainWorth worth = self.chain.worth, before
        cdef bint is_tail
        cdef uint64_t offset
        if node.engine.reuse.evicted_at == 0:
            unknown[0] = count  # nothing was ever forgotten
            return <int>count
        for i in range(count):
            request = self.batch.add()
            request.kind = KIND_LOOKUP
            request.flags = SILENT | WANT_GHOST
            request.database = database
            request.key = base + parser.args[first + 2 * i].offset
            request.key_bytes = <uint32_t>parser.args[first + 2 * i].length
        self.cluster.now_ms = self.now_ms
        self.cluster.run(self.batch)
        unknown[0] = 0
        for i in range(count):
            request = &self.batch.requests[i]
            unknown[0] += request.status != STATUS_OK and not request.has_ghost
        if count and self.chain.asked > end and self.batch.requests[count - 1].status != STATUS_OK and not self.batch.requests[count - 1].has_ghost:
            unknown[0] += self.chain.asked - end  # what follows an unknown block is unknown too
        admitted = count
        for i in range(count):
            request = &self.batch.requests[i]
            if request.status == STATUS_OK:
                continue
            node = self.cluster.nodes[request.node]
            engine = node.engine
            if engine is None or not engine.reuse.is_on:
                continue
            is_tail = i + 1 == count and self._is_end(end)
            heat = request.heat
            if not request.has_ghost:
                memset(&heat, 0, sizeof(heat))
            if admitted == count:
                before = worth
                engine.reuse.preview(&heat, request.has_ghost, self._behind(place + i), unknown[0], is_tail, &worth)
                if not node.policy.refuses(&heat, new):
                    new += 1
                    continue
                admitted = i
                worth = before
                heat = request.heat
                if not request.has_ghost:
                    memset(&heat, 0, sizeof(heat))
            engine.reuse.begin()
            engine.reuse.access(&heat, request.has_ghost, self._behind(place + i), unknown[0], is_tail, True, &worth)
            engine.reuse.end()
            if request.ghosts != NULL:
                offset = engine.reuse.bucket_offset(request.tag)
                offset += engine.reuse.make_ghost(request.ghosts, request.tag, &heat, &ghost) * GHOST_BYTES
                engine.pool.write_from(offset, &ghost, GHOST_BYTES)
        self.batch.clear()
        return <int>admitted

    # ----------------------------------------------------------------- running

    cdef bint _pins_are_short(self) noexcept:
        """Whether the large values of this run must wait until earlier ones are sent."""
        cdef Node node
        cdef Reclaimer reclaimer
        for node in self.cluster.nodes:
            if node.engine is None:
                continue
            reclaimer = node.engine.reclaimer
            if reclaimer.pin_count and (
                reclaimer.pin_count + self.payload_reads > PIN_ROOM or reclaimer.pinned_pages > reclaimer.pinned_limit_pages
            ):
                return True
        return False

    cdef int run(self, int resp, list chunks) except -1:
        """Answer all commands taken, in order; a RunResult.

        Replies go to ``out``. Before a large value ``out`` is cut: its bytes and then the pinned value are appended
        to ``chunks``, and ``out`` goes on with what follows.
        """
        cdef uint32_t i
        cdef StagedValue staged
        cdef OutBuffer *out = &self.out
        if self.pending_count == 0:
            return RUN_DONE
        if self.payload_reads and self._pins_are_short():
            self.drop()
            return RUN_WAITS
        if self.batch.count:
            self.cluster.now_ms = self.now_ms
            self.batch.chain = self.chain.worth
            self.cluster.run(self.batch)
            self.chain.worth = self.batch.chain
        for i in range(self.pending_count):
            self._answer(&self.pending[i], out, resp, chunks)
        for number, staged in self.staged:
            if self.batch.requests[<uint32_t>number].status == STATUS_OK:
                staged.published()
        self.drop()
        return RUN_DONE

    cdef void drop(self) noexcept:
        """Forget the run."""
        if self.staged:
            self.staged.clear()
        self.pending_count = 0
        self.payload_reads = 0
        if self.has_write:
            self._forget_touched()
        self.batch.clear()

    cdef void _unpin(self, Pending *pending, uint32_t from_number) noexcept:
        """Release the pins of answers that are not sent."""
        cdef uint32_t i
        for i in range(from_number, pending.first + pending.count):
            if self.batch.requests[i].pinned:
                self.cluster.engine_of(&self.batch.requests[i]).drop_pin(&self.batch.requests[i])

    cdef int _answer_value(self, Request *request, OutBuffer *out, int resp, list chunks) except -1:
        cdef PinnedValue value
        if request.status == STATUS_OK:
            if not request.pinned:
                return out_bulk(out, request.out, request.out_tail_bytes)
            value = take_pin(self.cluster.engine_of(request), request)
            if out_bulk_header(out, request.out_bytes) < 0:
                raise MemoryError("no memory for replies")
            chunks.append(out.data[: out.length])
            chunks.append(value)
            out.length = 0
            return out_raw(out, b"\r\n", 2)
        return out_null(out, resp)

    cdef int _answer(self, Pending *pending, OutBuffer *out, int resp, list chunks) except -1:
        """Write one command's reply."""
        cdef Request *first = &self.batch.requests[pending.first]
        cdef Request *request
        cdef uint32_t i, end = pending.first + pending.count
        cdef int64_t total = 0
        cdef int command = pending.command
        cdef int failed = 0
        if command == COMMAND_PING:
            if pending.argument != NULL:
                failed = out_bulk(out, pending.argument, pending.argument_bytes)
            else:
                failed = out_raw(out, b"+PONG\r\n", 7)
            if failed < 0:
                raise MemoryError("no memory for replies")
            return 0
        for i in range(pending.first, end):
            request = &self.batch.requests[i]
            if request.status == STATUS_BUSY:
                failed = out_error(out, BUSY_ERROR, len(BUSY_ERROR))
                self._unpin(pending, pending.first)
                break
            if request.status == STATUS_UNREACHABLE:
                text = self._unreachable(request)
                failed = out_error(out, text, len(text))
                self._unpin(pending, pending.first)
                break
        else:
            if command == COMMAND_GET:
                self.chain.made += first.status == STATUS_OK
                failed = self._answer_value(first, out, resp, chunks)
            elif command == COMMAND_SET:
                self.chain.strange += first.status == STATUS_OK and first.checked_word == 0 and not first.has_ghost
                self.chain.made += first.status == STATUS_OK
                if first.status == STATUS_OK:
                    failed = out_raw(out, b"+OK\r\n", 5)
                elif first.status == STATUS_MISS or first.status == STATUS_PRESENT:
                    failed = out_null(out, resp)
                else:
                    failed = self._answer_full(first.status, out)
            elif command == COMMAND_MGET:
                failed = out_array_header(out, pending.count)
                for i in range(pending.first, end):
                    failed |= self._answer_value(&self.batch.requests[i], out, resp, chunks)
            elif command == COMMAND_PREFIX_GET:
                i = pending.first
                while i < end and self.batch.requests[i].status == STATUS_OK:
                    i += 1
                self._unpin(pending, i)
                self.chain.made += i - pending.first
                failed = out_array_header(out, i - pending.first)
                end = i
                for i in range(pending.first, end):
                    failed |= self._answer_value(&self.batch.requests[i], out, resp, chunks)
            elif command == COMMAND_PREFIX_EXISTS:
                failed = out_array_header(out, pending.count)
                for i in range(pending.first, end):
                    failed |= out_integer(out, self.batch.requests[i].status == STATUS_OK)
            elif command == COMMAND_PREFIX_MATCH:
                while pending.first + total < end and self.batch.requests[pending.first + total].status == STATUS_OK:
                    total += 1
                self.chain.found = <uint32_t>total
                failed = out_integer(out, total)
            elif command == COMMAND_PREFIX_SET:
                for i in range(pending.first, end):
                    request = &self.batch.requests[i]
                    if request.status != STATUS_OK and request.status != STATUS_PRESENT:
                        break
                    total += 1
                self.chain.made += pending.count
                if total == 0 and pending.count:
                    failed = self._answer_full(first.status, out)
                else:
                    failed = out_integer(out, total)
            elif command == COMMAND_MSET:
                for i in range(pending.first, end):
                    if self.batch.requests[i].status != STATUS_OK:
                        failed = self._answer_full(self.batch.requests[i].status, out)
                        break
                else:
                    failed = out_raw(out, b"+OK\r\n", 5)
            elif command == COMMAND_STRLEN:
                failed = out_integer(out, first.out_bytes if first.status == STATUS_OK else 0)
            elif command == COMMAND_TTL or command == COMMAND_PTTL:
                if first.status != STATUS_OK:
                    total = -2
                elif first.out_expire_ms < 0:
                    total = -1
                else:
                    total = first.out_expire_ms - self.now_ms
                    if command == COMMAND_TTL:
                        total = (total + 500) // 1000
                failed = out_integer(out, total)
            else:  # EXISTS, DEL, UNLINK: how many
                if command == COMMAND_EXISTS and pending.count == 1:
                    if first.status != STATUS_OK:
                        self.chain.unknown += not first.has_ghost
                    elif first.place == self.chain.found:
                        self.chain.found += 1
                        self.chain.last_hash = first.hash_low
                for i in range(pending.first, end):
                    total += self.batch.requests[i].status == STATUS_OK
                failed = out_integer(out, total)
        if failed < 0:
            raise MemoryError("no memory for replies")
        return 0

    cdef bytes _unreachable(self, Request *request):
        return b"ERR memory node %b unreachable" % (<Node>self.cluster.nodes[request.node]).name.encode()

    cdef int _answer_full(self, int status, OutBuffer *out) noexcept:
        if status == STATUS_INDEX_FULL:
            return out_error(out, INDEX_ERROR, len(INDEX_ERROR))
        return out_error(out, OOM_ERROR, len(OOM_ERROR))

    def total_calls(self) -> int:
        """Calls of all commands."""
        cdef int number
        cdef uint64_t total = 0
        for number in range(<int>FAST_COMMANDS):
            total += self.calls[number]
        return total

    def call_counts(self) -> dict[str, int]:
        """Calls by command name, for INFO."""
        return {f"calls:{_NAMES[number]}": self.calls[number] for number in range(1, FAST_COMMANDS) if self.calls[number]}
