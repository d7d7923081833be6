"""Database order: the numbers that clients use for databases, and the places in the pool that these mean since the last SWAPDB."""

from __future__ import annotations

from collections.abc import Iterable

from kvcd.context import ClientState


class DatabaseOrder:
    """A permutation. Everything below the handlers knows places only."""

    def __init__(self, databases: int) -> None:
        """Begin with every number at its own place."""
        self.places = list(range(databases))

    def place(self, number: int) -> int:
        """Return where in the pool the database with this number is."""
        return self.places[number]

    def number(self, place: int) -> int:
        """Return the number of what is at this place."""
        return self.places.index(place)

    def swapped(self, first: int, second: int) -> list[int]:
        """Return the places with two numbers exchanged."""
        places = list(self.places)
        places[first], places[second] = places[second], places[first]
        return places

    def change(self, places: list[int], clients: Iterable[ClientState]) -> None:
        """Take over other places; every client keeps the number that it selected."""
        for client in clients:
            client.db = places[self.number(client.db)]
        self.places = list(places)
