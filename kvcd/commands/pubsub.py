"""Channels: hearing them, telling them, and who hears what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvcd.client_modes import ClientModes, modes_of, set_reason
from kvcd.commands.arguments import CommandError, value_bytes, wrong_subcommand
from kvcd.commands.registry import answers, handles
from kvcd.context import ClientState, ServerState, SlowReason
from kvcd.subscriptions import Audience
from protocol.encoder import encode
from protocol.glob import matches
from protocol.replies import NO_REPLY, Encoded, Push, Reply

_NAMES, _COUNTS = "channel names", "channel counts"  # topics between workers


class _Kind(NamedTuple):
    """One of the three ways to subscribe: all subscriptions of it, the client's own, and how many it is told of."""

    everybody: dict[bytes, Audience]
    own: dict[bytes, None]
    is_shard: bool

    def count(self, modes: ClientModes) -> int:
        return len(modes.shard_channels) if self.is_shard else modes.subscriptions


def _kind(client: ClientState, server: ServerState, name: bytes) -> _Kind:
    """Return what a command of this name is about: its first letter says it, or the lack of one."""
    modes, subscriptions = modes_of(client), server.modes.subscriptions
    if name.lower().startswith((b"ps", b"pu")):
        return _Kind(subscriptions.patterns, modes.patterns, False)
    if name.lower().startswith((b"ss", b"sun")):
        return _Kind(subscriptions.shard_channels, modes.shard_channels, True)
    return _Kind(subscriptions.channels, modes.channels, False)


def follow(client: ClientState) -> None:
    """Where a subscriber may run hardly any command, each has to be looked at."""
    subscribed = client.modes is not None and client.modes.is_subscriber
    set_reason(client, SlowReason.SUBSCRIBED, subscribed and client.resp == 2)


@handles("subscribe", "psubscribe", "ssubscribe")
async def handle_subscribe(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SUBSCRIBE channel [channel ...] and its kin: a reply for each."""
    modes = modes_of(client)
    kind = _kind(client, server, args[0])
    if kind.is_shard and modes.transaction is not None:
        raise CommandError("ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client")
    replies = []
    for name in args[1:]:
        server.modes.subscriptions.add(kind.everybody, kind.own, client, name)
        replies.append(encode(Push((args[0].lower(), name, kind.count(modes))), client.resp))
    follow(client)
    return _confirmed(client, b"".join(replies))


def _confirmed(client: ClientState, confirmations: bytes) -> Reply:
    """Return the reply of these bytes. They are messages as those of a channel are: CLIENT REPLY OFF and SKIP do not hold them back."""
    if not client.slow_reasons & SlowReason.REPLIES_OFF:
        return Encoded(confirmations)
    client.push(confirmations)
    return NO_REPLY


@handles("unsubscribe", "punsubscribe", "sunsubscribe")
async def handle_unsubscribe(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """UNSUBSCRIBE [channel [channel ...]] and its kin: a reply for each, and one where there is none."""
    modes = modes_of(client)
    kind = _kind(client, server, args[0])
    names: Sequence[bytes | None] = args[1:] or list(kind.own) or [None]
    replies = []
    for name in names:
        if name is not None:
            server.modes.subscriptions.remove(kind.everybody, kind.own, client, name)
        replies.append(encode(Push((args[0].lower(), name, kind.count(modes))), client.resp))
    follow(client)
    return _confirmed(client, b"".join(replies))


@handles("publish", "spublish")
async def handle_publish(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PUBLISH channel message, SPUBLISH shardchannel message: how many were told."""
    return await server.modes.publish(args[1], value_bytes(args[2]), to_shard=args[0].lower() == b"spublish")


def _table(server: ServerState, *, of_shard: bool) -> dict[bytes, Audience]:
    subscriptions = server.modes.subscriptions
    return subscriptions.shard_channels if of_shard else subscriptions.channels


@handles("pubsub|channels", "pubsub|shardchannels")
async def handle_channels(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PUBSUB CHANNELS [pattern], PUBSUB SHARDCHANNELS [pattern]."""
    if len(args) > 3:
        raise CommandError(wrong_subcommand(args))
    kind = "shard_channels" if args[1].lower().startswith(b"shard") else "channels"
    names = dict.fromkeys(await _names(server, kind))
    return [name for name in names if len(args) == 2 or matches(args[2], name)]


@handles("pubsub|numpat")
async def handle_numpat(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PUBSUB NUMPAT."""
    return len(set(await _names(server, "patterns")))


async def _names(server: ServerState, kind: str) -> list[bytes]:
    """Return the channels or patterns of all workers; the same may be among them twice."""
    names = _names_here(server, kind)
    for answer in await server.service.channel.ask_all(_NAMES, kind):
        names += answer.payload
    return [name.encode("latin-1") for name in names]


@answers(_NAMES)
def list_names(server: ServerState, kind: str) -> list[str]:
    """Return what this worker's clients are subscribed to, for another worker."""
    return _names_here(server, kind)


def _names_here(server: ServerState, kind: str) -> list[str]:
    subscriptions = server.modes.subscriptions
    tables = {"channels": subscriptions.channels, "shard_channels": subscriptions.shard_channels, "patterns": subscriptions.patterns}
    return [name.decode("latin-1") for name in tables[kind]]


@handles("pubsub|numsub", "pubsub|shardnumsub")
async def handle_numsub(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PUBSUB NUMSUB [channel [channel ...]], PUBSUB SHARDNUMSUB [shardchannel [shardchannel ...]]."""
    of_shard = args[1].lower().startswith(b"shard")
    names = [name.decode("latin-1") for name in args[2:]]
    counts = _counts_here(server, of_shard, names)
    for answer in await server.service.channel.ask_all(_COUNTS, [of_shard, names]):
        counts = [own + other for own, other in zip(counts, answer.payload, strict=True)]
    flat: list[object] = []
    for name, count in zip(args[2:], counts, strict=True):
        flat += (name, count)
    return flat


@answers(_COUNTS)
def count_subscribers(server: ServerState, question: tuple[bool, list[str]]) -> list[int]:
    """Return how many of this worker's clients hear each of the channels, for another worker."""
    return _counts_here(server, *question)


def _counts_here(server: ServerState, of_shard: bool, names: list[str]) -> list[int]:
    table = _table(server, of_shard=of_shard)
    return [len(table.get(name.encode("latin-1"), ())) for name in names]
