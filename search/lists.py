"""List scheduling in machine code: of the nodes whose predecessors are done, the one with the
smallest key comes next, and of equal keys the one with the smallest number.

The nodes are ranked once, by a distribution sort, so that what is ready is a set of ranks: a bit
per rank, and a word that says which blocks of bits have any. The next node is the lowest bit of the
lowest block, however many are ready. Predecessors are counted up to ``READY``, a bit of the count
that is or-ed into the set whether it is there or not, for three successors of every node, which
need not be that many: a branch on what is ready would be predicted wrong every other time. What is
left is latency, so several genomes (*lanes*) are scheduled in turns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compiled import compiled, inlined, leaf, lowest
from .fans import FAN

LANES = 2
"""Genomes that are scheduled in turns: one waits for memory while the other one computes. More keep
the processor no busier."""

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
    """u4[LANES * n]: nodes by rank."""
    state: np.ndarray
    """u8[LANES * (n + FAN)]: count << 32 | rank of each node, and of the dummies."""
    ready: np.ndarray
    """u8[LANES * words]: the ranks that are ready; a word each for the dummies behind them."""
    shift: int
    """Words of a block are ``1 << shift``, so that 64 blocks hold all."""


@compiled
def make_room(f):  # type: ignore[no-untyped-def]
    """Scratch for a problem."""
    n, degree = len(f.word), np.diff(f.pred_ptr)
    words, shift = (n >> 6) + 1 + FAN, 0
    while words > 64 << shift:
        shift += 1
    waits = ((1 << (READY - _ONE)) - np.maximum(degree, 1)).astype(np.uint64) << _U(_ONE)
    return Room(np.flatnonzero(degree == 0), waits, np.empty(n, np.uint32), np.empty(n, np.uint32),
                np.empty(LANES * n, np.uint32), np.empty(LANES * (n + FAN), np.uint64),
                np.zeros(LANES * (64 << shift), np.uint64), shift)


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
def _begin(f, room, lane):  # type: ignore[no-untyped-def]
    """Makes a lane ready whose nodes are ranked; answers the blocks that are not empty."""
    n, waits, node, state = _U(len(f.word)), room.waits, room.node, room.state
    first = lane * (n + _U(FAN))
    for rank in range(n):
        v = node[lane * n + rank]
        state[first + _U(v)] = waits[v] | rank
    for k in range(_U(FAN)):
        state[first + n + k] = n + _U(64) * (k + _U(1))
    blocks, shift = _U(0), _U(room.shift)
    for v in room.sources:
        blocks = _count(first + _U(v), lane * (_U(64) << shift), shift + _U(6), blocks, state,
                        room.ready)  # fmt: skip
    return blocks


@inlined
def _count(s, words, shift, blocks, state, ready):  # type: ignore[no-untyped-def]
    """Counts a predecessor of the node with the state ``s``; answers the blocks that are not empty.
    ``words``: where the words of the lane begin."""
    count = state[s] + (_U(1) << _U(_ONE))
    state[s] = count
    is_ready, rank = count >> _U(READY), count & _U((1 << _ONE) - 1)
    ready[words + (rank >> _U(6))] |= is_ready << (rank & _U(63))
    return blocks | is_ready << (rank >> shift)


@inlined
def _step(f, room, lane, width, wide, blocks, orders, at):  # type: ignore[no-untyped-def]
    """Lists the next node of a lane, at ``at`` in ``orders``; answers the blocks that are not
    empty. Constants: ``width``, successors that are counted without a branch; and ``wide``, which
    is ``room.shift`` where that is 0, so that a block is a word."""
    n, fan, succs, ready, state = _U(len(f.word)), f.fan, f.succs, room.ready, room.state
    words, shift, first = lane * (_U(64) << wide), wide + _U(6), lane * (n + _U(FAN))
    block = lowest(blocks)
    w = words + (block << wide)
    word = ready[w]
    if wide:
        while word == _U(0):
            w += _U(1)
            word = ready[w]
    v = room.node[lane * n + ((w - words) << _U(6)) + lowest(word)]
    left = word & (word - _U(1))
    ready[w] = left
    if wide:
        stop = words + ((block + _U(1)) << wide)
        w += _U(1)
        while w < stop:
            left |= ready[w]
            w += _U(1)
    blocks &= ~(_U(left == _U(0)) << block)
    orders[at] = v
    row = _U(v) * _U(FAN + 1)
    for k in range(_U(width)):
        blocks = _count(first + _U(fan[row + k]), words, shift, blocks, state, ready)
    more = fan[row + _U(FAN)]
    if more:
        end = f.succ_ptr[v + 1]
        for e in range(end - more, end):
            blocks = _count(first + _U(succs[e]), words, shift, blocks, state, ready)
    return blocks


@leaf
def _one(f, room, orders, p):  # type: ignore[no-untyped-def]
    """Writes the order of genome ``p``, ranked in the first lane."""
    n, lane, width, wide = _U(len(f.word)), _U(0), FAN, _U(room.shift)
    begin, blocks = _U(p) * n, _begin(f, room, lane)
    for k in range(n):
        blocks = _step(f, room, lane, width, wide, blocks, orders, begin + k)


@inlined
def _two(f, room, width, wide, orders, p):  # type: ignore[no-untyped-def]
    """Writes the orders of the genomes ``p`` and ``p + 1`` in turns."""
    n, lane, other = _U(len(f.word)), _U(0), _U(1)
    begin, blocks, others = _U(p) * n, _begin(f, room, lane), _begin(f, room, other)
    for k in range(n):
        blocks = _step(f, room, lane, width, wide, blocks, orders, begin + k)
        others = _step(f, room, other, width, wide, others, orders, begin + n + k)


@compiled
def list_schedules(f, keys, orders, room):  # type: ignore[no-untyped-def]
    """Writes the topological orders i4[p, n] of the priorities ``keys`` f8[p, n]; ``room`` of
    ``make_room``."""
    n, count = len(f.word), len(keys) if len(f.word) else 0
    rows = orders.reshape(-1)
    for p in range(0, count, LANES):
        lanes = min(LANES, count - p)
        for lane in range(lanes):
            if not _rank(keys, p + lane, room, _U(lane * n)):
                ranked = np.argsort(keys[p + lane], kind="mergesort")
                room.node[lane * n : (lane + 1) * n] = ranked
        if lanes == 1:
            _one(f, room, rows, p)
        elif room.shift:
            _two(f, room, FAN, _U(room.shift), rows, p)
        elif f.fan_width == 1:
            _two(f, room, 1, _U(0), rows, p)
        else:
            _two(f, room, FAN, _U(0), rows, p)
