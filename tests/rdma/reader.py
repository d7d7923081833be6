"""Reader: finds keys in memory nodes by what docs/pool.md says of their layout, and by nothing of kvcd's own but the control client.

``python -m tests.rdma.reader SECRET_FILE DATABASE KEY HOST:PORT...`` writes the key's value to standard output; exit status 1 when the pool
does not have it. It needs pyverbs. It enters no memory node and names nothing in a hazard row: what it copied is right when the slot still
holds the same word afterwards.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context, get_device_list
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

from storage.fabric.control_client import ControlClient
from storage.fabric.control_messages import QueuePairAddress

WORD_MASK = (1 << 64) - 1
PAGE_BYTES, SET_BYTES, SLOTS_PER_SET = 65536, 128, 7
LIVE = 2
EXPIRY, PARENT, PAGED, LIST_IN_PAGE, LEASE = 1, 2, 4, 8, 16  # a cell's flags
SUPERBLOCK = struct.Struct("<8sII4Q16sIIQ32s16sI")
CELL_HEADER = struct.Struct("<IIIIHHBBBB")
LARGE_CELLS = (2336, 2720, 3104, 3632, 4080, 4672, 5440, 5936, 6528, 7264, 8176, 9344, 10896, 13072, 16352, 21792, 32704)
CELL_BYTES = (*range(64, 256, 16), *range(256, 512, 32), *range(512, 1024, 64), *range(1024, 2049, 128), *LARGE_CELLS)
DEADLINE_S = 10


def rotated(word: int, bits: int) -> int:
    """Rotate a word to the left."""
    return (word << bits | word >> (64 - bits)) & WORD_MASK


def siphash_1_3_128(secret: tuple[int, int], data: bytes) -> tuple[int, int]:
    """Return SipHash-1-3 with 128 bits of output, as two words (Aumasson and Bernstein 2012)."""
    low, high = secret
    state = [low ^ 0x736F6D6570736575, high ^ 0x646F72616E646F6D ^ 0xEE, low ^ 0x6C7967656E657261, high ^ 0x7465646279746573]

    def turn(rounds: int) -> None:
        a, b, c, d = state
        for _ in range(rounds):
            a = (a + b) & WORD_MASK
            b = rotated(b, 13) ^ a
            a = rotated(a, 32)
            c = (c + d) & WORD_MASK
            d = rotated(d, 16) ^ c
            a = (a + d) & WORD_MASK
            d = rotated(d, 21) ^ a
            c = (c + b) & WORD_MASK
            b = rotated(b, 17) ^ c
            c = rotated(c, 32)
        state[:] = a, b, c, d

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 255])
    for (word,) in struct.iter_unpack("<Q", padded):
        state[3] ^= word
        turn(1)
        state[0] ^= word
    state[2] ^= 0xEE
    turn(3)
    first = state[0] ^ state[1] ^ state[2] ^ state[3]
    state[1] ^= 0xDD
    turn(3)
    return first, state[0] ^ state[1] ^ state[2] ^ state[3]


def mixed(word: int) -> int:
    """Return the word after the finisher of MurmurHash3."""
    word ^= word >> 33
    word = word * 0xFF51AFD7ED558CCD & WORD_MASK
    word ^= word >> 33
    word = word * 0xC4CEB9FE1A85EC53 & WORD_MASK
    return word ^ word >> 33


class Region:
    """A memory node's memory, read over a queue pair for visitors."""

    def __init__(self, name: str, secret: bytes) -> None:
        """Connect to HOST:PORT."""
        self.name = name
        host, _, port = name.rpartition(":")
        self.control = ControlClient(host, int(port), secret, DEADLINE_S)
        self.facts = facts = self.control.hello()
        self.context = Context(name=get_device_list()[0].name.decode())
        self.domain = PD(self.context)
        self.completions = CQ(self.context, 4)
        self.buffer = MR(self.domain, PAGE_BYTES, e.IBV_ACCESS_LOCAL_WRITE)
        capacity = QPCap(max_send_wr=4, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
        self.pair = QP(self.domain, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.completions, rcq=self.completions, cap=capacity))
        # Both are on one machine here: the node's GID is this device's too.
        gid = ipaddress.IPv6Address(facts.gid).exploded
        ours = QueuePairAddress(number=self.pair.qp_num, psn=7, lid=0, gid=facts.gid, mtu=facts.mtu, max_rd_atomic=1)
        [reply] = self.control.connect([ours], visitor=True)
        attributes = QPAttr(port_num=1)
        attributes.qp_access_flags = e.IBV_ACCESS_LOCAL_WRITE
        attributes.ah_attr = AHAttr(port_num=1, is_global=1, gr=GlobalRoute(dgid=GID(gid), sgid_index=facts.gid_index, hop_limit=64))
        attributes.path_mtu, attributes.dest_qp_num, attributes.rq_psn, attributes.sq_psn = facts.mtu, reply.number, reply.psn, 7
        attributes.max_rd_atomic = attributes.max_dest_rd_atomic = 1
        attributes.timeout, attributes.retry_cnt, attributes.rnr_retry, attributes.min_rnr_timer = 14, 6, 7, 12
        self.pair.to_rts(attributes)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the region, at most a page."""
        request = SendWR(
            opcode=e.IBV_WR_RDMA_READ,
            num_sge=1,
            sg=[SGE(self.buffer.buf, length, self.buffer.lkey)],
            send_flags=e.IBV_SEND_SIGNALED,
        )
        request.set_wr_rdma(self.facts.rkey, self.facts.address + offset)
        self.pair.post_send(request)
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s:
            count, completions = self.completions.poll(1)
            if count:
                assert completions[0].status == e.IBV_WC_SUCCESS, f"a read of {length} bytes at {offset} ended with {completions[0].status}"
                return bytes(self.buffer.read(length, 0))
        raise TimeoutError(f"memory node {self.name} does not answer")

    def word(self, offset: int) -> int:
        """Return one word."""
        return int.from_bytes(self.read(offset, 8), "little")

    def close(self) -> None:
        """Give everything back."""
        for each in (self.pair, self.buffer, self.completions, self.domain, self.context, self.control):
            each.close()


@dataclass(frozen=True, slots=True)
class Found:
    """A value, and what stands beside it in its cell."""

    value: bytes
    is_paged: bool
    expires_at_ms: int | None
    parent: int | None
    depth: int
    distance: int  # of its set from the key's home set


class Node:
    """One memory node's pool."""

    def __init__(self, region: Region) -> None:
        """Read and check the superblock; find where the regions begin."""
        self.region = region
        self.seed = int.from_bytes(hashlib.sha256(region.name.encode()).digest()[:8], "little")
        block = region.read(0, SUPERBLOCK.size)
        magic, version, fabric, self.pool_bytes, self.sets, self.pages, _, secret, _, _, _, self.digest, _, check = SUPERBLOCK.unpack(block)
        assert (magic, version, fabric) == (b"KVCDPOOL", 5, 2)
        assert check == zlib.crc32(block[:-4])
        assert self.pool_bytes == region.facts.size_bytes
        self.names = region.read(256, 768).rstrip(b"\0")
        self.secret: tuple[int, int] = struct.unpack("<2Q", secret)
        slots = self.sets * SLOTS_PER_SET
        ghosts = self.pool_bytes // 64 // 4096 * 4096
        sizes = (4096, 64 * 64, 64 * 4096 * 8, 512 * 8, 4096, 256 * 8, 512 * 8, 65 * 256 * 32, self.sets * SET_BYTES, slots * 16, ghosts)
        begins = [0]
        for size in sizes:
            begins.append((begins[-1] + size + 4095) // 4096 * 4096)
        self.databases_at, self.sets_at, page_words_at = begins[5], begins[8], begins[11]
        assert self.pages == (self.pool_bytes - page_words_at - 65_536) // 65_544
        self.pages_at = (page_words_at + self.pages * 8 + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES
        assert self.pages_at + self.pages * PAGE_BYTES <= self.pool_bytes

    def hash(self, key: bytes, database: int) -> tuple[int, int]:
        """Return both words of the key's hash."""
        low, high = self.secret
        return siphash_1_3_128((low ^ database * 0x9E3779B97F4A7C15 & WORD_MASK, high), key)

    def find(self, key: bytes, database: int) -> Found | None:
        """Return the key's value; None when it is not here."""
        low, high = self.hash(key, database)
        epoch = self.region.word(self.databases_at + 8 * database)
        home = (low + epoch * 0x9E3779B97F4A7C15 & WORD_MASK) % self.sets
        tag = (high ^ epoch * 0xD6E8FEB86659FD93 & WORD_MASK) >> 16
        farthest = 0
        distance = 0
        while distance <= farthest:
            number = (home + distance) % self.sets
            words = struct.unpack("<16Q", self.region.read(self.sets_at + number * SET_BYTES, SET_BYTES))
            if distance == 0:
                farthest = words[0] & 15
            for place in range(SLOTS_PER_SET):
                word, owner = words[2 + 2 * place], words[3 + 2 * place]
                is_candidate = word & 3 == LIVE and owner >> 16 == tag and owner & 255 == word >> 10 & 255 and owner >> 8 & 7 == distance
                if is_candidate and (found := self._read(number * SLOTS_PER_SET + place, word, key, database, epoch, distance)):
                    return found
            distance += 1
        return None

    def _read(self, slot: int, word: int, key: bytes, database: int, epoch: int, distance: int) -> Found | None:
        """Read the cell that a slot names. None for another key's, and for a value that has expired."""
        cell_bytes = CELL_BYTES[word >> 4 & 63]
        page, place = word >> 42, word >> 32 & 1023
        cell = self.region.read(self.pages_at + page * PAGE_BYTES + 128 + place * cell_bytes, cell_bytes)
        slot_number, echo, cell_epoch, value_bytes, key_bytes, depth, cell_database, _type, flags, has_tail = CELL_HEADER.unpack_from(cell)
        position = CELL_HEADER.size
        expires_at_ms = parent = None
        if flags & EXPIRY:
            (expires_at_ms,) = struct.unpack_from("<Q", cell, position)
            position += 8
        if flags & LEASE:
            position += 8
        if flags & PARENT:
            parent = struct.unpack_from("<Q", cell, position)[0] or None
            position += 8
        if cell[position : position + key_bytes] != key or cell_database != database:
            return None
        # Not a matter of luck here: nobody else is at work.
        assert (slot_number, echo, cell_epoch) == (slot, word & 0xFFFFFFFF, epoch & 0xFFFFFFFF)
        assert (bool(flags & EXPIRY), bool(flags & PAGED)) == (bool(word & 4), bool(word & 8))
        position += key_bytes
        value = self._pages(cell, position, value_bytes, flags, has_tail) if flags & PAGED else cell[position : position + value_bytes]
        where = self.sets_at + slot // SLOTS_PER_SET * SET_BYTES + 16 + slot % SLOTS_PER_SET * 16
        assert self.region.word(where) == word, "the value was replaced while it was read: read it again"
        if expires_at_ms is not None and expires_at_ms <= time.time_ns() // 1_000_000:
            return None
        return Found(value, bool(flags & PAGED), expires_at_ms, parent, depth, distance)

    def _pages(self, cell: bytes, position: int, value_bytes: int, flags: int, has_tail: int) -> bytes:
        """Return a paged value."""
        whole, rest = divmod(value_bytes, PAGE_BYTES)
        count = whole + (1 if rest and not has_tail else 0)
        if flags & LIST_IN_PAGE:
            (page,) = struct.unpack_from("<I", cell, position)
            listed = self.region.read(self.pages_at + page * PAGE_BYTES, count * 4)
            position += 4
        else:
            listed = cell[position : position + count * 4]
            position += count * 4
        parts = [self.region.read(self.pages_at + page * PAGE_BYTES, PAGE_BYTES) for (page,) in struct.iter_unpack("<I", listed)]
        if has_tail:
            parts.append(cell[position : position + rest])
        return b"".join(parts)[:value_bytes]


class Pool:
    """All memory nodes of a pool."""

    def __init__(self, names: list[str], secret: bytes) -> None:
        """Connect to all of them; the superblocks must agree that these are all."""
        self.nodes = [Node(Region(name, secret)) for name in names]
        for node in self.nodes:
            assert node.secret == self.nodes[0].secret
            assert node.names == "\n".join((node.region.name, *sorted(names))).encode()
            assert node.digest == hashlib.sha256(node.names).digest()

    def node_of(self, key: bytes, database: int = 0) -> Node:
        """Return the node on which a key lives."""
        low, _ = self.nodes[0].hash(key, database)
        return max(self.nodes, key=lambda node: mixed(low ^ node.seed))

    def find(self, key: bytes, database: int = 0) -> Found | None:
        """Return a key's value; None when the pool does not have it."""
        return self.node_of(key, database).find(key, database)

    def close(self) -> None:
        """Leave."""
        for node in self.nodes:
            node.region.close()


def main() -> int:
    """Run the command line."""
    secret_file, database, key, *names = sys.argv[1:]
    pool = Pool(names, Path(secret_file).read_bytes().strip())
    found = pool.find(key.encode(), int(database))
    pool.close()
    if found is not None:
        sys.stdout.buffer.write(found.value)
    return 0 if found is not None else 1


if __name__ == "__main__":
    sys.exit(main())
