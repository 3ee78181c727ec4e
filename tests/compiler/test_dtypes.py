"""Every element type that ONNX's newest schemas allow, for the operators of every model.

The walk reads the type constraints of the schemas: one model per element type (but float32, which
every other test is about) holds all operators of ``RECIPES`` that allow it. It is compiled and
compared with ONNX's reference evaluator.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import evonnx
from evonnx.ir.builder import Builder
from evonnx.ir.interp import run
from evonnx.ir.target import Target
from evonnx.ir.types import F16, F32, F64, TensorType

OPSET = 28
SCHEMA_TYPES = {
    f"tensor({name})": (number, np.dtype(np_type)) for name, number, np_type in (
        ("float", TensorProto.FLOAT, np.float32), ("double", TensorProto.DOUBLE, np.float64),
        ("float16", TensorProto.FLOAT16, np.float16),
        ("bfloat16", TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        ("bool", TensorProto.BOOL, np.bool_),
        ("int8", TensorProto.INT8, np.int8), ("int16", TensorProto.INT16, np.int16),
        ("int32", TensorProto.INT32, np.int32), ("int64", TensorProto.INT64, np.int64),
        ("uint8", TensorProto.UINT8, np.uint8), ("uint16", TensorProto.UINT16, np.uint16),
        ("uint32", TensorProto.UINT32, np.uint32), ("uint64", TensorProto.UINT64, np.uint64),
        ("complex64", TensorProto.COMPLEX64, np.complex64),
        ("complex128", TensorProto.COMPLEX128, np.complex128),
        ("float8e4m3fn", TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
        ("float8e4m3fnuz", TensorProto.FLOAT8E4M3FNUZ, ml_dtypes.float8_e4m3fnuz),
        ("float8e5m2", TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2),
        ("float8e5m2fnuz", TensorProto.FLOAT8E5M2FNUZ, ml_dtypes.float8_e5m2fnuz),
        ("float8e8m0", TensorProto.FLOAT8E8M0, ml_dtypes.float8_e8m0fnu),
        ("float4e2m1", TensorProto.FLOAT4E2M1, ml_dtypes.float4_e2m1fn),
        ("int4", TensorProto.INT4, ml_dtypes.int4), ("uint4", TensorProto.UINT4, ml_dtypes.uint4),
        ("int2", TensorProto.INT2, ml_dtypes.int2), ("uint2", TensorProto.UINT2, ml_dtypes.uint2),
    )
}  # fmt: skip
"""Name in schemas -> (ONNX number, NumPy dtype)."""

UNARY = (
    "Abs", "Neg", "Sign", "Ceil", "Floor", "Round", "Sqrt", "Exp", "Log", "Sin", "Cos", "Tan",
    "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Erf", "Sigmoid", "Reciprocal", "Relu", "Not",
    "BitwiseNot", "IsNaN", "IsInf", "Identity", "Softplus", "Softsign", "Elu", "Selu", "Celu",
    "LeakyRelu", "HardSigmoid", "HardSwish", "Mish", "ThresholdedRelu", "Gelu", "Shrink",
    "Transpose", "Flatten", "Shape", "Size", "NonZero", "Softmax", "LogSoftmax", "Hardmax",
    "ArgMax", "ArgMin", "Dropout", "Det", "Swish",
)  # fmt: skip
BINARY = (
    "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
    "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Max", "Min", "Mean", "Sum",
    "PRelu", "MatMul",
)  # fmt: skip
REDUCE = ("Sum", "Prod", "Max", "Min", "Mean", "SumSquare", "L1", "L2", "LogSum", "LogSumExp")
RECIPES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *((op, ("x",), {}) for op in UNARY),
    *((op, ("x", "y"), {}) for op in BINARY),
    *((f"Reduce{kind}", ("x", np.array([1])), {}) for kind in REDUCE),
    ("Mod", ("x", "y"), {"fmod": 1}), ("BitShift", ("x", "small"), {"direction": "LEFT"}),
    ("BitShift", ("x", "small"), {"direction": "RIGHT"}), ("Where", ("flag", "x", "y"), {}),
    ("Clip", ("x", "one", "top"), {}), ("Reshape", ("x", np.array([4, -1])), {}),
    ("Unsqueeze", ("x", np.array([0, 3])), {}), ("Squeeze", ("x", np.array([0])), {}),
    ("Expand", ("x", np.array([2, 4, 4])), {}), ("Tile", ("x", np.array([1, 1, 2])), {}),
    ("Concat", ("x", "y", "k"), {"axis": 1}), ("Split", ("x",), {"axis": 1, "num_outputs": 2}),
    ("Slice", ("x", np.array([3]), np.array([0]), np.array([1]), np.array([-1])), {}),
    ("Pad", ("x", np.array([0, 1, 0, 0, 0, 2]), "one"), {}),
    ("Pad", ("x", np.array([0, 1, 1, 0, 0, 2])), {}),
    ("Pad", ("x", np.array([0, 1, 1, 0, 1, 1])), {"mode": "reflect"}),
    ("Gather", ("x", np.array([2, -1, 0])), {"axis": 1}),
    ("GatherElements", ("x", np.array([[[1, 0, 2, 3]]])), {"axis": 1}),
    ("GatherND", ("x", np.array([[0, 1], [0, 3]])), {}),
    ("ScatterElements", ("x", np.array([[[1, 0, 2, 3]]]), "row"), {"axis": 1}),
    ("ScatterND", ("x", np.array([[0, 1, 2], [0, 3, 0]]), "pair"), {}),
    ("Compress", ("x", np.array([True, False, True, True])), {"axis": 2}),
    ("Trilu", ("x",), {"upper": 0}), ("CumSum", ("x", np.array(2)), {}),
    ("TopK", ("x", np.array([2])), {"axis": 2}), ("Unique", ("x",), {}),
    ("OneHot", (np.array([1, 0, 5]), np.array(4), "pair"), {}),
    ("DepthToSpace", ("image",), {"blocksize": 2}), ("SpaceToDepth", ("image",), {"blocksize": 2}),
    ("ReverseSequence", ("square", np.array([3, 1, 2])), {"time_axis": 1, "batch_axis": 0}),
    ("EyeLike", ("square",), {"k": 1}), ("Range", ("one", "top", "one"), {}),
    ("Einsum", ("x", "y"), {"equation": "bij,bjk->bki"}),
    ("Gemm", ("square", "square", "square"), {}),
    ("CenterCropPad", ("x", np.array([3, 5])), {"axes": [1, 2]}),
]  # fmt: skip
"""(operator, operands: names of ``operands`` or arrays, attributes)."""
REFUSED = {"NonZero": "c", "Unique": "c"}
"""Operators that are refused for types of these kinds."""
OFF = {("ReduceSumSquare", "int32"), ("ReduceSumSquare", "uint32"), ("Det", "bfloat16")}
"""Where the reference answers another type than its schema says."""


def operands(dtype: np.dtype[Any]) -> dict[str, np.ndarray]:
    """Small numbers of every sign that the type has, most of them distinct."""
    rng = np.random.default_rng(11)

    def draw(*shape: int) -> np.ndarray:
        real = rng.integers(-12, 13, shape) / 4
        if dtype.kind == "c":
            return (real + 1j * rng.integers(-4, 5, shape)).astype(dtype)
        if dtype.kind == "b":
            return real > 0
        name = dtype.name
        if "int" in name:
            real = real * 4
            real = np.abs(real) + 1 if name[0] == "u" else np.where(real == 0, 7, real)
            return np.clip(real, *(_range(dtype))).astype(dtype)
        real = np.where(real == 0, 0.5, real)
        return np.exp2(np.round(real)).astype(dtype) if "e8m0" in name else real.astype(dtype)

    return {
        "x": draw(1, 4, 4), "y": draw(1, 4, 4), "k": draw(1, 2, 4), "row": draw(1, 1, 4),
        "pair": draw(2), "image": draw(1, 4, 2, 2), "square": draw(3, 3),
        "one": np.ones((), dtype), "top": np.asarray(np.ones(()) + 1).astype(dtype),
        "small": np.abs(draw(1, 4, 4)) if dtype.kind != "b" else draw(1, 4, 4),
        "flag": rng.integers(0, 2, (1, 4, 4)).astype(bool),
    }  # fmt: skip


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = ml_dtypes.iinfo(dtype)
    return int(info.min), int(info.max)


def allowed(op: str, type_name: str) -> bool:
    """Whether the schema lets the operands that vary have the type."""
    schema = onnx.defs.get_schema(op)
    first = schema.inputs[{"Where": 1, "OneHot": 2}.get(op, 0)].type_str
    constraint = next((t for t in schema.type_constraints if t.type_param_str == first), None)
    return type_name in (constraint.allowed_type_strs if constraint is not None else [first])


def typed_model(
    picks: list[tuple[str, tuple[Any, ...], dict[str, Any]]], feeds: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """A model of all ``picks``, side by side; outputs are named ``o<pick>_<output>``."""
    nodes, held, outputs, used = [], [], [], set()
    for k, (op, args, attrs) in enumerate(picks):
        names = []
        for a in args:
            if isinstance(a, np.ndarray):
                held.append(numpy_helper.from_array(a, f"c{len(held)}"))
                names.append(held[-1].name)
            else:
                names.append(a)
                used.add(a)
        counts = {"Split": 2, "TopK": 2, "Unique": 4, "Dropout": 2}
        outs = [f"o{k}_{i}" for i in range(counts.get(op, 1))]
        nodes.append(helper.make_node(op, names, outs, **attrs))
        outputs += [onnx.ValueInfoProto(name=name) for name in outs]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(feeds[n].dtype),
                                      feeds[n].shape)
        for n in sorted(used)
    ]
    graph = helper.make_graph(nodes, "types", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=13)


def expected(
    pick: tuple[Any, ...], feeds: dict[str, np.ndarray], lab: Any
) -> tuple[list[Any], bool]:
    """Results by ONNX's reference where it takes the type, else by our interpreter."""
    model = typed_model([pick], feeds)
    given = {i.name: feeds[i.name] for i in model.graph.input}
    with np.errstate(all="ignore"):
        try:
            return ReferenceEvaluator(model).run(None, given), True
        except Exception:  # whatever a reference that does not know the type raises
            return list(lab.ours(model, given).values()), False


