"""The tile space of a contraction that a micro-kernel computes, and the blocks it is cut into.

Every tile axis moves the left operand (rows), the right one (columns) or both (batch). The reduced
axes are split into a run along which the left operand is contiguous and taps, each of which has an
address of its own. What has another form is refused with the reason, and has its own loops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .access import linear_index
from .axes import Axis, coefficient, name_of
from .dim_functions import ceil_div
from .dim_values import evaluate
from .dims import Dim, Expr, free_symbols, free_vars, product
from .elements import Ex, Refused, is_reduction
from .errors import ModelError
from .graph import Node
from .ops import lookup
from .ops.contraction import split_layout
from .tiles import Space, TileSpace, reduction_body
from .transposed import phases_of
from .types import F32, I8, I32, U8

SPLITS = 16
"""Parallel tiles of a contraction aimed at, so that a few threads balance."""
MAX_TAPS = 512
"""Row addresses per row of output, at most."""


def row_blocks(rows: float, most: float, height: int, beside: float) -> int:
    """Blocks of at most ``most`` rows that the rows of a contraction are cut into: enough that,
    with ``beside`` tiles next to each block, there are half of ``SPLITS``, but no block is lower
    than two micro-tiles of ``height`` rows for that. ``beside`` 0: a block is one tile and may be
    one micro-tile."""
    if not beside:
        return max(1, math.ceil(rows / max(most, 1)), min(SPLITS, math.ceil(rows / height)))
    wanted = math.ceil(SPLITS / 2 / beside)
    return max(1, math.ceil(rows / max(most, 1)), min(wanted, int(rows) // (2 * height)))


def least_rows(rows: Dim) -> int:
    """Rows where every symbol is 1: those of one image, where a batch of images has no known size;
    0 where that says nothing."""
    try:
        return max(0, evaluate(rows, dict.fromkeys(free_symbols(rows), 1)))
    except ModelError:
        return 0


def rows_of_block(rows: Dim, most: int, height: int, beside: float) -> int | None:
    """Rows of one block, whole micro-tiles, as ``row_blocks`` cuts the rows, or those of one image
    where there may be more; None where too little is known of them."""
    least = least_rows(rows)
    if not isinstance(rows, int) and least < 2 * height:
        return None
    blocks = row_blocks(least, most, height, beside)
    return max(1, math.ceil(least / (blocks * height))) * height


def panels_together(panels: float, tiles: float, dear: bool) -> int:
    """Panels of one tile, evenly, where each of ``tiles`` blocks of rows has so many: as many as
    leave ``SPLITS`` tiles; where every tile computes its rows first (``dear``), up to half of that
    is enough."""
    most = panels * max(tiles, 1) / SPLITS
    most = max(1, math.ceil(most) if dear else math.floor(most))
    return max(1, math.ceil(panels / max(1, math.ceil(panels / most))))


def micro_typed(contraction: Node) -> bool:
    """Whether there is a micro-kernel for the types a contraction multiplies and sums."""
    kinds = [v.dtype for v in (*contraction.operands, contraction.out)]
    return kinds in ([F32, F32, F32], [U8, I8, I32])


class ContractionSpace(TileSpace):
    """A group around one contraction ``sum_k A[row, k] * B[k, column]`` that a micro-kernel can
    compute: every tile axis moves A only (rows), B only (columns) or both (batch).

    A phased contraction (a strided transposed convolution) is several: of all outputs that leave
    the same remainder ``phase``, per axis, when they are divided by the strides. The space is that
    of one of its ``phases``, by default of the first, which has the most products."""

    def __init__(self, low: Space, phase: tuple[int, ...] | None = None) -> None:
        nodes = [n for n in low.graph.nodes if is_reduction(n)]
        if len(nodes) != 1 or not lookup(nodes[0].op).has("contraction"):
            raise Refused("a micro-kernel computes one contraction and no other reduction")
        super().__init__(low, nodes)
        self.anchor = nodes[0]
        if not micro_typed(self.anchor):
            kinds = " ".join(str(v.dtype) for v in (*self.anchor.operands, self.anchor.out))
            raise Refused(f"micro-kernels multiply f32, or u8 by i8 into i32, not {kinds}")
        self.bytes = self.anchor.out.dtype == I32
        """Whether unsigned bytes meet signed ones and are summed in 32 bits."""
        self.pixels, self.zero = F32, 0.0
        """Of a depthwise convolution: the type its pixels are read in, and what is taken away from
        bytes."""
        self.phase = phase
        self.phases: tuple[tuple[int, ...], ...] = ((),)
        self.find_tiles()
        if self.early:
            raise Refused("an output does not depend on the contraction")
        self.classify()

    def refine(self) -> None:
        """Restricts the outputs to the phase first: then nothing divides their numbers."""
        if lookup(self.anchor.op).has("phased"):
            self.phases = phases_of(self.anchor)
            self.enter(self.phases[0] if self.phase is None else self.phase)
        super().refine()

    def enter(self, phase: tuple[int, ...]) -> None:
        """Restricts the outputs to one phase."""
        mapping: dict[str, Dim] = {}
        strides = self.anchor.attrs["strides"]
        _, spatial, _ = split_layout(self.index[self.anchor], self.anchor.attrs["layout"])
        for i, stride, first in zip(spatial, strides, phase, strict=True):
            if i == 0 or stride == 1:
                continue
            where = next((k for k, a in enumerate(self.tile) if a.var == i), None)
            if where is None:
                raise Refused("what follows splits the phases of a contraction")
            extent = ceil_div(self.tile[where].hi - first, stride)
            inner = self.low.names.var(extent)
            self.tile[where] = Axis(inner, extent)
            mapping[name_of(i)] = inner * stride + first
        self.tile = [a for a in self.tile if isinstance(a.var, Expr)]
        self.rename(mapping)

    def classify(self) -> None:
        """Sorts the tile axes by the operand they move."""
        tile = {name_of(a.var) for a in self.tile}
        for axes, _ in self.late.values():
            if {name_of(a.var) for a in axes} != tile:
                raise Refused("an output is larger than the contraction")
        self.low.puller.start()
        body = reduction_body(self.low, self.anchor, self.index[self.anchor])
        assert body.ex is not None
        self.body = body
        self.a, self.b = body.ex.args
        if self.bytes:  # the micro-kernel widens by itself
            self.a, self.b = self.a.args[0], self.b.args[0]
        if self.low.used_gathers(self.low.seen_positions([self.a, self.b])):
            # Rows and panels are renamed on the way in; what a gathered position reads is not.
            raise Refused("an operand of a micro-kernel lies at gathered positions")
        a_dims = self.low.seen_positions([self.a])
        a_dims += [d for c in body.conds for d in (c.expr, c.lo, c.hi)]
        in_a = frozenset().union(*(free_vars(d) for d in a_dims))
        in_b = frozenset().union(*(free_vars(d) for d in self.low.seen_positions([self.b])))
        self.batch: list[Axis] = []
        self.rows: list[Axis] = []
        self.columns: list[Axis] = []
        for axis in self.tile:
            name = name_of(axis.var)
            if name not in in_a and name not in in_b:
                raise Refused("a tile axis moves neither operand")
            kind = self.batch if name in in_a and name in in_b else (
                self.rows if name in in_a else self.columns)
            kind.append(axis)
        self.channel: Axis | None = None
        self.run: list[Axis] = []
        self.taps: list[Axis] = []
        if not self.columns:
            self.depthwise()
            return
        for c in body.conds:
            for d in (c.expr, c.lo, c.hi):
                if free_vars(d) & {name_of(x.var) for x in self.columns}:
                    raise Refused("padding depends on the column")
        if len(self.phases) > 1 and not self.side_by_side():
            raise Refused("the results of a phase would be written one at a time")
        self.split_run()

    def side_by_side(self) -> bool:
        """Whether columns of every output are neighbors in memory."""
        column = name_of(self.columns[-1].var)
        outputs = self.low.graph.outputs
        return all(coefficient(linear_index(outputs[k][1].shape, index), column) == 1
                   for k, (_, index) in self.late.items())

    def depthwise(self) -> None:
        """The form without columns: one channel axis moves both operands, contiguously."""
        if self.bytes:
            raise Refused("a depthwise window of bytes has its own loops")
        if len(self.batch) != 1 or not self.body.reduced:
            raise Refused("a contraction without columns and not depthwise has its own loops")
        found = _byte_pixels(self.a)
        if found is not None:
            self.a, self.zero = found
            self.pixels = self.a.dtype
        channel = self.batch[0]
        name = name_of(channel.var)
        step: Dim = channel.hi
        ok = self.a.kind == self.b.kind == "load"
        ok = ok and all(coefficient(x.data[1], name) == 1 for x in (self.a, self.b))
        for axis in reversed(self.body.reduced):
            ok = ok and coefficient(self.b.data[1], name_of(axis.var)) == step
            step = step * axis.hi
        guarded = {n for c in self.body.conds for d in (c.expr, c.lo, c.hi) for n in free_vars(d)}
        taps = product(a.hi for a in self.body.reduced)
        if not ok or name in guarded or not isinstance(taps, int) or taps > MAX_TAPS:
            raise Refused("a depthwise window whose channels are not contiguous")
        self.channel = channel
        self.direct, self.run, self.taps = True, [], list(self.body.reduced)

    def split_run(self) -> None:
        """Splits the reduced axes into the innermost ``run``, along which A is contiguous, and
        ``taps``; ``direct`` tells whether rows of A can be addressed where they lie."""
        self.direct = self.a.kind == "load"
        self.run, self.taps = [], list(self.body.reduced)
        if self.direct:
            position = self.a.data[1]
            guarded = frozenset().union(
                *(free_vars(d) for c in self.body.conds for d in (c.expr, c.lo, c.hi)))
            step: Dim = 1
            while self.taps:
                axis = self.taps[-1]
                name = name_of(axis.var)
                if coefficient(position, name) != step or name in guarded:
                    break
                self.run.insert(0, axis)
                step = step * axis.hi
                self.taps.pop()
            taps = product(a.hi for a in self.taps)
            if isinstance(taps, int) and taps <= MAX_TAPS and (self.run or self.body.conds) and (
                not self.bytes or _whole_groups(self.run)
            ):
                return
        if self.body.conds:
            raise Refused("a padded operand whose channels are not contiguous")
        self.direct, self.run, self.taps = False, list(self.body.reduced), []


def _byte_pixels(ex: Ex) -> tuple[Ex, float] | None:
    """The loaded byte and the zero point of a pixel ``cast(byte) - zero``."""
    zero = 0.0
    if ex.kind == "fn" and ex.data[0] == "sub" and ex.args[1].kind == "const":
        ex, zero = ex.args[0], float(ex.args[1].data)
    if ex.kind != "fn" or ex.data[0] != "cast" or ex.dtype != F32:
        return None
    byte, low = ex.args[0], -128 if ex.args[0].dtype == I8 else 0
    if byte.kind != "load" or byte.dtype not in (I8, U8) or zero not in range(low, low + 256):
        return None
    return byte, zero


def _whole_groups(run: Sequence[Axis]) -> bool:
    """Whether a row of bytes ends with a group of four, so that nothing behind it is read."""
    klen = product(a.hi for a in run)
    return bool(run) and isinstance(klen, int) and klen % 4 == 0
