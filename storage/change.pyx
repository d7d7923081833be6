# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Steps of requests that change the pool: insert, overwrite, delete, evict.

Insert: reserve a FREE slot, write its tag, look at the sets again, publish. All who insert one key meet in the
lowest slot that is reserved for it, whoever reserved it: each publishes its own value there by CAS from the same
word, so that whoever fails knows that another got further. Nobody waits, and a front end that stops halfway
blocks nobody. Overwrite and delete are one CAS from the exact word that was read.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from storage.batch cimport (
    CONDITION_NX,
    CONDITION_XX,
    COUNT_AS_EXPIRED,
    EXACT,
    HAS_PARENT,
    IS_TAIL,
    KEEP_TTL,
    KEEP_VALUE,
    KIND_DELETE,
    KIND_EVICT,
    KIND_WRITE,
    MOVE,
    SET_LEASE,
    STATUS_CONFLICT,
    STATUS_FULL,
    STATUS_LEASED,
    STATUS_MISS,
    STATUS_OK,
    STATUS_PRESENT,
    Batch,
    Request,
    allocate,
    append_operation,
)
from storage.cells cimport CELL_BYTES, class_for
from storage.engine cimport (
    AWAIT_INDEX,
    AWAIT_MEMORY,
    CHANGE_BEGINS,
    CHANGE_ENDS,
    EXPEL,
    OLD,
    OLD_LIST,
    PUBLISH,
    RAISE,
    RESERVE,
    SETS,
    START,
    SWAP,
    UNLINK,
    Engine,
    emit,
    hash_request,
    home_of,
    slot_words,
)
from storage.fabric.base cimport OP_CAS, OP_FENCE, OP_READ, OP_WRITE, FabricOp
from storage.lookup cimport locate_payload, parse_cell, read_list_page, same_key
from storage.removals cimport REMOVED_EVICTED, REMOVED_EXPIRED
from storage.reuse cimport GHOST_BUCKET_BYTES, GHOST_BYTES, HEAT_COUNTED, Ghost
from storage.words cimport (
    CELL_HAS_EXPIRY,
    CELL_HAS_LEASE,
    CELL_HAS_PARENT,
    CELL_KEPT_AS_SHIFT,
    CELL_LIST_PAGE,
    CELL_PAGED,
    HEAD_BYTES_MAX,
    HEAT_BYTES,
    HEAT_LEASED,
    LOOKED_UP,
    MAX_CELL_BYTES,
    MAX_DISTANCE,
    MAX_KEY_BYTES_C,
    PAGE_BYTES,
    PAGE_PAYLOAD,
    SLOTS_PER_SET,
    STATE_FREE,
    STATE_LIVE,
    STATE_RESERVED,
    CellHeader,
    cell_expiry_ms,
    cell_lease_ms,
    cell_prefix_bytes,
    freed_word,
    location_page,
    make_overflow,
    make_word,
    make_word1,
    overflow_count,
    overflow_distance,
    word1_binding,
    word1_distance,
    word1_tag,
    word_binding,
    word_class,
    word_has_ttl,
    word_is_paged,
    word_location,
    word_state,
    word_version,
)

cdef enum:
    SMALL_VALUE_BYTES = 512     # up to here copying the value behind its header beats a second WRITE
    FREQUENCY_INITIAL = 5       # Redis's LFU_INIT_VAL


cdef void step_change(Engine engine, Batch batch, Request *request) noexcept nogil:
    if request.state == SETS:
        after_sets(engine, batch, request)
    elif request.state == OLD:
        after_old(engine, batch, request)
    elif request.state == SWAP:
        after_swap(engine, batch, request)
    elif request.state == RESERVE:
        after_reserve(engine, batch, request)
    elif request.state == PUBLISH:
        after_publish(engine, batch, request)
    elif request.state == UNLINK:
        after_unlink(engine, batch, request)
    elif request.state == OLD_LIST:
        decide(engine, batch, request)
    elif request.state == RAISE:
        after_raise(engine, batch, request)
    elif request.state == EXPEL:
        after_expel(engine, batch, request)
    elif request.state == START:
        read_victim(engine, batch, request)


# ----------------------------------------------------------------- finding

