"""The proven optimum: dynamic programming over the ideals of the graph, and exhaustive search.

An *ideal* (down-set) is a set of nodes that contains all predecessors of its members: what has been
computed when some groups are done. From an ideal every candidate whose members are missing and
whose outer predecessors are there leads to a larger ideal; the cheapest path from the empty ideal
to the whole graph is the cheapest partition into candidates that can be put in order. Ideals are
visited by size, so each is final when it is left.

Groups that do not depend on one another may run in any order, and the ideals on all these ways
would multiply. So only one order of each partition is followed: of the groups that are ready, the
one with the smallest first node. From an ideal, nodes that are ready are looked at in ascending
order; behind a node all of whose possible groups are ready now nothing else needs to be tried,
since its group would have come first. That keeps parallel branches from multiplying. Parts of the
graph that no candidate connects are proven one by one, and equal ones once (``split``).

Under a memory limit the order of groups matters, so all ideals are followed; what is live is a
function of the ideal, and a group that needs too much is no way. ``prove_peak`` looks for the least
peak first, by the same program with the largest need of a path for its length (a bottleneck path;
a peak that is known to be possible prunes it, as in SERENITY: Ahn et al., 2020), and then for the
least cost under that limit. A graph with more than ``limit`` ideals is refused.

``beam`` keeps the best ideals of each size only, by the cost so far and the least that the missing
nodes may cost (beam search: Lowerre, 1976); where it never had to drop one it is a proof.
``solve_window`` is the same between two ideals of a schedule.

Ideals are bit sets in rows of 64-bit words, found by Zobrist's hash and compared word by word, so
the proof does not rest on the hash.
"""
# ruff: noqa: SIM110  (compiled loops: Numba knows no generator expressions)

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..ir.errors import OptionError
from .compiled import compiled, inlined, leaf
from .problem import InfeasibleError, Problem, Proof, arcs
from .solutions import peak, shares
from .split import split

_DONE, _WIDE = 0, 1


class Tables(NamedTuple):
    """What the compiled program looks up, as CSR."""

    first_ptr: np.ndarray
    """i4[n + 1]: candidates by the first of their members."""
    first: np.ndarray
    holder_ptr: np.ndarray
    """i4[n + 1]: candidates by each of their members."""
    holders: np.ndarray
    outer_ptr: np.ndarray
    """i4[g + 1]: predecessors of each candidate that are not members."""
    outer: np.ndarray
    share: np.ndarray
    """f8[n]: the least that each node may cost."""


@inlined
def _has(row, v):  # type: ignore[no-untyped-def]
    return (row[v >> 6] >> np.uint64(v & 63)) & np.uint64(1) != 0


@inlined
def _lookup(row, key, rows, hashes, slots):  # type: ignore[no-untyped-def]
    """(number of the ideal or -1, slot)."""
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot] >= 0:
        k = slots[slot]
        if hashes[k] == key:
            same = True
            for w in range(len(row)):
                if rows[k, w] != row[w]:
                    same = False
                    break
            if same:
                return k, slot
        slot = (slot + np.uint64(1)) & mask
    return -1, slot


@inlined
def _ready(f, row, v):  # type: ignore[no-untyped-def]
    """Whether ``v`` is missing from the ideal and all its predecessors are there."""
    if _has(row, v):
        return False
    for e in range(f.pred_ptr[v], f.pred_ptr[v + 1]):
        if not _has(row, f.preds[e]):
            return False
    return True


@inlined
def _lacks(f, row, g, inside):  # type: ignore[no-untyped-def]
    """Whether the ideal lacks all members of ``g``, which are all looked at."""
    for e in range(f.member_ptr[g], f.member_ptr[g + 1]):
        if not inside[f.members[e]] or _has(row, f.members[e]):
            return False
    return True


@inlined
def _serves(tables, row, g):  # type: ignore[no-untyped-def]
    """Whether the ideal has all that ``g`` needs from outside."""
    for e in range(tables.outer_ptr[g], tables.outer_ptr[g + 1]):
        if not _has(row, tables.outer[e]):
            return False
    return True


@inlined
def _forced(f, tables, row, v, inside):  # type: ignore[no-untyped-def]
    """Whether every candidate that may still hold ``v`` is ready: its group must come first."""
    for e in range(tables.holder_ptr[v], tables.holder_ptr[v + 1]):
        g = tables.holders[e]
        if _lacks(f, row, g, inside) and not _serves(tables, row, g):
            return False
    return True


