"""LATENCY: spikes by what caused them, and histograms of commands' times, of all workers together."""

from __future__ import annotations

from typing import Any

from kvcd.commands.arguments import CommandError, shown
from kvcd.commands.registry import answers, handles
from kvcd.commands.sparkline import sparkline
from kvcd.context import ClientState, ServerState
from kvcd.latency import Event, Spike, cumulative
from protocol.command_table import lookup
from protocol.replies import Reply, Verbatim

_EVENTS, _RESET = "latency events", "reset latency events"  # topics between workers
_DISABLED = (
    "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis instance. You may use \"CONFIG SET "
    "latency-monitor-threshold <milliseconds>.\" in order to enable it. If we weren't in a deep space mission I'd suggest to take "
    "a look at https://redis.io/topics/latency-monitor.\n"
)
_NOTHING = (
    "Dave, no latency spike was observed during the lifetime of this Redis instance, not in the slightest bit. I honestly think you "
    "ought to sit down calmly, take a stress pill, and think things over.\n"
)


@answers(_EVENTS)
def list_events(server: ServerState, _payload: None) -> dict[str, Any]:
    """Return this worker's events in plain values."""
    events = server.statistics.latency.events
    return {name: [event.largest_ms, [[spike.at_s, spike.latency_ms] for spike in event.spikes]] for name, event in events.items()}


async def _all_events(server: ServerState) -> dict[str, Event]:
    """Return the events of all workers, spikes in order of time."""
    found = [list_events(server, None)]
    found += [answer.payload for answer in await server.service.channel.ask_all(_EVENTS, None)]
    events: dict[str, Event] = {}
    for name in dict.fromkeys(name for events_of_one in found for name in events_of_one):
        spikes = [Spike(*spike) for events_of_one in found for spike in events_of_one.get(name, [0, []])[1]]
        event = events[name] = Event()
        for spike in sorted(spikes, key=lambda spike: spike.at_s):
            event.add(spike.at_s, spike.latency_ms)
        event.largest_ms = max(events_of_one[name][0] for events_of_one in found if name in events_of_one)
    return events


@handles("latency|latest")
async def handle_latest(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LATENCY LATEST."""
    events = await _all_events(server)
    return [
        [name.encode(), event.spikes[-1].at_s, event.spikes[-1].latency_ms, event.largest_ms]
        for name, event in events.items()
        if event.spikes
    ]


@handles("latency|history")
async def handle_history(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LATENCY HISTORY event."""
    event = (await _all_events(server)).get(args[2].decode("utf-8", "surrogateescape"))
    return [] if event is None else [[spike.at_s, spike.latency_ms] for spike in event.spikes]


@handles("latency|reset")
async def handle_reset(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LATENCY RESET [event ...]: how many events were there."""
    names = [name.decode("latin-1") for name in args[2:]]
    here = reset_events(server, names)
    elsewhere = await server.service.channel.ask_all(_RESET, names)
    return max([here, *(int(answer.payload) for answer in elsewhere)])


@answers(_RESET)
def reset_events(server: ServerState, names: list[str]) -> int:
    """Forget this worker's events; returns how many there were."""
    return server.statistics.latency.reset(names)


@handles("latency|graph")
async def handle_graph(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LATENCY GRAPH event."""
    event = (await _all_events(server)).get(args[2].decode("utf-8", "surrogateescape"))
    if event is None or not event.spikes:
        raise CommandError(f"ERR No samples available for event '{shown(args[2])}'")
    latencies = [spike.latency_ms for spike in event.spikes]
    head = f"{shown(args[2])} - high {max(latencies)} ms, low {min(latencies)} ms (all time high {event.largest_ms} ms)\n"
    now_s = server.now_ms() // 1000
    points = [(spike.latency_ms, _ago(now_s - spike.at_s)) for spike in event.spikes]
    return Verbatim((head + "-" * 80 + "\n" + sparkline(points)).encode("utf-8", "surrogateescape"))


def _ago(seconds: int) -> str:
    for unit_s, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= unit_s:
            return f"{seconds // unit_s}{letter}"
    return f"{max(seconds, 0)}s"


@handles("latency|doctor")
async def handle_doctor(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LATENCY DOCTOR."""
    events = await _all_events(server)
    if not server.statistics.latency.threshold_ms:
        return Verbatim(_DISABLED.encode())
    if not events:
        return Verbatim(_NOTHING.encode())
    lines = ["Dave, I have observed latency spikes in this Redis instance. You don't mind talking about it, do you Dave?", ""]
    for number, (name, event) in enumerate(events.items(), start=1):
        latencies = [spike.latency_ms for spike in event.spikes]
        average = sum(latencies) // len(latencies)
        deviation = sum(abs(latency - average) for latency in latencies) // len(latencies)
        period_s = (event.spikes[-1].at_s - event.spikes[0].at_s) / len(latencies)
        lines.append(
            f"{number}. {name}: {len(latencies)} latency spikes (average {average}ms, mean deviation {deviation}ms, "
            f"period {period_s:.2f} sec). Worst all time event {event.largest_ms}ms."
        )
    lines += ["", "I have a few advices for you:", "", "- Check SLOWLOG GET for the commands that take long, and their keys."]
    return Verbatim(("\n".join(lines) + "\n").encode())


@handles("latency|histogram")
async def handle_histogram(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LATENCY HISTOGRAM [command ...]: a container stands for its subcommands."""
    counts = (await server.service.totals(server)).command_counts()
    names = list(counts)
    if len(args) > 2:
        rows = [row for name in args[2:] if (row := lookup(name)) is not None]
        names = list(dict.fromkeys(found.name for row in rows for found in (row, *row.subcommands)))
    reply: dict[object, object] = {}
    for name in names:
        count = counts.get(name)
        if count is not None and count.histogram:
            borders: dict[object, object] = dict(cumulative(count.histogram))
            reply[name.encode()] = {b"calls": sum(count.histogram.values()), b"histogram_usec": borders}
    return reply
