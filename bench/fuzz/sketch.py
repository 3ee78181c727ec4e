"""An ONNX model under construction: typed values, shapes under every binding, and ways to draw.

A maker proposes nodes with :meth:`Sketch.op`; ONNX's own shape inference of that one node answers
the result types under every binding of the symbolic sizes, so no shape rule is written here and
what the importer infers is checked against an independent source. A node that inference or the
schema's type constraints reject raises :class:`Misfit`, and the whole attempt is rolled back.
Values whose size only a run decides have ``None`` there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

Shape = tuple[int | None, ...]

F32, F64, F16, BF16 = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16,
                       TensorProto.BFLOAT16)  # fmt: skip
I8, I16, I32, I64 = TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64
U8, U16, U32, U64 = TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64
BOOL = TensorProto.BOOL
FLOATS = (F32, F64, F16, BF16)
SIGNED = (I8, I16, I32, I64)
UNSIGNED = (U8, U16, U32, U64)
INTEGERS = SIGNED + UNSIGNED
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 19, 33)
"""Sizes of axes: ones, primes, and a few over a vector's width."""
MOST = 4000
"""Largest number of elements of a value."""
OPSETS = (18, 19, 20, 21, 22, 23, 24, 25, 26, 27)


class Misfit(Exception):
    """An attempt that made no valid node; the sketch is rolled back."""


def np_of(dtype: int) -> np.dtype:
    """The NumPy dtype of an ONNX element type."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(dtype))


def name_of(dtype: int) -> str:
    """The name of an element type in ONNX type strings: ``float16``, ``int8``."""
    return TensorProto.DataType.Name(dtype).lower()


@dataclass(frozen=True, slots=True, eq=False)
class Var:
    """A value of the model."""

    name: str
    dtype: int
    """ONNX element type."""
    shapes: tuple[Shape, ...]
    """Its shape under every binding."""
    bound: float = np.inf
    """No finite element is larger in magnitude, as far as the sketch knows."""
    data: np.ndarray | None = None
    """The value itself if it is a constant."""

    @property
    def shape(self) -> Shape:
        """The shape under the first binding."""
        return self.shapes[0]

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shapes[0])

    @property
    def known(self) -> bool:
        """Whether no size depends on the data."""
        return all(d is not None for s in self.shapes for d in s)

    @property
    def static(self) -> bool:
        """Whether every size is the same under every binding."""
        return self.known and len(set(self.shapes)) == 1

    def fixed(self, axis: int) -> bool:
        """Whether the size of an axis is known and the same under every binding."""
        return self.shape[axis] is not None and len({s[axis] for s in self.shapes}) == 1

    @property
    def floating(self) -> bool:
        """Whether it holds floats."""
        return self.dtype in FLOATS


@dataclass(slots=True)
class Feed:
    """How an input's values are drawn."""

    law: str
    """A name of :data:`LAWS`, or ``below:k`` (0..k-1), ``around:k`` (-k..k-1), ``span:a:b``."""


