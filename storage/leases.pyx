# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Leases: how many bytes of a pool are leased, and until when.

The end of a lease lies in the cell of its value, where an eviction finds it. Beside that the pool has one word for each term of
eight seconds: the bytes whose leases end in it. A term that is over counts no more, whoever died before giving anything back, and
its word serves again 512 terms later: it names the term that it is of. Words are changed by compare-and-swap only.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from storage.pool cimport Pool

cdef enum:
    BYTES_BITS = 44          # of a word; above them the low bits of the term's turn
    TURN_MASK = 0xFFFFF

cdef uint64_t BYTES_MASK = (<uint64_t>1 << BYTES_BITS) - 1


cdef inline uint64_t turn_of(uint64_t term) noexcept nogil:
    return (term // LEASE_TERMS) & TURN_MASK


@cython.no_gc_clear
cdef class Leases:
    """Bytes leased in one pool, by the term in which their leases end."""

    def __cinit__(self, Pool pool):
        self.pool = pool
        memset(self.pending, 0, sizeof(self.pending))
        memset(self.terms, 0, sizeof(self.terms))

    cdef void add(self, int64_t until_ms, int64_t size_bytes, int64_t now_ms) noexcept nogil:
        """A lease that ends then covers so many bytes more, or fewer."""
        cdef uint64_t term = <uint64_t>until_ms >> LEASE_TERM_SHIFT
        cdef uint64_t place = term % LEASE_TERMS
        if until_ms <= now_ms or until_ms > now_ms + LONGEST_LEASE_MS + (<int64_t>2 << LEASE_TERM_SHIFT):
            return  # over, or damaged
        if self.terms[place] != term:
            self.terms[place] = term
            self.pending[place] = 0
        self.pending[place] += size_bytes
        self.is_dirty = True

    cdef void flush(self, int64_t now_ms) noexcept nogil:
        """Write what is pending into the pool's books."""
        cdef uint64_t place, offset, word = 0, found, kept
        cdef int64_t held
        if not self.is_dirty:
            return
        self.is_dirty = False
        for place in range(LEASE_TERMS):
            if self.pending[place] == 0:
                continue
            offset = self.pool.geometry.leases + place * 8
            if self.pool.read_into(offset, &word, 8) != 0:
                return
            while True:
                kept = word & BYTES_MASK if word >> BYTES_BITS == turn_of(self.terms[place]) else 0
                held = <int64_t>kept + self.pending[place]
                held = 0 if held < 0 else (<int64_t>BYTES_MASK if held > <int64_t>BYTES_MASK else held)
                found = self.pool.compare_and_swap(offset, word, turn_of(self.terms[place]) << BYTES_BITS | <uint64_t>held)
                if found == word:
                    break
                word = found
            self.pending[place] = 0

    cdef int64_t total(self, int64_t now_ms) noexcept nogil:
        """Bytes under leases that are not over; negative when the pool does not answer."""
        cdef uint64_t words[LEASE_TERMS]
        cdef uint64_t first = <uint64_t>now_ms >> LEASE_TERM_SHIFT, term
        cdef int64_t total = 0
        cdef uint32_t i
        self.flush(now_ms)
        if self.pool.read_into(self.pool.geometry.leases, words, sizeof(words)) != 0:
            return -1
        for i in range(LEASE_TERMS):
            term = first + i
            if words[term % LEASE_TERMS] >> BYTES_BITS == turn_of(term):
                total += <int64_t>(words[term % LEASE_TERMS] & BYTES_MASK)
        return total
