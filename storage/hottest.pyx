# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Hottest: the blocks of a database that are asked for most, found in slices.

A block's heat here is how often it was read, halved for every ten minutes since it was used last: whatever the policy, and the same for
every front end. Index and heat are read once from end to end, a slice in each step, so that who asks holds up nobody.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.math cimport exp2
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from storage.cells cimport CELL_BYTES
from storage.cluster cimport Node
from storage.engine cimport Engine
from storage.fabric.base cimport OP_READ, FabricOp
from storage.hashing cimport KeyHash, hash_key
from storage.interface import HotBlock
from storage.store cimport Store
from storage.words cimport (
    CELL_HAS_PARENT,
    HEAD_BYTES_MAX,
    HEAT_BYTES,
    MAX_KEY_BYTES_C,
    SET_BYTES,
    SET_HEADER_BYTES,
    SLOTS_PER_SET,
    STATE_LIVE,
    CellHeader,
    Heat,
    cell_expiry_ms,
    cell_prefix_bytes,
    word_class,
    word_location,
    word_state,
)

cdef enum:
    CHUNK_SETS = 256          # read at a time: 60 KiB with their heat
    CHUNKS_A_STEP = 16        # about half a millisecond
    KEYS_AT_A_TIME = 64
    HALF_LIFE_MS = 600000


