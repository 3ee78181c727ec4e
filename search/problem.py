"""The scheduling problem as flat arrays: a graph, and a table of groups with their costs.

Nodes are numbered in a topological order. A *candidate* is a set of nodes that may be one kernel,
with its cost under some model; every single node is a candidate, and several candidates may have
the same members (*variants*: other implementations). A solution is a partition of the nodes into
candidates that can be put in order; its cost is the sum. Every partition whose groups can be
ordered jointly is the intervals of some topological order, so {order} x {cuts} loses none.

Sets are recognized by Zobrist's hash (1970): a random word per node, combined by exclusive or. The
hash of an interval of an order is the difference of two prefix hashes, so that one comparison tells
whether a candidate ends at a place. A solution is checked node by node in the end, so a collision
can cost quality, never truth.

*Memory.* A value is produced by one node and needed until its last consumer has run, or to the end
if it is kept. What is live behind a set of finished nodes depends on the set alone. A candidate
that runs needs what is live before it and what it writes itself; the peak of a solution is the
largest need of its groups. ``limit`` forbids groups that need more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isnan
from typing import NamedTuple

import numpy as np

from ..ir.errors import EvonnxError
from .fans import fans

MOST_NODES = 48
"""Nodes in one candidate, at most."""

SIZE_BITS = 6
"""Bits of a candidate's size: at least those of ``MOST_NODES``."""

SPARSE = 8
"""Bits of a level's mask for each of its candidates, at least."""

HASH, COST, WRITTEN, GROUP = range(4)
"""Columns of ``Flat.ends``."""

_LAST = np.uint64(1 << 63)
"""Above all hashes."""

Value = tuple[int, float, Sequence[int], bool]
"""(producing node, bytes, consuming nodes, whether it is kept to the end)."""


