"""Metrics: a service's figures in Prometheus's text form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import kvcd
from kvcd.service_view import ServiceSample

# (name, help, counter of kvcd.totals.Tally)
_COUNTERS = (
    ("kvcd_connections_received", "Connections accepted.", "connections_received"),
    ("kvcd_connections_rejected", "Connections turned away: maxclients, protected mode.", "connections_rejected"),
    ("kvcd_network_receive_bytes", "Bytes received from clients.", "net_input_bytes"),
    ("kvcd_network_transmit_bytes", "Bytes sent to clients.", "net_output_bytes"),
    ("kvcd_keyspace_hits", "Keys that were looked up and found.", "hits"),
    ("kvcd_keyspace_misses", "Keys that were looked up and absent.", "misses"),
    ("kvcd_expired_keys", "Keys removed because their time had come.", "expired"),
    ("kvcd_evicted_keys", "Keys removed to make room.", "evicted"),
)
# (name, help, field of the store's memory facts)
_POOL = (
    ("kvcd_pool_size_bytes", "Size of the pool.", "pool_bytes"),
    ("kvcd_pool_used_bytes", "Bytes of the pool in use, in whole pages.", "used_bytes"),
    ("kvcd_pool_limit_bytes", "Bytes of the pool that may be used (maxmemory).", "limit_bytes"),
    ("kvcd_pool_stored_bytes", "Bytes of keys and values.", "stored_bytes"),
    ("kvcd_pool_pinned_bytes", "Bytes that replies not yet read keep from reuse.", "pinned_bytes"),
    ("kvcd_pool_staged_bytes", "Bytes of values that are being received.", "staged_bytes"),
    ("kvcd_index_entries", "Entries that the index has room for.", "index_entries"),
    ("kvcd_index_used_entries", "Entries of the index in use.", "index_used"),
)


def exposition(sample: ServiceSample, accept: str) -> tuple[bytes, str]:
    """Return the text, and its content type, in the form that the Accept header prefers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Sampled(sample))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class _Sampled(Collector):
    """One sample, as metric families."""

    def __init__(self, sample: ServiceSample) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        sample, totals = self._sample, self._sample.totals
        yield InfoMetricFamily("kvcd", "Version and run of the service.", {"version": kvcd.__version__, "run_id": sample.run_id})
        yield _gauge("kvcd_start_time_seconds", "Unix time of the service's start.", sample.started_at_ms / 1000)
        yield from self._workers()
        yield _gauge("kvcd_connected_clients", "Clients connected.", totals.clients)
        yield _gauge("kvcd_maxclients", "Most clients at a time.", sample.maxclients)
        yield _gauge("kvcd_resident_memory_bytes", "Resident memory of all workers, shared pages once.", totals.resident_bytes)
        for name, text, counter in _COUNTERS:
            yield CounterMetricFamily(name, text, value=totals.counters.get(counter, 0))
        yield from self._processor_time()
        yield from self._commands()
        yield from self._store()
        yield from self._pool()

    def _workers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("kvcd_worker_up", "Whether the worker serves clients.", labels=["worker"])
        restarts = CounterMetricFamily("kvcd_worker_restarts", "How often a worker was started anew.", labels=["worker"])
        for worker in self._sample.workers:
            up.add_metric([str(worker.place)], int(worker.is_up))
            restarts.add_metric([str(worker.place)], worker.restarts)
        yield up
        yield restarts

    def _processor_time(self) -> Iterator[Metric]:
        family = CounterMetricFamily("kvcd_cpu_seconds", "Processor time of all workers.", labels=["mode"])
        for mode in ("user", "sys"):
            family.add_metric([mode], self._sample.totals.cpu_s.get(mode, 0.0))
        yield family

    def _commands(self) -> Iterator[Metric]:
        totals = self._sample.totals
        calls = CounterMetricFamily("kvcd_commands", "Commands executed, since CONFIG RESETSTAT.", labels=["command"])
        for name, count in sorted(totals.command_calls().items()):
            calls.add_metric([name], count)
        seconds = CounterMetricFamily(
            "kvcd_command_seconds", "Time in commands of the slow lane (the fast lane reads no clock).", labels=["command"]
        )
        rejected = CounterMetricFamily("kvcd_commands_rejected", "Commands refused before they ran.", labels=["command"])
        failed = CounterMetricFamily("kvcd_commands_failed", "Commands that answered an error.", labels=["command"])
        for name, counts in sorted(totals.commands.items()):
            seconds.add_metric([name], counts.duration_us / 1e6)
            rejected.add_metric([name], counts.rejected)
            failed.add_metric([name], counts.failed)
        errors = CounterMetricFamily("kvcd_error_replies", "Error replies.", labels=["code"])
        for code, count in sorted(totals.errors.items()):
            errors.add_metric([code], count)
        yield from (calls, seconds, rejected, failed, errors)

    def _store(self) -> Iterator[Metric]:
        """What the store counts besides, each under its own name as PREFIX.STATS has it."""
        family = CounterMetricFamily("kvcd_store_events", "Counters of the store (PREFIX.STATS).", labels=["event"])
        shown = {counter for _, _, counter in _COUNTERS}
        for name, count in sorted(self._sample.totals.counters.items()):
            if name not in shown and not name.startswith("calls:"):
                family.add_metric([name], count)
        yield family

    def _pool(self) -> Iterator[Metric]:
        facts: dict[str, Any] = self._sample.facts
        if not facts:
            return
        for name, text, fact in _POOL:
            if fact in facts["memory"]:
                yield _gauge(name, text, facts["memory"][fact])
        keys = GaugeMetricFamily("kvcd_database_keys", "Keys of a database.", labels=["db"])
        expiring = GaugeMetricFamily("kvcd_database_expiring_keys", "Keys of a database that have a time to live.", labels=["db"])
        for database, (count, expires) in facts["databases"].items():
            keys.add_metric([database], count)
            expiring.add_metric([database], expires)
        yield keys
        yield expiring


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
