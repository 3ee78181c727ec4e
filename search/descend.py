"""Whether some schedule needs no more than a number of bytes: found, or proven impossible.

Depth-first search over ideals (see ``exact``) from which the way is not known yet, what leaves
least live first; no ideal is visited twice. Two things make it small:

*Moves that cost nothing are made at once.* What is live behind an ideal is a submodular function of
it. So if a group leads from ideal I to J, stays within the limit, and nothing between I and J has
less live than J, then whatever schedule goes on from I can go on from J: from each of its ideals K
it goes to the union of K and J, where no more is live than at K (the valleys of Liu, "An
application of generalized tree pebbling to sparse matrix factorization", 1987, for any graph). The
groups of that schedule lose the nodes of J; so this holds where what such a group loses leaves
another candidate that writes no more (``_free``).

*Waists.* Where a node is comparable to all others, every schedule passes through the ideal of its
ancestors and itself, or some group runs across. If each such group can be cut in two within the
limit, the schedules before and behind are independent of one another, and each part is searched by
itself (divide and conquer of SERENITY: Ahn et al., 2020, which knows no groups).

The answer is exact: dominance, not a heuristic, is all that leaves ideals out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .compiled import compiled, inlined, leaf
from .exact import _copy, _growth, _has, _joined, _lacks, _lookup, _ready, _serves, tables
from .problem import Problem

_FOUND, _NONE, _WIDE = 0, 1, 2
_MOST = 6
"""Members of a group that is made at once, at most: it takes a look at each of its down-sets."""


class Free(NamedTuple):
    """Which candidates may be run at once where they cost nothing."""

    ptr: np.ndarray
    """i4[g + 1]: where the down-sets of each candidate begin."""
    down: np.ndarray
    """i8: sets of members, as bits, neither empty nor whole, that hold what they need of it."""
    free: np.ndarray
    """bool[g]: whether other groups can do without the nodes of this one."""


@leaf
def _add(row, key, word, v):  # type: ignore[no-untyped-def]
    row[v >> 6] |= np.uint64(1) << np.uint64(v & 63)
    return key ^ word[v]


@leaf
def _harmless(f, free, row, after, part, g, growth):  # type: ignore[no-untyped-def]
    """Whether a group that changes the live bytes by ``growth``, to the ideal ``after``, may be run
    at once."""
    if growth > 0 or not free.free[g]:
        return False
    for e in range(free.ptr[g], free.ptr[g + 1]):
        for w in range(len(row)):
            part[w] = row[w]
        for m in range(f.member_ptr[g], f.member_ptr[g + 1]):
            if (free.down[e] >> (m - f.member_ptr[g])) & 1:
                _add(part, np.uint64(0), f.word, f.members[m])
        if _growth(f, row, part, g) < growth:
            return False
    return True


@leaf
def _moved(f, row, key, low, high, window, g):  # type: ignore[no-untyped-def]
    """(key, low, high) of the ideal ``row``, which ``g`` is added to."""
    for m in range(f.member_ptr[g], f.member_ptr[g + 1]):
        u = f.members[m]
        key = _add(row, key, f.word, u)
        if f.succ_ptr[u + 1] > f.succ_ptr[u]:
            high = max(high, f.succs[f.succ_ptr[u + 1] - 1])
    while low < len(window) and _has(row, window[low]):
        low += 1
    return key, low, high


@leaf
def _settle(f, tables, free, inside, window, row, spare, state, trace, count, options, rank):  # type: ignore[no-untyped-def]
    """Runs what costs nothing, written into ``trace`` behind ``count`` candidates. Answers (count,
    live, key, low, high, number of options): ``options`` are the candidates within the limit, by
    what they leave live (``rank``); ``spare`` is room for two ideals."""
    live, key, low, high = state
    after, part = spare
    while True:
        left, moved = 0, False
        for j in range(low, len(window)):
            v = window[j]
            if v > high or moved:
                break
            if not _ready(f, row, v):
                continue
            for e in range(tables.first_ptr[v], tables.first_ptr[v + 1]):
                g = tables.first[e]
                if live + f.written[g] > f.limit or not (
                        _lacks(f, row, g, inside) and _serves(tables, row, g)):
                    continue
                _joined(f, row, key, g, after)
                growth = _growth(f, row, after, g)
                if _harmless(f, free, row, after, part, g, growth):
                    key, low, high = _moved(f, row, key, low, high, window, g)
                    live += growth
                    trace[count] = g
                    count += 1
                    moved = True
                    break
                wish = growth + 1e-6 * f.written[g]
                place = left
                while place > 0 and rank[place - 1] > wish:
                    rank[place], options[place] = rank[place - 1], options[place - 1]
                    place -= 1
                rank[place], options[place] = wish, g
                left += 1
        if not moved:
            return count, live, key, low, high, left


class _Met(NamedTuple):
    """Room for the ideals that are met, as they are before what costs nothing is run: the rest
    follows from them."""

    rows: np.ndarray
    """u8[k, words]: their nodes, as bits."""
    hashes: np.ndarray
    """u8[k]"""
    origin: np.ndarray
    """i4[k]: the ideal before, or -1."""
    by: np.ndarray
    """i4[k]: the candidate that leads here from there, or -1."""
    live: np.ndarray
    """f8[k]: bytes."""
    low: np.ndarray
    """i4[k]: see ``exact``."""
    high: np.ndarray
    """i4[k]"""


@compiled
def _started(f, window, start, live, limit):  # type: ignore[no-untyped-def]
    """Room for ``limit`` ideals, and the first one."""
    met = _Met(np.empty((limit, len(start)), np.uint64), np.empty(limit, np.uint64),
               np.empty(limit, np.int32), np.empty(limit, np.int32), np.empty(limit),
               np.empty(limit, np.int32), np.empty(limit, np.int32))  # fmt: skip
    high = -1
    for v in window:
        if _ready(f, start, v):
            high = v
    met.rows[0], met.hashes[0], met.live[0], met.low[0], met.high[0] = start, 0, live, 0, high
    met.origin[0], met.by[0] = -1, -1
    return met


@leaf
def _way(f, tables, free, inside, window, met, at, row, spare, stack, trace, options, rank):  # type: ignore[no-untyped-def]
    """Writes the candidates on the way to the last ideal, met as ``at``, into ``trace``; answers
    how many there are. ``stack`` takes the way backwards."""
    turns = done = 0
    while at >= 0:
        stack[turns] = at
        turns += 1
        at = met.origin[at]
    for k in range(turns - 1, -1, -1):
        at = stack[k]
        if met.by[at] >= 0:
            trace[done] = met.by[at]
            done += 1
        _copy(met.rows, at, row)
        state = (met.live[at], met.hashes[at], met.low[at], met.high[at])
        done = _settle(f, tables, free, inside, window, row, spare, state, trace, done, options,
                       rank)[0]  # fmt: skip
    return done


@inlined
def _push(f, window, met, slots, stack, at, row, state, options, left, after, count, height):  # type: ignore[no-untyped-def]
    """Puts on the stack where ``left`` options lead that was not met before, the last one first, so
    that the first one is looked at next; answers (ideals met, -1 where there is no room; height).
    """
    live, key, low, high = state
    for k in range(left - 1, -1, -1):
        g = options[k]
        for w in range(len(row)):
            after[w] = row[w]
        hashed, lower, higher = _moved(f, after, key, low, high, window, g)
        known, slot = _lookup(after, hashed, met.rows, met.hashes, slots)
        if known >= 0:
            continue
        if count == len(met.live):
            return -1, height
        for w in range(len(row)):
            met.rows[count, w] = after[w]
        met.hashes[count], met.origin[count], met.by[count] = hashed, at, g
        met.live[count] = live + _growth(f, row, after, g)
        met.low[count], met.high[count] = lower, higher
        slots[slot] = stack[height] = count
        height += 1
        count += 1
    return count, height


@compiled
def _search(f, tables, free, window, start, live_at_start, limit):  # type: ignore[no-untyped-def]
    """(status, ideals met, candidates in order) of a way from the ideal ``start`` over all nodes of
    the window."""
    n, words = len(f.word), len(start)
    inside = np.zeros(n, np.bool_)
    for v in window:
        inside[v] = True
    met = _started(f, window, start, live_at_start, limit)
    trace, stack = np.empty(n + 1, np.int32), np.empty(limit, np.int32)
    options, rank = np.empty(len(f.cost), np.int32), np.empty(len(f.cost))
    size = 16
    while size < 2 * limit:
        size *= 2
    slots = np.full(size, -1, np.int32)
    slots[0], stack[0], count, height = 0, 0, 1, 1
    row, after = np.empty(words, np.uint64), np.empty(words, np.uint64)
    spare = np.empty(words, np.uint64), np.empty(words, np.uint64)
    while height:
        height -= 1
        at = stack[height]
        row[:] = met.rows[at]
        state = (met.live[at], met.hashes[at], met.low[at], met.high[at])
        _, live, key, low, high, left = _settle(f, tables, free, inside, window, row, spare, state,
                                                trace, 0, options, rank)  # fmt: skip
        if low == len(window):
            done = _way(f, tables, free, inside, window, met, at, row, spare, stack, trace, options,
                        rank)  # fmt: skip
            return _FOUND, count, trace[:done]
        count, height = _push(f, window, met, slots, stack, at, row, (live, key, low, high),
                              options, left, after, count, height)  # fmt: skip
        if count < 0:
            return _WIDE, limit, trace[:0]
    return _NONE, count, trace[:0]


class Descent:
    """A problem made ready for questions about its memory, each for another limit."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        f = problem.flat
        self._tables = tables(problem)
        self._sets: dict[int, float] = {}
        """Bytes that each set of members, as bits, writes at least."""
        bits = [sum(1 << v for v in problem.group(g)) for g in range(problem.candidates)]
        for members, held in zip(bits, f.written.tolist(), strict=True):
            self._sets[members] = min(held, self._sets.get(members, np.inf))
        self._values = [
            (1 << maker, -1 if kept else sum(1 << u for u in f.users[a:b].tolist()), nbytes)
            for maker, nbytes, kept, (a, b) in zip(
                f.maker.tolist(), f.nbytes.tolist(), f.kept.tolist(),
                itertools.pairwise(f.user_ptr.tolist()), strict=True)]
        self._free = _free(problem, bits, self._sets)
        self._cuts = _cuts(problem)

    def within(self, limit: float, states: int) -> tuple[tuple[int, ...] | None, bool, int]:
        """(candidates of a solution that needs at most ``limit`` bytes, or None; whether None is
        final, no more than ``states`` ideals having been met in a part; ideals that were met)."""
        flat = self.problem.limited(limit).flat
        chosen: list[int] = []
        met, final = 0, True
        for before, window in self._parts(limit):
            start = np.zeros((self.problem.nodes + 63) >> 6, np.uint64)
            for v in _members(before):
                start[v >> 6] |= np.uint64(1 << (v & 63))
            status, count, found = _search(flat, self._tables, self._free, window, start,
                                           self._live(before), states)  # fmt: skip
            met += int(count)
            if status == _NONE:
                return None, True, met
            final &= status == _FOUND
            chosen += found.tolist()
        return (tuple(chosen) if final else None), final, met

    def _parts(self, limit: float) -> Iterator[tuple[int, np.ndarray]]:
        """(what is done before, nodes) of the parts between the waists."""
        before = 0
        for cut in [*(c for c in self._cuts if self._divides(c, limit)),
                    (1 << self.problem.nodes) - 1]:  # fmt: skip
            if cut & ~before:
                yield before, np.array(_members(cut & ~before), np.int32)
            before = cut

    def _divides(self, cut: int, limit: float) -> bool:
        """Whether every candidate across a cut can be replaced by two, one on each side."""
        live = self._live(cut)
        for members in self._sets:
            early, late = members & cut, members & ~cut
            if early and late and (
                    live + self._sets.get(late, np.inf) > limit
                    or self._live(cut & ~early) + self._sets.get(early, np.inf) > limit):
                return False
        return True

    def _live(self, done: int) -> float:
        """Bytes live behind an ideal."""
        return sum((nbytes for maker, users, nbytes in self._values
                    if maker & done and users & ~done), start=0.0)