def close(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal type and shape; numbers equal, floats to a few units of the last place."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if got.dtype.kind == "c":
        return bool(np.allclose(got, want, equal_nan=True))
    slack = 0.0
    if "float" in got.dtype.name:
        slack = max(4 * float(ml_dtypes.finfo(got.dtype).eps), 2e-6)
    wide = [a.astype(np.float64) if slack else a.astype(object) for a in (got, want)]
    return bool(np.allclose(*wide, slack, slack, True) if slack else (wide[0] == wide[1]).all())


@pytest.mark.parametrize("name", [t for t in SCHEMA_TYPES if t != "tensor(float)"])
def test_every_type_a_schema_allows(lab: Any, name: str) -> None:
    _, dtype = SCHEMA_TYPES[name]
    feeds = operands(dtype)
    picks = [p for p in RECIPES if allowed(p[0], name) and dtype.kind not in REFUSED.get(p[0], "")]
    if "e8m0" in dtype.name:  # padding with 0, which is no power of two
        picks = [p for p in picks if p[0] != "Pad" or len(p[1]) == 3 or p[2]]
    assert len(picks) >= 10
    model = typed_model(picks, feeds)
    # Nothing is searched: the nodes have nothing to do with one another.
    compiled = evonnx.compile(model, threads=1, search="none")
    names = [o.name for o in model.graph.output]
    given = {i.name: feeds[i.name] for i in model.graph.input}
    got = dict(zip(names, compiled.run(names, given), strict=True))
    checked = 0
    for k, pick in enumerate(picks):
        wanted, by_reference = expected(pick, feeds, lab)
        checked += by_reference
        for i, want in enumerate(wanted):
            want = np.asarray(want)
            if (pick[0], dtype.name) in OFF:
                want = want.astype(dtype)
            assert close(got[f"o{k}_{i}"], want), (pick, got[f"o{k}_{i}"], want)
    assert checked >= len(picks) - 2
    assert not [s for s in compiled.program.steps if type(s).__name__ == "HostStep"]


@pytest.mark.parametrize("op", ["NonZero", "Unique"])
def test_complex_numbers_that_are_compared_are_refused(op: str) -> None:
    model = typed_model([(op, ("x",), {})], operands(np.dtype(np.complex64)))
    with pytest.raises(evonnx.EvonnxError, match="c64"):
        evonnx.compile(model)


NARROW = [t for t, (_, d) in SCHEMA_TYPES.items() if d.itemsize == 1 and d.kind not in "b"]


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("field", ["raw", "int32"])
def test_packed_initializers(name: str, field: str) -> None:
    """Every code of a narrow type, from a packed initializer to an output: raw or as int32 data,
    of a size that leaves the last byte half empty."""
    number, dtype = SCHEMA_TYPES[name]
    bits = (ml_dtypes.iinfo if "int" in dtype.name else ml_dtypes.finfo)(dtype).bits
    codes = np.tile(np.arange(1 << bits, dtype=np.uint8), 2)[:-1]
    tensor = numpy_helper.from_array(codes.view(dtype).reshape(-1), "w")
    if field == "int32":
        packed = np.frombuffer(tensor.raw_data, np.uint8)
        tensor.ClearField("raw_data")
        signed = dtype == np.int8
        tensor.int32_data.extend((packed.view(np.int8) if signed else packed).tolist())
    out = helper.make_tensor_value_info("y", number, codes.shape)
    again = helper.make_tensor_value_info("z", number, (1, *codes.shape))
    one = numpy_helper.from_array(np.array([0]), "axes")
    given = helper.make_tensor_value_info("x", number, codes.shape)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"]),
         helper.make_node("Unsqueeze", ["x", "axes"], ["z"])],
        "packed", [given], [out, again], [tensor, one])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=13)
    x = codes[::-1].copy().view(dtype)
    y, z = evonnx.compile(model).run(["y", "z"], {"x": x})
    assert y.dtype == z.dtype == dtype
    assert (y.view(np.uint8) == codes).all() and (z.view(np.uint8)[0] == codes[::-1]).all()


