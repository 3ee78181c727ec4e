"""Evaluation of constant subgraphs by the op table's NumPy meaning, within bounds.

A node is evaluated only while its result is at most ``FACTOR`` times as large as its operands
together (small results are always fine) and below ``CAP`` bytes, so that folding never trades a
cheap computation for a large array.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ..ir.builder import Builder
from ..ir.errors import EvonnxError
from ..ir.graph import Constants, Node, Value
from ..ir.interp import expansion, run
from ..ir.ops import lookup
from ..ir.types import DType, TensorType
from .facts import Refusal

FACTOR = 4
"""A folded result may be this many times as large as its operands."""
CAP = 64 << 20
"""Largest folded result in bytes."""
SMALL = 256 << 10
"""Results of at most this many bytes are folded whatever their operands..."""
TINY = 4096
"""... but for ops that only move or repeat elements, which cost less than reading a constant."""
RAMP = 64 << 10
"""Ramps of at most this many bytes count as constants where something is computed from them."""
LATER = 64 << 10
"""Results of more bytes are computed when they are read."""
_NEVER = frozenset({"random", "control", "host", "dynamic"})


def refusal_to_fold(node: Node, cap: int = CAP, grow: bool = False) -> str | None:
    """Why a node with constant operands is not to be evaluated, or None; with ``grow`` the result
    may be any times larger than its operands, up to the cap."""
    op = lookup(node.op)
    if op.traits & _NEVER or node.op in ("input", "const", "dims"):
        return f"{node.op} is not a function of its operands"
    if op.reference is None and op.expand is None:
        return f"{node.op} has no reference meaning"
    size = 0
    for t in node.types:
        nbytes = t.nbytes() if isinstance(t, TensorType) else None
        if not isinstance(nbytes, int):
            return f"the size of {t} is not known"
        size += nbytes
    source = 0
    for v in node.operands:
        nbytes = v.tensor.nbytes()
        source += nbytes if isinstance(nbytes, int) else 0
    if size > cap:
        return f"the result has {size} bytes, more than {cap}"
    free = TINY if op.has("movement") or not node.inputs else SMALL
    if not grow and size > free and size > FACTOR * source:
        return f"the result has {size} bytes, its operands {source}"
    return None


LOAD_CAP = 1 << 29
"""Most bytes of one result that ``fold:all`` computes."""


def is_known(value: Value | None) -> bool:
    """Whether a value can be an operand of an evaluation: a constant or a small ramp."""
    if value is None or value.node.op == "const":
        return True
    if value.node.op != "iota":
        return False
    nbytes = value.tensor.nbytes()
    return isinstance(nbytes, int) and nbytes <= RAMP


def _array(value: Value, constants: Constants) -> np.ndarray:
    node = value.node
    if node.op == "const":
        return constants.read(node.attrs["digest"])
    reference = lookup(node.op).reference
    assert reference is not None
    found: np.ndarray = reference((), node.attrs, node.types)[0]
    return found


def evaluate_node(node: Node, constants: Constants) -> tuple[np.ndarray, ...]:
    """Results of a node whose operands are all constants; raises ``Refusal``."""
    op = lookup(node.op)
    args = [None if v is None else _array(v, constants) for v in node.inputs]
    try:
        if op.reference is None:
            feeds = {f"a{i}": x for i, x in enumerate(args) if x is not None}
            results: tuple[np.ndarray, ...] = (run(expansion(node), feeds)["y"],)
        else:
            results = op.reference(args, node.attrs, node.types)
    except (EvonnxError, IndexError, ValueError, TypeError, OverflowError) as e:
        raise Refusal(f"{node.op} of constants fails: {e}") from None
    for t, x in zip(node.types, results, strict=True):
        if isinstance(t, TensorType) and (x.shape != t.shape or DType.of(x.dtype) != t.dtype):
            raise Refusal(f"{node.op} of constants gives {x.dtype}{list(x.shape)}, not {t}")
    return results


def constants_of(builder: Builder, node: Node) -> tuple[Value, ...]:
    """The results of a node whose operands are all constants, as constants; raises ``Refusal``.

    A large result of an op that only moves or maps elements is not computed now but when it is
    read: its digest names the computation instead of the content, and the packing of weights, which
    runs on several threads, does the work."""
    op, t = lookup(node.op), node.types[0]
    simple = len(node.types) == 1 and isinstance(t, TensorType) and op.reference is not None
    if simple and (op.has("movement") or op.has("elementwise")):
        assert isinstance(t, TensorType)
        nbytes = t.nbytes()
        if isinstance(nbytes, int) and nbytes > LATER:
            sources = [
                "-" if v is None else v.node.attrs.get("digest", f"{v.node.op}{v.node.attrs!r}")
                for v in node.inputs
            ]
            text = f"{node.op}{node.attrs!r}({', '.join(sources)}): {t}"
            digest = hashlib.sha256(text.encode()).hexdigest()[:40]
            table = builder.constants
            table.add_lazy(digest, lambda: evaluate_node(node, table)[0])
            return (builder.const_ref(digest, t),)
    return tuple(builder.const(x) for x in evaluate_node(node, builder.constants))


def fold_tree(builder: Builder, value: Value, cap: int = CAP) -> Value:
    """The constant that ``value`` is, all of whose sources are constants; raises ``Refusal``."""
    memo: dict[Node, tuple[Value, ...]] = {}
    stack = [value.node]
    while stack:
        node = stack[-1]
        if node in memo:
            stack.pop()
            continue
        if node.op == "const":
            memo[node] = node.outputs
            continue
        waiting = [v.node for v in node.operands if v.node not in memo]
        if waiting:
            stack.extend(waiting)
            continue
        operands = tuple(None if v is None else memo[v.node][v.index] for v in node.inputs)
        reason = refusal_to_fold(node, cap)
        if reason is not None:
            raise Refusal(reason)
        at_constants = Node(node.op, operands, node.attrs, node.types)
        memo[node] = constants_of(builder, at_constants)
    return memo[value.node][value.index]
