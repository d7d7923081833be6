"""The directives that mean something to kvcd, as data: its own, and the ones that it shares with redis-server."""

from __future__ import annotations

import difflib

from kvcd.directive import INT32_MAX, UINT64_MAX, Directive, Kind, Standing
from kvcd.directives_ignored import IGNORED

NETWORK, CLIENTS, POOL, MEMORY, SERVICE, LOGS = "network", "clients", "pool", "memory", "service", "logs"
SNAPSHOTS, REFUSED = "snapshots", "not to be had"

EVICTION_POLICIES = (
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-prefix",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "noeviction",
)

ENDINGS = ("default", "save", "nosave", "now", "force")

# fmt: off
OWN = (
    Directive("pool", Kind.TEXT, "shm:",
              "where blocks live: shm: (anonymous shared memory), file:PATH, or verbs://HOST:PORT[,HOST:PORT...] (memory nodes)",
              POOL, Standing.OWN, mutable=False),
    Directive("pool-size", Kind.MEMORY_OR_PERCENT, "80%",
              "size of the pool, fixed at start; a percentage is of the machine's or container's memory",
              POOL, Standing.OWN, mutable=False, minimum=1024**2),
    Directive("index-entries", Kind.INTEGER, "0", "entries that the index is built for; 0: the larger of 1048576 and pool bytes / 4096",
              POOL, Standing.OWN, mutable=False, maximum=2**40),
    Directive("inflight-share", Kind.PERCENT, "25", "most of the pool, in percent, that values still being received may take",
              POOL, Standing.OWN, minimum=1, maximum=100),
    Directive("pinned-share", Kind.PERCENT, "25", "most of the pool, in percent, that replies not yet read by clients may keep from reuse",
              POOL, Standing.OWN, minimum=1, maximum=100),
    Directive("memory-secret-file", Kind.TEXT, "",
              "file with the secret of the memory nodes (verbs pools); empty: KVCD_MEMORY_SECRET_FILE, or the value of KVCD_MEMORY_SECRET",
              POOL, Standing.OWN, mutable=False),
    Directive("memory-node-timeout-ms", Kind.INTEGER, "1000",
              "how long an operation on a memory node may take before the node counts as lost",
              POOL, Standing.OWN, mutable=False, minimum=10, maximum=600000),
    Directive("rdma-device", Kind.TEXT, "", "RDMA device, as `kvcd doctor` lists them; empty: the first with an active port",
              POOL, Standing.OWN, mutable=False),
    Directive("rdma-gid-index", Kind.INTEGER, "-1", "GID of that device's port; -1: the first of RoCE v2 over IPv4, else the first",
              POOL, Standing.OWN, mutable=False, minimum=-1, maximum=65535),
    Directive("rdma-staging-size", Kind.MEMORY, "64mb", "registered memory through which values pass on their way to memory nodes and back",
              POOL, Standing.OWN, mutable=False, minimum=16 * 1024**2),
    Directive("location-cache-entries", Kind.INTEGER, "65536",
              "blocks of each memory node whose place is remembered, 64 bytes each; 0: none",
              POOL, Standing.OWN, mutable=False, maximum=2**28),
    Directive("hot-values-size", Kind.MEMORY, "64mb",
              "memory of each worker for copies of the values that are read most (verbs pools); 0: none",
              POOL, Standing.OWN, mutable=False),
    Directive("batches-in-flight", Kind.INTEGER, "64", "clients whose commands wait for memory nodes at a time (verbs pools)",
              CLIENTS, Standing.OWN, mutable=False, minimum=1, maximum=4096),
    Directive("batch-size-limit", Kind.INTEGER, "1024",
              "most pipelined commands that one connection executes before others have their turn",
              CLIENTS, Standing.OWN, minimum=1, maximum=1048576),
    Directive("pair-eviction", Kind.YES_NO, "yes",
              "evict two keys that LMCache stores for one block, KEYmetadata and KEYkv_bytes, together",
              MEMORY, Standing.OWN),
    Directive("lookup-protection-ms", Kind.INTEGER, "5000",
              "how long a key that EXISTS or PREFIX.MATCH found is kept from eviction; 0: not at all",
              MEMORY, Standing.OWN, maximum=600000),
    Directive("lookup-protection-share", Kind.PERCENT, "10",
              "most of maxmemory, in percent, that is kept for it; where more was found lately, the last of it",
              MEMORY, Standing.OWN, minimum=1, maximum=90),
    Directive("lease-share", Kind.PERCENT, "25", "most of maxmemory, in percent, that clients may lease (PREFIX.LEASE)",
              MEMORY, Standing.OWN, minimum=0, maximum=90),
    Directive("lease-max-ms", Kind.INTEGER, "3600000", "longest lease that a client may ask for",
              MEMORY, Standing.OWN, minimum=1, maximum=3600000),
    Directive("chain-inference", Kind.YES_NO, "yes",
              "take the order of a connection's EXISTS, GET and SET for chains of blocks (allkeys-prefix)",
              MEMORY, Standing.OWN),
    Directive("eviction-low-watermark", Kind.FINE_PERCENT, "0.1",
              "share of maxmemory, in percent: when less of it is free, background eviction begins (4 pages of 64 KiB at least); 0: "
              "whoever writes evicts",
              MEMORY, Standing.OWN, maximum=2500),
    Directive("eviction-high-watermark", Kind.FINE_PERCENT, "0.2", "share of maxmemory, in percent, that it makes free",
              MEMORY, Standing.OWN, maximum=5000),
    Directive("stall-limit-ms", Kind.INTEGER, "10000",
              "a client that neither sends nor reads for so long while others wait for the memory it holds is closed",
              CLIENTS, Standing.OWN, minimum=1, maximum=INT32_MAX),
    Directive("stop-deadline-ms", Kind.INTEGER, "5000", "how long SIGTERM lets running commands and unread replies finish",
              SERVICE, Standing.OWN, maximum=INT32_MAX),
    Directive("workers", Kind.INTEGER_OR_AUTO, "1",
              "processes that serve clients, on one port and one pool; auto: one for each usable core",
              SERVICE, Standing.OWN, mutable=False, minimum=1, maximum=256),
    Directive("channel-queue-limit", Kind.MEMORY, "256mb",
              "most bytes of messages between workers that wait for one of them; who leaves more unread is ended and started anew",
              SERVICE, Standing.OWN, mutable=False, minimum=1024**2),
    Directive("admin-port", Kind.INTEGER, "0", "port of /healthz, /readyz and /metrics over HTTP; 0: none",
              SERVICE, Standing.OWN, mutable=False, maximum=65535),
    Directive("admin-bind", Kind.LIST, "127.0.0.1", "addresses that the admin port is open on",
              SERVICE, Standing.OWN, mutable=False),
    Directive("log-format", Kind.CHOICE, "auto",
              "json, console, plain (redis-server's lines), or auto: console on a terminal, json elsewhere, plain where kvcd was started "
              "as redis-server is",
              LOGS, Standing.OWN, mutable=False, choices=("auto", "json", "console", "plain")),
)