class Flat(NamedTuple):
    """A problem as the arrays that compiled code reads. Edges are numbered by their place in
    ``preds``; of n nodes, m edges, g candidates, k objectives, w values."""

    pred_ptr: np.ndarray
    """i4[n + 1]: where the predecessors of each node begin in ``preds``."""
    preds: np.ndarray
    """i4[m]: predecessors, each once, ascending."""
    succ_ptr: np.ndarray
    """i4[n + 1]"""
    succs: np.ndarray
    """i4[m]"""
    member_ptr: np.ndarray
    """i4[g + 1]: where the members of each candidate begin."""
    members: np.ndarray
    """i4: members in ascending order."""
    cost: np.ndarray
    """f8[g]: cost of each candidate; finite, not negative."""
    parts: np.ndarray
    """f8[g, k]: additive objectives of each candidate; finite, not negative."""
    word: np.ndarray
    """u8[n]: Zobrist's random word of each node."""
    level_ptr: np.ndarray
    """i4[n + 1]: where the levels of each node begin: the sizes of candidates that may end with it.
    """
    sizes: np.ndarray
    """u8[n]: these sizes, as bits."""
    near: np.ndarray
    """u8[n]: the nodes of the candidates that may end with each node, as bits of their numbers
    modulo 64: where the bit of another node is not set, none of them has both."""
    levels: np.ndarray
    """u8[l]: of each level, ascending at each node, the size, in ``SIZE_BITS``; a shift, in 6 bits;
    and its first word in ``masks``. Level 0 is of no node: it has nothing but the empty set."""
    masks: np.ndarray
    """u8[2 * c]: words of the masks of all levels; and behind each its first end, in 32 bits, and a
    filter. ``hash >> shift`` is the word (above 6 bits) and the bit of a hash h < 2**63. A bit that
    is not set says that no candidate of the level has such a hash, the number of set bits below one
    how many ends of the word are before it, at least (Bagwell's hash array mapped trie, 2001, of
    one step). A level has ``SPARSE`` bits or more for each of its candidates, in a power of two of
    words. The lowest 5 bits of the hashes of a word are the bits that its filter (Bloom, 1970) has.
    """
    ends: np.ndarray
    """u8[e + 1, 4]: candidates by their last nodes: the exclusive or of their words, the bits of f8
    of what they cost and of the bytes that they write (see ``written``), and their numbers;
    ascending by hash in a level, of equal sets the cheapest first; one with a hash above all others
    is the last. Side by side, as they are read together, and none in two cache lines."""
    inner_ptr: np.ndarray
    """i4[g + 1]: where the edges inside each candidate begin."""
    inner: np.ndarray
    """i4: edges between two members."""
    value_ptr: np.ndarray
    """i4[n + 1]: where the values that each node produces begin."""
    maker: np.ndarray
    """i4[w]: the node that produces each value."""
    nbytes: np.ndarray
    """f8[w]: bytes of each value."""
    kept: np.ndarray
    """bool[w]: whether the value is needed to the end."""
    user_ptr: np.ndarray
    """i4[w + 1]: where the consumers of each value begin."""
    users: np.ndarray
    """i4: consuming nodes, each once."""
    need_ptr: np.ndarray
    """i4[n + 1]: where the values that each node consumes begin."""
    needs: np.ndarray
    """i4: values."""
    fan: np.ndarray
    """u4[4 * n]: see ``fans.fans``."""
    grown: np.ndarray
    """f8[n]: bytes of the values of each node that anybody needs, less those that it alone needs.
    """
    last_nbytes: np.ndarray
    """f8[d]: bytes of the values that are needed until the last of several consumers has run."""
    last_ptr: np.ndarray
    """i4[d + 1]: where their consumers begin."""
    last_users: np.ndarray
    """i4: consumers, one of which runs last."""
    written: np.ndarray
    """f8[g]: bytes each candidate writes that stay until their consumers ran."""
    limit: float
    """Bytes a solution may need, or infinity."""
    ceiling: float
    """No solution costs more: the price of one step over the limit, for compiled code."""
    ceilings: np.ndarray
    """f8[k]: no solution has more of an objective."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Nodes ``0..n-1`` in topological order, candidates ``0..g-1``; see the module."""

    flat: Flat
    objectives: tuple[str, ...] = ("cost",)
    """Names of the columns of ``parts``."""
    seed: int = 0
    """What the hash words were drawn with."""

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.flat.word)

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        return len(self.flat.cost)

    @property
    def cost(self) -> np.ndarray:
        """f8[g]: cost of each candidate."""
        return self.flat.cost

    @property
    def parts(self) -> np.ndarray:
        """f8[g, k]: additive objectives of each candidate."""
        return self.flat.parts

    @property
    def limit(self) -> float:
        """Bytes a solution may need, or infinity."""
        return self.flat.limit

    @property
    def remembers(self) -> bool:
        """Whether the problem has values, so that the order of groups matters to memory."""
        return len(self.flat.nbytes) > 0

    @property
    def limited_memory(self) -> bool:
        """Whether a solution may need too much memory."""
        return self.remembers and self.limit < inf

    def group(self, candidate: int) -> tuple[int, ...]:
        """Members of a candidate."""
        start, stop = self.flat.member_ptr[candidate : candidate + 2]
        return tuple(self.flat.members[start:stop].tolist())

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """Members of every candidate."""
        members, ptr = self.flat.members.tolist(), self.flat.member_ptr.tolist()
        return [tuple(members[a:b]) for a, b in itertools.pairwise(ptr)]

    def predecessors(self, node: int) -> list[int]:
        """Nodes that ``node`` needs, ascending."""
        start, stop = self.flat.pred_ptr[node : node + 2]
        found: list[int] = self.flat.preds[start:stop].tolist()
        return found

    @cached_property
    def edges(self) -> list[tuple[int, int]]:
        """(before, after) of every edge, as edges are numbered."""
        after = np.repeat(np.arange(self.nodes), np.diff(self.flat.pred_ptr))
        return list(zip(self.flat.preds.tolist(), after.tolist(), strict=True))

    @cached_property
    def variants(self) -> tuple[tuple[int, ...], ...]:
        """Candidates with the same members, cheapest first, in order of their first one."""
        found: dict[tuple[int, ...], list[int]] = {}
        cost = self.cost.tolist()
        for g, members in enumerate(self.groups):
            found.setdefault(members, []).append(g)
        return tuple(tuple(sorted(v, key=lambda g: (cost[g], g))) for v in found.values())

    def priced(self, cost: Sequence[float] | np.ndarray, parts: np.ndarray | None = None,
               objectives: Sequence[str] = ()) -> Problem:
        """The same groups at other costs f8[g], and parts f8[g, k] (those of before if None, where
        they are not the cost itself), which are called ``objectives`` if they are other ones.
        Raises ``ValueError`` for costs that are none."""
        f, names = self.flat, tuple(objectives) or self.objectives
        costs = _numbers(cost, (self.candidates,), "one cost per candidate")
        if parts is not None:
            split = _numbers(parts, (self.candidates, len(names)),
                             "one number per candidate and objective")
        else:
            split = costs[:, None].copy() if np.array_equal(f.parts, f.cost[:, None]) else f.parts
        ends = _aligned(f.ends)
        fresh = np.diff(ends[:-1, HASH], prepend=0) != 0
        if not fresh.all():  # of equal sets the cheapest comes first
            group = ends[:-1, GROUP].astype(np.int64)
            ends[:-1] = ends[np.lexsort((group, costs[group], np.cumsum(fresh)))]
        ends[:-1, COST] = costs[ends[:-1, GROUP].astype(np.int64)].view(np.uint64)
        ceilings = _ceilings(self.nodes, f.member_ptr, f.members, costs, split)
        flat = f._replace(cost=costs, parts=split, ends=ends, ceiling=float(ceilings[0]),
                          ceilings=ceilings[1:])  # fmt: skip
        return Problem(flat, names, self.seed)

    def limited(self, limit: float) -> Problem:
        """The same problem under another memory limit, in bytes."""
        return Problem(self.flat._replace(limit=_limit(limit)), self.objectives, self.seed)