@leaf
def _growth(f, before, after, g):  # type: ignore[no-untyped-def]
    """Change of the live bytes when ``g`` leads from one ideal to another."""
    total = 0.0
    for e in range(f.member_ptr[g], f.member_ptr[g + 1]):
        v = f.members[e]
        for w in range(f.value_ptr[v], f.value_ptr[v + 1]):
            if _waits(f, after, w):
                total += f.nbytes[w]
        for d in range(f.need_ptr[v], f.need_ptr[v + 1]):
            w = f.needs[d]
            first = -1  # of several members that use a value the first one ends it
            for u in range(f.user_ptr[w], f.user_ptr[w + 1]):
                if _has(after, f.users[u]) and not _has(before, f.users[u]):
                    first = f.users[u]
                    break
            if first == v and _waits(f, before, w) and not _waits(f, after, w):
                total -= f.nbytes[w]
    return total


@leaf
def _waits(f, row, w):  # type: ignore[no-untyped-def]
    """Whether a value is produced in the ideal and needed outside of it."""
    if not _has(row, f.maker[w]):
        return False
    if f.kept[w]:
        return True
    for u in range(f.user_ptr[w], f.user_ptr[w + 1]):
        if not _has(row, f.users[u]):
            return True
    return False


class _Met(NamedTuple):
    """The ideals that were met, and room for more."""

    rows: np.ndarray
    """u8[k, words]: their nodes, as bits."""
    hashes: np.ndarray
    """u8[k]"""
    best: np.ndarray
    """f8[k]: the least cost, or peak, of a way there."""
    live: np.ndarray
    """f8[k]: bytes."""
    rest: np.ndarray
    """f8[k]: what is added to ``best`` where few of a size are kept."""
    low: np.ndarray
    """i4[k]: place in the window of the first node that is missing: none before it is ready."""
    high: np.ndarray
    """i4[k]: the last successor of what is done: no node behind it is ready."""
    origin: np.ndarray
    """i4[k]: the ideal before, on the best way, or -1."""
    by: np.ndarray
    """i4[k]: the candidate that leads here from there."""
    following: np.ndarray
    """i4[k]: another one of the same size, or -1."""


@compiled
def _none(count):  # type: ignore[no-untyped-def]
    return np.full(count, -1, np.int32)


@compiled
def _room(count, words):  # type: ignore[no-untyped-def]
    return _Met(np.zeros((count, words), np.uint64), np.zeros(count, np.uint64),
                np.full(count, math.inf), np.zeros(count), np.zeros(count),
                np.zeros(count, np.int32), np.zeros(count, np.int32),
                _none(count), _none(count), _none(count))  # fmt: skip


@compiled
def _doubled(met):  # type: ignore[no-untyped-def]
    """The same ideals and twice the room."""
    more = _room(len(met.best), met.rows.shape[1])
    return _Met(
        np.concatenate((met.rows, more.rows)), np.concatenate((met.hashes, more.hashes)),
        np.concatenate((met.best, more.best)), np.concatenate((met.live, more.live)),
        np.concatenate((met.rest, more.rest)), np.concatenate((met.low, more.low)),
        np.concatenate((met.high, more.high)), np.concatenate((met.origin, more.origin)),
        np.concatenate((met.by, more.by)), np.concatenate((met.following, more.following)),
    )  # fmt: skip


@compiled
def _rehash(count, hashes, size):  # type: ignore[no-untyped-def]
    """The table of the first ``count`` ideals, with ``size`` slots."""
    slots = np.full(size, -1, np.int32)
    mask = np.uint64(size - 1)
    for k in range(count):
        slot = hashes[k] & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = k
    return slots


@compiled
def _layer(head, following, best, rest, width):  # type: ignore[no-untyped-def]
    """The ideals of one size, the most promising ``width`` of them; whether some were dropped."""
    count, k = 0, head
    while k >= 0:
        count += 1
        k = following[k]
    found, rank = np.empty(count, np.int32), np.empty(count)
    k = head
    for i in range(count):
        found[i], rank[i] = k, best[k] + rest[k]
        k = following[k]
    if count <= width:
        return found, False
    return found[np.argsort(rank)[:width]], True


@compiled
def _started(f, tables, window, start, live):  # type: ignore[no-untyped-def]
    """The first ideal."""
    met = _room(1024, len(start))
    met.rows[0], met.live[0], met.best[0] = start, live, 0.0
    for v in window:
        met.rest[0] += tables.share[v]
        if _ready(f, start, v):
            met.high[0] = v
    return met


