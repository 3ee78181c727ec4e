"""No attribute of an operator is ignored: an ignored attribute is a wrong answer.

For every version of every operator of the default domain, the names of its attributes are looked
for in the source of its lowering and of the importer's functions that this one reaches. That
finds an attribute that nothing reads; whether it is read rightly, only cases can tell.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import evonnx
from evonnx.compiler.importer import import_model
from evonnx.compiler.importer.registry import find_lowering
from evonnx.ir.errors import UnsupportedError
from evonnx.ir.interp import run

PACKAGE = "evonnx.compiler.importer"
NO_MEANING = {
    "consumed_inputs": "advice on reusing memory, opset 1 to 5",
    "output_sequence": "whether an output that may be left out must be there, opset 1 to 6",
}
"""Attributes, in any operator, that no result depends on."""
FOUND_ELSEWHERE = {
    ("Attention", "qk_matmul_output_mode"): "of an output that only ONNX's function body makes",
    ("ConvInteger", "kernel_shape"): "the sizes of the weights",
    ("DeformConv", "kernel_shape"): "the sizes of the weights",
    ("QLinearConv", "kernel_shape"): "the sizes of the weights",
}
"""What an attribute repeats, or who reads it."""
PASSES_EVERYTHING = "_others"
"""Name of the function that hands all attributes to the operator's successor."""


def strings_of(value: Any) -> set[str]:
    """Strings in a table."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return strings_of([*value, *value.values()])
    if isinstance(value, (tuple, list, set, frozenset)):
        return set().union(*map(strings_of, value))
    return set()


@functools.cache
def source_of(fn: FunctionType) -> tuple[frozenset[str], tuple[Any, ...]]:
    """(strings in the function, what the other names in it stand for)."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    nodes = list(ast.walk(tree))
    text = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    known = dict(fn.__globals__)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            module = importlib.import_module(f"{PACKAGE}.{node.module}")
            known |= {a.asname or a.name: getattr(module, a.name) for a in node.names}
    names = sorted({n.id for n in nodes if isinstance(n, ast.Name)})
    return frozenset(text), tuple(known[n] for n in names if n in known)


def names_read(lowering: Callable[..., Any]) -> set[str] | None:
    """Strings in all the lowering reaches; None where it passes every attribute on."""
    found: set[str] = set()
    seen: set[Any] = set()
    todo: list[Any] = [lowering]
    while todo:
        fn = inspect.unwrap(todo.pop())
        if fn in seen:
            continue
        seen.add(fn)
        if fn.__name__ == PASSES_EVERYTHING:
            return None
        text, others = source_of(fn)
        found |= text
        for value in others:
            if isinstance(value, FunctionType) and value.__module__.startswith(f"{PACKAGE}.ops_"):
                todo.append(value)
            else:
                found |= strings_of(value)
    return found


def ignored() -> set[tuple[str, str]]:
    """(operator, attribute) of what no version's lowering mentions."""
    result = set()
    for schema in onnx.defs.get_all_schemas_with_history():
        fn = find_lowering("", schema.name, schema.since_version)
        if schema.domain != "" or fn is None or not schema.attributes:
            continue
        read = names_read(fn)
        if read is not None:
            result |= {(schema.name, a) for a in schema.attributes if a not in read}
    return result


def test_every_attribute_of_every_version_is_read() -> None:
    unread = {pair for pair in ignored() if pair[1] not in NO_MEANING}
    assert unread == set(FOUND_ELSEWHERE)


def test_an_ignored_attribute_is_found() -> None:
    def careless(ctx: Any) -> Any:
        return ctx.attr("axis", 0)

    read = names_read(careless)
    assert read is not None
    assert "axis" in read
    assert "keepdims" not in read


# -- attributes that ask for a precision ----------------------------------------------------------


