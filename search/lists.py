"""List scheduling in machine code: of the nodes whose predecessors are done, the one with the
smallest key comes next, and of equal keys the one with the smallest number.

The nodes are ranked once, by a distribution sort. Then sixteen genomes are scheduled at once,
without a set of what is ready. Of a node and all its ancestors let the *gate* be the one with the
largest rank. While a gate is open, what waits behind it has smaller ranks than whatever does not,
so nodes come gate by gate in the order of their ranks, and those with one gate in a row: the gate
itself, then the others, which are scheduled by themselves in the same way, as if the gate and all
that came before were not there. So gates are a forest, in which every node has a smaller rank than
the gate it is right behind, and the order is its preorder, children by rank. A level of it is one
pass over the nodes that are not their own gates yet, in topological order, the largest of some
numbers for each, with a genome in every lane of a register (``packs``). Random keys take some ten
passes over most of the nodes, keys of genomes that were decoded before about one.

Keys that oppose the graph would take as many passes as nodes. Those, genomes that are alone, and
graphs of more nodes than a u2 tells apart are scheduled one by one: what is ready is a set of
ranks, a bit per rank, and a word that says which blocks of bits have any. The next node is the
lowest bit of the lowest block, however many are ready. Predecessors are counted up to ``READY``, a
bit of the count that is or-ed into the set whether it is there or not, for three successors of
every node, which need not be that many: a branch on what is ready would be predicted wrong every
other time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compiled import compiled, inlined, leaf, lowest
from .fans import FAN
from .packs import PACK, differ, even, larger, load, store, where_differs, where_same, zeros

FEW = 3
"""Genomes up to which they are scheduled one by one."""

_PASSES = 40
"""Looks at a node, in the mean, after which keys are taken to oppose the graph."""

_MOST = 32_767
"""Nodes that a u2 tells apart, with a bit to spare."""

READY = 63
"""The bit of a state that says that all predecessors are done."""

_ONE = 32
"""The lowest bit of its count."""

_CLUMP = 32
"""Nodes with nearly one key, from which on keys are sorted by comparison."""

_U = np.uint64


class Room(NamedTuple):
    """Scratch of ``list_schedules``, for n nodes."""

    sources: np.ndarray
    """i8: nodes without predecessors."""
    waits: np.ndarray
    """u8[n]: what the state of each node begins with. Without predecessors it lacks one."""
    size: np.ndarray
    """u4[n]: nodes of each bucket, then where the next one goes."""
    bucket: np.ndarray
    """u4[n]: bucket of each node."""
    node: np.ndarray
    """u4[PACK * n]: nodes by rank."""
    state: np.ndarray
    """u8[n + FAN]: count << 32 | rank of each node, and of the dummies."""
    ready: np.ndarray
    """u8: the ranks that are ready; a word each for the dummies behind them."""
    shift: int
    """Words of a block are ``1 << shift``, so that 64 blocks hold all."""
    own: np.ndarray
    """n packs: twice the rank of each node, plus one."""
    gate: np.ndarray
    """2 * n packs: twice the rank of each node's gate of one level, plus one where it is the gate
    itself; and those of the next level."""
    behind: np.ndarray
    """n packs: twice the rank of the gate that each node is right behind; that of all is n."""
    left: np.ndarray
    """u4[n]: nodes that are not their own gates yet."""
    held: np.ndarray
    """u4[n + 1]: nodes listed below each gate, by its rank, then the place of the gate."""
    up: np.ndarray
    """u4[n]: rank of the gate that the node of each rank is right behind."""
    after: np.ndarray
    """u4[n]: places that the node of each rank is behind that gate."""


@compiled
def make_room(f):  # type: ignore[no-untyped-def]
    """Scratch for a problem."""
    n, degree = len(f.word), np.diff(f.pred_ptr)
    words, shift = (n >> 6) + 1 + FAN, 0
    while words > 64 << shift:
        shift += 1
    waits = ((1 << (READY - _ONE)) - np.maximum(degree, 1)).astype(np.uint64) << _U(_ONE)
    return Room(np.flatnonzero(degree == 0), waits, np.empty(n, np.uint32), np.empty(n, np.uint32),
                np.empty(PACK * n, np.uint32), np.empty(n + FAN, np.uint64),
                np.zeros(64 << shift, np.uint64), shift,
                np.empty(PACK * n, np.uint16), np.empty(2 * PACK * n, np.uint16),
                np.empty(PACK * n, np.uint16), np.empty(n, np.uint32), np.empty(n + 1, np.uint32),
                np.empty(n, np.uint32), np.empty(n, np.uint32))


@inlined
def _rank(keys, p, room, begin):  # type: ignore[no-untyped-def]
    """Writes the nodes by the keys of genome ``p``, equal ones by number, into ``room.node`` from
    ``begin`` on: as many buckets as nodes, of equal width, then insertion. Answers whether it did;
    not if the keys clump."""
    n, sizes, bucket, node = _U(keys.shape[1]), room.size, room.bucket, room.node
    low = high = lower = higher = keys[p, 0]
    for i in range(n >> _U(1)):  # two at a time, as a minimum waits for the one before
        low, high = min(low, keys[p, i]), max(high, keys[p, i])
        key = keys[p, n - i - _U(1)]
        lower, higher = min(lower, key), max(higher, key)
    middle = keys[p, n >> _U(1)]
    low, high = min(low, lower, middle), max(high, higher, middle)
    last, scale = np.uint32(n - _U(1)), (len(sizes) - 1) / (high - low)
    if not 0.0 < scale < np.inf:
        return False
    for i in range(n):
        bucket[i] = min(np.uint32(np.int64((keys[p, i] - low) * scale)), last)
        sizes[i] = np.uint32(0)
    for i in range(n):
        sizes[_U(bucket[i])] += np.uint32(1)
    total = most = np.uint32(0)
    for k in range(n):
        size = sizes[k]
        sizes[k] = total
        total += size
        most = max(most, size)
    if most > _CLUMP:
        return False
    for i in range(n):
        b = _U(bucket[i])
        node[begin + _U(sizes[b])] = i
        sizes[b] += np.uint32(1)
    before = keys[p, node[begin]]
    for i in range(_U(1), n):
        at = begin + i
        v = node[at]
        key = keys[p, v]
        if key >= before:  # as most do
            before = key
            continue
        while at > begin and keys[p, node[at - _U(1)]] > key:
            node[at] = node[at - _U(1)]
            at -= _U(1)
        node[at] = v
    return True


@inlined
def _level(f, room, count, now, then):  # type: ignore[no-untyped-def]
    """Writes the gates of the next level, from the pack ``then`` on, of the first ``count`` nodes
    that are left, those of this one being from ``now`` on; answers how many are left then."""
    pred_ptr, preds, gate, behind, left = f.pred_ptr, f.preds, room.gate, room.behind, room.left
    kept = _U(0)
    for k in range(count):
        v = _U(left[k])
        own, here, most = load(room.own, v), load(gate, now + v), zeros()
        for e in range(_U(pred_ptr[v]), _U(pred_ptr[v + _U(1)])):
            u = _U(preds[e])  # what is its own gate has an odd number, which nothing is behind
            most = larger(most, where_same(load(gate, now + u), here, load(gate, then + u)))
        most = larger(own, even(most))
        store(gate, then + v, most)
        store(behind, v, where_differs(here, own, load(behind, v)))
        left[kept] = v
        kept += differ(most, own)
    return kept


@leaf
def _gates(f, room, lanes):  # type: ignore[no-untyped-def]
    """Finds what gate each node is right behind, of ``lanes`` genomes that are ranked; answers
    whether it did, not if that takes too many passes.

    A number that is not written again, as its node is its own gate in all lanes, stays what it was
    one or two levels ago: no node has that gate any more."""
    n, node, own, gate, left = _U(len(f.word)), room.node, room.own, room.gate, room.left
    for lane in range(_U(PACK)):
        for rank in range(n):
            v = _U(node[lane * n + rank]) if lane < lanes else rank
            own[v * _U(PACK) + lane] = _U(2) * rank + _U(1)
    for i in range(n * _U(PACK)):
        gate[i] = _U(2) * n
    for v in range(n):
        left[v] = v
    count, looks, now, then = n, _U(0), _U(0), n
    while count > _U(0):
        looks += count
        if looks > n * _U(_PASSES):
            return False
        count = _level(f, room, count, now, then)
        now, then = then, now
    return True


@leaf
def _list(f, room, lane, orders, begin):  # type: ignore[no-untyped-def]
    """Writes the order of a genome, from ``begin`` on, by the gates that its nodes are behind."""
    n, node, behind, held = _U(len(f.word)), room.node, room.behind, room.held
    up, after, first = room.up, room.after, lane * n
    for rank in range(n):
        held[rank] = 1
    held[n] = 0
    for rank in range(n):
        gate = _U(behind[_U(node[first + rank]) * _U(PACK) + lane]) >> _U(1)
        before = held[gate]
        up[rank], after[rank] = gate, before
        held[gate] = before + held[rank]
    held[n] = 0
    for higher in range(n):
        at = n - _U(1) - higher
        place = held[_U(up[at])] + after[at]
        held[at] = place
        orders[begin + _U(place)] = node[first + at]


@inlined
def _begin(f, room, lane):  # type: ignore[no-untyped-def]
    """Makes a genome ready; answers the blocks that are not empty."""
    n, waits, node, state = _U(len(f.word)), room.waits, room.node, room.state
    for rank in range(n):
        v = node[lane * n + rank]
        state[v] = waits[v] | rank
    for k in range(_U(FAN)):
        state[n + k] = n + _U(64) * (k + _U(1))
    blocks, shift = _U(0), _U(room.shift) + _U(6)
    for v in room.sources:
        blocks = _count(_U(v), shift, blocks, state, room.ready)
    return blocks


@inlined
def _count(s, shift, blocks, state, ready):  # type: ignore[no-untyped-def]
    """Counts a predecessor of the state ``s``; answers the blocks that are not empty."""
    count = state[s] + (_U(1) << _U(_ONE))
    state[s] = count
    is_ready, rank = count >> _U(READY), count & _U((1 << _ONE) - 1)
    ready[rank >> _U(6)] |= is_ready << (rank & _U(63))
    return blocks | is_ready << (rank >> shift)


@leaf
def _one(f, room, lane, orders, begin):  # type: ignore[no-untyped-def]
    """Writes the order of a genome that is ranked, from ``begin`` on."""
    n, fan, succs, ready, state = _U(len(f.word)), f.fan, f.succs, room.ready, room.state
    wide, shift = _U(room.shift), _U(room.shift) + _U(6)
    blocks = _begin(f, room, lane)
    for at in range(begin, begin + n):
        block = lowest(blocks)
        w = block << wide
        while ready[w] == _U(0):
            w += _U(1)
        word = ready[w]
        v = room.node[lane * n + (w << _U(6)) + lowest(word)]
        left = word & (word - _U(1))
        ready[w] = left
        w += _U(1)
        while w < (block + _U(1)) << wide:
            left |= ready[w]
            w += _U(1)
        blocks &= ~(_U(left == _U(0)) << block)
        orders[at] = v
        row = _U(v) * _U(FAN + 1)
        for k in range(_U(FAN)):
            blocks = _count(_U(fan[row + k]), shift, blocks, state, ready)
        more = fan[row + _U(FAN)]
        if more:
            end = f.succ_ptr[v + 1]
            for e in range(end - more, end):
                blocks = _count(_U(succs[e]), shift, blocks, state, ready)


@compiled
def list_schedules(f, keys, orders, room):  # type: ignore[no-untyped-def]
    """Writes the topological orders i4[p, n] of the priorities ``keys`` f8[p, n]; ``room`` of
    ``make_room``."""
    n, count = len(f.word), len(keys) if len(f.word) else 0
    rows = orders.reshape(-1)
    for p in range(0, count, PACK):
        lanes = min(PACK, count - p)
        for lane in range(lanes):
            if not _rank(keys, p + lane, room, _U(lane * n)):
                ranked = np.argsort(keys[p + lane], kind="mergesort")
                room.node[lane * n : (lane + 1) * n] = ranked
        together = lanes > FEW and n <= _MOST and _gates(f, room, _U(lanes))
        for lane in range(lanes):
            if together:
                _list(f, room, _U(lane), rows, _U((p + lane) * n))
            else:
                _one(f, room, _U(lane), rows, _U((p + lane) * n))