cdef class HotSurvey:
    """Looks for the hottest blocks of one database: ``step`` until it says that nothing is left, then ``result``."""

    def __cinit__(self, Store store, int database):
        self.store = store
        self.database = database
        self.blocks = []

    def step(self) -> bool:
        """Look at the next slice; False when all was looked at. Raises ConnectionError when a memory node is lost."""
        cdef Node node
        while self.node < <uint32_t>self.store.cluster.node_count:
            node = self.store.cluster.nodes[self.node]
            if node.engine is None:
                self.node += 1
                continue
            self.store.set_time()
            if self.next_set < node.engine.pool.geometry.set_count:
                self._look(node)
                return True
            self._read_keys(node)
            self.node += 1
            self.next_set = 0
            self.count = 0
            return self.node < <uint32_t>self.store.cluster.node_count
        return False

    def result(self) -> list:
        """The blocks found, as ``storage.interface.HotBlock``, in no order."""
        return self.blocks

    cdef int _look(self, Node node) except -1:
        cdef char sets[CHUNK_SETS * SET_BYTES]
        cdef Heat heats[CHUNK_SETS * SLOTS_PER_SET]
        cdef FabricOp ops[2]
        cdef Engine engine = node.engine
        cdef uint32_t chunk, count, i, number
        cdef uint32_t now = <uint32_t>engine.now_ms, idle
        cdef HotSlot slot
        cdef Heat *heat
        for chunk in range(CHUNKS_A_STEP):
            if self.next_set >= engine.pool.geometry.set_count:
                break
            count = <uint32_t>min(<uint64_t>CHUNK_SETS, engine.pool.geometry.set_count - self.next_set)
            memset(ops, 0, sizeof(ops))
            ops[0].opcode = ops[1].opcode = OP_READ
            ops[0].offset = engine.pool.set_offset(self.next_set)
            ops[0].local = sets
            ops[0].length = count * SET_BYTES
            ops[1].offset = engine.pool.heat_offset(self.next_set * SLOTS_PER_SET)
            ops[1].local = heats
            ops[1].length = count * SLOTS_PER_SET * HEAT_BYTES
            if engine.pool.submit(ops, 2) != 0:
                raise ConnectionError("the memory node does not answer")
            for i in range(count):
                for number in range(SLOTS_PER_SET):
                    slot.word = (<uint64_t *>(sets + i * SET_BYTES + SET_HEADER_BYTES))[number * 2]
                    heat = &heats[i * SLOTS_PER_SET + number]
                    if word_state(slot.word) != STATE_LIVE or heat.hits == 0 or not engine.valid_location(slot.word):
                        continue
                    idle = now - heat.last_ms
                    slot.heat = heat.hits * exp2(-<double>(idle if idle < <uint32_t>0x80000000 else 0) / HALF_LIFE_MS)
                    slot.hits = heat.hits
                    slot.last_ms = heat.last_ms
                    slot.slot = <uint32_t>((self.next_set + i) * SLOTS_PER_SET + number)
                    self._offer(slot)
            self.next_set += count
        return 0

    cdef void _offer(self, HotSlot slot) noexcept nogil:
        """Keep a block if it is among the hottest so far (a binary heap, Williams 1964)."""
        cdef uint32_t place, child
        if self.count < HOTTEST:
            place = self.count
            self.count += 1
            while place and self.found[(place - 1) // 2].heat > slot.heat:
                self.found[place] = self.found[(place - 1) // 2]
                place = (place - 1) // 2
            self.found[place] = slot
            return
        if slot.heat <= self.found[0].heat:
            return
        place = 0
        while True:
            child = 2 * place + 1
            if child >= HOTTEST:
                break
            if child + 1 < HOTTEST and self.found[child + 1].heat < self.found[child].heat:
                child += 1
            if self.found[child].heat >= slot.heat:
                break
            self.found[place] = self.found[child]
            place = child
        self.found[place] = slot

    cdef int _read_keys(self, Node node) except -1:
        """The keys of what was found, and their chains; what has changed since is left out."""
        cdef FabricOp ops[KEYS_AT_A_TIME]
        cdef uint64_t words[KEYS_AT_A_TIME]
        cdef uint32_t sizes[KEYS_AT_A_TIME]
        cdef Engine engine = node.engine
        cdef CellHeader *header
        cdef KeyHash hashed
        cdef uint64_t parent
        cdef uint32_t start = 0, count, i, prefix, now = <uint32_t>engine.now_ms
        cdef int64_t expiry
        cdef char *cells
        cdef char *cell
        room = bytearray(KEYS_AT_A_TIME * (HEAD_BYTES_MAX + MAX_KEY_BYTES_C))
        cells = room
        while start < self.count:
            count = min(<uint32_t>KEYS_AT_A_TIME, self.count - start)
            memset(ops, 0, sizeof(ops))
            for i in range(count):
                sizes[i] = min(CELL_BYTES[word_class(self.found[start + i].word)], <uint32_t>(HEAD_BYTES_MAX + MAX_KEY_BYTES_C))
                ops[i].opcode = OP_READ
                ops[i].offset = engine.cell_offset(word_location(self.found[start + i].word), word_class(self.found[start + i].word))
                ops[i].local = cells + i * (HEAD_BYTES_MAX + MAX_KEY_BYTES_C)
                ops[i].length = sizes[i]
            if engine.pool.submit(ops, count) != 0:
                raise ConnectionError("the memory node does not answer")
            for i in range(count):
                ops[i].offset = engine.pool.slot_offset(self.found[start + i].slot)
                ops[i].local = &words[i]
                ops[i].length = 8
            if engine.pool.submit(ops, count) != 0:
                raise ConnectionError("the memory node does not answer")
            for i in range(count):
                cell = cells + i * (HEAD_BYTES_MAX + MAX_KEY_BYTES_C)
                header = <CellHeader *>cell
                prefix = cell_prefix_bytes(header)
                if (
                    words[i] != self.found[start + i].word or header.slot != self.found[start + i].slot
                    or header.echo != <uint32_t>words[i] or header.database != self.database
                    or header.epoch != <uint32_t>engine.pool.epochs[header.database] or prefix + header.key_bytes > sizes[i]
                ):
                    continue
                expiry = cell_expiry_ms(header)
                if expiry >= 0 and expiry <= engine.now_ms:
                    continue
                hashed = hash_key(engine.pool.secret_low, engine.pool.secret_high, cell + prefix, header.key_bytes)
                parent = 0
                if header.flags & CELL_HAS_PARENT:
                    memcpy(&parent, cell + prefix - 8, 8)
                self.blocks.append(HotBlock(
                    PyBytes_FromStringAndSize(cell + prefix, header.key_bytes), hashed.low, parent, header.depth,
                    self.found[start + i].hits, self.found[start + i].heat,
                    engine.now_ms - <uint32_t>(now - self.found[start + i].last_ms), header.value_bytes,
                ))
            start += count
        return 0
