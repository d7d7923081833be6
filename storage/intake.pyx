# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Intake: puts many values at once into a pool, with their expiry and their place in a chain as they were elsewhere."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from storage.batch cimport HAS_PARENT, KIND_WRITE, STATUS_CONFLICT, STATUS_OK, Batch, Request
from storage.hashing cimport hash_key
from storage.pool cimport Pool
from storage.staging cimport StagedValue
from storage.store cimport Store
from storage.words cimport MAX_KEY_BYTES_C

from storage.interface import Status

cdef enum:
    BATCH_VALUES = 256

_STATUS = {int(status): status for status in Status}


@cython.final
cdef class Intake:
    """Writes values whatever was under their keys before; a full pool makes room as its policy says."""

    cdef Store store
    cdef Pool pool

    def __cinit__(self, Store store):
        self.store = store
        self.pool = store.cluster.first.engine.pool

    def add(self, values) -> Status:
        """Write all of them; OK, or what the first one met that could not be written. ValueError for a key that is too long."""
        cdef Batch batch
        cdef list held, part
        cdef set keys
        cdef Py_ssize_t position = 0
        while position < len(values):
            # A batch's requests run beside each other: a key that comes twice waits for the next batch.
            part, keys = [], set()
            while position < len(values) and len(part) < BATCH_VALUES:
                name = (values[position].database, values[position].key)
                if name in keys:
                    break
                keys.add(name)
                part.append(values[position])
                position += 1
            while part:
                batch = self.store.cluster.take_batch()
                held = []
                try:
                    for value in part:
                        self._ask(batch, value, value.value, held)
                    self.store._run(batch)
                    status, part = self._unwritten(batch, part)
                finally:
                    self.store.cluster.give_batch(batch)
                if status is not Status.OK:
                    return status
        return Status.OK

    def stage(self, value) -> StagedValue:
        """A place for the bytes of a large value, which ``publish`` then puts under its key."""
        self._check_key(value.key)
        return self.store.stage(
            value.database, PyBytes_AS_STRING(value.key), <uint32_t>PyBytes_GET_SIZE(value.key), value.size_bytes
        )

    def publish(self, value, StagedValue staged) -> Status:
        """Put the staged bytes, all of which have arrived, under the value's key."""
        cdef Batch batch
        cdef int status = STATUS_CONFLICT
        while status == STATUS_CONFLICT:
            batch = self.store.cluster.take_batch()
            try:
                self._ask(batch, value, staged, [])
                self.store._run(batch)
                status = batch.requests[0].status
            finally:
                self.store.cluster.give_batch(batch)
        if status == STATUS_OK:
            staged.published()
        return _STATUS[status]

    cdef int _check_key(self, bytes key) except -1:
        if PyBytes_GET_SIZE(key) > MAX_KEY_BYTES_C:
            raise ValueError(f"a key of {PyBytes_GET_SIZE(key)} bytes; the largest has {MAX_KEY_BYTES_C}")
        return 0

    cdef int _ask(self, Batch batch, object value, object payload, list held) except -1:
        cdef bytes key = value.key
        cdef bytes parent = value.parent
        cdef Request *request
        self._check_key(key)
        request = batch.add()
        request.kind = KIND_WRITE
        request.database = <uint8_t><int>value.database
        request.key = PyBytes_AS_STRING(key)
        request.key_bytes = <uint32_t>PyBytes_GET_SIZE(key)
        request.expire_at_ms = value.expire_at_ms
        request.depth = <uint16_t><int>value.depth
        if parent is not None:
            request.flags |= HAS_PARENT
            request.parent_hash = hash_key(
                self.pool.secret_low ^ (<uint64_t>request.database * <uint64_t>0x9E3779B97F4A7C15), self.pool.secret_high,
                PyBytes_AS_STRING(parent), PyBytes_GET_SIZE(parent),
            ).low
        self.store._set_value(request, payload, held)
        return 0

    cdef tuple _unwritten(self, Batch batch, list part):
        """The worst that the batch met, and what is to be tried again because others were at the same key."""
        cdef uint32_t i
        cdef list again = []
        for i in range(batch.count):
            if batch.requests[i].status == STATUS_CONFLICT:
                again.append(part[i])
            elif batch.requests[i].status != STATUS_OK:
                return _STATUS[batch.requests[i].status], []
        return Status.OK, again
