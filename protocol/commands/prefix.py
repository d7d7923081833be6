"""Rows of the commands on chains of blocks."""

from __future__ import annotations

from protocol.command_spec import CommandSpec, KeySpec

_READ = ("readonly", "fast")
_STRING = ("string",)
_SINCE = "0.1.0"
_PER_KEY = "O(N) for N keys"

ROWS = (
    CommandSpec(
        "prefix.match",
        -2,
        _READ,
        "prefix",
        _SINCE,
        "How many leading keys of a chain are there.",
        "key [key ...]",
        _PER_KEY,
        keys=(KeySpec(("RO",), last=-1),),
        categories=_STRING,
        lane="fast",
    ),
    CommandSpec(
        "prefix.exists",
        -2,
        _READ,
        "prefix",
        _SINCE,
        "For each key whether it is there.",
        "key [key ...]",
        _PER_KEY,
        keys=(KeySpec(("RO",), last=-1),),
        categories=_STRING,
        lane="fast",
    ),
    CommandSpec(
        "prefix.get",
        -2,
        _READ,
        "prefix",
        _SINCE,
        "Values of a chain up to the first key that is absent.",
        "key [key ...]",
        _PER_KEY,
        keys=(KeySpec(("RO", "access"), last=-1),),
        categories=_STRING,
        lane="fast",
    ),
    CommandSpec(
        "prefix.set",
        -3,
        ("write", "denyoom", "movablekeys"),
        "prefix",
        _SINCE,
        "Stores blocks of a chain; how many leading ones are there afterwards.",
        "[NX] [EX seconds | PX milliseconds] [PARENT key] key value [key value ...]",
        _PER_KEY,
        categories=_STRING,
        # Options stand before the pairs, so any argument may be a value; one that is too long for a key is refused as one.
        first_value=1,
        value_step=1,
        lane="fast",
    ),
    CommandSpec(
        "prefix.lease",
        -3,
        _READ,
        "prefix",
        _SINCE,
        "Keeps the leading keys of a chain from eviction for a time; how many of them.",
        "milliseconds key [key ...]",
        _PER_KEY,
        keys=(KeySpec(("RO",), first=2, last=-1),),
        categories=_STRING,
    ),
    CommandSpec(
        "prefix.unlease",
        -2,
        _READ,
        "prefix",
        _SINCE,
        "Ends leases before their time; how many there were.",
        "key [key ...]",
        _PER_KEY,
        keys=(KeySpec(("RO",), last=-1),),
        categories=_STRING,
    ),
    CommandSpec(
        "prefix.info", 2, _READ, "prefix", _SINCE, "What is known of one block.", "key", keys=(KeySpec(("RO",)),), categories=_STRING
    ),
    CommandSpec(
        "prefix.top",
        -1,
        ("readonly",),
        "prefix",
        _SINCE,
        "The chains that are read most.",
        "[count]",
        "O(N) for N entries of the index, in slices",
    ),
    CommandSpec("prefix.stats", 1, ("loading", "stale", "fast"), "prefix", _SINCE, "Counters of the store."),
)
