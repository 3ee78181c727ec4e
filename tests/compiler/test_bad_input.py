"""Broken and hostile models: each raises a subclass of ``EvonnxError`` that says what and where,
and nothing is executed, allocated or lost on the way."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import evonnx
from evonnx.compiler.importer import import_model, missing
from evonnx.ir.errors import EvonnxError, LimitError, ModelError, UnsupportedError
from evonnx.ir.interp import run

F = TensorProto.FLOAT
NASTY = 'a"b\'c\n{x}\\; __import__("os").system("touch /tmp/evonnx_pwned")\u202e'


def value(name: str, shape: Any = (2, 3), kind: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    inits: list[TensorProto] | None = None,
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [value("x")] if inputs is None else inputs,
        [value("y", None)] if outputs is None else outputs, inits or [],
    )  # fmt: skip
    imports = more.pop("imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, opset_imports=imports, **more)


def relu(a: str = "x", b: str = "y", name: str = "r") -> onnx.NodeProto:
    return helper.make_node("Relu", [a], [b], name=name)


GOOD = model([relu()])


# -- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a model", bytes(range(256)) * 9])
def test_bytes_that_are_no_model(data: bytes) -> None:
    with pytest.raises(ModelError, match="model"):
        import_model(data)


def test_every_truncation_of_a_model() -> None:
    inits = [numpy_helper.from_array(np.ones((3, 4), np.float32), "w")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="m")
    data = model([node], inits=inits).SerializeToString()
    import_model(data)
    for cut in range(len(data)):
        try:
            import_model(data[:cut])
        except EvonnxError:
            continue
        # What is cut off may be optional fields: what is left must then be a whole model.
        run(import_model(data[:cut]), {"x": np.ones((2, 3), np.float32)})


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(EvonnxError):
        import_model(data)


@given(st.data())
@settings(max_examples=250)
def test_flipped_bytes(data: st.DataObject) -> None:
    inits = [numpy_helper.from_array(np.ones((3, 4), np.float32), "w")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="m"),
        helper.make_node("Softmax", ["a"], ["b"], axis=-1),
        helper.make_node("Slice", ["b", "s", "e"], ["y"]),
    ]
    inits += [numpy_helper.from_array(np.array([k]), n) for n, k in (("s", 0), ("e", 2))]
    raw = bytearray(model(nodes, inits=inits).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EvonnxError):
        import_model(bytes(raw))


def test_files(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", tmp_path, tmp_path / "nul\0.onnx"):
        with pytest.raises(ModelError, match="cannot read"):
            import_model(path)
    with pytest.raises(ModelError, match="path, bytes or a ModelProto"):
        import_model(42)  # type: ignore[arg-type]


# -- structure ------------------------------------------------------------------------------------

BAD_STRUCTURE: dict[str, tuple[Callable[[], onnx.ModelProto], type[EvonnxError], str]] = {
    "cycle": (
        lambda: model([relu("x", "a", "n1"), helper.make_node("Add", ["a", "c"], ["b"], "n2"),
                       relu("b", "c", "n3"), relu("c", "y", "n4")]),
        ModelError, "cycle.*n[23].*->.*n[23]"),
    "own output": (lambda: model([relu("y", "y", "n1")]), ModelError, "cycle.*n1"),
    "duplicate output": (
        lambda: model([relu("x", "y", "n1"), relu("x", "y", "n2")]), ModelError, "'y'.*twice.*n2"),
    "output is an input": (lambda: model([relu("x", "x", "n1")]), ModelError, "'x'.*twice"),
    "duplicate input": (
        lambda: model([relu()], [value("x"), value("x")]), ModelError, "two inputs.*'x'"),
    "duplicate graph output": (
        lambda: model([relu()], None, [value("y"), value("y")]), ModelError, "two outputs.*'y'"),
    "duplicate initializer": (
        lambda: model([relu()], inits=[numpy_helper.from_array(np.ones(2), "w")] * 2),
        ModelError, "initializer 'w'"),
    "missing initializer": (
        lambda: model([helper.make_node("Add", ["x", "gone"], ["y"], "adder")]),
        ModelError, "'adder' reads 'gone'"),
    "missing output": (lambda: model([relu()], None, [value("z")]), ModelError, "output 'z'"),
    "empty graph": (lambda: model([], [], []), ModelError, "empty"),
    "no graph": (lambda: onnx.ModelProto(ir_version=8), ModelError, "no graph"),
    "input without type": (
        lambda: model([relu()], [onnx.ValueInfoProto(name="x")]), ModelError, "'x' has no type"),
    "input without rank": (
        lambda: model([relu()], [value("x", None)]), UnsupportedError, "rank of input 'x'"),
    "types differ": (
        lambda: model([helper.make_node("Add", ["x", "i"], ["y"], "adder")],
                      [value("x"), value("i", (2, 3), TensorProto.INT64)]),
        ModelError, "'adder'.*Add.*f32.*i64"),
    "shapes differ": (
        lambda: model([helper.make_node("Add", ["x", "i"], ["y"], "adder")],
                      [value("x"), value("i", (2, 4))]),
        ModelError, "'adder'.*Add.*3.*4"),
    "matmul sizes": (
        lambda: model([helper.make_node("MatMul", ["x", "i"], ["y"], "mm")],
                      [value("x"), value("i", (2, 4))]),
        ModelError, "'mm'.*MatMul"),
    "wrong declared output": (
        lambda: model([relu()], None, [value("y", (2, 3), TensorProto.INT64)]),
        ModelError, "'y' is declared as i64.*f32"),
    "float op on bool": (
        lambda: model([helper.make_node("Exp", ["x"], ["y"], "e")],
                      [value("x", (2,), TensorProto.BOOL)]),
        ModelError, "'e'.*Exp.*bool"),
    "too few inputs": (
        lambda: model([helper.make_node("Add", ["x"], ["y"], "adder")]), ModelError,
        "'adder'.*inputs"),
    "too many inputs": (
        lambda: model([helper.make_node("Relu", ["x", "x"], ["y"], "r")]), ModelError,
        "'r'.*inputs"),
    "unknown attribute": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"], "r", alpha=1.0)]), ModelError,
        "'r'.*no attribute 'alpha'"),
    "attribute of another type": (
        lambda: model([helper.make_node("Softmax", ["x"], ["y"], "s", axis=1.5)]), ModelError,
        "'s'.*'axis' has type FLOAT, not INT"),
    "absent attribute": (
        lambda: model([helper.make_node("Cast", ["x"], ["y"], "c")]), ModelError,
        "'c'.*to.*absent"),
    "axis out of range": (
        lambda: model([helper.make_node("Softmax", ["x"], ["y"], "s", axis=5)]), ModelError,
        "'s'.*axis 5"),
    "ratio of an empty axis": (
        lambda: model([helper.make_node("Resize", ["x", "", "", "s"], ["y"], "r", mode="nearest",
                                        keep_aspect_ratio_policy="not_larger")],
                      [value("x", (0, 4))], opset=18,
                      inits=[numpy_helper.from_array(np.array([2, 2]), "s")]),
        ModelError, r"'r'.*no ratio of \(2, 2\) to \(0, 4\)"),
    "unknown element type": (
        lambda: model([helper.make_node("Cast", ["x"], ["y"], "c", to=99)]), ModelError,
        "element type number 99"),
    "unknown op": (
        lambda: model([helper.make_node("Frobnicate", ["x"], ["y"], "f")]), UnsupportedError,
        "'f'.*Frobnicate"),
    "unknown domain": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"], "f", domain="acme.ops")],
                      imports=[helper.make_opsetid("", 17), helper.make_opsetid("acme.ops", 3)]),
        UnsupportedError, "acme.ops"),
    "op newer than the opset": (
        lambda: model([helper.make_node("Gelu", ["x"], ["y"], "g")]), UnsupportedError,
        "'g'.*Gelu.*opset 17"),
    "opset from the future": (
        lambda: model([relu()], opset=onnx.defs.onnx_opset_version() + 1), UnsupportedError,
        "opset"),
    "opset too old": (lambda: model([relu()], opset=0), UnsupportedError, "opset 0"),
    "no opset": (lambda: model([relu()], imports=[helper.make_opsetid("ai.onnx.ml", 3)]),
                 ModelError, "default domain"),
    "two opsets": (
        lambda: model([relu()], imports=[helper.make_opsetid("", 17), helper.make_opsetid("", 16)]),
        ModelError, "two versions"),
    "negative opset": (lambda: model([relu()], opset=-1), UnsupportedError, "opset -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_STRUCTURE)
def test_broken_structure(name: str) -> None:
    make, error, text = BAD_STRUCTURE[name]
    with pytest.raises(error, match="(?s)" + text):
        import_model(make())


def test_good_model_and_nodes_out_of_order() -> None:
    nodes = [relu("c", "y", "n3"), relu("b", "c", "n2"), helper.make_node("Neg", ["x"], ["b"])]
    x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
    np.testing.assert_array_equal(run(import_model(model(nodes)), {"x": x})["y"], np.maximum(-x, 0))


def test_a_long_chain_out_of_order() -> None:
    nodes = [relu(f"v{k}" if k else "x", f"v{k + 1}", f"n{k}") for k in range(5000)]
    nodes[-1].output[0] = "y"
    import_model(model(nodes[::-1]))


def test_a_long_cycle_names_some_nodes() -> None:
    nodes = [relu(f"v{k}", f"v{(k + 1) % 3000}", f"n{k}") for k in range(3000)]
    with pytest.raises(ModelError, match=r"cycle.*and 2992 more"):
        import_model(model([*nodes, relu()]))


# -- sizes ----------------------------------------------------------------------------------------


def _raw(dims: list[int], kind: int = F, raw: bytes = b"") -> TensorProto:
    return TensorProto(name="w", data_type=kind, dims=dims, raw_data=raw)


BAD_TENSORS = {
    "terabyte": (_raw([1 << 20, 1 << 18]), LimitError, "tensor 'w' declares.*bytes"),
    "overflowing": (_raw([1 << 62, 1 << 62]), LimitError, "declares"),
    "negative": (_raw([-3]), ModelError, "'w'.*-3"),
    "too short": (_raw([4], raw=b"\0" * 12), ModelError, "'w'.*16 bytes.*holds 12"),
    "too long": (_raw([2], raw=b"\0" * 12), ModelError, "'w'.*8 bytes.*holds 12"),
    "no data": (TensorProto(name="w", data_type=F, dims=[3]), ModelError, "'w'.*holds 0 elements"),
    "undefined type": (_raw([1], 0), ModelError, "number 0"),
    "unknown type": (_raw([1], 999), ModelError, "number 999"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_broken_tensors(name: str) -> None:
    tensor, error, text = BAD_TENSORS[name]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    tracemalloc.start()
    try:
        with pytest.raises(error, match="(?s)" + text):
            import_model(model([node], inits=[tensor]))
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", ["input", "constant of shape", "expand", "tile", "pad", "sparse"])
def test_declared_terabytes_are_refused_before_anything_is_allocated(how: str) -> None:
    big = 1 << 20
    shape = numpy_helper.from_array(np.array([big, big], np.int64), "s")
    nodes, inputs, inits = [relu()], [value("x")], [shape]
    if how == "input":
        inputs = [value("x", (big, big))]
    elif how == "constant of shape":
        nodes = [helper.make_node("ConstantOfShape", ["s"], ["y"])]
    elif how == "expand":
        nodes = [helper.make_node("Expand", ["x", "s"], ["y"])]
        inputs = [value("x", (1, 1))]
    elif how == "tile":
        nodes = [helper.make_node("Tile", ["x", "s"], ["y"])]
    elif how == "pad":
        pads = np.array([big, big, big, big], np.int64)
        inits = [numpy_helper.from_array(pads, "s")]
        nodes = [helper.make_node("Pad", ["x", "s"], ["y"])]
    else:
        sparse = onnx.SparseTensorProto(dims=[big, 1 << 14])
        sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
        broken = model([helper.make_node("Identity", ["w"], ["y"])])
        broken.graph.sparse_initializer.append(sparse)
        with pytest.raises(LimitError, match="'w'"):
            import_model(broken)
        return
    with pytest.raises(LimitError, match="bytes"):
        import_model(model(nodes, inputs, inits=inits))


def test_an_axis_of_no_elements_hides_no_size_beyond_memory() -> None:
    empty = TensorProto(name="w", data_type=F, dims=[2**63 - 1, 13, 0])
    with pytest.raises(LimitError, match="'w' declares"):
        import_model(model([helper.make_node("Identity", ["w"], ["y"])], inits=[empty]))
    with pytest.raises(LimitError, match="declares"):
        import_model(model([relu()], [value("x", (2**62, 0, 2**62))]))


@pytest.mark.parametrize("op", ["Expand", "Pad", "ConvTranspose"])
def test_no_result_has_a_negative_size(op: str) -> None:
    """Where an operator's own rules let one through, the node is named all the same."""
    inputs, more = [value("x", (4, 3))], []
    if op == "Expand":
        more = [numpy_helper.from_array(np.array([-2, 1, 1]), "s")]
    elif op == "Pad":
        more = [numpy_helper.from_array(np.array([-100, 0, 0, 0]), "s")]
    else:
        inputs = [value("x", (1, 2, 3))]
        more = [numpy_helper.from_array(np.ones((2, 2, 3), np.float32), "s")]
    node = helper.make_node(op, ["x", "s"], ["y"], name="n",
                            **({"pads": [9, 9]} if op == "ConvTranspose" else {}))
    with pytest.raises(ModelError, match=rf"node 'n': {op} \(opset 17\) \(.*: the result would be"):
        import_model(model([node], inputs, inits=more))


