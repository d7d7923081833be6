"""One row of the command table: what a command is called, takes and touches, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Lane = Literal["fast", "slow"]
CommandStatus = Literal["full", "partial"]

# The order in which Redis lists categories; those marked by a flag follow from the row's flags.
_CATEGORY_ORDER = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
]
_CATEGORY_OF_FLAG = {"write": "write", "readonly": "read", "pubsub": "pubsub", "blocking": "blocking"}


@dataclass(frozen=True, slots=True)
class KeySpec:
    """Where a run of keys stands: argument ``first``, to ``last`` (relative to it, or from the end when negative).

    Behind a ``keyword``, ``first`` is where the search for that begins. Keys whose place is "unknown" a function of the command finds.
    """

    flags: tuple[str, ...]
    first: int = 1
    last: int = 0
    step: int = 1
    notes: str = ""
    place: Literal["index", "keyword", "unknown"] = "index"
    keyword: str = ""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command or subcommand.

    ``arity`` counts the command name; negative means "at least". ``first_key``, ``last_key`` and ``key_step`` are those
    of Redis's COMMAND INFO (a negative last one counts from the end). ``first_value`` and ``value_step`` say which arguments are
    values, which a session may receive straight into pool pages: argument ``first_value`` and, with a step, every
    ``value_step``-th after it; 0 means that the command takes none.
    """

    name: str  # full name in lower case: "get", "client|id"
    arity: int
    flags: tuple[str, ...]
    group: str
    since: str  # Redis's version; for PREFIX.* kvcd's
    summary: str
    syntax: str = ""  # the arguments after the name, as a manual page shows them
    complexity: str = "O(1)"
    keys: tuple[KeySpec, ...] = ()
    categories: tuple[str, ...] = ()  # those that do not follow from flags
    tips: tuple[str, ...] = ()
    subcommands: tuple[CommandSpec, ...] = ()
    first_value: int = 0
    value_step: int = 0
    lane: Lane = "slow"
    status: CommandStatus = "full"
    note: str = ""  # what a partial command leaves out
    replaced_by: str = ""
    first_key: int = field(init=False, default=0)  # the next three follow from ``keys``
    last_key: int = field(init=False, default=0)
    key_step: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Derive COMMAND INFO's one range of keys, as Redis derives it from its key specifications."""
        runs = [keys for keys in self.keys if keys.place == "index"]
        if runs:
            final = runs[-1]
            object.__setattr__(self, "first_key", runs[0].first)
            object.__setattr__(self, "last_key", final.last if final.last < 0 else final.first + final.last)
            object.__setattr__(self, "key_step", final.step)

    @property
    def acl_categories(self) -> tuple[str, ...]:
        """All categories, with the leading ``@``, in Redis's order."""
        found = set(self.categories)
        found.update(category for flag, category in _CATEGORY_OF_FLAG.items() if flag in self.flags)
        if "admin" in self.flags:
            found.update(("admin", "dangerous"))
        found.add("fast" if "fast" in self.flags else "slow")
        return tuple(f"@{category}" for category in _CATEGORY_ORDER if category in found)

    @property
    def short_name(self) -> str:
        """The subcommand's own name ("id" of "client|id"), or the name."""
        return self.name.rpartition("|")[2]

    def accepts(self, argument_count: int) -> bool:
        """Whether a call with that many arguments, name included, has the right arity."""
        return argument_count == self.arity if self.arity >= 0 else argument_count >= -self.arity

    def key_positions(self, argument_count: int) -> range:
        """Positions of the keys in a call with that many arguments, name included."""
        if self.first_key == 0:
            return range(0)
        last = self.last_key if self.last_key >= 0 else argument_count + self.last_key
        return range(self.first_key, min(last, argument_count - 1) + 1, self.key_step)

    def is_value(self, position: int) -> bool:
        """Whether the argument at ``position`` is a value."""
        if self.first_value == 0 or position < self.first_value:
            return False
        return position == self.first_value if self.value_step == 0 else (position - self.first_value) % self.value_step == 0
