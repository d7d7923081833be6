"""Access rules: what one selector of a user allows: commands, keys and channels; read from ACL SETUSER's words and shown in them."""

from __future__ import annotations

import copy
import enum
from collections.abc import Sequence

from protocol.access_table import BITS, CATEGORIES, CATEGORY, EVERYTHING, FUTURE, SUBCOMMANDS, reach
from protocol.command_keys import key_accesses
from protocol.command_table import CommandSpec
from protocol.glob import matches

_SPACES = b" \t\n\v\f\r\0"

UNKNOWN_COMMAND = "Unknown command or category name in ACL"
SYNTAX = "Syntax error"
_AFTER_ALL_KEYS = (
    "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. "
    "Try 'resetkeys' to start with an empty list of patterns"
)
_AFTER_ALL_CHANNELS = (
    "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. "
    "Try 'resetchannels' to start with an empty list of channels"
)
_ARGUMENT_OF_SUBCOMMAND = "Allowing first-arg of a subcommand is not supported"

# Commands that name channels, and whether each argument is a pattern, which only the same pattern among the rules allows.
_CHANNEL_COMMANDS = {"publish": False, "spublish": False, "subscribe": False, "ssubscribe": False, "psubscribe": True}
_ONE_CHANNEL = ("publish", "spublish")


class RuleError(ValueError):
    """A rule that means nothing; its text is Redis's."""


class Denial(enum.IntEnum):
    """Why a command may not run; of several selectors' reasons the largest is told."""

    COMMAND = 1
    KEY = 2
    CHANNEL = 3


class Access(enum.IntFlag):
    """What is done with a key."""

    READ = 1
    WRITE = 2


_ANY_ACCESS = Access.READ | Access.WRITE
_PREFIXES = {_ANY_ACCESS: b"~", Access.READ: b"%R~", Access.WRITE: b"%W~"}


def has_spaces(text: bytes) -> bool:
    """Whether a name or pattern could not be told from two in a line of rules."""
    return any(byte in _SPACES for byte in text)