@pytest.mark.parametrize("groups", [0, -1, 3])
def test_groups_that_divide_no_channels(groups: int) -> None:
    weights = numpy_helper.from_array(np.ones((2, 2, 3), np.float32), "w")
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="n", group=groups)
    with pytest.raises(ModelError, match=rf"node 'n': .*2 input channels in {groups} groups"):
        import_model(model([node], [value("x", (1, 2, 3))], inits=[weights]))


def test_a_loop_goes_on_by_one_bool() -> None:
    """Of several, NumPy would not say which counts."""
    body = helper.make_graph(
        [helper.make_node("Greater", ["s", "s"], ["more"]),
         helper.make_node("Identity", ["s"], ["t"])], "b",
        [value("i", (), TensorProto.INT64), value("c", (), TensorProto.BOOL), value("s")],
        [value("more", None, TensorProto.BOOL), value("t", None)])
    node = helper.make_node("Loop", ["", "go", "x"], ["y"], name="n", body=body)
    with pytest.raises(ModelError, match=r"node 'n': Loop .*must be one bool, not bool\[2, 3\]"):
        import_model(model([node], [value("go", (), TensorProto.BOOL), value("x")]))


def test_sizes_that_explode_end_in_an_error() -> None:
    """Each round squares the number of terms of a size, then doubles its text."""
    for op in ("Mul", "Max"):
        nodes = [node_ for k in range(60) for node_ in (
            helper.make_node("Add", [f"s{k}", "m"], [f"a{k}"]),
            helper.make_node("Mul", [f"s{k}", "n"], [f"b{k}"]),
            helper.make_node(op, [f"a{k}", f"b{k}"], [f"s{k + 1}"]),
        )]  # fmt: skip
        nodes = [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Split", ["shape"], ["n", "m"], num_outputs=2),
            helper.make_node("Add", ["n", "m"], ["s0"]), *nodes,
            helper.make_node("ConstantOfShape", ["s60"], ["y"]),
        ]  # fmt: skip
        with contextlib.suppress(EvonnxError):
            import_model(model(nodes, [value("x", ("N", "M"))], opset=18))