@dataclass(frozen=True, slots=True)
class Point:
    """A solution of a front."""

    values: tuple[float, ...]
    """What was minimized, in the order it was asked for."""
    parts: tuple[float, ...]
    """Sums of the problem's objectives."""
    peak: float
    """Bytes it needs; 0 for a problem without values."""
    chosen: tuple[int, ...]
    """Candidates in execution order."""


@dataclass(slots=True)
class Found:
    """The best solution of a search."""

    cost: float
    chosen: tuple[int, ...]
    """Candidates in execution order."""
    evaluations: int
    """Schedules scored: whole decodes and re-cut moves."""
    bound: float
    """No solution is cheaper: the proven optimum, or ``solutions.floor``."""
    proven: bool = False
    """Whether ``cost`` is the proven optimum."""
    history: list[tuple[int, float, float]] = field(default_factory=list)
    """(evaluations, seconds, best cost), a line per improvement."""
    peak: float = 0.0
    """Bytes the solution needs; 0 for a problem without values."""
    front: tuple[Point, ...] = ()
    """Of a search for several objectives: solutions that no other dominates."""

    @property
    def gap(self) -> float:
        """Part by which the cost may be above the optimum, at most."""
        return self.cost / self.bound - 1.0 if self.bound > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Proof:
    """The optimum and what was looked at to prove it."""

    cost: float
    chosen: tuple[int, ...]
    """Candidates in a possible order."""
    ideals: int
    """Ideals visited."""
    transitions: int
    """Candidates tried from them."""
    peak: float = 0.0
    """Bytes the solution needs; 0 for a problem without values."""
    exact: bool = True
    """Whether nothing was dropped on the way."""


class InfeasibleError(EvonnxError):
    """No solution under the memory limit was found."""

    def __init__(self, limit: float, peak: float, proven: bool) -> None:
        self.limit, self.peak, self.proven = limit, peak, proven
        how = "no schedule needs less" if proven else "the least found, not proven"
        super().__init__(f"memory limit {limit:.0f} bytes: a schedule needs {peak:.0f} bytes "
                         f"({how}); raise the limit to that, or offer smaller groups")


