# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Manual fabric: operations one by one from Python, for tests and tools."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINVAL, ENOBUFS
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from storage.fabric.base cimport OP_CAS, OP_FAA, OP_FENCE, OP_READ, OP_STAGED, OP_WRITE, STAGING_BYTES, Fabric, FabricOp

cdef enum:
    BULK_WINDOW = 16    # staging buffers of one transfer: 4 MiB

_OPCODES = {"READ": OP_READ, "WRITE": OP_WRITE, "CAS": OP_CAS, "FAA": OP_FAA}


cdef class ManualFabric(Fabric):
    """A fabric whose operations Python can call. They raise OSError with the fabric's errno, and wait as the store does."""

    cdef int perform(self, FabricOp *ops, int count) except -1:
        cdef int status
        with nogil:
            status = self.execute(ops, count)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        return 0

    def read(self, uint64_t offset, uint64_t length) -> bytes:
        """READ ``length`` bytes."""
        cdef FabricOp op
        cdef bytes data = PyBytes_FromStringAndSize(NULL, length)
        memset(&op, 0, sizeof(op))
        op.opcode = OP_READ
        op.offset = offset
        op.local = PyBytes_AS_STRING(data)
        op.length = length
        self.perform(&op, 1)
        return data

    def write(self, uint64_t offset, bytes data) -> None:
        """WRITE ``data``."""
        cdef FabricOp op
        memset(&op, 0, sizeof(op))
        op.opcode = OP_WRITE
        op.offset = offset
        op.local = PyBytes_AS_STRING(data)
        op.length = len(data)
        self.perform(&op, 1)

    def compare_and_swap(self, uint64_t offset, uint64_t compare, uint64_t swap) -> int:
        """CAS the word; the word as it was before."""
        cdef FabricOp op
        memset(&op, 0, sizeof(op))
        op.opcode = OP_CAS
        op.offset = offset
        op.length = 8
        op.compare = compare
        op.swap = swap
        self.perform(&op, 1)
        return op.result

    def fetch_and_add(self, uint64_t offset, uint64_t addend) -> int:
        """FAA the word; the word as it was before."""
        cdef FabricOp op
        memset(&op, 0, sizeof(op))
        op.opcode = OP_FAA
        op.offset = offset
        op.length = 8
        op.compare = addend
        self.perform(&op, 1)
        return op.result

    def doorbell(self, operations, fenced=()) -> list:
        """Perform ("READ", offset, length), ("WRITE", offset, data), ("CAS", offset, (compare, swap)), ("FAA", offset, addend) as one doorbell.

        ``fenced``: places of those that carry OP_FENCE. Results in order: bytes of a READ, None of a WRITE, the word before of CAS and FAA.
        """
        cdef int i, count = len(operations)
        cdef FabricOp *ops = <FabricOp *>calloc(count + 1, sizeof(FabricOp))
        cdef bytes data
        if ops == NULL:
            raise MemoryError("no memory for a doorbell")
        results = []
        try:
            for i in range(count):
                kind, offset, operand = operations[i]
                ops[i].opcode = _OPCODES[kind]
                ops[i].offset = offset
                ops[i].length = 8
                ops[i].flags = OP_FENCE if i in fenced else 0
                if ops[i].opcode == OP_READ or ops[i].opcode == OP_WRITE:
                    data = PyBytes_FromStringAndSize(NULL, operand) if ops[i].opcode == OP_READ else operand
                    ops[i].local = PyBytes_AS_STRING(data)
                    ops[i].length = len(data)
                    results.append(data if ops[i].opcode == OP_READ else None)
                elif ops[i].opcode == OP_CAS:
                    ops[i].compare, ops[i].swap = operand
                    results.append(0)
                else:
                    ops[i].compare = operand
                    results.append(0)
            self.perform(ops, count)
            for i in range(count):
                if ops[i].opcode >= OP_CAS:
                    results[i] = ops[i].result
            return results
        finally:
            free(ops)

    def bulk_read(self, uint64_t offset, uint64_t length) -> bytes:
        """READ through staging buffers, as payloads are."""
        cdef bytes data = PyBytes_FromStringAndSize(NULL, length)
        self.transfer(OP_READ, offset, PyBytes_AS_STRING(data), length)
        return data

    def bulk_write(self, uint64_t offset, bytes data) -> None:
        """WRITE through staging buffers, as payloads are."""
        self.transfer(OP_WRITE, offset, PyBytes_AS_STRING(data), len(data))

    cdef int transfer(self, int opcode, uint64_t offset, char *data, uint64_t length) except -1:
        cdef FabricOp ops[BULK_WINDOW]
        cdef char *buffers[BULK_WINDOW]
        cdef uint64_t done = 0, start
        cdef int i, count, taken, status
        while done < length:
            memset(ops, 0, sizeof(ops))
            start = done
            taken = count = 0
            while taken < BULK_WINDOW and taken * <uint64_t>STAGING_BYTES < length - start:
                buffers[taken] = self.take_staging()
                if buffers[taken] == NULL:
                    break
                taken += 1
            while count < taken:
                ops[count].opcode = opcode
                ops[count].flags = OP_STAGED
                ops[count].offset = offset + done
                ops[count].local = buffers[count]
                ops[count].length = min(<uint64_t>STAGING_BYTES, length - done)
                if opcode == OP_WRITE:
                    memcpy(buffers[count], data + done, ops[count].length)
                done += ops[count].length
                count += 1
            status = -ENOBUFS
            if count:
                with nogil:
                    status = self.wait(self.post_bulk(ops, count))
            done = start
            for i in range(count):
                if opcode == OP_READ and status == 0:
                    memcpy(data + done, buffers[i], ops[i].length)
                done += ops[i].length
                self.give_staging(buffers[i])
            if status < 0:
                raise OSError(-status, os.strerror(-status))
        return 0
