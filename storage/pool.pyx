# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Pool: where everything lies, and this front end's place in it."""

cimport cython
import hashlib
import os
import struct
import zlib

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from storage.fabric.base cimport OP_CAS, OP_FAA, OP_READ, OP_WRITE, Fabric, FabricOp
from storage.words cimport (
    CHANGE_COUNTERS,
    COUNTS_BYTES,
    FRONT_END_ROW_BYTES,
    HAZARDS_PER_ROW,
    HEAT_BYTES,
    MAX_DATABASES,
    MAX_FRONT_ENDS,
    MAX_PAGES,
    PAGE_BYTES,
    SET_BYTES,
    SLOTS_PER_SET,
)

MAGIC = b"KVCDPOOL"
VERSION = 5
SUPERBLOCK_BYTES = 4096
MIN_PAGES = 8
GHOST_BUCKET_BYTES = 128
GHOST_SHARE = 64  # of the pool one part in so many holds ghosts
# magic, version, fabric kind, pool bytes, sets, pages, index entries, hash secret, binding and version
# bits, node-list epoch, node-list digest, boot identity.
_SUPERBLOCK = struct.Struct("<8sII4Q16sIIQ32s16s")
_NODES_OFFSET = 256    # names of this node and of all, for people: the digest above is what counts
_NODES_BYTES = 768
_CLEAN_OFFSET = 1024  # one word outside the checksum: 1 after a clean shutdown
_FABRIC_KINDS = {"shm": 1, "verbs": 2, "sim": 3}


class PoolError(Exception):
    """The pool cannot be used; the text says what was found and what was expected."""


