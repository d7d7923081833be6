"""Users: names, passwords and rules of everybody who may log in; changed by ACL SETUSER's words, read from configuration and files."""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import orjson

from kvcd.access_rules import UNKNOWN_COMMAND, Denial, RuleError, Selector, has_spaces
from kvcd.configuration_text import split_arguments
from kvcd.directive import ConfigError
from protocol.command_spec import CommandSpec

DEFAULT_USER = b"default"

_HASH = re.compile(rb"[0-9a-f]{64}")
_NO_SUCH_PASSWORD = "The password you are trying to remove from the user does not exist"
_BAD_HASH = "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"


class Payload(enum.Enum):
    """Whether RESTORE checks what this user gives it; said and shown, since every payload is checked here anyway."""

    UNSAID = b""
    CHECKED = b"sanitize-payload"
    TRUSTED = b"skip-sanitize-payload"


class UnmatchedParenthesisError(ValueError):
    """A selector begins and does not end; ``args[0]`` is the word it begins with."""


class User:
    """One user. The first selector is the user's own, the others are those in parentheses."""

    def __init__(self, *, all_channels: bool = False) -> None:
        """Begin disabled, without a password and without any right."""
        self.enabled = False
        self.any_password = False
        self.payload = Payload.UNSAID
        self.password_hashes: list[bytes] = []  # SHA-256 in hexadecimal letters
        self.selectors = [Selector(all_channels=all_channels)]
        self._all_channels = all_channels

    @classmethod
    def default(cls) -> User:
        """Return the user of every new connection: everything is allowed, without a password."""
        user = cls()
        for rule in (b"+@all", b"~*", b"&*", b"on", b"nopass"):
            user.apply(rule)
        return user

    def copy(self) -> User:
        """Return a user with the same rules."""
        other = User(all_channels=self._all_channels)
        other.enabled, other.any_password, other.payload = self.enabled, self.any_password, self.payload
        other.password_hashes = list(self.password_hashes)
        other.selectors = [selector.copy() for selector in self.selectors]
        return other

    @property
    def needs_login(self) -> bool:
        """Whether a connection as this user must give a password first."""
        return not (self.any_password and self.enabled)

    @property
    def allows_everything(self) -> bool:
        """Whether no command of this user needs to be looked at."""
        return any(selector.allows_everything for selector in self.selectors)

    def accepts(self, password: bytes) -> bool:
        """Whether somebody who gives this password may log in; every stored one is compared in full."""
        digest = hashlib.sha256(password).hexdigest().encode()
        known = [hmac.compare_digest(digest, other) for other in self.password_hashes]
        return self.enabled and (self.any_password or any(known))

    def apply(self, rule: bytes) -> None:
        """Take one word of ACL SETUSER. Raises RuleError."""
        word = rule.lower()
        if not rule:
            return
        if word in (b"on", b"off"):
            self.enabled = word == b"on"
        elif word in (Payload.CHECKED.value, Payload.TRUSTED.value):
            self.payload = Payload(word)
        elif word in (b"nopass", b"resetpass"):
            self.any_password = word == b"nopass"
            self.password_hashes.clear()
        elif rule[:1] in (b">", b"#", b"<", b"!"):
            self._change_password(rule[:1], rule[1:])
        elif rule[:1] == b"(" and rule[-1:] == b")":
            self.selectors.append(self._selector(rule[1:-1]))
        elif word == b"clearselectors":
            del self.selectors[1:]
        elif word == b"reset":
            self._reset()
        else:
            self.selectors[0].apply(rule)

    def _change_password(self, sign: bytes, text: bytes) -> None:
        if sign in (b">", b"<"):
            text = hashlib.sha256(text).hexdigest().encode()
        elif not _HASH.fullmatch(text):
            raise RuleError(_BAD_HASH)
        if sign in (b">", b"#"):
            if text not in self.password_hashes:
                self.password_hashes.append(text)
            self.any_password = False
        elif text in self.password_hashes:
            self.password_hashes.remove(text)
        else:
            raise RuleError(_NO_SUCH_PASSWORD)

    def _selector(self, rules: bytes) -> Selector:
        selector = Selector(all_channels=self._all_channels)
        try:
            words = split_arguments(rules.decode("latin-1"))
        except ConfigError:
            words = []  # quotes that do not match: as Redis, no rule at all
        for word in words:
            selector.apply(word.encode("latin-1"))
        return selector

    def _reset(self) -> None:
        fresh = User(all_channels=self._all_channels)
        self.enabled, self.any_password = False, False
        self.payload = Payload.CHECKED
        self.password_hashes.clear()
        self.selectors = fresh.selectors

    def describe(self) -> bytes:
        """Return the rules in a line, as Redis words them, passwords as their hashes."""
        words = [*self._own_words(), self.selectors[0].describe()]
        words += [b"(" + selector.describe() + b")" for selector in self.selectors[1:]]
        return b" ".join(words)

    def saved(self) -> bytes:
        """Return rules in a line that makes the same user again: for an ACL file or `redis.conf`."""
        words = [*self._own_words(), *self.selectors[0].words()]
        words += [b"(" + b" ".join(selector.words()) + b")" for selector in self.selectors[1:]]
        return b" ".join(words)

    def dump(self) -> str:
        """Return text that ``load`` makes the same user of, whatever spaces, quotes and parentheses its rules hold."""
        parts = [self._own_words(), *(selector.words() for selector in self.selectors)]
        return orjson.dumps([[word.decode("latin-1") for word in words] for words in parts]).decode()

    @classmethod
    def load(cls, dumped: str, *, all_channels: bool) -> User:
        """Return the user that ``dump`` told of; ``all_channels`` is what its next selectors begin with."""
        user = cls(all_channels=all_channels)
        own, *others = orjson.loads(dumped)
        for rule in own:
            user.apply(rule.encode("latin-1"))
        user.selectors = []
        for words in others:
            user.selectors.append(Selector())
            for word in words:
                user.selectors[-1].apply(word.encode("latin-1"))
        return user

    def _own_words(self) -> list[bytes]:
        """Return what is not a selector's."""
        words = [b"on" if self.enabled else b"off"]
        words += [b"nopass"] if self.any_password else []
        words += [self.payload.value] if self.payload is not Payload.UNSAID else []
        return words + [b"#" + digest for digest in self.password_hashes]

    def check(self, spec: CommandSpec, args: Sequence[bytes]) -> tuple[Denial, int] | None:
        """Return why no selector allows this call, and the position of the argument that is to blame; None when one does."""
        reason, position, last = Denial.COMMAND, 0, 0
        for selector in self.selectors:
            denied = selector.check(spec, args)
            if denied is None:
                return None
            # Redis's rule: of equal reasons the one that came furthest; a refused command leaves the position as it was.
            last = denied[1] or last
            if denied[0] > reason or (denied[0] == reason and last > position):
                reason, position = denied[0], last
        return reason, position

    def may_read_others(self, spec: CommandSpec, args: Sequence[bytes]) -> bool:
        """Whether a selector that allows this call lets it read keys that its arguments do not name."""
        return any(selector.reads_all_keys and selector.check(spec, args) is None for selector in self.selectors)

    def channel_patterns(self) -> set[bytes] | None:
        """Return the channel patterns of all selectors; None when every channel is allowed."""
        if any(selector.all_channels for selector in self.selectors):
            return None
        return {pattern for selector in self.selectors for pattern in selector.channels}


