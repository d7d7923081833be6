# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Lease desk: leases blocks to clients, within a share of the memory.

A lease is an entry in the cell of a value. It is written as EXPIRE writes an expiry, by a new cell and a compare-and-swap of the
slot's word: an eviction that was under way finds another word, and a later one finds the lease.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t

from storage.batch cimport (
    CONDITION_XX,
    KEEP_TTL,
    KEEP_VALUE,
    KIND_READ,
    KIND_WRITE,
    SET_LEASE,
    SILENT,
    STATUS_OK,
    STATUS_PRESENT,
    STATUS_UNREACHABLE,
    Batch,
    Request,
)
from storage.cluster cimport Cluster, Node
from storage.words cimport PAGE_BYTES

cdef enum:
    BATCH_REQUESTS = 512    # requests of one run; longer ones are cut


cdef Request *_add(Batch batch, int kind, int database, bytes key) except NULL:
    cdef Request *request = batch.add()
    request.kind = <unsigned char>kind
    request.flags = SILENT
    request.database = <unsigned char>database
    request.key = PyBytes_AS_STRING(key)
    request.key_bytes = <uint32_t>PyBytes_GET_SIZE(key)
    return request


cdef class LeaseDesk:
    """Leases blocks of all nodes."""

    def __cinit__(self, Cluster cluster):
        self.cluster = cluster
        self.share = 0.25

    def lease(self, int database, keys, int64_t until_ms) -> int:
        """Lease the leading keys that are there until a time: how many are safe from eviction till then at least.

        As many as the share has room for; a longer lease stays as it is. Raises ConnectionError when a memory node is lost.
        """
        keys = list(keys)
        leased = 0
        for start in range(0, len(keys), BATCH_REQUESTS):
            part = keys[start : start + BATCH_REQUESTS]
            done = self._write(database, part[: self._admitted(database, part, until_ms)], until_ms)
            leased += done
            if done < len(part):
                break
        return leased

    def unlease(self, int database, keys) -> int:
        """End the leases of some keys: how many had one."""
        keys = list(keys)
        return sum([self._write(database, keys[start : start + BATCH_REQUESTS], 0) for start in range(0, len(keys), BATCH_REQUESTS)])

    def leased_bytes(self) -> int:
        """Bytes of keys and values under leases, over all nodes."""
        cdef Node node
        return sum([
            max(0, (<Node>node).engine.leases.total(self.cluster.now_ms)) for node in self.cluster.nodes if (<Node>node).engine is not None
        ])

    def _admitted(self, int database, list keys, int64_t until_ms) -> int:
        """How many leading keys are there and may be leased."""
        cdef Batch batch = self.cluster.take_batch()
        cdef Request *request
        cdef uint32_t i
        cdef int64_t more
        room = {}
        try:
            for key in keys:
                _add(batch, KIND_READ, database, key)
            self.cluster.run(batch)
            for i in range(batch.count):
                request = &batch.requests[i]
                self._refuse_lost(request)
                if request.status != STATUS_OK:
                    return i
                if request.out_lease_ms > self.cluster.now_ms:
                    continue  # it counts already
                more = request.key_bytes + <int64_t>request.out_bytes
                if request.node not in room:
                    room[request.node] = self._room(self.cluster.nodes[request.node])
                if room[request.node] < more:
                    self.refused += 1
                    return i
                room[request.node] -= more
            return len(keys)
        finally:
            self.cluster.give_batch(batch)

    def _write(self, int database, list keys, int64_t until_ms) -> int:
        """Write the end of their leases into some keys' cells: how many leading ones have it, or for 0 how many had one."""
        cdef Batch batch = self.cluster.take_batch()
        cdef Request *request
        cdef Node node
        cdef uint32_t i
        done = 0
        try:
            for key in keys:
                request = _add(batch, KIND_WRITE, database, key)
                request.condition = CONDITION_XX
                request.flags |= KEEP_VALUE | KEEP_TTL | SET_LEASE
                request.lease_ms = until_ms
            self.cluster.run(batch)
            for node in self.cluster.nodes:
                if node.engine is not None:
                    node.engine.leases.flush(self.cluster.now_ms)
            for i in range(batch.count):
                request = &batch.requests[i]
                self._refuse_lost(request)
                if until_ms == 0:
                    done += request.status == STATUS_OK
                elif request.status == STATUS_OK or request.status == STATUS_PRESENT:
                    done += 1
                else:
                    break
            return done
        finally:
            self.cluster.give_batch(batch)

    cdef int _refuse_lost(self, Request *request) except -1:
        if request.status == STATUS_UNREACHABLE:
            raise ConnectionError(f"memory node {(<Node>self.cluster.nodes[request.node]).name} unreachable")
        return 0

    cdef int64_t _room(self, Node node) noexcept:
        """Bytes that may still be leased on a node."""
        cdef int64_t leased = node.engine.leases.total(self.cluster.now_ms)
        return <int64_t>(node.engine.allocator.limit_pages * <double>PAGE_BYTES * self.share) - leased if leased >= 0 else 0
