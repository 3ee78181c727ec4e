"""The importer's framework: names, sizes, functions, regions, constants, tidiness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from evonnx.compiler.importer import import_model, missing
from evonnx.compiler.importer.registry import find_lowering, lowering, registered
from evonnx.compiler.importer.tensors import to_array
from evonnx.ir.errors import ModelError
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.types import DTYPES

F, I64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


def info(name: str, shape: Any, kind: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    inits: dict[str, np.ndarray] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    functions: tuple[onnx.FunctionProto, ...] = (),
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", inputs, [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (inits or {}).items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


X = np.arange(12, dtype=np.float32).reshape(2, 6)


# -- sizes ----------------------------------------------------------------------------------------


def test_shape_arithmetic_leaves_nothing_behind(text_law: Callable[[Graph], None]) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Gather", ["s", "one"], ["w"]),
        node("Div", ["w", "two"], ["half"]),
        node("Unsqueeze", ["n", "zero1"], ["n1"]),
        node("Unsqueeze", ["half", "zero1"], ["h1"]),
        node("Concat", ["n1", "two1", "h1"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["y"]),
    ]
    inits = {"zero": 0, "one": 1, "two": 2, "zero1": np.array([0]), "two1": np.array([2])}
    graph = import_model(model(nodes, [info("x", ["N", "W"])], inits))
    text_law(graph)
    assert ops(graph) == ["input", "reshape"]
    assert str(graph.outputs[0][1].type) == "f32[N, 2, ((W)//(2))]"
    np.testing.assert_array_equal(run(graph, {"x": X})["y"], X.reshape(2, 2, 3))


def test_sizes_through_floating_point() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["f"], to=F),
        node("Mul", ["f", "scale"], ["g"]),
        node("Floor", ["g"], ["h"]),
        node("Cast", ["h"], ["sizes"], to=I64),
        node("ConstantOfShape", ["sizes"], ["y"]),
    ]
    scale = np.array([2.0, 0.5], np.float32)
    graph = import_model(model(nodes, [info("x", ["N", "W"])], {"scale": scale}))
    assert str(graph.outputs[0][1].type) == "f32[2*N, ((W)//(2))]"


def test_names_of_sizes_become_identifiers() -> None:
    inputs = [info("x", ["batch size", "3d", "max"]), info("z", ["batch_size", "a.b", "a b"])]
    graph = import_model(model([node("Size", ["x"], ["y"])], inputs))
    shapes = [str(v.type) for v in graph.inputs]
    assert shapes == ["f32[batch_size, n_3d, n_max]", "f32[batch_size_2, a_b, a_b_2]"]


def test_sizes_shapes_and_constants_can_be_given() -> None:
    inputs = [info("x", ["N", "W"]), info("k", [2], I64)]
    source = model([node("Reshape", ["x", "k"], ["y"])], inputs)
    graph = import_model(source, sizes={"W": 6}, constants={"k": np.array([3, -1])})
    assert str(graph.outputs[0][1].type) == "f32[3, 2*N]"
    graph = import_model(source, shapes={"x": ("M", 8)}, constants={"k": np.array([-1, 4])})
    assert str(graph.outputs[0][1].type) == "f32[2*M, 4]"
    for wrong in ({"shapes": {"nope": (1,)}}, {"constants": {"nope": X}}, {"sizes": {"nope": 1}},
                  {"constants": {"k": np.array([1.5, 2.5])}}):  # fmt: skip
        with pytest.raises(ModelError, match=r"nope|constant"):
            import_model(source, **wrong)


def test_unnamed_and_negative_sizes_are_symbols() -> None:
    x = info("x", [None, 6])
    z = info("z", [2, 6])
    z.type.tensor_type.shape.dim[0].dim_value = -1
    graph = import_model(model([node("Neg", ["x"], ["y"]), node("Neg", ["z"], ["w"])], [x, z],
                               outputs=("y", "w")))  # fmt: skip
    np.testing.assert_array_equal(run(graph, {"x": X, "z": X[:1]})["w"], -X[:1])


def test_careless_names_are_shared_only_where_sizes_meet() -> None:
    """`w` is the width of two inputs that never meet; `n` is one that they share."""
    inputs = [info("a", ["n", "w"]), info("b", ["n", "w"], I64)]
    nodes = [
        node("ReduceSum", ["a"], ["s"], keepdims=0, axes=[1]),
        node("Cast", ["b"], ["c"], to=F),
        node("ReduceMax", ["c"], ["m"], keepdims=0, axes=[1]),
        node("Add", ["s", "m"], ["y"]),
    ]
    graph = import_model(model(nodes, inputs, opset=11))
    assert [str(v.type) for v in graph.inputs] == ["f32[n, w]", "i64[n, w_2]"]
    b = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(run(graph, {"a": X, "b": b})["y"], X.sum(1) + b.max(1))
    together = model(
        [node("Add", ["a", "b"], ["y"])], [info("a", ["n", "w"]), info("b", ["n", "w"])]
    )
    assert [str(v.type) for v in import_model(together).inputs] == ["f32[n, w]"] * 2


def test_sizes_computed_from_data_are_bound_and_stay_related() -> None:
    nodes = [
        node("ReduceSum", ["counts"], ["total"], keepdims=0),
        node("Abs", ["total"], ["size"]),
        node("Mul", ["size", "two"], ["twice"]),
        node("Range", ["zero", "size", "one"], ["a"]),
        node("Range", ["zero", "twice", "one"], ["b"]),
        node("Unsqueeze", ["size", "axis"], ["size1"]),
        node("Concat", ["size1", "minus"], ["shape"], axis=0),
        node("Reshape", ["b", "shape"], ["c"]),
    ]
    inits = {"zero": 0, "one": 1, "two": 2, "axis": np.array([0]), "minus": np.array([-1])}
    graph = import_model(model(nodes, [info("counts", ["n"], I64)], inits, ("a", "c")))
    assert ops(graph).count("bind") == 1
    (size,) = (str(d) for d in graph.outputs[0][1].shape)
    assert [str(d) for d in graph.outputs[1][1].shape] == [size, "2"]
    out = run(graph, {"counts": np.array([1, -4])})
    np.testing.assert_array_equal(out["c"], np.arange(6).reshape(3, 2))


@pytest.mark.parametrize("start, end", [(-3, 99), (1, -1), (4, 2), (-99, 3), (0, -2)])
def test_slice_bounds_from_data_are_clamped(start: int, end: int) -> None:
    nodes = [node("Slice", ["x", "s", "e", "axis"], ["y"])]
    inputs = [info("x", ["N", "W"]), info("s", [1], I64), info("e", [1], I64)]
    graph = import_model(model(nodes, inputs, {"axis": np.array([1])}))
    out = run(graph, {"x": X, "s": np.array([start]), "e": np.array([end])})
    np.testing.assert_array_equal(out["y"], X[:, start:end])


# -- functions and regions ------------------------------------------------------------------------


def test_functions_of_the_model() -> None:
    attribute = node("LeakyRelu", ["a"], ["b"])
    attribute.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    inner = helper.make_function(
        "my", "Leaky", ["a", "bias"], ["b"], [attribute], imports, ["slope"]
    )
    outer = helper.make_function(
        "my", "Twice", ["a"], ["c"],
        [node("Leaky", ["a"], ["b"], domain="my", slope=0.5),
         node("Leaky", ["b"], ["c"], domain="my", slope=0.25)], imports)  # fmt: skip
    source = model([node("Twice", ["x"], ["y"], domain="my", name="call")], [info("x", ["N"])],
                   functions=(inner, outer), domains=("my",))  # fmt: skip
    graph = import_model(source)
    x = np.array([-8.0, 2.0], np.float32)
    np.testing.assert_array_equal(run(graph, {"x": x})["y"], [-1.0, 2.0])
    assert any("call" in part for n in graph.nodes for part in n.origin)


@pytest.mark.parametrize("op, feeds, attrs, opset", [
    ("NegativeLogLikelihoodLoss", [X, np.array([1, 5])], {"reduction": "mean"}, 13),
    ("SoftmaxCrossEntropyLoss", [X, np.array([1, 5])], {"reduction": "sum"}, 13),
])  # fmt: skip
def test_published_function_bodies(op: str, feeds: list[Any], attrs: Any, opset: int) -> None:
    from onnx.reference import ReferenceEvaluator

    assert find_lowering("", op, opset) is None
    inputs = [info(f"x{k}", list(a.shape), helper.np_dtype_to_tensor_dtype(a.dtype))
              for k, a in enumerate(feeds)]  # fmt: skip
    source = model([node(op, [i.name for i in inputs], ["y"], **attrs)], inputs, opset=opset)
    given = {f"x{k}": a for k, a in enumerate(feeds)}
    graph = import_model(source, constants={k: v for k, v in given.items() if v.dtype == np.int64})
    fed = {k: v for k, v in given.items() if v.dtype != np.int64}
    want = ReferenceEvaluator(source).run(None, given)[0]
    np.testing.assert_allclose(run(graph, fed)["y"], want, rtol=1e-5)


def test_a_region_is_closed_over_what_it_captures() -> None:
    then = helper.make_graph(
        [node("Shape", ["x"], ["s"]), node("Add", ["x", "w"], ["t0"]),
         node("Reshape", ["t0", "swapped"], ["t"])], "then", [], [info("t", None)])  # fmt: skip
    other = helper.make_graph([node("Transpose", ["x"], ["e"])], "else", [], [info("e", None)])
    nodes = [
        node("Shape", ["x"], ["size"]),
        node("Gather", ["size", "order"], ["swapped"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    inputs = [info("x", ["N", "W"]), info("c", [], TensorProto.BOOL)]
    inits = {"w": np.float32(1), "order": np.array([1, 0])}
    graph = import_model(model(nodes, inputs, inits))
    for flag, want in ((True, (X + 1).reshape(6, 2)), (False, X.T)):
        np.testing.assert_array_equal(run(graph, {"x": X, "c": np.array(flag)})["y"], want)


def test_a_known_condition_needs_no_region() -> None:
    then = helper.make_graph([node("Neg", ["x"], ["t"])], "then", [], [info("t", None)])
    other = helper.make_graph([node("Abs", ["x"], ["e"])], "else", [], [info("e", None)])
    nodes = [
        node("Shape", ["x"], ["s"]), node("Size", ["s"], ["rank"]),
        node("Equal", ["rank", "two"], ["c"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]  # fmt: skip
    graph = import_model(model(nodes, [info("x", ["N", "W"])], {"two": 2}))
    assert ops(graph) == ["input", "neg"]


# -- constants ------------------------------------------------------------------------------------


def test_inputs_with_an_initializer_are_constants() -> None:
    source = model([node("Add", ["x", "w"], ["y"])], [info("x", [2]), info("w", [2])],
                   {"w": np.ones(2, np.float32)})  # fmt: skip
    assert import_model(source).input_names == ("x",)


NUMBERS = {
    TensorProto.DataType.Value(name): name
    for name in TensorProto.DataType.keys()  # noqa: SIM118
    if name not in ("UNDEFINED", "STRING", "FLOAT4E2M1", "FLOAT8E8M0", "UINT2", "INT2",
                    "FLOAT6E2M3", "FLOAT6E3M2")
}  # fmt: skip


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: NUMBERS[n])
def test_every_element_type_is_read(number: int, raw: bool) -> None:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(number))
    values = np.array([0, 1, 2, 3, 5, -7 if dtype.kind not in "ub" else 7, 4])
    values = np.clip(values, -8, 7).astype(dtype)
    if "UINT4" in NUMBERS[number]:
        values = np.array([0, 1, 2, 3, 5, 15, 4]).astype(dtype)
    tensor = (
        numpy_helper.from_array(values, "t")
        if raw
        else helper.make_tensor(
            "t", number, values.shape, values.astype(np.float32) if dtype.kind == "V" else values
        )
    )
    assert tensor.HasField("raw_data") is raw
    got = to_array(tensor)
    np.testing.assert_array_equal(got, numpy_helper.to_array(tensor))
    assert got.dtype in {d.np for d in DTYPES.values()}
    source = model([node("Identity", ["t"], ["y"])], [], {}, opset=onnx.defs.onnx_opset_version())
    source.graph.initializer.append(tensor)
    np.testing.assert_array_equal(run(import_model(source), {})["y"], got)


def test_strings_and_sparse_tensors() -> None:
    strings = np.array(["a\n", '"b', "\u00e9"], object)
    np.testing.assert_array_equal(to_array(numpy_helper.from_array(strings, "t")), strings)
    dense = np.array([[0, 5.0, 0], [0, 0, 7.0]], np.float32)
    for indices in (np.array([1, 5]), np.array([[0, 1], [1, 2]])):
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([5.0, 7.0], np.float32), "w"),
            numpy_helper.from_array(indices, "w_i"), [2, 3])  # fmt: skip
        source = model([node("Identity", ["w"], ["y"])], [])
        source.graph.sparse_initializer.append(sparse)
        np.testing.assert_array_equal(run(import_model(source), {})["y"], dense)
        source = model([node("Constant", [], ["y"], sparse_value=sparse)], [])
        np.testing.assert_array_equal(run(import_model(source), {})["y"], dense)
    broken = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "w"),
        numpy_helper.from_array(np.array([9]), "w_i"), [2, 3])  # fmt: skip
    source = model([node("Constant", [], ["y"], sparse_value=broken)], [])
    with pytest.raises(ModelError, match="outside the shape"):
        import_model(source)


@pytest.mark.parametrize("form, given, want", [
    ("value_float", 1.5, np.float32(1.5)), ("value_int", 3, np.int64(3)),
    ("value_floats", [1.5, 2], np.array([1.5, 2], np.float32)),
    ("value_ints", [1, 2], np.array([1, 2])), ("value_string", "s", np.array("s", object)),
])  # fmt: skip
def test_forms_of_constants(form: str, given: Any, want: Any) -> None:
    source = model([node("Constant", [], ["y"], **{form: given})], [])
    np.testing.assert_array_equal(run(import_model(source), {})["y"], want)


def test_random_nodes_have_streams_of_their_own() -> None:
    nodes = [node("RandomNormalLike", ["x"], [n], name=n) for n in ("a", "b")]
    source = model([*nodes, node("RandomUniform", [], ["u"], shape=[50], low=2.0, high=3.0)],
                   [info("x", [50])], outputs=("a", "b", "u"))  # fmt: skip
    first = run(import_model(source), {"x": np.zeros(50, np.float32)})
    again = run(import_model(source), {"x": np.zeros(50, np.float32)})
    np.testing.assert_array_equal(first["a"], again["a"])
    assert not np.array_equal(first["a"], first["b"])
    assert 2.0 <= first["u"].min() <= first["u"].max() < 3.0


def test_half_types_compute(text_law: Callable[[Graph], None]) -> None:
    for kind, dtype in ((TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16,
                                                            ml_dtypes.bfloat16)):  # fmt: skip
        scale = numpy_helper.from_array(np.ones(6, np.float32).astype(dtype), "s")
        source = model([node("LayerNormalization", ["x", "s"], ["y"])], [info("x", ["N", 6], kind)])
        source.graph.initializer.append(scale)
        graph = import_model(source)
        text_law(graph)
        out = run(graph, {"x": X.astype(dtype)})["y"]
        want = (X - X.mean(1, keepdims=True)) / X.std(1, keepdims=True)
        np.testing.assert_allclose(out.astype(np.float32), want, atol=2e-2)


# -- the table ------------------------------------------------------------------------------------


def test_versions_of_a_lowering() -> None:
    assert find_lowering("", "Slice", 9) is not find_lowering("", "Slice", 10)
    assert find_lowering("", "Attention", 22) is None
    with pytest.raises(RuntimeError, match="twice"):
        lowering("Slice", since=10)(lambda ctx, n: None)
    assert len(registered()) > 200


def test_nearly_every_operator_of_onnx_has_a_way_in() -> None:
    """What is left out is named here, so that leaving out more fails."""
    left_out = {
        name for name in {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
        if find_lowering("", name, onnx.defs.onnx_opset_version()) is None
        and not _has_body(name)
    }  # fmt: skip
    assert left_out <= {
        "DeformConv", "Det", "ImageDecoder", "MaxRoiPool", "Multinomial", "Scatter", "Upsample",
        "RoiAlign", "NonMaxSuppression", "Unique", "Col2Im",
    }  # fmt: skip


def _has_body(name: str) -> bool:
    schema = onnx.defs.get_schema(name)
    return bool(schema.has_function or schema.has_context_dependent_function)


def test_missing_of_a_whole_model_is_empty() -> None:
    assert missing(model([node("Relu", ["x"], ["y"])], [info("x", ["N"])])) == ()