def _members(bits: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found


def _cuts(problem: Problem) -> list[int]:
    """Ideals all of whose nodes come before all others in every order, ascending."""
    nodes = problem.nodes
    above, below = [0] * nodes, [0] * nodes
    for v in range(nodes):
        for u in problem.predecessors(v):
            above[v] |= above[u] | 1 << u
    for v in reversed(range(nodes)):
        for u in problem.predecessors(v):
            below[u] |= below[v] | 1 << v
    return [above[v] | 1 << v for v in range(nodes)
            if above[v].bit_count() + below[v].bit_count() + 1 == nodes]


def _free(problem: Problem, bits: list[int], sets: dict[int, float]) -> Free:
    """Down-sets of every candidate, and whether other groups, where they lose its nodes, can be
    replaced by candidates that write no more."""
    needs = [sum(1 << u for u in problem.predecessors(v)) for v in range(problem.nodes)]
    holders: list[list[int]] = [[] for _ in needs]
    for members in sets:
        for v in _members(members):
            holders[v].append(members)
    rest = _Rest(needs, holders, sets)
    ptr, down, free = [0], [], []
    for members in bits:
        nodes = _members(members)
        alone = len(nodes) <= _MOST
        if alone:
            outer = _outer(members, needs)  # a group that holds some of that came before
            others = set().union(*(holders[v] for v in nodes))
            alone = all(rest.written(other & ~members) <= sets[other]
                        for other in others if not other & outer)
        if alone:
            inner = [sum(1 << k for k, u in enumerate(nodes) if needs[v] >> u & 1) for v in nodes]
            down += [s for s in range(1, (1 << len(nodes)) - 1)
                     if all(not s >> k & 1 or not inner[k] & ~s for k in range(len(nodes)))]
        free.append(alone)
        ptr.append(len(down))
    return Free(np.array(ptr, np.int32), np.array(down, np.int64), np.array(free, np.bool_))


def _outer(members: int, needs: list[int]) -> int:
    """Predecessors of some nodes that are not among them."""
    found = 0
    for v in _members(members):
        found |= needs[v]
    return found & ~members


class _Rest:
    """What groups write that have lost some of their nodes."""

    def __init__(self, needs: list[int], holders: list[list[int]], sets: dict[int, float]) -> None:
        self._needs, self._holders, self._sets = needs, holders, sets
        self._known: dict[int, float] = {0: 0.0, **sets}

    def written(self, nodes: int) -> float:
        """Bytes that candidates write in all that are these nodes together, one after the other;
        infinity where there are none. Of the ways to cut them some are looked at: those by groups
        of the first node that is left, which need no other of them."""
        found = self._known.get(nodes)
        if found is None:
            first = (nodes & -nodes).bit_length() - 1
            found = min((self._sets[part] + self.written(nodes & ~part)
                         for part in self._holders[first]
                         if not part & ~nodes and not _outer(part, self._needs) & nodes),
                        default=np.inf)
            self._known[nodes] = found
        return found
