"""Graphs as text: one node per line, types always printed.

    graph {
      %0 = input("x") : f32[N, 3, 224, 224]
      %1 = const(@8c1f...) : f32[64, 3, 7, 7]
      %2 = conv(%0, %1) {groups=1, strides=[2, 2], ...} : f32[N, 64, 112, 112]  # from "Conv_0"
      return "y" = %2
    }

``%2`` is the first output of node 2, ``%2:1`` its second, ``_`` an absent operand. Constants of at
most ``INLINE`` elements are written out, ``const([1, 2]) : i64[2]``; larger ones by digest, to be
found in a ``Constants`` table. Strings are JSON strings, so no model text can break a line. Regions
are nested blocks with their own numbering. Provenance follows as a comment.

``parse_graph(print_graph(g)).digest == g.digest`` is a law; see ``parser.py``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .dims import Expr
from .errors import LimitError, VerifyError
from .graph import Constants, Graph, Node, Value
from .lexer import MAX_NESTING
from .types import DTYPES, DType, TensorType

INLINE = 16
"""Constants of at most this many elements are written out."""
RESERVED = frozenset({"true", "false", "none", "inf", "nan", "graph", "max", "min", "bcast"})
"""Words with a meaning of their own where a value is expected."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")

Namer = Callable[[Value], str]


def print_graph(graph: Graph) -> str:
    """The text of ``graph``, ending in a newline."""
    return "".join(f"{line}\n" for line in _block("graph", graph, 0))


def namer(graph: Graph) -> Namer:
    """Names values as the text of ``graph`` does: ``%3``, ``%3:1``."""
    number = graph.index

    def name(v: Value) -> str:
        k = number.get(v.node)
        if k is None:
            return "%?"  # not a value of this graph: only a broken graph prints so
        return f"%{k}" if v.index == 0 else f"%{k}:{v.index}"

    return name


def _block(head: str, graph: Graph, depth: int) -> Iterator[str]:
    """Lines of a graph, the first one being ``head {``."""
    if depth > MAX_NESTING:
        raise LimitError(f"regions are nested deeper than {MAX_NESTING}")
    name = namer(graph)
    yield f"{head} {{"
    in_order = tuple(n for n in graph.nodes if n.op == "input")
    if tuple(v.node for v in graph.inputs) != in_order:
        yield "  inputs " + ", ".join(name(v) for v in graph.inputs)
    for node in graph.nodes:
        for line in node_lines(node, name, graph.constants, depth):
            yield "  " + line
    outputs = ", ".join(f"{json.dumps(n)} = {name(v)}" for n, v in graph.outputs)
    yield f"  return {outputs}".rstrip()
    yield "}"


def node_lines(node: Node, name: Namer, constants: Constants, depth: int = 0) -> Iterator[str]:
    """The lines of one node: one, or more if it has regions."""
    types = ", ".join(str(t) for t in node.types) or "()"
    tail = f" : {types}"
    if node.origin:
        tail += "  # from " + ", ".join(json.dumps(o) for o in node.origin)
    head = f"{name(node.out)} = {_op_text(node.op)}"
    sugar = _sugar(node, constants)
    if sugar is not None:
        yield head + sugar + tail
        return
    operands = ", ".join("_" if v is None else name(v) for v in node.inputs)
    parts: list[str | Graph] = []
    for k, v in node.attrs.items():
        lead = (", " if parts else "") + f"{_key_text(k)}="
        parts += [lead, v] if isinstance(v, Graph) else [lead + attr_text(v)]
    if not parts:
        yield f"{head}({operands}){tail}"
        return
    line = f"{head}({operands}) {{"
    for part in parts:
        if isinstance(part, Graph):
            *lines, line = _block(f"{line}graph", part, depth + 1)
            yield from lines
        else:
            line += part
    yield f"{line}}}{tail}"


def _op_text(op: str) -> str:
    return op if _IDENTIFIER.match(op) else json.dumps(op)


def _key_text(key: str) -> str:
    return key if _IDENTIFIER.match(key) else json.dumps(key)


def _sugar(node: Node, constants: Constants) -> str | None:
    """``("name")`` of an input, ``(values)`` or ``(@digest)`` of a constant; else None."""
    if node.inputs or len(node.attrs) != 1:
        return None
    if node.op == "input" and isinstance(node.attrs.get("name"), str):
        return f"({json.dumps(node.attrs['name'])})"
    digest = node.attrs.get("digest")
    if node.op == "const" and isinstance(digest, str) and re.match(r"[0-9a-f]+\Z", digest):
        values = inline_values(node, constants)
        return f"(@{digest})" if values is None else f"({values})"
    return None


_NAMED = re.compile(r"const\(@([0-9a-f]{40})\)")


def named_constants(text: str) -> list[str]:
    """Digests of the constants that printed IR names, in alphabetic order; all others are in the
    text."""
    return sorted(set(_NAMED.findall(text)))


def inline_values(node: Node, constants: Constants) -> str | None:
    """The elements of a small constant as text that reads back to the same bits, else None."""
    t = node.types[0]
    if not isinstance(t, TensorType):
        return None
    count = t.numel()
    if not isinstance(count, int) or count > INLINE or node.attrs["digest"] not in constants:
        return None
    array = constants.get(node.attrs["digest"])
    if array.shape != t.shape or DType.of(array.dtype) != t.dtype:
        raise VerifyError(f"constant {node.attrs['digest'][:16]} is not {t}")
    items = [element_text(x, t.dtype) for x in array.ravel()]
    if None in items or Constants.digest_of(array) != node.attrs["digest"]:
        return None
    body = ", ".join(str(i) for i in items)
    return body if t.rank == 0 and t.dtype.kind != "c" else f"[{body}]"


def element_text(x: Any, dtype: DType) -> str | None:
    """One element of a constant; None where text cannot carry its bits (NaN payloads)."""
    if dtype.kind == "s":
        if isinstance(x, bytes):
            return f'x"{x.hex()}"'
        return json.dumps(x) if isinstance(x, str) else None
    if dtype.kind == "b":
        return "true" if x else "false"
    if dtype.kind in "iu":
        return str(int(x))
    if dtype.kind == "c":
        part = DType.of(x.real.dtype)
        real, imag = element_text(x.real, part), element_text(x.imag, part)
        return None if real is None or imag is None else f"{real}, {imag}"
    return _float_text(x, dtype)


def _float_text(x: Any, dtype: DType) -> str | None:
    candidates = [repr(float(x)), "-nan"]
    if dtype.name in ("f32", "f16"):
        candidates.insert(
            0,
            np.format_float_scientific(x, unique=True, trim="0")
            if 0 < abs(float(x)) < 1e-4 or abs(float(x)) >= 1e16
            else np.format_float_positional(x, unique=True, trim="0"),
        )
    for text in candidates:
        with np.errstate(over="ignore"):
            back = np.array(float(text)).astype(dtype.np)
        if back.tobytes() == np.asarray(x, dtype=dtype.np).tobytes():
            return text
    return None


def attr_text(value: Any) -> str:
    """Text of one attribute value (regions excepted: they are blocks)."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bytes):
        return f'x"{value.hex()}"'
    if isinstance(value, DType):
        return value.name
    if isinstance(value, Expr):
        text = str(value)
        return f"({text})" if text in RESERVED or text in DTYPES else text
    if isinstance(value, tuple):
        return f"[{', '.join(attr_text(v) for v in value)}]"
    raise VerifyError(f"an attribute cannot be a {type(value).__name__}")
