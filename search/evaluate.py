"""Evaluation in machine code: keys -> order -> exact cuts -> cost, and moves re-cut exactly.

``decode`` lists the nodes by priority (list scheduling: of the nodes whose predecessors are done,
the one with the smallest key) and cuts the order by dynamic programming: the best cost of the first
i nodes is the least, over the candidates that end there, of the best before it plus its cost. For
the order it was given that is the optimum.

``anneal`` walks through orders. A move takes a node out and puts it back somewhere between its last
predecessor and its first successor, so orders stay topological. Only the cells of the dynamic
program from the first changed position on are computed again, and only until the difference to the
old ones has been constant over as many cells as the longest candidate is long: from there on it is
constant for good. The cost of a move so does not depend on the size of the graph.

Everything is compiled by Numba, releases the interpreter lock and depends on its arguments only.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .problem import Problem

_jit = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def _find(keys, values, key):  # type: ignore[no-untyped-def]
    """The candidate with this hash, or -1."""
    mask = np.uint64(len(keys) - 1)
    slot = key & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + np.uint64(1)) & mask
    return -1


@_jit
def _list_schedule(priority, pred_ptr, succ_ptr, succs, order, waits, heap):  # type: ignore[no-untyped-def]
    """Writes the topological order with the smallest priorities first; ties go by number."""
    n = len(order)
    held = 0
    for v in range(n):
        waits[v] = pred_ptr[v + 1] - pred_ptr[v]
        if waits[v] == 0:
            held = _push(heap, held, priority, v)
    for k in range(n):
        v = heap[0]
        held = _pop(heap, held, priority)
        order[k] = v
        for e in range(succ_ptr[v], succ_ptr[v + 1]):
            s = succs[e]
            waits[s] -= 1
            if waits[s] == 0:
                held = _push(heap, held, priority, s)


@_jit
def _before(priority, a, b):  # type: ignore[no-untyped-def]
    return priority[a] < priority[b] or (priority[a] == priority[b] and a < b)


@_jit
def _push(heap, held, priority, v):  # type: ignore[no-untyped-def]
    at = held
    while at > 0:
        up = (at - 1) >> 1
        if not _before(priority, v, heap[up]):
            break
        heap[at] = heap[up]
        at = up
    heap[at] = v
    return held + 1


@_jit
def _pop(heap, held, priority):  # type: ignore[no-untyped-def]
    held -= 1
    v = heap[held]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= held:
            break
        if down + 1 < held and _before(priority, heap[down + 1], heap[down]):
            down += 1
        if not _before(priority, heap[down], v):
            break
        heap[at] = heap[down]
        at = down
    heap[at] = v
    return held


@_jit
def _cell(i, order, word, keys, values, cost, longest, best, back):  # type: ignore[no-untyped-def]
    """One cell of the dynamic program: the best way to end a group at position ``i - 1``."""
    found = math.inf
    chosen = 0
    key = np.uint64(0)
    limit = min(i, longest[order[i - 1]])
    for k in range(1, limit + 1):
        v = order[i - k]
        if longest[v] < k:
            break
        key ^= word[v]
        g = _find(keys, values, key)
        if g >= 0:
            total = best[i - k] + cost[g]
            if total < found:
                found = total
                chosen = k
    best[i] = found
    back[i] = chosen


@_jit
def _decode(population, pred_ptr, succ_ptr, succs, word, keys, values, cost, longest, orders, out):  # type: ignore[no-untyped-def]
    n = orders.shape[1]
    waits, heap = np.empty(n, np.int32), np.empty(n, np.int32)
    best, back = np.zeros(n + 1), np.zeros(n + 1, np.int32)
    for p in range(len(population)):
        order = orders[p]
        _list_schedule(population[p], pred_ptr, succ_ptr, succs, order, waits, heap)
        for i in range(1, n + 1):
            _cell(i, order, word, keys, values, cost, longest, best, back)
        out[p] = best[n]


@_jit
def _groups(order, word, keys, values, cost, longest):  # type: ignore[no-untyped-def]
    """Candidates that cut the order best, first to last."""
    n = len(order)
    best, back = np.zeros(n + 1), np.zeros(n + 1, np.int32)
    for i in range(1, n + 1):
        _cell(i, order, word, keys, values, cost, longest, best, back)
    chosen = np.empty(n, np.int32)
    count, i = 0, n
    while i > 0:
        key = np.uint64(0)
        for k in range(back[i]):
            key ^= word[order[i - 1 - k]]
        chosen[count] = _find(keys, values, key)
        count += 1
        i -= back[i]
    return chosen[:count][::-1].copy()


@_jit
def _random(state):  # type: ignore[no-untyped-def]
    """SplitMix64 (Steele, Lea and Flood, 2014): the next 64 bits; ``state`` is u8[1]."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_jit
def _below(state, limit):  # type: ignore[no-untyped-def]
    return int((_random(state) >> np.uint64(11)) % np.uint64(limit))


