# cython: language_level=3
"""Engine: runs batches of requests against the pool, round by round."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from storage.batch cimport Batch, NodeRound, Request, append_operation
from storage.fabric.base cimport FabricOp
from storage.hashing cimport KeyHash, hash_key
from storage.hot_values cimport HotValues
from storage.leases cimport Leases
from storage.locations cimport LocationCache
from storage.pages cimport PageAllocator
from storage.pool cimport Pool
from storage.reclaim cimport Reclaimer
from storage.removals cimport Removals
from storage.reuse cimport Reuse
from storage.words cimport MAX_DATABASES, Heat


cdef enum RequestState:
    START = 0
    REMEMBERED      # the location cache has it, the change counters are read
    SETS            # copies of the sets are there
    COPY            # there is a copy of the value here, and what proves it is read
    LOOKUP_EXPIRY   # the head of a key with a TTL is there
    AWAIT_HAZARD    # every hazard is in use by this batch: next round
    CELL            # the cell is there, with the slot read again
    GHOST           # a copy of the bucket of ghosts is there
    LIST            # the page list of a very large value is there
    PIN             # the hazard is out, the slot was read after it
    OLD             # the cell that is to be replaced or removed is there
    OLD_LIST
    SWAP            # LIVE -> LIVE was tried
    RAISE           # the home's overflow word was raised
    RESERVE         # FREE -> RESERVED was tried, the sets were read again
    EXPEL           # later reservations of the same key were set FREE
    PUBLISH         # RESERVED -> LIVE was tried
    UNLINK          # LIVE -> FREE was tried
    AWAIT_MEMORY
    AWAIT_INDEX
    DONE

# What is added to a change counter: to its lower half before a change, to its upper half after it.
cdef uint64_t CHANGE_BEGINS
cdef uint64_t CHANGE_ENDS

cdef struct EngineCounts:
    uint64_t hits
    uint64_t misses
    uint64_t inserted
    uint64_t overwritten
    uint64_t deleted
    uint64_t expired
    uint64_t evicted
    uint64_t moved      # values that were put elsewhere, so that a page comes free
    uint64_t restarts
    uint64_t damaged
    uint64_t batches

# A front end's counts of one database, as they lie in the pool. A negative number is what it deleted of what others had counted.
cdef struct DatabaseCounts:
    uint64_t epoch      # lower half; the upper half of database 0's: how often this front end has written its counts
    int64_t keys
    int64_t expires
    int64_t stored_bytes

cdef struct SlotName:
    uint32_t slot
    uint64_t word


cdef class Room:
    """Makes room by removing values: what the engine asks of the eviction policy."""
    cdef bint make_cell(self, uint32_t cell_class, uint32_t cells, uint32_t pages) noexcept nogil
    cdef bint make_pages(self, uint32_t count) noexcept nogil
    cdef bint make_slot(self, Request *request) noexcept nogil
    cdef void note_insert(self, uint32_t slot) noexcept nogil
    cdef void note_flush(self) noexcept nogil


@cython.final
cdef class Engine:
    cdef readonly Pool pool
    cdef readonly int number         # of the node
    cdef readonly object name        # of the node, HOST:PORT; None for memory of this machine
    cdef LocationCache locations     # None where reading a set again costs nothing
    cdef HotValues hot_values        # None where reading a value again costs nothing, or nothing is set aside for them
    cdef readonly PageAllocator allocator
    cdef Reclaimer reclaimer
    cdef Room room
    cdef uint32_t frequency_log_factor      # Redis's lfu-log-factor,
    cdef uint32_t frequency_decay_minutes   # and lfu-decay-time; 0: none
    cdef Leases leases
    cdef bint has_pairs              # keys of LMCache's were seen, which belong together two by two
    cdef uint32_t lookup_protection_ms
    cdef readonly Reuse reuse        # switched on under allkeys-prefix
    cdef public Removals removals    # where somebody wants to be told of them, else None
    cdef EngineCounts counts
    cdef int64_t keys[MAX_DATABASES]
    cdef int64_t expires[MAX_DATABASES]
    cdef int64_t stored_bytes[MAX_DATABASES]   # keys and values, without anything of ours
    cdef DatabaseCounts published[MAX_DATABASES]   # as others see it
    cdef uint64_t published_changes                # how many changes it counts
    cdef uint64_t publications
    cdef int64_t now_ms
    cdef uint32_t database_count
    cdef uint64_t random_state
    cdef SlotName expired[64]
    cdef uint32_t expired_count
    cdef Batch expiry_batch
    cdef bint is_expiring
    cdef public bint keeps_expired    # what has expired stays for now: nobody finds it, and nothing takes it away
    cdef uint64_t clock              # doorbells so far
    cdef uint64_t zero
    cdef void run(self, Batch batch) noexcept nogil
    cdef void open(self, Batch batch, NodeRound *round, bint are_hashed) noexcept nogil
    cdef bint build(self, Batch batch, NodeRound *round) noexcept nogil
    cdef bint settle(self, Batch batch, NodeRound *round, int failed) noexcept nogil
    cdef void close(self, Batch batch, NodeRound *round) noexcept nogil
    cdef void place(self, Request *request) noexcept nogil
    cdef void count_change(self, Batch batch, Request *request, uint64_t addend) noexcept nogil
    cdef void remember(self, Request *request) noexcept nogil
    cdef void release_hazard(self, Batch batch, Request *request) noexcept nogil
    cdef void unpin(self, uint32_t first_page) noexcept nogil
    cdef void drop_pin(self, Request *request) noexcept nogil
    cdef uint64_t next_random(self) noexcept nogil
    cdef uint64_t cell_offset(self, uint32_t location, uint32_t cell_class) noexcept nogil
    cdef bint valid_location(self, uint64_t word) noexcept nogil
    cdef bint is_damaged(self, uint64_t slot, uint64_t word) noexcept nogil
    cdef void finish(self, Batch batch, Request *request, uint8_t status) noexcept nogil
    cdef void begin(self, Batch batch, Request *request) noexcept nogil
    cdef void restart(self, Batch batch, Request *request) noexcept nogil
    cdef void read_sets(self, Batch batch, Request *request, uint32_t count) noexcept nogil
    cdef int find_candidate(self, Request *request, int from_number) noexcept nogil
    cdef void queue_expired(self, uint32_t slot, uint64_t word) noexcept nogil
    cdef uint32_t frequency_now(self, const Heat *heat) noexcept nogil
    cdef void touch_last(self, Batch batch, Request *request, bint is_lookup) noexcept nogil
    cdef uint32_t used_at(self, Batch batch, Request *request, uint32_t before) noexcept nogil
    cdef void lower_overflow(self, uint64_t home) noexcept nogil
    cdef void _step(self, Batch batch, Request *request) noexcept nogil
    cdef void _refuse_all(self, Batch batch) noexcept nogil
    cdef void note_epoch(self, uint32_t database, uint64_t seen) noexcept nogil
    cdef void note_epochs(self, const uint64_t *seen) noexcept nogil
    cdef void look_at_epochs(self) noexcept nogil
    cdef void publish_counts(self, NodeRound *round) noexcept nogil
    cdef void forget_counts(self)
    cdef bint total_counts(self, uint32_t database, DatabaseCounts *total) noexcept nogil
    cdef uint64_t changes(self) noexcept nogil
    cdef void _take_epochs(self, Batch batch, NodeRound *round) noexcept nogil
    cdef void _read_along(self, Batch batch, NodeRound *round) noexcept nogil
    cdef void _drop_emptied(self, NodeRound *round) noexcept nogil
    cdef void _take_released(self, NodeRound *round, bint trailing) noexcept nogil
    cdef void _supply(self, Batch batch) noexcept nogil
    cdef void _remove_expired(self) noexcept nogil


cdef inline uint64_t *slot_words(Request *request, int number) noexcept nogil:
    """The two words of a slot in the copies: number = distance * 7 + index."""
    return <uint64_t *>(request.sets + (number // 7) * 128 + 16 + (number % 7) * 16)


cdef inline FabricOp *emit(Batch batch, uint8_t opcode, uint64_t offset, void *local, uint32_t length) noexcept nogil:
    """One more operation for the doorbell that is being written."""
    cdef FabricOp *op = append_operation(&batch.round.building)
    op.opcode = opcode
    op.offset = offset
    op.local = local
    op.length = length
    return op


cdef inline void hash_request(Pool pool, Request *request) noexcept nogil:
    """Hash the key: the same on every node and in every epoch of its database."""
    cdef KeyHash key_hash = hash_key(
        pool.secret_low ^ (<uint64_t>request.database * <uint64_t>0x9E3779B97F4A7C15), pool.secret_high, request.key, request.key_bytes
    )
    request.hash_low = key_hash.low
    request.hash_high = key_hash.high


# Every epoch of a database has its own homes and tags, so a flush makes all older entries unreachable at once. The multipliers
# are odd: no two epochs give the same offset.
cdef inline uint64_t home_of(uint64_t hash_low, uint64_t epoch, uint64_t set_count) noexcept nogil:
    return (hash_low + epoch * <uint64_t>0x9E3779B97F4A7C15) % set_count


cdef inline uint64_t tag_of(uint64_t hash_high, uint64_t epoch) noexcept nogil:
    return (hash_high ^ (epoch * <uint64_t>0xD6E8FEB86659FD93)) >> 16
