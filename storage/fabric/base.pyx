# cython: language_level=3
"""Fabric: the one-sided operations that are the only way to touch a pool."""

from libc.stdint cimport int64_t, uint64_t


cdef class Fabric:
    """Batches of READ, WRITE, CAS and FAA on one node's region.

    ``execute`` rings one doorbell and waits for it: the operations of one doorbell start in order
    and see each other's effects as RDMA orders them on one queue pair (WRITE before READ and CAS,
    CAS before CAS and READ; READ before READ only where ``ordered_reads`` says so).
    """

    cdef int execute(self, FabricOp *ops, int count) noexcept nogil:
        """Perform ``count`` operations; 0, or a negative errno when none of them may be believed."""
        return -1

    cdef int64_t post(self, FabricOp *ops, int count) noexcept nogil:
        """Begin ``count`` operations: a ticket for ``wait`` or ``forget``, one of them exactly once, or a negative errno.

        ``ops`` and what they point to stay where they are until then. Between both calls the fabric touches neither, so both may lie
        on a stack that is not the running one.
        """
        return self.execute(ops, count)

    cdef int64_t post_bulk(self, FabricOp *ops, int count) noexcept nogil:
        """The same for READs and WRITEs of staging memory (OP_STAGED), which must not hold up the small ones: no order between both.
        """
        return self.post(ops, count)

    cdef int wait(self, int64_t ticket) noexcept nogil:
        """Wait until the ticket's operations are done; 0, or a negative errno when none of them may be believed."""
        return 0 if ticket >= 0 else <int>ticket

    cdef void forget(self, int64_t ticket) noexcept nogil:
        """Nobody waits for the ticket, whose operations are WRITEs: their bytes were taken when they were posted."""
        self.counts.unwaited += 1

    cdef char *address(self, uint64_t offset, uint64_t length) noexcept nogil:
        """Where the bytes can be touched in place, or NULL: for the large-value path alone."""
        return NULL

    cdef char *take_staging(self) noexcept nogil:
        """STAGING_BYTES of memory that ``post_bulk`` can use, or NULL when all of it is in use. Only where ``address`` gives NULL."""
        return NULL

    cdef void give_staging(self, char *buffer) noexcept nogil:
        """Give a staging buffer back; none of its transfers may be under way."""

    cpdef void close(self):
        """Let go of the memory; the pool object must not be used afterwards."""

    def operation_counts(self) -> dict[str, int]:
        """Operations since the start, by kind, with bytes and rounds (doorbells; ``unwaited`` are those of them that nobody waited for)."""
        return dict(self.counts)
