"""Client memory: who is closed when all clients hold too much."""

from __future__ import annotations

import pytest

from kvcd.client_memory import CONNECTION_BYTES, too_many
from protocol.replies import OK
from tests.kvcd.service import PlainClient, Service


def test_the_largest_are_closed_until_the_others_fit() -> None:
    """And nobody where there is no limit."""
    clients = {number: PlainClient(id=number, pending_output_bytes=number * 1000) for number in range(1, 5)}
    assert too_many(clients, 0) == []
    assert too_many(clients, 4 * CONNECTION_BYTES + 10_000) == []
    assert too_many(clients, 4 * CONNECTION_BYTES) == [4]


@pytest.mark.parametrize(
    "commands",
    [["SUBSCRIBE {}"], ["PSUBSCRIBE {}"], ["SSUBSCRIBE {}"], ["WATCH {}"], ["MULTI", "GET {}"]],
    ids=lambda commands: commands[-1].split()[0],
)
def test_what_a_client_has_switched_on_counts(commands: list[str]) -> None:
    """A queue, watched keys and subscriptions are memory of the client's as unread replies are."""
    service = Service()
    other = service.connect()
    for command in commands:
        service.do(*command.format("x" * 10_000).split())
    assert service.client.id != other.id
    assert too_many(service.server.clients, 2 * CONNECTION_BYTES + 20_000) == []
    assert too_many(service.server.clients, 2 * CONNECTION_BYTES + 10_000) == [service.client.id]


def test_who_asked_for_it_is_spared() -> None:
    """CLIENT NO-EVICT ON, until it is OFF."""
    service = Service()
    service.client.pending_output_bytes = 1 << 20
    other = service.connect()
    clients = service.server.clients
    assert service.do("CLIENT", "NO-EVICT", "ON") == OK
    assert too_many(clients, 1) == [other.id]
    assert service.do("CLIENT", "NO-EVICT", "OFF") == OK
    assert too_many(clients, 1) == [service.client.id, other.id]
