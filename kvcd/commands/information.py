"""INFO: the service's state as the text that Redis's clients and exporters parse."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable

import kvcd
from kvcd import REDIS_VERSION
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply, Verbatim

Fields = dict[str, object]
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SIZE_LETTERS = "KMGTP"
_NOT_BY_DEFAULT = ("commandstats",)
_DEFAULT_WORDS = ("default", "all", "everything")


def monotonic_counters(server: ServerState) -> dict[str, int]:
    """Return all counts that only grow: the sessions' and the store's."""
    return {**server.counters(), **server.store.counters()}


def human_size(size_bytes: int) -> str:
    """Return a size as Redis writes it for people: ``512B``, ``1.50M``."""
    if size_bytes < 1024:
        return f"{int(size_bytes)}B"
    power = 1
    while size_bytes >= 1024 ** (power + 1) and power < len(_SIZE_LETTERS):
        power += 1
    return f"{size_bytes / 1024**power:.2f}{_SIZE_LETTERS[power - 1]}"


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def _server(server: ServerState) -> Fields:
    now_ms = server.now_ms()
    uptime_s = max(now_ms - server.started_at_ms, 0) // 1000
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
        "python_version": platform.python_version(),
        "process_id": os.getpid(),
        "process_supervised": "no",
        "run_id": server.run_id,
        "tcp_port": server.port,
        "server_time_usec": time.time_ns() // 1000,
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // 86400,
        "hz": server.config.number("hz"),
        "configured_hz": server.config.number("hz"),
        "lru_clock": (now_ms // 1000) & 0xFFFFFF,
        "executable": server.executable,
        "config_file": server.config_file,
        "io_threads_active": 0,
    }


def _clients(server: ServerState) -> Fields:
    clients = server.clients.values()
    return {
        "connected_clients": len(clients),
        "cluster_connections": 0,
        "maxclients": server.config.number("maxclients"),
        "client_recent_max_input_buffer": max((client.pending_input_bytes for client in clients), default=0),
        "client_recent_max_output_buffer": max((client.pending_output_bytes for client in clients), default=0),
        "blocked_clients": 0,
        "tracking_clients": 0,
        "clients_in_timeout_table": 0,
    }


def _memory(server: ServerState) -> Fields:
    pool = server.store.memory()
    used_bytes = int(pool.get("used_bytes", 0))
    peak_bytes = max(int(pool.get("peak_bytes", 0)), used_bytes)
    maxmemory_bytes = server.config.number("maxmemory")
    resident_bytes = _resident_bytes()
    system_bytes = _PAGE_BYTES * os.sysconf("SC_PHYS_PAGES")
    return {
        "used_memory": used_bytes,
        "used_memory_human": human_size(used_bytes),
        "used_memory_rss": resident_bytes,
        "used_memory_rss_human": human_size(resident_bytes),
        "used_memory_peak": peak_bytes,
        "used_memory_peak_human": human_size(peak_bytes),
        "used_memory_peak_perc": f"{100 * used_bytes / peak_bytes if peak_bytes else 0:.2f}%",
        "used_memory_dataset": used_bytes,
        "total_system_memory": system_bytes,
        "total_system_memory_human": human_size(system_bytes),
        "maxmemory": maxmemory_bytes,
        "maxmemory_human": human_size(maxmemory_bytes),
        "maxmemory_policy": server.config.text("maxmemory-policy"),
        "mem_fragmentation_ratio": f"{resident_bytes / used_bytes if used_bytes else 0:.2f}",
        "mem_allocator": "kvcd-pool",
        "lazyfree_pending_objects": 0,
    }


def _pool(server: ServerState) -> Fields:
    fields: Fields = {}
    facts: dict[str, object] = {**server.store.memory()}
    for name, value in facts.items():
        if isinstance(value, list):
            for cell_bytes, pages, used, total in value:
                fields[f"pool_{name}_{cell_bytes}"] = f"pages={pages},used={used},total={total}"
        else:
            fields[name if name.startswith("pool_") else f"pool_{name}"] = f"{value:.6g}" if isinstance(value, float) else value
    return fields


def _persistence(server: ServerState) -> Fields:
    return server.persistence.information()


def command_calls(server: ServerState) -> dict[str, int]:
    """Return calls per command since the last reset, of both lanes."""
    calls = {name: count.calls for name, count in server.statistics.commands.items()}
    for name, count in server.statistics.since_reset(server.counters()).items():
        kind, _, command = name.partition(":")
        if kind == "calls" and count:
            calls[command] = calls.get(command, 0) + count
    return calls


def _stats(server: ServerState) -> Fields:
    counts = server.statistics.since_reset(monotonic_counters(server))
    rate = server.counters().get("operations_per_second", 0)  # a rate has no start to be counted from
    return {
        "total_connections_received": counts.get("connections_received", 0),
        "total_commands_processed": sum(command_calls(server).values()),
        "instantaneous_ops_per_sec": rate,
        "total_net_input_bytes": counts.get("net_input_bytes", 0),
        "total_net_output_bytes": counts.get("net_output_bytes", 0),
        "rejected_connections": counts.get("connections_rejected", 0),
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": counts.get("expired", 0),
        "evicted_keys": counts.get("evicted", 0),
        "keyspace_hits": counts.get("hits", 0),
        "keyspace_misses": counts.get("misses", 0),
        "pubsub_channels": 0,
        "pubsub_patterns": 0,
        "latest_fork_usec": 0,
        "total_forks": 0,
        "total_error_replies": sum(server.statistics.errors.values()),
        "unexpected_error_replies": 0,
    }


def _replication(server: ServerState) -> Fields:
    return {
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": server.run_id,
        "master_replid2": "0" * 40,
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def _cpu(server: ServerState) -> Fields:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "used_cpu_sys": f"{own.ru_stime:.6f}",
        "used_cpu_user": f"{own.ru_utime:.6f}",
        "used_cpu_sys_children": f"{children.ru_stime:.6f}",
        "used_cpu_user_children": f"{children.ru_utime:.6f}",
    }


def _modules(server: ServerState) -> Fields:
    return {}


def _commandstats(server: ServerState) -> Fields:
    fields: Fields = {}
    slow = server.statistics.commands
    for name, calls in command_calls(server).items():
        # The fast lane counts calls and takes no time per command: reading a clock would cost as much as a GET.
        count = slow.get(name)
        duration_us, timed_calls = (count.duration_us, count.calls) if count else (0.0, 0)
        fields[f"cmdstat_{name}"] = (
            f"calls={calls},usec={int(duration_us)},usec_per_call={duration_us / timed_calls if timed_calls else 0:.2f},"
            f"rejected_calls={count.rejected if count else 0},failed_calls={count.failed if count else 0}"
        )
    return fields


def _errorstats(server: ServerState) -> Fields:
    return {f"errorstat_{code}": f"count={count}" for code, count in server.statistics.errors.items()}


def _cluster(server: ServerState) -> Fields:
    return {"cluster_enabled": 0}


def _keyspace(server: ServerState) -> Fields:
    fields: Fields = {}
    for database in range(server.databases):
        size = server.store.database_size(database)
        if size.keys:
            fields[f"db{database}"] = f"keys={size.keys},expires={size.expires},avg_ttl=0"
    return fields


_SECTIONS: dict[str, Callable[[ServerState], Fields]] = {
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
    "cluster": _cluster,
    "keyspace": _keyspace,
}
_TITLES = {"cpu": "CPU"}


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
    for name in chosen_sections([argument.decode("utf-8", "replace") for argument in args[1:]]):
        lines = [f"# {_TITLES.get(name, name.capitalize())}", *(f"{field}:{value}" for field, value in _SECTIONS[name](server).items())]
        parts.append("".join(f"{line}\r\n" for line in lines))
    return Verbatim("\r\n".join(parts).encode("utf-8", "surrogateescape"))
