# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Headroom: pages that are kept free, so that a write rarely has to evict.

    0 ............... reserve .......... low ............ high ........... free pages
    nobody's, but of    |  writers claim  |  eviction goes  | nothing to do
    who has nothing     |  them, and say  |  on to here     |
    to evict himself    |  so             |  once begun     |

The reserve is there only where several front ends share the pool. A claim that leaves less than the low mark free begins background
eviction, a claim for values' pages, that is, or for a class of cells that has hardly any: a class that has many takes its own coldest
cells again one by one, and needs no page. It goes on until the high mark is reached. What a lowered limit has left no room for is
the same with fewer than none free.
"""

from libc.stdint cimport int64_t, uint64_t

from storage.policy cimport RULE_NONE
from storage.pool cimport GLOBAL_PAGES_USED

cdef enum:
    LOW_LEAST = 4           # pages: what one turn of the event loop brings of values of one page, with some clients
    MARK_SHARE_MOST = 64    # of the pages one in so many is the most that either mark may be by its least: a small pool is for values
    FEW_RESIDENTS = 64      # with fewer a front end may use the reserve
    RESERVE_SHARE = 128     # of the pages that may be used one in so many is the reserve,
    RESERVE_LEAST = 16      # at least so many, and at most an eighth
    IDLE_STEPS_LIMIT = 16   # without a page that came free: what is left is in use, or lies among what must stay


cdef class Headroom:
    """The marks of one node, and the work that keeps its free pages between them."""

    def __cinit__(self, Engine engine, EvictionPolicy policy):
        self.engine = engine
        self.policy = policy

    def set_shares(self, *, double low, double high) -> None:
        """Marks as shares (0 to 1) of the pages that may be used; ``low`` 0: writers evict for themselves."""
        self.low_share = low
        self.high_share = high if high > low else low
        self.set_marks(self.several or self.engine.pool.front_end_high_water > 1)

    cdef void set_marks(self, bint several) noexcept nogil:
        """Tell the allocator. Several times a second: the limit, the policy and who else is there change."""
        cdef uint64_t limit = self.engine.allocator.limit_pages, low = 0, reserve = 0
        cdef uint64_t least = LOW_LEAST if limit // MARK_SHARE_MOST > LOW_LEAST else limit // MARK_SHARE_MOST
        self.several = several
        if self.policy.rule != RULE_NONE:
            if self.low_share > 0:
                low = <uint64_t>(<double>limit * self.low_share)
                low = low if low > least else least
            if several and self.policy.resident_count >= FEW_RESIDENTS:
                reserve = limit // RESERVE_SHARE if limit // RESERVE_SHARE > RESERVE_LEAST else RESERVE_LEAST
                if reserve > limit // 8:
                    reserve = limit // 8
        self.engine.allocator.reserve_pages = reserve
        self.engine.allocator.low_pages = low
        self.high_pages = <uint64_t>(<double>limit * self.high_share)
        if self.high_pages < low + least:
            self.high_pages = low + least
        if low == 0:
            self.high_pages = 0
            self.engine.allocator.is_low = False

    cdef bint is_short(self) noexcept nogil:
        """Whether pages are to be made free."""
        cdef int64_t spare = self.engine.allocator.spare_pages()
        return spare < 0 or (self.engine.allocator.is_low and spare < <int64_t>self.high_pages)

    cdef bint step(self) noexcept nogil:
        """Evict a little, a page's values at most; True when more has to go and can."""
        cdef uint64_t pages
        if self.is_short() and self.engine.pool.front_end_high_water > 1:
            # Others may have freed some since this was read, and what they have evicted need not go here.
            self.engine.pool.read_into(self.engine.pool.geometry.globals + GLOBAL_PAGES_USED, &self.engine.allocator.used_pages, 8)
        if not self.is_short():
            self.engine.allocator.is_low = False
            return False
        pages = self.engine.allocator.used_pages
        if not self.policy.evict_ahead():
            return self._give_up()
        if self.engine.allocator.used_pages < pages:
            self.idle_steps = 0
        else:
            self.idle_steps += 1
            if self.idle_steps > IDLE_STEPS_LIMIT and self.engine.allocator.spare_pages() >= 0:
                return self._give_up()
        if self.is_short():
            return True
        self.engine.allocator.is_low = False
        return False

    cdef bint _give_up(self) noexcept nogil:
        """Until the next claim that leaves little."""
        self.engine.allocator.is_low = False
        self.idle_steps = 0
        return False

    def facts(self) -> dict[str, int]:
        """The marks in pages, and what is free, for INFO and tests."""
        return {
            "reserve": self.engine.allocator.reserve_pages,
            "low": self.engine.allocator.low_pages,
            "high": self.high_pages,
            "spare": max(0, self.engine.allocator.spare_pages()),
        }
