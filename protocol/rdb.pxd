# cython: language_level=3
"""RDB: the opcodes and codes of Redis's snapshot format, for encoder and decoder."""

cdef enum RdbOpcode:
    OPCODE_SLOT_INFO = 244       # of versions beyond 11
    OPCODE_FUNCTION = 245
    OPCODE_FUNCTION_PREVIEW = 246
    OPCODE_MODULE_AUX = 247
    OPCODE_IDLE = 248
    OPCODE_FREQUENCY = 249
    OPCODE_AUX = 250
    OPCODE_RESIZE_DATABASE = 251
    OPCODE_EXPIRE_MS = 252
    OPCODE_EXPIRE_S = 253
    OPCODE_SELECT_DATABASE = 254
    OPCODE_END = 255

cdef enum RdbType:
    TYPE_STRING = 0

# The first byte of a length: its upper two bits, or all of it.
cdef enum RdbLength:
    LENGTH_6_BITS = 0
    LENGTH_14_BITS = 1
    LENGTH_LONG = 2
    LENGTH_ENCODED = 3
    LENGTH_32_BITS = 0x80
    LENGTH_64_BITS = 0x81

cdef enum RdbEncoding:
    ENCODED_INT8 = 0
    ENCODED_INT16 = 1
    ENCODED_INT32 = 2
    ENCODED_LZF = 3

cdef enum:
    MAGIC_BYTES = 9              # REDIS and four digits
    CHECKSUM_BYTES = 8
    CHECKSUM_VERSION = 5         # the first one that ends in a checksum
    WRITTEN_VERSION = 10         # what redis-server 7.0 writes
    NEWEST_VERSION = 11          # redis-server 7.2; nothing new for strings