def _aligned(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


def _regions(pool_bytes: int, index_entries: int) -> dict[str, int]:
    """Offsets of every region of a pool of ``pool_bytes`` with room for ``index_entries`` slots."""
    set_count = -(-index_entries // SLOTS_PER_SET)
    offset = SUPERBLOCK_BYTES
    regions: dict[str, int] = {"pool_bytes": pool_bytes, "set_count": set_count, "slot_count": set_count * SLOTS_PER_SET}
    for name, size in (
        ("front_ends", MAX_FRONT_ENDS * FRONT_END_ROW_BYTES),
        ("hazards", MAX_FRONT_ENDS * HAZARDS_PER_ROW * 8),
        ("counters", CHANGE_COUNTERS * 8),
        ("globals", 4096),
        ("databases", MAX_DATABASES * 8),
        ("leases", 4096),
        ("counts", (MAX_FRONT_ENDS + 1) * MAX_DATABASES * COUNTS_BYTES),
        ("sets", set_count * SET_BYTES),
        ("heat", set_count * SLOTS_PER_SET * HEAT_BYTES),
    ):
        regions[name] = offset
        offset = _aligned(offset + size, 4096)
    # Ghosts: what is remembered of blocks that are gone.
    buckets = pool_bytes // GHOST_SHARE // 4096 * (4096 // GHOST_BUCKET_BYTES)
    regions["ghosts"], regions["ghost_buckets"] = offset, buckets
    offset += buckets * GHOST_BUCKET_BYTES
    regions["page_words"] = offset
    # What is left is shared between pages and their words: one 8-byte word for each page.
    page_count = max(0, (pool_bytes - offset - PAGE_BYTES) // (PAGE_BYTES + 8))
    regions["page_count"] = page_count
    regions["pages"] = _aligned(offset + page_count * 8, PAGE_BYTES)
    return regions


def boot_identity() -> bytes:
    """Sixteen bytes that change when the machine boots; zeros where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def node_list_text(node: str, nodes) -> bytes:
    """What the superblock of ``node`` says about itself and the list: the order in which nodes were named does not matter."""
    return "\n".join((node, *sorted(nodes))).encode() if nodes else b""


def default_index_entries(pool_bytes: int) -> int:
    """Slots of the index when nobody says otherwise: one for each 4 KiB, at least 2**20.

    A pool too small to give an eighth of itself to the index gets fewer.
    """
    return min(max(1 << 20, pool_bytes // 4096), max(1024, pool_bytes // 8 // 35))


def _digest(node: str, nodes) -> bytes:
    text = node_list_text(node, nodes)
    return hashlib.sha256(text).digest() if text else bytes(32)


@cython.no_gc_clear
cdef class Pool:
    """One region of memory behind a fabric: geometry, secret, epochs, this front end's row.

    Raises PoolError when the superblock is missing, damaged or of another geometry.
    """

    def __cinit__(self, Fabric fabric, int front_end=0):
        self.fabric = fabric
        self.front_end = front_end
        memset(self.epochs, 0, sizeof(self.epochs))

    @staticmethod
    def format(Fabric fabric, *, index_entries=None, secret=None, binding_bits=8, version_bits=14, front_end=0, node="", nodes=()):
        """Write the superblock of an empty pool over zeroed memory, and attach to it as ``node`` of ``nodes``."""
        entries = index_entries or default_index_entries(fabric.size_bytes)
        regions = _regions(fabric.size_bytes, entries)
        if regions["page_count"] < MIN_PAGES:
            needed = regions["page_words"] + PAGE_BYTES + MIN_PAGES * (PAGE_BYTES + 8)
            while _regions(needed, entries)["page_count"] < MIN_PAGES:
                needed += PAGE_BYTES  # of a larger pool more is for ghosts
            raise PoolError(
                f"a pool of {fabric.size_bytes} bytes has no room for {entries} index entries and {MIN_PAGES} pages: "
                f"give pool-size at least {needed} bytes, or a smaller index-entries"
            )
        if regions["page_count"] > MAX_PAGES:
            raise PoolError(
                f"a pool of {fabric.size_bytes} bytes has {regions['page_count']} pages; one node addresses at most "
                f"{MAX_PAGES}: give pool-size at most {int(MAX_PAGES) * int(PAGE_BYTES)} bytes"
            )
        block = _SUPERBLOCK.pack(
            MAGIC, VERSION, _FABRIC_KINDS[fabric.kind], fabric.size_bytes, regions["set_count"], regions["page_count"], entries,
            secret or os.urandom(16), binding_bits, version_bits, 1, _digest(node, nodes), boot_identity(),
        )
        pool = Pool(fabric)
        pool.write(_NODES_OFFSET, node_list_text(node, nodes)[:_NODES_BYTES].ljust(_NODES_BYTES, b"\0"))
        # The magic last: whoever is killed before it leaves memory that is plainly no pool yet, not a damaged one.
        pool.write(len(MAGIC), block[len(MAGIC) :] + struct.pack("<I", zlib.crc32(block)))
        pool.write(0, MAGIC)
        return Pool.attach(fabric, front_end, node, nodes)

    @staticmethod
    def attach(Fabric fabric, int front_end=0, node="", nodes=()):
        """Attach to a formatted pool, as ``node`` of ``nodes``, and take the front end's row."""
        cdef Pool pool
        if not 0 <= front_end < MAX_FRONT_ENDS:
            raise PoolError(f"front end {front_end}: a pool has rows for 0 to {MAX_FRONT_ENDS - 1}")
        pool = Pool(fabric, front_end)
        block = pool.read(0, _SUPERBLOCK.size)
        (checksum,) = struct.unpack("<I", pool.read(_SUPERBLOCK.size, 4))
        (magic, version, kind, pool_bytes, set_count, page_count, entries, secret, binding_bits, version_bits, _epoch, digest,
         _boot) = _SUPERBLOCK.unpack(block)
        if magic != MAGIC:
            raise PoolError(f"not a kvcd pool: it begins with {magic!r}, expected {MAGIC!r}")
        if version != VERSION:
            raise PoolError(f"pool layout version {version}, this kvcd reads version {VERSION}: empty it to use it here")
        if zlib.crc32(block) != checksum:
            raise PoolError(f"damaged superblock: checksum {zlib.crc32(block):#010x}, expected {checksum:#010x}")
        if kind != _FABRIC_KINDS[fabric.kind]:
            found = {number: name for name, number in _FABRIC_KINDS.items()}.get(kind, f"number {kind}")
            raise PoolError(f"a pool of the {found} fabric; it cannot be shared with the {fabric.kind} fabric")
        if pool_bytes != fabric.size_bytes:
            raise PoolError(f"the superblock says {pool_bytes} bytes, the memory has {fabric.size_bytes}")
        if not (1 <= entries < 1 << 32 and MIN_PAGES <= page_count <= MAX_PAGES and 1 <= binding_bits <= 8 and 1 <= version_bits <= 14):
            raise PoolError(
                f"impossible geometry: {entries} index entries, {page_count} pages, {binding_bits} bits of binding and "
                f"{version_bits} of version; expected at most {(1 << 32) - 1}, {MIN_PAGES} to {MAX_PAGES}, 8 and 14"
            )
        if digest != _digest(node, nodes):
            own, *found = pool.read(_NODES_OFFSET, _NODES_BYTES).rstrip(b"\0").decode("utf-8", "replace").split("\n")
            raise PoolError(
                f"the pool was made as node {own or '(none)'} of {','.join(found) or '(no list)'}, and is asked for as node {node or '(none)'} of "
                f"{','.join(sorted(nodes)) or '(no list)'}: give every front end the same list, with every name spelt the same, or empty "
                "all memory nodes to change it"
            )
        regions = _regions(pool_bytes, entries)
        if (regions["set_count"], regions["page_count"]) != (set_count, page_count):
            raise PoolError(
                f"geometry of {set_count} sets and {page_count} pages; {pool_bytes} bytes with {entries} index entries "
                f"have {regions['set_count']} sets and {regions['page_count']} pages"
            )
        pool.geometry = regions
        pool.secret = secret
        pool.secret_low, pool.secret_high = struct.unpack("<QQ", secret)
        pool.word_format.binding_mask = (1 << binding_bits) - 1
        pool.word_format.version_mask = (1 << version_bits) - 1
        pool._enter()
        return pool

    def _enter(self) -> None:
        """Take the front end's row, which nobody alive has: next incarnation, empty hazards, high-water mark raised."""
        cdef uint64_t row = self.row_offset(self.front_end)
        cdef uint64_t life = 0, high = 0, found
        # Whoever had the number before reads no more: what its row names goes first.
        self.write(row + ROW_HAZARDS, bytes(8))
        self.write(self.hazard_offset(self.front_end, 0), bytes(HAZARDS_PER_ROW * 8))
        # A grace period that is asked for from now on waits for this front end too.
        self.write(row + ROW_TICKET, struct.pack("<Q", self.read_ticket()))
        self.read_into(row + ROW_LIFE, &life, 8)
        while True:
            found = self.compare_and_swap(row + ROW_LIFE, life, (((life >> 1) + 1) << 1) | 1)
            if found == life:
                break
            life = found
        self.incarnation = <uint32_t>(((life >> 1) + 1) & 0x7FFF)
        self.read_into(self.geometry.globals + GLOBAL_HIGH_WATER, &high, 8)
        while True:
            # The upper half moves with everybody who comes: whoever lowers the lower half notices it.
            found = self.compare_and_swap(
                self.geometry.globals + GLOBAL_HIGH_WATER, high,
                (((high >> 32) + 1) << 32) | max(<uint64_t><uint32_t>high, <uint64_t>(self.front_end + 1)),
            )
            if found == high:
                break
            high = found
        self.refresh_high_water()
        if life & 1:
            # Its earlier self died and nobody had noticed: what that one held is to be looked for.
            self.fetch_and_add(self.geometry.globals + GLOBAL_DEATHS, 1)
        self.refresh_epochs()

    def leave(self) -> None:
        """End in order: from now on others take what this front end had."""
        self.declare_dead(self.front_end)

    def life_of(self, int front_end) -> tuple[int, bool]:
        """Incarnation (as pages and reservations name it) of a number, and whether somebody is it."""
        (life,) = struct.unpack("<Q", self.read(self.row_offset(front_end) + ROW_LIFE, 8))
        return (life >> 1) & 0x7FFF, bool(life & 1)

    def declare_dead(self, int front_end, life=None) -> bool:
        """Write down for all that a front end is gone. Only for who has the proof of it.

        ``life`` is what its row said before the proof was had; None for who holds a proof that nobody else can have. False
        when that was known, or the number is somebody else's by now. From here on nobody looks at its hazards, and everybody
        looks for what it held.
        """
        cdef uint64_t row = self.row_offset(front_end), word = 0
        if life is None:
            self.read_into(row + ROW_LIFE, &word, 8)
        else:
            word = life
        if not word & 1 or self.compare_and_swap(row + ROW_LIFE, word, ((word >> 1) + 1) << 1) != word:
            return False
        self.fetch_and_add(self.geometry.globals + GLOBAL_DEATHS, 1)
        return True

    cdef uint64_t read_ticket(self) noexcept nogil:
        """How many grace periods were asked for so far."""
        cdef uint64_t ticket = 0
        self.read_into(self.geometry.globals + GLOBAL_TICKET, &ticket, 8)
        return ticket

    def refresh_epochs(self) -> None:
        """Read every database's epoch again."""
        self.read_into(self.geometry.databases, self.epochs, sizeof(self.epochs))

    def advance_epoch(self, int database) -> int:
        """FLUSHDB: everything written before is absent from now on. Returns the new epoch, for ``Engine.note_epoch``."""
        cdef uint64_t epoch = self.fetch_and_add(self.epoch_offset(database), 1) + 1
        if self.fabric.is_lost:
            raise ConnectionError("the memory node does not answer")
        return epoch

    cdef uint32_t refresh_high_water(self) noexcept nogil:
        """Read again up to which number there may be front ends."""
        cdef uint64_t word = 0
        cdef uint32_t high
        if self.read_into(self.geometry.globals + GLOBAL_HIGH_WATER, &word, 8) == 0:
            # Clamped: a damaged word must not make anyone read more rows than there are.
            high = <uint32_t>word if <uint32_t>word <= MAX_FRONT_ENDS else MAX_FRONT_ENDS
            self.front_end_high_water = high if high > <uint32_t>self.front_end else <uint32_t>self.front_end + 1
        return self.front_end_high_water

    def lower_high_water(self) -> None:
        """When nobody is left above it, others need look at no more rows than up to the highest number in use."""
        cdef uint64_t word = 0
        cdef uint32_t number, high
        self.read_into(self.geometry.globals + GLOBAL_HIGH_WATER, &word, 8)
        rows = struct.unpack(f"<{MAX_FRONT_ENDS * FRONT_END_ROW_BYTES // 8}Q", self.read(self.geometry.front_ends, MAX_FRONT_ENDS * FRONT_END_ROW_BYTES))
        high = <uint32_t>self.front_end + 1
        for number in range(high, MAX_FRONT_ENDS):
            if rows[number * FRONT_END_ROW_BYTES // 8] & 1:
                high = number + 1
        # Who enters sets its row first and moves this word then, so a row that was missed makes this fail.
        if high < <uint32_t>word and self.compare_and_swap(
            self.geometry.globals + GLOBAL_HIGH_WATER, word, (((word >> 32) + 1) << 32) | high
        ) == word:
            self.front_end_high_water = high

    cdef int submit(self, FabricOp *ops, int count) noexcept nogil:
        return self.fabric.execute(ops, count)

    cdef int read_into(self, uint64_t offset, void *target, uint32_t length) noexcept nogil:
        cdef FabricOp op
        memset(&op, 0, sizeof(op))
        op.opcode = OP_READ
        op.offset = offset
        op.local = target
        op.length = length
        return self.fabric.execute(&op, 1)

    cdef int write_from(self, uint64_t offset, const void *source, uint32_t length) noexcept nogil:
        cdef FabricOp op
        memset(&op, 0, sizeof(op))
        op.opcode = OP_WRITE
        op.offset = offset
        op.local = <void *>source
        op.length = length
        return self.fabric.execute(&op, 1)

    cdef uint64_t compare_and_swap(self, uint64_t offset, uint64_t expected, uint64_t word) noexcept nogil:
        cdef FabricOp op
        memset(&op, 0, sizeof(op))
        op.opcode = OP_CAS
        op.offset = offset
        op.compare = expected
        op.swap = word
        self.fabric.execute(&op, 1)
        return op.result

    cdef uint64_t fetch_and_add(self, uint64_t offset, uint64_t addend) noexcept nogil:
        cdef FabricOp op
        memset(&op, 0, sizeof(op))
        op.opcode = OP_FAA
        op.offset = offset
        op.compare = addend
        self.fabric.execute(&op, 1)
        return op.result

    def read(self, uint64_t offset, uint32_t length) -> bytes:
        """Bytes at a node-local offset, through the fabric."""
        data = bytearray(length)
        cdef char *target = data
        if self.read_into(offset, target, length) != 0:
            raise PoolError(f"{length} bytes at {offset} lie outside the pool of {self.fabric.size_bytes} bytes")
        return bytes(data)

    def write(self, uint64_t offset, bytes data) -> None:
        """Write bytes at a node-local offset, through the fabric."""
        if self.write_from(offset, <char *>data, <uint32_t>len(data)) != 0:
            raise PoolError(f"{len(data)} bytes at {offset} lie outside the pool of {self.fabric.size_bytes} bytes")

    def mark_clean(self, bint clean) -> None:
        """Record that the pool was left in order (or is in use again)."""
        self.write(_CLEAN_OFFSET, struct.pack("<Q", 1 if clean else 0))

    @property
    def is_clean(self) -> bool:
        """Whether the last user left the pool in order."""
        return struct.unpack("<Q", self.read(_CLEAN_OFFSET, 8))[0] == 1

    @property
    def boot(self) -> bytes:
        """Identity of the boot under which the pool was formatted or last opened."""
        return _SUPERBLOCK.unpack(self.read(0, _SUPERBLOCK.size))[12]

    def layout(self) -> dict[str, int]:
        """Offsets and counts of every region."""
        return dict(self.geometry)
