"""The tile space of attention: positions of its operands for one row of the result.

Like a contraction, attention is found from the group's outputs backwards: everything after it must
read each element once, and what lies between its operands and memory may only move them, since keys
and values are read again for every block of queries.
"""

from __future__ import annotations

from .axes import Axis, coefficient, name_of
from .dims import Dim, Expr, free_vars
from .elements import Ex, Refused, is_reduction, positions
from .ops import lookup
from .tiles import Space, TileSpace, is_var
from .types import F32


def coefficient_of(position: Dim, variable: Dim) -> Dim | None:
    """The factor of a loop variable in a position, 0 for the constant that an axis of extent 1
    has; None where the position is not linear in it."""
    return coefficient(position, name_of(variable)) if isinstance(variable, Expr) else 0


class AttentionSpace(TileSpace):
    """A group around one attention ``softmax(scale q k^T + mask) v`` and what moves around it."""

    def __init__(self, low: Space) -> None:
        nodes = [n for n in low.graph.nodes if is_reduction(n)]
        if len(nodes) != 1 or not lookup(nodes[0].op).has("attention"):
            raise Refused("attention shares no kernel with another reduction")
        super().__init__(low, nodes)
        self.anchor = nodes[0]
        if any(v.dtype != F32 for v in self.anchor.operands):
            raise Refused("attention of other types than float32 has no kernel")
        self.find_tiles()
        if self.early:
            raise Refused("an output does not depend on the attention")
        self.classify()

    def classify(self) -> None:
        """Names the axes and finds the operands' elements."""
        tile = {name_of(a.var) for a in self.tile}
        for axes, _ in self.late.values():
            if {name_of(a.var) for a in axes} != tile:
                raise Refused("an output is larger than the attention")
        index = self.index[self.anchor]
        self.row, self.column = index[-2:]
        """Variables of a query and of an element of its result; 0 where there is only one."""
        own = [i for i in (self.row, self.column) if isinstance(i, Expr)]
        if not all(map(is_var, own)):
            raise Refused("the rows of the attention are divided")
        names = {name_of(i) for i in own}
        self.batch = [a for a in self.tile if name_of(a.var) not in names]
        self.rows, self.columns = self.anchor.out.shape[-2:]
        self.low.puller.start()
        amap = self.low.puller.access(self.anchor, index)
        (self.key, self.keys), (self.inner, self.depth) = amap.reduced
        operands = self.anchor.operands
        elements = [self.low.puller.element(operands[r.operand], r.index)  # type: ignore[arg-type]
                    for r in amap.regions]
        if self.low.used_gathers(self.low.seen_positions(elements)):
            raise Refused("gathered operands of attention are a kernel of their own")
        self.q, self.k, self.v = elements[:3]
        self.mask: Ex | None = elements[3] if len(elements) > 3 else None
        self.key_step = self._step(self.k, self.inner, "keys")
        """Elements of memory between neighbors in one key."""
        self.value_step = self._step(self.v, self.key, "values")
        """Elements of memory between one element of neighboring values."""

    def applied(self, value: Ex) -> Ex | None:
        """The element of the only output where the attention's is ``value``, if it depends on
        nothing else: an activation. None where it reads another operand, or is not float32."""
        if len(self.late) != 1:
            return None
        [(number, (_, index))] = self.late.items()
        puller = self.low.puller
        puller.start()
        puller.provided[self.anchor.out] = lambda _: value
        found = puller.element(self.low.graph.outputs[number][1], index)
        own, used = (frozenset().union(*map(free_vars, positions(ex))) for ex in (value, found))
        return found if found.dtype == F32 and used <= own else None

    def _step(self, ex: Ex, along: Dim, what: str) -> Dim:
        step = coefficient_of(ex.data[1], along) if ex.kind == "load" else None
        if step is None:
            raise Refused(f"the {what} are not read where they lie")
        return step


def axis(variable: Dim, hi: Dim, lo: Dim = 0) -> tuple[Axis, ...]:
    """A loop over a variable, none where it is constant."""
    return (Axis(variable, hi, lo),) if isinstance(variable, Expr) else ()
