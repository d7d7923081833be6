# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Scans: what walks through the index of one node, a few sets at a time."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from storage.batch cimport Batch, allocate
from storage.cells cimport CELL_BYTES
from storage.engine cimport Engine
from storage.fabric.base cimport OP_READ, FabricOp
from storage.policy cimport EvictionPolicy
from storage.pool cimport Pool
from storage.words cimport (
    CELL_HAS_PARENT,
    HEAD_BYTES_MAX,
    MAX_DATABASES,
    MAX_KEY_BYTES_C,
    SET_BYTES,
    SLOTS_PER_SET,
    STATE_LIVE,
    CellHeader,
    cell_expiry_ms,
    cell_prefix_bytes,
    word_class,
    word_location,
    word_state,
)

cdef enum:
    SCAN_HEAD_BYTES = 64    # the smallest cell; header and key of most
    SCAN_ATTEMPTS = 100     # every further one means that another front end wrote the key again


cdef list keys_in_sets(Engine engine, Batch batch, uint64_t first, uint32_t count, int database):
    """Live keys of a database in ``count`` sets (at most SCAN_SETS) from ``first`` on. ConnectionError when the node is lost."""
    cdef char sets[SCAN_SETS * SET_BYTES]
    cdef uint64_t words[SCAN_SETS * SLOTS_PER_SET]
    cdef uint32_t slots[SCAN_SETS * SLOTS_PER_SET]
    cdef FabricOp *ops
    cdef char *cells
    cdef CellHeader *header
    cdef uint32_t i, number, live = 0, size
    cdef uint64_t *slot
    cdef int64_t expiry
    cdef list out = []
    cdef Pool pool = engine.pool
    cdef uint64_t epochs[MAX_DATABASES]
    cdef FabricOp begin[2]
    memset(begin, 0, sizeof(begin))
    begin[0].opcode = begin[1].opcode = OP_READ
    begin[0].offset = pool.geometry.databases
    begin[0].local = epochs
    begin[0].length = engine.database_count * 8
    begin[1].offset = pool.set_offset(first)
    begin[1].local = sets
    begin[1].length = count * SET_BYTES
    if pool.submit(begin, 2) != 0:
        raise ConnectionError("the memory node does not answer")
    engine.note_epochs(epochs)  # another front end may have flushed
    for i in range(count):
        for number in range(SLOTS_PER_SET):
            slot = <uint64_t *>(sets + i * SET_BYTES + 16 + number * 16)
            if word_state(slot[0]) == STATE_LIVE and engine.valid_location(slot[0]):
                words[live] = slot[0]
                slots[live] = <uint32_t>((first + i) * SLOTS_PER_SET + number)
                live += 1
    if live == 0:
        return out
    # Heads first: they hold most keys; longer ones are read again whole.
    cells = <char *>allocate(batch, live * SCAN_HEAD_BYTES)
    ops = <FabricOp *>allocate(batch, live * sizeof(FabricOp))
    memset(ops, 0, live * sizeof(FabricOp))
    for i in range(live):
        ops[i].opcode = OP_READ
        ops[i].offset = engine.cell_offset(word_location(words[i]), word_class(words[i]))
        ops[i].local = cells + i * SCAN_HEAD_BYTES
        ops[i].length = SCAN_HEAD_BYTES
    if pool.submit(ops, live) != 0:
        raise ConnectionError("the memory node does not answer")
    for i in range(live):
        header = <CellHeader *>(cells + i * SCAN_HEAD_BYTES)
        if header.slot != slots[i] or header.echo != <uint32_t>words[i]:
            # Overwritten since the set was read: the key may be there all the same.
            key = key_in_slot(engine, slots[i], database)
            if key is not None:
                out.append(key)
            continue
        if header.database != database or header.epoch != <uint32_t>pool.epochs[database]:
            continue
        expiry = cell_expiry_ms(header)
        if expiry >= 0 and expiry <= engine.now_ms:
            continue
        size = cell_prefix_bytes(header)
        if size + header.key_bytes <= SCAN_HEAD_BYTES:
            out.append(PyBytes_FromStringAndSize(cells + i * SCAN_HEAD_BYTES + size, header.key_bytes))
        else:
            key = key_in_slot(engine, slots[i], database)
            if key is not None:
                out.append(key)
    return out

