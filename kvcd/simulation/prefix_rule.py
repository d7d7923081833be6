"""allkeys-prefix: kvcd's own rule, in the sampled form that the server has."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvcd.simulation.duel import Duel
from kvcd.simulation.ghost_table import GhostTable
from kvcd.simulation.heat import Heat
from kvcd.simulation.policy import Policy
from kvcd.simulation.residents import Residents
from kvcd.simulation.reuse import ReuseMedian, TailOdds

_USES_WEIGHT = 1.0  # medians that a doubling of the count is worth; 0.7 is within .005 of it on most traces, .008 on agents
_NEW_WEIGHT = 0.25  # medians that a doubling of the unknown blocks stored along costs; 0.2 to 0.33 are as good
_DECAY_MEDIANS = 10  # after which an old use counts 1/e; 10 to 1 000 are within .002
_DEEPEST = 1024  # a block counts as used this much before its head at most


class PrefixRule(Policy):
    """Priority = last use + bonus, in accesses: leaf-first LRU moved by how often a block came back and what it came with.

    ``may_refuse``: what is stored by PREFIX.SET ends at the first block worth less than the victim; a plain SET always stores.
    """

    def __init__(self, capacity: int, *, may_refuse: bool) -> None:
        super().__init__(capacity)
        self._may_refuse = may_refuse
        self._clock = 0
        self._held: dict[int, Heat] = {}
        self._residents = Residents(seed=capacity)
        self._ghosts = GhostTable(capacity)
        self._median = ReuseMedian(capacity)
        self._tails = TailOdds(capacity)
        self._duel = Duel(capacity)
        self._least = math.inf  # bonus that a block of the request at hand had so far

    def holds(self, block: int) -> bool:
        return block in self._held

    def access(self, block: int) -> None:
        self.play((block,))

    def play(self, blocks: Sequence[int]) -> int:
        hits = self.leading_run(blocks)
        if self._duel.advance(self._clock):
            self._residents.reorder(self._priority)
        last = len(blocks) - 1
        for depth in range(hits):
            self._use(self._held[blocks[depth]], depth, is_tail=depth == last, new=0, penalty=0.0)
        self._store(blocks, hits)
        self._clock += len(blocks)
        self._tails.observe_request(len(blocks))
        return hits

    def _store(self, blocks: Sequence[int], hits: int) -> None:
        """Store what follows the hits; the first refusal ends it, but the rest was asked for and is remembered."""
        new = sum(block not in self._held and self._ghosts.find(block) is None for block in blocks[hits:])
        refusing = False
        for depth in range(hits, len(blocks)):
            block = blocks[depth]
            heat = self._held.get(block)
            is_held = heat is not None
            ghost = None if is_held else self._ghosts.find(block)
            heat = heat or ghost or Heat(block)
            is_tail = depth == len(blocks) - 1
            self._use(heat, depth, is_tail=is_tail, new=new, penalty=self._tails.penalty if is_tail else 0.0)
            if is_held:
                continue
            refusing = refusing or not self._make_room(heat)
            if not refusing:
                if ghost is not None:
                    self._ghosts.remove(block)
                self._hold(heat)
                continue
            self.refused_blocks += 1
            if ghost is None:
                self._ghosts.add(heat)

    def _use(self, heat: Heat, depth: int, *, is_tail: bool, new: int, penalty: float) -> None:
        """Write what the block is worth from this access on."""
        now = self._clock - min(depth, _DEEPEST)  # the head is the youngest of its request
        if heat.count:
            self._duel.leave(heat)
            interval = max(0, now - heat.last)
            self._median.observe(interval)
            heat.count = heat.count * math.exp(-interval / (_DECAY_MEDIANS * self._median.accesses)) + 1
            self._tails.observe_return(was_tail=heat.is_tail)
        else:
            heat.count = 1.0
        octaves = _USES_WEIGHT * math.log2(heat.count) - _NEW_WEIGHT * math.log2(1 + new) - penalty
        # Without its head a block is of no use, however well it is remembered while its head is not.
        # The median moves while a request is played: by octaves alone deeper blocks could come to be worth more.
        bonus = self._median.accesses * octaves
        self._least = min(bonus, self._least) if depth else bonus
        heat.bonus = self._least
        heat.last = now
        heat.is_tail = is_tail
        heat.priority = self._priority(heat)
        self._duel.enter(heat)

    def _make_room(self, heat: Heat) -> bool:
        """Evict one block where the cache is full; False when the new one is worth less."""
        if len(self._held) < self.capacity:
            return True
        victim = self._residents.victim()
        if self._may_refuse and heat.priority < victim.priority:
            return False
        self._residents.take(victim)
        del self._held[victim.block]
        victim.is_held = False
        self._ghosts.add(victim)
        return True

    def _hold(self, heat: Heat) -> None:
        heat.is_held = True
        self._held[heat.block] = heat
        self._residents.add(heat)

    def _priority(self, heat: Heat) -> float:
        return heat.last + heat.bonus if self._duel.rule_leads else heat.last
