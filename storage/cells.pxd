# cython: language_level=3
"""Cell classes: which sizes a page of cells may be cut into."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from storage.words cimport CELL_CLASSES, CELL_UNITS

cdef uint32_t CELL_BYTES[CELL_CLASSES]
cdef uint16_t CELLS_IN_PAGE[CELL_CLASSES]
cdef uint8_t CLASS_OF_UNITS[CELL_UNITS]

cdef inline uint32_t class_for(uint32_t size_bytes) noexcept nogil:
    """Smallest class that holds ``size_bytes`` (at most MAX_CELL_BYTES)."""
    return CLASS_OF_UNITS[(size_bytes + 15) >> 4]
