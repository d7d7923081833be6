# cython: language_level=3
"""Words of the pool: slot words, the overflow word, page words, cell headers and heat entries.

Slot word 0, low half (one 32-bit half, so that a torn read cannot mix its fields):

    bits 0-1 state | 2 has-TTL | 3 paged | 4-9 cell class | 10-17 binding | 18-31 version

and in the high half the location: page number (22 bits) and cell number (10 bits). While RESERVED the
high half holds the front end and its incarnation. Word 1: tag in bits 16-63, distance from the home
set in bits 8-10, binding in bits 0-7.

Overflow word of a set (as a home): bits 0-3 the largest distance in use, 4-31 how many entries live
away (or are being put there), 32-63 version.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum SlotState:
    STATE_FREE = 0
    STATE_RESERVED = 1
    STATE_LIVE = 2

cdef enum:
    SLOTS_PER_SET = 7
    SET_BYTES = 128
    SET_HEADER_BYTES = 16
    SLOT_BYTES = 16
    HEAT_BYTES = 16
    MAX_DISTANCE = 7
    PAGE_BYTES = 65536
    PAGE_HEAD_BYTES = 128
    PAGE_BITS = 22
    CELL_BITS = 10
    MAX_CELLS_PER_PAGE = 1022
    CELL_CLASSES = 54
    MAX_CELL_BYTES = 32704
    SUFFIX_BYTES = 8           # by which the keys of a pair differ
    CELL_UNITS = 2045          # MAX_CELL_BYTES / 16 + 1
    MAX_PAGES = 4194303        # 2**PAGE_BITS - 1
    MAX_FRONT_ENDS = 64
    FRONT_END_ROW_BYTES = 64
    COUNTS_BYTES = 32          # a front end's counts of one database: epoch, keys, keys that expire, bytes of keys and values
    HAZARDS_PER_ROW = 4096
    MAX_NODES = 32
    CHANGE_COUNTERS = 512
    MAX_DATABASES = 256
    MAX_KEY_BYTES_C = 16384
    MAX_VALUE_BYTES = 536870912   # 512 MiB, Redis's largest; half of what a page list of one page can name

# How many bits of binding and version are in use: 8 and 14, fewer only in tests that force them to wrap.
cdef struct WordFormat:
    uint32_t binding_mask
    uint32_t version_mask

cdef enum CellFlag:
    CELL_HAS_EXPIRY = 1
    CELL_HAS_PARENT = 2
    CELL_PAGED = 4
    CELL_LIST_PAGE = 8     # the page list lies in a page of its own
    CELL_HAS_LEASE = 16
    CELL_KEPT_AS_SHIFT = 5   # two bits: storage.interface.KeptAs
    CELL_KEPT_AS = 96

cdef enum:
    HEAD_BYTES_MAX = 48    # header with every optional field

# What a cell begins with. Optional fields follow in this order: expiry (8 bytes), end of its lease (8), hash of the
# parent (8), then the key, then the page list (4 bytes a page), then the value or its tail.
cdef packed struct CellHeader:
    uint32_t slot          # back-pointer: slot number
    uint32_t echo          # low half of slot word 0 as published
    uint32_t epoch         # of the database when it was written
    uint32_t value_bytes
    uint16_t key_bytes
    uint16_t depth         # blocks before this one in its chain
    uint8_t database
    uint8_t value_type
    uint8_t flags
    uint8_t tail_in_cell   # of a paged value: 1 when its rest lies in the cell, behind the page list

# Advisory: any mix of written values is harmless.
cdef packed struct Heat:
    uint32_t last_ms       # low half of the millisecond clock at the last access; bit 0: somebody was told that it is there
    uint32_t last          # low half of the access clock at the last access that was counted (storage.reuse)
    uint16_t bonus         # accesses added to it, upper half of a float
    uint16_t count         # log2 of how often it was wanted lately, in 1/2048
    uint16_t hits
    uint8_t frequency      # logarithmic counter (LFU)
    uint8_t flags          # HEAT_LEASED, and those of storage.reuse

cdef enum:
    LOOKED_UP = 1          # bit of last_ms
    HEAT_LEASED = 4        # there is, or was, a lease: its cell tells

cdef enum PageKind:
    PAGE_FREE = 0
    PAGE_CELLS = 1
    PAGE_PAYLOAD = 2


cdef inline uint32_t word_state(uint64_t word) noexcept nogil:
    return word & 3

cdef inline bint word_has_ttl(uint64_t word) noexcept nogil:
    return (word >> 2) & 1

cdef inline bint word_is_paged(uint64_t word) noexcept nogil:
    return (word >> 3) & 1

cdef inline uint32_t word_class(uint64_t word) noexcept nogil:
    return (word >> 4) & 63

cdef inline uint32_t word_binding(uint64_t word) noexcept nogil:
    return (word >> 10) & 0xFF

cdef inline uint32_t word_version(uint64_t word) noexcept nogil:
    return (word >> 18) & 0x3FFF

cdef inline uint32_t word_location(uint64_t word) noexcept nogil:
    return word >> 32

cdef inline uint64_t make_word(
    uint32_t state, bint has_ttl, bint paged, uint32_t cell_class, uint32_t binding, uint32_t version, uint32_t location
) noexcept nogil:
    return (
        state | (4 if has_ttl else 0) | (8 if paged else 0) | (cell_class << 4) | (binding << 10) | (version << 18)
        | (<uint64_t>location << 32)
    )

cdef inline uint64_t freed_word(WordFormat format, uint64_t word) noexcept nogil:
    """The FREE word that follows ``word``: same binding, next version, never zero again."""
    return make_word(
        STATE_FREE, False, False, 0, word_binding(word), (word_version(word) + 1) & format.version_mask, 0
    )

cdef inline uint64_t word1_tag(uint64_t word1) noexcept nogil:
    return word1 >> 16

cdef inline uint32_t word1_distance(uint64_t word1) noexcept nogil:
    return (word1 >> 8) & 7

cdef inline uint32_t word1_binding(uint64_t word1) noexcept nogil:
    return word1 & 0xFF

cdef inline uint64_t make_word1(uint64_t tag, uint32_t distance, uint32_t binding) noexcept nogil:
    return (tag << 16) | (distance << 8) | binding

cdef inline uint32_t location_page(uint32_t location) noexcept nogil:
    return location >> CELL_BITS

cdef inline uint32_t location_cell(uint32_t location) noexcept nogil:
    return location & ((1 << CELL_BITS) - 1)

cdef inline uint32_t make_location(uint32_t page, uint32_t cell) noexcept nogil:
    return (page << CELL_BITS) | cell

cdef inline uint32_t overflow_distance(uint64_t word) noexcept nogil:
    cdef uint32_t distance = word & 15
    # Clamped: a damaged word must not make anyone read beyond the probing window.
    return distance if distance <= MAX_DISTANCE else MAX_DISTANCE

cdef inline uint32_t overflow_count(uint64_t word) noexcept nogil:
    return (word >> 4) & 0xFFFFFFF

cdef inline uint64_t make_overflow(uint64_t old, uint32_t distance, uint32_t count) noexcept nogil:
    return (((old >> 32) + 1) << 32) | (<uint64_t>count << 4) | distance

cdef inline uint32_t page_kind(uint64_t word) noexcept nogil:
    return word & 7

cdef inline uint32_t page_class(uint64_t word) noexcept nogil:
    return (word >> 3) & 63

cdef inline uint32_t page_owner(uint64_t word) noexcept nogil:
    return (word >> 9) & 0xFF

cdef inline uint32_t page_incarnation(uint64_t word) noexcept nogil:
    return (word >> 17) & 0x7FFF

cdef inline uint64_t make_page_word(uint64_t old, uint32_t kind, uint32_t cell_class, uint32_t owner, uint32_t incarnation) noexcept nogil:
    """kind 3 bits, class 6, owner 8, incarnation 15, generation 32 (next after ``old``'s)."""
    return (
        (((old >> 32) + 1) << 32) | (<uint64_t>(incarnation & 0x7FFF) << 17) | (owner << 9) | (cell_class << 3) | kind
    )

cdef inline uint32_t cell_prefix_bytes(CellHeader *header) noexcept nogil:
    """Bytes before the key: header and optional fields."""
    return (
        <uint32_t>sizeof(CellHeader) + (8 if header.flags & CELL_HAS_EXPIRY else 0)
        + (8 if header.flags & CELL_HAS_LEASE else 0) + (8 if header.flags & CELL_HAS_PARENT else 0)
    )

cdef inline int64_t cell_expiry_ms(CellHeader *header) noexcept nogil:
    if header.flags & CELL_HAS_EXPIRY:
        return (<int64_t *>(<char *>header + sizeof(CellHeader)))[0]
    return -1

cdef inline int64_t cell_lease_ms(CellHeader *header) noexcept nogil:
    """Unix milliseconds until which it is leased; 0 without a lease."""
    if header.flags & CELL_HAS_LEASE:
        return (<int64_t *>(<char *>header + sizeof(CellHeader) + (8 if header.flags & CELL_HAS_EXPIRY else 0)))[0]
    return 0

# "metadata" and "kv_bytes", as a little-endian machine reads them.
cdef inline bint is_half(const char *key, uint32_t key_bytes) noexcept nogil:
    """Whether a key is one of two that belong together, as LMCache stores a block under <key>metadata and <key>kv_bytes."""
    cdef uint64_t suffix
    if key_bytes <= SUFFIX_BYTES:
        return False
    memcpy(&suffix, key + key_bytes - SUFFIX_BYTES, SUFFIX_BYTES)
    return suffix == <uint64_t>0x617461646174656D or suffix == <uint64_t>0x73657479625F766B
