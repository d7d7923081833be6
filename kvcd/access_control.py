"""Access control: who a client is, what it may run, and what follows for clients when users change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kvcd.access_log import AccessLog
from kvcd.access_rules import Denial
from kvcd.config import Config
from kvcd.context import ClientState, SlowReason
from kvcd.users import DEFAULT_USER, Users
from protocol.command_spec import CommandSpec

REFUSALS = {
    Denial.COMMAND: "NOPERM this user has no permissions to run the '{}' command",
    Denial.KEY: "NOPERM this user has no permissions to access one of the keys used as arguments",
    Denial.CHANNEL: "NOPERM this user has no permissions to access one of the channels used as arguments",
}
_RULES_CHANGED = (
    "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. "
    "This command is no longer allowed for the following reason: {}"
)
_REASONS_AT_EXEC = {
    Denial.COMMAND: "no permission to execute the command or subcommand",
    Denial.KEY: "no permission to touch the specified keys",
    Denial.CHANNEL: "no permission to access one of the channels used as arguments",
}


class AccessControl:
    """The users of one process and its clients'. Whoever changes users tells the other workers (``kvcd.service``)."""

    def __init__(
        self,
        config: Config,
        users: Users,
        *,
        clients: Callable[[], Iterable[ClientState]],
        describe: Callable[[ClientState], bytes],
        now_ms: Callable[[], int],
    ) -> None:
        """``clients`` gives the connected ones, ``describe`` a client's line of CLIENT LIST."""
        self.users = users
        self.log = AccessLog(config.number("acllog-max-len"))
        self._clients = clients
        self._describe = describe
        self._now_ms = now_ms
        self._on_change: list[Callable[[], object]] = []
        config.on_change("acllog-max-len", self._set_log_length)
        config.on_change("acl-pubsub-default", self._set_channels_default)
        config.on_change("requirepass", self._set_password)

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever users have changed."""
        self._on_change.append(callback)

    @property
    def needs_login(self) -> bool:
        """Whether new connections must log in before anything else."""
        return self.users.default.needs_login

    @property
    def is_open(self) -> bool:
        """Whether the default user takes any password: what protected mode is about."""
        return self.users.default.any_password

    def slow_reasons_of(self, name: bytes) -> int:
        """Return why commands of that user have to be looked at: for nothing, or for its rules."""
        user = self.users.get(name)
        return 0 if user is not None and user.allows_everything else SlowReason.ACCESS_RULES

    # -------------------------------------------------------------------- clients

    def log_in(self, client: ClientState, name: bytes, password: bytes, *, command: bytes) -> bool:
        """Let the client be this user from now on, if the password is right; otherwise it is taken down that ``command`` was refused."""
        user = self.users.get(name)
        # Compared for an unknown name too, so that the time taken tells little about which names there are.
        accepted = (user or self.users.default).accepts(password)
        if user is None or not accepted:
            self._note(client, reason="auth", context="toplevel", about=command, username=name)
            return False
        client.authenticated = True
        self._become(client, name)
        return True

    def log_out(self, client: ClientState) -> None:
        """Let the client be what a new connection is."""
        client.authenticated = not self.needs_login
        self._become(client, DEFAULT_USER)

    def _become(self, client: ClientState, name: bytes) -> None:
        client.user = name
        client.slow_reasons = (client.slow_reasons & ~SlowReason.ACCESS_RULES) | self.slow_reasons_of(name)

    def check(self, client: ClientState, spec: CommandSpec, args: Sequence[bytes]) -> tuple[Denial, int] | None:
        """Return why the client may not run this, and the position of the argument that is to blame; None when it may."""
        if not client.slow_reasons & SlowReason.ACCESS_RULES:
            return None
        user = self.users.get(client.user)
        return (Denial.COMMAND, 0) if user is None else user.check(spec, args)

    def may_read_others(self, client: ClientState, spec: CommandSpec, args: Sequence[bytes]) -> bool:
        """Whether this call of the client's may read keys that only the values of others name: SORT's BY and GET."""
        user = self.users.get(client.user)
        return not client.slow_reasons & SlowReason.ACCESS_RULES or (user is not None and user.may_read_others(spec, args))

    def refusal(self, client: ClientState, spec: CommandSpec, args: Sequence[bytes], *, context: str = "toplevel") -> str | None:
        """Return the error for what the client may not run, and take it down; None when it may. ``context``: toplevel or multi."""
        denied = self.check(client, spec, args)
        if denied is None:
            return None
        reason, position = denied
        about = spec.name.encode() if reason is Denial.COMMAND else args[position]
        self._note(client, reason=reason.name.lower(), context=context, about=about, username=client.user)
        return REFUSALS[reason].format(spec.name)

    def refusal_at_exec(self, client: ClientState, spec: CommandSpec, args: Sequence[bytes]) -> str | None:
        """Return the error for a queued command that the client might run when it was queued, and may not any more; None when it may."""
        denied = self.check(client, spec, args)
        if self.refusal(client, spec, args, context="multi") is None or denied is None:
            return None
        return _RULES_CHANGED.format(_REASONS_AT_EXEC[denied[0]])

    def _note(self, client: ClientState, *, reason: str, context: str, about: bytes, username: bytes) -> None:
        now_ms = self._now_ms()
        line = self._describe(client).rstrip(b"\n")
        self.log.note(reason=reason, context=context, about=about, username=username, client_info=line, now_ms=now_ms)

    # ---------------------------------------------------------------------- users

    def take(self, dumped: dict[str, str | None], *, asking: ClientState | None = None) -> None:
        """Take users as ``Users.dump`` gives them, None for one that is removed, and close the clients of removed ones.

        The client whose command is running, ``asking``, is closed after its reply.
        """
        before = {name: self._channels_of(name.encode("latin-1")) for name in dumped}
        removed = self.users.take(dumped)
        for client in list(self._clients()):
            if client.user in removed:
                client.user, client.authenticated = DEFAULT_USER, False
                if client is asking:
                    client.close_after_reply = True
                else:
                    client.kill()
        for name, channels in before.items():
            self._close_subscribers(name.encode("latin-1"), channels, asking)
        self._changed()

    def _channels_of(self, name: bytes) -> set[bytes] | None:
        user = self.users.get(name)
        return set() if user is None else user.channel_patterns()

    def _close_subscribers(self, name: bytes, before: set[bytes] | None, asking: ClientState | None) -> None:
        """Close the subscribers of what their user may not hear any more."""
        user = self.users.get(name)
        after = None if user is None else user.channel_patterns()
        if user is None or after is None or (before is not None and before <= after):
            return
        for client in list(self._clients()):
            if client.user == name and client is not asking and not self._may_hear_all(client):
                client.kill()

    def _may_hear_all(self, client: ClientState) -> bool:
        user = self.users.get(client.user)
        modes = client.modes
        if user is None or modes is None:
            return True
        return all(
            any(selector.allows_channel(name, is_pattern=is_pattern) for selector in user.selectors)
            for names, is_pattern in ((modes.channels, False), (modes.shard_channels, False), (modes.patterns, True))
            for name in names
        )

    def _changed(self) -> None:
        for client in self._clients():
            if client.user == DEFAULT_USER and not self.needs_login:
                client.authenticated = True
            self._become(client, client.user)
        for callback in self._on_change:
            callback()

    def _set_password(self, value: object) -> None:
        self.users.follow_password(str(value).encode("utf-8", "surrogateescape"))
        self._changed()

    def _set_channels_default(self, value: object) -> None:
        self.users.all_channels_by_default = value == "allchannels"

    def _set_log_length(self, value: object) -> None:
        assert isinstance(value, int)
        self.log.length_limit = value
