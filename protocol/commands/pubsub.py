"""Rows of the commands of channels and their subscribers."""

from __future__ import annotations

from protocol.command_spec import CommandSpec, KeySpec

_QUIET = ("pubsub", "noscript", "loading", "stale")
_ASKING = ("pubsub", "loading", "stale")
_TELLING = ("pubsub", "loading", "stale", "fast")
_PER_CHANNEL = "O(N) for N channels"
_SHARD_CHANNELS = (KeySpec(("not_key",), last=-1),)

_PUBSUB = (
    CommandSpec("pubsub|channels", -2, _ASKING, "pubsub", "2.8.0", "Channels that somebody hears.", "[pattern]", _PER_CHANNEL),
    CommandSpec("pubsub|numsub", -2, _ASKING, "pubsub", "2.8.0", "How many hear each channel.", "[channel [channel ...]]", _PER_CHANNEL),
    CommandSpec("pubsub|numpat", 2, _ASKING, "pubsub", "2.8.0", "How many different patterns are subscribed to."),
    CommandSpec("pubsub|shardchannels", -2, _ASKING, "pubsub", "7.0.0", "Shard channels that somebody hears.", "[pattern]", _PER_CHANNEL),
    CommandSpec(
        "pubsub|shardnumsub",
        -2,
        _ASKING,
        "pubsub",
        "7.0.0",
        "How many hear each shard channel.",
        "[shardchannel [shardchannel ...]]",
        _PER_CHANNEL,
    ),
    CommandSpec("pubsub|help", 2, ("loading", "stale"), "pubsub", "6.2.0", "The subcommands of PUBSUB."),
)

ROWS = (
    CommandSpec("subscribe", -2, _QUIET, "pubsub", "2.0.0", "Hears channels.", "channel [channel ...]", _PER_CHANNEL),
    CommandSpec("unsubscribe", -1, _QUIET, "pubsub", "2.0.0", "Hears channels no more.", "[channel [channel ...]]", _PER_CHANNEL),
    CommandSpec(
        "psubscribe", -2, _QUIET, "pubsub", "2.0.0", "Hears channels by pattern.", "pattern [pattern ...]", "O(N) for N patterns"
    ),
    CommandSpec(
        "punsubscribe", -1, _QUIET, "pubsub", "2.0.0", "Hears patterns no more.", "[pattern [pattern ...]]", "O(N) for N patterns"
    ),
    CommandSpec(
        "ssubscribe",
        -2,
        _QUIET,
        "pubsub",
        "7.0.0",
        "Hears shard channels.",
        "shardchannel [shardchannel ...]",
        _PER_CHANNEL,
        keys=_SHARD_CHANNELS,
    ),
    CommandSpec(
        "sunsubscribe",
        -1,
        _QUIET,
        "pubsub",
        "7.0.0",
        "Hears shard channels no more.",
        "[shardchannel [shardchannel ...]]",
        _PER_CHANNEL,
        keys=_SHARD_CHANNELS,
    ),
    CommandSpec(
        "publish",
        3,
        _TELLING,
        "pubsub",
        "2.0.0",
        "Tells the subscribers of a channel, on all workers.",
        "channel message",
        "O(N+M) for N subscribers and M patterns",
    ),
    CommandSpec(
        "spublish",
        3,
        _TELLING,
        "pubsub",
        "7.0.0",
        "Tells the subscribers of a shard channel, on all workers.",
        "shardchannel message",
        "O(N) for N subscribers",
        keys=(KeySpec(("not_key",)),),
    ),
    CommandSpec("pubsub", -2, (), "pubsub", "2.8.0", "Facts about channels.", complexity="as the subcommand", subcommands=_PUBSUB),
)
