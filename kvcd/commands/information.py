"""INFO: the service's state as the text that Redis's clients and exporters parse."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable

import kvcd
from kvcd import REDIS_VERSION
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from kvcd.latency import percentile_us
from kvcd.totals import Tally
from protocol.replies import Reply, Verbatim

Fields = dict[str, object]
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SIZE_LETTERS = "KMGTP"
_NOT_BY_DEFAULT = ("commandstats", "latencystats")
_DEFAULT_WORDS = ("default", "all", "everything")


def human_size(size_bytes: int) -> str:
    """Return a size as Redis writes it for people: ``512B``, ``1.50M``."""
    if size_bytes < 1024:
        return f"{int(size_bytes)}B"
    power = 1
    while size_bytes >= 1024 ** (power + 1) and power < len(_SIZE_LETTERS):
        power += 1
    return f"{size_bytes / 1024**power:.2f}{_SIZE_LETTERS[power - 1]}"


def _server(server: ServerState, totals: Tally) -> Fields:
    now_ms, placement = server.now_ms(), server.service.placement
    uptime_s = max(now_ms - placement.started_at_ms, 0) // 1000
    return {
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": "0",
        "redis_mode": "standalone",
        "kvcd_version": kvcd.__version__,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "arch_bits": 64 if sys.maxsize > 2**32 else 32,
        "monotonic_clock": "POSIX clock_gettime",
        "multiplexing_api": "epoll",
        "atomicvar_api": "c11-builtin",
        "python_version": platform.python_version(),
        "process_id": placement.service_pid,
        "process_supervised": "no",
        "workers": placement.workers,
        "worker": placement.place,
        "worker_process_id": os.getpid(),
        "run_id": placement.run_id,
        "tcp_port": server.config.number("port"),
        "server_time_usec": time.time_ns() // 1000,
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // 86400,
        "hz": server.config.number("hz"),
        "configured_hz": server.config.number("hz"),
        "lru_clock": (now_ms // 1000) & 0xFFFFFF,
        "executable": server.executable,
        "config_file": server.config_file,
        "io_threads_active": 0,
        "listener0": f"name=tcp,bind={',bind='.join(server.config.strings('bind'))},port={server.config.number('port')}",
    }


def _clients(server: ServerState, totals: Tally) -> Fields:
    return {
        "connected_clients": totals.clients,
        "cluster_connections": 0,
        "maxclients": server.config.number("maxclients"),
        "client_recent_max_input_buffer": totals.longest_input_bytes,
        "client_recent_max_output_buffer": totals.longest_output_bytes,
        "blocked_clients": totals.listeners.get("blocked_clients", 0),
        "tracking_clients": totals.listeners.get("tracking_clients", 0),
        "clients_in_timeout_table": 0,
        "total_blocking_keys": 0,
        "total_blocking_keys_on_nokey": 0,
    }


def _memory(server: ServerState, totals: Tally) -> Fields:
    pool = server.store.memory()
    used_bytes = int(pool.get("used_bytes", 0))
    stored_bytes = int(pool.get("stored_bytes", used_bytes))
    peak_bytes = max(int(pool.get("peak_bytes", 0)), used_bytes)
    maxmemory_bytes = server.config.number("maxmemory")
    resident_bytes = totals.resident_bytes
    system_bytes = _PAGE_BYTES * os.sysconf("SC_PHYS_PAGES")
    return {
        "used_memory": used_bytes,
        "used_memory_human": human_size(used_bytes),
        "used_memory_rss": resident_bytes,
        "used_memory_rss_human": human_size(resident_bytes),
        "used_memory_peak": peak_bytes,
        "used_memory_peak_human": human_size(peak_bytes),
        "used_memory_peak_perc": f"{100 * used_bytes / peak_bytes if peak_bytes else 0:.2f}%",
        "used_memory_overhead": max(used_bytes - stored_bytes, 0),
        "used_memory_startup": 0,
        "used_memory_dataset": stored_bytes,
        "used_memory_dataset_perc": f"{100 * stored_bytes / used_bytes if used_bytes else 0:.2f}%",
        "allocator_allocated": used_bytes,
        "allocator_active": used_bytes,
        "allocator_resident": resident_bytes,
        "total_system_memory": system_bytes,
        "total_system_memory_human": human_size(system_bytes),
        "used_memory_lua": 0,
        "used_memory_vm_eval": 0,
        "used_memory_lua_human": "0B",
        "used_memory_scripts_eval": 0,
        "number_of_cached_scripts": 0,
        "number_of_functions": 0,
        "number_of_libraries": 0,
        "used_memory_vm_functions": 0,
        "used_memory_vm_total": 0,
        "used_memory_vm_total_human": "0B",
        "used_memory_functions": 0,
        "used_memory_scripts": 0,
        "used_memory_scripts_human": "0B",
        "maxmemory": maxmemory_bytes,
        "maxmemory_human": human_size(maxmemory_bytes),
        "maxmemory_policy": server.config.text("maxmemory-policy"),
        "allocator_frag_ratio": f"{used_bytes / stored_bytes if stored_bytes else 0:.2f}",
        "allocator_frag_bytes": max(used_bytes - stored_bytes, 0),
        "allocator_rss_ratio": f"{resident_bytes / used_bytes if used_bytes else 0:.2f}",
        "allocator_rss_bytes": resident_bytes - used_bytes,
        "rss_overhead_ratio": "1.00",
        "rss_overhead_bytes": 0,
        "mem_fragmentation_ratio": f"{resident_bytes / used_bytes if used_bytes else 0:.2f}",
        "mem_fragmentation_bytes": resident_bytes - used_bytes,
        "mem_not_counted_for_evict": 0,
        "mem_replication_backlog": 0,
        "mem_total_replication_buffers": 0,
        "mem_clients_slaves": 0,
        "mem_clients_normal": sum(client.pending_input_bytes + client.pending_output_bytes for client in server.clients.values()),
        "mem_cluster_links": 0,
        "mem_aof_buffer": 0,
        "mem_allocator": "kvcd-pool",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
        "lazyfreed_objects": 0,
    }


def _pool(server: ServerState, totals: Tally) -> Fields:
    fields: Fields = {}
    facts: dict[str, object] = {**server.store.memory()}
    for name, value in facts.items():
        if isinstance(value, list):
            for cell_bytes, pages, used, total in value:
                fields[f"pool_{name}_{cell_bytes}"] = f"pages={pages},used={used},total={total}"
        else:
            fields[name if name.startswith("pool_") else f"pool_{name}"] = f"{value:.6g}" if isinstance(value, float) else value
    return fields


def _persistence(server: ServerState, totals: Tally) -> Fields:
    return server.persistence.information()


def _stats(server: ServerState, totals: Tally) -> Fields:
    counts = totals.since_reset()
    return {
        "total_connections_received": counts.get("connections_received", 0),
        "total_commands_processed": sum(totals.command_calls().values()),
        "instantaneous_ops_per_sec": totals.operations_per_second,
        "total_net_input_bytes": counts.get("net_input_bytes", 0),
        "total_net_output_bytes": counts.get("net_output_bytes", 0),
        "total_net_repl_input_bytes": 0,
        "total_net_repl_output_bytes": 0,
        "instantaneous_input_repl_kbps": "0.00",
        "instantaneous_output_repl_kbps": "0.00",
        "rejected_connections": counts.get("connections_rejected", 0),
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": counts.get("expired", 0),
        "expired_stale_perc": "0.00",
        "expired_time_cap_reached_count": 0,
        "evicted_keys": counts.get("evicted", 0),
        "evicted_clients": counts.get("clients_evicted", 0),
        "total_eviction_exceeded_time": 0,
        "current_eviction_exceeded_time": 0,
        "keyspace_hits": counts.get("hits", 0),
        "keyspace_misses": counts.get("misses", 0),
        **{name: totals.listeners.get(name, 0) for name in ("pubsub_channels", "pubsub_patterns", "pubsubshard_channels")},
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "slave_expires_tracked_keys": 0,
        "active_defrag_hits": 0,
        "active_defrag_misses": 0,
        "active_defrag_key_hits": 0,
        "active_defrag_key_misses": 0,
        "total_active_defrag_time": 0,
        "current_active_defrag_time": 0,
        **{f"tracking_total_{name}": totals.listeners.get(f"tracking_total_{name}", 0) for name in ("keys", "items", "prefixes")},
        "unexpected_error_replies": 0,
        "total_error_replies": sum(totals.errors.values()),
        "dump_payload_sanitizations": 0,
        "io_threaded_reads_processed": 0,
        "io_threaded_writes_processed": 0,
        "reply_buffer_shrinks": 0,
        "reply_buffer_expands": 0,
    }


def _replication(server: ServerState, totals: Tally) -> Fields:
    return {
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": server.service.placement.run_id,
        "master_replid2": "0" * 40,
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def _cpu(server: ServerState, totals: Tally) -> Fields:
    return {f"used_cpu_{kind}": f"{seconds:.6f}" for kind, seconds in totals.cpu_s.items()}


def _modules(server: ServerState, totals: Tally) -> Fields:
    return {}


def _commandstats(server: ServerState, totals: Tally) -> Fields:
    return {
        f"cmdstat_{name}": (
            f"calls={count.calls},usec={int(count.duration_us)},"
            f"usec_per_call={count.duration_us / count.calls if count.calls else 0:.2f},"
            f"rejected_calls={count.rejected},failed_calls={count.failed}"
        )
        for name, count in totals.command_counts().items()
    }


def _latencystats(server: ServerState, totals: Tally) -> Fields:
    percents = [float(percent) for percent in server.config.strings("latency-tracking-info-percentiles")]
    return {
        f"latency_percentiles_usec_{name}": ",".join(f"p{percent:g}={percentile_us(count.histogram, percent):.3f}" for percent in percents)
        for name, count in totals.command_counts().items()
        if count.histogram
    }


def _errorstats(server: ServerState, totals: Tally) -> Fields:
    return {f"errorstat_{code}": f"count={count}" for code, count in totals.errors.items()}


def _cluster(server: ServerState, totals: Tally) -> Fields:
    return {"cluster_enabled": 0}


def _keyspace(server: ServerState, totals: Tally) -> Fields:
    fields: Fields = {}
    for number, place in enumerate(server.order.places):
        size = server.store.database_size(place)
        if size.keys:
            fields[f"db{number}"] = f"keys={size.keys},expires={size.expires},avg_ttl=0"
    return fields


_SECTIONS: dict[str, Callable[[ServerState, Tally], Fields]] = {
    "server": _server,
    "clients": _clients,
    "memory": _memory,
    "pool": _pool,
    "persistence": _persistence,
    "stats": _stats,
    "replication": _replication,
    "cpu": _cpu,
    "modules": _modules,
    "commandstats": _commandstats,
    "errorstats": _errorstats,
    "latencystats": _latencystats,
    "cluster": _cluster,
    "keyspace": _keyspace,
}
_TITLES = {"cpu": "CPU"}
# Those that add up what the workers counted; for the others nobody has to be asked.
_OF_ALL_WORKERS = frozenset(("clients", "memory", "stats", "cpu", "commandstats", "errorstats", "latencystats"))


def chosen_sections(words: list[str]) -> list[str]:
    """Return the sections that INFO's arguments name, in INFO's order; unknown words name none."""
    wanted = {word.lower() for word in words} or {"default"}
    by_default = not wanted.isdisjoint(_DEFAULT_WORDS)
    with_all = not wanted.isdisjoint(("all", "everything"))
    return [name for name in _SECTIONS if name in wanted or with_all or (by_default and name not in _NOT_BY_DEFAULT)]


@handles("info")
async def handle_info(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """INFO [section ...]."""
    parts = []
    chosen = chosen_sections([argument.decode("utf-8", "replace") for argument in args[1:]])
    totals = Tally() if _OF_ALL_WORKERS.isdisjoint(chosen) else await server.service.totals(server)
    for name in chosen:
        fields = _SECTIONS[name](server, totals)
        lines = [f"# {_TITLES.get(name, name.capitalize())}", *(f"{field}:{value}" for field, value in fields.items())]
        parts.append("".join(f"{line}\r\n" for line in lines))
    return Verbatim("\r\n".join(parts).encode("utf-8", "surrogateescape"))
