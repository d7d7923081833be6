# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reply encoder: turns the values of ``protocol.replies`` into RESP2 or RESP3 bytes."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from protocol.writer cimport (
    OutBuffer,
    out_array_header,
    out_big_number,
    out_boolean,
    out_bulk,
    out_double,
    out_error,
    out_integer,
    out_map_header,
    out_null,
    out_null_array,
    out_push_header,
    out_raw,
    out_release,
    out_set_header,
    out_simple,
    out_verbatim,
)

from protocol.replies import NULL_ARRAY, Encoded, Error, Members, Push, Simple, Verbatim

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

cdef enum:
    DEPTH_LIMIT = 32  # COMMAND DOCS nests 8 deep; a reply that contains itself must end

# Names of the module's dictionary cost a look-up each; these are bound once.
cdef object simple_type = Simple
cdef object error_type = Error
cdef object verbatim_type = Verbatim
cdef object push_type = Push
cdef object members_type = Members
cdef object encoded_type = Encoded
cdef object null_array = NULL_ARRAY


def encode(object reply, int resp):
    """Returns ``reply`` as RESP bytes, equal to what Redis 7.0 sends for it.

    ``resp`` is 2 or 3. Raises TypeError for a value that is no reply (``str`` is none), ValueError for any other ``resp``,
    a verbatim format that is not three bytes, or a reply nested deeper than 32 containers.
    """
    cdef OutBuffer out = OutBuffer(NULL, 0, 0)
    try:
        encode_into(&out, reply, resp)
        return PyBytes_FromStringAndSize(out.data, <Py_ssize_t>out.length)
    finally:
        out_release(&out)


cdef int encode_into(OutBuffer *out, object reply, int resp) except -1:
    cdef size_t before = out.length
    if resp != 2 and resp != 3:
        raise ValueError(f"RESP version {resp}: expected 2 or 3")
    try:
        append(out, reply, resp, 0)
    except BaseException:
        out.length = before
        raise
    return 0


cdef inline int append_bulk(OutBuffer *out, bytes text) except -1:
    return checked(out_bulk(out, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text)))


cdef inline int checked(int status) except -1:
    if status < 0:
        raise MemoryError("no memory for a reply")
    return 0


cdef inline bytes line_bytes(str text):
    # Arguments quoted in an error are arbitrary bytes: whoever decoded them with surrogateescape gets them back.
    return text.encode("utf-8", "surrogateescape")


cdef int append(OutBuffer *out, object reply, int resp, int depth) except -1:
    cdef object kind = type(reply)
    if kind is bytes:
        return append_bulk(out, <bytes>reply)
    if reply is None:
        return checked(out_null(out, resp))
    if kind is simple_type:
        text = line_bytes(reply.text)
        return checked(out_simple(out, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text)))
    # A bool is an int to isinstance(), not to type().
    if kind is bool:
        return checked(out_boolean(out, reply is True, resp))
    if kind is float:
        return checked(out_double(out, <double>reply, resp))
    if kind is list or kind is tuple or kind is dict or kind is set or kind is frozenset or kind is push_type or kind is members_type:
        if depth == DEPTH_LIMIT:
            raise ValueError(f"reply nested deeper than {DEPTH_LIMIT} containers")
        return append_container(out, reply, resp, depth)
    if kind is error_type:
        text = line_bytes(reply.text)
        return checked(out_error(out, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text)))
    if reply is null_array:
        return checked(out_null_array(out, resp))
    if kind is verbatim_type:
        return append_verbatim(out, reply, resp)
    if kind is encoded_type:
        text = reply.data
        return checked(out_raw(out, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text)))
    if isinstance(reply, int):
        return append_integer(out, reply, resp)
    if isinstance(reply, (bytes, bytearray, memoryview)):
        return append_bulk(out, bytes(reply))
    raise TypeError(f"{kind.__name__} is not a reply")


cdef int append_container(OutBuffer *out, object reply, int resp, int depth) except -1:
    cdef object items = reply
    if type(reply) is dict:
        checked(out_map_header(out, <size_t>len(reply), resp))
        for key, value in (<dict>reply).items():
            append(out, key, resp, depth + 1)
            append(out, value, resp, depth + 1)
        return 0
    if type(reply) is push_type:
        items = reply.items
        checked(out_push_header(out, <size_t>len(items), resp))
    elif type(reply) is members_type:
        items = reply.items
        checked(out_set_header(out, <size_t>len(items), resp))
    elif type(reply) is set or type(reply) is frozenset:
        checked(out_set_header(out, <size_t>len(reply), resp))
    else:
        checked(out_array_header(out, <size_t>len(reply)))
    for item in items:
        append(out, item, resp, depth + 1)
    return 0


cdef int append_integer(OutBuffer *out, object reply, int resp) except -1:
    cdef int overflow = 0
    cdef bytes digits
    cdef long long number = PyLong_AsLongLongAndOverflow(reply, &overflow)
    if overflow == 0:
        return checked(out_integer(out, number))
    digits = b"%d" % reply
    return checked(out_big_number(out, PyBytes_AS_STRING(digits), <size_t>PyBytes_GET_SIZE(digits), resp))


cdef int append_verbatim(OutBuffer *out, object reply, int resp) except -1:
    cdef bytes text = reply.text
    cdef bytes format = reply.format.encode("latin-1")
    if len(format) != 3:
        raise ValueError(f"verbatim format {reply.format!r} is not three bytes")
    return checked(
        out_verbatim(out, PyBytes_AS_STRING(format), PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text), resp)
    )