@inlined
def _copy(rows, k, row):  # type: ignore[no-untyped-def]
    """Writes the ideal ``k`` into ``row``."""
    for w in range(len(row)):
        row[w] = rows[k, w]


@inlined
def _joined(f, here, key, g, row):  # type: ignore[no-untyped-def]
    """Writes the ideal ``here``, whose hash is ``key``, with the candidate ``g`` into ``row``;
    answers its hash."""
    for w in range(len(row)):
        row[w] = here[w]
    for m in range(f.member_ptr[g], f.member_ptr[g + 1]):
        u = f.members[m]
        row[u >> 6] |= np.uint64(1) << np.uint64(u & 63)
        key ^= f.word[u]
    return key


@inlined
def _enter(f, tables, window, met, k, row, key, at, here, g, remembers, bottleneck):  # type: ignore[no-untyped-def]
    """Writes down the new ideal ``k``, ``row``, to which ``g`` leads from ``at``, ``here``."""
    for w in range(len(row)):
        met.rows[k, w] = row[w]
    low, high, rest = met.low[at], met.high[at], met.rest[at]
    while low < len(window) and _has(row, window[low]):
        low += 1
    for m in range(f.member_ptr[g], f.member_ptr[g + 1]):
        u = f.members[m]
        rest -= tables.share[u]
        if f.succ_ptr[u + 1] > f.succ_ptr[u]:
            high = max(high, f.succs[f.succ_ptr[u + 1] - 1])
    if remembers:
        met.live[k] = met.live[at] + _growth(f, here, row, g)
    if bottleneck:
        rest = met.live[k]  # of equal peaks, what occupies less now
    met.hashes[k], met.low[k], met.high[k], met.rest[k] = key, low, high, rest


@leaf
def _follow(f, tables, window, inside, met, slots, heads, at, size, here, row, price,  # type: ignore[no-untyped-def]
            count, limit, remembers, bottleneck):  # fmt: skip
    """Follows what may come next behind the ideal ``at``, of ``size``; answers (ideals that are met
    then, or -1 where that are more than ``limit``; candidates tried). There is room for them."""
    tried = 0
    _copy(met.rows, at, here)
    for j in range(met.low[at], len(window)):
        v = window[j]
        if v > met.high[at]:
            break
        if not _ready(f, here, v):
            continue
        for e in range(tables.first_ptr[v], tables.first_ptr[v + 1]):
            g = tables.first[e]
            if not (_lacks(f, here, g, inside) and _serves(tables, here, g)):
                continue
            tried += 1
            need = met.live[at] + f.written[g]
            if remembers and need > f.limit:
                continue
            key = _joined(f, here, met.hashes[at], g, row)
            k, slot = _lookup(row, key, met.rows, met.hashes, slots)
            if k < 0:
                if count == limit:
                    return -1, tried
                k = count
                count += 1
                _enter(f, tables, window, met, k, row, key, at, here, g, remembers, bottleneck)
                grown = size + f.member_ptr[g + 1] - f.member_ptr[g]
                slots[slot], met.following[k], heads[grown] = k, heads[grown], k
            total = max(met.best[at], need) if bottleneck else met.best[at] + price[g]
            if total < met.best[k]:
                met.best[k], met.origin[k], met.by[k] = total, at, g
        if not remembers and _forced(f, tables, here, v, inside):
            break
    return count, tried


@compiled
def _ideals(f, tables, window, start, live_at_start, price,  # type: ignore[no-untyped-def]
            limit, width, remembers, bottleneck):  # fmt: skip
    """(status, best f8[k], from i4[k], by i4[k], transitions, ideals, number of the last one or
    -1, whether some were dropped), from the ideal ``start`` to that with the nodes of ``window``.
    ``remembers``: memory counts; ``bottleneck``: the best is the least peak."""
    inside = np.zeros(len(f.word), np.bool_)
    for v in window:
        inside[v] = True
    met = _started(f, tables, window, start, live_at_start)
    heads = _none(len(window) + 1)  # first ideal of each size; ``following`` chains the others
    heads[0], count, tried, dropped = 0, 1, 0, False
    slots = _rehash(count, met.hashes, 4 * len(met.hashes))
    here, row = np.empty(len(start), np.uint64), np.empty(len(start), np.uint64)
    for size in range(len(window)):
        layer, narrowed = _layer(heads[size], met.following, met.best, met.rest, width)
        dropped |= narrowed
        for at in layer:
            # Room for every candidate that begins between the first missing and the last ready one.
            last = max(met.high[at], window[met.low[at]])
            most = count + tables.first_ptr[last + 1] - tables.first_ptr[window[met.low[at]]]
            while len(met.best) < most:
                met = _doubled(met)
            if len(slots) < 2 * most:
                slots = _rehash(count, met.hashes, 4 * len(met.hashes))
            found, looked = _follow(f, tables, window, inside, met, slots, heads, at, size, here,
                                    row, price, count, limit, remembers, bottleneck)  # fmt: skip
            tried += looked
            if found < 0:
                return _WIDE, met.best, met.origin, met.by, tried, limit, -1, dropped
            count = found
    return _DONE, met.best, met.origin, met.by, tried, count, heads[len(window)], dropped


