"""Transposed convolutions as dense convolutions, by stride phases.

A kernel computes a plain transposed convolution phase by phase and stores every result where it
belongs (``ir.transposed``), so such nodes stay as they are. What it does not compute well or at all
is lowered here: groups, dilated kernels, many phases, and few channels, whose phases together fill
a vector that each alone leaves empty.

An output position ``j = q*s + p`` (phase ``p`` of stride ``s``) of the uncropped result receives
``x[q - e] * w[k]`` from exactly those taps ``k`` with ``k*d = e*s + p``. So every phase is an
ordinary convolution of stride 1, and the phases are interleaved afterwards by a reshape. All phases
are computed by one convolution with ``s`` times the channels where that puts no zeros into its
weights (the stride divides the kernel); otherwise each phase has a convolution of its own, since a
zero put in would turn an infinity of the image into NaN. Source:
Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?".
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.builder import Builder
from ..ir.dim_functions import ceil_div, dmax, dmin, known_ge
from ..ir.dims import Dim
from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.types import F32
from .evaluate import CAP
from .facts import Refusal, array_of, is_const
from .rebuild import New, with_replaced

PHASES = 16
"""Phases that one kernel computes, at most: each is a part of its source."""
HALF = 8
"""Columns of half a vector, which a micro-kernel computes no fewer of."""


@dataclass(frozen=True)
class Axis:
    """One spatial axis: which taps each phase has, and how far the image is read."""

    stride: int
    shifts: tuple[dict[int, int], ...]
    """Per phase: tap -> shift ``e``."""
    step: int
    """All shifts are multiples of it."""
    reach: int
    """The largest shift."""
    lo: int
    """Positions cut off at the front."""
    size: Dim
    """Size of the image."""
    out: Dim
    """Size of the result."""

    @property
    def taps(self) -> int:
        """Taps of a convolution that computes all phases."""
        return self.reach // self.step + 1

    @property
    def rounds(self) -> Dim:
        """Positions per phase."""
        return ceil_div(self.lo + self.out, self.stride)


def lower_conv_transpose(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with the transposed convolutions lowered that are better computed so."""
    chosen = {n for n in graph.nodes if n.op == "conv_transpose" and not _by_phases(n)}
    if not chosen:
        return graph

    def lowered(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        if node not in chosen:
            return None
        x, w = map(new, node.operands)
        try:
            y = _lower(b, node, x, w)
        except Refusal:
            return None
        if fired is not None:
            fired["conv_transpose"] += 1
        return (y,)

    return with_replaced(graph, lowered)


def _by_phases(node: Node) -> bool:
    """Whether the kernel of all phases computes the node, and computes fewer vectors than one
    convolution of all phases, where there is one."""
    a, (x, w) = node.attrs, node.operands
    kernel, m, r = w.shape[2:], w.shape[1], node.out.rank - 2
    if x.dtype != F32 or a["groups"] != 1 or any(d != 1 for d in a["dilations"]):
        return False
    count = math.prod(a["strides"])
    if not 1 < count <= PHASES or not isinstance(m, int) or not all(
        isinstance(k, int) and k >= s for k, s in zip(kernel, a["strides"], strict=True)
    ):
        return False
    shape = node.out.shape
    out = shape[1:-1] if a["layout"] == "last" else shape[2:]
    sizes = x.shape[1:-1] if a["layout"] == "last" else x.shape[2:]
    axes = [_axis(a, k, kernel[k], sizes[k], out[k]) for k in range(r)]  # type: ignore[arg-type]
    apart, together = -(-m // HALF) * HALF, -(-m * count // HALF) * HALF
    if math.prod(axis.stride * axis.taps for axis in axes) != math.prod(kernel):
        return True
    pixels, rounds = math.prod(out), math.prod(axis.rounds for axis in axes)
    if not isinstance(pixels, int) or not isinstance(rounds, int):
        return count * apart <= together
    return pixels * apart <= rounds * together


def _lower(b: Builder, node: Node, x: Value, w: Value) -> Value:
    a = node.attrs
    r = node.out.rank - 2
    last = a["layout"] == "last"
    if not all(isinstance(d, int) for d in w.shape[2:]):
        raise Refusal("the kernel has a symbolic size")
    to_first = (0, r + 1, *range(1, r + 1))
    if last:
        x = b.op("transpose", x, perm=to_first)
    result = node.out.shape
    out = result[1:-1] if last else result[2:]
    axes = [_axis(a, k, int(w.shape[2 + k]), x.shape[2 + k], out[k]) for k in range(r)]  # type: ignore[arg-type]
    x, after = _reachable(b, x, axes)
    y = _phases(b, x, w, a["groups"], axes, after)
    y = _interleave(b, y, axes, w.shape[1], a["groups"])
    if last:
        y = b.op("transpose", y, perm=(0, *range(2, r + 2), 1))
    if y.type != node.types[0]:
        raise Refusal(f"the type would change from {node.types[0]} to {y.type}")
    return y


def _axis(a: Attrs, k: int, taps: int, size: Dim, out: Dim) -> Axis:
    stride, dilation = a["strides"][k], a["dilations"][k]
    shifts: list[dict[int, int]] = [{} for _ in range(stride)]
    for tap in range(taps):
        e, phase = divmod(tap * dilation, stride)
        shifts[phase][tap] = e
    every = [e for phase in shifts for e in phase.values()]
    step = math.gcd(*every) or 1
    return Axis(stride, tuple(shifts), step, max(every), a["pads_lo"][k], size, out)


def _reachable(b: Builder, x: Value, axes: Sequence[Axis]) -> tuple[Value, tuple[Dim, ...]]:
    """The part of the image that the kept output reads, and the padding behind it per axis."""
    sizes: list[Dim] = list(x.shape)
    after: list[Dim] = []
    for k, axis in enumerate(axes):
        behind = axis.rounds - axis.size
        if known_ge(behind, 0):
            after.append(behind)
        elif known_ge(-behind, 0):
            sizes[2 + k] = axis.rounds
            after.append(0)
        else:
            raise Refusal(f"it is not known whether {axis.rounds} exceeds {axis.size}")
    if not all(isinstance(d, int) for d in after):
        raise Refusal("the padding depends on the size of the image")
    if sizes != list(x.shape):
        zeros, ones = (0,) * x.rank, (1,) * x.rank
        x = b.op("slice", x, starts=zeros, sizes=sizes, steps=ones)
    return x, tuple(after)


def _phases(
    b: Builder, x: Value, w: Value, groups: int, axes: Sequence[Axis], after: Sequence[Dim]
) -> Value:
    """[N, groups * phases * M/g, rounds...]: every phase's convolution, phases in row-major order
    within a group."""
    taps = math.prod(w.shape[2:])
    whole = math.prod(axis.stride * axis.taps for axis in axes)
    if whole == taps:
        return _convolve(b, x, _joint_weights(b, w, groups, axes), groups, axes, after, None)
    parts = []
    for phase in itertools.product(*(range(axis.stride) for axis in axes)):
        parts.append(_phase(b, x, w, groups, axes, after, phase))
    stacked = [_grouped(b, p, groups) for p in parts]
    y = stacked[0] if len(stacked) == 1 else b.op("concat", *stacked, axis=2)
    n, spatial = y.shape[0], y.shape[4:]
    channels = groups * len(parts) * w.shape[1]
    result: Value = b.op("reshape", y, shape=(n, channels, *spatial))
    return result


def _grouped(b: Builder, y: Value, groups: int) -> Value:
    """[N, g, 1, M/g, ...] from [N, M, ...]."""
    n, m, *spatial = y.shape
    shape = (n, groups, 1, m // groups, *spatial)
    result: Value = b.op("reshape", y, shape=shape)
    return result


def _joint_weights(b: Builder, w: Value, groups: int, axes: Sequence[Axis]) -> Value:
    """Weights [groups * phases * M/g, C/g, taps...] of the convolution of all phases."""
    strides = tuple(axis.stride for axis in axes)
    taps = tuple(axis.taps for axis in axes)
    kernel: tuple[int, ...] = w.shape[2:]  # type: ignore[assignment]
    which = np.empty((*strides, *taps), dtype=np.int64)
    for flat, tap in enumerate(itertools.product(*(range(k) for k in kernel))):
        phase: list[int] = []
        at: list[int] = []
        for axis, t in zip(axes, tap, strict=True):
            p = next(i for i, found in enumerate(axis.shifts) if t in found)
            phase.append(p)
            at.append((axis.reach - axis.shifts[p][t]) // axis.step)
        which[(*phase, *at)] = flat
    return _arranged(b, w, groups, which, strides, taps)


def _arranged(
    b: Builder, w: Value, groups: int, which: np.ndarray, strides: tuple[int, ...],
    taps: tuple[int, ...],
) -> Value:  # fmt: skip
    """Weights [groups * strides... * M/g, C/g, taps...] from [C, M/g, K...]: position
    ``[strides..., taps...]`` takes the tap of flat number ``which``."""
    if is_const(w):
        array = array_of(b.constants, w)
        if array.nbytes > CAP:
            raise Refusal("the weights of all phases are too large")
        return b.const(_arranged_array(array, groups, which, strides, taps))
    c, mg = w.shape[:2]
    inner = c // groups
    rows = b.op("reshape", w, shape=(groups, inner, mg, math.prod(w.shape[2:])))
    rows = b.op("gather", rows, b.const(which.reshape(-1)), axis=3)
    rows = b.op("reshape", rows, shape=(groups, inner, mg, *strides, *taps))
    rows = b.op("transpose", rows, perm=_outputs_first(strides, taps))
    result: Value = b.op("reshape", rows, shape=(groups * math.prod(strides) * mg, inner, *taps))
    return result


def _outputs_first(strides: tuple[int, ...], taps: tuple[int, ...]) -> tuple[int, ...]:
    """[g, C/g, M/g, strides..., taps...] to [g, strides..., M/g, C/g, taps...]."""
    first, after = 3 + len(strides), 3 + len(strides) + len(taps)
    return (0, *range(3, first), 2, 1, *range(first, after))


def _arranged_array(
    w: np.ndarray, groups: int, which: np.ndarray, strides: tuple[int, ...],
    taps: tuple[int, ...],
) -> np.ndarray:  # fmt: skip
    c, mg = w.shape[:2]
    inner = c // groups
    rows = w.reshape(groups, inner, mg, math.prod(w.shape[2:]))
    rows = np.take(rows, which.reshape(-1), axis=3).reshape(groups, inner, mg, *strides, *taps)
    rows = rows.transpose(_outputs_first(strides, taps))
    return rows.reshape(groups * math.prod(strides) * mg, inner, *taps)


def _phase(
    b: Builder, x: Value, w: Value, groups: int, axes: Sequence[Axis],
    after: Sequence[Dim], phase: tuple[int, ...],
) -> Value:  # fmt: skip
    """One phase [N, M, rounds...] by the taps it has; zeros if it has none."""
    mg = w.shape[1]
    found = [axis.shifts[p] for axis, p in zip(axes, phase, strict=True)]
    if not all(found):
        shape = (x.shape[0], mg * groups, *(axis.rounds for axis in axes))
        zeros: Value = b.op("expand", b.const(np.zeros((1,) * w.rank, w.dtype.np)), shape=shape)
        return zeros
    kernel: tuple[int, ...] = w.shape[2:]  # type: ignore[assignment]
    order = [sorted(taps, key=lambda t, e=taps: -e[t]) for taps in found]  # type: ignore[misc]
    which = np.arange(math.prod(kernel)).reshape(kernel)[np.ix_(*order)]
    weights = _arranged(b, w, groups, which, (), which.shape)
    return _convolve(b, x, weights, groups, axes, after, [sorted(t.values()) for t in found])


def _convolve(
    b: Builder, x: Value, weights: Value, groups: int, axes: Sequence[Axis],
    after: Sequence[Dim], shifts: list[list[int]] | None,
) -> Value:  # fmt: skip
    """A convolution of stride 1 that reads ``x[q - e]``; tap 0 has the largest shift."""
    lo: list[int] = []
    hi: list[Dim] = []
    dilations: list[int] = []
    for k, axis in enumerate(axes):
        own = [0, axis.reach] if shifts is None else shifts[k]
        steps = {y - z for y, z in itertools.pairwise(own[::-1])}
        step = axis.step if shifts is None else (steps.pop() if steps else 1)
        if shifts is not None and steps:
            raise Refusal("the taps of a phase are not evenly spaced")
        lo.append(own[-1])
        hi.append(after[k] - own[0])
        dilations.append(step)
    if any(isinstance(h, int) and h < 0 for h in hi):
        sizes = [d + dmin(h, 0) for d, h in zip(x.shape[2:], hi, strict=True)]
        x = b.op("slice", x, starts=(0,) * x.rank, sizes=(*x.shape[:2], *sizes),
                 steps=(1,) * x.rank)  # fmt: skip
        hi = [dmax(h, 0) for h in hi]
    result: Value = b.op(
        "conv", x, weights, strides=(1,) * len(axes), dilations=dilations, pads_lo=lo,
        pads_hi=hi, groups=groups, layout="first",
    )  # fmt: skip
    return result


def _interleave(b: Builder, y: Value, axes: Sequence[Axis], mg: Dim, groups: int) -> Value:
    """[N, M, out...] from [N, groups * phases * M/g, rounds...]."""
    n, r = y.shape[0], len(axes)
    strides = tuple(axis.stride for axis in axes)
    rounds = tuple(axis.rounds for axis in axes)
    if any(s > 1 for s in strides):
        y = b.op("reshape", y, shape=(n, groups, *strides, mg, *rounds))
        order = [k for i in range(r) for k in (3 + r + i, 2 + i)]
        y = b.op("transpose", y, perm=(0, 1, 2 + r, *order))
    whole = tuple(q * s for q, s in zip(rounds, strides, strict=True))
    y = b.op("reshape", y, shape=(n, groups * mg, *whole))
    outs = tuple(axis.out for axis in axes)
    starts = (0, 0, *(axis.lo for axis in axes))
    result: Value = b.op("slice", y, starts=starts, sizes=(n, groups * mg, *outs),
                         steps=(1,) * (r + 2))  # fmt: skip
    return result
