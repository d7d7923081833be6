"""Hot chains: what belongs together among the hottest blocks.

A chain here is a run of blocks from parent to child that are asked for together: from a head on, the hottest child follows as long as it
is read at least half as often as the head of the run. So a system prompt that thousands of requests begin with is one chain, and what
follows it in each of them is another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from storage.interface import HotBlock

TOGETHER = 0.5  # of the hits of a run's head: with fewer a block begins a chain of its own


@dataclass(frozen=True, slots=True)
class HotChain:
    """One run of blocks, hottest of its neighbours."""

    key: bytes  # of its last block
    head: bytes  # of its first
    blocks: int
    depth: int  # blocks before the last one in the whole chain
    hits: int  # of its last block: how often all of it was read
    heat: float  # the same, halved for every ten minutes since
    last_use_ms: int  # Unix time in milliseconds
    size_bytes: int  # of all its blocks


def hot_chains(blocks: Iterable[HotBlock], count: int) -> list[HotChain]:
    """Return the ``count`` hottest chains that the blocks make, hottest first; of equally hot ones the larger."""
    by_hash = {block.own_hash: block for block in blocks}
    children: dict[int, list[HotBlock]] = defaultdict(list)
    heads = []
    for block in by_hash.values():
        if block.parent_hash and block.parent_hash in by_hash and block.parent_hash != block.own_hash:
            children[block.parent_hash].append(block)
        else:
            heads.append(block)
    chains = []
    seen: set[int] = set()
    while True:
        while heads:
            head = heads.pop()
            if head.own_hash not in seen:
                run, branches = _run(head, children, seen)
                heads.extend(branches)
                chains.append(run)
        # Whatever is left lies in a circle: two keys that name each other as parents.
        left = next((block for block in by_hash.values() if block.own_hash not in seen), None)
        if left is None:
            break
        heads.append(left)
    chains.sort(key=lambda chain: (-chain.heat, -chain.size_bytes, chain.key))
    return chains[:count]


def _run(head: HotBlock, children: dict[int, list[HotBlock]], seen: set[int]) -> tuple[HotChain, list[HotBlock]]:
    """Follow the hottest children from ``head`` on; returns the run, and the blocks that begin others."""
    last, size_bytes, blocks = head, head.size_bytes, 1
    branches: list[HotBlock] = []
    seen.add(head.own_hash)
    while True:
        following = sorted((child for child in children[last.own_hash] if child.own_hash not in seen), key=lambda child: -child.heat)
        if not following or following[0].hits < TOGETHER * head.hits:
            branches.extend(following)
            break
        branches.extend(following[1:])
        last = following[0]
        seen.add(last.own_hash)
        size_bytes += last.size_bytes
        blocks += 1
    chain = HotChain(
        key=last.key,
        head=head.key,
        blocks=blocks,
        depth=last.depth,
        hits=last.hits,
        heat=last.heat,
        last_use_ms=last.last_use_ms,
        size_bytes=size_bytes,
    )
    return chain, branches
