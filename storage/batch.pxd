# cython: language_level=3
"""Batch: requests that go to the pool together, their scratch memory and their doorbells."""

cimport cython
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from storage.fabric.base cimport FabricOp
from storage.hot_values cimport HotValue
from storage.reuse cimport ChainWorth
from storage.words cimport MAX_DATABASES, Heat


cdef enum RequestKind:
    KIND_LOOKUP = 0   # presence only
    KIND_READ = 1     # head, or head and payload
    KIND_WRITE = 2
    KIND_DELETE = 3
    KIND_EVICT = 4    # remove what exactly one slot word names, whatever its key

cdef enum RequestFlag:
    WANT_PAYLOAD = 1
    TOUCH = 2             # this access refreshes heat
    KEEP_TTL = 4
    EXACT = 8             # act only on the slot word `expected`
    KEEP_VALUE = 16       # replace expiry alone: the value's bytes stay where they are
    HAS_PARENT = 32
    COUNT_AS_EXPIRED = 64 # an EVICT on behalf of the expirer
    SILENT = 128          # neither hit nor miss nor eviction is counted
    IS_TAIL = 256         # the last block of its request
    WANT_GHOST = 512      # a LOOKUP that misses tells whether the key is remembered
    MOVE = 1024           # an EVICT that puts the value into a cell of another page instead
    SET_LEASE = 2048      # lease_ms is the end of its lease from now on, unless a longer one is there; 0: none

cdef enum:
    STATUS_OK = 0
    STATUS_MISS = 1
    STATUS_PRESENT = 2
    STATUS_FULL = 3
    STATUS_INDEX_FULL = 4
    STATUS_CONFLICT = 5
    STATUS_UNREACHABLE = 6
    STATUS_LEASED = 8     # an EVICT of what is leased
    STATUS_BUSY = 7       # no hazard is free for another large value: try again when a pin is released

cdef enum:
    CONDITION_ALWAYS = 0
    CONDITION_NX = 1
    CONDITION_XX = 2

cdef struct Request:
    # --- what is asked
    const char *key
    uint32_t key_bytes
    uint8_t kind
    uint8_t condition
    uint16_t flags
    uint8_t database
    const char *value         # the whole value, or its tail when pages hold the rest
    uint64_t value_bytes      # of the whole value
    uint32_t *pages           # payload pages filled by the caller (or by the engine: pages_owned)
    uint32_t page_count
    uint16_t depth
    uint16_t rank             # milliseconds by which it counts as used earlier: deeper blocks of a chain go first
    int64_t expire_at_ms      # -1: none
    int64_t lease_ms
    uint64_t expected
    uint32_t expected_slot    # with EXACT: where that word was
    uint64_t parent_hash
    uint16_t place            # blocks of its request before it, as far as the connection tells
    uint32_t unknown          # keys of the same command that neither the index nor a ghost knew when it began
    # --- what is answered
    uint8_t status
    uint8_t node              # where the key lives
    bint pinned               # a READ of a paged value: page_list[0] is named by a hazard until unpin
    const char *out           # payload, or the tail of a paged one
    uint64_t out_bytes        # of the whole value
    uint32_t out_tail_bytes
    uint32_t out_page_count
    uint32_t *page_list
    int64_t out_expire_ms
    int64_t out_lease_ms      # when the lease of what was there ends; 0: none
    uint64_t out_parent_hash
    uint16_t out_depth
    uint8_t out_type
    uint8_t out_kept_as
    uint8_t kept_as           # what OBJECT ENCODING is to say of the value: storage.interface.KeptAs
    uint64_t word             # slot word 0 as read, or as published
    uint32_t slot
    Heat heat                 # as read, or as this access made it
    uint32_t last_ms_before   # heat.last_ms as read
    bint has_ghost            # heat is what was remembered of the key
    uint32_t ghost_place      # of its bucket
    char *ghosts              # copy of the bucket
    bint is_accounted         # this access counts already
    # --- progress
    uint8_t state
    uint8_t set_count         # sets read so far: home and the following ones
    uint8_t attempts
    uint8_t memory_attempts
    bint takes_over           # the slot was reserved for this key by somebody else: publish in it all the same
    bint raised               # home's overflow word counts us
    bint pages_owned          # the engine claimed the new pages
    bint extended             # all sets of the probing window were read
    bint is_published
    bint extended_check       # a second look at more sets after the reservation is under way
    uint32_t expelled         # reservations of others that are being set FREE
    bint was_expired
    int16_t candidate         # number of the slot in the sets read: distance * 7 + index
    int16_t hazard            # transient hazard in use, or -1
    uint32_t cas_op           # the operation that decides
    uint64_t hash_low
    uint64_t hash_high
    uint64_t home
    uint64_t tag
    char *sets                # copies of the sets read
    char *cell                # copy of the cell read
    uint32_t cell_bytes
    uint32_t touched_ms       # last access as it is written to heat: now, less the rank
    uint64_t checked_word     # slot word 0 (and 1) read again with the cell
    uint64_t checked_word1
    uint32_t epoch
    char *image               # the new cell as it will be written: header, fields, key, page list
    uint32_t image_bytes
    const char *inline_value  # what follows the image in the cell
    uint32_t inline_bytes
    int64_t planned_lease_ms  # of the new cell
    uint32_t new_location
    uint32_t new_class
    uint32_t list_page
    uint32_t wanted_pages     # what AWAIT_MEMORY waits for: pages, or 0 for a cell of new_class
    bint has_new_cell
    bint has_list_page
    int odd_number            # a FREE slot whose two words do not fit each other, as it was seen
    uint64_t odd_word
    uint64_t odd_word1
    uint64_t new_word
    uint64_t reserved_word
    uint64_t stamp            # the key's change counter before its slot was read, for the location cache
    uint64_t epoch_after      # of the database, when the value was published
    uint64_t read_clock       # the engine's clock when the slot was read with the cell
    bint is_remembered        # slot and word come from the location cache
    uint64_t counter          # the key's change counter, read along with a remembered slot or a copy
    bint has_slot             # COPY: the slot was read too
    HotValue *copy            # a pinned answer comes from this copy, held by the request
    HotValue *filling         # whoever fetches the pinned pages fills this, held by the request