def prove(problem: Problem, limit: int = 1_000_000) -> Proof | None:
    """The optimum over all partitions into candidates that can be put in order, within the memory
    limit; None where the graph has more than ``limit`` ideals. Raises ``InfeasibleError`` where no
    solution needs as little memory as the problem's limit."""
    if not problem.limited_memory:
        return _by_parts(problem, limit)
    proof = _solve(problem, limit, remembers=True)
    if proof is None or proof.chosen or not problem.nodes:
        return proof
    least = _solve(problem.limited(math.inf), limit, remembers=True, bottleneck=True)
    if least is None:
        return None
    raise InfeasibleError(problem.limit, least.peak, True)


def _by_parts(problem: Problem, limit: int) -> Proof | None:
    """The proofs of the parts that no candidate connects; equal parts are proven once."""
    chosen: list[int] = []
    known: dict[bytes, Proof] = {}
    parts = split(problem)
    if len(parts) == 1:
        return _solve(problem, limit)
    for part in parts:
        proof = known.get(part.key)
        if proof is None:
            solved = _solve(part.problem, limit)
            if solved is None:
                return None
            proof = known[part.key] = solved
        chosen += [part.candidates[g] for g in proof.chosen]
    cost = float(sum(problem.cost[g] for g in chosen))
    return Proof(cost, tuple(chosen), sum(p.ideals for p in known.values()),
                 sum(p.transitions for p in known.values()), _needs(problem, chosen))  # fmt: skip


def prove_peak(problem: Problem, limit: int = 1_000_000, known: float = math.inf) -> Proof | None:
    """The least peak memory of any solution and, under it, the least cost; None where the graph has
    more than ``limit`` ideals. The yardstick of ``descend``, which leaves most ideals out.
    ``known``: bytes that some solution is known to need at most, which prunes the search.
    The problem's own limit does not count."""
    least = _solve(problem.limited(known), limit, remembers=True, bottleneck=True)
    if least is None or not problem.nodes:
        return least
    if not least.chosen:
        raise ValueError(f"no solution needs {known:.0f} bytes or less")
    cheap = _solve(problem.limited(least.peak), limit, remembers=True)
    if cheap is None:
        return None
    return Proof(cheap.cost, cheap.chosen, least.ideals + cheap.ideals,
                 least.transitions + cheap.transitions, least.peak)  # fmt: skip


def beam(problem: Problem, width: int, limit: int = 4_000_000) -> Proof | None:
    """A solution that followed the best ``width`` ideals of each size; ``exact`` if none was
    dropped. None where there were more than ``limit`` ideals in all, or none within the memory
    limit was met."""
    proof = _solve(problem, limit, remembers=problem.limited_memory, width=width)
    return proof if proof is None or proof.chosen or not problem.nodes else None


@lru_cache(maxsize=8)
def tables(problem: Problem) -> Tables:
    """What the compiled program looks up; kept for the problems used last."""
    f, n = problem.flat, problem.nodes
    size = np.diff(f.member_ptr)
    owner = np.repeat(np.arange(problem.candidates), size).astype(np.int32)
    heads = f.members[f.member_ptr[:-1]]
    group, _, arc, inside = arcs(f.member_ptr, f.members, f.pred_ptr, f.preds)
    outer = np.unique(group[~inside] * max(1, n) + f.preds[arc[~inside]])
    return Tables(
        _starts(heads, n), np.argsort(heads, kind="stable").astype(np.int32),
        _starts(f.members, n), owner[np.argsort(f.members, kind="stable")],
        _starts(outer // max(1, n), problem.candidates), (outer % max(1, n)).astype(np.int32),
        shares(problem),
    )  # fmt: skip


def _starts(owners: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=count))]).astype(np.int32)