def test_long_axes_are_not_tabulated() -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 1, 3e9], np.float32), "s")
    tall = [value("x", (1, 1, 1, 8))]
    nodes = [
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear"),
        helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[1, 1 << 29],
                         pads=[0, 1 << 29, 0, 1 << 29], count_include_pad=0),
        helper.make_node("MelWeightMatrix", ["b", "b", "b", "s0", "s0"], ["y"]),
    ]  # fmt: skip
    big = numpy_helper.from_array(np.array(1 << 40), "b")
    zero = numpy_helper.from_array(np.array(0.0, np.float32), "s0")
    for node in nodes:
        tracemalloc.start()
        try:
            with contextlib.suppress(EvonnxError):
                import_model(model([node], tall, inits=[scales, big, zero]))
            assert tracemalloc.get_traced_memory()[1] < 200 << 20
        finally:
            tracemalloc.stop()


# -- nesting --------------------------------------------------------------------------------------


def _nested(depth: int) -> bytes:
    """Serialized model with If branches nested ``depth`` deep, built from the inside out (the
    protobuf library itself refuses to)."""

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    def field(number: int, payload: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(payload)) + payload

    inner = field(12, field(1, b"x"))
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, inner) + b"\xa0\x01\x05"
        node = field(1, b"c") + field(2, b"y") + field(4, b"If") + field(5, attribute)
        inner = field(1, node) + field(12, field(1, b"y"))
    return b"\x08\x08" + field(7, inner) + field(8, b"\x10\x11")


