# cython: language_level=3
"""Scans: what walks through the index of one node, a few sets at a time."""

from libc.stdint cimport uint32_t, uint64_t

from storage.batch cimport Batch
from storage.engine cimport Engine
from storage.policy cimport EvictionPolicy

cdef enum:
    SCAN_SETS = 32          # index sets read at a time: 4 KiB

cdef list keys_in_sets(Engine engine, Batch batch, uint64_t first, uint32_t count, int database)
cdef bytes key_in_slot(Engine engine, uint32_t slot, int database)
cdef uint32_t count_children(Engine engine, EvictionPolicy policy, int database, uint64_t own_hash)