cdef void after_sets(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef uint32_t distance
    request.candidate = engine.find_candidate(request, 0)
    if request.candidate >= 0:
        read_old(engine, batch, request)
        return
    distance = overflow_distance((<uint64_t *>request.sets)[0])
    if distance + 1 > request.set_count and request.set_count < engine.pool.geometry.set_count:
        engine.read_sets(batch, request, distance + 1)
        return
    absent(engine, batch, request)


cdef void absent(Engine engine, Batch batch, Request *request) noexcept nogil:
    """The key is nowhere."""
    request.out_lease_ms = 0
    if request.kind == KIND_DELETE:
        engine.finish(batch, request, STATUS_CONFLICT if request.flags & EXACT else STATUS_MISS)
    elif request.flags & EXACT:
        engine.finish(batch, request, STATUS_CONFLICT)
    elif request.condition == CONDITION_XX:
        engine.finish(batch, request, STATUS_MISS)
    else:
        if request.flags & KEEP_TTL:
            keep_expiry(engine, request, -1)
        insert(engine, batch, request)


cdef void keep_expiry(Engine engine, Request *request, int64_t expire_at_ms) noexcept nogil:
    """KEEPTTL: the expiry is that of what is there now; a cell planned under another one is of no use."""
    if request.has_new_cell and request.expire_at_ms != expire_at_ms:
        engine.allocator.free_cell(request.new_location, request.new_class)
        request.has_new_cell = False
    request.expire_at_ms = expire_at_ms


cdef void read_old(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Read what is there: its key decides whether it is ours, its page list is freed with it."""
    cdef uint32_t cell_class = word_class(request.word)
    cdef uint32_t size
    # The word alone may come again in another slot, in the same cell: after a flush, or when the key was written anew.
    if request.flags & EXACT and (request.word != request.expected or request.slot != request.expected_slot):
        # Another key with the same tag may stand before it.
        next_old(engine, batch, request, STATUS_CONFLICT)
        return
    if not engine.valid_location(request.word):
        clear_damaged(engine, batch, request)
        return
    size = CELL_BYTES[cell_class]
    if not word_is_paged(request.word) and not request.flags & KEEP_VALUE and size > HEAD_BYTES_MAX + request.key_bytes:
        size = HEAD_BYTES_MAX + request.key_bytes
    request.cell = <char *>allocate(batch, size)
    request.cell_bytes = size
    emit(batch, OP_READ, engine.cell_offset(word_location(request.word), cell_class), request.cell, size)
    emit(batch, OP_READ, engine.pool.slot_offset(request.slot), &request.checked_word, 16)
    if (engine.reuse.is_on and request.kind == KIND_WRITE and not request.flags & KEEP_VALUE) or request.flags & SET_LEASE:
        emit(batch, OP_READ, engine.pool.heat_offset(request.slot), &request.heat, HEAT_BYTES)
    request.state = OLD


cdef void next_old(Engine engine, Batch batch, Request *request, int status_at_end) noexcept nogil:
    """The candidate is not it: go on behind it; at the end the key is absent, or ``status_at_end`` if that is set."""
    cdef uint32_t wanted = overflow_distance((<uint64_t *>request.sets)[0]) + 1
    request.candidate = engine.find_candidate(request, request.candidate + 1)
    if request.candidate >= 0:
        read_old(engine, batch, request)
    elif wanted > request.set_count and request.set_count < engine.pool.geometry.set_count:
        engine.read_sets(batch, request, wanted)
        request.state = SETS
    elif status_at_end:
        engine.finish(batch, request, status_at_end)
    else:
        absent(engine, batch, request)


cdef void read_victim(Engine engine, Batch batch, Request *request) noexcept nogil:
    """EVICT: the slot is known, the key is not."""
    cdef uint32_t size
    request.word = request.expected
    if not engine.valid_location(request.word):
        clear_damaged(engine, batch, request)
        return
    size = CELL_BYTES[word_class(request.word)]
    if not word_is_paged(request.word) and not request.flags & MOVE and size > HEAD_BYTES_MAX + MAX_KEY_BYTES_C:
        size = HEAD_BYTES_MAX + MAX_KEY_BYTES_C
    request.cell = <char *>allocate(batch, size)
    request.cell_bytes = size
    emit(batch, OP_READ, engine.cell_offset(word_location(request.word), word_class(request.word)), request.cell, size
    )
    emit(batch, OP_READ, engine.pool.slot_offset(request.slot), &request.checked_word, 16)
    if engine.reuse.is_on and not request.flags & COUNT_AS_EXPIRED:
        emit(batch, OP_READ, engine.pool.heat_offset(request.slot), &request.heat, HEAT_BYTES)
    request.state = OLD


cdef void clear_damaged(Engine engine, Batch batch, Request *request) noexcept nogil:
    """The slot names a cell that does not name it back: clear the slot alone, free nothing."""
    cdef uint64_t counter = engine.pool.counter_offset(request.hash_high)
    if engine.pool.fabric.is_remote and request.kind != KIND_EVICT:
        engine.pool.fetch_and_add(counter, CHANGE_BEGINS)
    if engine.pool.compare_and_swap(
        engine.pool.slot_offset(request.slot), request.word, freed_word(engine.pool.word_format, request.word)
    ) == request.word:
        # Otherwise it was changed under this reader, where READs keep no order: nothing is wrong with it.
        engine.counts.damaged += 1
    if engine.pool.fabric.is_remote and request.kind != KIND_EVICT:
        engine.pool.fetch_and_add(counter, CHANGE_ENDS)
    if request.kind == KIND_EVICT:
        engine.finish(batch, request, STATUS_CONFLICT)
    else:
        engine.restart(batch, request)


cdef void after_old(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef CellHeader *header = <CellHeader *>request.cell
    cdef char *old_key
    if request.checked_word != request.word:
        if request.kind == KIND_EVICT:
            engine.finish(batch, request, STATUS_CONFLICT)
        else:
            engine.restart(batch, request)
        return
    if not parse_cell(request, request.slot, request.word):
        clear_damaged(engine, batch, request)
        return
    old_key = request.cell + cell_prefix_bytes(header)
    if request.kind == KIND_EVICT:
        adopt_key(engine, request, header, old_key)
    elif not same_key(request, header, old_key):
        next_old(engine, batch, request, STATUS_OK)  # another key with the same tag
        return
    locate_payload(request)
    if header.flags & CELL_LIST_PAGE and request.page_list != NULL:
        read_list_page(engine, batch, request)
        request.state = OLD_LIST
        return
    decide(engine, batch, request)


cdef void adopt_key(Engine engine, Request *request, CellHeader *header, char *key) noexcept nogil:
    """EVICT: the victim's key tells its change counter."""
    cdef uint64_t epoch = engine.pool.epochs[header.database]
    request.database = header.database
    request.key = key
    request.key_bytes = header.key_bytes
    hash_request(engine.pool, request)
    # The cell holds the lower half; an entry of an epoch that is gone had its own home.
    epoch = (epoch & ~<uint64_t>0xFFFFFFFF) | header.epoch
    request.home = home_of(request.hash_low, epoch, engine.pool.geometry.set_count)


cdef void decide(Engine engine, Batch batch, Request *request) noexcept nogil:
    """What is there is known in full: refuse, replace or remove it."""
    request.was_expired = request.out_expire_ms >= 0 and request.out_expire_ms <= batch.now_ms
    if request.was_expired or request.out_lease_ms <= batch.now_ms:
        request.out_lease_ms = 0
    if request.kind == KIND_EVICT and not request.was_expired:
        if request.flags & MOVE:
            move(engine, batch, request)
            return
        if request.out_lease_ms and not request.flags & COUNT_AS_EXPIRED:
            engine.finish(batch, request, STATUS_LEASED)
            return
    if request.flags & SET_LEASE and not request.was_expired and (
        request.lease_ms <= request.out_lease_ms if request.lease_ms else request.out_lease_ms == 0
    ):
        engine.finish(batch, request, STATUS_PRESENT)  # nothing would change
        return
    if request.kind == KIND_DELETE or request.kind == KIND_EVICT:
        unlink_old(engine, batch, request)
        return
    if request.condition == CONDITION_NX and not request.was_expired:
        engine.finish(batch, request, STATUS_PRESENT)
        return
    if request.condition == CONDITION_XX and request.was_expired:
        engine.queue_expired(request.slot, request.word)
        engine.finish(batch, request, STATUS_MISS)
        return
    if request.flags & EXACT and request.was_expired:
        engine.queue_expired(request.slot, request.word)
        engine.finish(batch, request, STATUS_CONFLICT)
        return
    if request.flags & KEEP_TTL:
        keep_expiry(engine, request, -1 if request.was_expired else request.out_expire_ms)
    overwrite(engine, batch, request)


cdef void move(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Put the value into a cell of another page of ours; nobody sees a difference."""
    request.epoch = (<CellHeader *>request.cell).epoch
    request.expire_at_ms = request.out_expire_ms
    request.flags |= KEEP_VALUE | KEEP_TTL
    overwrite(engine, batch, request)


cdef int64_t lease_of_new(Request *request) noexcept nogil:
    """The lease that the new cell carries on, or begins: it belongs to the key, whatever its value."""
    if not request.flags & SET_LEASE:
        return request.out_lease_ms
    return request.lease_ms if request.lease_ms == 0 or request.lease_ms > request.out_lease_ms else request.out_lease_ms


# ----------------------------------------------------------- the new value

cdef bint plan_value(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Lay the new cell out and allocate it; False when memory must be made first.

    A value that does not fit a cell goes to whole pages, its rest to the cell behind the page list
    where it fits, else to a last page of its own.
    """
    cdef CellHeader *header
    cdef bint keep = request.flags & KEEP_VALUE
    cdef bint has_parent = request.flags & HAS_PARENT
    cdef uint64_t parent_hash = request.parent_hash
    cdef uint32_t prefix, base, list_bytes = 0, rest, pages, cell_bytes
    cdef uint64_t value_bytes = request.value_bytes
    cdef bint paged, tail_in_cell = False, list_in_page = False, keep_pages
    cdef int64_t location, lease_ms = lease_of_new(request)
    if request.has_new_cell:
        if request.planned_lease_ms == lease_ms:
            return True
        engine.allocator.free_cell(request.new_location, request.new_class)
        request.has_new_cell = False
    if keep:
        value_bytes = request.out_bytes
        if request.out_parent_hash:
            has_parent = True
            parent_hash = request.out_parent_hash
    prefix = (
        <uint32_t>sizeof(CellHeader) + (8 if request.expire_at_ms >= 0 else 0) + (8 if lease_ms else 0) + (8 if has_parent else 0)
    )
    base = prefix + request.key_bytes
    keep_pages = keep
    if keep and not word_is_paged(request.word) and base + value_bytes > MAX_CELL_BYTES:
        # The new expiry pushes the value out of its cell: it is written anew, to pages.
        keep_pages = False
        request.value = request.out
        request.value_bytes = value_bytes
    if keep_pages:
        paged = word_is_paged(request.word)
        request.inline_value = request.out
        request.inline_bytes = request.out_tail_bytes
        pages = request.out_page_count
        if paged:
            tail_in_cell = (<CellHeader *>request.cell).tail_in_cell != 0
            list_in_page = ((<CellHeader *>request.cell).flags & CELL_LIST_PAGE) != 0
            list_bytes = 4 if list_in_page else pages * 4
    elif request.page_count or base + value_bytes > MAX_CELL_BYTES:
        paged = True
        pages = <uint32_t>(value_bytes // PAGE_BYTES)
        rest = <uint32_t>(value_bytes % PAGE_BYTES)
        if request.page_count and not request.pages_owned:
            tail_in_cell = request.page_count == pages and rest > 0
            pages = request.page_count
        else:
            tail_in_cell = rest > 0 and HEAD_BYTES_MAX + request.key_bytes + pages * 4 + rest <= MAX_CELL_BYTES
            if rest and not tail_in_cell:
                pages += 1
            if not fill_pages(engine, batch, request, pages):
                return False
        request.inline_bytes = rest if tail_in_cell else 0
        request.inline_value = request.value + (value_bytes - rest if request.pages_owned else 0)
        list_bytes = pages * 4
        if base + list_bytes + request.inline_bytes > MAX_CELL_BYTES:
            list_in_page = True
            list_bytes = 4
            if not request.has_list_page:
                request.wanted_pages = 1
                if engine.allocator.claim_pages(1, &request.list_page, PAGE_PAYLOAD, 0) == 0:
                    request.state = AWAIT_MEMORY
                    return False
                request.has_list_page = True
            emit(batch, OP_WRITE, engine.pool.page_offset(request.list_page), request.pages, pages * 4)
    else:
        paged = False
        pages = 0
        request.inline_value = request.value
        request.inline_bytes = <uint32_t>value_bytes
    cell_bytes = base + list_bytes + request.inline_bytes
    if cell_bytes > MAX_CELL_BYTES:
        # A staged value whose tail was measured against a shorter key.
        engine.finish(batch, request, STATUS_FULL)
        return False
    request.new_class = class_for(cell_bytes)
    request.wanted_pages = 0
    if request.flags & MOVE:
        location = engine.allocator.allocate_beside(request.new_class, location_page(word_location(request.word)))
        if location < 0:
            engine.finish(batch, request, STATUS_FULL)
            return False
    else:
        location = engine.allocator.allocate_cell(request.new_class)
        if location < 0 and keep:
            location = engine.allocator.allocate_beyond(request.new_class)  # nothing grows: the old cell comes free
        if location < 0:
            request.state = AWAIT_MEMORY
            return False
    request.planned_lease_ms = lease_ms
    request.new_location = <uint32_t>location
    request.has_new_cell = True
    # The image: everything before the value, and the value too when it is small.
    request.image_bytes = base + list_bytes
    request.image = <char *>allocate(batch, 
        base + list_bytes + (request.inline_bytes if request.inline_bytes <= SMALL_VALUE_BYTES else 0)
    )
    header = <CellHeader *>request.image
    header.value_bytes = <uint32_t>value_bytes
    header.key_bytes = <unsigned short>request.key_bytes
    header.epoch = request.epoch
    header.database = request.database
    header.value_type = request.out_type if keep else 0
    header.depth = request.out_depth if keep else request.depth
    header.tail_in_cell = tail_in_cell
    header.flags = (
        (CELL_HAS_EXPIRY if request.expire_at_ms >= 0 else 0) | (CELL_HAS_PARENT if has_parent else 0)
        | (CELL_PAGED if paged else 0) | (CELL_LIST_PAGE if list_in_page else 0) | (CELL_HAS_LEASE if lease_ms else 0)
        | (request.out_kept_as if keep else request.kept_as) << CELL_KEPT_AS_SHIFT
    )
    if request.expire_at_ms >= 0:
        memcpy(request.image + sizeof(CellHeader), &request.expire_at_ms, 8)
    if lease_ms:
        memcpy(request.image + sizeof(CellHeader) + (8 if request.expire_at_ms >= 0 else 0), &lease_ms, 8)
    if has_parent:
        memcpy(request.image + prefix - 8, &parent_hash, 8)
    memcpy(request.image + prefix, request.key, request.key_bytes)
    if list_in_page:
        memcpy(request.image + base, &request.page_list[pages] if keep_pages else &request.list_page, 4)
    elif paged:
        memcpy(request.image + base, request.page_list if keep_pages else request.pages, pages * 4)
    if request.inline_bytes and request.inline_bytes <= SMALL_VALUE_BYTES:
        memcpy(request.image + request.image_bytes, request.inline_value, request.inline_bytes)
        request.image_bytes += request.inline_bytes
        request.inline_bytes = 0
    return True


cdef bint fill_pages(Engine engine, Batch batch, Request *request, uint32_t count) noexcept nogil:
    """Claim payload pages for a value that came as one piece of memory, and write it out."""
    cdef uint32_t i, length
    cdef uint64_t offset
    if request.pages_owned:
        return True
    request.pages = <uint32_t *>allocate(batch, (count + 1) * 4)
    if engine.allocator.claim_pages(count, request.pages, PAGE_PAYLOAD, 0) == 0:
        request.wanted_pages = count
        request.state = AWAIT_MEMORY
        request.pages = NULL
        return False
    request.pages_owned = True
    request.page_count = count
    for i in range(count):
        offset = <uint64_t>i * PAGE_BYTES
        length = PAGE_BYTES if offset + PAGE_BYTES <= request.value_bytes else <uint32_t>(request.value_bytes - offset)
        emit(batch, OP_WRITE, engine.pool.page_offset(request.pages[i]), <void *>(request.value + offset), length
        )
    return True


cdef void emit_cell(Engine engine, Batch batch, Request *request, uint64_t word) noexcept nogil:
    """Write the new cell with the echo of the word that will publish it."""
    cdef CellHeader *header = <CellHeader *>request.image
    cdef uint64_t offset = engine.cell_offset(request.new_location, request.new_class)
    header.slot = request.slot
    header.echo = <uint32_t>word
    emit(batch, OP_WRITE, offset, request.image, request.image_bytes)
    if request.inline_bytes:
        emit(batch, OP_WRITE, offset + request.image_bytes, <void *>request.inline_value, request.inline_bytes
        )


cdef uint64_t live_word(Engine engine, Request *request, uint32_t binding, uint32_t version) noexcept nogil:
    cdef bint paged = (<CellHeader *>request.image).flags & CELL_PAGED
    return make_word(
        STATE_LIVE, request.expire_at_ms >= 0, paged, request.new_class, binding,
        version & engine.pool.word_format.version_mask, request.new_location,
    )


# --------------------------------------------------------------- overwrite

cdef void overwrite(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef FabricOp *op
    if not plan_value(engine, batch, request):
        return
    request.new_word = live_word(engine, request, word_binding(request.word), word_version(request.word) + 1)
    emit_cell(engine, batch, request, request.new_word)
    engine.count_change(batch, request, CHANGE_BEGINS)
    request.cas_op = batch.round.building.count
    op = emit(batch, OP_CAS, engine.pool.slot_offset(request.slot), NULL, 0)
    op.compare = request.word
    op.swap = request.new_word
    engine.count_change(batch, request, CHANGE_ENDS)
    request.state = SWAP


cdef void after_swap(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef uint64_t old = request.word
    cdef FabricOp *op
    if batch.round.finished.items[request.cas_op].result != old:
        if request.flags & (KEEP_VALUE | KEEP_TTL):
            # The new cell holds what was true of a value that is gone.
            engine.allocator.free_cell(request.new_location, request.new_class)
            request.has_new_cell = False
        engine.restart(batch, request)
        return
    request.is_published = True
    retire_old(engine, request, not request.flags & KEEP_VALUE)
    if request.was_expired:
        engine.counts.expired += 1
        if engine.removals is not None and request.key != NULL:
            engine.removals.note(REMOVED_EXPIRED, request.database, request.key, request.key_bytes)
    engine.counts.moved += (request.flags & MOVE) != 0
    engine.counts.overwritten += not request.flags & (MOVE | SET_LEASE)
    if request.planned_lease_ms != request.out_lease_ms or request.out_lease_ms and not request.flags & KEEP_VALUE:
        note_lease(engine, batch, request)
    engine.room.note_insert(request.slot)  # another front end may have filled it before, and swept what it filled
    if request.epoch != <uint32_t>engine.pool.epochs[request.database]:
        # Flushed meanwhile: it is not counted any more, and the sweep may have passed it.
        engine.room.note_flush()
        engine.finish(batch, request, STATUS_OK)
        return
    engine.expires[request.database] += <int>word_has_ttl(request.new_word) - <int>word_has_ttl(old)
    engine.stored_bytes[request.database] += <int64_t>(<CellHeader *>request.image).value_bytes - <int64_t>request.out_bytes
    if not request.flags & KEEP_VALUE:
        if not engine.reuse.is_on:
            engine.touch_last(batch, request, False)
        else:
            account(engine, batch, request, True)
            op = append_operation(&batch.round.trailing)
            op.opcode = OP_WRITE
            op.offset = engine.pool.heat_offset(request.slot)
            op.local = &request.heat
            op.length = HEAT_BYTES
    request.word = request.new_word
    engine.finish(batch, request, STATUS_OK)


cdef void note_lease(Engine engine, Batch batch, Request *request) noexcept nogil:
    """A lease began, ended or grew with its value: the books of leases, and the mark by which samplers pass it over."""
    cdef FabricOp *op
    cdef uint8_t *flags
    cdef CellHeader *image = <CellHeader *>request.image
    if request.planned_lease_ms:
        engine.leases.add(request.planned_lease_ms, image.key_bytes + <int64_t>image.value_bytes, batch.now_ms)
    if request.out_lease_ms:
        engine.leases.add(request.out_lease_ms, -(request.key_bytes + <int64_t>request.out_bytes), batch.now_ms)
    if request.planned_lease_ms and not request.out_lease_ms:
        flags = <uint8_t *>allocate(batch, 1)
        flags[0] = request.heat.flags | HEAT_LEASED
        op = append_operation(&batch.round.trailing)
        op.opcode = OP_WRITE
        op.offset = engine.pool.heat_offset(request.slot) + HEAT_BYTES - 1
        op.local = flags
        op.length = 1


cdef void retire_old(Engine engine, Request *request, bint with_pages) noexcept nogil:
    """What the slot named before is ours to free."""
    cdef uint32_t pages = request.out_page_count if with_pages and request.page_list != NULL else 0
    cdef uint32_t i
    if pages and (<CellHeader *>request.cell).flags & CELL_LIST_PAGE:
        pages += 1
    for i in range(pages):
        if request.page_list[i] >= engine.pool.geometry.page_count:
            engine.counts.damaged += 1
            pages = 0
            break
    engine.reclaimer.retire(word_location(request.word), word_class(request.word), request.page_list, pages)


# ------------------------------------------------------------------ insert

cdef void insert(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Choose a slot: the lowest that is reserved for this key, else a FREE one, in the home set or the nearest that follows."""
    cdef int number = first_reserved(request)
    cdef int distance
    cdef FabricOp *op
    cdef uint64_t overflow
    request.takes_over = number >= 0
    if number < 0:
        number = first_free(request)
    if number < 0:
        if not request.extended and request.set_count < engine.pool.geometry.set_count:
            request.extended = True
            engine.read_sets(batch, request, MAX_DISTANCE + 1)
            request.state = SETS
            return
        request.state = AWAIT_INDEX
        return
    if not request.takes_over and not is_whole(engine, batch, request, number):
        return
    if not plan_value(engine, batch, request):
        return
    request.candidate = number
    distance = number // SLOTS_PER_SET
    if distance > 0 and not request.raised:
        # Raised before anything is put away from home: it may be too high after a crash, never too low. Also by
        # who takes over: the one who reserved the slot lowers it again.
        overflow = (<uint64_t *>request.sets)[0]
        request.cas_op = batch.round.building.count
        op = emit(batch, OP_CAS, engine.pool.set_offset(request.home), NULL, 0)
        op.compare = overflow
        op.swap = make_overflow(
            overflow, <uint32_t>distance if <uint32_t>distance > overflow_distance(overflow) else overflow_distance(overflow),
            overflow_count(overflow) + 1,
        )
        request.state = RAISE
        return
    hold(engine, batch, request)


cdef bint is_twin(Request *request, int number) noexcept nogil:
    """Whether both words of a slot belong together and bear this key's tag."""
    cdef uint64_t *words = slot_words(request, number)
    return (
        word1_tag(words[1]) == request.tag and word1_binding(words[1]) == word_binding(words[0])
        and word1_distance(words[1]) == <uint32_t>(number // SLOTS_PER_SET)
    )


cdef int first_reserved(Request *request) noexcept nogil:
    """The lowest slot that is reserved for this key, or -1."""
    cdef int number
    for number in range(request.set_count * SLOTS_PER_SET):
        if word_state(slot_words(request, number)[0]) == STATE_RESERVED and is_twin(request, number):
            return number
    return -1


cdef int first_free(Request *request) noexcept nogil:
    """The lowest FREE slot, or -1."""
    cdef int number
    for number in range(request.set_count * SLOTS_PER_SET):
        if word_state(slot_words(request, number)[0]) == STATE_FREE:
            return number
    return -1


cdef uint32_t slot_number(Engine engine, Request *request, int number) noexcept nogil:
    """Which slot of the pool is ``number`` of the sets read."""
    cdef uint32_t distance = number // SLOTS_PER_SET
    return <uint32_t>(((request.home + distance) % engine.pool.geometry.set_count) * SLOTS_PER_SET + number % SLOTS_PER_SET)


cdef bint is_whole(Engine engine, Batch batch, Request *request, int number) noexcept nogil:
    """Whether both words of a FREE slot were read at one time; if that is not sure, look again.

    With equal bindings word 1 is that of the reservation which ended in this word 0, and a CAS from it fails once another has come. Else
    it is behind (a reservation ended between its two CAS), or ahead: read after somebody had reserved the slot, whose word it would
    be a crime to replace. The same pair in a second look was there while nobody held the slot, since word 0 counts versions.
    """
    cdef uint64_t *words = slot_words(request, number)
    if word1_binding(words[1]) == word_binding(words[0]) or (
        request.odd_number == number and request.odd_word == words[0] and request.odd_word1 == words[1]
    ):
        return True
    request.odd_number = number
    request.odd_word = words[0]
    request.odd_word1 = words[1]
    engine.read_sets(batch, request, request.set_count)
    request.state = SETS
    return False


cdef void after_raise(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef FabricOp *op = &batch.round.finished.items[request.cas_op]
    if op.result != op.compare:
        engine.restart(batch, request)
        return
    request.raised = True
    (<uint64_t *>request.sets)[0] = op.swap
    hold(engine, batch, request)


cdef void hold(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Reserve the slot, or go on with the reservation that is there; then look at the sets again."""
    cdef uint64_t *words = slot_words(request, request.candidate)
    request.slot = slot_number(engine, request, request.candidate)
    if request.takes_over:
        request.reserved_word = words[0]
        request.new_word = live_word(engine, request, word_binding(words[0]), word_version(words[0]) + 1)
        emit_cell(engine, batch, request, request.new_word)
        look_again(engine, batch, request, request.set_count)
        request.state = RESERVE
        return
    reserve(engine, batch, request, words[0], words[1], own_word(engine, words[0]))


cdef uint64_t own_word(Engine engine, uint64_t word) noexcept nogil:
    """The reservation by this front end that follows ``word``."""
    return make_word(
        STATE_RESERVED, False, False, 0, (word_binding(word) + 1) & engine.pool.word_format.binding_mask,
        (word_version(word) + 1) & engine.pool.word_format.version_mask,
        (<uint32_t>engine.pool.incarnation << 8) | <uint32_t>engine.pool.front_end,
    )


cdef void reserve(
    Engine engine, Batch batch, Request *request, uint64_t word, uint64_t word1, uint64_t reserved_word
) noexcept nogil:
    """Both words of the slot by CAS, one after the other, the new cell before them and a look at the sets behind."""
    cdef FabricOp *op
    request.reserved_word = reserved_word
    request.new_word = live_word(engine, request, word_binding(reserved_word), word_version(reserved_word) + 1)
    emit_cell(engine, batch, request, request.new_word)
    request.cas_op = batch.round.building.count
    op = emit(batch, OP_CAS, engine.pool.slot_offset(request.slot), NULL, 0)
    op.compare = word
    op.swap = reserved_word
    op = emit(batch, OP_CAS, engine.pool.slot_offset(request.slot) + 8, NULL, 0)
    op.compare = word1
    op.swap = make_word1(request.tag, request.candidate // SLOTS_PER_SET, word_binding(reserved_word))
    look_again(engine, batch, request, request.set_count)
    request.state = RESERVE


cdef void look_again(Engine engine, Batch batch, Request *request, uint32_t sets) noexcept nogil:
    """Read the sets once more, and for NX the epoch behind them: what a flush left may have been swept before.

    A key that was there until the flush would pass for absent. Whoever writes whatever is there has written it before the flush.
    """
    cdef FabricOp *op
    engine.read_sets(batch, request, sets)
    if engine.reuse.is_on and request.ghosts == NULL and engine.reuse.bucket_offset(request.tag):
        request.ghosts = <char *>allocate(batch, GHOST_BUCKET_BYTES)
        emit(batch, OP_READ, engine.reuse.bucket_offset(request.tag), request.ghosts, GHOST_BUCKET_BYTES)
    if request.condition == CONDITION_NX:
        op = emit(batch, OP_READ, engine.pool.epoch_offset(request.database), &request.epoch_after, 8)
        op.flags = OP_FENCE


cdef void release_reservation(Engine engine, Request *request) noexcept nogil:
    """Set the slot FREE, whoever reserved it: this key is somewhere else."""
    engine.pool.compare_and_swap(
        engine.pool.slot_offset(request.slot), request.reserved_word, freed_word(engine.pool.word_format, request.reserved_word)
    )


cdef bint has_reserved(Engine engine, Batch batch, Request *request) noexcept nogil:
    """Whether both words of the slot are this request's; else it has gone on otherwise.

    Two that choose one slot post both CAS unconditionally: one of them may win the first word, and the other the second.
    """
    cdef FabricOp *first = &batch.round.finished.items[request.cas_op]
    cdef FabricOp *second = &batch.round.finished.items[request.cas_op + 1]
    cdef uint64_t found = second.result, renewed
    if first.result != first.compare:
        engine.restart(batch, request)
        return False
    # Who inserts the same key writes the same second word.
    if found == second.compare or found == second.swap:
        return True
    if word1_binding(found) == word_binding(request.reserved_word):
        # Of another key. The slot stays reserved, under the next binding: set FREE both could begin again for ever. Not in the
        # doorbell that replaces the second word: until the first has changed the other may publish here what it names.
        renewed = own_word(engine, request.reserved_word)
        if engine.pool.compare_and_swap(engine.pool.slot_offset(request.slot), request.reserved_word, renewed) == request.reserved_word:
            reserve(engine, batch, request, renewed, found, renewed)
            return False
    else:
        release_reservation(engine, request)
    engine.restart(batch, request)
    return False


cdef void after_reserve(Engine engine, Batch batch, Request *request) noexcept nogil:
    """The slot is reserved under our tag and the sets were read after that: is anyone else there with this key?"""
    cdef int number, mine = request.candidate
    cdef uint64_t word
    cdef uint32_t wanted, expelled = 0
    cdef FabricOp *op
    if not request.extended_check:
        if not request.takes_over and not has_reserved(engine, batch, request):
            return
        wanted = overflow_distance((<uint64_t *>request.sets)[0]) + 1
        if wanted > request.set_count:
            request.extended_check = True
            look_again(engine, batch, request, wanted)
            return
    request.extended_check = False
    if request.condition == CONDITION_NX and <uint32_t>request.epoch_after != request.epoch:
        begin_after_flush(engine, batch, request)
        return
    # The second word may have been read torn when the slot was chosen; behind that it is whole.
    if request.takes_over and (slot_words(request, mine)[0] != request.reserved_word or not is_twin(request, mine)):
        engine.restart(batch, request)
        return
    for number in range(request.set_count * SLOTS_PER_SET):
        if number == mine or not is_twin(request, number):
            continue
        word = slot_words(request, number)[0]
        if word_state(word) == STATE_LIVE:
            # LIVE: perhaps this very key. Our reservation goes, the look-up compares the keys.
            if not is_other_key(engine, request, number):
                release_reservation(engine, request)
                engine.restart(batch, request)
                return
        elif word_state(word) == STATE_RESERVED:
            if number < mine:
                # All meet in the lowest: whoever fails there fails because another has published.
                release_reservation(engine, request)
                engine.restart(batch, request)
                return
            if expelled == 0:
                request.cas_op = batch.round.building.count
            expelled += 1
            op = emit(batch, OP_CAS, engine.pool.slot_offset(slot_number(engine, request, number)), NULL, 0)
            op.compare = word
            op.swap = freed_word(engine.pool.word_format, word)
    if expelled:
        request.expelled = expelled
        request.state = EXPEL
        return
    publish(engine, batch, request)


cdef bint is_other_key(Engine engine, Request *request, int number) noexcept nogil:
    """Whether a LIVE slot with our tag holds a different key (a tag collision, about once in 10**14)."""
    cdef uint64_t word = slot_words(request, number)[0]
    cdef char head[HEAD_BYTES_MAX + MAX_KEY_BYTES_C]
    cdef CellHeader *header = <CellHeader *>head
    cdef uint32_t size
    if not engine.valid_location(word):
        # Torn, and not damaged: perhaps this very key.
        return engine.is_damaged(slot_number(engine, request, number), word)
    size = CELL_BYTES[word_class(word)]
    if size > HEAD_BYTES_MAX + request.key_bytes:
        size = HEAD_BYTES_MAX + request.key_bytes
    if engine.pool.read_into(engine.cell_offset(word_location(word), word_class(word)), head, size) != 0:
        return False
    if header.echo != <uint32_t>word:
        return False
    return not same_key(request, header, head + cell_prefix_bytes(header))


cdef void after_expel(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef uint32_t i
    cdef FabricOp *op
    for i in range(request.expelled):
        op = &batch.round.finished.items[request.cas_op + i]
        # Gone, or reserved anew: that one has looked at the sets since, and seen this slot.
        if word_state(op.result) == STATE_LIVE:
            # It was published in between: ours must not be.
            release_reservation(engine, request)
            engine.restart(batch, request)
            return
    publish(engine, batch, request)


cdef void account(Engine engine, Batch batch, Request *request, bint is_known) noexcept nogil:
    """The heat of a written block: this access counts, once."""
    request.heat.last_ms = engine.used_at(batch, request, request.heat.last_ms if is_known else 0)
    if engine.reuse.is_on and not request.is_accounted:
        request.is_accounted = True
        engine.reuse.access(&request.heat, is_known, request.place, request.unknown, (request.flags & IS_TAIL) != 0, True, &batch.chain)


cdef void publish(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef FabricOp *op
    if not request.is_accounted:
        memset(&request.heat, 0, HEAT_BYTES)
        request.has_ghost = request.ghosts != NULL and engine.reuse.is_on and engine.reuse.find_ghost(
            request.ghosts, request.tag, &request.heat, &request.ghost_place
        )
    request.heat.frequency = FREQUENCY_INITIAL
    account(engine, batch, request, request.has_ghost)
    # Before it is published: an evictor must not take a new entry for the coldest of all.
    emit(batch, OP_WRITE, engine.pool.heat_offset(request.slot), &request.heat, HEAT_BYTES)
    request.cas_op = batch.round.building.count
    op = emit(batch, OP_CAS, engine.pool.slot_offset(request.slot), NULL, 0)
    op.compare = request.reserved_word
    op.swap = request.new_word
    request.state = PUBLISH


cdef void begin_after_flush(Engine engine, Batch batch, Request *request) noexcept nogil:
    """The database was flushed before the last look at the sets: insert anew under its new epoch.

    Nobody has seen this one: what was published once must not be published again, or it would be there before the flush and after it.
    """
    release_reservation(engine, request)
    engine.allocator.free_cell(request.new_location, request.new_class)
    request.has_new_cell = False
    if request.raised:
        request.raised = False
        engine.lower_overflow(request.home)
    engine.note_epoch(request.database, request.epoch_after)
    engine.place(request)
    engine.restart(batch, request)


cdef void after_publish(Engine engine, Batch batch, Request *request) noexcept nogil:
    if batch.round.finished.items[request.cas_op].result != request.reserved_word:
        engine.restart(batch, request)
        return
    request.is_published = True
    request.word = request.new_word
    engine.counts.inserted += 1
    if request.has_ghost and engine.reuse.is_on:
        forget_ghost(engine, batch, request)
    if request.epoch == <uint32_t>engine.pool.epochs[request.database]:
        engine.keys[request.database] += 1
        engine.expires[request.database] += word_has_ttl(request.new_word)
        engine.stored_bytes[request.database] += request.key_bytes + <int64_t>(<CellHeader *>request.image).value_bytes
        engine.room.note_insert(request.slot)
    else:
        # Flushed before it was published: the sweep of that flush may have passed its place.
        engine.room.note_insert(request.slot)
        engine.room.note_flush()
    if engine.locations is not None:
        # Until it was published nobody could know it: any stamp from before will do.
        request.stamp = engine.locations.stamp_of(request.hash_high)
        request.out_expire_ms = request.expire_at_ms
        engine.remember(request)
    engine.finish(batch, request, STATUS_OK)


# ------------------------------------------------------------------ remove

cdef void unlink_old(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef FabricOp *op
    cdef uint64_t ghosts
    if request.kind == KIND_EVICT and engine.reuse.is_on and not request.flags & COUNT_AS_EXPIRED:
        ghosts = engine.reuse.bucket_offset(word1_tag(request.checked_word1))
        if ghosts and request.heat.flags & HEAT_COUNTED:
            request.ghosts = <char *>allocate(batch, GHOST_BUCKET_BYTES)
            emit(batch, OP_READ, ghosts, request.ghosts, GHOST_BUCKET_BYTES)
    engine.count_change(batch, request, CHANGE_BEGINS)
    request.cas_op = batch.round.building.count
    op = emit(batch, OP_CAS, engine.pool.slot_offset(request.slot), NULL, 0)
    op.compare = request.word
    op.swap = freed_word(engine.pool.word_format, request.word)
    engine.count_change(batch, request, CHANGE_ENDS)
    request.state = UNLINK


cdef void forget_ghost(Engine engine, Batch batch, Request *request) noexcept nogil:
    """What was remembered of the key lies with its heat now."""
    cdef FabricOp *op = append_operation(&batch.round.trailing)
    op.opcode = OP_WRITE
    op.offset = engine.reuse.bucket_offset(request.tag) + request.ghost_place * GHOST_BYTES
    op.local = &engine.zero
    op.length = 8


cdef void leave_ghost(Engine engine, Batch batch, Request *request) noexcept nogil:
    """What is known of an evicted block is remembered; nobody waits for it."""
    cdef uint64_t tag = word1_tag(request.checked_word1)
    cdef Ghost *ghost = <Ghost *>allocate(batch, GHOST_BYTES)
    cdef FabricOp *op = append_operation(&batch.round.trailing)
    op.opcode = OP_WRITE
    op.offset = engine.reuse.bucket_offset(tag) + engine.reuse.make_ghost(request.ghosts, tag, &request.heat, ghost) * GHOST_BYTES
    op.local = ghost
    op.length = GHOST_BYTES


cdef void after_unlink(Engine engine, Batch batch, Request *request) noexcept nogil:
    cdef CellHeader *header = <CellHeader *>request.cell
    if batch.round.finished.items[request.cas_op].result != request.word:
        if request.kind == KIND_EVICT:
            engine.finish(batch, request, STATUS_CONFLICT)
        else:
            engine.restart(batch, request)
        return
    retire_old(engine, request, True)
    if request.out_lease_ms:
        engine.leases.add(request.out_lease_ms, -(request.key_bytes + <int64_t>request.out_bytes), batch.now_ms)
    if request.kind == KIND_EVICT and engine.reuse.is_on and not request.was_expired and not request.flags & COUNT_AS_EXPIRED:
        engine.reuse.note_eviction()
        if request.ghosts != NULL:
            leave_ghost(engine, batch, request)
    if header.epoch == <uint32_t>engine.pool.epochs[header.database]:
        engine.keys[header.database] -= 1
        engine.expires[header.database] -= word_has_ttl(request.word)
        engine.stored_bytes[header.database] -= header.key_bytes + <int64_t>header.value_bytes
        if request.was_expired:
            engine.counts.expired += 1
        elif request.kind == KIND_EVICT:
            engine.counts.evicted += 1
        else:
            engine.counts.deleted += 1
        if engine.removals is not None and request.key != NULL and (request.was_expired or request.kind == KIND_EVICT):
            engine.removals.note(
                REMOVED_EXPIRED if request.was_expired else REMOVED_EVICTED, request.database, request.key, request.key_bytes
            )
    if word1_distance(request.checked_word1):
        engine.lower_overflow(request.home)
    if request.was_expired and request.kind == KIND_DELETE:
        absent(engine, batch, request)
    else:
        engine.finish(batch, request, STATUS_OK)
