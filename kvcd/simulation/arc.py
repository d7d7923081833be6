"""ARC: two LRU lists, used once and used more often, whose sizes follow the hits among their ghosts."""

from __future__ import annotations

from collections import OrderedDict

from kvcd.simulation.policy import Policy

_List = OrderedDict[int, None]


class Arc(Policy):
    """Megiddo, Modha: ARC: A Self-Tuning, Low Overhead Replacement Cache, FAST 2003, figure 4."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._once: _List = OrderedDict()
        self._often: _List = OrderedDict()
        self._once_ghosts: _List = OrderedDict()
        self._often_ghosts: _List = OrderedDict()
        self._once_target = 0.0

    def holds(self, block: int) -> bool:
        return block in self._once or block in self._often

    def access(self, block: int) -> None:
        if self.holds(block):
            self._once.pop(block, None)
            self._often[block] = None
            self._often.move_to_end(block)
        elif block in self._once_ghosts:
            step = max(1.0, len(self._often_ghosts) / len(self._once_ghosts))
            self._once_target = min(float(self.capacity), self._once_target + step)
            self._replace(among_often=False)
            del self._once_ghosts[block]
            self._often[block] = None
        elif block in self._often_ghosts:
            step = max(1.0, len(self._once_ghosts) / len(self._often_ghosts))
            self._once_target = max(0.0, self._once_target - step)
            self._replace(among_often=True)
            del self._often_ghosts[block]
            self._often[block] = None
        else:
            self._make_room()
            self._once[block] = None

    def _make_room(self) -> None:
        """For a block that is known nowhere."""
        if len(self._once) + len(self._once_ghosts) == self.capacity:
            if len(self._once) == self.capacity:
                self._once.popitem(last=False)
                return
            self._once_ghosts.popitem(last=False)
            self._replace(among_often=False)
            return
        known = len(self._once) + len(self._often) + len(self._once_ghosts) + len(self._often_ghosts)
        if known >= self.capacity:
            if known == 2 * self.capacity:
                self._often_ghosts.popitem(last=False)
            self._replace(among_often=False)

    def _replace(self, *, among_often: bool) -> None:
        once = len(self._once)
        if once and (once > self._once_target or (among_often and once == self._once_target) or not self._often):
            self._once_ghosts[self._once.popitem(last=False)[0]] = None
        elif self._often:
            self._often_ghosts[self._often.popitem(last=False)[0]] = None
