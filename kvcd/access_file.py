"""Access file: users as the configuration and the file of `aclfile` have them, and that file written anew."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from kvcd.access_rules import RuleError, has_spaces
from kvcd.config import Config, ConfigError
from kvcd.users import DEFAULT_USER, UnmatchedParenthesisError, User, Users, merge_selectors, read_users

_BOTH = (
    "Configuring Redis with users defined in redis.conf and at the same setting an ACL file path is invalid. This setup is very likely to "
    "lead to configuration errors and security holes, please define either an ACL file or declare users directly in your redis.conf, but "
    "not both."
)


def load_users(config: Config) -> Users:
    """Return the users that a service begins with. Raises ConfigError."""
    users = Users()
    users.all_channels_by_default = config["acl-pubsub-default"] == "allchannels"
    users.follow_password(_encoded(config.string("requirepass")))
    lines = config.lines("user")
    if lines and config.string("aclfile"):
        raise ConfigError(_BOTH)
    named: set[str] = set()
    for words in lines:
        if not words or words[0] in named:
            raise ConfigError("user: Duplicate user found. A user can only be defined once in config files" if words else "user: no name")
        named.add(words[0])
        _take_line(users, _encoded(words[0]), [_encoded(word) for word in words[1:]])
    if config.string("aclfile"):
        replace_all(users, read_file(config, users))
    return users


def _take_line(users: Users, name: bytes, words: list[bytes]) -> None:
    """Take a `user` line of the configuration. Raises ConfigError."""
    shown = name.decode("utf-8", "replace")
    if has_spaces(name):
        raise ConfigError("Spaces not allowed in ACL usernames")
    user = users.new()
    if name == DEFAULT_USER:
        user.apply(b"reset")
    try:
        for rule in merge_selectors(words):
            try:
                user.apply(rule)
            except RuleError as error:
                hidden = "..." if rule[:1] in (b">", b"<") else rule.decode("utf-8", "replace")
                raise ConfigError(f"Error loading ACL rule '{hidden}' for the user named '{shown}': {error}") from None
    except UnmatchedParenthesisError as error:
        raise ConfigError(f"user {shown}: Unmatched parenthesis in acl selector starting at '{error}'") from None
    users.put(name, user)


def path_of(config: Config) -> Path:
    """Return where the ACL file is: a name without a folder is in `dir`."""
    return Path(config.path("aclfile"))


def read_file(config: Config, users: Users) -> dict[bytes, User]:
    """Return the users of the ACL file, the default one among them. Raises ConfigError with ACL LOAD's words."""
    name = config.string("aclfile")
    try:
        text = path_of(config).read_bytes()
    except OSError as error:
        raise ConfigError(f"Error loading ACLs, opening file '{name}': {error.strerror}") from None
    try:
        found = read_users(text, name, new_user=users.new)
    except ConfigError as error:
        raise ConfigError(f"{error}WARNING: ACL errors detected, no change to the previously active ACL rules was performed") from None
    found.setdefault(DEFAULT_USER, User.default())
    return found


def replace_all(users: Users, found: dict[bytes, User]) -> None:
    """Let these be all users there are."""
    for name, _user in list(users):
        users.remove(name)
    for name, user in found.items():
        users.put(name, user)


def save_file(config: Config, users: Users) -> None:
    """Write the ACL file anew, all of it or nothing. Raises OSError."""
    path = path_of(config)
    text = b"".join(b"user " + name + b" " + user.saved() + b"\n" for name, user in users)
    unfinished = path.with_name(f"{path.name}.tmp-{os.getpid()}-{time.time_ns()}")
    try:
        with open(unfinished, "xb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