@pytest.mark.parametrize("depth", [45, 200, 10_000])
def test_deep_nesting_in_a_file(depth: int) -> None:
    with pytest.raises(EvonnxError):
        import_model(_nested(depth))
    with pytest.raises(EvonnxError):
        missing(_nested(depth))


def test_deep_nesting_in_memory() -> None:
    deep = model([relu()])
    graph = deep.graph
    for _ in range(10_000):
        node = graph.node.add(op_type="If", input=["c"], output=["y"])
        attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
    with pytest.raises(LimitError, match="nested"):
        import_model(deep)


def test_deep_types_and_function_chains() -> None:
    info = onnx.ValueInfoProto(name="x")
    t = info.type
    for _ in range(10_000):
        t = t.sequence_type.elem_type
    with pytest.raises(EvonnxError):
        import_model(model([relu()], [info]))
    functions = [
        helper.make_function(
            "f", f"F{k}", ["x"], ["y"],
            [helper.make_node(f"F{k + 1}", ["x"], ["y"], domain="f")],
            [helper.make_opsetid("f", 1), helper.make_opsetid("", 17)],
        )
        for k in range(2000)
    ]  # fmt: skip
    deep = model([helper.make_node("F0", ["x"], ["y"], domain="f")],
                 imports=[helper.make_opsetid("", 17), helper.make_opsetid("f", 1)])  # fmt: skip
    deep.functions.extend(functions)
    with pytest.raises(LimitError, match="nested"):
        import_model(deep)