def model_of(
    op: str, opset: int, feeds: dict[str, np.ndarray], outputs: int = 1, **attrs: Any
) -> onnx.ModelProto:
    made = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op, list(feeds), made, name="node", **attrs)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in feeds.items()
    ]
    outs = [onnx.ValueInfoProto(name=o) for o in node.output]
    graph = helper.make_graph([node], "g", infos, outs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def ours(
    op: str, opset: int, feeds: dict[str, np.ndarray], outputs: int = 1, **attrs: Any
) -> list[Any]:
    graph = import_model(model_of(op, opset, feeds, outputs, **attrs))
    return list(run(graph, feeds).values())


def scalars(*values: float, dtype: Any) -> dict[str, np.ndarray]:
    return {f"x{k}": np.array(v, dtype) for k, v in enumerate(values)}


@pytest.mark.parametrize("limits", [(0, 1000, 0.1), (5, -3, -0.25), (2, 2, 1), (0, 30, 1)])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_range_of_half_precision_counts_in_float(dtype: Any, limits: tuple[float, ...]) -> None:
    """1000 / 0.1 steps of float16 are 10000 or so in float32, not a multiple of 8."""
    feeds = scalars(*limits, dtype=dtype)
    for stash in (TensorProto.FLOAT, TensorProto.DOUBLE):
        model = model_of("Range", 27, feeds, stash_type=stash)
        (want,) = ReferenceEvaluator(model).run(None, feeds)
        fed = evonnx.compile(model, cache=False)(**feeds)
        known = run(import_model(model, constants=feeds), {})
        for got in (np.asarray(fed), next(iter(known.values()))):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


def test_layer_normalization_in_the_type_of_stash_type() -> None:
    x = (1e4 + np.random.default_rng(3).standard_normal((4, 64))).astype(np.float32)
    feeds = {"x": x, "scale": np.ones(64, np.float32), "bias": np.zeros(64, np.float32)}
    exact = x.astype(np.float64)
    mean, std = exact.mean(1, keepdims=True), np.sqrt(exact.var(1, keepdims=True) + 1e-5)
    double = TensorProto.DOUBLE
    y, found, inverse = ours("LayerNormalization", 17, feeds, 3, stash_type=double)
    np.testing.assert_allclose(y, (exact - mean) / std, rtol=2e-7, atol=1e-7)
    assert (y.dtype, found.dtype, inverse.dtype) == (np.float32, np.float64, np.float64)
    np.testing.assert_allclose(found, mean, rtol=1e-12)
    wide = {name: v.astype(np.float64) for name, v in feeds.items()}
    y, found, inverse = ours("LayerNormalization", 17, wide, 3)
    assert (y.dtype, found.dtype, inverse.dtype) == (np.float64, np.float32, np.float32)
    del feeds["bias"]
    root = np.sqrt((exact**2).mean(1, keepdims=True) + 1e-5)
    (y,) = ours("RMSNormalization", 23, feeds, stash_type=double)
    np.testing.assert_allclose(y, exact / root, rtol=2e-7)
    (y,) = ours("RMSNormalization", 23, {"x": x.astype(np.float16), "scale": feeds["scale"]})
    assert y.dtype == np.float32  # the type of the scale


def test_softmax_precision_of_attention() -> None:
    rng = np.random.default_rng(5)
    feeds = {n: rng.standard_normal((1, 2, 4, 8)).astype(np.float16) for n in "qkv"}
    model = model_of("Attention", 23, feeds, softmax_precision=TensorProto.DOUBLE)
    assert any(n.op == "cast" and str(n.attrs["to"]) == "f64" for n in import_model(model).nodes)
    (want,) = ReferenceEvaluator(model).run(None, feeds)
    (got,) = run(import_model(model), feeds).values()
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)


def test_case_rules_of_a_locale() -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], name="node",
                            case_change_action="UPPER", locale="tr_TR")  # fmt: skip
    info = helper.make_tensor_value_info("x", TensorProto.STRING, [2])
    graph = helper.make_graph([node], "g", [info], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedError, match="locale 'tr_TR'"):
        import_model(model)
    node.attribute[1].s = b"en_US"
    model.graph.node[0].CopyFrom(node)
    import_model(model)