cdef bytes key_in_slot(Engine engine, uint32_t slot, int database):
    """The live key in a slot, read until header, key and slot belong together."""
    cdef uint64_t word = 0, after = 0
    cdef uint32_t size
    cdef char *cell
    cdef CellHeader *header
    cdef int64_t expiry
    cdef Pool pool = engine.pool
    for _attempt in range(SCAN_ATTEMPTS):
        if pool.read_into(pool.slot_offset(slot), &word, 8) != 0:
            raise ConnectionError("the memory node does not answer")
        if word_state(word) != STATE_LIVE or not engine.valid_location(word):
            return None
        size = CELL_BYTES[word_class(word)]
        if size > HEAD_BYTES_MAX + MAX_KEY_BYTES_C:
            size = HEAD_BYTES_MAX + MAX_KEY_BYTES_C
        copy = bytearray(size)
        cell = copy
        header = <CellHeader *>cell
        if (
            pool.read_into(engine.cell_offset(word_location(word), word_class(word)), cell, size) != 0
            or pool.read_into(pool.slot_offset(slot), &after, 8) != 0
        ):
            raise ConnectionError("the memory node does not answer")
        if after != word:
            continue
        if (
            header.slot != slot or header.echo != <uint32_t>word or header.database != database
            or header.epoch != <uint32_t>pool.epochs[database] or cell_prefix_bytes(header) + header.key_bytes > size
        ):
            return None
        expiry = cell_expiry_ms(header)
        if expiry >= 0 and expiry <= engine.now_ms:
            return None
        size = cell_prefix_bytes(header)
        return PyBytes_FromStringAndSize(cell + size, header.key_bytes)
    return None


cdef uint32_t count_children(Engine engine, EvictionPolicy policy, int database, uint64_t own_hash):
    """Resident values that name this hash as their parent."""
    cdef uint32_t start = 0, i, count, children = 0, total = policy.resident_count
    cdef uint64_t words[256]
    cdef char heads[256 * HEAD_BYTES_MAX]
    cdef FabricOp ops[256]
    cdef CellHeader *header
    cdef uint64_t parent
    cdef Pool pool = engine.pool
    while start < total:
        count = 256 if total - start > 256 else total - start
        memset(ops, 0, sizeof(ops))
        for i in range(count):
            ops[i].opcode = OP_READ
            ops[i].offset = pool.slot_offset(policy.residents[start + i])
            ops[i].local = &words[i]
            ops[i].length = 8
        if pool.submit(ops, count) != 0:
            return children
        for i in range(count):
            ops[i].offset = 0
            if word_state(words[i]) == STATE_LIVE and engine.valid_location(words[i]):
                ops[i].offset = engine.cell_offset(word_location(words[i]), word_class(words[i]))
            ops[i].local = heads + i * HEAD_BYTES_MAX
            ops[i].length = HEAD_BYTES_MAX
        if pool.submit(ops, count) != 0:
            return children
        for i in range(count):
            header = <CellHeader *>(heads + i * HEAD_BYTES_MAX)
            if (
                word_state(words[i]) != STATE_LIVE or header.echo != <uint32_t>words[i] or not header.flags & CELL_HAS_PARENT
                or header.database != database or header.epoch != <uint32_t>pool.epochs[database]
            ):
                continue
            memcpy(&parent, heads + i * HEAD_BYTES_MAX + cell_prefix_bytes(header) - 8, 8)
            children += parent == own_hash
        start += count
    return children
