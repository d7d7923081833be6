"""The directives of redis-server 7.0 and 7.2 that mean nothing to kvcd, as data, by the reason why."""

from __future__ import annotations

from kvcd.directive import INT32_MAX, INT64_MAX, Directive, Kind, Standing

_ROWS: dict[str, str] = {
    # Each row: name[=alias] kind default [minimum maximum | choices]; kinds: y yes/no, i integer, m memory, p memory or percent,
    # c choice, t text, l list, s scores, e event classes. Before the kind: ! fixed at start, * taken but never shown,
    # = nothing to warn of when it has its default.
    "kvcd writes no append-only file, and its snapshots as they are; keys outlive it in those or in a file pool (--pool file:PATH)": """
        appendonly =y no
        aof-disable-auto-gc y no
        aof-load-truncated y yes
        aof-rewrite-incremental-fsync y yes
        aof-timestamp-enabled y no
        aof-use-rdb-preamble y yes
        aof_rewrite_cpulist !t
        appenddirname !t appendonlydir
        appendfilename !t appendonly.aof
        appendfsync c everysec everysec,always,no
        auto-aof-rewrite-min-size m 67108864
        auto-aof-rewrite-percentage i 100
        bgsave_cpulist !t
        no-appendfsync-on-rewrite y no
        rdb-del-sync-files y no
        rdb-save-incremental-fsync y yes
        rdbcompression y yes
        sanitize-dump-payload c no no,yes,clients
    """,
    "kvcd does not replicate": """
        masterauth t
        masteruser t
        min-replicas-max-lag=min-slaves-max-lag i 10
        propagation-error-behavior c ignore ignore,panic,panic-on-replicas
        repl-backlog-size m 1048576 1
        repl-backlog-ttl i 3600 0 max
        repl-disable-tcp-nodelay y no
        repl-diskless-load c disabled disabled,on-empty-db,swapdb
        repl-diskless-sync y yes
        repl-diskless-sync-delay i 5
        repl-diskless-sync-max-replicas i 0
        repl-ping-replica-period=repl-ping-slave-period i 10 1
        repl-timeout i 60 1
        replica-announce-ip=slave-announce-ip t
        replica-announce-port=slave-announce-port i 0 0 65535
        replica-announced y yes
        replica-ignore-disk-write-errors y no
        replica-ignore-maxmemory=slave-ignore-maxmemory y yes
        replica-lazy-flush=slave-lazy-flush y no
        replica-priority=slave-priority i 100
        replica-read-only=slave-read-only y yes
        replica-serve-stale-data=slave-serve-stale-data y yes
        shutdown-timeout i 10
    """,
    "kvcd is no Redis Cluster node": """
        cluster-allow-pubsubshard-when-down y yes
        cluster-allow-reads-when-down y no
        cluster-allow-replica-migration y yes
        cluster-announce-bus-port i 0 0 65535
        cluster-announce-hostname t
        cluster-announce-human-nodename t
        cluster-announce-ip t
        cluster-announce-port i 0 0 65535
        cluster-announce-tls-port i 0 0 65535
        cluster-config-file !t nodes.conf
        cluster-link-sendbuf-limit m 0 0 18446744073709551615
        cluster-migration-barrier i 1
        cluster-node-timeout i 15000 0 max
        cluster-port !i 0 0 65535
        cluster-preferred-endpoint-type c ip ip,hostname,unknown-endpoint
        cluster-replica-no-failover=cluster-slave-no-failover y no
        cluster-replica-validity-factor=cluster-slave-validity-factor i 10
        cluster-require-full-coverage y yes
    """,
    "kvcd is never a TLS client, and its cache of sessions is OpenSSL's": """
        tls-client-cert-file t
        tls-client-key-file t
        tls-client-key-file-pass t
        tls-cluster =y no
        tls-replication =y no
        tls-session-cache-size i 20480
        tls-session-cache-timeout i 300
    """,
    "values here are strings": """
        hash-max-listpack-entries=hash-max-ziplist-entries i 512 0 max
        hash-max-listpack-value=hash-max-ziplist-value m 64
        hll-sparse-max-bytes m 3000
        list-compress-depth i 0
        list-max-listpack-size=list-max-ziplist-size i -2 min
        list-max-ziplist-entries *i 512
        list-max-ziplist-value *m 64
        set-max-intset-entries i 512 0 max
        set-max-listpack-entries i 128 0 max
        set-max-listpack-value m 64
        stream-node-max-bytes m 4096
        stream-node-max-entries i 100 0 max
        zset-max-listpack-entries=zset-max-ziplist-entries i 128 0 max
        zset-max-listpack-value=zset-max-ziplist-value m 64
    """,
    "the pool does its own memory management": """
        active-defrag-cycle-max i 25 1 99
        active-defrag-cycle-min i 1 1 99
        active-defrag-ignore-bytes m 104857600 1
        active-defrag-max-scan-fields i 1000 1 max
        active-defrag-threshold-lower i 10 0 1000
        active-defrag-threshold-upper i 100 0 1000
        active-expire-effort i 1 1 10
        activedefrag y no
        activerehashing y yes
        disable-thp !y yes
        dynamic-hz y yes
        jemalloc-bg-thread y yes
        lazyfree-lazy-eviction y no
        lazyfree-lazy-expire y no
        lazyfree-lazy-server-del y no
        lazyfree-lazy-user-del y no
        lazyfree-lazy-user-flush y no
        maxmemory-eviction-tenacity i 10 0 100
        maxmemory-samples i 5 1
    """,
    "no such feature here": """
        bind-source-addr t
        busy-reply-threshold=lua-time-limit i 5000 0 max
        enable-module-command !c no no,yes,local
        locale-collate t
        lua-replicate-commands *y yes
    """,
    "the operating system's or the supervisor's business": """
        always-show-logo !y no
        bio_cpulist !t
        crash-log-enabled y yes
        crash-memcheck-enabled y yes
        enable-protected-configs !c no no,yes,local
        ignore-warnings t
        io-threads !i 1 1 128
        io-threads-do-reads !y no
        oom-score-adj c no no,yes,relative,absolute
        oom-score-adj-values s 0,200,800
        proc-title-template t {title}_{listen-addr}_{server-mode}
        server_cpulist !t
        set-proc-title !y yes
        socket-mark-id !i 0 0 4294967295
        syslog-enabled !y no
        syslog-facility !c local0 user,local0,local1,local2,local3,local4,local5,local6,local7
        syslog-ident !t redis
    """,
}