@dataclass(slots=True)
class Sketch:
    """The model under construction."""

    rng: np.random.Generator
    opset: int
    real: int
    """The float type that most values have."""
    whole: int
    """The integer type that most integers have."""
    special: bool
    """Whether float inputs hold NaN, infinities and denormals, integers their extremes."""
    sizes: tuple[int, ...]
    """Sizes that axes are drawn from."""
    symbols: tuple[tuple[int, ...], ...] = ()
    """Symbols ``S0, S1, ...``: their sizes per binding."""
    bindings: int = 1
    prefix: str = ""
    """What names of a subgraph begin with."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[tuple[Var, Feed, tuple[int | str, ...]]] = field(default_factory=list)
    held: dict[str, np.ndarray] = field(default_factory=dict)
    """Initializers."""
    pool: list[Var] = field(default_factory=list)
    """Values to draw operands from."""
    types: dict[str, Var] = field(default_factory=dict)
    counter: int = 0

    # -- draws ---------------------------------------------------------------------------------

    def number(self, low: int, high: int) -> int:
        """An integer in ``low..high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def flag(self, chance: float = 0.5) -> bool:
        """True with the given chance."""
        return bool(self.rng.random() < chance)

    def choice(self, items: Sequence[Any]) -> Any:
        """One of ``items``; ``Misfit`` if there is none."""
        if not len(items):
            raise Misfit("nothing to choose from")
        return items[self.number(0, len(items) - 1)]

    def shape_of_rank(self, rank: int, most: int = MOST) -> tuple[int | str, ...]:
        """A random shape, some sizes symbolic; few elements in all."""
        shape: list[int | str] = []
        total = 1
        for _ in range(rank):
            if self.symbols and self.flag(0.35):
                k = self.number(0, len(self.symbols) - 1)
                shape.append(f"S{k}")
                total *= max(*self.symbols[k], 1)
                continue
            fits = [d for d in self.sizes if total * max(d, 1) <= most] or [1]
            shape.append(self.choice(fits))
            total *= max(int(shape[-1]), 1)
        return tuple(shape) if total <= 4 * most else tuple(1 for _ in shape)

    # -- values --------------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        """A new name."""
        self.counter += 1
        return f"{self.prefix}{stem}{self.counter}"

    def add(self, v: Var, reuse: bool = True) -> Var:
        """Registers a value; ``reuse`` offers it to later makers."""
        self.types[v.name] = v
        if reuse and all(_count(s) <= MOST for s in v.shapes):
            self.pool.append(v)
        return v

    def fresh(self, dtype: int, shape: Sequence[int | str], law: str = "", reuse: bool = True
              ) -> Var:
        """A new input of the model, or now and then an initializer."""
        law = law or self._law(dtype)
        shapes = tuple(tuple(self._size(d, k) for d in shape) for k in range(self.bindings))
        if self.prefix or (len(set(shapes)) == 1 and self.inputs and self.flag(0.3)):
            return self.const(draw(law, dtype, shapes[0], self.rng), reuse=reuse)
        v = Var(self.name("x"), dtype, shapes, _law_bound(law))
        self.inputs.append((v, Feed(law), tuple(shape)))
        return self.add(v, reuse)

    def _size(self, d: int | str, binding: int) -> int:
        return self.symbols[int(d[1:])][binding] if isinstance(d, str) else d

    def _law(self, dtype: int) -> str:
        if dtype == BOOL:
            return "bool"
        if dtype in FLOATS:
            if self.special and self.flag(0.5):
                return "special"
            return str(self.choice(("normal", "normal", "normal", "unit", "whole", "wide")))
        return "extreme" if self.special and self.flag(0.4) else "small"

    def const(self, array: np.ndarray, reuse: bool = False) -> Var:
        """An initializer."""
        name = self.name("c")
        self.held[name] = array
        shape = tuple(int(d) for d in array.shape)
        size = np.abs(array.astype(np.float64))
        bound = float(size.max(initial=0.0)) if np.isfinite(size).all() else np.inf
        v = Var(name, helper.np_dtype_to_tensor_dtype(array.dtype), (shape,) * self.bindings, bound,
                array)
        return self.add(v, reuse)

    def scalar(self, value: float, like: Var, shape: tuple[int, ...] = ()) -> Var:
        """A constant of one number, of the type of ``like``."""
        with np.errstate(all="ignore"):
            return self.const(np.full(shape, value).astype(np_of(like.dtype)))

    def ints(self, values: Sequence[int], dtype: int = I64) -> Var:
        """A constant vector of integers: axes, sizes, positions."""
        return self.const(np.array(list(values), np_of(dtype)))

    def weight(self, dtype: int, shape: Sequence[int], scale: float = 1.0) -> Var:
        """A constant of normal numbers (small integers for integer types)."""
        if dtype in FLOATS:
            return self.const((self.rng.standard_normal(shape) * scale).astype(np_of(dtype)))
        return self.const(draw("small", dtype, tuple(shape), self.rng))

    def value(self, dtypes: Sequence[int], low: int = 0, high: int = 5,
              fits: Callable[[Var], bool] | None = None) -> Var:
        """A value of one of ``dtypes`` with ``low..high`` axes for which ``fits`` holds."""
        found = [v for v in self.pool if v.dtype in dtypes and low <= v.rank <= high
                 and (fits is None or fits(v))]
        if found and self.flag(0.93):  # the latest ones most: chains, not stars
            return found[max(self.number(0, len(found) - 1) for _ in range(2))]
        preferred = [d for d in (self.real, self.whole) if d in dtypes]
        dtype = preferred[0] if preferred and self.flag(0.8) else self.choice(list(dtypes))
        for _ in range(8):
            shape = self.shape_of_rank(self.number(low, max(low, min(high, 4))), 600)
            v = self.fresh(dtype, shape)
            if fits is None or fits(v):
                return v
        raise Misfit("no value fits")

    def floats(self, low: int = 0, high: int = 5, fits: Callable[[Var], bool] | None = None) -> Var:
        """A float value, mostly of the sketch's own float type."""
        own = (self.real,) if self.flag(0.9) else FLOATS
        return self.value(own, low, high, fits)

    def like(self, v: Var, dtype: int | None = None) -> Var:
        """A value that broadcasts with ``v``: another value, or a constant."""
        dtype = v.dtype if dtype is None else dtype
        found = [w for w in self.pool if w.dtype == dtype and _broadcasts(w, v)]
        if found and self.flag(0.6):
            return found[max(self.number(0, len(found) - 1) for _ in range(2))]
        shape = [1 if not v.fixed(k) or self.flag(0.3) else int(v.shape[k] or 0)
                 for k in range(v.rank)]
        shape = shape[self.number(0, len(shape)) if self.flag(0.4) else 0 :]
        if self.flag(0.15) and len(shape) == v.rank and v.rank < 5:
            shape = [self.number(1, 3), *shape]
        if self.flag(0.7):
            return self.const(draw(self._law(dtype), dtype, tuple(shape), self.rng), True)
        return self.fresh(dtype, shape)

    def tame(self, v: Var, low: float, high: float) -> Var:
        """``v`` clipped into a range, where it may be outside."""
        if v.bound <= min(-low, high):
            return v
        return self.op("Clip", [v, self.scalar(low, v), self.scalar(high, v)],
                       bound=max(abs(low), abs(high)))

    # -- nodes ---------------------------------------------------------------------------------

    def op(self, kind: str, operands: Sequence[Var | None], bound: float = np.inf,
           domain: str = "", reuse: bool = True, **attrs: Any) -> Var:
        """The one result of a new node."""
        return self.ops(kind, operands, 1, bound, domain, reuse, **attrs)[0]

    def ops(self, kind: str, operands: Sequence[Var | None], results: int = 1,
            bound: float = np.inf, domain: str = "", reuse: bool = True, **attrs: Any
            ) -> list[Var]:
        """The results of a new node; raises ``Misfit`` where ONNX does not allow it."""
        names = [self.name("v") for _ in range(results)]
        given = ["" if v is None else v.name for v in operands]
        while given and not given[-1]:
            given.pop()
        node = helper.make_node(kind, given, names, name=f"{kind}_{names[0]}", domain=domain,
                                **attrs)
        types = [infer(node, self.opset, operands, k) for k in range(self.bindings)]
        self.nodes.append(node)
        return [self.add(Var(n, types[0][i][0], tuple(t[i][1] for t in types), bound), reuse)
                for i, n in enumerate(names)]

    def mark(self) -> tuple[int, ...]:
        """A point to roll back to."""
        return len(self.nodes), len(self.inputs), len(self.held), len(self.pool), len(self.types)

    def rollback(self, mark: tuple[int, ...]) -> None:
        """Forgets what was added since ``mark``."""
        nodes, inputs, held, pool, types = mark
        del self.nodes[nodes:], self.inputs[inputs:], self.pool[pool:]
        for table, size in ((self.held, held), (self.types, types)):
            for key in list(table)[size:]:
                del table[key]


