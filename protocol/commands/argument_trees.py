"""Arguments of the commands as COMMAND DOCS tells them of redis-server 7.0, one command a line."""

from __future__ import annotations

# Each argument: name=type, then @TOKEN, #number of its key specification, ~version since, ^version that deprecated it,
# ? optional, * several, + token before each of them, and in brackets the arguments that it is made of.
TREES = r"""
acl|getuser: username=string
acl|genpass: bits=integer?
acl|deluser: username=string*
acl|dryrun: username=string command=string arg=string?*
acl|setuser: username=string rule=string?*
acl|log: operation=oneof?(count=integer reset=pure-token@RESET)
acl|cat: categoryname=string?
append: key=key#0 value=string
auth: username=string~6.0.0? password=string
bgsave: schedule=pure-token@SCHEDULE~3.2.2?
bitcount: key=key#0 index=block?(start=integer end=integer index_unit=oneof~7.0.0?(byte=pure-token@BYTE bit=pure-token@BIT))
bitfield: key=key#0 operation=oneof?*(encoding_offset=block@GET(encoding=string offset=integer)
    write=block(wrap_sat_fail=oneof@OVERFLOW?(wrap=pure-token@WRAP sat=pure-token@SAT fail=pure-token@FAIL)
    write_operation=oneof(encoding_offset_value=block@SET(encoding=string offset=integer value=integer)
    encoding_offset_increment=block@INCRBY(encoding=string offset=integer increment=integer))))
bitfield_ro: key=key#0 encoding_offset=block@GET?*+(encoding=string offset=integer)
bitop: operation=string destkey=key#0 key=key#1*
bitpos: key=key#0 bit=integer index=block?(start=integer end_index=block?(end=integer index_unit=oneof~7.0.0?(byte=pure-token@BYTE
    bit=pure-token@BIT)))
client|no-evict: enabled=oneof(on=pure-token@ON off=pure-token@OFF)
client|kill: filter=oneof(ip:port=string^2.8.12 new-format=oneof*(client-id=integer@ID~2.8.12?
    normal_master_slave_pubsub=oneof@TYPE~2.8.12?(normal=pure-token@NORMAL master=pure-token@MASTER~3.2.0 slave=pure-token@SLAVE
    replica=pure-token@REPLICA~5.0.0 pubsub=pure-token@PUBSUB) username=string@USER? ip:port=string@ADDR? ip:port=string@LADDR~6.2.0?
    yes/no=string@SKIPME?))
client|pause: timeout=integer mode=oneof~6.2.0?(write=pure-token@WRITE all=pure-token@ALL)
client|reply: on_off_skip=oneof(on=pure-token@ON off=pure-token@OFF skip=pure-token@SKIP)
client|setname: connection-name=string
client|unblock: client-id=integer timeout_error=oneof?(timeout=pure-token@TIMEOUT error=pure-token@ERROR)
client|tracking: status=oneof(on=pure-token@ON off=pure-token@OFF) client-id=integer@REDIRECT? prefix=string@PREFIX?*+
    bcast=pure-token@BCAST? optin=pure-token@OPTIN? optout=pure-token@OPTOUT? noloop=pure-token@NOLOOP?
client|list: normal_master_replica_pubsub=oneof@TYPE~5.0.0?(normal=pure-token@NORMAL master=pure-token@MASTER replica=pure-token@REPLICA
    pubsub=pure-token@PUBSUB) id=block@ID~6.2.0?(client-id=integer*)
client|caching: mode=oneof(yes=pure-token@YES no=pure-token@NO)
cluster|replicate: node-id=string
cluster|countkeysinslot: slot=integer
cluster|meet: ip=string port=integer cluster_bus_port=integer~4.0.0?
cluster|setslot: slot=integer subcommand=oneof(node-id=string@IMPORTING node-id=string@MIGRATING node-id=string@NODE
    stable=pure-token@STABLE)
cluster|delslotsrange: start-slot_end-slot=block*(start-slot=integer end-slot=integer)
cluster|addslotsrange: start-slot_end-slot=block*(start-slot=integer end-slot=integer)
cluster|keyslot: key=string
cluster|slaves: node-id=string
cluster|count-failure-reports: node-id=string
cluster|getkeysinslot: slot=integer count=integer
cluster|failover: options=oneof?(force=pure-token@FORCE takeover=pure-token@TAKEOVER)
cluster|reset: hard_soft=oneof?(hard=pure-token@HARD soft=pure-token@SOFT)
cluster|replicas: node-id=string
cluster|forget: node-id=string
cluster|delslots: slot=integer*
cluster|set-config-epoch: config-epoch=integer
cluster|addslots: slot=integer*
command|docs: command-name=string?*
command|list: filterby=oneof@FILTERBY?(module-name=string@MODULE category=string@ACLCAT pattern=pattern@PATTERN)
command|info: command-name=string?*
config|set: parameter_value=block*(parameter=string value=string)
config|get: parameter=block*(parameter=string)
copy: source=key#0 destination=key#1 destination-db=integer@DB? replace=pure-token@REPLACE?
decr: key=key#0
decrby: key=key#0 decrement=integer
del: key=key#0*
dump: key=key#0
echo: message=string
exists: key=key#0*
expire: key=key#0 seconds=integer condition=oneof~7.0.0?(nx=pure-token@NX xx=pure-token@XX gt=pure-token@GT lt=pure-token@LT)
expireat: key=key#0 unix-time-seconds=unix-time condition=oneof~7.0.0?(nx=pure-token@NX xx=pure-token@XX gt=pure-token@GT
    lt=pure-token@LT)
expiretime: key=key#0
failover: target=block@TO?(host=string port=integer force=pure-token@FORCE?) abort=pure-token@ABORT? milliseconds=integer@TIMEOUT?
flushall: async=oneof?(async=pure-token@ASYNC~4.0.0 sync=pure-token@SYNC~6.2.0)
flushdb: async=oneof?(async=pure-token@ASYNC~4.0.0 sync=pure-token@SYNC~6.2.0)
get: key=key#0
getbit: key=key#0 offset=integer
getdel: key=key#0
getex: key=key#0 expiration=oneof?(seconds=integer@EX milliseconds=integer@PX unix-time-seconds=unix-time@EXAT
    unix-time-milliseconds=unix-time@PXAT persist=pure-token@PERSIST)
getrange: key=key#0 start=integer end=integer
getset: key=key#0 value=string
hello: arguments=block?(protover=integer username_password=block@AUTH?(username=string password=string) clientname=string@SETNAME?)
incr: key=key#0
incrby: key=key#0 increment=integer
incrbyfloat: key=key#0 increment=double
info: section=string?*
keys: pattern=pattern
latency|history: event=string
latency|histogram: command=string?*
latency|reset: event=string?*
latency|graph: event=string
lcs: key1=key#0 key2=key#0 len=pure-token@LEN? idx=pure-token@IDX? len=integer@MINMATCHLEN? withmatchlen=pure-token@WITHMATCHLEN?
lolwut: version=integer@VERSION?
memory|usage: key=key#0 count=integer@SAMPLES?
mget: key=key#0*
migrate: host=string port=integer key_or_empty_string=oneof(key=key#0 empty_string=pure-token@"") destination-db=integer timeout=integer
    copy=pure-token@COPY~3.0.0? replace=pure-token@REPLACE~3.0.0? authentication=oneof?(password=string@AUTH~4.0.7?
    username_password=block@AUTH2~6.0.0?(username=string password=string)) key=key@KEYS#1~3.0.6?*
module|load: path=string arg=string?*
module|loadex: path=string configs=block@CONFIG?*+(name=string value=string) args=block@ARGS?*(arg=string)
module|unload: name=string
move: key=key#0 db=integer
mset: key_value=block*(key=key#0 value=string)
msetnx: key_value=block*(key=key#0 value=string)
object|encoding: key=key#0
object|idletime: key=key#0
object|refcount: key=key#0
object|freq: key=key#0
persist: key=key#0
pexpire: key=key#0 milliseconds=integer condition=oneof~7.0.0?(nx=pure-token@NX xx=pure-token@XX gt=pure-token@GT lt=pure-token@LT)
pexpireat: key=key#0 unix-time-milliseconds=unix-time condition=oneof~7.0.0?(nx=pure-token@NX xx=pure-token@XX gt=pure-token@GT
    lt=pure-token@LT)
pexpiretime: key=key#0
ping: message=string?
psetex: key=key#0 milliseconds=integer value=string
psubscribe: pattern=block*(pattern=pattern)
psync: replicationid=string offset=integer
pttl: key=key#0
publish: channel=string message=string
pubsub|numsub: channel=string?*
pubsub|channels: pattern=pattern?
pubsub|shardchannels: pattern=pattern?
pubsub|shardnumsub: shardchannel=string?*
punsubscribe: pattern=pattern?*
rename: key=key#0 newkey=key#1
renamenx: key=key#0 newkey=key#1
replicaof: args=oneof(host-port=block(host=string port=integer) no-one=block(no=pure-token@NO one=pure-token@ONE))
restore: key=key#0 ttl=integer serialized-value=string replace=pure-token@REPLACE~3.0.0? absttl=pure-token@ABSTTL~5.0.0?
    seconds=integer@IDLETIME~5.0.0? frequency=integer@FREQ~5.0.0?
restore-asking: key=key#0 ttl=integer serialized-value=string replace=pure-token@REPLACE~3.0.0? absttl=pure-token@ABSTTL~5.0.0?
    seconds=integer@IDLETIME~5.0.0? frequency=integer@FREQ~5.0.0?
scan: cursor=integer pattern=pattern@MATCH? count=integer@COUNT? type=string@TYPE~6.0.0?
select: index=integer
set: key=key#0 value=string condition=oneof~2.6.12?(nx=pure-token@NX xx=pure-token@XX) get=pure-token@GET~6.2.0?
    expiration=oneof?(seconds=integer@EX~2.6.12 milliseconds=integer@PX~2.6.12 unix-time-seconds=unix-time@EXAT~6.2.0
    unix-time-milliseconds=unix-time@PXAT~6.2.0 keepttl=pure-token@KEEPTTL~6.0.0)
setbit: key=key#0 offset=integer value=integer
setex: key=key#0 seconds=integer value=string
setnx: key=key#0 value=string
setrange: key=key#0 offset=integer value=string
shutdown: nosave_save=oneof?(nosave=pure-token@NOSAVE save=pure-token@SAVE) now=pure-token@NOW~7.0.0? force=pure-token@FORCE~7.0.0?
    abort=pure-token@ABORT~7.0.0?
slaveof: args=oneof(host-port=block(host=string port=integer) no-one=block(no=pure-token@NO one=pure-token@ONE))
slowlog|get: count=integer?
sort: key=key#0 pattern=pattern@BY#1? offset_count=block@LIMIT?(offset=integer count=integer) pattern=pattern@GET#1?*+
    order=oneof?(asc=pure-token@ASC desc=pure-token@DESC) sorting=pure-token@ALPHA? destination=key@STORE#2?
sort_ro: key=key#0 pattern=pattern@BY#1? offset_count=block@LIMIT?(offset=integer count=integer) pattern=pattern@GET#1?*+
    order=oneof?(asc=pure-token@ASC desc=pure-token@DESC) sorting=pure-token@ALPHA?
spublish: shardchannel=string message=string
ssubscribe: shardchannel=string*
strlen: key=key#0
subscribe: channel=string*
substr: key=key#0 start=integer end=integer
sunsubscribe: shardchannel=string?*
swapdb: index1=integer index2=integer
touch: key=key#0*
ttl: key=key#0
type: key=key#0
unlink: key=key#0*
unsubscribe: channel=string?*
wait: numreplicas=integer timeout=integer
watch: key=key#0*
"""