_KINDS = {
    "y": Kind.YES_NO,
    "i": Kind.INTEGER,
    "m": Kind.MEMORY,
    "p": Kind.MEMORY_OR_PERCENT,
    "c": Kind.CHOICE,
    "t": Kind.TEXT,
    "l": Kind.LIST,
    "s": Kind.SCORES,
}
_BOUNDS = {"max": INT64_MAX, "min": -INT32_MAX - 1}


def _directive(row: str, reason: str) -> Directive:
    names, kind_text, *rest = row.split()
    name, *aliases = names.split("=")
    kind = _KINDS[kind_text[-1]]
    default = rest[0] if rest else ""
    bounds = [] if kind is Kind.CHOICE else [_BOUNDS.get(bound) or int(bound) for bound in rest[1:]]
    # Text and lists are written without spaces in the rows.
    spaced = default.replace(",", " ")
    default = {Kind.LIST: spaced, Kind.SCORES: spaced, Kind.TEXT: default.replace("}_{", "} {")}.get(kind, default)
    return Directive(
        name,
        kind,
        default,
        reason,
        group="taken and ignored",
        standing=Standing.IGNORED,
        mutable="!" not in kind_text,
        protected="?" in kind_text,
        minimum=bounds[0] if bounds else 0,
        maximum=bounds[1] if len(bounds) > 1 else INT32_MAX if kind is Kind.INTEGER else INT64_MAX,
        choices=tuple(rest[1].split(",")) if kind is Kind.CHOICE else (),
        aliases=tuple(aliases),
        harmless=(default,) if "=" in kind_text else (),
        shown="*" not in kind_text,
    )


IGNORED: tuple[Directive, ...] = tuple(_directive(row, reason) for reason, rows in _ROWS.items() for row in rows.strip().splitlines())
