"""Walks through orders: simulated annealing whose every move is cut again exactly.

A move takes a run of nodes out of the order and puts it back elsewhere between the last predecessor
and the first successor of its nodes, so orders stay topological. What changes lies in the window
between the old and the new place: hashes and live bytes inside of it, and the cells of the dynamic
program from its begin on. Those are computed again only until the difference to the old ones has
been constant over as many cells as the longest candidate is long: from there on it is constant for
good. The cost of a move so does not depend on the size of the graph.
"""

from __future__ import annotations

import math

import numpy as np

from .compiled import compiled, inlined
from .evaluate import best_cuts, cell, follow, live_bytes, prices, widest
from .problem import Problem

REACH = 12
"""Places that a near move goes, and nodes that it takes along, at most, where no candidate is
larger."""

PROPOSALS = 4
"""Proposals of a walk, at most, for each move that it may make; those without room change nothing
and count for nothing."""


@inlined
def draw(state):  # type: ignore[no-untyped-def]
    """SplitMix64 (Steele, Lea and Flood, 2014): the next 64 bits; ``state`` is u8[1]."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def below(state, limit):  # type: ignore[no-untyped-def]
    """A whole number from 0, less than ``limit`` < 2**31, without a division (Lemire, 2019)."""
    return np.int64(((draw(state) >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))


@inlined
def unit(state):  # type: ignore[no-untyped-def]
    """A number from 0, less than 1."""
    return float(draw(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@inlined
def _rotate(order, place, first, middle, end, spare):  # type: ignore[no-untyped-def]
    """Swaps the runs ``first..middle`` and ``middle..end`` of the order."""
    count = middle - first
    for i in range(count):
        spare[i] = order[first + i]
    for i in range(middle, end):
        order[i - count] = order[i]
    for i in range(count):
        order[end - count + i] = spare[i]
    for i in range(first, end):
        place[order[i]] = i


@inlined
def _window(f, first, end, order, place):  # type: ignore[no-untyped-def]
    """Where the run ``first..end`` may begin and must end while the others keep their order."""
    low, high = 0, len(order)
    pred_ptr, preds, succ_ptr, succs = f.pred_ptr, f.preds, f.succ_ptr, f.succs
    for i in range(first, end):
        v = order[i]
        for e in range(pred_ptr[v], pred_ptr[v + 1]):
            p = place[preds[e]]
            if p < first:
                low = max(low, p + 1)
        for e in range(succ_ptr[v], succ_ptr[v + 1]):
            p = place[succs[e]]
            if p >= end:
                high = min(high, p)
    return low, high


@inlined
def _refresh(f, first, end, order, place, hashes, live):  # type: ignore[no-untyped-def]
    """Hashes and live bytes of the places ``first..end``, whose nodes changed their order."""
    word = f.word
    for i in range(first, end):
        hashes[i + 1] = hashes[i] ^ word[order[i]]
    if live is None:
        return
    value_ptr, nbytes, kept, need_ptr, needs = f.value_ptr, f.nbytes, f.kept, f.need_ptr, f.needs
    user_ptr, users = f.user_ptr, f.users
    for i in range(first, end):
        v = order[i]
        total = live[i]
        for w in range(value_ptr[v], value_ptr[v + 1]):
            if kept[w] or user_ptr[w] < user_ptr[w + 1]:
                total += nbytes[w]
        for e in range(need_ptr[v], need_ptr[v + 1]):
            w = needs[e]
            done = not kept[w]
            for u in range(user_ptr[w], user_ptr[w + 1]):
                if place[users[u]] > i:
                    done = False
                    break
            if done:
                total -= nbytes[w]
        live[i + 1] = total


@inlined
def _recut(f, ends, first, end, span, order, hashes, live, fine, best, back, old, old_back):  # type: ignore[no-untyped-def]
    """Computes the cells behind a change of the places ``first..end``; answers (where the cells
    that were touched end, change of the total). The former cells are kept in ``old``."""
    n = len(order)
    level_ptr, levels, masks = f.level_ptr, f.levels, f.masks
    limit = f.limit
    same, delta = 0, math.inf
    i = first + 1
    while i <= n:
        old[i], old_back[i] = best[i], back[i]
        cell(i, order, hashes, live, fine, 0.0, best, back, None, level_ptr, levels, masks,
             ends, limit)  # fmt: skip
        change = best[i] - old[i]
        if i > end and abs(change - delta) <= 1e-12 * abs(best[i]):
            same += 1
            if same >= span:
                return i + 1, change
        else:
            same = 0
        delta = change
        i += 1
    return n + 1, best[n] - old[n]


@compiled
def _movable(f, order, place):  # type: ignore[no-untyped-def]
    """Nodes that may have another place in some order: those that are not behind all nodes before
    them, or not before all behind them. All before ``i`` lead to it if each has a successor by then
    (which leads on, or is ``i``), and the other way round."""
    n = len(order)
    back = np.full(n + 1, n, np.int32)  # of the nodes from here on, the earliest last predecessor
    for i in range(n - 1, -1, -1):
        last = -1
        for e in range(f.pred_ptr[order[i]], f.pred_ptr[order[i] + 1]):
            last = max(last, place[f.preds[e]])
        back[i] = min(back[i + 1], last)
    found, count = np.empty(n, np.int32), 0
    far = 0  # of the nodes before, the latest first successor
    for i in range(n):
        v = order[i]
        if far > i or back[i + 1] < i:
            found[count] = v
            count += 1
        first = n
        for e in range(f.succ_ptr[v], f.succ_ptr[v + 1]):
            first = min(first, place[f.succs[e]])
        far = max(far, first)
    return found[:count]


@inlined
def _propose(f, state, reach, order, place, movable):  # type: ignore[no-untyped-def]
    """A random move as (first, middle, end): swap the two runs; ``first == end`` for none."""
    n = len(order)
    begin = place[movable[below(state, len(movable))]]
    count = 1
    if below(state, 8) == 0:  # one in eight moves a run
        count = min(1 + below(state, reach), n - begin)
    stop = begin + count
    low, high = _window(f, begin, stop, order, place)
    free = high - low - count
    if free <= 0:
        return 0, 0, 0
    target = low + below(state, free)
    if target >= begin:
        target += 1
    if below(state, 4) and abs(target - begin) > reach:  # mostly near, sometimes far
        step = 1 + below(state, reach)
        target = min(begin + step, high - count) if target > begin else max(begin - step, low)
    if target == begin:
        return 0, 0, 0
    if target > begin:
        return begin, stop, target + count
    return target, begin, stop


@compiled
def _anneal(f, order, live, weights, moves, hot, cold, state):  # type: ignore[no-untyped-def]
    n = len(order)
    place, spare = np.empty(n, np.int32), np.empty(n, np.int32)
    hashes = np.empty(n + 1, np.uint64)
    follow(f, order, place, hashes)
    if live is not None:
        live_bytes(f, order, place, live)
    span = max(1, widest(f))
    best, back = np.zeros(n + 1), np.zeros(n + 1, np.int32)
    old, old_back = np.zeros(n + 1), np.zeros(n + 1, np.int32)
    ends, fine = f.ends, f.ceiling
    if len(weights):
        ends = f.ends.copy()
        fine, _ = prices(f, weights, np.empty(0), ends)
    best_cuts(f, ends, order, hashes, live, fine, 0.0, best, back, None)
    total = best[n]
    kept, least = order.copy(), total
    cooling = (cold / hot) ** (1.0 / max(1, moves))
    movable = _movable(f, order, place)
    heat, cut = hot, 0
    for _ in range(PROPOSALS * moves if len(movable) else 0):
        if cut == moves:
            break
        first, middle, end = _propose(f, state, max(span, REACH), order, place, movable)
        if first == end:
            continue
        cut += 1
        heat *= cooling
        _rotate(order, place, first, middle, end, spare)
        _refresh(f, first, end, order, place, hashes, live)
        stop, change = _recut(f, ends, first, end, span, order, hashes, live, fine, best, back,
                              old, old_back)  # fmt: skip
        if change <= 0.0 or unit(state) < math.exp(-change / heat):
            if change != 0.0:
                for i in range(stop, n + 1):
                    best[i] += change
            total += change
            if total < least - 1e-12 * abs(least):
                least = total
                kept[:] = order
        else:
            _rotate(order, place, first, first + end - middle, end, spare)
            _refresh(f, first, end, order, place, hashes, live)
            for i in range(first + 1, stop):
                best[i], back[i] = old[i], old_back[i]
    order[:] = kept
    return least, cut


def walk(
    problem: Problem, order: np.ndarray, moves: int, hot: float, cold: float, seed: int,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, float, int]:
    """(order, cost, orders cut again) of ``anneal``: at most ``moves``."""
    walked = np.array(order, np.int32)
    none = np.empty(0) if weights is None else np.ascontiguousarray(weights, np.float64)
    state = np.array([seed & (1 << 64) - 1], np.uint64)
    live = np.empty(problem.nodes + 1) if problem.limited_memory else None
    cost, cuts = _anneal(problem.flat, walked, live, none, moves, float(hot), float(cold), state)
    return walked, float(cost), int(cuts)


def anneal(
    problem: Problem, order: np.ndarray, moves: int, hot: float, cold: float, seed: int,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """(order, cost) after at most ``moves`` moves of simulated annealing from ``order``, cooling
    geometrically from ``hot`` to ``cold`` (units of cost, both positive); the best one seen. Over
    the memory limit the cost is that of ``Decoded.costs``. ``weights`` f8[k + 1] as in ``Genomes``
    replace the cost; that of the peak, which is no sum, does not count."""
    walked, cost, _ = walk(problem, order, moves, hot, cold, seed, weights)
    return walked, cost
