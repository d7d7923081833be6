# cython: language_level=3
"""Steps of requests that change nothing: presence, head, payload, pins."""

from libc.stdint cimport uint32_t, uint64_t

from storage.batch cimport Batch, Request
from storage.engine cimport Engine
from storage.words cimport CellHeader

cdef void step_lookup(Engine engine, Batch batch, Request *request) noexcept nogil
cdef bint parse_cell(Request *request, uint32_t slot, uint64_t word) noexcept nogil
cdef bint read_proof(Engine engine, Batch batch, Request *request) noexcept nogil
cdef void read_cell(Engine engine, Batch batch, Request *request) noexcept nogil
cdef bint same_key(Request *request, CellHeader *header, const char *key) noexcept nogil
cdef void locate_payload(Request *request) noexcept nogil
cdef void read_list_page(Engine engine, Batch batch, Request *request) noexcept nogil
