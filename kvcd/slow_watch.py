"""Slow watch: what the directives about slow commands mean for both lanes, and runs of the fast lane that took long."""

from __future__ import annotations

from collections.abc import Callable

from kvcd.config import Config
from kvcd.context import ClientState, SlowReason
from kvcd.directive import Value
from kvcd.run_times import NEVER_NS, RunTimes
from kvcd.statistics import Statistics

EACH_COMMAND_BELOW_US = 100  # a slow log that wants such short ones wants to know each of them, not which run it was in


class SlowWatch:
    """Stands between the configuration, the slow lane's statistics and the fast lane's times."""

    def __init__(self, config: Config, statistics: Statistics, times: RunTimes, hold_back: Callable[[int, bool], None]) -> None:
        """``hold_back`` sends the commands of all clients to the slow lane for a reason, or lets them go."""
        self._config = config
        self._statistics = statistics
        self._times = times
        self._hold_back = hold_back
        self.follow_configuration()

    def follow_configuration(self) -> None:
        """Take over the directives."""
        config, statistics, times = self._config, self._statistics, self._times
        slow_log = statistics.slow_log
        slow_log.threshold_us, slow_log.longest = config.number("slowlog-log-slower-than"), config.number("slowlog-max-len")
        slow_log.trim()
        statistics.latency.threshold_ms = config.number("latency-monitor-threshold")
        statistics.tracks_latency = times.in_histogram = config.flag("latency-tracking")
        limits_us = [slow_log.threshold_us] if slow_log.threshold_us >= 0 else []
        if statistics.latency.threshold_ms:
            limits_us.append(statistics.latency.threshold_ms * 1000)
        times.slow_ns = min(min(limits_us) * 1000, NEVER_NS) if limits_us else NEVER_NS
        self._hold_back(SlowReason.SLOW_LOG, 0 <= slow_log.threshold_us < EACH_COMMAND_BELOW_US)

    def take_threshold(self, value: Value) -> None:
        """At once: the command that sets it is the first that it is meant for."""
        assert isinstance(value, int)
        self._statistics.slow_log.threshold_us = value

    def note_run(self, client: ClientState, words: list[bytes], count: int, duration_ns: int, now_ms: int) -> None:
        """A run of the fast lane took long: which of its commands did is not known, so the first, in ``words``, stands for all."""
        if count > 1:
            words = [*words, b"... (%d more commands in one pipeline)" % (count - 1)]
        duration_us, at_s = duration_ns // 1000, now_ms // 1000
        if 0 <= self._statistics.slow_log.threshold_us <= duration_us:
            self._statistics.slow_log.note(words, duration_us=duration_us, at_s=at_s, address=client.address, name=client.name)
        self._statistics.latency.note("fast-command", duration_ms=duration_us // 1000, at_s=at_s)
