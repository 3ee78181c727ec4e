"""Expressions of single elements, pulled apart by access maps.

``Puller.element(v, index)`` follows the access maps of the op table from a position of ``v`` to
the inputs it depends on. Elementwise ops become scalar functions; movement becomes index
arithmetic and, where operands meet (concat, pad), guards whose conditions are decided symbolically
when they can be. Reductions are not entered: they appear as holes that the caller fills. Fusion
legality, cost and kernel lowering all read what comes out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .access import AccessMap, Cond, Gathered, Region, linear_index
from .dim_functions import within
from .dim_values import transform
from .dims import Dim, free_vars, var
from .errors import CompileError
from .graph import Constants, Graph, Node, Value
from .ops import lookup
from .types import I64, DType


class Ex:
    """A scalar expression. ``kind`` and its ``data``:

    - ``load``: (buffer, position) of one element;
    - ``const``: a Python number; ``index``: a ``Dim`` converted to ``dtype``;
    - ``fn``: name of a scalar op of the op table (attributes appended), operands in ``args``;
    - ``guard``: conditions; ``args`` are the value where all hold, evaluated only then, and else;
    - ``local``: the name of a scalar that an earlier step accumulated.
    """

    __slots__ = ("_hash", "args", "data", "dtype", "kind")

    def __init__(self, kind: str, dtype: DType, args: tuple[Ex, ...] = (), data: Any = None):
        self.kind, self.dtype, self.args, self.data = kind, dtype, args, data
        self._hash = hash((kind, dtype.name, args, repr(data) if kind == "const" else data))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Ex)
            and self._hash == other._hash
            and self.kind == other.kind
            and self.dtype is other.dtype
            and (repr(self.data) == repr(other.data) if self.kind == "const"
                 else self.data == other.data)
            and self.args == other.args
        )

    def __str__(self) -> str:
        if self.kind == "load":
            return f"b{self.data[0]}[{self.data[1]}]"
        if self.kind in ("const", "index"):
            return f"{self.dtype}({self.data})"
        if self.kind == "local":
            return str(self.data)
        args = ", ".join(map(str, self.args))
        if self.kind == "guard":
            conds = " & ".join(f"{c.lo} <= {c.expr} < {c.hi}" for c in self.data)
            return f"guard({conds}; {args})"
        return f"{self.data[0]}({args})"


@dataclass(frozen=True, slots=True)
class Gather:
    """A loop-variable-like position read from memory: wrapped if negative, then clamped into
    ``[0, extent)`` so that a wrong index never reaches foreign memory."""

    value: Ex
    extent: Dim


def map_dims(ex: Ex, fn: Callable[[Dim], Dim], memo: dict[Ex, Ex] | None = None) -> Ex:
    """``ex`` with every position, index and condition rewritten by ``fn``."""
    memo = {} if memo is None else memo
    found = memo.get(ex)
    if found is not None:
        return found
    args = tuple(map_dims(a, fn, memo) for a in ex.args)
    data = ex.data
    if ex.kind == "load":
        data = (data[0], fn(data[1]))
    elif ex.kind == "index":
        data = fn(data)
    elif ex.kind == "guard":
        data = tuple(Cond(fn(c.expr), fn(c.lo), fn(c.hi)) for c in data)
    memo[ex] = result = Ex(ex.kind, ex.dtype, args, data)
    return result


def positions(ex: Ex, seen: set[Ex] | None = None) -> Iterable[Dim]:
    """Every ``Dim`` an expression mentions."""
    seen = set() if seen is None else seen
    if ex in seen:
        return
    seen.add(ex)
    if ex.kind == "load":
        yield ex.data[1]
    elif ex.kind == "index":
        yield ex.data
    elif ex.kind == "guard":
        for c in ex.data:
            yield from (c.expr, c.lo, c.hi)
    for a in ex.args:
        yield from positions(a, seen)


def parts(values: Sequence[Ex]) -> list[Ex]:
    """All expressions inside the given ones, each once."""
    found = dict.fromkeys(values)
    stack = list(found)
    while stack:
        new = [a for a in stack.pop().args if a not in found]
        found.update(dict.fromkeys(new))
        stack += new
    return list(found)


def replaced(ex: Ex, memo: dict[Ex, Ex]) -> Ex:
    """An expression with those in ``memo`` replaced."""
    if ex not in memo:
        memo[ex] = Ex(ex.kind, ex.dtype, tuple(replaced(a, memo) for a in ex.args), ex.data)
    return memo[ex]


def renamer(mapping: dict[str, Dim]) -> Callable[[Dim], Dim]:
    """A function that substitutes loop variables by name."""
    return lambda d: d if free_vars(d).isdisjoint(mapping) else transform(
        d, lambda a: mapping.get(a.name) if a.kind == "var" else None)


Index = tuple[Dim, ...]
Provider = Callable[[Index], Ex | None]
"""Answers the element of a value that was materialized, or None to compute it again."""


class Refused(CompileError):
    """The group cannot be lowered this way; the message is the reason."""


def is_reduction(node: Node) -> bool:
    """Whether one element of the result combines many elements of an operand."""
    traits = lookup(node.op).traits
    combines = traits & {"reduction", "contraction", "attention"}
    return bool(combines) and lookup(node.op).access is not None


class Names:
    """Fresh loop variables of one kernel."""

    def __init__(self) -> None:
        self.count = 0

    def var(self, extent: Dim, prefix: str = "v") -> Dim:
        self.count += 1
        return var(f"{prefix}{self.count}", extent)


class Puller:
    """Expressions of elements of one group's values."""

    def __init__(self, graph: Graph, names: Names) -> None:
        self.graph, self.names = graph, names
        self.constants: Constants = graph.constants
        self.buffers = {v: k for k, v in enumerate(graph.inputs)}
        self.provided: dict[Value, Provider] = {}
        self.gathers: dict[str, Gather] = {}
        self.start()

    def start(self) -> None:
        """Begins a phase: forgets what was pulled, keeps what was provided."""
        self.memo: dict[tuple[Value, Index], Ex] = {}
        self.holes: dict[tuple[Value, Index], Ex] = {}
        self.visits: dict[Value, list[Index]] = {}
        self.partitions: list[tuple[Region, ...]] = []
        self._gather_vars: dict[Ex, Dim] = {}

    def element(self, v: Value, index: Index) -> Ex:
        """``v[index]``."""
        key = (v, index)
        found = self.memo.get(key)
        if found is None:
            if len(index) != v.rank:
                raise CompileError(f"position {index} for {v}")
            found = self.memo[key] = self._element(v, index)
            self.visits.setdefault(v, []).append(index)
        return found

    def _element(self, v: Value, index: Index) -> Ex:
        provider = self.provided.get(v)
        if provider is not None:
            given = provider(index)
            if given is not None:
                return given
        node = v.node
        if node.op == "input":
            return Ex("load", v.dtype, (), (self.buffers[v], linear_index(v.shape, index)))
        if node.op == "const":
            value = self.constants.get(node.attrs["digest"])
            if value.size != 1:
                raise Refused("a constant tensor inside a group must be an input")
            item = value.reshape(()).item()
            return Ex("const", v.dtype, (), item)
        if is_reduction(node):
            return self.holes.setdefault((v, index), Ex("local", v.dtype, (), (v, index)))
        definition = lookup(node.op)
        if definition.access is None:
            raise Refused(f"{node.op} is a kernel of its own")
        if node.op == "iota":
            return Ex("index", v.dtype, (), index[node.attrs["axis"]])
        return self.apply(node, self.access(node, index))

    def access(self, node: Node, index: Index) -> AccessMap:
        """The op's access map at a position."""
        access = lookup(node.op).access
        assert access is not None
        return access(tuple(v.type for v in node.operands), node.attrs, index,
                      lambda extent: self.names.var(extent))

    def apply(self, node: Node, amap: AccessMap) -> Ex:
        """The value of an elementwise, gather or movement op from its reads."""
        definition = lookup(node.op)
        operands = node.operands
        if definition.has("elementwise"):
            args = tuple(self.element(operands[r.operand], _plain(r)) for r in amap.regions)
            extra = tuple(node.attrs.get(k) for k in definition.attrs if k != "to")
            return Ex("fn", node.types[0].dtype, args, (node.op, extra))  # type: ignore[union-attr]
        if definition.has("gather"):
            region = amap.regions[0]
            at = tuple(self.gathered(operands, p) if isinstance(p, Gathered) else p
                       for p in region.index)
            return self.element(operands[region.operand], at)
        return self.pieces(operands, amap.regions)

    def gathered(self, operands: tuple[Value, ...], where: Gathered) -> Dim:
        """A position that is read from memory, as a loop-variable-like name."""
        ex = self.element(operands[where.operand], where.index)
        if ex.kind == "const":
            position = int(ex.data)
            if isinstance(where.extent, int):
                position = position + where.extent if position < 0 else position
                return min(max(position, 0), max(where.extent - 1, 0))
        key = Ex("fn", I64, (ex,), ("gather", (where.extent,)))
        found = self._gather_vars.get(key)
        if found is None:
            found = self.names.var(where.extent, "g")
            self._gather_vars[key] = found
            for name in free_vars(found):
                self.gathers[name] = Gather(ex, where.extent)
        return found

    def pieces(self, operands: tuple[Value, ...], regions: tuple[Region, ...]) -> Ex:
        """The first operand whose conditions hold; decided ones cost nothing."""
        live: list[tuple[Region, tuple[Cond, ...]]] = []
        for region in regions:
            verdicts = [(c, within(c.expr, c.lo, c.hi)) for c in region.when]
            if any(verdict is False for _, verdict in verdicts):
                continue
            open_ = tuple(c for c, verdict in verdicts if verdict is None)
            live.append((region, open_))
            if not open_:
                break
        if len(regions) > 1 and any(conds for _, conds in live):
            self.partitions.append(regions)
        if not live:
            region = regions[-1]
            return self.element(operands[region.operand], _plain(region))
        region, _ = live[-1]
        result = self.element(operands[region.operand], _plain(region))
        for region, conds in reversed(live[:-1]):
            value = self.element(operands[region.operand], _plain(region))
            result = Ex("guard", value.dtype, (value, result), conds)
        return result


def _plain(region: Region) -> Index:
    index: list[Dim] = []
    for p in region.index:
        if isinstance(p, Gathered):
            raise CompileError("a gathered position where a plain one is needed")
        index.append(p)
    return tuple(index)
