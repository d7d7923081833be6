# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Steps of requests that change nothing: presence, head, payload, pins."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from storage.batch cimport (
    IS_TAIL,
    KIND_LOOKUP,
    STATUS_BUSY,
    STATUS_MISS,
    STATUS_OK,
    TOUCH,
    WANT_GHOST,
    WANT_PAYLOAD,
    Batch,
    Request,
    append_operation,
    allocate,
)
from storage.cells cimport CELL_BYTES
from storage.engine cimport (
    AWAIT_HAZARD,
    CELL,
    COPY,
    GHOST,
    LIST,
    LOOKUP_EXPIRY,
    PIN,
    REMEMBERED,
    SETS,
    Engine,
    slot_words,
    emit,
)
from storage.fabric.base cimport OP_FENCE, OP_READ, OP_WRITE, FabricOp
from storage.hot_values cimport HotValue, cell_copy, changes_since, later_stamp
from storage.locations cimport NO_STAMP, Location
from storage.reclaim cimport hazard_of_cell, hazard_of_page
from storage.reuse cimport GHOST_BUCKET_BYTES
from storage.words cimport (
    CELL_HAS_PARENT,
    CELL_KEPT_AS,
    CELL_KEPT_AS_SHIFT,
    CELL_LIST_PAGE,
    CHANGE_COUNTERS,
    HEAD_BYTES_MAX,
    HEAT_BYTES,
    LOOKED_UP,
    PAGE_BYTES,
    CellHeader,
    cell_expiry_ms,
    cell_lease_ms,
    cell_prefix_bytes,
    location_page,
    overflow_distance,
    word_class,
    word_has_ttl,
    word_is_paged,
    word_location,
)

cdef enum:
    HOT_HITS = 2              # accesses, this one included, from which on a value is worth a copy
    FREQUENCY_INITIAL = 5     # Redis's LFU_INIT_VAL


cdef void step_lookup(Engine engine, Batch batch, Request *request) noexcept nogil:
    if request.state == SETS:
        after_sets(engine, batch, request)
    elif request.state == REMEMBERED:
        after_counters(engine, batch, request)
    elif request.state == COPY:
        after_proof(engine, batch, request)
    elif request.state == CELL:
        after_cell(engine, batch, request)
    elif request.state == LOOKUP_EXPIRY:
        after_expiry(engine, batch, request)
    elif request.state == AWAIT_HAZARD:
        read_cell(engine, batch, request)
    elif request.state == LIST:
        pin(engine, batch, request)
    elif request.state == PIN:
        after_pin(engine, batch, request)
    elif request.state == GHOST:
        # The policy may have been changed while the bucket was read.
        request.has_ghost = engine.reuse.is_on and engine.reuse.find_ghost(
            request.ghosts, request.tag, &request.heat, &request.ghost_place
        )
        engine.finish(batch, request, STATUS_MISS)


cdef void after_counters(Engine engine, Batch batch, Request *request) noexcept nogil:
    """The change counters are there: what is remembered is current, or the set is read after all."""
    if batch.round.counters[request.hash_high % CHANGE_COUNTERS] != request.stamp:
        engine.restart(batch, request)
        return
    engine.locations.hits += 1
    if request.out_expire_ms >= 0 and request.out_expire_ms <= batch.now_ms:
        engine.queue_expired(request.slot, request.word)
        engine.finish(batch, request, STATUS_MISS)
        return
    if request.flags & TOUCH:
        engine.touch_last(batch, request, True)
    engine.finish(batch, request, STATUS_OK)


