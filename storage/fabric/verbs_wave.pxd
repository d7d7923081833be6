# cython: language_level=3
"""Wave: the part of a doorbell that is posted as one chain, and where its bytes lie in registered buffers."""

from libc.stdint cimport uint32_t

from storage.fabric.verbs_link cimport Link, Ticket


cdef bint may_take_buffer(Link *link) noexcept nogil
cdef int lay_out(Link *link, Ticket *ticket, uint32_t room) noexcept nogil
cdef void take_results(Link *link, Ticket *ticket) noexcept nogil