def _solve(problem: Problem, limit: int, *, remembers: bool = False, bottleneck: bool = False,
           width: int = 1 << 40) -> Proof | None:
    """A best path, with no groups where none leads to the whole graph; None if it is too wide."""
    if problem.nodes == 0:
        return Proof(0.0, (), 1, 0)
    empty = np.zeros((problem.nodes + 63) >> 6, np.uint64)
    status, best, origin, by, tried, count, whole, dropped = _ideals(
        problem.flat, tables(problem), np.arange(problem.nodes, dtype=np.int32), empty, 0.0,
        problem.cost, limit, width, remembers, bottleneck)  # fmt: skip
    if status == _WIDE:
        return None
    if whole < 0:
        return Proof(math.inf, (), int(count), int(tried), math.inf, not dropped)
    chosen = _path(int(whole), origin, by)
    cost = float(sum(problem.cost[g] for g in chosen)) if bottleneck else float(best[whole])
    return Proof(cost, tuple(chosen), int(count), int(tried), _needs(problem, chosen), not dropped)


def _path(at: int, origin: np.ndarray, by: np.ndarray) -> list[int]:
    chosen = []
    while origin[at] >= 0:
        chosen.append(int(by[at]))
        at = int(origin[at])
    return chosen[::-1]


def _needs(problem: Problem, chosen: list[int]) -> float:
    return peak(problem, chosen) if problem.remembers else 0.0


def solve_window(problem: Problem, order: np.ndarray, begin: int, end: int, live: float,
                 limit: int = 20_000) -> tuple[list[int] | None, int]:
    """(candidates, ideals visited): what does the nodes ``order[begin:end]`` at least cost, the
    others staying where they are; ``live`` are the bytes live before. None where they have more
    than ``limit`` ideals, or none of the ways stays within the memory limit. Nodes between two of
    the window are in the window, as orders are topological, so it is a problem of its own."""
    start = np.zeros((problem.nodes + 63) >> 6, np.uint64)
    done = order[:begin].astype(np.uint64)
    np.bitwise_or.at(start, (done >> np.uint64(6)).astype(np.int64),
                     np.uint64(1) << (done & np.uint64(63)))  # fmt: skip
    window = np.sort(order[begin:end]).astype(np.int32)
    status, _, origin, by, _, ideals, last, _ = _ideals(
        problem.flat, tables(problem), window, start, live, problem.cost, limit, 1 << 40,
        problem.limited_memory, False)  # fmt: skip
    found = None if status == _WIDE or last < 0 else _path(int(last), origin, by)
    return found, int(ideals)


def exhaustive(problem: Problem, peaks: bool = False) -> float:
    """The optimum by trying every order of groups, for at most 16 nodes: the yardstick of the
    others, in plain Python, sharing no code with them. ``peaks``: the least peak memory, in bytes,
    instead of the least cost within the limit; infinity where there is no solution."""
    return exhaustive_solution(problem, peaks)[0]


def exhaustive_solution(problem: Problem, peaks: bool = False
                        ) -> tuple[float, tuple[int, ...], int]:
    """Like ``exhaustive``, with the candidates that reach it, none where there is no solution, and
    the number of sets of finished nodes that were visited."""
    n = problem.nodes
    if n > 16:
        raise OptionError(f"exhaustive search is for at most 16 nodes, not {n}: take exact")
    f = problem.flat
    need = [sum(1 << u for u in problem.predecessors(v)) for v in range(n)]
    values = [(1 << int(f.maker[w]), sum(1 << u for u in f.users[a:b].tolist()), bool(f.kept[w]),
               float(f.nbytes[w]))
              for w, (a, b) in enumerate(itertools.pairwise(f.user_ptr.tolist()))]  # fmt: skip
    sets = []
    for g in range(problem.candidates):
        mask = sum(1 << v for v in problem.group(g))
        outer = 0
        for v in problem.group(g):
            outer |= need[v]
        sets.append((mask, outer & ~mask, float(problem.cost[g]), float(f.written[g]), g))
    limit = math.inf if peaks else problem.limit
    seen: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for done in range(1 << n):
        if done not in seen:
            continue
        before, chosen = seen[done]
        live = sum(size for maker, users, kept, size in values
                   if maker & done and (kept or users & ~done))  # fmt: skip
        for mask, outer, cost, written, g in sets:
            if mask & done == 0 and outer & ~done == 0 and live + written <= limit:
                total = max(before, live + written) if peaks else before + cost
                if total < seen.get(done | mask, (math.inf, ()))[0]:
                    seen[done | mask] = total, (*chosen, g)
    return *seen.get((1 << n) - 1, (math.inf, ())), len(seen)
