"""Names of all commands of Redis 7.2 by group: what the compatibility page is measured against."""

from __future__ import annotations

# A container's subcommands follow its name: name:subcommand,subcommand.
_ROWS: dict[str, str] = {
    "connection": """
        auth
        client:caching,getname,getredir,help,id,info,kill,list,no-evict,no-touch,pause,reply,setinfo,setname,tracking,trackinginfo,unblock,unpause
        echo hello ping quit reset select
    """,
    "server": """
        acl:cat,deluser,dryrun,genpass,getuser,help,list,load,log,save,setuser,users,whoami bgrewriteaof bgsave
        command:count,docs,getkeys,getkeysandflags,help,info,list config:get,help,resetstat,rewrite,set dbsize debug failover
        flushall flushdb info lastsave latency:doctor,graph,help,histogram,history,latest,reset lolwut
        memory:doctor,help,malloc-stats,purge,stats,usage module:help,list,load,loadex,unload monitor psync replconf replicaof
        restore-asking role save shutdown slaveof slowlog:get,help,len,reset swapdb sync time
    """,
    "generic": """
        copy del dump exists expire expireat expiretime keys migrate move object:encoding,freq,help,idletime,refcount persist
        pexpire pexpireat pexpiretime pttl randomkey rename renamenx restore scan sort sort_ro touch ttl type unlink wait waitaof
    """,
    "string": """
        append decr decrby get getdel getex getrange getset incr incrby incrbyfloat lcs mget mset msetnx psetex set setex setnx
        setrange strlen substr
    """,
    "bitmap": """
        bitcount bitfield bitfield_ro bitop bitpos getbit setbit
    """,
    "hash": """
        hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield hscan hset hsetnx hstrlen hvals
    """,
    "list": """
        blmove blmpop blpop brpop brpoplpush lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange lrem lset ltrim rpop
        rpoplpush rpush rpushx
    """,
    "set": """
        sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember smove spop srandmember srem sscan
        sunion sunionstore
    """,
    "sorted-set": """
        bzmpop bzpopmax bzpopmin zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop zmscore
        zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank
        zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore
    """,
    "hyperloglog": """
        pfadd pfcount pfdebug pfmerge pfselftest
    """,
    "geo": """
        geoadd geodist geohash geopos georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch geosearchstore
    """,
    "stream": """
        xack xadd xautoclaim xclaim xdel xgroup:create,createconsumer,delconsumer,destroy,help,setid
        xinfo:consumers,groups,help,stream xlen xpending xrange xread xreadgroup xrevrange xsetid xtrim
    """,
    "pubsub": """
        psubscribe publish pubsub:channels,help,numpat,numsub,shardchannels,shardnumsub punsubscribe spublish ssubscribe subscribe
        sunsubscribe unsubscribe
    """,
    "transactions": """
        discard exec multi unwatch watch
    """,
    "scripting": """
        eval eval_ro evalsha evalsha_ro fcall fcall_ro function:delete,dump,flush,help,kill,list,load,restore,stats
        script:debug,exists,flush,help,kill,load
    """,
    "cluster": """
        asking
        cluster:addslots,addslotsrange,bumpepoch,count-failure-reports,countkeysinslot,delslots,delslotsrange,failover,flushslots,forget,getkeysinslot,help,info,keyslot,links,meet,myid,myshardid,nodes,replicas,replicate,reset,saveconfig,set-config-epoch,setslot,shards,slaves,slots
        readonly readwrite
    """,
}


def _split(row: str) -> tuple[str, tuple[str, ...]]:
    name, _, subcommands = row.partition(":")
    return name, tuple(subcommands.split(",")) if subcommands else ()


# Group -> command -> its subcommands, all in lower case.
REDIS_COMMANDS: dict[str, dict[str, tuple[str, ...]]] = {
    group: dict(_split(row) for row in rows.split()) for group, rows in _ROWS.items()
}
