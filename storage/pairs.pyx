# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Pairs: two keys that are of use only together, as LMCache stores a block under <key>metadata and <key>kv_bytes.

The two lie on one memory node: what chooses it is what they have in common. When one is evicted the other goes in the same batch; and
when the other must stay, because it is leased or was just found, this one stays too. A client that deletes one deletes only that.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from storage.batch cimport KIND_EVICT, KIND_READ, SILENT, STATUS_LEASED, STATUS_OK, Batch, Request, allocate
from storage.cells cimport CELL_BYTES
from storage.engine cimport Engine
from storage.fabric.base cimport OP_READ, FabricOp
from storage.protection cimport LookupProtection
from storage.words cimport (
    HEAD_BYTES_MAX,
    MAX_CELLS_PER_PAGE,
    SUFFIX_BYTES,
    CellHeader,
    cell_prefix_bytes,
    is_half,
    word_class,
    word_location,
)

cdef enum:
    PAIRED_KEY_BYTES = 976   # a longer key is taken for one that stands alone


cdef class Pairs:
    """Sees to it that of two keys that belong together none is left alone by an eviction."""

    def __cinit__(self, Engine engine):
        self.engine = engine
        self.batch = Batch(MAX_CELLS_PER_PAGE + 2)
        self.leave_together = True

    cdef void join(self, Batch evictions, LookupProtection protection, bint is_forced) noexcept nogil:
        """Add the partners of what is about to be evicted, and take out what has a partner that must stay."""
        cdef uint32_t count = evictions.count, asked = 0, i
        cdef FabricOp *ops
        cdef char *heads
        cdef uint32_t *numbers
        cdef CellHeader *header
        cdef Request *request
        cdef Request *partner
        cdef char *key
        cdef uint32_t size, prefix
        if not self.leave_together or not self.engine.has_pairs or count == 0:
            return
        self.batch.clear()
        ops = <FabricOp *>allocate(self.batch, count * sizeof(FabricOp))
        heads = <char *>allocate(self.batch, <size_t>count * (HEAD_BYTES_MAX + PAIRED_KEY_BYTES))
        numbers = <uint32_t *>allocate(self.batch, count * 4)
        memset(ops, 0, count * sizeof(FabricOp))
        for i in range(count):
            size = CELL_BYTES[word_class(evictions.requests[i].expected)]
            ops[i].opcode = OP_READ
            ops[i].offset = self.engine.cell_offset(
                word_location(evictions.requests[i].expected), word_class(evictions.requests[i].expected)
            )
            ops[i].local = heads + i * (HEAD_BYTES_MAX + PAIRED_KEY_BYTES)
            ops[i].length = size if size < HEAD_BYTES_MAX + PAIRED_KEY_BYTES else HEAD_BYTES_MAX + PAIRED_KEY_BYTES
        if self.engine.pool.submit(ops, count) != 0:
            return
        for i in range(count):
            header = <CellHeader *>ops[i].local
            prefix = cell_prefix_bytes(header)
            if (
                header.slot != evictions.requests[i].slot or header.echo != <uint32_t>evictions.requests[i].expected
                or prefix + header.key_bytes > ops[i].length or not is_half(<char *>ops[i].local + prefix, header.key_bytes)
            ):
                continue
            key = <char *>ops[i].local + prefix
            partner = self.batch.add()
            if partner == NULL:
                break
            partner.kind = KIND_READ
            partner.flags = SILENT
            partner.database = header.database
            partner.key = key
            partner.key_bytes = header.key_bytes
            key += header.key_bytes - SUFFIX_BYTES
            memcpy(key, b"kv_bytes" if memcmp(key, b"metadata", SUFFIX_BYTES) == 0 else b"metadata", SUFFIX_BYTES)
            numbers[asked] = i
            asked += 1
        if asked == 0:
            return
        self.engine.run(self.batch)
        i = asked
        while i > 0:
            i -= 1
            partner = &self.batch.requests[i]
            if partner.status == STATUS_OK and (
                partner.out_lease_ms > self.engine.now_ms
                or (not is_forced and protection.covers(&partner.heat, <uint32_t>self.engine.now_ms))
            ):
                # From the end on: what takes its place was looked at already.
                evictions.count -= 1
                evictions.requests[numbers[i]] = evictions.requests[evictions.count]
                partner.status = STATUS_LEASED
        for i in range(asked):
            partner = &self.batch.requests[i]
            if partner.status == STATUS_OK:
                request = evictions.add()
                if request == NULL:
                    return
                request.kind = KIND_EVICT
                request.slot = partner.slot
                request.expected = partner.word