def make_problem(
    nodes: int, edges: Iterable[tuple[int, int]], groups: Sequence[Sequence[int]],
    cost: Sequence[float] | np.ndarray, seed: int = 0, *,
    parts: np.ndarray | None = None, objectives: Sequence[str] = ("cost",),
    values: Sequence[Value] = (), written: Sequence[float] | np.ndarray | None = None,
    limit: float = inf,
) -> Problem:
    """The problem of ``nodes`` nodes, (before, after) ``edges`` with before < after, and candidate
    ``groups`` (ascending, distinct members, all single nodes among them; equal ones are variants)
    with their costs. ``seed`` draws the hash words.

    ``parts`` f8[g, k] are additive objectives named ``objectives``; without them the cost is the
    only one. ``values`` are what occupies memory: (producer, bytes, consumers, kept), an edge from
    the producer to every consumer; what comes from outside of the graph is not a value here.
    ``written`` f8[g] are the bytes that a candidate writes and that stay until their consumers
    ran; without it those of its values that are needed outside. ``limit`` in bytes.
    Raises ``ValueError`` for what is not such a problem."""
    pairs = sorted(set(edges))
    if any(not 0 <= a < b < nodes for a, b in pairs):
        raise ValueError("an edge leads backwards or to a node that does not exist")
    costs = _numbers(cost, (len(groups),), "one cost per candidate")
    split = costs[:, None].copy() if parts is None else _numbers(
        parts, (len(groups), len(objectives)), "one number per candidate and objective")
    if set(range(nodes)) - {g[0] for g in groups if len(g) == 1}:
        raise ValueError("every node alone is a candidate")
    if any(len(g) > MOST_NODES for g in groups):
        raise ValueError(f"a candidate has at most {MOST_NODES} nodes")
    if any(not g or list(g) != sorted({*g}) or not 0 <= g[0] <= g[-1] < nodes for g in groups):
        raise ValueError("the members of a candidate are nodes, ascending, each once")
    word = _words(nodes, seed)
    member_ptr = np.cumsum([0, *(len(g) for g in groups)], dtype=np.int32)
    members = np.array([v for g in groups for v in g], np.int32)
    after = sorted((b, a) for a, b in pairs)
    graph = (_starts((b for b, _ in after), nodes), np.array([a for _, a in after], np.int32),
             _starts((a for a, _ in pairs), nodes), np.array([b for _, b in pairs], np.int32))
    memory = _memory(nodes, set(pairs), values)
    if written is None:
        held = _writes(memory, member_ptr, members)
    else:
        held = _numbers(written, (len(groups),), "one number of bytes written per candidate")
    ceilings = _ceilings(nodes, member_ptr, members, costs, split)
    ends = _ends(nodes, graph, member_ptr, members, costs, held, word)
    flat = Flat(
        *graph, member_ptr, members, costs, np.ascontiguousarray(split), word,
        *ends, *_inner(graph, member_ptr, members), *memory,
        fans(nodes, graph[2], graph[3]), *_ending(nodes, memory), held, _limit(limit),
        float(ceilings[0]), ceilings[1:],
    )  # fmt: skip
    return Problem(flat, tuple(objectives), seed)


