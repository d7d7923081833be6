# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Glob matcher: Redis's patterns (KEYS, SCAN, CONFIG GET) in time proportional to pattern times text.

Every element but ``*`` takes exactly one byte, so that after a mismatch only the last star needs to try again: an earlier star
that took more could not help. Redis itself recursed per star for long, which let one pattern run for minutes.
"""

cdef enum:
    NO_MATCH = 0  # no element ends at index 0


cdef inline int lowered(int byte) noexcept nogil:
    return byte + 32 if 65 <= byte <= 90 else byte


cdef inline bint equal(char left, char right, bint nocase) noexcept nogil:
    return left == right or (nocase and lowered(left) == lowered(right))


cdef bint match(const char *pattern, size_t pattern_length, const char *text, size_t text_length, bint nocase) noexcept nogil:
    cdef size_t at_pattern = 0
    cdef size_t at_text = 0
    cdef size_t star_pattern = 0  # behind the last star; 0 before any
    cdef size_t star_text = 0  # where the text behind that star is assumed to begin
    cdef size_t behind
    if text_length == 0:
        # Redis's matcher finds nothing in an empty text, but KEYS and SCAN never ask it about a lone star.
        return pattern_length == 0 or (pattern_length == 1 and pattern[0] == c'*')
    while at_text < text_length:
        if at_pattern < pattern_length:
            if pattern[at_pattern] == c'*':
                while at_pattern < pattern_length and pattern[at_pattern] == c'*':
                    at_pattern += 1
                if at_pattern == pattern_length:
                    return True
                star_pattern = at_pattern
                star_text = at_text
                continue
            behind = match_element(pattern, pattern_length, at_pattern, text[at_text], nocase)
            if behind != NO_MATCH:
                at_pattern = behind
                at_text += 1
                continue
        if star_pattern == 0:
            return False
        star_text += 1
        at_text = star_text
        at_pattern = star_pattern
    while at_pattern < pattern_length and pattern[at_pattern] == c'*':
        at_pattern += 1
    return at_pattern == pattern_length


cdef inline size_t match_element(const char *pattern, size_t length, size_t index, char byte, bint nocase) noexcept nogil:
    """Tries the element at ``index`` on one byte; returns where the next element begins, or NO_MATCH."""
    if pattern[index] == c'?':
        return index + 1
    if pattern[index] == c'[':
        return match_class(pattern, length, index + 1, byte, nocase)
    if pattern[index] == c'\\' and index + 1 < length:
        index += 1
    return index + 1 if equal(pattern[index], byte, nocase) else NO_MATCH


cdef size_t match_class(const char *pattern, size_t length, size_t index, char byte, bint nocase) noexcept nogil:
    """The inside of ``[...]``, with Redis's oddities.

    A missing ``]`` ends with the pattern; ``[a-]`` is a range up to ``]``; bytes compare as signed; case is
    folded after a range's ends were put in order, and not at all behind a backslash.
    """
    cdef bint negated = False
    cdef bint found = False
    cdef int first, last, wanted
    if index < length and pattern[index] == c'^':
        negated = True
        index += 1
    while index < length and pattern[index] != c']':
        if pattern[index] == c'\\' and index + 1 < length:
            index += 1
            found = found or pattern[index] == byte
        elif index + 2 < length and pattern[index + 1] == c'-':
            first = <signed char>pattern[index]
            last = <signed char>pattern[index + 2]
            wanted = <signed char>byte
            if first > last:
                first, last = last, first
            if nocase:
                first = lowered(first)
                last = lowered(last)
                wanted = lowered(wanted)
            index += 2
            found = found or first <= wanted <= last
        else:
            found = found or equal(pattern[index], byte, nocase)
        index += 1
    if index < length:
        index += 1
    return index if found != negated else NO_MATCH


def matches(bytes pattern not None, bytes text not None, bint nocase=False):
    """Whether the whole of ``text`` matches ``pattern``.

    ``*`` any run, ``?`` one byte, ``[a-z]`` and ``[^a]`` a class, ``\\x`` the byte x itself.
    """
    return match(pattern, <size_t>len(pattern), text, <size_t>len(text), nocase)