HONOURED = (
    Directive("port", Kind.INTEGER, "6379", "TCP port; 0: none", NETWORK, maximum=65535),
    Directive("bind", Kind.LIST, "127.0.0.1 -::1", "addresses to listen on; one with a leading - may be missing on the machine",
              NETWORK),
    Directive("unixsocket", Kind.TEXT, "", "path of a Unix socket to listen on as well", NETWORK, mutable=False),
    Directive("unixsocketperm", Kind.OCTAL, "0",
              "mode of that socket, such as 700; 0: as the umask has it", NETWORK, mutable=False, maximum=0o777),
    Directive("protected-mode", Kind.YES_NO, "yes", "without a password, answer only clients of this machine", NETWORK),
    Directive("tcp-backlog", Kind.INTEGER, "511", "connections that may wait to be accepted", NETWORK, mutable=False, maximum=INT32_MAX),
    Directive("tcp-keepalive", Kind.INTEGER, "300", "seconds of silence after which TCP asks whether a client is there; 0: never",
              NETWORK, maximum=INT32_MAX),
    Directive("tls-port", Kind.INTEGER, "0", "TLS port to listen on as well; 0: none", NETWORK, maximum=65535),
    Directive("tls-cert-file", Kind.TEXT, "", "certificate chain of the TLS port, PEM", NETWORK),
    Directive("tls-key-file", Kind.TEXT, "", "its private key, PEM", NETWORK),
    Directive("tls-key-file-pass", Kind.TEXT, "", "what that key is encrypted with; empty: it is not", NETWORK),
    Directive("tls-ca-cert-file", Kind.TEXT, "", "certificates that clients' ones must lead to, PEM", NETWORK),
    Directive("tls-ca-cert-dir", Kind.TEXT, "", "folder of such certificates, named by their hashes", NETWORK),
    Directive("tls-auth-clients", Kind.CHOICE, "yes", "whether TLS clients must show a certificate", NETWORK,
              choices=("no", "yes", "optional")),
    Directive("tls-protocols", Kind.TEXT, "", "versions that are spoken, such as TLSv1.2 TLSv1.3; empty: those two", NETWORK),
    Directive("tls-ciphers", Kind.TEXT, "", "ciphers up to TLS 1.2, as OpenSSL lists them; empty: OpenSSL's choice", NETWORK),
    Directive("tls-prefer-server-ciphers", Kind.YES_NO, "no", "choose the cipher in this order, not in the client's", NETWORK),
    Directive("tls-dh-params-file", Kind.TEXT, "", "parameters of Diffie-Hellman ciphers, PEM", NETWORK),
    Directive("tls-session-caching", Kind.YES_NO, "yes", "let TLS clients resume sessions", NETWORK),
    Directive("user", Kind.LIST, "", "a user and its rules, as ACL SETUSER takes them; any number of lines",
              CLIENTS, mutable=False, shown=False, repeats=True),
    Directive("aclfile", Kind.TEXT, "", "file of users, for ACL LOAD and ACL SAVE; empty: none", CLIENTS, mutable=False),
    Directive("acllog-max-len", Kind.INTEGER, "128", "refusals that ACL LOG remembers", CLIENTS),
    Directive("acl-pubsub-default", Kind.CHOICE, "resetchannels", "channels of a new user", CLIENTS,
              choices=("allchannels", "resetchannels")),
    Directive("rename-command", Kind.LIST, "", "a command's name and its new one, \"\" for none at all; any number of lines",
              CLIENTS, mutable=False, shown=False, repeats=True),
    Directive("requirepass", Kind.TEXT, "", "password of the default user; empty: none", CLIENTS),
    Directive("maxclients", Kind.INTEGER, "10000", "most connections at a time", CLIENTS, minimum=1, maximum=2**32 - 1),
    Directive("timeout", Kind.INTEGER, "0", "seconds after which an idle connection is closed; 0: never", CLIENTS, maximum=INT32_MAX),
    Directive("maxmemory-clients", Kind.MEMORY_OR_PERCENT, "0",
              "most bytes of all clients' unfinished requests and unread replies, or a share of maxmemory; above it the largest are "
              "closed; each of several workers has an even part; 0: no limit", CLIENTS),
    Directive("client-query-buffer-limit", Kind.MEMORY, "1073741824",
              "most bytes of one client's unfinished request", CLIENTS, minimum=1048576),
    Directive("client-output-buffer-limit", Kind.OUTPUT_LIMITS, "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
              "unread reply bytes after which a client is closed, by class", CLIENTS),
    Directive("proto-max-bulk-len", Kind.MEMORY, "536870912", "most bytes of one argument", CLIENTS, minimum=1048576),
    Directive("maxmemory", Kind.MEMORY, "0", "most bytes of the pool to use; 0: all of it", MEMORY, maximum=UINT64_MAX),
    Directive("maxmemory-policy", Kind.CHOICE, "allkeys-prefix",
              "what gives way when that is reached (redis-server's default is noeviction)",
              MEMORY, choices=EVICTION_POLICIES),
    Directive("lfu-log-factor", Kind.INTEGER, "10", "how slowly the counter of the lfu policies grows with accesses",
              MEMORY, maximum=INT32_MAX),
    Directive("lfu-decay-time", Kind.INTEGER, "1", "minutes without an access after which that counter falls by one; 0: it never does",
              MEMORY, maximum=INT32_MAX),
    Directive("save", Kind.SAVE_POINTS, "",
              "save a snapshot when so many seconds have passed with so many changes, and at the end (redis-server's default is "
              "3600 1 300 100 60 10000); empty: only when asked to", SNAPSHOTS),
    Directive("shutdown-on-sigint", Kind.CHOICES, "default",
              "SHUTDOWN's words for SIGINT: save, nosave, force (end although the snapshot cannot be saved), now; default: as `save` says",
              SNAPSHOTS, choices=ENDINGS),
    Directive("shutdown-on-sigterm", Kind.CHOICES, "default", "the same for SIGTERM", SNAPSHOTS, choices=ENDINGS),
    Directive("dbfilename", Kind.FILE_NAME, "dump.rdb", "file of the snapshot; a new pool begins with it", SNAPSHOTS, protected=True),
    Directive("dir", Kind.TEXT, "", "folder of that file; empty: the working directory", SNAPSHOTS, protected=True),
    Directive("rdbchecksum", Kind.YES_NO, "yes", "end a snapshot with a checksum of all of it", SNAPSHOTS, mutable=False),
    Directive("stop-writes-on-bgsave-error", Kind.YES_NO, "yes",
              "refuse writes while save rules are on and the last snapshot was not saved", SNAPSHOTS),
    Directive("databases", Kind.INTEGER, "16", "databases that SELECT chooses from", SERVICE, mutable=False, minimum=1, maximum=INT32_MAX),
    Directive("notify-keyspace-events", Kind.EVENT_CLASSES, "",
              "what subscribers are told of keys: K and E for the two kinds of channels, and the classes of events", SERVICE),
    Directive("tracking-table-max-keys", Kind.INTEGER, "1000000",
              "keys remembered for clients that cache what they read (CLIENT TRACKING), in each worker; 0: any number", SERVICE),
    Directive("hz", Kind.INTEGER, "10", "rounds of background work a second", SERVICE, maximum=INT32_MAX),
    Directive("daemonize", Kind.YES_NO, "no", "go to the background", SERVICE, mutable=False),
    Directive("pidfile", Kind.TEXT, "", "file that holds the process id while the service runs", SERVICE, mutable=False),
    Directive("supervised", Kind.CHOICE, "no", "tell systemd when the service is ready", SERVICE, mutable=False,
              choices=("upstart", "systemd", "auto", "no")),
    Directive("slowlog-log-slower-than", Kind.INTEGER, "10000",
              "microseconds from which on a command is in SLOWLOG; below 100 all commands take the slow lane, to be seen one by one; "
              "-1: none is", SERVICE, minimum=-1),
    Directive("slowlog-max-len", Kind.INTEGER, "128", "commands that SLOWLOG remembers, of each worker", SERVICE),
    Directive("latency-monitor-threshold", Kind.INTEGER, "0", "milliseconds from which on LATENCY remembers a command; 0: never", SERVICE),
    Directive("latency-tracking", Kind.YES_NO, "yes", "count how long commands take, for INFO latencystats and LATENCY HISTOGRAM", SERVICE),
    Directive("latency-tracking-info-percentiles", Kind.PERCENTILES, "50 99 99.9", "the percentiles that INFO latencystats gives", SERVICE),
    Directive("enable-debug-command", Kind.CHOICE, "no", "who may use DEBUG", SERVICE, mutable=False, choices=("no", "yes", "local")),
    Directive("loglevel", Kind.CHOICE, "notice", "least important lines to log", LOGS, choices=("debug", "verbose", "notice", "warning")),
    Directive("logfile", Kind.TEXT, "", "file to append the log to; empty: standard output", LOGS, mutable=False),
)

