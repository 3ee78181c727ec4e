"""Evaluation in machine code: genomes -> orders -> groups -> objectives, whole populations at once.

``decode`` lists the nodes by priority (list scheduling: of the nodes whose predecessors are done,
the one with the smallest key) and cuts the order by dynamic programming: the best price of the
first i nodes is the least, over the candidates that end there, of the best before it plus its
price. Candidates that may end with a node are stored at the node by size (a level); a bit mask per
level says that none of them ends at a place, or where to compare hashes (see ``problem``). For the
order it was given the cut is the optimum.

Optional genes steer it. ``bias`` is added per edge that is cut (zero trusts the prices).
``weights`` make the price a weighted sum of the objectives; the last weight is that of the memory
peak, which is no sum: a cell keeps the peak of its best way and compares sums plus weighted peaks,
which is exact where the peak or the sums alone count and a heuristic between. ``cuts`` end a group
behind nodes; where they are given the largest candidate that fits is taken instead of the best,
from the back, and no program runs.

Over the memory limit a group costs more than any solution without one, growing with what is
missing: the cut takes a way within the limit if the order has one, and the score of a genome
without one still tells how far off it is.

Everything is compiled by Numba, releases the interpreter lock and depends on its arguments only;
slices of the population on several threads give the same bytes.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .compiled import as_bits, as_float, compiled, inlined, leaf, ones
from .lists import list_schedules, make_room
from .problem import COST, GROUP, HASH, SIZE_BITS, WRITTEN, Problem

WALKS = 8
"""Genomes that are decoded together: walks through them, for the groups by cut genes, take turns.
"""
BEYOND = 12
"""Places that a walk for the groups by cut genes goes beyond its part, where it meets the next one.
"""

_U = np.uint64


@dataclass(slots=True)
class Genomes:
    """p genomes of a problem with n nodes, m edges and k objectives."""

    keys: np.ndarray
    """f8[p, n]: priority of each node, small ones first."""
    bias: np.ndarray | None = None
    """f8[p, m]: added to the price for every edge that is cut, in the unit of the price."""
    weights: np.ndarray | None = None
    """f8[p, k + 1]: weight of each objective and of the peak (per byte) when an order is cut; the
    cost alone if None."""
    cuts: np.ndarray | None = None
    """u1[p, n]: 1 where a group ends behind the node. Replaces the best cuts."""

    def __len__(self) -> int:
        return len(self.keys)

    def head(self, count: int) -> Genomes:
        """The first ``count`` of them."""
        others = (None if gene is None else gene[:count]
                  for gene in (self.bias, self.weights, self.cuts))
        return Genomes(self.keys[:count], *others)


@dataclass(slots=True)
class Decoded:
    """What genomes turned out to be."""

    orders: np.ndarray
    """i4[p, n]: topological orders."""
    groups: np.ndarray
    """i4[p, n]: the candidate that ends at each place of the order, -1 inside of groups."""
    costs: np.ndarray
    """f8[p]: what to minimize: the cost, plus more than any cost for what the limit forbids."""
    parts: np.ndarray
    """f8[p, k]: sums of the objectives."""
    peaks: np.ndarray
    """f8[p]: bytes needed; 0 without values."""
    prints: np.ndarray
    """u8[p]: equal for equal schedules: of the set of groups, and with values of their order."""

    def __len__(self) -> int:
        return len(self.orders)

    @property
    def keys(self) -> np.ndarray:
        """f8[p, n]: the ranks of the nodes as standardized keys."""
        return keys_of(self.orders)

    def chosen(self, genome: int) -> tuple[int, ...]:
        """The candidates of a genome, first to last."""
        row = self.groups[genome]
        return tuple(row[row >= 0].tolist())


def keys_of(orders: np.ndarray) -> np.ndarray:
    """Priorities f8[p, n] in [0, 1) that list scheduling turns back into ``orders`` i4[p, n]."""
    count, n = orders.shape
    keys = np.empty((count, n))
    ranks = np.arange(n) / max(1, n)
    np.put_along_axis(keys, orders.astype(np.int64), np.broadcast_to(ranks, orders.shape), axis=1)
    return keys


@inlined
def follow(f, order, place, hashes):  # type: ignore[no-untyped-def]
    """Writes the place of each node in an order, i4[n], and the hash of the first i nodes,
    u8[n + 1]."""
    key, word = np.uint64(0), f.word
    hashes[0] = key
    for i in range(len(order)):
        v = np.uint64(order[i])
        place[v] = i
        key ^= word[v]
        hashes[i + 1] = key


@inlined
def live_bytes(f, order, place, live):  # type: ignore[no-untyped-def]
    """Writes f8[n + 1]: what is live behind the first i nodes of an order and its places."""
    nbytes, ptr, users, grown = f.last_nbytes, f.last_ptr, f.last_users, f.grown
    for i in range(len(live)):
        live[i] = 0.0
    e = _U(0)
    for w in range(_U(len(nbytes))):
        last, stop = place[_U(users[e])], _U(ptr[w + _U(1)])
        e += _U(1)
        while e < stop:
            last = max(last, place[_U(users[e])])
            e += _U(1)
        live[_U(last) + _U(1)] -= nbytes[w]
    total = 0.0
    for i in range(_U(len(order))):
        total += grown[_U(order[i])] + live[i + _U(1)]
        live[i + _U(1)] = total


@inlined
def over(limit, need):  # type: ignore[no-untyped-def]
    """Part by which ``need`` bytes are over the limit, plus one; 0 within it."""
    if need <= limit:
        return 0.0
    return 1.0 + (need - limit) / max(1.0, limit)


@inlined
def size_of(head):  # type: ignore[no-untyped-def]
    """The size of a level."""
    return head & _U((1 << SIZE_BITS) - 1)


@leaf
def widest(f):  # type: ignore[no-untyped-def]
    """The size of the largest candidates."""
    sizes, every, k = f.sizes, _U(0), 0
    for v in range(len(sizes)):
        every |= sizes[v]
    while every > _U(1):
        every >>= _U(1)
        k += 1
    return k


@inlined
def seek(head, key, masks):  # type: ignore[no-untyped-def]
    """Of the hash ``key`` in a level: (whether there may be one; where it is in ``ends`` then, or
    one or few rows behind)."""
    spread = key >> ((head >> _U(SIZE_BITS)) & _U(63))
    word, bit = ((head >> _U(SIZE_BITS + 6)) + (spread >> _U(6))) << _U(1), spread & _U(63)
    mask, more = masks[word], masks[word | _U(1)]
    known = mask >> bit & more >> (_U(32) + (key & _U(31))) & _U(1)
    return known, (more & _U(0xFFFFFFFF)) + ones(mask & ((_U(1) << bit) - _U(1)))


@inlined
def find(head, key, masks, ends):  # type: ignore[no-untyped-def]
    """The first end of a level with the hash ``key``; if there is none, one with another hash."""
    known, e = seek(head, key, masks)
    if not known:
        return _U(len(ends)) - _U(1)
    e += _U(ends[e, HASH] < key)  # without a branch: one end in five is the next one
    while ends[e, HASH] < key:
        e += _U(1)
    return e


@inlined
def cell(i, order, hashes, live, fine, heavy, best, back, most,  # type: ignore[no-untyped-def]
         level_ptr, levels, masks, ends, limit):  # fmt: skip
    """One cell of the dynamic program: the best way to end a group at place ``i - 1``. With
    ``live`` bytes, which are None where memory does not count: ``fine`` is what a step over the
    limit costs, ``heavy`` the weight of the peak; ``most`` holds peaks, and is None where they have
    no weight."""
    v, here = order[i - 1], hashes[i]
    found, high, chosen = math.inf, 0.0, _U(0)
    rank = math.inf
    for level in range(level_ptr[v], level_ptr[v + 1]):
        head = levels[level]
        k = np.int64(size_of(head))
        if k > i:
            break
        key = here ^ hashes[i - k]
        e = find(head, key, masks, ends)
        while ends[e, HASH] == key:  # variants
            total = best[i - k] + as_float(ends[e, COST])
            if live is None:
                chosen = e if total < found else chosen
                found = min(total, found)
            else:
                need = live[i - k] + as_float(ends[e, WRITTEN])
                if need > limit:
                    total += fine * over(limit, need)
                top = 0.0 if most is None else max(most[i - k], need)
                if total + heavy * top < rank:
                    found, high, chosen = total, top, e
                    rank = total + heavy * top
            e += _U(1)
    best[i], back[i] = found, chosen
    if most is not None:
        most[i] = high


@compiled
def prices(f, weights, bias, ends):  # type: ignore[no-untyped-def]
    """Writes what each end costs one genome; answers (price of a step over the limit, weight of the
    peak)."""
    fine, heavy = f.ceiling, 0.0
    parts, ceilings, inner_ptr, inner = f.parts, f.ceilings, f.inner_ptr, f.inner
    each = f.cost
    if len(weights) or len(bias):
        each = f.cost.copy()
    if len(weights):
        k = parts.shape[1]
        fine, heavy = 0.0, weights[k]
        for j in range(k):
            fine += weights[j] * ceilings[j]
        for g in range(len(each)):
            total = 0.0
            for j in range(k):
                total += weights[j] * parts[g, j]
            each[g] = total
    if len(bias):
        # All edges cost their bias; a group gets back what it does not cut.
        for e in range(len(bias)):
            fine += abs(bias[e])
        for g in range(len(each)):
            for e in range(inner_ptr[g], inner_ptr[g + 1]):
                each[g] -= bias[inner[e]]
    for e in range(len(ends) - 1):
        ends[e, COST] = as_bits(each[np.int64(ends[e, GROUP])])
    return fine, heavy


@leaf
def best_cuts(f, ends, order, hashes, live, fine, heavy, best, back, most):  # type: ignore[no-untyped-def]
    """Writes the cells: the least price of the first i nodes, f8[n + 1], and the last end of the
    way to it, i4[n + 1]."""
    level_ptr, levels, masks = f.level_ptr, f.levels, f.masks
    best[0] = 0.0
    if most is not None:
        most[0] = 0.0
    for i in range(1, len(order) + 1):
        cell(i, order, hashes, live, fine, heavy, best, back, most, level_ptr, levels, masks,
             ends, f.limit)  # fmt: skip


@inlined
def _way_back(f, back, chosen, stops):  # type: ignore[no-untyped-def]
    """Writes the ends of the best way, last to first, and the places behind them, i4[n] both;
    answers how many there are."""
    ends, member_ptr, count, i = f.ends, f.member_ptr, 0, len(back) - 1
    while i > 0:
        chosen[count], stops[count] = back[i], i
        g = ends[back[i], GROUP]
        i -= member_ptr[g + _U(1)] - member_ptr[g]
        count += 1
    return count


@inlined
def _reach(f, span, order, cuts, close, bits, room, top):  # type: ignore[no-untyped-def]
    """Writes the largest level, u4[n + 1], that a group which ends at each place may be of: it
    crosses no cut, and every node of it shares a candidate with its last one; level 0 for place 0.
    Scratch: ``close`` and ``room`` u8[n], ``bits`` u8[n + 3]."""
    near, sizes, level_ptr, n, step = f.near, f.sizes, f.level_ptr, _U(len(order)), _U(1)
    for i in range(3):
        bits[_U(i)] = _U(0)
    for i in range(n):
        v = _U(order[i])
        close[i], room[i] = near[v], _U(1)
        bits[i + _U(3)] = _U(cuts[v] == 0) << (v & _U(63))
    left = _U(1)
    while left != _U(0) and step < span:  # all places in a row, so that it becomes vector code
        left = _U(0)
        for i in range(step, n):
            before = i + _U(3) - step
            one = close[i] if close[i] & bits[before] else _U(0)
            two = one if one & bits[before - _U(1)] else _U(0)
            three = two if two & bits[before - _U(2)] else _U(0)
            close[i] = three
            room[i] += _U(one != 0) + _U(two != 0) + _U(three != 0)
            left |= three
        step += _U(3)
    top[0] = 0
    for i in range(n):
        v = _U(order[i])
        within = sizes[v] & ((_U(2) << room[i]) - _U(1))
        top[i + _U(1)] = _U(level_ptr[v]) + ones(within) - _U(1)


@inlined
def _advance(i, top, levels, masks, hashes):  # type: ignore[no-untyped-def]
    """Tests the level of the place ``i``: answers where its group begins, if it may have one; else
    the level is one less from now on, and the place the same."""
    level = _U(top[i])
    head = levels[level]
    k = size_of(head)
    known, _ = seek(head, hashes[i] ^ hashes[i - k], masks)
    top[i] = level + known - _U(1)
    return i - (k & (_U(0) - known))


@inlined
def _lower(f, hashes, top, at, stop):  # type: ignore[no-untyped-def]
    """Lowers ``top`` to levels that no higher one is possible of, in ``WALKS`` walks from the
    places ``at`` to the places ``stop`` or further, never beyond the first place of a genome. No
    branch depends on the genome, and while one walk waits for memory the others go on."""
    levels, masks, going = f.levels, f.masks, True
    while going:
        for _ in range(4):
            for walk in range(_U(WALKS)):
                at[walk] = _advance(at[walk], top, levels, masks, hashes)
        going = False
        for walk in range(_U(WALKS)):
            going |= at[walk] > stop[walk]


@leaf
def _lower_all(f, hashes, top, count, at, stop):  # type: ignore[no-untyped-def]
    """Lowers ``top`` of ``count`` genomes, which lie one behind the other as their hashes do.

    What group ends at a place depends on nothing behind it. One walk for each genome visits the
    places that groups end at. Where there are fewer genomes than walks, all walks share one, and
    each goes on a little beyond its part: it soon comes to the places of the next one, wherever it
    entered. Places that turn out to lie inside of groups do no harm. Scratch: u8[WALKS] twice."""
    n, walks = _U(len(f.word)), _U(WALKS)
    row, part = n + _U(1), n // walks
    if _U(count) == walks:
        for walk in range(walks):
            at[walk], stop[walk] = walk * row + n, walk * row
        _lower(f, hashes, top, at, stop)
        return
    for q in range(_U(count)):
        for walk in range(walks):
            at[walk] = q * row + n if walk == _U(0) else q * row + (walks - walk) * part
            stop[walk] = q * row
        for walk in range(walks - _U(1)):
            stop[walk] = at[walk + _U(1)] - min(part, _U(BEYOND))
        _lower(f, hashes, top, at, stop)


@inlined
def _given_cuts(f, order, hashes, top, chosen, stops):  # type: ignore[no-untyped-def]
    """Like ``_way_back``, by the largest candidates within the levels ``top`` (see ``_reach`` and
    ``_lower``). One walk from the back looks at the candidates themselves, whose addresses do not
    wait for one another where the levels are right."""
    levels, masks, ends = f.levels, f.masks, f.ends
    count, i = 0, _U(len(order))
    while i > _U(0):
        level, here = _U(top[i]), hashes[i]
        while True:
            head = levels[level]
            k = size_of(head)
            key = here ^ hashes[i - k]
            e = find(head, key, masks, ends)
            if ends[e, HASH] == key:  # of equal sets the cheapest comes first
                break
            level -= _U(1)
        chosen[count], stops[count] = e, i
        count += 1
        i -= k
    return count


@inlined
def _measure(f, chosen, stops, count, live, groups, parts):  # type: ignore[no-untyped-def]
    """Writes the candidate that ends at each place, -1 inside of groups, into ``chosen`` candidates
    instead of ends, and the sums of the objectives; answers (cost with fines, peak, fingerprint).
    """
    ends, split, limit, cost, top, mark, begin = f.ends, f.parts, f.limit, 0.0, 0.0, _U(0), 0
    for i in range(len(groups)):
        groups[i] = -1
    for c in range(count - 1, -1, -1):
        e = _U(chosen[c])
        g = ends[e, GROUP]
        groups[stops[c] - 1] = g
        chosen[c] = g
        cost += as_float(ends[e, COST])
        # SplitMix64's finalizer (Steele, Lea and Flood, 2014) of the candidate's number.
        z = (g + _U(1)) * _U(0x9E3779B97F4A7C15)
        z = (z ^ (z >> _U(30))) * _U(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _U(27))) * _U(0x94D049BB133111EB)
        mark += z ^ (z >> _U(31))
        if len(live):
            need = live[begin] + as_float(ends[e, WRITTEN])
            top = max(top, need)
            if need > limit:
                cost += f.ceiling * over(limit, need)
            mark *= _U(0x9E3779B97F4A7C15)
        begin = stops[c]
    last = _U(len(parts)) - _U(1)
    for j in range(0, len(parts), 4):  # four sums at a time, in registers
        one = _U(j)
        two, three, four = min(one + _U(1), last), min(one + _U(2), last), min(one + _U(3), last)
        sums = 0.0, 0.0, 0.0, 0.0
        for c in range(count - 1, -1, -1):
            g = _U(chosen[c])
            sums = (sums[0] + split[g, one], sums[1] + split[g, two], sums[2] + split[g, three],
                    sums[3] + split[g, four])  # fmt: skip
        parts[one], parts[two], parts[three], parts[four] = sums
    return cost, top, mark


@compiled
def _decode(f, keys, bias, weights, cuts, orders, groups, costs, parts, peaks, prints):  # type: ignore[no-untyped-def]
    n = orders.shape[1]
    place, hashes = np.empty(n, np.int32), np.empty((WALKS, n + 1), np.uint64)
    best, back, most = np.zeros(n + 1), np.zeros(n + 1, np.int32), np.zeros(n + 1)
    chosen, stops = np.empty(n, np.int32), np.empty(n, np.int32)
    live = np.empty((WALKS, n + 1 if len(f.nbytes) else 0))
    close, bits, room = np.empty(n, np.uint64), np.empty(n + 3, np.uint64), np.empty(n, np.uint64)
    top, span = np.empty((WALKS, n + 1), np.uint32), _U(widest(f))
    steered = weights.shape[1] > 0 or bias.shape[1] > 0
    ends = f.ends.copy() if steered else f.ends
    fine, heavy = f.ceiling, 0.0
    at, stop = np.empty(WALKS, np.uint64), np.empty(WALKS, np.uint64)
    every_hash, every_top = hashes.reshape(-1), top.reshape(-1)
    list_schedules(f, keys, orders, make_room(f))
    for first in range(0, len(keys), WALKS):
        count = min(WALKS, len(keys) - first)
        for q in range(count):
            p = first + q
            order = orders[p]
            follow(f, order, place, hashes[q])
            if live.shape[1]:
                live_bytes(f, order, place, live[q])
            if cuts.shape[1]:
                _reach(f, span, order, cuts[p], close, bits, room, top[q])
        if cuts.shape[1]:
            _lower_all(f, every_hash, every_top, count, at, stop)
        for q in range(count):
            p = first + q
            order = orders[p]
            if cuts.shape[1]:
                groups_of = _given_cuts(f, order, hashes[q], top[q], chosen, stops)
            else:
                if steered:
                    fine, heavy = prices(f, weights[p], bias[p], ends)
                if live.shape[1] and (f.limit < math.inf or heavy != 0.0):
                    best_cuts(f, ends, order, hashes[q], live[q], fine, heavy, best, back, most)
                else:
                    best_cuts(f, ends, order, hashes[q], None, fine, 0.0, best, back, None)
                groups_of = _way_back(f, back, chosen, stops)
            costs[p], peaks[p], prints[p] = _measure(f, chosen, stops, groups_of, live[q],
                                                     groups[p], parts[p])  # fmt: skip


@compiled
def _cut(f, order, weights):  # type: ignore[no-untyped-def]
    """i8: the candidates of ``cut``."""
    n = len(order)
    best, back, most = np.zeros(n + 1), np.zeros(n + 1, np.int32), np.zeros(n + 1)
    place, hashes = np.empty(n, np.int32), np.empty(n + 1, np.uint64)
    follow(f, order, place, hashes)
    ends, fine, heavy = f.ends, f.ceiling, 0.0
    if len(weights):
        ends = f.ends.copy()
        fine, heavy = prices(f, weights, np.empty(0), ends)
    if len(f.nbytes) and (f.limit < math.inf or heavy != 0.0):
        live = np.empty(n + 1)
        live_bytes(f, order, place, live)
        best_cuts(f, ends, order, hashes, live, fine, heavy, best, back, most)
    else:
        best_cuts(f, ends, order, hashes, None, fine, 0.0, best, back, None)
    chosen, stops = np.empty(n, np.int32), np.empty(n, np.int32)
    count = _way_back(f, back, chosen, stops)
    return f.ends[:, GROUP][chosen[:count][::-1]].astype(np.int64)


def decode(problem: Problem, genomes: Genomes | np.ndarray, threads: int = 1) -> Decoded:
    """Orders, groups and objectives of genomes, or of priorities f8[p, n]; the population is split
    over ``threads``, which does not change the result."""
    if isinstance(genomes, np.ndarray):
        genomes = Genomes(genomes)
    f, count = problem.flat, len(genomes)
    found = Decoded(
        np.empty((count, problem.nodes), np.int32), np.empty((count, problem.nodes), np.int32),
        np.empty(count), np.empty((count, f.parts.shape[1])), np.empty(count),
        np.empty(count, np.uint64))  # fmt: skip
    arrays = (
        _gene(genomes.keys, count, problem.nodes, np.float64, "keys"),
        _gene(genomes.bias, count, len(f.preds), np.float64, "bias"),
        _gene(genomes.weights, count, f.parts.shape[1] + 1, np.float64, "weights"),
        _gene(genomes.cuts, count, problem.nodes, np.uint8, "cuts"),
        found.orders, found.groups, found.costs, found.parts, found.peaks, found.prints,
    )  # fmt: skip
    if threads <= 1 or count < 2:
        _decode(f, *arrays)
        return found
    bounds = np.linspace(0, count, min(threads, count) + 1).astype(int).tolist()
    with ThreadPoolExecutor(len(bounds) - 1) as pool:
        jobs = [pool.submit(_decode, f, *(a[low:high] for a in arrays))
                for low, high in itertools.pairwise(bounds)]  # fmt: skip
        for job in jobs:
            job.result()
    return found


def _gene(given: np.ndarray | None, count: int, width: int, dtype: type, what: str) -> np.ndarray:
    """A gene as an array with a row per genome; of width 0 where it is not used."""
    if given is None:
        return np.empty((count, 0), dtype)
    if given.shape != (count, width):
        raise ValueError(f"{what}: an array {count} x {width}, not {given.shape}")
    return np.ascontiguousarray(given, dtype)


def cut(problem: Problem, order: np.ndarray, weights: np.ndarray | None = None) -> list[int]:
    """The candidates that cut a topological order best, first to last: at least cost, or by
    ``weights`` f8[k + 1] of the objectives and the peak."""
    none = np.empty(0) if weights is None else np.ascontiguousarray(weights, np.float64)
    chosen: list[int] = _cut(problem.flat, np.ascontiguousarray(order, np.int32), none).tolist()
    return chosen
