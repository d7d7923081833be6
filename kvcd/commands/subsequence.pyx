# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Longest common subsequence of two strings, with the ranges that Redis's LCS reports."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc


cdef class CommonSubsequence:
    """The table of all prefixes' lengths (Wagner and Fischer 1974): one word for each pair of them."""

    cdef const char *left
    cdef const char *right
    cdef size_t left_bytes, right_bytes
    cdef uint32_t *table
    cdef bytes held_left, held_right

    def __cinit__(self, bytes left not None, bytes right not None):
        self.held_left = left
        self.held_right = right
        self.left = PyBytes_AS_STRING(left)
        self.right = PyBytes_AS_STRING(right)
        self.left_bytes = <size_t>PyBytes_GET_SIZE(left)
        self.right_bytes = <size_t>PyBytes_GET_SIZE(right)
        self.table = <uint32_t *>malloc((self.left_bytes + 1) * (self.right_bytes + 1) * sizeof(uint32_t))
        if self.table == NULL:
            raise MemoryError("no memory for the table of a longest common subsequence")
        with nogil:
            self._fill()

    def __dealloc__(self):
        free(self.table)

    cdef void _fill(self) noexcept nogil:
        cdef size_t row_words = self.right_bytes + 1
        cdef size_t i, j
        cdef uint32_t *row
        cdef uint32_t *above
        for j in range(row_words):
            self.table[j] = 0
        for i in range(1, self.left_bytes + 1):
            row = self.table + i * row_words
            above = row - row_words
            row[0] = 0
            for j in range(1, row_words):
                if self.left[i - 1] == self.right[j - 1]:
                    row[j] = above[j - 1] + 1
                else:
                    row[j] = above[j] if above[j] > row[j - 1] else row[j - 1]

    @property
    def length(self) -> int:
        """How many bytes the subsequence has."""
        return self.table[(self.left_bytes + 1) * (self.right_bytes + 1) - 1]

    def walk(self):
        """Return the subsequence, and its ranges as (left's first and last place, right's first and last place), from the end on."""
        cdef size_t row_words = self.right_bytes + 1
        cdef size_t i = self.left_bytes, j = self.right_bytes, place = self.length
        cdef size_t left_first = 0, left_last = 0, right_first = 0, right_last = 0
        cdef bint in_range = False, ends
        cdef bytes found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>place)
        cdef char *out = PyBytes_AS_STRING(found)
        cdef list ranges = []
        while i > 0 and j > 0:
            ends = False
            if self.left[i - 1] == self.right[j - 1]:
                place -= 1
                i -= 1
                j -= 1
                out[place] = self.left[i]
                if not in_range:
                    in_range = True
                    left_last = i
                    right_last = j
                left_first = i
                right_first = j
                ends = i == 0 or j == 0
            else:
                if self.table[(i - 1) * row_words + j] > self.table[i * row_words + j - 1]:
                    i -= 1
                else:
                    j -= 1
                ends = in_range
            if ends:
                ranges.append((left_first, left_last, right_first, right_last))
                in_range = False
        return found, ranges