class Users:
    """All users by name."""

    def __init__(self) -> None:
        """Begin with the default user alone."""
        self._users = {DEFAULT_USER: User.default()}
        self.all_channels_by_default = False  # `acl-pubsub-default allchannels`
        self.password = b""  # `requirepass`, which users may have moved away from meanwhile

    def __iter__(self) -> Iterator[tuple[bytes, User]]:
        """Yield name and user, by name."""
        yield from sorted(self._users.items())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._users)

    def get(self, name: bytes) -> User | None:
        """Return the user of that name."""
        return self._users.get(name)

    @property
    def default(self) -> User:
        """The user of new connections."""
        return self._users[DEFAULT_USER]

    def new(self) -> User:
        """Return a user as it is before any rule; it belongs to nobody yet."""
        return User(all_channels=self.all_channels_by_default)

    def changed(self, name: bytes, rules: Iterable[bytes]) -> User:
        """Return the user of that name, or a new one, with these rules added; ``put`` makes it count. Raises RuleError with the rule."""
        known = self._users.get(name)
        user = known.copy() if known is not None else self.new()
        user._all_channels = self.all_channels_by_default  # RESET and new selectors go by what holds now
        for rule in rules:
            _apply(user, rule)
        return user

    def put(self, name: bytes, user: User) -> None:
        """Let this be the user of that name."""
        self._users[name] = user

    def remove(self, name: bytes) -> bool:
        """Remove a user; whether there was one. The default user stays."""
        return name != DEFAULT_USER and self._users.pop(name, None) is not None

    def follow_password(self, password: bytes) -> None:
        """Take `requirepass`: the one password of the default user, none when it is empty; as in Redis, the same again changes nothing."""
        if password == self.password:
            return
        self.password = password
        self.default.apply(b"resetpass")
        self.default.apply(b">" + password if password else b"nopass")

    def dump(self) -> dict[str, str]:
        """Return each user's rules, as text that JSON can hold."""
        return {name.decode("latin-1"): user.dump() for name, user in self}

    def take(self, dumped: dict[str, str | None]) -> list[bytes]:
        """Take users from what ``dump`` gave, without those whose rules are None; returns the names of the removed ones."""
        removed = []
        for name, rules in dumped.items():
            encoded = name.encode("latin-1")
            if rules is None:
                if self.remove(encoded):
                    removed.append(encoded)
                continue
            self.put(encoded, User.load(rules, all_channels=self.all_channels_by_default))
        return removed