def _words(nodes: int, seed: int) -> np.ndarray:
    """A hash word u8[n] of 63 bits for every node, none of them 0: SplitMix64 (G. Steele, D. Lea
    and C. Flood, 2014). NumPy's own generators are 3 MB that a search for proofs does without."""
    steps = np.arange(1, nodes + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    start = _mixed(np.array([seed % (1 << 64)], np.uint64))
    return np.maximum(_mixed(start + steps) >> np.uint64(1), np.uint64(1))


def _mixed(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's bijection of 64 bits."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits


def _limit(limit: float) -> float:
    if isnan(limit) or limit < 0:
        raise ValueError(f"the memory limit is a number of bytes, not {limit}")
    return float(limit)


def _numbers(given: Sequence[float] | np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    found = np.array(given, np.float64)
    if found.shape != shape or not np.isfinite(found).all() or (found < 0).any():
        raise ValueError(f"there is {what}, finite and not negative")
    return found


def _starts(owners: Iterable[int], nodes: int) -> np.ndarray:
    counts = np.zeros(nodes + 1, np.int32)
    for owner in owners:
        counts[owner + 1] += 1
    return np.cumsum(counts, dtype=np.int32)


Graph = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Ends = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Memory = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray,
               np.ndarray]  # fmt: skip


def _memory(nodes: int, pairs: set[tuple[int, int]], values: Sequence[Value]) -> Memory:
    """value_ptr, maker, nbytes, kept, user_ptr, users, need_ptr, needs."""
    ordered = sorted(((p, float(b), sorted({*c}), bool(k)) for p, b, c, k in values),
                     key=lambda v: v[0])  # fmt: skip
    for producer, nbytes, consumers, _ in ordered:
        if not 0 <= producer < nodes or any((producer, c) not in pairs for c in consumers):
            raise ValueError(f"no edge leads from node {producer} to a consumer of its value")
        if not 0 <= nbytes < inf:
            raise ValueError(f"a value has a number of bytes, not {nbytes}")
    needs = sorted((c, k) for k, (_, _, consumers, _) in enumerate(ordered) for c in consumers)
    return (
        _starts((v[0] for v in ordered), nodes), np.array([v[0] for v in ordered], np.int32),
        np.array([v[1] for v in ordered], np.float64),
        np.array([v[3] for v in ordered], bool),
        np.cumsum([0, *(len(v[2]) for v in ordered)], dtype=np.int32),
        np.array([c for v in ordered for c in v[2]], np.int32),
        _starts((c for c, _ in needs), nodes), np.array([k for _, k in needs], np.int32),
    )  # fmt: skip


def _ending(nodes: int, memory: Memory) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """grown, last_nbytes, last_ptr, last_users."""
    _, maker, nbytes, kept, user_ptr, users, _, _ = memory
    readers = np.diff(user_ptr)
    alone = np.flatnonzero(~kept & (readers == 1))
    ending = np.flatnonzero(~kept & (readers > 1))
    ending = ending[np.argsort(readers[ending], kind="stable")]  # loops of one length in a row
    # Of nothing ``bincount`` makes integers, for which all compiled code would be compiled again.
    grown = np.bincount(maker, np.where(kept | (readers > 0), nbytes, 0.0), nodes).astype(float)
    grown -= np.bincount(users[user_ptr[alone]], nbytes[alone], nodes)
    found = [users[user_ptr[w] : user_ptr[w + 1]] for w in ending]
    return (grown, nbytes[ending], np.cumsum([0, *map(len, found)], dtype=np.int32),
            np.concatenate([users[:0], *found]))


def arcs(member_ptr: np.ndarray, members: np.ndarray, ptr: np.ndarray, targets: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every arc from a member of a candidate: its candidate, the member's place in ``members``, its
    place in ``targets``, and whether it leads to another member."""
    degree = np.diff(ptr)[members]
    place = np.repeat(np.arange(len(members)), degree)
    first = np.cumsum(degree) - degree
    arc = np.arange(len(place)) - first[place] + ptr[members][place]
    owner = np.repeat(np.arange(len(member_ptr) - 1), np.diff(member_ptr))
    nodes = len(ptr)
    known = owner * nodes + members  # ascending, as candidates are in order and members ascend
    asked = owner[place] * nodes + targets[arc]
    at = np.minimum(np.searchsorted(known, asked), max(0, len(known) - 1))
    inside = known[at] == asked if len(known) else np.zeros(0, bool)
    return owner[place], place, arc, inside


def _ends(nodes: int, graph: Graph, member_ptr: np.ndarray, members: np.ndarray, costs: np.ndarray,
          written: np.ndarray, word: np.ndarray) -> Ends:
    """level_ptr, sizes, near, levels, masks, ends: candidates by the members without a
    successor among the members, and by their sizes. Raises ``ValueError`` where different sets have
    one hash."""
    size = np.diff(member_ptr)
    if not len(size):
        none = np.zeros(nodes, np.uint64)
        return (np.ones(nodes + 1, np.int32), none, none, np.zeros(1, np.uint64),
                np.zeros(2, np.uint64), np.full((1, 4), _LAST))
    hashes = np.bitwise_xor.reduceat(word[members], member_ptr[:-1])
    _distinct(hashes, member_ptr, members)
    _, place, _, inside = arcs(member_ptr, members, graph[2], graph[3])
    last = np.ones(len(members), bool)
    last[place[inside]] = False
    group = np.repeat(np.arange(len(size)), size)[last]
    most = int(size.max()) + 1
    level = members[last].astype(np.int64) * most + size[group]
    rank = np.lexsort((group, costs[group], hashes[group], level))
    group, level = group[rank], level[rank]
    ends = np.column_stack([hashes[group], costs[group].view(np.uint64),
                            written[group].view(np.uint64), group.astype(np.uint64)])
    bits = np.bitwise_or.reduceat(np.uint64(1) << (members & 63).astype(np.uint64), member_ptr[:-1])
    near, sizes = np.zeros(nodes, np.uint64), np.zeros(nodes, np.uint64)
    np.bitwise_or.at(near, level // most, bits[group])
    np.bitwise_or.at(sizes, level // most, np.uint64(1) << size[group].astype(np.uint64))
    found = _levels(nodes, level, most, ends[:, HASH])
    ends = _aligned(np.append(ends, [[_LAST] * 4], axis=0))
    return found[0], sizes, near, *found[1:], ends


def _aligned(rows: np.ndarray) -> np.ndarray:
    """A copy of u8[e, 4] of which no row is in two cache lines."""
    room = np.empty(rows.size + 3, np.uint64)
    first = -room.ctypes.data // 8 % 4
    found = room[first : first + rows.size].reshape(rows.shape)
    found[:] = rows
    return found


def _levels(nodes: int, level: np.ndarray, most: int, hashes: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """level_ptr, levels, masks of the ends with these levels (node * ``most`` + size)
    and hashes, ascending."""
    start = np.flatnonzero(np.diff(level, prepend=-1))
    counts = np.diff(start, append=len(level))
    double = np.ceil(np.log2(np.maximum(1.0, counts * SPARSE / 64))).astype(np.int64)
    first = 1 + np.cumsum(1 << double) - (1 << double)
    shift = 57 - double
    spread = hashes >> np.repeat(shift, counts).astype(np.uint64)
    bit = (np.repeat(first, counts) << 6) + spread.astype(np.int64)
    masks = np.zeros((1 + int((1 << double).sum()), 2), np.uint64)
    np.bitwise_or.at(masks[:, 0], bit >> 6, np.uint64(1) << (bit & 63).astype(np.uint64))
    masks[:, 1] = np.searchsorted(bit, np.arange(len(masks)) << 6)
    low = (hashes & np.uint64(31)) + np.uint64(32)
    np.bitwise_or.at(masks[:, 1], bit >> 6, np.uint64(1) << low)
    masks[0] = 1, 1 << 32
    heads = np.append(0, level[start] % most | shift << SIZE_BITS | first << (SIZE_BITS + 6))
    ptr = 1 + np.searchsorted(level[start], np.arange(nodes + 1) * most)
    return ptr.astype(np.int32), heads.astype(np.uint64), masks.reshape(-1)


def _ceilings(nodes: int, member_ptr: np.ndarray, members: np.ndarray, costs: np.ndarray,
              parts: np.ndarray) -> np.ndarray:
    """f8[1 + k]: what no solution exceeds, of the cost and of each objective: every node pays the
    most that any of its candidates costs."""
    both = np.column_stack([costs, parts])
    most = np.zeros((nodes, both.shape[1]))
    np.maximum.at(most, members, np.repeat(both, np.diff(member_ptr), axis=0))
    ceilings: np.ndarray = most.sum(axis=0)
    return ceilings


def _distinct(hashes: np.ndarray, member_ptr: np.ndarray, members: np.ndarray) -> None:
    rank = np.argsort(hashes, kind="stable")
    for a, b in itertools.pairwise(rank):
        if hashes[a] == hashes[b] and not np.array_equal(
            members[member_ptr[a] : member_ptr[a + 1]], members[member_ptr[b] : member_ptr[b + 1]]
        ):
            raise ValueError(f"candidates {a} and {b} have one hash: draw words with another seed")


def _inner(graph: Graph, member_ptr: np.ndarray, members: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray]:
    """inner_ptr, inner: edges between two members of each candidate."""
    owner, _, arc, inside = arcs(member_ptr, members, graph[0], graph[1])
    return (_starts(owner[inside].tolist(), len(member_ptr) - 1), arc[inside].astype(np.int32))


def _writes(memory: Memory, member_ptr: np.ndarray, members: np.ndarray) -> np.ndarray:
    """f8[g]: bytes of the values of each candidate that are needed outside of it."""
    value_ptr, _, nbytes, kept, user_ptr, users, _, _ = memory
    held = np.zeros(len(member_ptr) - 1)
    if not len(nbytes):
        return held
    for g in range(len(held)):
        inside = members[member_ptr[g] : member_ptr[g + 1]].tolist()
        for v in inside:
            for w in range(value_ptr[v], value_ptr[v + 1]):
                outside = {*users[user_ptr[w] : user_ptr[w + 1]].tolist()} - {*inside}
                if kept[w] or outside:
                    held[g] += nbytes[w]
    return held