# Who may do what, and which servers hold what: a stack relies on that, so what kvcd cannot do of it is refused at start. What only asks
# for durability or for something on the side (appendonly, slow log) is among the ignored ones: taken with a warning.
REFUSALS = (
    Directive("cluster-enabled", Kind.YES_NO, "no", "Redis Cluster", REFUSED, mutable=False, harmless=("no",),
              refusal="kvcd is no Redis Cluster node: leave cluster-enabled at no"),
    Directive("replicaof", Kind.LIST, "", "replication", REFUSED, mutable=False, aliases=("slaveof",), harmless=("", "no one", "NO ONE"),
              refusal="kvcd does not replicate: leave replicaof out"),
    Directive("min-replicas-to-write", Kind.INTEGER, "0",
              "replication", REFUSED, maximum=INT32_MAX, aliases=("min-slaves-to-write",), harmless=("0",),
              refusal="kvcd does not replicate: leave min-replicas-to-write at 0"),
    Directive("tls-ciphersuites", Kind.TEXT, "", "ciphers of TLS 1.3", REFUSED, harmless=("",),
              refusal="Python's TLS cannot choose the ciphers of TLS 1.3: leave tls-ciphersuites out"),
    Directive("loadmodule", Kind.LIST, "", "modules", REFUSED, mutable=False, shown=False,
              refusal="kvcd loads no modules: leave loadmodule out"),
)
# fmt: on

DIRECTIVES: tuple[Directive, ...] = OWN + HONOURED + REFUSALS + IGNORED
BY_NAME: dict[str, Directive] = {name: directive for directive in DIRECTIVES for name in (directive.name, *directive.aliases)}


def find(name: str) -> Directive | None:
    """Return the directive of that name or alias, in any case, or None."""
    return BY_NAME.get(name.lower())


def nearest_name(name: str) -> str | None:
    """Return the directive that somebody who wrote ``name`` most likely meant, or None; kvcd's meaningful ones first."""
    meaningful = [directive.name for directive in OWN + HONOURED]
    for names in (meaningful, list(BY_NAME)):
        close = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=1, cutoff=0.72)
        if close:
            return close[0]
    return None
