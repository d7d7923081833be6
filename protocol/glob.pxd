# cython: language_level=3
"""The glob matcher's C surface, for scans that filter keys."""


# Whether the whole of `text` matches `pattern`, by the rules that glob.pyx documents.
cdef bint match(const char *pattern, size_t pattern_length, const char *text, size_t text_length, bint nocase) noexcept nogil
