# cython: language_level=3
"""Fabric: the one-sided operations that are the only way to touch a pool."""


cdef class Fabric:
    """Batches of READ, WRITE, CAS and FAA on (node, offset).

    ``execute`` rings one doorbell and waits for it: the operations of one doorbell start in order
    and see each other's effects as RDMA orders them on one queue pair (WRITE before READ and CAS,
    CAS before CAS and READ; READ before READ only where ``ordered_reads`` says so).
    """

    cdef int execute(self, FabricOp *ops, int count) noexcept nogil:
        """Perform ``count`` operations; 0, or a negative errno when none of them may be believed."""
        return -1

    cdef char *address(self, uint32_t node, uint64_t offset, uint64_t length) noexcept nogil:
        """Where the bytes can be touched in place, or NULL: for the large-value path alone."""
        return NULL

    cpdef void close(self):
        """Let go of the memory; the pool object must not be used afterwards."""

    def operation_counts(self) -> dict[str, int]:
        """Operations since the start, by kind, with bytes and rounds (doorbells)."""
        return dict(self.counts)