class RefusedRuleError(RuleError):
    """A rule of several that could not be taken: ``rule`` is the word."""

    def __init__(self, rule: bytes, reason: str) -> None:
        """Keep the word and why."""
        super().__init__(reason)
        self.rule = rule


def _apply(user: User, rule: bytes) -> None:
    try:
        user.apply(rule)
    except RuleError as error:
        raise RefusedRuleError(rule, str(error)) from None


def merge_selectors(words: Iterable[bytes]) -> list[bytes]:
    """Join what stands between parentheses into one word. Raises UnmatchedParenthesisError."""
    merged: list[bytes] = []
    begun: list[bytes] = []
    for word in words:
        if word.startswith(b"(") and not word.endswith(b")"):
            begun = [word]
        elif begun:
            begun.append(word)
            if word.endswith(b")"):
                merged.append(b" ".join(begun))
                begun = []
        else:
            merged.append(word)
    if begun:
        raise UnmatchedParenthesisError(begun[0].decode("utf-8", "surrogateescape"))
    return merged


def read_users(text: bytes, file: str, *, new_user: Callable[[], User]) -> dict[bytes, User]:
    """Return the users that the lines of an ACL file describe; raises ConfigError that names all faults, in Redis's words."""
    users: dict[bytes, User] = {}
    faults: list[str] = []
    for number, raw in enumerate(text.split(b"\n"), start=1):
        words = raw.strip(b" \t\r\n").split(b" ")
        if words == [b""]:
            continue
        where = f"{file}:{number}"
        if words[0] != b"user" or len(words) < 2:
            faults.append(f"{where} should start with user keyword followed by the username. ")
        elif has_spaces(words[1]):
            faults.append(f"'{where}: username '{_shown(words[1])}' contains invalid characters. ")
        elif words[1] in users:
            faults.append(f"WARNING: Duplicate user '{_shown(words[1])}' found on line {number}. ")
        else:
            users[words[1]] = new_user()
            faults += [f"{where}: {fault}" for fault in _faults(users[words[1]], words[2:])]
    if faults:
        raise ConfigError("".join(faults))
    return users


def _faults(user: User, words: Sequence[bytes]) -> Iterator[str]:
    """Apply the words of one line, and yield what is wrong with them."""
    try:
        rules = merge_selectors(words)
    except UnmatchedParenthesisError:
        yield "Unmatched parenthesis in selector definition."
        return
    for rule in rules:
        try:
            user.apply(rule.strip(b"\t\r\n"))
        except RuleError as error:
            # Redis names the word only where it names an unknown command.
            head = f"Error in applying operation '{_shown(rule)}': " if str(error) == UNKNOWN_COMMAND else ""
            yield f"{head}{error}. "


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