class Selector:
    """One set of rules. A command runs when a single selector of its user allows it with all of its keys and channels."""

    def __init__(self, *, all_channels: bool = False) -> None:
        """Allow nothing, but for channels where `acl-pubsub-default` says so."""
        self.all_keys = False
        self.all_channels = all_channels
        self.commands = 0  # mask of protocol.access_table.BITS
        self.first_arguments: dict[str, list[bytes]] = {}  # by command: what it may be given first although it is not allowed
        self.keys: dict[bytes, Access] = {}
        self.channels: dict[bytes, None] = {}

    def copy(self) -> Selector:
        """Return one with the same rules."""
        return copy.deepcopy(self)

    @property
    def allows_everything(self) -> bool:
        """Whether there is nothing to be checked."""
        return self.all_keys and self.all_channels and self.commands == EVERYTHING

    # ---------------------------------------------------------------------- rules

    def apply(self, rule: bytes) -> None:
        """Add one rule. Raises RuleError."""
        word = rule.lower()
        if word in (b"allkeys", b"~*"):
            self.all_keys = True
            self.keys.clear()
        elif word == b"resetkeys":
            self.all_keys = False
            self.keys.clear()
        elif word in (b"allchannels", b"&*"):
            self.all_channels = True
            self.channels.clear()
        elif word == b"resetchannels":
            self.all_channels = False
            self.channels.clear()
        elif word in (b"allcommands", b"+@all"):
            self.commands = EVERYTHING
            self.first_arguments.clear()
        elif word in (b"nocommands", b"-@all"):
            self.commands = 0
            self.first_arguments.clear()
        elif rule[:1] in (b"~", b"%"):
            self._add_key_pattern(rule)
        elif rule[:1] == b"&":
            self._add_channel_pattern(rule[1:])
        elif rule[:1] in (b"+", b"-"):
            self._change_commands(rule[1:].decode("latin-1").lower(), rule[1:], allow=rule[:1] == b"+")
        else:
            raise RuleError(SYNTAX)

    def _add_key_pattern(self, rule: bytes) -> None:
        if self.all_keys:
            raise RuleError(_AFTER_ALL_KEYS)
        access, pattern = _ANY_ACCESS, rule[1:]
        if rule[:1] == b"%":
            letters, _, pattern = rule[1:].partition(b"~")
            access = Access(0)
            for letter in letters.upper().decode("latin-1"):
                wanted = {"R": Access.READ, "W": Access.WRITE}.get(letter, Access(0))
                if not wanted or wanted & access:
                    raise RuleError(SYNTAX)
                access |= wanted
            if not access:
                raise RuleError(SYNTAX)
        if has_spaces(pattern):
            raise RuleError(SYNTAX)
        self.keys[pattern] = self.keys.get(pattern, Access(0)) | access

    def _add_channel_pattern(self, pattern: bytes) -> None:
        if self.all_channels:
            raise RuleError(_AFTER_ALL_CHANNELS)
        if has_spaces(pattern):
            raise RuleError(SYNTAX)
        self.channels[pattern] = None

    def _change_commands(self, name: str, as_written: bytes, *, allow: bool) -> None:
        """Take ``name`` (``get``, ``config|get``, ``select|0``, ``@read``) as the rule says."""
        if name.startswith("@"):
            category = CATEGORY.get(name[1:])
            if category is None:
                raise RuleError(UNKNOWN_COMMAND)
            self._set(category.reach, allow)
            for member in [member for member in self.first_arguments if category.members & BITS[member]]:
                del self.first_arguments[member]
            return
        container, bar, argument = name.rpartition("|")
        if allow and bar:
            if container not in BITS:
                raise RuleError(UNKNOWN_COMMAND)
            if "|" in container:
                raise RuleError(_ARGUMENT_OF_SUBCOMMAND)
            if not argument:
                raise RuleError(SYNTAX)
            if container not in SUBCOMMANDS:
                allowed = self.first_arguments.setdefault(container, [])
                if not any(argument == other.decode("latin-1").lower() for other in allowed):
                    allowed.append(as_written.rpartition(b"|")[2])
                return
        if name not in BITS:
            raise RuleError(UNKNOWN_COMMAND)
        self._set(reach(name), allow)
        self.first_arguments.pop(name, None)

    def _set(self, mask: int, allow: bool) -> None:
        self.commands = self.commands | mask if allow else self.commands & ~mask

    # ---------------------------------------------------------------------- shown

    def words(self) -> list[bytes]:
        """Return rules that make the same selector again."""
        # `%RW~*` is a pattern like any other; `~*` would take the others away, and let none follow.
        keys = [b"%RW~*" if item == (b"*", _ANY_ACCESS) else _PREFIXES[item[1]] + item[0] for item in self.keys.items()]
        channels = [b"&" + pattern for pattern in self.channels]
        commands = self._command_words()
        return [*([b"~*"] if self.all_keys else keys), *([b"&*"] if self.all_channels else [b"resetchannels", *channels]), *commands]

    def describe(self) -> bytes:
        """Return the rules in a line, as Redis words them."""
        keys = self.describe_keys()
        channels = b"&*" if self.all_channels else b"resetchannels"
        if self.channels:
            channels += b" " + self.describe_channels()
        return b" ".join(filter(None, (keys, channels, self.describe_commands())))

    def describe_keys(self) -> bytes:
        """Return the key patterns."""
        return b"~*" if self.all_keys else b" ".join(_PREFIXES[access] + pattern for pattern, access in self.keys.items())

    def describe_channels(self) -> bytes:
        """Return the channel patterns."""
        return b"&*" if self.all_channels else b" ".join(b"&" + pattern for pattern in self.channels)

    def describe_commands(self) -> bytes:
        """Return rules that make the same mask of commands."""
        return b" ".join(self._command_words())

    def _command_words(self) -> list[bytes]:
        """Categories as far as they fit well, then single commands, as Redis 7.0 does."""
        adds = not self.commands & FUTURE
        words = ["-@all" if adds else "+@all"]
        sign = "+" if adds else "-"
        made, left = (0 if adds else EVERYTHING), self.commands
        unused = list(CATEGORIES)
        while (best := _best_category(left, unused, adds=adds)) is not None:
            mask = CATEGORY[best].reach
            made, left = (made | mask, left & ~mask) if adds else (made & ~mask, left | mask)
            words.append(f"{sign}@{best}")
            unused.remove(best)
        for name, bit in BITS.items():
            wanted = self.commands & bit
            if wanted != made & bit:
                words.append(f"{'+' if wanted else '-'}{name}")
                made = made | reach(name) if wanted else made & ~reach(name)
            if not wanted:
                words += [f"+{name}|{argument.decode('latin-1')}" for argument in self.first_arguments.get(name, ())]
        return [word.encode("latin-1") for word in words]

    # --------------------------------------------------------------------- checks

    def check(self, spec: CommandSpec, args: Sequence[bytes]) -> tuple[Denial, int] | None:
        """Return why these arguments are not allowed, and the position of the one that is not (0: the command); None when they are."""
        if not self._allows_command(spec, args):
            return Denial.COMMAND, 0
        if not self.all_keys:
            keys = key_accesses(spec, args)
            if keys is None:
                return Denial.KEY, min(1, len(args) - 1)
            for key in keys:
                needed = (Access.READ if key.reads else Access(0)) | (Access.WRITE if key.writes else Access(0))
                if not isinstance(args[key.position], bytes):
                    continue  # too long for a key, as the handler will say
                if not self.allows_key(args[key.position], needed):
                    return Denial.KEY, key.position
        if not self.all_channels and spec.name in _CHANNEL_COMMANDS:
            last = 1 if spec.name in _ONE_CHANNEL else len(args) - 1
            for position in range(1, last + 1):
                if not self.allows_channel(args[position], is_pattern=_CHANNEL_COMMANDS[spec.name]):
                    return Denial.CHANNEL, position
        return None

    def _allows_command(self, spec: CommandSpec, args: Sequence[bytes]) -> bool:
        if "no_auth" in spec.flags or self.commands & BITS[spec.name]:
            return True
        allowed = self.first_arguments.get(spec.name)
        return bool(allowed) and len(args) > 1 and args[1].lower() in [argument.lower() for argument in allowed or ()]

    def allows_key(self, key: bytes, needed: Access) -> bool:
        """Whether a pattern that grants all of ``needed`` matches the key."""
        return self.all_keys or any(access & needed == needed and matches(pattern, key) for pattern, access in self.keys.items())

    @property
    def reads_all_keys(self) -> bool:
        """Whether every key may be read, whatever its name."""
        return self.all_keys or bool(self.keys.get(b"*", Access(0)) & Access.READ)

    def allows_channel(self, channel: bytes, *, is_pattern: bool) -> bool:
        """Whether the channel matches a pattern; one that is a pattern itself must be among them."""
        if self.all_channels or channel in self.channels:
            return True
        return not is_pattern and any(matches(pattern, channel) for pattern in self.channels)


def _best_category(commands: int, among: Sequence[str], *, adds: bool) -> str | None:
    """Return the category that agrees with more commands of the mask than it differs from, and differs least; None without one."""
    best, best_rank = None, (0, 0)
    for name in among:
        members = CATEGORY[name].members
        allowed = (commands & members).bit_count()
        denied = members.bit_count() - allowed
        same, differing = (allowed, denied) if adds else (denied, allowed)
        if same > differing and (best is None or (differing, -same) < best_rank):
            best, best_rank = name, (differing, -same)
    return best
