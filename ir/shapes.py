"""Symbolic evaluation of shape arithmetic.

Exported models compute shapes with tensor ops (Shape, Gather, Concat, Mul, ...). Here such a value
is evaluated to an object array of ``Dim``, by running the same access-free NumPy operations on
arrays whose elements are symbolic. What depends on data, or needs a decision that holds only for
some sizes, answers None. Sizes that pass through floating point (``floor(float(n) * 0.5)``) stay
exact: their elements are sizes, or quotients of a size by a small power of two.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any

import numpy as np

from .dim_functions import dmax, dmin, known_ge
from .dims import Dim, Expr, sym
from .errors import EvonnxError

if TYPE_CHECKING:
    from .graph import Constants, Value
    from .types import DType

_LIMIT = 4096
"""Elements above which a tensor is data, not a shape."""


class Memo(dict["Value", "np.ndarray | None"]):
    """What is known of the values of one builder, and the sizes of its tensors, which are not
    negative whatever their formula says."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[Dim] = set()


class _Unknown(Exception):
    """The value does not follow from sizes alone."""


_MAX_DENOMINATOR = 1 << 10


class _Ratio:
    """``top / bottom`` where that is not whole: a real number on its way back to a size."""

    __slots__ = ("bottom", "top")

    def __init__(self, top: Dim, bottom: int) -> None:
        self.top, self.bottom = top, bottom

    @staticmethod
    def make(top: Dim, bottom: int) -> Dim | _Ratio:
        """The quotient in lowest terms; a ``Dim`` where it is whole."""
        if bottom < 0:
            top, bottom = -top, -bottom
        if bottom == 0 or bottom > _MAX_DENOMINATOR or bottom & (bottom - 1):
            raise _Unknown
        while bottom > 1 and top % 2 == 0:
            top, bottom = top // 2, bottom // 2
        return top if bottom == 1 else _Ratio(top, bottom)

    def __add__(self, other: Any) -> Any:
        top, bottom = _parts(other)
        return _Ratio.make(self.top * bottom + top * self.bottom, self.bottom * bottom)

    __radd__ = __add__

    def __neg__(self) -> _Ratio:
        return _Ratio(-self.top, self.bottom)

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        top, bottom = _parts(other)
        return _Ratio.make(self.top * top, self.bottom * bottom)

    __rmul__ = __mul__


def _parts(x: Any) -> tuple[Dim, int]:
    return (x.top, x.bottom) if isinstance(x, _Ratio) else (x, 1)


def symbolic_value(
    value: Value, constants: Constants, memo: dict[Value, np.ndarray | None]
) -> np.ndarray | None:
    """Elements of a tensor of numbers (or bools) as an object array of ``Dim``; None if any of
    them is unknown or not whole. ``memo`` is the caller's cache for one builder."""
    found = partial_value(value, constants, memo)
    if found is None or any(x is None or isinstance(x, _Ratio) for x in found.reshape(-1)):
        return None
    return found


def partial_value(
    value: Value, constants: Constants, memo: dict[Value, np.ndarray | None]
) -> np.ndarray | None:
    """Like ``symbolic_value``, with None for the elements that are unknown; None if all are.
    Iterative over producers."""
    stack = [value]
    while stack:
        v = stack[-1]
        if v in memo:
            stack.pop()
            continue
        if not _candidate(v):
            memo[v] = None
            continue
        waiting = [o for o in v.node.operands if o not in memo]
        if waiting and v.node.op in _EVAL:
            stack.extend(waiting)
            continue
        memo[v] = _evaluate(v, constants, memo)
    return memo[value]


def _candidate(v: Value) -> bool:
    from .types import TensorType

    t = v.type
    if not isinstance(t, TensorType) or t.dtype.kind not in "iubf" or t.dtype.bits < 8:
        return False
    n = t.numel()
    return t.is_static and isinstance(n, int) and n <= _LIMIT


def _evaluate(
    v: Value, constants: Constants, memo: dict[Value, np.ndarray | None]
) -> np.ndarray | None:
    node = v.node
    if node.op == "const":
        array = constants.get(node.attrs["digest"])
        return _reals(array) if v.dtype.kind == "f" else _objects(array)
    if node.op == "dims":
        return _array(list(node.attrs["values"]), tuple(node.attrs["shape"]))
    handler = _EVAL.get(node.op)
    if node.op == "eq":
        sizes = memo.sizes if isinstance(memo, Memo) else frozenset()
        handler = _elementwise(lambda a, b: _equal(a, b, sizes))
    if handler is None:
        return None
    args = [_argument(o, memo) for o in node.operands]
    if len(args) != len(node.inputs) or any(a is None for a in args):
        return None
    try:
        out = handler(args, node.attrs, v)
    except (_Unknown, EvonnxError, IndexError, ValueError, TypeError):
        return None
    items = [_held(x, v.dtype) for x in np.asarray(out, dtype=object).ravel()]
    if items and all(x is None for x in items):
        return None
    return _array(items, v.shape)  # type: ignore[arg-type]