cdef struct Operations:
    FabricOp *items
    uint32_t count
    uint32_t capacity

# What one node has to do with a batch.
cdef struct NodeRound:
    Operations building      # the doorbell that is being written
    Operations finished      # the doorbell whose results are there
    Operations trailing      # what nobody waits for: heat, released hazards
    int64_t ticket           # of the doorbell under way
    bint is_posted           # there is one
    uint32_t requests        # of this node that are not DONE
    bint is_used             # any request of this batch lives here
    bint is_open             # not all of them are DONE
    bint is_waiting          # some of them wait for memory
    uint64_t epoch_moves     # of the pool, when the keys were placed
    uint8_t phase            # of the grace periods, when it began
    bint reads_epochs        # the doorbell under way reads the databases' epochs
    bint reads_counters      # and the change counters
    uint32_t clock_op        # its operation that moves the clock of accesses, or 0
    uint32_t remembered      # look-ups that the location cache may answer
    uint64_t epochs[MAX_DATABASES]
    uint64_t *counters       # CHANGE_COUNTERS words, as read by this batch; NULL until they are wanted
    int16_t *released        # places of the hazard row that hold a name nobody needs any more
    uint32_t released_count
    uint32_t released_capacity
    uint32_t emptied_count   # of these, the first ones are being emptied by the doorbell under way

cdef enum:
    ARENA_HEAD_BYTES = 32   # an ArenaBlock's own fields, rounded up to 16

cdef struct ArenaBlock:
    ArenaBlock *next
    size_t size
    size_t used

@cython.final
cdef class Batch:
    cdef Request *requests
    cdef uint32_t count
    cdef uint32_t capacity
    cdef NodeRound *rounds       # one for each node
    cdef NodeRound *round        # the one at hand
    cdef uint32_t node_count
    cdef ArenaBlock *first_block
    cdef ArenaBlock *block
    cdef int64_t now_ms          # when it began: a value that expired later was there when it was looked at
    cdef uint32_t now32
    cdef ChainWorth chain        # of the connection whose batch it is
    cdef size_t request_bytes
    cdef Request *add(self) noexcept nogil
    cdef void clear(self) noexcept nogil
    cdef void *allocate_block(self, size_t size) noexcept nogil


cdef int grow(Operations *operations) noexcept nogil
cdef void note_released(NodeRound *round, int16_t place) noexcept nogil


cdef inline FabricOp *append_operation(Operations *operations) noexcept nogil:
    """Room for one more operation. Valid until the next call; the caller fills every field that its opcode uses."""
    cdef FabricOp *op
    if operations.count == operations.capacity:
        grow(operations)
    op = &operations.items[operations.count]
    operations.count += 1
    op.flags = 0
    return op


cdef inline void *allocate(Batch batch, size_t size) noexcept nogil:
    """Scratch memory until the batch is cleared, aligned to 16 bytes."""
    cdef ArenaBlock *block = batch.block
    size = (size + 15) & ~<size_t>15
    if block == NULL or block.used + size > block.size:
        return batch.allocate_block(size)
    block.used += size
    return <char *>block + ARENA_HEAD_BYTES + block.used - size
