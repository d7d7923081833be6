"""Access table: every command of Redis 7.0 and of kvcd with its access categories, numbered for the bit masks of access rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.command_table import COMMANDS

# In the order in which Redis lists them; it decides between equally good descriptions of what a user may do.
CATEGORIES = (
    "keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog", "geo", "stream", "pubsub",
    "admin", "fast", "slow", "blocking", "dangerous", "connection", "transaction", "scripting",
)  # fmt: skip

# What redis-server 7.0.15 says by COMMAND: categories, and the commands that are in all of them and in no other. Those that are not
# served here are among them, since rules are written for Redis and name them.
_REDIS_ROWS = {
    "admin fast dangerous": """
        lastsave role
    """,
    "admin slow dangerous": """
        acl|deluser acl|dryrun acl|getuser acl|list acl|load acl|log acl|save acl|setuser acl|users bgrewriteaof bgsave
        cluster|addslots cluster|addslotsrange cluster|bumpepoch cluster|count-failure-reports cluster|delslots cluster|delslotsrange
        cluster|failover cluster|flushslots cluster|forget cluster|meet cluster|replicas cluster|replicate cluster|reset
        cluster|saveconfig cluster|set-config-epoch cluster|setslot cluster|slaves config|get config|resetstat config|rewrite
        config|set debug failover latency|doctor latency|graph latency|histogram latency|history latency|latest latency|reset
        module|list module|load module|loadex module|unload monitor psync replconf replicaof save shutdown slaveof slowlog|get
        slowlog|len slowlog|reset sync
    """,
    "admin slow dangerous connection": """
        client|kill client|list client|no-evict client|pause client|unblock client|unpause
    """,
    "fast": """
        time
    """,
    "fast connection": """
        asking auth echo hello ping quit readonly readwrite reset select
    """,
    "fast transaction": """
        discard multi unwatch watch
    """,
    "hyperloglog admin slow dangerous": """
        pfselftest
    """,
    "keyspace read fast": """
        dbsize exists expiretime pexpiretime pttl touch ttl type
    """,
    "keyspace read slow": """
        dump object|encoding object|freq object|idletime object|refcount randomkey scan
    """,
    "keyspace read slow dangerous": """
        keys
    """,
    "keyspace slow": """
        object|help
    """,
    "keyspace write fast": """
        expire expireat move persist pexpire pexpireat renamenx unlink
    """,
    "keyspace write fast dangerous": """
        swapdb
    """,
    "keyspace write slow": """
        copy del rename
    """,
    "keyspace write slow dangerous": """
        flushall flushdb migrate restore restore-asking
    """,
    "pubsub fast": """
        publish spublish
    """,
    "pubsub slow": """
        psubscribe pubsub|channels pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub punsubscribe ssubscribe
        subscribe sunsubscribe unsubscribe
    """,
    "read bitmap fast": """
        bitfield_ro getbit
    """,
    "read bitmap slow": """
        bitcount bitpos
    """,
    "read fast": """
        lolwut
    """,
    "read geo slow": """
        geodist geohash geopos georadius_ro georadiusbymember_ro geosearch
    """,
    "read hash fast": """
        hexists hget hlen hmget hstrlen
    """,
    "read hash slow": """
        hgetall hkeys hrandfield hscan hvals
    """,
    "read hyperloglog slow": """
        pfcount
    """,
    "read list fast": """
        llen
    """,
    "read list slow": """
        lindex lpos lrange
    """,
    "read set fast": """
        scard sismember smismember
    """,
    "read set slow": """
        sdiff sinter sintercard smembers srandmember sscan sunion
    """,
    "read set sortedset list slow dangerous": """
        sort_ro
    """,
    "read slow": """
        memory|usage
    """,
    "read sortedset fast": """
        zcard zcount zlexcount zmscore zrank zrevrank zscore
    """,
    "read sortedset slow": """
        zdiff zinter zintercard zrandmember zrange zrangebylex zrangebyscore zrevrange zrevrangebylex zrevrangebyscore zscan zunion
    """,
    "read stream fast": """
        xlen
    """,
    "read stream slow": """
        xinfo|consumers xinfo|groups xinfo|stream xpending xrange xrevrange
    """,
    "read stream slow blocking": """
        xread
    """,
    "read string fast": """
        get mget strlen
    """,
    "read string slow": """
        getrange lcs substr
    """,
    "slow": """
        acl acl|cat acl|genpass acl|help acl|whoami client cluster cluster|countkeysinslot cluster|getkeysinslot cluster|help
        cluster|info cluster|keyslot cluster|links cluster|myid cluster|nodes cluster|shards cluster|slots config config|help function
        latency latency|help memory memory|doctor memory|help memory|malloc-stats memory|purge memory|stats module module|help object
        pubsub pubsub|help script slowlog slowlog|help xgroup xinfo
    """,
    "slow connection": """
        client|caching client|getname client|getredir client|help client|id client|info client|reply client|setname client|tracking
        client|trackinginfo command command|count command|docs command|getkeys command|getkeysandflags command|help command|info
        command|list wait
    """,
    "slow dangerous": """
        info
    """,
    "slow scripting": """
        eval eval_ro evalsha evalsha_ro fcall fcall_ro function|dump function|help function|kill function|list function|stats
        script|debug script|exists script|flush script|help script|kill script|load
    """,
    "slow transaction": """
        exec
    """,
    "stream slow": """
        xgroup|help xinfo|help
    """,
    "write bitmap slow": """
        bitfield bitop setbit
    """,
    "write geo slow": """
        geoadd georadius georadiusbymember geosearchstore
    """,
    "write hash fast": """
        hdel hincrby hincrbyfloat hmset hset hsetnx
    """,
    "write hyperloglog admin slow dangerous": """
        pfdebug
    """,
    "write hyperloglog fast": """
        pfadd
    """,
    "write hyperloglog slow": """
        pfmerge
    """,
    "write list fast": """
        lpop lpush lpushx rpop rpush rpushx
    """,
    "write list slow": """
        linsert lmove lmpop lrem lset ltrim rpoplpush
    """,
    "write list slow blocking": """
        blmove blmpop blpop brpop brpoplpush
    """,
    "write set fast": """
        sadd smove spop srem
    """,
    "write set slow": """
        sdiffstore sinterstore sunionstore
    """,
    "write set sortedset list slow dangerous": """
        sort
    """,
    "write slow scripting": """
        function|delete function|flush function|load function|restore
    """,
    "write sortedset fast": """
        zadd zincrby zpopmax zpopmin zrem
    """,
    "write sortedset fast blocking": """
        bzpopmax bzpopmin
    """,
    "write sortedset slow": """
        zdiffstore zinterstore zmpop zrangestore zremrangebylex zremrangebyrank zremrangebyscore zunionstore
    """,
    "write sortedset slow blocking": """
        bzmpop
    """,
    "write stream fast": """
        xack xadd xautoclaim xclaim xdel xsetid
    """,
    "write stream slow": """
        xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy xgroup|setid xtrim
    """,
    "write stream slow blocking": """
        xreadgroup
    """,
    "write string fast": """
        append decr decrby getdel getex getset incr incrby incrbyfloat setnx
    """,
    "write string slow": """
        mset msetnx psetex set setex setrange
    """,
}

_BITS = 1024
# Set by +@all alone: commands of the future are allowed too.
FUTURE = 1 << (_BITS - 1)
EVERYTHING = (1 << _BITS) - 1


@dataclass(frozen=True, slots=True)
class Category:
    """Masks of one category: of Redis's commands in it, and of what a rule for it reaches, which is all their subcommands too.

    ``members`` leaves out kvcd's own commands, so that users are described in the words that Redis would choose.
    """

    members: int
    reach: int


def _categories_by_command() -> dict[str, frozenset[str]]:
    """Return each command's categories by its full name; a container stands before its subcommands."""
    found = {name: frozenset(categories.split()) for categories, names in _REDIS_ROWS.items() for name in names.split()}
    for row in COMMANDS.values():
        for spec in (row, *row.subcommands):
            found.setdefault(spec.name, frozenset(category.removeprefix("@") for category in spec.acl_categories))
    return dict(sorted(found.items()))


