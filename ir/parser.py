"""Reads what ``text.print_graph`` prints.

A recursive-descent parser over ``lexer.Cursor``; nesting, length and the sizes of inline constants
are bounded, so hostile text ends in a ``ParseError`` with line and caret, never in a crash. Nodes
are made exactly as written (no interning, nothing dropped), so that the digest survives; the graph
is then verified, since people edit this text.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from .graph import Attrs, Constants, Graph, Node, Value
from .lexer import MAX_NESTING, Cursor, Token
from .types import DTYPES, DType, TensorType, Type


def parse_graph(text: str, constants: Constants | None = None, *, verify: bool = True) -> Graph:
    """The graph that ``text`` describes.

    ``constants`` must hold every constant that the text names by digest; inline constants are
    added to it. Raises ``ParseError`` (line, column, caret) for text that cannot be read and
    ``VerifyError`` for a graph that breaks an invariant (not with ``verify=False``).
    """
    table = constants if constants is not None else Constants()
    cursor = Cursor(text)
    cursor.expect("graph")
    graph = _graph(cursor, table, 0)
    cursor.end()
    if verify:
        from .verify import verify as check

        check(graph)
    return graph


def parse_attr(text: str) -> Any:
    """Reads one attribute value, as ``text.attr_text`` prints it; raises ``ParseError``."""
    cursor = Cursor(text)
    value = _attr(cursor, Constants(), 0)
    cursor.end()
    return value


def parse_type(text: str) -> Type:
    """Reads a type, as ``str`` prints it; raises ``ParseError``."""
    cursor = Cursor(text)
    value = cursor.type()
    cursor.end()
    return value


def _graph(cursor: Cursor, constants: Constants, depth: int) -> Graph:
    """A block after its word ``graph``."""
    if depth > MAX_NESTING:
        cursor.fail(f"regions are nested deeper than {MAX_NESTING}")
    cursor.expect("{")
    order: list[Token] | None = None
    if cursor.accept("inputs"):
        order = _refs(cursor)
    nodes: dict[str, Node] = {}
    while not cursor.at("return"):
        target = cursor.kind("ref", "a node (%0 = ...) or `return`")
        if ":" in target.text or target.text in nodes:
            cursor.fail("a node is defined once, as %N", target.at)
        nodes[target.text] = _node(cursor, nodes, constants, depth)
    cursor.expect("return")
    outputs: list[tuple[str, Value]] = []
    while not cursor.at("}"):
        name = cursor.string()
        cursor.expect("=")
        outputs.append((name, _value(cursor, nodes)))
        if not cursor.accept(","):
            break
    cursor.expect("}")
    if order is None:
        inputs = [n.out for n in nodes.values() if n.op == "input"]
    else:
        inputs = [_resolve(cursor, t, nodes) for t in order]
    return Graph(inputs, outputs, list(nodes.values()), constants)


def _refs(cursor: Cursor) -> list[Token]:
    found: list[Token] = []
    while cursor.peek().kind == "ref" and not _starts_node(cursor):
        found.append(cursor.take())
        if not cursor.accept(","):
            break
    return found


def _starts_node(cursor: Cursor) -> bool:
    return cursor.after().text == "="


def _value(cursor: Cursor, nodes: dict[str, Node]) -> Value:
    return _resolve(cursor, cursor.kind("ref", "a value such as %3"), nodes)


def _resolve(cursor: Cursor, token: Token, nodes: dict[str, Node]) -> Value:
    number, _, index = token.text.partition(":")
    node = nodes.get(number)
    k = int(index[:9]) if index else 0
    if node is None:
        cursor.fail("this value is not defined above", token.at)
    if k >= max(len(node.types), 1):
        cursor.fail(f"{number} has {len(node.types)} outputs", token.at)
    return Value(node, k)


def _node(cursor: Cursor, nodes: dict[str, Node], constants: Constants, depth: int) -> Node:
    """A node after its ``%N``."""
    cursor.expect("=")
    start = cursor.peek()
    op = cursor.string() if start.kind == "string" else cursor.name("an op")
    cursor.expect("(")
    if op == "input" and cursor.peek().kind == "string":
        attrs = Attrs([("name", cursor.string())])
        cursor.expect(")")
        return Node(op, (), attrs, *_tail(cursor))
    if op == "const" and not cursor.at(")"):
        return _const(cursor, constants)
    operands: list[Value | None] = []
    while not cursor.at(")"):
        if cursor.at("_"):
            cursor.take()
            operands.append(None)
        else:
            operands.append(_value(cursor, nodes))
        if not cursor.accept(","):
            break
    cursor.expect(")")
    items: dict[str, Any] = {}
    if cursor.accept("{"):
        items = _attrs(cursor, constants, depth)
    return Node(op, tuple(operands), Attrs(items.items()), *_tail(cursor))


def _attrs(cursor: Cursor, constants: Constants, depth: int) -> dict[str, Any]:
    items: dict[str, Any] = {}
    while not cursor.at("}"):
        token = cursor.peek()
        key = cursor.string() if token.kind == "string" else cursor.name("an attribute")
        if key in items:
            cursor.fail("this attribute is given twice", token.at)
        cursor.expect("=")
        items[key] = _attr(cursor, constants, depth)
        if not cursor.accept(","):
            break
    cursor.expect("}")
    return items


def _attr(cursor: Cursor, constants: Constants, depth: int) -> Any:
    """One attribute value."""
    if depth > MAX_NESTING:
        cursor.fail(f"values are nested deeper than {MAX_NESTING}")
    token = cursor.peek()
    if token.kind == "string":
        return cursor.string()
    if token.kind == "hex":
        return _bytes(cursor)
    if cursor.accept("["):
        items: list[Any] = []
        while not cursor.at("]"):
            items.append(_attr(cursor, constants, depth + 1))
            if not cursor.accept(","):
                break
        cursor.expect("]")
        return tuple(items)
    if cursor.accept("graph"):
        return _graph(cursor, constants, depth + 1)
    words: dict[str, Any] = {"true": True, "false": False, "none": None, **DTYPES}
    if token.kind == "name" and token.text in words:
        cursor.take()
        return words[token.text]
    number = _float(cursor)
    return cursor.dim() if number is None else number


def _bytes(cursor: Cursor) -> bytes:
    token = cursor.kind("hex", 'bytes such as x"00ff"')
    try:
        return bytes.fromhex(token.text[2:-1])
    except ValueError:
        cursor.fail("bytes have two hexadecimal digits each", token.at)


def _float(cursor: Cursor) -> float | None:
    """A float, ``inf`` or ``nan``, with its sign; None (and nothing taken) if there is none."""
    token = cursor.peek()
    sign, probe = 1.0, token
    if token.text == "-":
        sign, probe = -1.0, cursor.after()
    if probe.kind != "float" and not (probe.kind == "name" and probe.text in ("inf", "nan")):
        return None
    if sign < 0:
        cursor.take()
    return math.copysign(float(cursor.take().text), sign)


def _const(cursor: Cursor, constants: Constants) -> Node:
    """A constant after ``const(``: a digest, an element or a list of elements."""
    start = cursor.peek()
    if start.kind == "digest":
        digest = cursor.take().text[1:]
        cursor.expect(")")
        types, origin = _tail(cursor)
        if digest not in constants:
            cursor.fail(f"constant {digest[:16]} is not in the table given to the parser", start.at)
        return Node("const", (), Attrs([("digest", digest)]), types, origin)
    items: list[Any] = []
    if cursor.accept("["):
        while not cursor.at("]"):
            items.append(_element(cursor))
            if not cursor.accept(","):
                break
        cursor.expect("]")
    else:
        items.append(_element(cursor))
    cursor.expect(")")
    types, origin = _tail(cursor)
    array = _array(cursor, start, items, types)
    return Node("const", (), Attrs([("digest", constants.add(array))]), types, origin)


def _element(cursor: Cursor) -> Any:
    token = cursor.peek()
    if token.kind == "string":
        return cursor.string()
    if token.kind == "hex":
        return _bytes(cursor)
    if cursor.at("true", "false"):
        return cursor.take().text == "true"
    number = _float(cursor)
    return cursor.integer() if number is None else number


def _array(cursor: Cursor, start: Token, items: list[Any], types: tuple[Type, ...]) -> np.ndarray:
    t = types[0] if len(types) == 1 else None
    if not isinstance(t, TensorType) or not t.is_static:
        cursor.fail("a constant has one tensor type of known sizes", start.at)
    assert t is not None
    if t.numel() != len(items) // (2 if t.dtype.kind == "c" else 1):
        cursor.fail(f"{len(items)} elements do not make a {t}", start.at)
    if not all(_fits(x, t.dtype) for x in items):
        cursor.fail(f"these are not all elements of a {t}", start.at)
    with np.errstate(over="ignore"):
        if t.dtype.kind == "c":
            pairs = np.array(items, dtype=np.float64).reshape(-1, 2)
            flat = np.empty(len(pairs), dtype=t.dtype.np)
            flat.real, flat.imag = pairs[:, 0], pairs[:, 1]
        elif t.dtype.kind == "s":
            flat = np.empty(len(items), dtype=object)
            flat[:] = items
        elif t.dtype.kind == "u" and t.dtype.bits == 64:
            flat = np.array(items, dtype=np.uint64)
        else:
            kind = {"f": np.float64, "b": np.bool_}.get(t.dtype.kind, np.int64)
            flat = np.array(items, dtype=kind).astype(t.dtype.np)
    return flat.reshape(t.shape)  # type: ignore[arg-type]


def _fits(x: Any, dtype: DType) -> bool:
    if dtype.kind == "s":
        return isinstance(x, (str, bytes))
    if dtype.kind == "b":
        return isinstance(x, bool)
    if isinstance(x, (bool, str, bytes)):
        return False
    if dtype.kind in "fc":
        return isinstance(x, float) or abs(x) < 1 << 1000
    low = -(1 << (dtype.bits - 1)) if dtype.kind == "i" else 0
    high = 1 << (dtype.bits - (dtype.kind == "i"))
    return isinstance(x, int) and low <= x < high


def _tail(cursor: Cursor) -> tuple[tuple[Type, ...], tuple[str, ...]]:
    """Types after the colon, and the provenance in the comment behind them."""
    cursor.expect(":")
    types: list[Type] = []
    if cursor.accept("("):
        cursor.expect(")")
    else:
        types.append(cursor.type())
        while cursor.accept(","):
            types.append(cursor.type())
    return tuple(types), _origin(cursor.comment)


def _origin(comment: str) -> tuple[str, ...]:
    words = comment.strip()
    if not words.startswith("from "):
        return ()
    try:
        found = json.loads(f"[{words[5:]}]")
    except (ValueError, RecursionError):
        return ()
    return tuple(x for x in found if isinstance(x, str))