def _count(shape: Shape) -> int:
    return int(np.prod([d or 0 for d in shape], dtype=np.int64)) if shape else 1


def _broadcasts(a: Var, b: Var) -> bool:
    for s, t in zip(a.shapes, b.shapes):
        for x, y in zip(reversed(s), reversed(t)):
            if x is None or y is None or (x != y and x != 1 and y != 1):
                return False
    return _count(a.shape) * _count(b.shape) <= MOST * 40


# -- types -------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def schema_of(kind: str, opset: int, domain: str = "") -> Any:
    """The schema of an operator; ``Misfit`` where the opset has none."""
    try:
        return onnx.defs.get_schema(kind, opset, domain)
    except onnx.defs.SchemaError:
        raise Misfit(f"{kind} is not in opset {opset}") from None


@lru_cache(maxsize=8192)
def allowed(kind: str, opset: int, operand: int = 0) -> frozenset[int]:
    """Element types that an operand may have."""
    schema = schema_of(kind, opset)
    if not schema.inputs:
        raise Misfit(f"{kind} has no operands")
    formal = schema.inputs[min(operand, len(schema.inputs) - 1)]
    return frozenset(helper_dtype(t) for t in formal.types if t.startswith("tensor("))


def helper_dtype(text: str) -> int:
    """The element type that ``tensor(float16)`` names."""
    return int(TensorProto.DataType.Value(text[7:-1].upper()))