def test_a_function_that_contains_itself() -> None:
    call = helper.make_node("Loop_", ["x"], ["y"], domain="f")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    deep = model([call], imports=imports)
    deep.functions.append(helper.make_function("f", "Loop_", ["x"], ["y"], [call], imports))
    with pytest.raises(ModelError, match="contains itself"):
        import_model(deep)


# -- types of operands ----------------------------------------------------------------------------

D, I64 = TensorProto.DOUBLE, TensorProto.INT64
MIXED: dict[str, tuple[list[tuple[tuple[int, ...], int]], dict[str, Any]]] = {
    "Conv": ([((1, 3, 8, 8), F), ((4, 3, 3, 3), D)], {}),
    "Gemm": ([((2, 3), F), ((3, 4), F), ((4,), D)], {}),
    "MatMul": ([((2, 3), F), ((3, 4), D)], {}),
    "Add": ([((2, 3), F), ((2, 3), I64)], {}),
    "Concat": ([((2, 3), F), ((2, 3), F), ((2, 3), D)], {"axis": 0}),
    "Where": ([((2, 3), TensorProto.BOOL), ((2, 3), F), ((2, 3), D)], {}),
    "LSTM": ([((5, 1, 3), F), ((1, 16, 3), D), ((1, 16, 4), D)], {"hidden_size": 4}),
    "BatchNormalization": ([((1, 3, 2), F), ((3,), F), ((3,), D), ((3,), F), ((3,), F)], {}),
}  # fmt: skip
"""Operands of different types that share a type variable, by operator."""


@pytest.mark.parametrize("op", MIXED)
@pytest.mark.parametrize("opset", [13, 20])
def test_types_that_must_agree(op: str, opset: int) -> None:
    operands, attrs = MIXED[op]
    names = [f"x{i}" for i in range(len(operands))]
    node = helper.make_node(op, names, ["y"], "mixed", **attrs)
    inputs = [value(n, *o) for n, o in zip(names, operands, strict=True)]
    with pytest.raises(ModelError, match=rf"node 'mixed': {op} \(opset {opset}\).*of one type"):
        import_model(model([node], inputs, opset=opset))


def test_types_that_an_operator_does_not_take() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], "ints")
    ints = [value("x", kind=TensorProto.INT32)]
    ints_out = [value("y", kind=TensorProto.INT32)]
    import_model(model([node], ints, ints_out, opset=14))
    with pytest.raises(ModelError, match=r"'ints': Relu \(opset 13\).*\(X\) is a tensor\(int32\)"):
        import_model(model([node], ints, opset=13))


