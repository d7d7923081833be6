# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Cluster: all memory nodes of a pool as this front end sees them, and which key lives where.

A key, its slot, heat, header and pages lie on one node: the one with the highest weight for the key's hash (rendezvous hashing; Thaler and
Ravishankar 1998). The blocks of a chain lie anywhere, so a batch goes to all its nodes at once: every round posts a
doorbell to each, and then waits for all of them.
"""

import hashlib

from libc.stdint cimport uint32_t, uint64_t

from storage.adoption cimport Adoption
from storage.batch cimport KIND_READ, STATUS_MISS, STATUS_UNREACHABLE, Batch, NodeRound, Request
from storage.engine cimport DONE, DatabaseCounts, Engine, hash_request
from storage.hashing cimport hash_key
from storage.headroom cimport Headroom
from storage.policy cimport EvictionPolicy
from storage.words cimport MAX_NODES as MOST_NODES
from storage.words cimport SUFFIX_BYTES, is_half

cdef enum:
    BATCH_REQUESTS = 512     # requests of one run of the slow lane; longer ones are cut
    SPARE_BATCHES = 16

MAX_NODES = MOST_NODES


cdef class Node:
    """One memory node: its engine, and what evicts there."""

    def __cinit__(self, str name, Engine engine, str policy):
        self.name = name
        # The name and nothing else: every front end, and the node after a restart, must weigh alike.
        self.seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        if engine is not None:
            self.engine = engine
            self.policy = EvictionPolicy(engine, policy)
            engine.room = self.policy
            self.headroom = Headroom(engine, self.policy)

    def share(self, membership, *, bint alone) -> None:
        """Other front ends use this node too, or may: ``membership`` proves which are dead. ``alone``: nobody else is there yet."""
        self.adoption = Adoption(self.engine, self.policy, membership, alone)

    cdef bint count(self, uint32_t database, DatabaseCounts *total) noexcept:
        """Keys of a database on this node, of all front ends; False when the node is lost."""
        if self.adoption is not None:
            return self.engine.total_counts(database, total)
        total.keys = self.engine.keys[database]
        total.expires = self.engine.expires[database]
        total.stored_bytes = self.engine.stored_bytes[database]
        return True

    cdef bint may_hold(self, uint32_t database) noexcept:
        """Whether a database may have keys here: others may have stored some that are not counted here."""
        return self.adoption is not None or self.engine.keys[database] > 0 or self.engine.pool.refresh_high_water() > 1

    cdef bint is_lost(self) noexcept:
        return self.engine is None or self.engine.pool.fabric.is_lost


cdef class Cluster:
    """The nodes of a pool, in the order of the configured list."""

    def __cinit__(self, nodes):
        self.spare_batches = []
        if not 1 <= len(nodes) <= MOST_NODES:
            raise ValueError(f"a pool has 1 to {MOST_NODES} memory nodes, not {len(nodes)}")
        self.replace(nodes)

    def replace(self, nodes) -> None:
        """From now on use these nodes; runs under way end with those that they began with."""
        cdef Node node
        cdef uint32_t i
        self.nodes = list(nodes)
        self.node_count = <uint32_t>len(self.nodes)
        for i in range(self.node_count):
            node = self.nodes[i]
            self.seeds[i] = node.seed
            if node.engine is not None:
                self.first = node
        if self.first is None:
            raise ValueError("none of the memory nodes was reached")

    def lost(self) -> list:
        """Names of the nodes that do not answer."""
        return [(<Node>node).name for node in self.nodes if (<Node>node).is_lost()]

    cdef void hash(self, Request *request) noexcept nogil:
        """Hash the key and choose its node."""
        cdef uint64_t weight, best = 0
        cdef uint32_t i
        cdef uint64_t chosen_by
        hash_request(self.first.engine.pool, request)
        request.node = 0
        if self.node_count == 1:
            return
        chosen_by = request.hash_low
        if is_half(request.key, request.key_bytes):
            # Two keys that belong together lie together, so that they can leave together.
            chosen_by = hash_key(
                self.first.engine.pool.secret_low, self.first.engine.pool.secret_high, request.key, request.key_bytes - SUFFIX_BYTES
            ).low
        for i in range(self.node_count):
            # The finisher of MurmurHash3 (Appleby): every bit of hash and seed moves every bit of the weight.
            weight = chosen_by ^ self.seeds[i]
            weight = (weight ^ (weight >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
            weight = (weight ^ (weight >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
            weight ^= weight >> 33
            if weight > best:
                best = weight
                request.node = <unsigned char>i

    cdef Engine engine_of(self, Request *request):
        """The engine of the node that a request of an ended run was for."""
        return (<Node>self.nodes[request.node]).engine

    cdef void run(self, Batch batch) noexcept:
        """Answer every request of the batch; ``now_ms`` is the time for all of them."""
        cdef Engine engine
        if self.node_count == 1:
            # Held for as long as it runs: the node may be replaced meanwhile.
            engine = self.first.engine
            engine.now_ms = self.now_ms
            engine.run(batch)
        elif batch.count:
            self._run_all(batch)

    cdef void _run_all(self, Batch batch) noexcept:
        cdef list nodes = self.nodes
        cdef Node node
        cdef NodeRound *round
        cdef Request *request
        cdef uint32_t i
        cdef bint any_open
        cdef int failed
        for i in range(batch.node_count):
            batch.rounds[i].is_used = False
        for i in range(batch.count):
            request = &batch.requests[i]
            self.hash(request)
            node = nodes[request.node]
            if node.is_lost():
                request.status = STATUS_MISS if request.kind <= KIND_READ else STATUS_UNREACHABLE
                request.state = DONE
            else:
                batch.rounds[request.node].is_used = True
        for i in range(batch.node_count):
            round = &batch.rounds[i]
            round.is_open = round.is_used
            if round.is_used:
                node = nodes[i]
                node.engine.now_ms = self.now_ms
                node.engine.open(batch, round, True)
        while True:
            any_open = False
            for i in range(batch.node_count):
                round = &batch.rounds[i]
                if not round.is_open:
                    continue
                node = nodes[i]
                round.is_open = node.engine.build(batch, round)
                if round.is_open:
                    any_open = True
                    round.is_posted = round.building.count > 0
                    if round.is_posted:
                        round.ticket = node.engine.pool.fabric.post(round.building.items, round.building.count)
            if not any_open:
                break
            for i in range(batch.node_count):
                round = &batch.rounds[i]
                if round.is_open:
                    node = nodes[i]
                    failed = node.engine.pool.fabric.wait(round.ticket) if round.is_posted else 0
                    round.is_open = node.engine.settle(batch, round, failed)
        for i in range(batch.node_count):
            if batch.rounds[i].is_used:
                node = nodes[i]
                node.engine.close(batch, &batch.rounds[i])

    cdef Batch take_batch(self):
        """An empty batch; over RDMA several are under way at a time."""
        if self.spare_batches:
            return self.spare_batches.pop()
        return Batch(BATCH_REQUESTS, self.node_count)

    cdef void give_batch(self, Batch batch) noexcept:
        batch.clear()
        if len(self.spare_batches) < SPARE_BATCHES:
            self.spare_batches.append(batch)
