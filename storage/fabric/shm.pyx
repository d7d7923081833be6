# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Shared-memory fabric: one mapping, reached by copies and the processor's atomics."""

import os

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from storage.fabric.base cimport OP_CAS, OP_FENCE, OP_READ, OP_WRITE, Fabric, FabricOp
from storage.fabric.builtins cimport (
    __builtin_prefetch,
    __sync_fetch_and_add,
    __sync_synchronize,
    __sync_val_compare_and_swap,
)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *, size_t, int, int, int, long)
    int munmap(void *, size_t)
    int msync(void *, size_t, int)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_NORESERVE, MS_SYNC
    void *MAP_FAILED

DEF EFAULT = 14


cdef class SharedMemoryFabric(Fabric):
    """A memfd or a file, mapped whole.

    The mapping is sparse: memory is taken from the system when a byte of it is first touched.
    """

    def __cinit__(self, int descriptor, uint64_t size_bytes, object path=None):
        cdef void *mapping
        self.kind = "shm"
        self.ordered_reads = True
        self.size_bytes = size_bytes
        self.descriptor = descriptor
        self.path = path
        mapping = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor, 0)
        if mapping == MAP_FAILED:
            code = errno
            os.close(descriptor)
            self.descriptor = -1
            raise OSError(code, f"cannot map a pool of {size_bytes} bytes: {os.strerror(code)}")
        self.base = <char *>mapping

    @classmethod
    def memory(cls, uint64_t size_bytes):
        """An anonymous pool (memfd) that lives as long as a process holds it."""
        descriptor = os.memfd_create("kvcd-pool", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size_bytes)
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor, size_bytes)

    @classmethod
    def file(cls, path, uint64_t size_bytes):
        """A pool in a file on tmpfs, hugetlbfs or a disk; extended to ``size_bytes``, never cut."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < size_bytes:
                os.ftruncate(descriptor, size_bytes)
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor, size_bytes, path)

    cdef int execute(self, FabricOp *ops, int count) noexcept nogil:
        cdef int i
        cdef FabricOp *op
        cdef char *base = self.base
        cdef char *target
        self.counts.rounds += 1
        if count > 2:
            # Cold words cost memory latency: ask for every line before waiting for the first.
            for i in range(count):
                op = &ops[i]
                target = base + op.offset
                __builtin_prefetch(target)
                if op.length > 64:
                    __builtin_prefetch(target + 64)
                    if op.length > 128:
                        __builtin_prefetch(target + 128)
                        __builtin_prefetch(target + 192)
        for i in range(count):
            op = &ops[i]
            if op.offset + op.length > self.size_bytes or op.offset + 8 > self.size_bytes:
                return -EFAULT
            target = base + op.offset
            if op.flags & OP_FENCE:
                __sync_synchronize()
            if op.opcode == OP_READ:
                self.counts.reads += 1
                self.counts.read_bytes += op.length
                if op.length == 128:
                    memcpy(op.local, target, 128)
                elif op.length == 8:
                    memcpy(op.local, target, 8)
                elif op.length == 16:
                    memcpy(op.local, target, 16)
                else:
                    memcpy(op.local, target, op.length)
            elif op.opcode == OP_WRITE:
                self.counts.writes += 1
                self.counts.write_bytes += op.length
                if op.length == 16:
                    memcpy(target, op.local, 16)
                elif op.length == 4:
                    memcpy(target, op.local, 4)
                else:
                    memcpy(target, op.local, op.length)
            elif op.opcode == OP_CAS:
                self.counts.compare_and_swaps += 1
                op.result = __sync_val_compare_and_swap(<uint64_t *>target, op.compare, op.swap)
            else:
                self.counts.fetch_and_adds += 1
                op.result = __sync_fetch_and_add(<uint64_t *>target, op.compare)
        return 0

    cdef char *address(self, uint64_t offset, uint64_t length) noexcept nogil:
        if offset + length > self.size_bytes:
            return NULL
        return self.base + offset

    def flush_to_disk(self) -> None:
        """Force a file pool's dirty pages out (clean shutdown)."""
        if self.base != NULL and self.path is not None and msync(self.base, self.size_bytes, MS_SYNC) != 0:
            raise OSError(errno, os.strerror(errno), self.path)

    cpdef void close(self):
        if self.base != NULL:
            munmap(self.base, self.size_bytes)
            self.base = NULL
            self.size_bytes = 0
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size_bytes)
            self.base = NULL
