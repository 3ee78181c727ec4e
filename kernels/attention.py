"""Attention as one kernel: ``softmax(scale q k^T + mask) v`` without its scores in memory.

A tile is one panel of queries of one head, and walks over the keys in blocks. Per block it computes
the scores *transposed*, a column per query: keys are then the rows of a matrix product, read where
they lie, and the queries its packed panel. The softmax runs down the columns, one query per vector
lane, without a sum across lanes; and the weights it leaves are just the packed panel with which the
transposed values are multiplied. So nothing but the queries (and a mask) is ever packed. A mask
that differs from query to query is packed like the scores, which begin with it. (Queries are scaled
first: scores overflow only if they do so scaled.)

The softmax is that of M. Milakov and N. Gimelshein ("Online normalizer calculation for softmax",
2018), blocked as by T. Dao et al. ("FlashAttention", 2022): per query a running maximum, the sum of
weights relative to it (both by ``micro.softmax``), and the weighted sum of values; when a block
raises the maximum, both sums are scaled down. A maximum of -inf (only masked keys so far) counts as
0 there, so that such keys weigh 0; a query all of whose keys are masked ends as 0 / 0, NaN as the
definition says. A block has at most ``KEYS`` keys, hence sums are blocked as everywhere
(``micro.gemm``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir.access import linear_index
from ..ir.attention import AttentionSpace, axis, coefficient_of
from ..ir.axes import Axis, name_of
from ..ir.dim_functions import ceil_div, dmin
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr, free_vars
from ..ir.elements import Ex, map_dims, positions, renamer
from ..ir.graph import Graph
from ..ir.target import Target
from ..ir.types import BOOL, F32, I64
from ..ir.variants import KEYS, best_height
from .contract import NO_LIMITS
from .lower import Lowering
from .micro import MicroKernel, igemm, igemm_rows, narrowed, pack, softmax, turn
from .micro.softmax import LOG2E
from .nest import Accumulate, Address, Call, Domain, Loop, Nest, Nested, SetRows, Step, Store


@dataclass(frozen=True, slots=True)
class Attention:
    """A lowered attention."""

    nest: Nest
    externs: tuple[str, ...]
    """Symbols of the micro-kernels it calls."""


def _constant(value: float) -> Ex:
    return Ex("const", F32, (), value)


def _fn(name: str, *args: Ex) -> Ex:
    return Ex("fn", BOOL if name in ("lt", "eq") else F32, args, (name, ()))


class _Writer:
    """Writes the nest."""

    def __init__(self, graph: Graph, target: Target) -> None:
        self.low = Lowering(graph)
        self.space = s = AttentionSpace(self.low)
        self.names = self.low.names
        full = igemm(target)
        self.nr, self.width = full.nr, full.nr // full.nv
        vectors = min(-(-s.rows // self.width), full.nv) if isinstance(s.rows, int) else full.nv
        nv = max(vectors, 1)
        self.lanes = nv * self.width
        heights = igemm_rows(target)
        unit = s.key_step == 1 or s.depth == 1
        keys = dmin(s.keys, KEYS) if isinstance(s.keys, int) else KEYS
        self.scores = igemm(target, mr=best_height(heights, keys), nv=nv, strided=not unit)
        self.values = igemm(target, mr=best_height(heights, s.columns), nv=nv, strided=True)
        self.pack, self.turn, self.weigh = pack(target), turn(target), softmax(target)
        self.externs: dict[str, None] = {}
        self.sizes()

    def sizes(self) -> None:
        """Blocks, variables of the tile, and its scratch."""
        s, n, mr = self.space, self.names, self.scores.mr
        self.block: Dim = KEYS // mr * mr
        if isinstance(s.keys, int) and s.keys:
            blocks = -(-s.keys // KEYS)
            self.block = -(-s.keys // (blocks * mr)) * mr
        self.blocks = ceil_div(s.keys, self.block)
        self.alone = self.blocks == 1
        """Whether one block has all keys: then there are no sums before it."""
        self.panels = ceil_div(s.rows, self.nr)
        self.panel = n.var(self.panels)
        self.first_row = self.panel * self.nr
        self.row_count = dmin(self.nr, s.rows - self.first_row)
        self.lane = n.var(self.lanes, "c")
        new = self.low.new_scratch
        self.out_rows = ceil_div(s.columns, self.values.mr) * self.values.mr
        self.queries = new(F32, s.depth * self.nr)
        self.weights = new(F32, self.block * self.nr)
        self.out = new(F32, self.out_rows * self.nr)
        self.top, self.total, self.gain = (new(F32, self.nr) for _ in range(3))
        """Per query: the maximum, the sum of weights, what the sums so far are scaled by."""
        self.mask = new(F32, self.block * self.nr) if self.masks_queries() else -1
        """The panel of a mask that differs from query to query."""
        self.early = self.mask >= 0 and _moderate(s.anchor.attrs["scale"])
        """Whether queries are scaled and scores begin with the mask."""
        self.key_rows = new(I64, self.block)
        self.value_rows = new(I64, self.out_rows)

    def masks_queries(self) -> bool:
        """Whether a mask depends on the query inside a panel."""
        s = self.space
        if s.mask is None or not isinstance(s.row, Expr):
            return False
        return any(name_of(s.row) in free_vars(at) for at in positions(s.mask))

    def lower(self) -> Attention:
        """The nest."""
        n = self.names
        t = n.var(self.blocks)
        self.first_key = t * self.block
        self.count = dmin(self.block, self.space.keys - self.first_key)
        self.i = n.var(self.block)
        steps: list[Step] = [*self.pack_queries(), *self.start(), self.rows_of_values()]
        body: list[Step] = [*self.block_scores(), *self.softmax(), *self.block_values()]
        steps.append(Nested(axis(t, self.blocks), tuple(body)))
        steps.extend(self.finish())
        rows = (*self.space.batch, *axis(self.panel, self.panels))
        self.low.domains.append(Domain(rows, tuple(steps)))
        nest = self.low.nest()
        made = Nest(nest.buffers, nest.domains, nest.gathers, shared=True,
                    literals=frozenset((self.nr, self.lanes)))
        return Attention(made, tuple(self.externs))

    # -- pieces ----------------------------------------------------------------------------

    def call(self, kernel: MicroKernel, *args: Address | Dim | Ex, loop: tuple[Axis, ...] = ()
             ) -> Call:
        self.externs[kernel.symbol] = None
        return Call(kernel.symbol, args, loop)

    def each(self, buffer: int) -> Ex:
        """The calling lane's element of a value per query."""
        return Ex("load", F32, (), (buffer, self.lane))

    def lanes_loop(self, *body: Store | Accumulate, over: tuple[Axis, ...] = ()) -> Loop:
        return Loop((*over, *axis(self.lane, self.lanes)), body)

    def cell(self, row: Dim) -> Dim:
        """Position of the calling lane in a row of a panel."""
        return row * self.nr + self.lane

    def moved(self, ex: Ex, **to: Dim) -> Ex:
        """An operand's element with variables of the space (``row``, ``key``, ...) replaced."""
        mapping = {name_of(v): new for name, new in to.items()
                   if isinstance(v := getattr(self.space, name), Expr)}
        return map_dims(ex, renamer(mapping))

    def packed(self, ex: Ex, buffer: int, along: str, count: Dim, first: Dim) -> list[Step]:
        """``buffer[k][query] = ex`` for ``count`` values of the variable ``along`` from ``first``
        on: by the packing kernel where the operand allows it."""
        s = self.space
        variable = getattr(s, along)
        if ex.kind == "load" and ex.dtype == F32:
            step, stride = (coefficient_of(ex.data[1], v) for v in (variable, s.row))
            if step is not None and stride is not None:
                at = self.moved(ex, row=self.first_row, **{along: first}).data
                return [self.call(self.pack, Address(*at), step, stride, count, self.row_count,
                                  Address(buffer, 0))]
        k, lane = self.names.var(getattr(s, {"inner": "depth", "key": "keys"}[along])), self.lane
        zero = Store(buffer, self.cell(k), _constant(0.0))
        value = self.moved(ex, row=self.first_row + lane, **{along: first + k})
        fill = Store(buffer, self.cell(k), value)
        over = axis(k, count)
        return [self.lanes_loop(zero, over=over),
                Loop((*over, *axis(lane, dmin(self.lanes, self.row_count))), (fill,))]

    # -- the steps of a tile ---------------------------------------------------------------

    def pack_queries(self) -> list[Step]:
        """The panel of queries, scaled where scores begin with a mask."""
        s, k = self.space, self.names.var(self.space.depth)
        steps = self.packed(s.q, self.queries, "inner", s.depth, 0)
        scale = s.anchor.attrs["scale"]
        if self.early and scale != 1.0:
            query = Ex("load", F32, (), (self.queries, self.cell(k)))
            scaled = Store(self.queries, self.cell(k), _fn("mul", query, _constant(scale)))
            steps.append(self.lanes_loop(scaled, over=axis(k, s.depth)))
        return steps

    def start(self) -> list[Step]:
        """No key seen: over no keys at all the result is 0, not 0 / 0."""
        if self.alone:
            return []
        e = self.names.var(self.out_rows)
        none = Ex("index", F32, (), 1 - dmin(self.space.keys, 1))
        return [self.lanes_loop(Store(self.top, self.lane, _constant(-math.inf)),
                                Store(self.total, self.lane, none)),
                self.lanes_loop(Store(self.out, self.cell(e), _constant(0.0)),
                                over=axis(e, self.out_rows))]

    def rows_of_values(self) -> Step:
        """Addresses of the columns of the values, once per tile."""
        s, n = self.space, self.names
        at, column = n.var(self.out_rows), n.var(s.columns, "e")
        address = Address(*self.moved(s.v, key=0, column=column).data)
        lets = ((column, dmin(at, s.columns - 1)),) if isinstance(column, Expr) else ()
        return Nested(axis(at, self.out_rows),
                      (SetRows((), self.value_rows, at, address, (), -1),), lets)

    def block_scores(self) -> list[Step]:
        """``weights[key][query] = k q`` for a block of keys."""
        s, n, mr = self.space, self.names, self.scores.mr
        tiles = ceil_div(self.count, mr)
        q, at = n.var(ceil_div(self.block, mr)), n.var(self.block)
        key = n.var(s.keys, "k")
        address = Address(*self.moved(s.k, key=key, inner=0).data)
        lets = ((key, dmin(self.first_key + at, s.keys - 1)),) if isinstance(key, Expr) else ()
        rows = Nested(axis(at, tiles * mr),
                      (SetRows((), self.key_rows, at, address, (), -1),), lets)
        mask: tuple[Address | Dim, Dim] = (0, 0)
        if self.early:
            mask = Address(self.mask, q * (mr * self.nr)), self.nr
        more: tuple[Dim, ...] = (s.key_step,) if "ldk" in self.scores.arguments else ()
        products = [self.call(
            kernel, Address(self.key_rows, q * mr), 1, 0, s.depth, Address(self.queries, 0),
            0, 0, Address(self.weights, q * (mr * self.nr)), self.nr, mr, self.nr, 0, 0, 0, *mask,
            *NO_LIMITS, *more, loop=loop) for kernel, loop in self.by_width(self.scores, q, tiles)]
        steps = [] if s.mask is None or self.mask < 0 else self.packed(
            s.mask, self.mask, "key", self.count, self.first_key)
        return [rows, *steps, *products]

    def by_width(self, kernel: MicroKernel, q: Dim, tiles: Dim
                 ) -> list[tuple[MicroKernel, tuple[Axis, ...]]]:
        """The micro-kernels of a loop over ``tiles``, each with the part of it that it takes: the
        last panel has a narrower one of its own where queries do not fill it."""
        rows, panels = self.space.rows, self.panels
        if not isinstance(rows, int) or not isinstance(panels, int) or not rows:
            return [(kernel, axis(q, tiles))]
        last = narrowed(kernel, rows - (panels - 1) * self.nr)
        if last == kernel or panels == 1 or not isinstance(q, Expr):
            return [(last if panels == 1 else kernel, axis(q, tiles))]
        others = tiles * dmin(1, panels - 1 - self.panel)
        return [(kernel, axis(q, others)), (last, axis(q, tiles, others))]

    def softmax(self) -> list[Step]:
        """Weights of a block, and the sums before it scaled to the new maximum."""
        count = ceil_div(self.row_count, self.width) * self.width
        more = 0 if self.alone else 1
        factor = _constant(self.late_scale() * LOG2E)
        weigh = self.call(self.weigh, Address(self.weights, 0), self.count, count, factor,
                          Address(self.top, 0), Address(self.total, 0), Address(self.gain, 0), more)
        return [*self.masked(), weigh, *([] if self.alone else [self.scaled_sums()])]

    def scaled_sums(self) -> Step:
        """The sums so far relative to the new maximum."""
        out = self.cell(e := self.names.var(self.out_rows))
        scaled = _fn("mul", Ex("load", F32, (), (self.out, out)), self.each(self.gain))
        return self.lanes_loop(Store(self.out, out, scaled), over=axis(e, self.out_rows))

    def late_scale(self) -> float:
        """What differences of scores are multiplied by: the scale where there is no mask, so that
        scores are stored once and the largest one is found as it is. (A difference that overflows
        weighs 0 either way.)"""
        scale: float = self.space.anchor.attrs["scale"]
        return scale if self.space.mask is None and _moderate(scale) else 1.0

    def masked(self) -> list[Step]:
        """Scores scaled and masked, where they did not begin so and weights are not scaled."""
        s, at = self.space, self.cell(self.i)
        score = kept = Ex("load", F32, (), (self.weights, at))
        scale = s.anchor.attrs["scale"]
        if self.early:
            return []
        if scale not in (1.0, self.late_scale()):
            score = _fn("mul", score, _constant(scale))
        if self.mask >= 0:
            score = _fn("add", score, Ex("load", F32, (), (self.mask, at)))
        elif s.mask is not None:
            score = _fn("add", score, self.moved(s.mask, key=self.first_key + self.i))
        if score is kept:
            return []
        return [self.lanes_loop(Store(self.weights, at, score), over=axis(self.i, self.count))]

    def block_values(self) -> list[Step]:
        """``out[column][query] += v weights`` over a block of keys."""
        s, n, mr = self.space, self.names, self.values.mr
        tiles = ceil_div(s.columns, mr)
        q = n.var(tiles)
        out = Address(self.out, q * (mr * self.nr))
        part: tuple[Address | Dim, int] = (0, 0) if self.alone else (out, 1)
        return [self.call(
            kernel, Address(self.value_rows, q * mr), 1, self.first_key, self.count,
            Address(self.weights, 0), 0, 0, out, self.nr, mr, self.nr, *part, 0, 0, 0,
            *NO_LIMITS, s.value_step, loop=loop)
            for kernel, loop in self.by_width(self.values, q, tiles)]

    def finish(self) -> list[Step]:
        """Divides by the sum of weights and stores the outputs. An activation is applied before,
        while queries lie side by side in vectors."""
        s, low = self.space, self.low
        e = self.names.var(self.out_rows)
        mean = self.mean(e)
        applied = s.applied(mean)
        inverse = _fn("div", _constant(1.0), self.each(self.total))
        steps: list[Step] = [
            self.lanes_loop(Store(self.gain, self.lane, inverse)),
            self.lanes_loop(Store(self.out, self.cell(e), mean if applied is None else applied),
                            over=axis(e, self.out_rows))]
        result = Ex("load", F32, (), (self.out, s.column * self.nr + s.row - self.first_row))
        low.puller.start()
        low.puller.provided[s.anchor.out] = lambda _: result
        for k, (_, index) in s.late.items():
            v = low.graph.outputs[k][1]
            value = low.puller.element(v, index) if applied is None else result
            store = Store(low.first_output + k, linear_index(v.shape, index), value)
            steps.append(self.turned(store) or Loop(
                (*axis(s.row, self.first_row + self.row_count, self.first_row),
                 *axis(s.column, s.columns)), (store,)))
        return steps

    def mean(self, e: Dim) -> Ex:
        """Element ``e`` of the calling lane's result: the weighted sum over the sum of weights,
        whose inverse is the gain."""
        value = Ex("load", F32, (), (self.out, self.cell(e)))
        mean = _fn("mul", value, self.each(self.gain))
        if not self.space.anchor.attrs.get("safe"):
            return mean
        total = self.each(self.total)  # weights that are NaN count as 0
        masked = _fn_select(_fn("eq", total, _constant(0.0)), value, _constant(0.0))
        return _fn_select(_fn("lt", _constant(0.0), total), mean, masked)

    def turned(self, store: Store) -> Call | None:
        """The store of a result that is only moved, rows somewhere and columns side by side."""
        s = self.space
        step, unit = (coefficient_of(store.position, v) for v in (s.row, s.column))
        if store.value.kind != "load" or store.value.data[0] != self.out:
            return None
        if step is None or unit != 1:
            return None
        origin = {name_of(v): at for v, at in ((s.row, self.first_row), (s.column, 0))
                  if isinstance(v, Expr)}
        to = Address(store.buffer, substitute(store.position, origin))
        return self.call(self.turn, Address(self.out, 0), self.nr, s.columns, self.row_count,
                         to, step)


def _moderate(scale: float) -> bool:
    """Whether a scale may be applied earlier or later: it moves no number out of range."""
    return 2.0**-20 <= scale <= 1.0


def _fn_select(condition: Ex, yes: Ex, no: Ex) -> Ex:
    return Ex("fn", F32, (condition, yes, no), ("select", ()))


def lower_attention(graph: Graph, target: Target) -> Attention:
    """Lowers a group around one attention; raises ``Refused`` where it is not of that form."""
    return _Writer(graph, target).lower()
