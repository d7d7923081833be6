"""Scenarios: what a few front ends do at the same time on a tiny pool."""

from __future__ import annotations

from dataclasses import dataclass, replace

from storage.fabric.sim import SimulatedFabric
from tests.storage.pools import PAGE_BYTES, finish, make_store

SMALL = 24  # bytes of a value that lies in its key's cell of 64
TWO_PAGES = 2 * PAGE_BYTES


@dataclass(frozen=True)
class Step:
    """One thing that a front end does; ``length`` is that of the value it brings, beyond eight bytes that name the write."""

    name: str
    keys: tuple[bytes, ...] = ()
    length: int = SMALL


@dataclass(frozen=True)
class Scenario:
    """What front ends do one after the other (``setup``), then beside each other (``scripts``)."""

    name: str
    why: str
    setup: tuple[tuple[int, Step], ...]
    scripts: tuple[tuple[Step, ...], ...]
    pages: int = 8
    index_entries: int = 7
    policy: str = "noeviction"
    binding_bits: int = 8
    version_bits: int = 14
    doorbells_limit: int = 40  # of one front end: whoever rings more often is kept from ending by others
    is_small: bool = True  # complete within seconds
    # With these who is killed is dead at once, and others may find out while they work; without, when all others have ended.
    dies_at_once: bool = False
    adopters: tuple[int, ...] = ()  # who begins only when the dead are dead, or have ended
    newcomers: tuple[tuple[int, tuple[Step, ...]], ...] = ()  # a dead front end's number, and what the one does who takes it then

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Every key that is named."""
        scripts = (*self.scripts, *(script for _, script in self.newcomers))
        named = [key for _, step in self.setup for key in step.keys] + [key for script in scripts for step in script for key in step.keys]
        return tuple(dict.fromkeys(named))


def step(name: str, *keys: bytes, length: int = SMALL) -> Step:
    """Return a step."""
    return Step(name, keys, length)


K = b"key"
COLLECT = step("collect")
# Each front end owns a page of small cells before it begins, so that claiming one is no part of what is explored.
WARM = ((0, step("write", b"w0")), (1, step("write", b"w1")))
THERE = (*WARM, (0, step("write", K)))
THERE_AND_KNOWN = (*THERE, (1, step("read", K)), (1, step("read", K)))
THERE_AND_COPIED = (*THERE_AND_KNOWN, (1, step("read", K)), (1, step("read", K)))


def keys_by_home(sets: int, count: int) -> list[list[bytes]]:
    """Return for each home set ``count`` keys that live there."""
    store = make_store("sim", index_entries=7 * sets)
    fabric = store.pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    first_set = store.pool.layout()["sets"]
    found: list[list[bytes]] = [[] for _ in range(sets)]
    number = 0
    while min(map(len, found)) < count:
        key = b"h%d" % number
        number += 1
        finish(store.write(0, key, b""))
        for home in range(sets):
            words = fabric.peek(first_set + home * 128 + 16, 112)
            if any(words[place] & 3 == 2 for place in range(0, 112, 16)):
                found[home].append(key)
        finish(store.delete(0, [key]))
    return [keys[:count] for keys in found]


HERE, THITHER = keys_by_home(2, 10)
X, Y = HERE[7:9]
FULL_HOME = (*((0, step("write", key)) for key in HERE[:6]), (0, step("write", THITHER[0])), (1, step("write", HERE[6])))

SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, why: str, setup: tuple[tuple[int, Step], ...], *scripts: tuple[Step, ...], **options: object) -> None:
    """Put a scenario on the list."""
    SCENARIOS[name] = replace(Scenario(name, why, setup, scripts), **options)  # type: ignore[arg-type]


scenario("set-set", "two inserts of one key: one slot remains", WARM, (step("write", K),), (step("write", K),))
scenario("set-get", "a reader beside an insert", WARM, (step("write", K),), (step("read", K), step("read", K)))
scenario("copy-set", "a reader's copy beside an overwrite", THERE_AND_COPIED, (step("write", K),), (step("read", K), step("read", K)))
scenario("copy-del", "and beside a removal", THERE_AND_COPIED, (step("delete", K),), (step("read", K), step("read", K)))
scenario(
    "copy-del-set",
    "the slot and the cell are used again, for the same key",
    THERE_AND_COPIED,
    (step("delete", K), COLLECT, step("write", K)),
    (step("read", K),),
    is_small=False,
)
scenario("get-del", "a reader beside a removal", THERE, (step("delete", K),), (step("read", K),))
scenario("match-set", "a look for several beside an insert", THERE, (step("write", b"yek"),), (step("exists", K, b"yek"),))
scenario("setnx-setnx", "exactly one winner", WARM, (step("write_nx", K),), (step("write_nx", K),))
scenario("setnx-set", "the winner is told apart from an overwrite", WARM, (step("write_nx", K),), (step("write", K),))
scenario("set-other", "two keys in one slot: one wins its first word, one its second", WARM, (step("write", K),), (step("write", b"yek"),))
scenario(
    "del-set-setnx",
    "a lower slot comes free while another inserts the same key behind it",
    (*WARM, (0, step("write", b"front"))),
    (step("delete", b"front"), step("write", K)),
    (step("write_nx", K),),
)
scenario(
    "set-del-setnx",
    "what was published before the other has looked again is gone when it publishes",
    WARM,
    (step("write", K), step("delete", K)),
    (step("write_nx", K), step("read", K)),
    is_small=False,
)
scenario(
    "set-set-set",
    "three inserts of one key meet in the lowest slot",
    (*WARM, (2, step("write", b"w2"))),
    (step("write", K),),
    (step("write", K),),
    (step("write", K),),
    is_small=False,
)
scenario(
    "setnx-setnx-setnx",
    "exactly one winner of three",
    (*WARM, (2, step("write", b"w2"))),
    (step("write_nx", K),),
    (step("write_nx", K),),
    (step("write_nx", K),),
    is_small=False,
)
scenario("del-setnx", "an insert beside the removal of what was there", THERE, (step("delete", K),), (step("write_nx", K),))
scenario(
    "del-setnx-get", "the same, and a look afterwards", THERE, (step("delete", K), step("read", K)), (step("write_nx", K),), is_small=False
)
scenario(
    "del-get", "the cell is used again for another key", THERE, (step("delete", K), COLLECT, step("write", b"yek")), (step("read", K),)
)
scenario("del-del", "one of them removed it", THERE, (step("delete", K),), (step("delete", K),))
scenario(
    "overwrite-get",
    "the old cell holds another value before its reader comes",
    THERE,
    (step("write", K), COLLECT, step("write", b"yek")),
    (step("read", K),),
)
scenario(
    "overwrite-get-known",
    "the same with a remembered location",
    THERE_AND_KNOWN,
    (step("write", K), COLLECT, step("write", b"yek")),
    (step("read", K),),
)
scenario(
    "overwrite-del-get-known",
    "a remembered location after overwrite, removal and another key in the slot",
    THERE_AND_KNOWN,
    (step("write", K), step("delete", K), step("write", b"yek")),
    (step("read", K),),
)
PAGED = (*WARM, (0, step("write", K, length=TWO_PAGES)))
scenario(
    "paged-overwrite-get",
    "pages are used again while a reader follows the page list",
    PAGED,
    (step("write", K, length=TWO_PAGES), COLLECT, step("write", b"yek", length=TWO_PAGES)),
    (step("read", K),),
    pages=12,
)
scenario(
    "paged-del-get",
    "the same after a removal",
    PAGED,
    (step("delete", K), COLLECT, step("write", b"yek", length=TWO_PAGES)),
    (step("read", K),),
    pages=12,
)
scenario(
    "paged-overwrites",
    "two that replace pages free the old ones once",
    PAGED,
    (step("write", K, length=TWO_PAGES), COLLECT),
    (step("write", K), COLLECT),
    pages=12,
)
scenario(
    "overwrite-overwrite", "no update is lost and none is freed twice", THERE, (step("write", K), COLLECT), (step("write", K), COLLECT)
)
scenario("swap-swap", "each value is handed out once", THERE, (step("swap", K),), (step("swap", K),))
scenario(
    "replace-replace",
    "of two with one token one wins",
    (*THERE, (0, step("read", K)), (1, step("read", K))),
    (step("replace", K),),
    (step("replace", K),),
)
scenario(
    "expire-del",
    "an expiry does not bring a removed value back",
    (*THERE, (0, step("read", K))),
    (step("expire", K),),
    (step("delete", K),),
)
scenario("expire-overwrite", "nor the old value under a new one", (*THERE, (0, step("read", K))), (step("expire", K),), (step("write", K),))
scenario("flush-set", "a write beside a flush is before it or after it", THERE, (step("flush"),), (step("write", K), step("read", K)))
scenario(
    "flush-setnx", "never two winners, and no winner beside a value", THERE, (step("flush"), step("exists", K)), (step("write_nx", K),)
)
scenario(
    "flush-setnx-absent",
    "seen before the flush is gone after it",
    WARM,
    (step("exists", K), step("flush"), step("exists", K)),
    (step("write_nx", K),),
)
scenario(
    "flush-get", "a flushed value is not seen afterwards", THERE, (step("flush"), step("write", b"yek")), (step("read", K), step("read", K))
)
scenario(
    "match-del",
    "each block named was there at some instant",
    (*WARM, *((0, step("write", key)) for key in (b"a", b"b", b"c"))),
    (step("delete", b"b"), step("delete", b"a")),
    (step("exists", b"a", b"b", b"c"),),
)
KNOWN = (b"a", b"b", b"c", b"d")
scenario(
    "match-known-del",
    "the same for blocks whose places are remembered",
    (*WARM, *((0, step("write", key)) for key in KNOWN), (1, step("exists", *KNOWN)), (1, step("exists", *KNOWN))),
    (step("delete", b"b"), step("write", b"b")),
    (step("exists", *KNOWN), step("exists", *KNOWN)),
    is_small=False,
)
scenario(
    "evict-get",
    "what is evicted for pages is not read any more",
    (*WARM, (0, step("write", K, length=TWO_PAGES)), (0, step("write", b"big", length=3 * PAGE_BYTES))),
    (step("write", b"new", length=TWO_PAGES),),
    (step("read", K),),
    policy="allkeys-random",
    pages=8,
    is_small=False,
)
scenario(
    "evict-overwrite",
    "an evictor takes exactly what it looked at",
    (*WARM, (0, step("write", K, length=TWO_PAGES)), (0, step("write", b"big", length=3 * PAGE_BYTES))),
    (step("write", b"new", length=TWO_PAGES),),
    (step("write", K),),
    policy="allkeys-random",
    pages=8,
    is_small=False,
)
scenario(
    "full-index",
    "both make room in one full set",
    (*WARM, *((0, step("write", b"f%d" % number)) for number in range(5))),
    (step("write", b"x"),),
    (step("write", b"y"),),
    policy="allkeys-random",
    is_small=False,
)
scenario(
    "overflow",
    "two that put a key away from a full home at once",
    FULL_HOME,
    (step("write", X),),
    (step("write", Y),),
    index_entries=14,
    is_small=False,
)
scenario(
    "overflow-twins",
    "one key put away from a full home by two at once",
    FULL_HOME,
    (step("write", X),),
    (step("write_nx", X),),
    index_entries=14,
)
scenario(
    "overflow-del",
    "an overflow word is raised and lowered at once, and a reader follows it",
    (*FULL_HOME, (0, step("write", X))),
    (step("delete", X),),
    (step("write", Y), step("read", X)),
    index_entries=14,
)
scenario(
    "overflow-home",
    "one key inserted away from home and at home at once",
    FULL_HOME,
    (step("delete", HERE[0]), step("write", X)),
    (step("write_nx", X),),
    index_entries=14,
)
scenario("claim", "both claim their first pages", (), (step("write", b"x"),), (step("write", b"y", length=TWO_PAGES),), is_small=False)
scenario(
    "claim-dirty",
    "a page is claimed for cells that another value's bytes are still in",
    ((0, step("write", K, length=TWO_PAGES)), (0, step("delete", K)), (0, COLLECT), *WARM),
    (step("write", b"x", length=700),),
    (step("read", b"x"),),
)

ALL_WARM = (*WARM, (2, step("write", b"w2")), (0, step("write", K, length=TWO_PAGES)))
ADOPT = step("adopt")
ADOPTIONS: dict[str, Scenario] = {
    each.name: each
    for each in (
        Scenario(
            "adopt-work", "one adopts while another writes, removes and lets tickets pass", ALL_WARM,
            ((step("write", K, length=TWO_PAGES), COLLECT), (ADOPT, ADOPT), (step("write", K), step("maintain"), COLLECT)),
            pages=16, doorbells_limit=1_000, dies_at_once=True, adopters=(1,),
        ),
        Scenario(
            "adopt-read", "one adopts while another reads the pages that the dead one was taking back", ALL_WARM,
            ((step("delete", K), COLLECT), (ADOPT, ADOPT, step("write", b"yek", length=TWO_PAGES)), (step("read", K), step("maintain"))),
            pages=16, doorbells_limit=1_000, dies_at_once=True, adopters=(1,),
        ),
        Scenario(
            "adopt-adopt", "two adopt at once", ALL_WARM,
            ((step("write", K), COLLECT), (ADOPT, ADOPT), (ADOPT, ADOPT)),
            pages=16, doorbells_limit=1_000, dies_at_once=True, adopters=(1, 2),
        ),
        Scenario(
            "adopt-newcomer", "the dead one's number is taken while others adopt", ALL_WARM,
            ((step("write_nx", b"yek"), step("delete", K), COLLECT), (ADOPT, step("write", b"yek"), ADOPT), ()),
            pages=16, doorbells_limit=1_000, dies_at_once=True, adopters=(1,),
            newcomers=((0, (step("read", K), step("write", b"yek"), ADOPT)),),
        ),
    )
}  # fmt: skip


def wrapping(version_bits: int) -> dict[str, Scenario]:
    """Return what goes wrong when a slot changes exactly as often as there are versions while somebody relies on its word.

    Two overwrites here: one bit of version is too narrow, two bits are not. The second brings the cell back that the first had left.
    """
    small, paged = (step("write", K), COLLECT, step("write", K)), step("write", K, length=TWO_PAGES)
    known = (*THERE, (1, step("read", K)))
    cases: dict[str, tuple[tuple[tuple[int, Step], ...], tuple[Step, ...], Step]] = {
        "read": (THERE_AND_KNOWN, small, step("read", K)),
        "paged read": (PAGED, (paged, COLLECT, paged), step("read", K)),
        "swap": (THERE, small, step("swap", K)),
        "replace": (known, small, step("replace", K)),
        "expire": (known, small, step("expire", K)),
    }
    return {
        name: Scenario(name, "as many changes as versions", setup, (script, (looks,)), pages=12, binding_bits=1, version_bits=version_bits)
        for name, (setup, script, looks) in cases.items()
    }
