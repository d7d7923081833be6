"""Rows of ACL, the commands about users."""

from __future__ import annotations

from protocol.command_spec import CommandSpec

_OPEN = ("noscript", "loading", "stale")
_ADMIN = ("admin", "noscript", "loading", "stale")
_PER_USER = "O(N) for N users"

_ACL = (
    CommandSpec("acl|cat", -2, _OPEN, "server", "6.0.0", "Categories, or the commands in one.", "[category]", "O(N) for N commands"),
    CommandSpec(
        "acl|deluser",
        -3,
        _ADMIN,
        "server",
        "6.0.0",
        "Removes users and closes their connections.",
        "username [username ...]",
    ),
    CommandSpec(
        "acl|dryrun", -4, _ADMIN, "server", "7.0.0", "Whether a user may run a command, without running it.", "username command [arg ...]"
    ),
    CommandSpec("acl|genpass", -2, _OPEN, "server", "6.0.0", "A password that nobody guesses.", "[bits]"),
    CommandSpec("acl|getuser", 3, _ADMIN, "server", "6.0.0", "A user's rules.", "username", "O(N) for N rules"),
    CommandSpec("acl|help", 2, ("loading", "stale"), "server", "6.0.0", "The subcommands of ACL."),
    CommandSpec("acl|list", 2, _ADMIN, "server", "6.0.0", "All users as lines of an ACL file.", complexity=_PER_USER),
    CommandSpec("acl|load", 2, _ADMIN, "server", "6.0.0", "Takes the users of the ACL file.", complexity=_PER_USER),
    CommandSpec("acl|log", -2, _ADMIN, "server", "6.0.0", "What was refused lately.", "[count | RESET]", "O(N) for N entries"),
    CommandSpec(
        "acl|save",
        2,
        _ADMIN,
        "server",
        "6.0.0",
        "Writes the users to the ACL file.",
        complexity=_PER_USER,
    ),
    CommandSpec(
        "acl|setuser",
        -3,
        _ADMIN,
        "server",
        "6.0.0",
        "Makes a user, or changes one.",
        "username [rule [rule ...]]",
        "O(N) for N rules",
    ),
    CommandSpec("acl|users", 2, _ADMIN, "server", "6.0.0", "Names of all users.", complexity=_PER_USER),
    CommandSpec("acl|whoami", 2, _OPEN, "server", "6.0.0", "User of this connection."),
)

ROWS = (CommandSpec("acl", -2, (), "server", "6.0.0", "Commands about users.", complexity="as the subcommand", subcommands=_ACL),)
