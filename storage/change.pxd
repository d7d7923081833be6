# cython: language_level=3
"""Steps of requests that change the pool: insert, overwrite, delete, evict."""

from storage.batch cimport Batch, Request
from storage.engine cimport Engine

cdef void step_change(Engine engine, Batch batch, Request *request) noexcept nogil