def test_types_inside_functions_and_branches() -> None:
    add = helper.make_node("Add", ["x", "i"], ["y"], "mixed")
    mixed = [value("x"), value("i", kind=I64)]
    branch = helper.make_graph([add], "then", [], [value("y", None)])
    choose = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    with pytest.raises(ModelError, match="mixed"):
        import_model(model([choose], [*mixed, value("c", (), TensorProto.BOOL)], [value("z")]))
    default = helper.make_opsetid("", 17)
    body = helper.make_function("acme", "F", ["x", "i"], ["y"], [add], [default])
    imports = [default, helper.make_opsetid("acme", 1)]
    call = helper.make_node("F", ["x", "i"], ["y"], domain="acme")
    with pytest.raises(ModelError, match="mixed"):
        import_model(model([call], mixed, imports=imports, functions=[body]))


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["x", "m", "y", "w", "size", "node", "op", "domain", "inner"])
def test_names_that_are_not_utf8(where: str) -> None:
    """Protobuf hands them on as bytes, which nothing behind it takes for a name."""
    name = {k: k for k in ("x", "m", "y", "w", "size", "node", "inner")} | {where: "QQQQ"}
    add = helper.make_node("Add", [name["m"], name["w"]], [name["y"]], name=name["node"])
    if where in ("op", "domain"):
        setattr(add, {"op": "op_type"}.get(where, where), "QQQQ")
    branch = helper.make_graph([helper.make_node("Neg", [name["x"]], [name["inner"]])], "b", [],
                               [value(name["inner"], None)])
    choose = helper.make_node("If", ["c"], [name["m"]], then_branch=branch, else_branch=branch)
    whole = model([choose, add], [value("c", (), TensorProto.BOOL),
                                  value(name["x"], (name["size"], 3))], [value(name["y"], None)],
                  [numpy_helper.from_array(np.ones(3, np.float32), name["w"])])
    data = whole.SerializeToString()
    if where not in ("op", "domain"):
        assert import_model(data).outputs
    with pytest.raises(ModelError, match=r"the name .*xff.* is not UTF-8|of a size is not UTF-8"):
        import_model(data.replace(b"QQQQ", b"\xff\xfeQ\xff"))


def test_names_with_quotes_newlines_and_code() -> None:
    target = Path("/tmp/evonnx_pwned")
    nodes = [relu(NASTY, "a" + NASTY, NASTY), helper.make_node("Neg", ["a" + NASTY], [NASTY + "y"])]
    named = model(nodes, [value(NASTY, (NASTY, 3))], [value(NASTY + "y", None)])
    graph = import_model(named)
    x = np.ones((2, 3), np.float32)
    assert graph.input_names == (NASTY,)
    np.testing.assert_array_equal(run(graph, {NASTY: x})[NASTY + "y"], -x)
    assert not target.exists()


def test_compiled_models_quote_names(tmp_path: Path) -> None:
    nodes = [relu(NASTY, "a" + NASTY, NASTY), helper.make_node("Neg", ["a" + NASTY], [NASTY + "y"])]
    named = model(nodes, [value(NASTY, (NASTY, 3))], [value(NASTY + "y", None)])
    compiled = evonnx.compile(named, threads=1, cache=tmp_path)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(compiled.run(None, {NASTY: x})[0], -x)
    shown = repr(compiled)
    assert "a\"b\\'c\\n{x}" in shown and "\n" not in shown and "\u202e" not in shown
    assert not any("import" in text for text in compiled.source.values())
    assert not Path("/tmp/evonnx_pwned").exists()


def test_messages_quote_names() -> None:
    for bad in (
        model([helper.make_node(NASTY, ["x"], ["y"], NASTY)]),
        model([relu("gone" + NASTY)]),
        model([helper.make_node("Add", ["x", "i"], ["y"], NASTY)],
              [value("x"), value("i", (2, 4))]),
    ):  # fmt: skip
        with pytest.raises(EvonnxError) as caught:
            import_model(bad)
        assert "\n{x}" not in str(caught.value)
        assert "\u202e" not in str(caught.value)


# -- gaps -----------------------------------------------------------------------------------------


def test_missing_lists_every_gap_at_once() -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "fine"),
        helper.make_node("Twiddle", ["b"], ["c"], "second"),
        helper.make_node("Cast", ["x"], ["d"], "third", to=TensorProto.COMPLEX64),
        helper.make_node("Relu", ["x"], ["y"], "fourth", domain="acme"),
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    bad = model(nodes, outputs=[value("c", None), value("y", None)], imports=imports)
    gaps = missing(bad)
    assert [g.node for g in gaps] == ["'first'", "'second'", "'third'", "'fourth'"]
    with pytest.raises(UnsupportedError) as caught:
        import_model(bad)
    assert caught.value.gaps == gaps
    assert missing(GOOD) == ()
