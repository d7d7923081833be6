# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Manual fabric: operations one by one from Python, for tests and tools."""

import os
import time

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport ENOBUFS
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from storage.fabric.base cimport OP_CAS, OP_FAA, OP_FENCE, OP_READ, OP_STAGED, OP_WRITE, STAGING_BYTES, Fabric, FabricOp

cdef enum:
    BULK_WINDOW = 16    # staging buffers of one transfer: 4 MiB

_OPCODES = {"READ": OP_READ, "WRITE": OP_WRITE, "CAS": OP_CAS, "FAA": OP_FAA}


@cython.final
cdef class Doorbell:
    """Operations that were begun; ``finish`` waits for them, and must be called in the end unless ``forget`` was."""

    def __cinit__(self, Fabric fabric, operations, fenced):
        cdef int i
        cdef bytes data
        cdef FabricOp *op
        self.fabric = fabric
        self.count = len(operations)
        self.ops = <FabricOp *>calloc(self.count + 1, sizeof(FabricOp))
        self.results = []
        if self.ops == NULL:
            raise MemoryError("no memory for a doorbell")
        self.operations = list(operations)
        for i in range(self.count):
            kind, offset, operand = self.operations[i]
            op = &self.ops[i]
            op.opcode = _OPCODES[kind]
            op.offset = offset
            op.length = 8
            op.flags = OP_FENCE if i in fenced else 0
            if op.opcode == OP_READ or op.opcode == OP_WRITE:
                data = PyBytes_FromStringAndSize(NULL, operand) if op.opcode == OP_READ else operand
                op.local = PyBytes_AS_STRING(data)
                op.length = len(data)
                self.results.append(data if op.opcode == OP_READ else None)
                continue
            if op.opcode == OP_CAS:
                op.compare, op.swap = operand
            else:
                op.compare = operand
            self.results.append(0)

    def __dealloc__(self):
        free(self.ops)

    def finish(self) -> list:
        """Results in order: bytes of a READ, None of a WRITE, of CAS and FAA the word before. Raises OSError."""
        cdef int i, status
        if not self.is_open:
            raise ValueError("the doorbell is over")
        self.is_open = False
        with nogil:
            status = self.fabric.wait(self.ticket)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        for i in range(self.count):
            if self.ops[i].opcode >= OP_CAS:
                self.results[i] = self.ops[i].result
        return self.results

    def forget(self) -> None:
        """Nobody waits for it; for WRITEs."""
        if self.is_open:
            self.is_open = False
            self.fabric.forget(self.ticket)


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

    def begin(self, operations, fenced=()) -> Doorbell:
        """Begin ("READ", offset, length), ("WRITE", offset, data), ("CAS", offset, (compare, swap)) and ("FAA", offset, addend) as one
        doorbell; ``finish`` or ``forget`` it. ``fenced``: places of those that carry OP_FENCE.
        """
        cdef Doorbell doorbell = Doorbell(self, operations, fenced)
        with nogil:
            doorbell.ticket = self.post(doorbell.ops, doorbell.count)
        doorbell.is_open = doorbell.ticket >= 0
        if not doorbell.is_open:
            raise OSError(-doorbell.ticket, os.strerror(-doorbell.ticket))
        return doorbell

    def doorbell(self, operations, fenced=()) -> list:
        """Begin a doorbell and wait for its results."""
        return self.begin(operations, fenced).finish()

    def time_reads(self, int rounds, int reads, uint32_t length) -> float:
        """Seconds that ``rounds`` doorbells take, each of ``reads`` READs of ``length`` bytes beside each other, one after another."""
        cdef FabricOp *ops = <FabricOp *>calloc(reads, sizeof(FabricOp))
        cdef char *target = <char *>calloc(reads, length)
        cdef int i, status = 0
        if ops == NULL or target == NULL:
            free(ops)
            free(target)
            raise MemoryError("no memory for a measurement")
        for i in range(reads):
            ops[i].opcode = OP_READ
            ops[i].offset = <uint64_t>i * length
            ops[i].local = target + <uint64_t>i * length
            ops[i].length = length
        began_s = time.perf_counter()
        with nogil:
            for i in range(rounds):
                status = self.execute(ops, reads)
                if status < 0:
                    break
        seconds = time.perf_counter() - began_s
        free(ops)
        free(target)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        return seconds

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