cdef bint read_proof(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Ask for what shows that the copy that is kept of the value is current. False when none is kept."""
    cdef HotValue *copy = engine.hot_values.find(request.hash_low, request.hash_high, request.epoch)
    if copy == NULL:
        return False
    request.is_remembered = True
    request.slot = copy.slot
    request.word = copy.word
    request.stamp = copy.next_stamp  # read before the slot will be, unlike what others may read meanwhile
    # A batch that reads all counters needs no slots unless something has changed.
    request.has_slot = not (batch.round.reads_epochs and batch.round.reads_counters)
    if request.has_slot:
        emit(batch, OP_READ, engine.pool.counter_offset(request.hash_high), &request.counter, 8)
        emit(batch, OP_READ, engine.pool.slot_offset(request.slot), &request.checked_word, 8)
    emit(batch, OP_READ, engine.pool.heat_offset(request.slot), &request.heat, HEAT_BYTES)
    request.state = COPY
    return True


cdef void after_proof(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Counter, or counter and slot, are there: the copy is current, or the value is read after all."""
    cdef HotValue *copy = engine.hot_values.find(request.hash_low, request.hash_high, request.epoch)
    cdef int32_t changes
    if copy == NULL or copy.word != request.word or copy.slot != request.slot:
        engine.begin(batch, request)  # it gave way, or another batch has a newer one
        return
    if not request.has_slot:
        request.counter = batch.round.counters[request.hash_high % CHANGE_COUNTERS]
    changes = changes_since(request.counter, copy.stamp)
    if changes > 0:
        if not request.has_slot:
            request.has_slot = True
            emit(batch, OP_READ, engine.pool.slot_offset(request.slot), &request.checked_word, 8)
            return
        # The counter is that of many keys. The slot tells, as long as its version cannot have come round.
        if request.checked_word != request.word or changes > <int32_t>(engine.pool.word_format.version_mask >> 2):
            engine.hot_values.stale += 1
            engine.hot_values.strike(copy)
            engine.begin(batch, request)
            return
        copy.stamp = later_stamp(copy.stamp, request.stamp)
    copy.next_stamp = later_stamp(copy.next_stamp, request.counter)
    answer_from_copy(engine, batch, request, copy)


cdef void answer_from_copy(Engine engine, Batch batch, Request *request, HotValue *copy) noexcept nogil:
    """The copy is current: its cell answers, and its payload stays while it is being sent."""
    cdef CellHeader *header
    if copy.expire_at_ms >= 0 and copy.expire_at_ms <= batch.now_ms:
        engine.hot_values.strike(copy)
        engine.queue_expired(request.slot, request.word)
        engine.finish(batch, request, STATUS_MISS)
        return
    # Copied once more, since another batch may strike it before this one's answers are written.
    request.cell = <char *>allocate(batch, copy.cell_bytes)
    request.cell_bytes = copy.cell_bytes
    memcpy(request.cell, cell_copy(copy), copy.cell_bytes)
    header = <CellHeader *>request.cell
    if not same_key(request, header, request.cell + cell_prefix_bytes(header)):
        engine.hot_values.strike(copy)  # two keys of one 128-bit hash
        engine.begin(batch, request)
        return
    locate_payload(request)
    engine.hot_values.hits += 1
    copy.was_used = True
    request.last_ms_before = request.heat.last_ms
    if request.flags & TOUCH:
        warm(engine, batch, request)
    if word_is_paged(request.word) and request.flags & WANT_PAYLOAD:
        copy.references += 1
        request.copy = copy
        request.pinned = True
    engine.finish(batch, request, STATUS_OK)


cdef HotValue *start_copy(Engine engine, Request *request, uint64_t stamp, uint64_t payload_bytes) noexcept nogil:
    """A copy of what the request has found, if it was read here before and is no stranger to readers; NULL: it is not kept.

    ``stamp``: the key's change counter, read before the slot was last read.
    """
    cdef HotValue *copy
    if (
        engine.hot_values is None or not request.is_remembered or not request.flags & TOUCH or stamp == NO_STAMP
        or request.heat.hits < HOT_HITS or (<CellHeader *>request.cell).flags & CELL_LIST_PAGE
        or changes_since(request.counter, stamp) > <int32_t>(engine.pool.word_format.version_mask >> 2)
    ):
        return NULL
    copy = engine.hot_values.make(request.cell_bytes, payload_bytes)
    if copy == NULL:
        return NULL
    copy.hash_low = request.hash_low
    copy.hash_high = request.hash_high
    copy.epoch = request.epoch
    copy.word = request.word
    copy.slot = request.slot
    copy.stamp = stamp
    copy.next_stamp = later_stamp(stamp, request.counter)
    copy.expire_at_ms = request.out_expire_ms
    memcpy(cell_copy(copy), request.cell, request.cell_bytes)
    return copy


cdef void keep_paged(Engine engine, Request *request, uint64_t stamp) noexcept nogil:
    """The pages are pinned: whoever fetches them makes the copy on the way."""
    cdef uint64_t in_pages = <uint64_t>request.out_page_count * PAGE_BYTES
    request.filling = start_copy(engine, request, stamp, in_pages if in_pages < request.out_bytes else request.out_bytes)


cdef void after_sets(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Copies of the sets are there: the key is in one of them, further away, or nowhere."""
    cdef uint32_t distance
    request.candidate = engine.find_candidate(request, 0)
    if request.candidate < 0:
        distance = overflow_distance((<uint64_t *>request.sets)[0])
        if distance + 1 > request.set_count and request.set_count < engine.pool.geometry.set_count:
            engine.read_sets(batch, request, distance + 1)
            return
        miss(engine, batch, request)
        return
    take_candidate(engine, batch, request)


cdef void miss(Engine engine, Batch batch, Request *request) noexcept nogil:
    """The key is nowhere; whether it was, if somebody wants to know."""
    cdef uint64_t offset
    if request.flags & WANT_GHOST and engine.reuse.is_on:
        offset = engine.reuse.bucket_offset(request.tag)
        if offset:
            request.ghosts = <char *>allocate(batch, GHOST_BUCKET_BYTES)
            emit(batch, OP_READ, offset, request.ghosts, GHOST_BUCKET_BYTES)
            request.state = GHOST
            return
    engine.finish(batch, request, STATUS_MISS)


cdef void take_candidate(Engine engine, Batch batch, Request *request) noexcept nogil:
    if request.kind == KIND_LOOKUP:
        if not word_has_ttl(request.word):
            engine.remember(request)
            if request.flags & TOUCH:
                engine.touch_last(batch, request, True)
            engine.finish(batch, request, STATUS_OK)
            return
        if not engine.valid_location(request.word):
            give_up_or_look_again(engine, batch, request)
            return
        # The expiry follows the header: 32 bytes tell whether the key is still there.
        request.cell = <char *>allocate(batch, sizeof(CellHeader) + 8)
        emit(batch, OP_READ, engine.cell_offset(word_location(request.word), word_class(request.word)),
            request.cell, sizeof(CellHeader) + 8,
        )
        request.state = LOOKUP_EXPIRY
        return
    read_cell(engine, batch, request)


cdef void after_expiry(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef CellHeader *header = <CellHeader *>request.cell
    cdef int64_t expiry
    if header.slot != request.slot or header.echo != <uint32_t>request.word:
        engine.restart(batch, request)
        return
    expiry = cell_expiry_ms(header)
    if expiry >= 0 and expiry <= batch.now_ms:
        engine.queue_expired(request.slot, request.word)
        engine.finish(batch, request, STATUS_MISS)
        return
    request.out_expire_ms = expiry
    engine.remember(request)
    if request.flags & TOUCH:
        engine.touch_last(batch, request, True)
    engine.finish(batch, request, STATUS_OK)


cdef void give_up_or_look_again(Engine engine, Batch batch, Request *request) noexcept nogil:
    """The slot's word names no cell: it is damaged, or it was read half before and half after a change."""
    if engine.is_damaged(request.slot, request.word):
        engine.finish(batch, request, STATUS_MISS)
    else:
        engine.restart(batch, request)


cdef void read_cell(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Read the candidate's cell in a way that proves it current.

    Where READs keep their order the slot is read after the cell. Elsewhere a hazard goes out first: while
    the slot still holds the word after that, the cell cannot be used for anything else.
    """
    cdef uint32_t location = word_location(request.word)
    cdef uint32_t cell_class = word_class(request.word)
    cdef uint32_t size
    cdef uint64_t cell_offset
    if not engine.valid_location(request.word):
        give_up_or_look_again(engine, batch, request)
        return
    size = CELL_BYTES[cell_class]
    if not request.flags & WANT_PAYLOAD and not word_is_paged(request.word):
        if HEAD_BYTES_MAX + request.key_bytes < size:
            size = HEAD_BYTES_MAX + request.key_bytes
    if not engine.pool.fabric.ordered_reads and request.hazard < 0:
        request.hazard = engine.reclaimer.take_hazard(hazard_of_cell(location), False)
        if request.hazard < 0:
            request.state = AWAIT_HAZARD
            return
        emit_hazard(engine, batch, request)
    cell_offset = engine.cell_offset(location, cell_class)
    request.cell = <char *>allocate(batch, size)
    request.cell_bytes = size
    if request.is_remembered and engine.hot_values is not None:
        emit(batch, OP_READ, engine.pool.counter_offset(request.hash_high), &request.counter, 8)
    emit(batch, OP_READ, cell_offset, request.cell, size)
    emit(batch, OP_READ, engine.pool.heat_offset(request.slot), &request.heat, HEAT_BYTES)
    emit(batch, OP_READ, engine.pool.slot_offset(request.slot), &request.checked_word, 8)
    request.read_clock = engine.clock
    request.state = CELL


cdef void emit_hazard(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Write the name out, and before it, when need be, how far others must look in this row."""
    if engine.reclaimer.high_water > engine.reclaimer.published_high_water:
        engine.reclaimer.published_high_water = (engine.reclaimer.high_water + 63) & ~63
        emit(batch, OP_WRITE, engine.pool.row_offset(engine.pool.front_end) + 8, &engine.reclaimer.published_high_water, 8)
    emit(batch, OP_WRITE, engine.pool.hazard_offset(engine.pool.front_end, request.hazard),
        &engine.reclaimer.row[request.hazard], 8,
    )


cdef bint parse_cell(Request *request, uint32_t slot, uint64_t word) noexcept nogil:
    """Whether the copy in ``request.cell`` is the cell that ``word`` in ``slot`` names, with a key that fits there.

    The copy is whole as far as a key of the request's length reaches: compare the lengths before anything else.
    """
    cdef CellHeader *header = <CellHeader *>request.cell
    cdef uint64_t needed
    if header.slot != slot or header.echo != <uint32_t>word:
        return False
    needed = cell_prefix_bytes(header) + <uint64_t>header.key_bytes
    return needed <= CELL_BYTES[word_class(word)]


cdef bint same_key(Request *request, CellHeader *header, const char *key) noexcept nogil:
    """Whether the cell holds this key in this epoch of this database."""
    return (
        header.key_bytes == request.key_bytes and header.database == request.database and header.epoch == request.epoch
        and memcmp(key, request.key, request.key_bytes) == 0
    )


cdef void locate_payload(Request *request) noexcept nogil:
    """Fill the answer from the copy of the cell: lengths, expiry, chain, page list, tail or value."""
    cdef CellHeader *header = <CellHeader *>request.cell
    cdef uint32_t prefix = cell_prefix_bytes(header)
    cdef char *body = request.cell + prefix + header.key_bytes
    cdef uint64_t room = request.cell_bytes - prefix - header.key_bytes
    cdef uint64_t pages, list_bytes
    request.out_bytes = header.value_bytes
    request.out_expire_ms = cell_expiry_ms(header)
    request.out_lease_ms = cell_lease_ms(header)
    request.out_type = header.value_type
    request.out_kept_as = (header.flags & CELL_KEPT_AS) >> CELL_KEPT_AS_SHIFT
    request.out_depth = header.depth
    request.out_parent_hash = 0
    if header.flags & CELL_HAS_PARENT:
        memcpy(&request.out_parent_hash, request.cell + prefix - 8, 8)
    request.out_page_count = 0
    request.page_list = NULL
    if not word_is_paged(request.word):
        request.out = body
        # Clamped to the cell: a damaged length must not read beyond it.
        request.out_tail_bytes = header.value_bytes if header.value_bytes <= room else <uint32_t>room
        return
    pages = header.value_bytes // PAGE_BYTES
    list_bytes = 4 if header.flags & CELL_LIST_PAGE else pages * 4
    request.out_tail_bytes = 0
    if header.value_bytes % PAGE_BYTES:
        if header.tail_in_cell:
            request.out_tail_bytes = header.value_bytes % PAGE_BYTES
        else:
            pages += 1
            if not header.flags & CELL_LIST_PAGE:
                list_bytes += 4
    request.out_page_count = <uint32_t>pages
    if pages == 0 or pages > PAGE_BYTES // 4 or list_bytes + request.out_tail_bytes > room:
        request.out_page_count = 0  # damaged: nothing in it can be believed
        request.out_tail_bytes = 0
        return
    request.page_list = <uint32_t *>body
    request.out = body + list_bytes


cdef void after_cell(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef CellHeader *header = <CellHeader *>request.cell
    cdef bint is_whole, is_own
    cdef HotValue *copy
    engine.release_hazard(batch, request)
    if request.checked_word != request.word:
        engine.restart(batch, request)
        return
    is_whole = parse_cell(request, request.slot, request.word)
    is_own = is_whole and same_key(request, header, request.cell + cell_prefix_bytes(header))
    if request.is_remembered and not is_own:
        # The word came back with another key (or the cell is damaged): no set was read yet, so there is no next candidate.
        engine.restart(batch, request)
        return
    if not is_whole:
        engine.counts.damaged += 1
        engine.finish(batch, request, STATUS_MISS)
        return
    if not is_own:
        next_candidate(engine, batch, request)
        return
    locate_payload(request)
    if request.is_remembered:
        engine.locations.hits += 1
        note_counter(engine, request)
    else:
        engine.remember(request)
    request.last_ms_before = request.heat.last_ms
    if request.out_expire_ms >= 0 and request.out_expire_ms <= batch.now_ms:
        engine.queue_expired(request.slot, request.word)
        engine.finish(batch, request, STATUS_MISS)
        return
    if request.flags & TOUCH:
        warm(engine, batch, request)
    if not word_is_paged(request.word) and request.flags & WANT_PAYLOAD:
        copy = start_copy(engine, request, request.stamp, 0)
        if copy != NULL:
            engine.hot_values.enlist(copy)
            engine.hot_values.release(copy)
    if not word_is_paged(request.word) or not request.flags & WANT_PAYLOAD:
        engine.finish(batch, request, STATUS_OK)
        return
    if request.page_list == NULL:
        engine.counts.damaged += 1
        engine.finish(batch, request, STATUS_MISS)
        return
    if header.flags & CELL_LIST_PAGE:
        read_list_page(engine, batch, request)
        request.state = LIST
        return
    pin(engine, batch, request)


cdef void note_counter(Engine engine, Request *request) noexcept nogil:
    """The next GET of this key reads the slot after this counter."""
    cdef Location *location
    if engine.hot_values is not None:
        location = engine.locations.find(request.hash_low, request.hash_high, request.epoch)
        if location != NULL and location.word == request.word and location.slot == request.slot:
            location.seen = later_stamp(location.seen, request.counter)


cdef void read_list_page(Engine engine, Batch batch, Request *request) noexcept nogil:
    """The page list of a very large value lies in a page of its own: read it."""
    cdef uint32_t list_page
    cdef uint32_t *pages = <uint32_t *>allocate(batch, (request.out_page_count + 1) * 4)
    memcpy(&list_page, request.page_list, 4)
    if list_page >= engine.pool.geometry.page_count:
        list_page = 0
    # One more entry than there are payload pages: whoever retires the value frees the list's page too.
    pages[request.out_page_count] = list_page
    request.page_list = pages
    emit(batch, OP_READ, engine.pool.page_offset(list_page), pages, request.out_page_count * 4)


cdef void next_candidate(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Another key with the same tag: go on behind it."""
    cdef uint32_t wanted = overflow_distance((<uint64_t *>request.sets)[0]) + 1
    request.candidate = engine.find_candidate(request, request.candidate + 1)
    if request.candidate >= 0:
        take_candidate(engine, batch, request)
        return
    if wanted > request.set_count and request.set_count < engine.pool.geometry.set_count:
        engine.read_sets(batch, request, wanted)
        request.state = SETS
        return
    miss(engine, batch, request)


cdef void warm(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Heat of one access: time, hits, and Redis's logarithmic frequency counter (LFU, 8 bits)."""
    cdef FabricOp *op
    cdef uint32_t frequency = engine.frequency_now(&request.heat)
    cdef double base
    if frequency < 255:
        base = frequency - FREQUENCY_INITIAL if frequency > FREQUENCY_INITIAL else 0
        if (engine.next_random() >> 11) * (1.0 / 9007199254740992.0) < 1.0 / (base * engine.frequency_log_factor + 1):
            frequency += 1
    request.heat.frequency = <uint8_t>frequency
    request.heat.last_ms = engine.used_at(batch, request, request.heat.last_ms)
    if request.heat.hits < 65535:
        request.heat.hits += 1
    if engine.reuse.is_on:
        engine.reuse.access(&request.heat, True, request.place, 0, (request.flags & IS_TAIL) != 0, False, &batch.chain)
    op = append_operation(&batch.round.trailing)
    op.opcode = OP_WRITE
    op.offset = engine.pool.heat_offset(request.slot)
    op.local = &request.heat
    op.length = HEAT_BYTES


cdef void pin(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Publish a hazard for the payload pages, then look at the slot once more."""
    cdef int first
    cdef uint32_t i
    cdef FabricOp *op
    for i in range(request.out_page_count):
        if request.page_list[i] >= engine.pool.geometry.page_count:
            engine.counts.damaged += 1
            engine.finish(batch, request, STATUS_MISS)
            return
    first = engine.reclaimer.find_pin(request.page_list[0])
    if first >= 0 and engine.reclaimer.pin_since[first] <= request.read_clock:
        # Pinned before the slot was read again: the hazard covers this reader too.
        engine.reclaimer.add_pin(first, request.out_page_count, engine.clock)
        request.pinned = True
        keep_paged(engine, request, request.stamp)
        engine.finish(batch, request, STATUS_OK)
        return
    request.hazard = engine.reclaimer.take_hazard(hazard_of_page(request.page_list[0]), True)
    if request.hazard < 0:
        engine.finish(batch, request, STATUS_BUSY)
        return
    emit_hazard(engine, batch, request)
    op = emit(batch, OP_READ, engine.pool.slot_offset(request.slot), &request.checked_word, 8)
    op.flags = OP_FENCE
    request.state = PIN


cdef void after_pin(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef int other
    if request.checked_word != request.word:
        engine.release_hazard(batch, request)
        engine.restart(batch, request)
        return
    other = engine.reclaimer.find_pin(request.page_list[0])
    if other >= 0:
        engine.release_hazard(batch, request)
    else:
        other = request.hazard
        request.hazard = -1
    engine.reclaimer.add_pin(other, request.out_page_count, engine.clock)
    request.pinned = True
    # The slot was read a round after the counter was.
    keep_paged(engine, request, request.counter)
    engine.finish(batch, request, STATUS_OK)