REDIS_COMMANDS = frozenset(name for names in _REDIS_ROWS.values() for name in names.split())
_CATEGORIES_OF = _categories_by_command()
# The bit of each command, by its full name in lower case.
BITS = {name: 1 << number for number, name in enumerate(_CATEGORIES_OF)}
assert len(BITS) < _BITS - 1, len(BITS)


def _mask(names: Iterable[str]) -> int:
    return sum(BITS[name] for name in names)


# Of each container: its subcommands' full names.
SUBCOMMANDS: dict[str, tuple[str, ...]] = {}
for _name in BITS:
    _container, _, _short_name = _name.partition("|")
    if _short_name:
        SUBCOMMANDS[_container] = (*SUBCOMMANDS.get(_container, ()), _name)


def reach(name: str) -> int:
    """Return the mask of what a rule for this command reaches: the command and its subcommands."""
    return BITS[name] | _mask(SUBCOMMANDS.get(name, ()))


def members(category: str) -> list[str]:
    """Return the full names of the commands in a category."""
    return [name for name, categories in _CATEGORIES_OF.items() if category in categories]


def _category(name: str) -> Category:
    names = members(name)
    reached = 0
    for member in names:
        reached |= reach(member)
    return Category(_mask(member for member in names if member in REDIS_COMMANDS), reached)


CATEGORY = {name: _category(name) for name in CATEGORIES}