def _held(x: Any, dtype: DType) -> Any:
    """``x`` where the element type holds it; None where it would wrap or be rounded. A symbolic
    size is taken to fit 32 bits."""
    whole = not isinstance(x, (Expr, _Ratio))
    if x is None or dtype.kind == "b":
        return x
    if dtype.kind == "f":
        digits = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}.get(dtype.name, 0)
        if isinstance(x, _Ratio):
            return x if digits >= 24 else None
        return x if (abs(x) <= 1 << digits if whole else digits >= 24) else None
    low = -(1 << (dtype.bits - 1)) if dtype.kind == "i" else 0
    if whole:
        return x if low <= x < low + (1 << dtype.bits) else None
    return x if dtype.bits >= 32 and (low or known_ge(x, 0)) else None


def _argument(o: Value, memo: dict[Value, np.ndarray | None]) -> np.ndarray | None:
    """Elements of an operand, all unknown where it is data; None where it is no small tensor."""
    found = memo.get(o)
    if found is not None or not _candidate(o):
        return found
    return np.full(o.shape, None, dtype=object)  # type: ignore[arg-type]


def _array(items: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    flat = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        flat[i] = item
    return flat.reshape(shape)


def _objects(array: np.ndarray) -> np.ndarray:
    return _array([int(x) for x in array.ravel()], array.shape)


def _reals(array: np.ndarray) -> np.ndarray:
    items: list[Any] = []
    for x in array.astype(np.float64).reshape(-1):
        top, bottom = float(x).as_integer_ratio() if np.isfinite(x) else (0, 0)
        fits = 0 < bottom <= _MAX_DENOMINATOR and abs(top) < 1 << 40
        items.append(_Ratio.make(top, bottom) if fits else None)
    return _array(items, array.shape)


def _elementwise(fn: Any, partial: bool = False) -> Any:
    """``fn`` on every element; an element is unknown if an operand of it is (unless ``partial``
    operators look themselves) or if ``fn`` cannot decide."""

    def one(items: tuple[Any, ...]) -> Any:
        if not partial and any(i is None for i in items):
            return None
        try:
            return fn(*items)
        except _Unknown:
            return None

    def run(args: list[Any], attrs: Any, v: Any) -> np.ndarray:
        parts = np.broadcast_arrays(*args)
        return _array(
            [one(items) for items in zip(*(p.ravel() for p in parts), strict=True)],
            parts[0].shape,
        )

    return run


def _trunc_div(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise _Unknown
        q = abs(a) // abs(b)
        return q if (a < 0) == (b < 0) else -q
    if not known_ge(b, 1 if isinstance(b, int) else 0):
        raise _Unknown
    if known_ge(a, 0):
        return a // b
    return dmax(a // b, 0) - dmax(-a // b, 0)  # one of the two is 0, whatever the sign of a


def _real_div(a: Any, b: Any) -> Any:
    (at, ab), (bt, bb) = _parts(a), _parts(b)
    if isinstance(bt, int):
        if bt == 0:
            raise _Unknown
        if (at % bt) == 0:
            return _Ratio.make(at // bt * bb, ab)
        return _Ratio.make(at * bb, ab * bt)
    if ab != 1 or bb != 1 or (at // bt) * bt != at:
        raise _Unknown
    return at // bt


def _div(args: list[Any], attrs: Any, v: Any) -> Any:
    fn = _real_div if v.dtype.kind == "f" else _trunc_div
    return _elementwise(fn)(args, attrs, v)


def _floor(a: Any) -> Dim:
    return a.top // a.bottom if isinstance(a, _Ratio) else a


def _ceil(a: Any) -> Dim:
    return (a.top + a.bottom - 1) // a.bottom if isinstance(a, _Ratio) else a


def _whole(a: Any) -> Dim:
    if isinstance(a, _Ratio):
        raise _Unknown
    return a


def _truncate(a: Any) -> Dim:
    if isinstance(a, _Ratio) and not known_ge(a.top, 0):
        raise _Unknown
    return _floor(a)


def _mod(a: Dim, b: Dim) -> Dim:
    if not known_ge(b, 1 if isinstance(b, int) else 0):
        raise _Unknown
    return a % b


def _equal(a: Dim, b: Dim, sizes: Set[Dim]) -> int:
    """Whether two numbers are equal; ``sizes`` are known to be no negative constants."""
    if a == b:
        return 1
    if isinstance(a, int) and isinstance(b, int):
        return 0
    diff = a - b
    if known_ge(diff, 1) or known_ge(-diff, 1):
        return 0
    if any(isinstance(x, int) and x < 0 and y in sizes for x, y in ((a, b), (b, a))):
        return 0  # the size of a tensor, such as (N - 3) // 2 + 1, is not -1
    raise _Unknown


def _less(a: Dim, b: Dim) -> int:
    if known_ge(b, a + 1):
        return 1
    if known_ge(a, b):
        return 0
    raise _Unknown


def _select(c: Dim | None, a: Dim, b: Dim) -> Dim:
    if c is None or isinstance(c, Expr):
        raise _Unknown
    return a if c else b


def _sign(a: Dim) -> int:
    if isinstance(a, Expr):
        raise _Unknown
    return (a > 0) - (a < 0)


def _abs(a: Dim) -> Dim:
    return dmax(a, -a)


def _logical(fn: Any) -> Any:
    def run(*items: Dim) -> int:
        if any(isinstance(i, Expr) for i in items):
            raise _Unknown
        return int(fn(*items))

    return _elementwise(run)


def _cast(args: list[Any], attrs: Any, v: Any) -> Any:
    kind = attrs["to"].kind
    if kind == "b":
        return _elementwise(lambda a: 1 - _equal(a, 0, frozenset()))(args, attrs, v)
    if kind in "iu":
        return _elementwise(_truncate)(args, attrs, v)
    if kind != "f":
        raise _Unknown
    return args[0]


def _slice(args: list[Any], attrs: Any, v: Any) -> Any:
    x = args[0]
    for axis, (start, size, step) in enumerate(
        zip(attrs["starts"], attrs["sizes"], attrs["steps"], strict=True)
    ):
        x = np.take(x, start + np.arange(size) * step, axis=axis)
    return x


def _gather(args: list[Any], attrs: Any, v: Any) -> Any:
    if any(i is None or isinstance(i, Expr) for i in args[1].ravel()):
        raise _Unknown
    return np.take(args[0], args[1].astype(np.int64), axis=attrs["axis"])


def _reduce(args: list[Any], attrs: Any, v: Any) -> Any:
    fold = {"sum": lambda a, b: a + b, "prod": lambda a, b: a * b, "max": dmax, "min": dmin}
    fn = fold.get(attrs["kind"])
    if fn is None:
        raise _Unknown
    unit = {"sum": 0, "prod": 1}.get(attrs["kind"])
    x = args[0]
    moved = np.moveaxis(x, attrs["axes"], range(len(attrs["axes"])))
    count = int(np.prod([x.shape[a] for a in attrs["axes"]], dtype=np.int64))
    rows = moved.reshape(count, -1)
    out = []
    for column in range(rows.shape[1]):
        items = list(rows[:, column])
        if not items and unit is None:
            raise _Unknown
        acc: Any = items[0] if items else unit
        for item in items[1:]:
            acc = None if acc is None or item is None else fn(acc, item)
        out.append(acc)
    return _array(out, v.shape)


def _cumulate(args: list[Any], attrs: Any, v: Any) -> Any:
    if attrs["kind"] != "sum" or attrs["exclusive"] or attrs["reverse"] or args[0].ndim != 1:
        raise _Unknown
    out: list[Any] = []
    for item in args[0]:
        if item is None:
            raise _Unknown
        out.append(item + out[-1] if out else item)
    return _array(out, args[0].shape)


def _bind(args: list[Any], attrs: Any, v: Any) -> Any:
    known = args[0].reshape(-1)[0]
    return _array([sym(attrs["name"]) if known is None else known], ())


_EVAL: dict[str, Any] = {
    "add": _elementwise(lambda a, b: a + b),
    "sub": _elementwise(lambda a, b: a - b),
    "mul": _elementwise(lambda a, b: a * b),
    "neg": _elementwise(lambda a: -a),
    "div": _div,
    "floor": _elementwise(_floor),
    "ceil": _elementwise(_ceil),
    "round": _elementwise(_whole),
    "mod": _elementwise(_mod),
    "max": _elementwise(dmax),
    "min": _elementwise(dmin),
    "abs": _elementwise(_abs),
    "sign": _elementwise(_sign),
    "relu": _elementwise(lambda a: dmax(a, 0)),
    "eq": None,  # needs to know what is a size: see ``_evaluate``
    "lt": _elementwise(_less),
    "le": _elementwise(lambda a, b: 1 - _less(b, a)),
    "select": _elementwise(_select, partial=True),
    "not": _logical(lambda a: not a),
    "and": _logical(lambda a, b: a and b),
    "or": _logical(lambda a, b: a or b),
    "cast": _cast,
    "reshape": lambda a, attrs, v: a[0].reshape(v.shape),
    "expand": lambda a, attrs, v: np.broadcast_to(a[0], v.shape),
    "transpose": lambda a, attrs, v: a[0].transpose(attrs["perm"]),
    "slice": _slice,
    "concat": lambda a, attrs, v: np.concatenate(a, axis=attrs["axis"]),
    "gather": _gather,
    "reduce": _reduce,
    "cumulate": _cumulate,
    "iota": lambda a, attrs, v: np.indices(v.shape)[attrs["axis"]].astype(object),
    "bind": _bind,
}

EVALUATED_OPS = frozenset(_EVAL)
"""Ops that shape arithmetic sees through."""