@pytest.mark.parametrize("target", ["cpu", "avx2"])
@pytest.mark.parametrize("op", ["asin", "atan", "sinh", "asinh", "atanh", "tanh"])
def test_float64_comes_to_half_by_float32(op: str, target: str) -> None:
    """Processors narrow float32 only, and there is no library for the rest: LLVM must not join two
    roundings, as it would where a sign was copied before them."""
    if target == "avx2" and not Target.named(target).runs_here():
        pytest.skip("needs AVX2")
    b = Builder()
    x, wide = b.input("x", TensorType(F16, (4, 33))), b.input("w", TensorType(F64, (4, 33)))
    soft = b.op("softmax", x, axis=1)
    narrowed = b.op("cast", b.op("cast", b.op(op, wide), to=F32), to=F16)
    graph = b.build({"y": b.op(op, soft), "z": narrowed})
    rng = np.random.default_rng(3)
    feeds = {"x": rng.standard_normal((4, 33)).astype(np.float16),
             "w": rng.uniform(-1, 1, (4, 33))}
    compiled = evonnx.compile(graph, threads=1, cache=False, target=target)
    for got, want in zip(compiled.run(None, feeds), run(graph, feeds).values(), strict=True):
        assert got.dtype == np.float16
        assert np.allclose(got, want, rtol=2e-3, atol=1e-6)