def _type(dtype: int, shape: Shape) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(dtype, list(shape))


def infer(node: onnx.NodeProto, opset: int, operands: Sequence[Var | None], binding: int
          ) -> list[tuple[int, Shape]]:
    """(element type, shape) of a node's results under one binding; raises ``Misfit``."""
    schema = schema_of(node.op_type, opset, node.domain)
    types, data = {}, {}
    for k, v in enumerate(operands):
        if v is None:
            continue
        if not node.domain and v.dtype not in allowed(node.op_type, opset, k):
            raise Misfit(f"{node.op_type} does not take {name_of(v.dtype)}")
        types[v.name] = _type(v.dtype, v.shapes[binding])
        if v.data is not None:
            data[v.name] = numpy_helper.from_array(v.data, v.name)
    try:
        found = shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid(node.domain, opset)])
    except Exception as error:  # whatever onnx raises here says that the node is not valid
        raise Misfit(f"{node.op_type}: {error}") from None
    result = []
    for name in node.output:
        if name not in found or not found[name].tensor_type.HasField("shape"):
            raise Misfit(f"{node.op_type}: no type for result {name}")
        t = found[name].tensor_type
        shape = tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in t.shape.dim)
        if any(d is not None and d < 0 for d in shape):
            raise Misfit(f"{node.op_type}: a window is larger than its image")
        result.append((int(t.elem_type), shape))
    return result


# -- values of feeds ---------------------------------------------------------------------------


def draw(law: str, dtype: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """An array by a law; floats and integers of any type."""
    kind = np_of(dtype)
    if dtype == BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    name, _, rest = law.partition(":")
    if name == "below":
        return rng.integers(0, max(int(rest), 1), shape).astype(kind)
    if name == "around":
        return rng.integers(-max(int(rest), 1), max(int(rest), 1), shape).astype(kind)
    if name == "span":
        low, high = (float(t) for t in rest.split(":"))
        return np.asarray(rng.uniform(low, high, shape)).astype(kind)
    if dtype in FLOATS:
        return _float(name, kind, shape, rng)
    info = ml_dtypes.iinfo(kind)
    low, high = max(int(info.min), -9), min(int(info.max), 9)
    values = rng.integers(low, high + 1, shape).astype(kind)
    if name == "extreme":
        ends = np.array([info.min, info.max, 0, 1, int(info.min) + 1]).astype(kind) if (
            info.min == 0) else np.array([info.min, info.max, 0, -1, 1], dtype=kind)
        values = np.where(rng.random(shape) < 0.3, rng.choice(ends, shape), values).astype(kind)
    return values


def _float(law: str, kind: np.dtype, shape: tuple[int, ...], rng: np.random.Generator
           ) -> np.ndarray:
    if law == "unit":
        values = rng.uniform(0, 1, shape)
    elif law == "whole":
        values = rng.integers(-4, 5, shape).astype(np.float64)
    elif law == "wide":
        values = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3, shape)
    elif law == "above":
        values = rng.uniform(0.5, 2, shape)
    else:
        values = rng.standard_normal(shape) * 2
    with np.errstate(all="ignore"):
        array = np.asarray(values).astype(kind)
        if law == "special":
            info = ml_dtypes.finfo(kind)
            ends = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, info.smallest_subnormal,
                             -info.tiny, info.max, info.min, info.eps, 1.0, -1.0]).astype(kind)
            array = np.where(rng.random(shape) < 0.15, rng.choice(ends, shape), array).astype(kind)
    return array


def _law_bound(law: str) -> float:
    return {"normal": 12.0, "unit": 1.0, "whole": 4.0, "wide": 12e3, "bool": 1.0, "small": 9.0,
            "above": 2.0}.get(law, np.inf)  # fmt: skip


def feed_values(name: str, law: str, dtype: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The values of one input: a function of its name, law, type and the seed alone."""
    digest = hashlib.sha256(f"{name}\0{law}\0{seed}".encode()).digest()
    return np.asarray(draw(law, dtype, shape, np.random.default_rng(list(digest))))
