# cython: language_level=3
"""The reply encoder's C surface: the session appends slow-lane replies to its own buffer."""

from protocol.writer cimport OutBuffer


# Appends `reply`; on an exception nothing of it stays in `out`.
cdef int encode_into(OutBuffer *out, object reply, int resp) except -1
