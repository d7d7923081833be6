# cython: language_level=3, cdivision=True
"""Cell classes: which sizes a page of cells may be cut into.

Steps of 16 bytes up to 256, an eighth of a power of two up to 2 KiB (at most 12.5 % lost), then what
2 to 28 cells a page leave: at those sizes the page's end would be the larger loss.
"""

from storage.words cimport CELL_CLASSES, CELL_UNITS, MAX_CELL_BYTES, PAGE_BYTES, PAGE_HEAD_BYTES


def _sizes() -> list[int]:
    sizes = list(range(64, 257, 16))
    for power in (256, 512, 1024):
        sizes += [power + power // 8 * step for step in range(1, 9)]
    usable = PAGE_BYTES - PAGE_HEAD_BYTES
    sizes += [usable // count // 16 * 16 for count in (28, 24, 21, 18, 16, 14, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2)]
    return sizes


cdef int _fill() except -1:
    cdef int number, unit
    sizes = _sizes()
    assert len(sizes) == CELL_CLASSES and sizes == sorted(sizes) and sizes[-1] == MAX_CELL_BYTES
    for number in range(CELL_CLASSES):
        CELL_BYTES[number] = sizes[number]
        CELLS_IN_PAGE[number] = (PAGE_BYTES - PAGE_HEAD_BYTES) // sizes[number]
    number = 0
    for unit in range(CELL_UNITS):
        while CELL_BYTES[number] < <uint32_t>(unit * 16):
            number += 1
        CLASS_OF_UNITS[unit] = number
    return 0


_fill()


def cell_sizes() -> list[int]:
    """Cell size of each class, in bytes."""
    return [CELL_BYTES[number] for number in range(CELL_CLASSES)]