@_jit
def _unit(state):  # type: ignore[no-untyped-def]
    return float(_random(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@_jit
def _move(order, place, source, target):  # type: ignore[no-untyped-def]
    """Takes the node at ``source`` out and puts it back at ``target``."""
    v = order[source]
    step = 1 if target > source else -1
    for i in range(source, target, step):
        order[i] = order[i + step]
        place[order[i]] = i
    order[target] = v
    place[v] = target


@_jit
def _window(v, n, place, pred_ptr, preds, succ_ptr, succs):  # type: ignore[no-untyped-def]
    """First and last position the node may have while the others keep their order."""
    low, high = 0, n - 1
    for e in range(pred_ptr[v], pred_ptr[v + 1]):
        low = max(low, place[preds[e]] + 1)
    for e in range(succ_ptr[v], succ_ptr[v + 1]):
        high = min(high, place[succs[e]] - 1)
    return low, high


@_jit
def _recut(first, last, n, span, order, word, keys,  # type: ignore[no-untyped-def]
           values, cost, longest, best, back, old, old_back):  # fmt: skip
    """Computes the cells behind a change of positions ``first..last``; answers (cells touched end,
    change of the total cost). Cells up to the end are kept in ``old``."""
    same, delta = 0, math.inf
    i = first + 1
    while i <= n:
        old[i], old_back[i] = best[i], back[i]
        _cell(i, order, word, keys, values, cost, longest, best, back)
        change = best[i] - old[i]
        if i > last + 1 and abs(change - delta) <= 1e-12 * abs(best[i]):
            same += 1
            if same >= span:
                return i + 1, change
        else:
            same = 0
        delta = change
        i += 1
    return n + 1, best[n] - old[n]


@_jit
def _anneal(order, moves, hot, cold, state, pred_ptr,  # type: ignore[no-untyped-def]
            preds, succ_ptr, succs, word, keys, values, cost, longest):  # fmt: skip
    n = len(order)
    place = np.empty(n, np.int32)
    for i in range(n):
        place[order[i]] = i
    span = longest.max()
    best, back = np.zeros(n + 1), np.zeros(n + 1, np.int32)
    old, old_back = np.zeros(n + 1), np.zeros(n + 1, np.int32)
    for i in range(1, n + 1):
        _cell(i, order, word, keys, values, cost, longest, best, back)
    # Cells behind the end of a re-cut keep their old values; ``total`` is the truth.
    total = best[n]
    kept, least = order.copy(), total
    cooling = (cold / hot) ** (1.0 / max(1, moves))
    heat = hot
    for _ in range(moves):
        heat *= cooling
        v = _below(state, n)
        low, high = _window(v, n, place, pred_ptr, preds, succ_ptr, succs)
        if low == high:
            continue
        source = place[v]
        target = low + _below(state, high - low)
        if target >= source:
            target += 1
        if _below(state, 4) and abs(target - source) > span:  # mostly near, sometimes far
            target = min(max(source + (1 + _below(state, span)) * (1 if target > source else -1),
                             low), high)  # fmt: skip
            if target == source:
                continue
        _move(order, place, source, target)
        first, last = min(source, target), max(source, target)
        end, change = _recut(first, last, n, span, order, word, keys, values, cost, longest,
                             best, back, old, old_back)  # fmt: skip
        if change <= 0.0 or _unit(state) < math.exp(-change / heat):
            if change != 0.0:
                for i in range(end, n + 1):
                    best[i] += change
            total += change
            if total < least - 1e-12 * abs(least):
                least = total
                kept[:] = order
        else:
            _move(order, place, target, source)
            for i in range(first + 1, end):
                best[i], back[i] = old[i], old_back[i]
    order[:] = kept
    return least


def decode(problem: Problem, population: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(orders i4[p, n], costs f8[p]) of priorities f8[p, n]."""
    p = problem
    orders = np.empty(population.shape, np.int32)
    costs = np.empty(len(population))
    _decode(population, p.pred_ptr, p.succ_ptr, p.succs, p.word, p.keys, p.values, p.cost,
            p.longest, orders, costs)  # fmt: skip
    return orders, costs


def cut(problem: Problem, order: np.ndarray) -> list[int]:
    """The candidates that cut a topological order at least cost, first to last."""
    p = problem
    found = _groups(order, p.word, p.keys, p.values, p.cost, p.longest)
    return [int(g) for g in found]


def anneal(
    problem: Problem, order: np.ndarray, moves: int, hot: float, cold: float, seed: int
) -> tuple[np.ndarray, float]:
    """(order, cost) after ``moves`` moves of simulated annealing from ``order``, cooling
    geometrically from ``hot`` to ``cold`` (units of cost, both positive); the best one seen."""
    p = problem
    walked = np.array(order, np.int32)
    state = np.array([seed & (1 << 64) - 1], np.uint64)
    cost = _anneal(walked, moves, hot, cold, state, p.pred_ptr, p.preds, p.succ_ptr, p.succs,
                   p.word, p.keys, p.values, p.cost, p.longest)  # fmt: skip
    return walked, float(cost)
