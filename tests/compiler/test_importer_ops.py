"""Every lowering against ONNX Runtime (or ONNX's reference evaluator, where that runs newer ops).

Each case is one node with its data. It is imported twice, with static and with symbolic sizes, at
every opset where the operator's meaning or its way of taking arguments differs, and run by the
reference interpreter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from evonnx.compiler.importer import import_model
from evonnx.compiler.importer.declarations import signature
from evonnx.compiler.importer.signature import check_node
from evonnx.ir.builder import Builder
from evonnx.ir.errors import ModelError, UnsupportedError
from evonnx.ir.interp import run

onnxruntime.set_default_logger_severity(4)
RNG = np.random.default_rng(7)


def f32(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@dataclass
class Case:
    """One node: data inputs are fed, ``const`` inputs are initializers."""

    op: str
    inputs: list[Any]
    attrs: dict[str, Any] = field(default_factory=dict)
    opsets: tuple[int, ...] = (17,)
    const: tuple[int, ...] = ()
    outputs: int = 1
    symbolic: bool = True
    rtol: float = 1e-4
    domain: str = ""
    tag: str = ""

    @property
    def id(self) -> str:
        return f"{self.op}{'-' + self.tag if self.tag else ''}"


def model_of(case: Case, opset: int, symbolic: bool) -> tuple[onnx.ModelProto, dict[str, Any]]:
    names, feeds, inits, infos = [], {}, [], []
    for k, x in enumerate(case.inputs):
        if x is None:
            names.append("")
            continue
        name = f"x{k}"
        names.append(name)
        if k in case.const:
            inits.append(numpy_helper.from_array(x, name))
            continue
        vector = x.ndim == 1 and x.dtype == np.int64 and x.size <= 4  # shapes, axes, counts
        shape = [d if vector or not symbolic else f"{name}_{a}" for a, d in enumerate(x.shape)]
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        infos.append(helper.make_tensor_value_info(name, kind, shape))
        feeds[name] = x
    outs = [f"y{k}" for k in range(case.outputs)]
    node = helper.make_node(case.op, names, outs, name="node", domain=case.domain, **case.attrs)
    graph = helper.make_graph(
        [node], "g", infos, [onnx.ValueInfoProto(name=o) for o in outs], inits
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=min(10, onnx.IR_VERSION))
    return model, feeds


def oracle(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    try:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, feeds)
    except Exception:
        return ReferenceEvaluator(model).run(None, feeds)


def check(case: Case, opset: int, symbolic: bool) -> None:
    model, feeds = model_of(case, opset, symbolic)
    graph = import_model(model)
    got = list(run(graph, feeds).values())
    want = oracle(model_of(case, opset, False)[0], feeds)
    for ours, theirs in zip(got, want, strict=True):
        theirs = np.asarray(theirs)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if ours.dtype.kind == "f":
            scale = max(float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0)), 1e-3)
            np.testing.assert_allclose(
                ours, theirs, rtol=case.rtol, atol=case.rtol * scale, equal_nan=True
            )
        else:
            np.testing.assert_array_equal(ours, theirs)


X = f32(2, 3, 5)
POSITIVE = f32(2, 3, 5, low=0.1, high=3.0)
UNIT = f32(2, 3, 5, low=-0.9, high=0.9)
SPECIAL = np.array([0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 88.0, -88.0], np.float32)
IMAGE = f32(2, 4, 9, 8)
INTS = RNG.integers(-9, 9, (2, 3, 5)).astype(np.int64)
BOOLS = RNG.integers(0, 2, (2, 3, 5)).astype(bool)
U32 = RNG.integers(0, 99, (2, 3, 5)).astype(np.uint32)

ELEMENTWISE = [
    *(Case(op, [X]) for op in (
        "Abs", "Neg", "Floor", "Ceil", "Round", "Exp", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh",
        "Tanh", "Asinh", "Erf", "Sigmoid", "Reciprocal", "Relu", "Sign", "Softplus", "Softsign",
        "HardSwish", "LeakyRelu", "Elu", "Celu", "Selu", "HardSigmoid", "ThresholdedRelu",
        "Identity", "Shrink")),
    Case("Mish", [X], opsets=(18,)),
    *(Case(op, [SPECIAL], tag="special") for op in (
        "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Abs", "Exp", "IsNaN", "IsInf", "Softplus")),
    *(Case(op, [POSITIVE]) for op in ("Sqrt", "Log")),
    *(Case(op, [UNIT]) for op in ("Asin", "Acos", "Atanh")),
    Case("Acosh", [POSITIVE + 1]),
    Case("Not", [BOOLS]),
    Case("BitwiseNot", [INTS], opsets=(18,)),
    Case("IsInf", [SPECIAL], {"detect_negative": 0}, tag="positive"),
    Case("LeakyRelu", [X], {"alpha": 0.3}, tag="alpha"),
    Case("Elu", [X], {"alpha": 0.3}, tag="alpha"),
    Case("Celu", [X], {"alpha": 0.3}, tag="alpha"),
    Case("Selu", [X], {"alpha": 1.1, "gamma": 2.0}, tag="alpha"),
    Case("HardSigmoid", [X], {"alpha": 0.4, "beta": 0.3}, tag="alpha"),
    Case("ThresholdedRelu", [X], {"alpha": 0.5}, tag="alpha"),
    Case("Shrink", [X], {"lambd": 0.7, "bias": 0.2}, tag="bias"),
    Case("Gelu", [X], opsets=(20,)),
    Case("Gelu", [X], {"approximate": "tanh"}, opsets=(20,), tag="tanh"),
    *(Case(op, [X, f32(3, 1)], opsets=(7, 17)) for op in ("Add", "Sub", "Mul", "Div")),
    *(Case(op, [INTS, INTS[:, :1] // 2 * 2 + 1]) for op in ("Add", "Sub", "Mul", "Div", "Mod")),
    *(Case(op, [X, f32(3, 1)], opsets=(9, 17)) for op in ("Less", "Greater")),
    *(Case(op, [X, f32(3, 1)], opsets=(12, 17)) for op in ("LessOrEqual", "GreaterOrEqual")),
    Case("Equal", [INTS, INTS[:1]], opsets=(7, 17)),
    Case("Mod", [X, f32(3, 1, low=0.3)], {"fmod": 1}, tag="fmod"),
    Case("Mod", [INTS, i64(3)], {"fmod": 1}, tag="int-fmod"),
    *(Case(op, [BOOLS, BOOLS[:, ::-1]]) for op in ("And", "Or", "Xor")),
    *(Case(op, [INTS, INTS[:1]], opsets=(18,)) for op in (
        "BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    Case("BitShift", [U32, U32 % 7], {"direction": "LEFT"}, tag="left"),
    Case("BitShift", [U32, U32 % 7], {"direction": "RIGHT"}, tag="right"),
    Case("Pow", [POSITIVE, X], opsets=(7, 12, 17)),
    Case("Pow", [X, i64(2)], tag="int-exponent"),
    Case("Pow", [INTS, np.array(2.0, np.float32)], tag="int-base"),
    *(Case(op, [X, f32(3, 1), f32(5)], opsets=(8, 13)) for op in ("Sum", "Max", "Min", "Mean")),
    Case("Max", [X], tag="one"),
    Case("Where", [BOOLS, X, f32(5)]),
    Case("PRelu", [X, f32(3, 1)], opsets=(7, 9, 16)),
    Case("Clip", [X], {"min": -0.5, "max": 0.7}, opsets=(7,), tag="attrs"),
    Case("Clip", [X, np.float32(-0.5).reshape(()), np.float32(0.7).reshape(())], opsets=(11, 13)),
    Case("Clip", [X, None, np.float32(0.7).reshape(())], tag="max"),
    Case("Clip", [INTS, np.int64(-2).reshape(())], tag="int"),
    Case("Dropout", [X], opsets=(7, 10, 13)),
    Case("CastLike", [X, INTS], opsets=(15,)),
    *(Case("Cast", [x], {"to": to}, tag=f"{x.dtype}-{to}") for x in (X, INTS, BOOLS) for to in (
        TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL, TensorProto.FLOAT16,
        TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8)
      if not (x is X and to == TensorProto.UINT8)),
]  # fmt: skip

SHAPES = [
    Case("Shape", [X]),
    Case("Shape", [X], {"start": -2, "end": 5}, tag="cut"),
    Case("Size", [X]),
    Case("Reshape", [X, i64(0, -1)], const=(1,), opsets=(7, 14)),
    Case("Reshape", [X, i64(5, 3, 2)], const=(1,)),
    Case("Reshape", [X, i64(5, -1)], tag="computed"),
    Case("Reshape", [np.zeros((2, 0, 3), np.float32), i64(3, 0, 2)], {"allowzero": 1},
         const=(1,), tag="allowzero"),
    *(Case("Flatten", [X], {"axis": a}, tag=str(a)) for a in (0, 1, 2, 3, -1)),
    Case("Squeeze", [f32(1, 3, 1)], {"axes": [0, 2]}, opsets=(7, 11)),
    Case("Squeeze", [f32(1, 3, 1)], opsets=(11, 13), symbolic=False, tag="all"),
    Case("Squeeze", [f32(1, 3, 1), i64(-1)], const=(1,), opsets=(13, 21)),
    Case("Unsqueeze", [X], {"axes": [0, 2]}, opsets=(7, 11)),
    Case("Unsqueeze", [X, i64(-1, 1)], const=(1,), opsets=(13, 21)),
    Case("Expand", [f32(3, 1), i64(2, 1, 4)], const=(1,)),
    Case("Expand", [f32(3, 4), i64(1, 4)], const=(1,), tag="two-way"),
    Case("Tile", [X, i64(2, 1, 3)], const=(1,)),
    Case("Tile", [f32(1, 3), i64(2, 2)], const=(1,), tag="ones"),
    Case("Transpose", [X], opsets=(7, 13)),
    Case("Transpose", [X], {"perm": [1, 2, 0]}, tag="perm"),
    Case("Concat", [X, f32(2, 3, 2), f32(2, 3, 0)], {"axis": -1}, opsets=(11, 13)),
    Case("Split", [X], {"axis": 2, "split": [1, 4]}, opsets=(7, 11), outputs=2),
    Case("Split", [f32(4, 6)], {"axis": 1}, opsets=(7, 13), outputs=3, tag="equal"),
    Case("Split", [f32(4, 7)], {"axis": 1, "num_outputs": 3}, opsets=(18,), outputs=3),
    Case("Split", [X, i64(2, 3)], {"axis": 2}, const=(1,), outputs=2, opsets=(13, 18), tag="in"),
    Case("ConstantOfShape", [i64(2, 3)], const=(0,)),
    Case("ConstantOfShape", [i64(2, 3)], {"value": numpy_helper.from_array(i64(7))}, tag="i64"),
    Case("EyeLike", [f32(3, 4)], {"k": 1, "dtype": TensorProto.INT64}),
    *(Case("Trilu", [f32(2, 4, 5), np.array(k)], {"upper": u}, tag=f"{k}-{u}")
      for k in (-1, 0, 2) for u in (0, 1)),
    Case("Range", [np.array(1), np.array(9), np.array(3)], const=(0, 1, 2)),
    Case("Range", [np.array(1), np.array(9), np.array(3)], tag="computed"),
    Case("Range", [np.array(9), np.array(-1), np.array(-3)], tag="down"),
    Case("Range", [np.float32(0.5), np.float32(3), np.float32(0.6)], tag="float"),
    Case("OneHot", [INTS, np.array(6), f32(2)], {"axis": 1}, const=(1,), opsets=(11,)),
    Case("OneHot", [INTS % 5, np.array(6), f32(2)], opsets=(9, 17), tag="last"),
]  # fmt: skip

STEPS = i64(1, -1, 2)
INDEX = [
    Case("Slice", [f32(6, 7)], {"starts": [1, -3], "ends": [99, -1]}, opsets=(7,), tag="attrs"),
    Case("Slice", [f32(6, 7)], {"starts": [2], "ends": [5], "axes": [1]}, opsets=(9,), tag="axes"),
    Case("Slice", [f32(6, 7, 8), i64(1, -1, -7), i64(-1, -99, 2**40), i64(0, 1, 2), STEPS],
         const=(1, 2, 3, 4), opsets=(10, 13)),
    *(Case("Slice", [f32(6, 7), i64(a), i64(b), i64(1), i64(s)], const=(1, 2, 3, 4),
           tag=f"{a}_{b}_{s}")
      for a, b, s in ((0, 3, 1), (-3, 99, 1), (2, -1, 2), (-1, -9, -1), (9, 2, -2), (5, 2, 1),
                      (-99, 4, 1), (3, 3, 1), (-2, -8, -3), (6, 99, 1))),
    *(Case("Slice", [f32(6, 7), i64(a), i64(b), i64(1), i64(s)], const=(3, 4),
           tag=f"computed{a}_{b}_{s}")
      for a, b, s in ((0, 3, 1), (-3, 99, 1), (2, -1, 2), (-1, -9, -1), (5, 2, 1))),
    Case("Pad", [f32(3, 4)], {"pads": [1, 0, 2, 3], "value": 1.5}, opsets=(7,), tag="attrs"),
    *(Case("Pad", [f32(3, 4), i64(1, 0, 2, 3)], {"mode": m}, const=(1,), tag=m)
      for m in ("constant", "reflect", "edge")),
    Case("Pad", [f32(3, 4), i64(1, 2, 2, 3)], {"mode": "wrap"}, const=(1,), opsets=(19,)),
    Case("Pad", [f32(3, 4), i64(-1, 1, 0, -2), np.float32(9.0).reshape(())], const=(1, 2),
         opsets=(11, 13), tag="negative"),
    Case("Pad", [f32(3, 4), i64(1, 2), None, i64(-1)], const=(1, 3), opsets=(18,), tag="axes"),
    Case("Pad", [f32(3, 4), i64(1, 0, 2, 3)], tag="computed"),
    Case("Gather", [f32(5, 4), np.array([[0, -1], [2, 4]])], {"axis": 0}),
    Case("Gather", [f32(5, 4), np.array(-1)], {"axis": 1}, const=(1,), tag="scalar"),
    Case("Gather", [f32(5, 4), i64(1)], {"axis": 1}, const=(1,), tag="one"),
    Case("GatherElements", [f32(3, 4), RNG.integers(-3, 3, (2, 4))], {"axis": 0}),
    Case("GatherND", [f32(3, 4, 5), RNG.integers(-3, 3, (2, 2))], opsets=(11, 13), symbolic=False),
    Case("GatherND", [f32(3, 4, 5), RNG.integers(-3, 3, (3, 2, 1))], {"batch_dims": 1},
         symbolic=False, tag="batch"),
    Case("ScatterElements", [f32(3, 4), i64(0, 2, -1, 1).reshape(1, 4), f32(1, 4)], {"axis": 0}),
    Case("ScatterElements", [f32(3, 4), i64(0, 2, -1, 1).reshape(1, 4), f32(1, 4)],
         {"reduction": "add"}, opsets=(16,), tag="add"),
    Case("ScatterND", [f32(3, 4), np.array([[0, 1], [2, 3]]), f32(2)], symbolic=False),
    Case("ScatterND", [f32(3, 4), np.array([[0], [-1]]), f32(2, 4)], {"reduction": "max"},
         opsets=(18,), symbolic=False, tag="max"),
    *(Case("DepthToSpace", [f32(2, 8, 3, 4)], {"blocksize": 2, "mode": m}, tag=m, opsets=(11, 13))
      for m in ("DCR", "CRD")),
    Case("SpaceToDepth", [f32(2, 3, 4, 6)], {"blocksize": 2}),
    Case("ReverseSequence", [f32(4, 3, 2), i64(1, 4, 2)], {"batch_axis": 1, "time_axis": 0}),
    Case("ReverseSequence", [f32(3, 4), i64(1, 4, 2)], {"batch_axis": 0, "time_axis": 1}, tag="b"),
    Case("NonZero", [BOOLS]),
    Case("Compress", [X, np.array([False, True, True])], {"axis": 1}),
    Case("Compress", [X, np.array([False, True, True])], tag="flat"),
]  # fmt: skip

W = f32(6, 4, 3, 2)
WINDOWS = [
    Case("Conv", [IMAGE, W]),
    Case("Conv", [IMAGE, W, f32(6)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}, tag="pads"),
    Case("Conv", [IMAGE, f32(6, 2, 3, 3)], {"group": 2, "dilations": [2, 1]}, tag="group"),
    *(Case("Conv", [IMAGE, W], {"auto_pad": a, "strides": [2, 3]}, tag=a)
      for a in ("SAME_UPPER", "SAME_LOWER", "VALID")),
    Case("Conv", [f32(1, 2, 11), f32(3, 2, 4)], tag="1d"),
    Case("Conv", [f32(1, 2, 5, 6, 7), f32(3, 2, 2, 3, 2)], tag="3d"),
    Case("ConvTranspose", [IMAGE, f32(4, 3, 3, 2), f32(3)], {"strides": [2, 1]}),
    Case("ConvTranspose", [IMAGE, f32(4, 3, 3, 2)],
         {"strides": [2, 3], "pads": [1, 0, 1, 1], "output_padding": [1, 0]}, tag="pads"),
    Case("ConvTranspose", [IMAGE, f32(4, 3, 3, 2)], {"group": 2, "dilations": [1, 2]}, tag="group"),
    Case("ConvTranspose", [IMAGE, f32(4, 3, 3, 2)],
         {"strides": [2, 2], "output_shape": [18, 16]}, symbolic=False, tag="shape"),
    *(Case("ConvTranspose", [IMAGE, f32(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": a}, tag=a)
      for a in ("SAME_UPPER", "SAME_LOWER")),
    *(Case(op, [IMAGE], {"kernel_shape": [3, 2], **extra}, tag=tag)
      for op in ("MaxPool", "AveragePool") for tag, extra in (
          ("plain", {}), ("strides", {"strides": [2, 3]}),
          ("pads", {"pads": [1, 0, 1, 1], "strides": [2, 2]}),
          ("ceil", {"ceil_mode": 1, "strides": [2, 3]}),
          ("ceilpads", {"ceil_mode": 1, "strides": [2, 2], "pads": [1, 1, 0, 1]}),
          ("same", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
          ("lower", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}))),
    Case("MaxPool", [IMAGE], {"kernel_shape": [2, 2], "dilations": [3, 2]}, tag="dilations"),
    Case("AveragePool", [IMAGE], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1,
                                  "strides": [2, 3], "count_include_pad": 1}, tag="include"),
    Case("AveragePool", [IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 2]}, opsets=(19,)),
    Case("LpPool", [IMAGE], {"kernel_shape": [3, 2], "p": 2}, opsets=(11,)),
    Case("LpPool", [IMAGE], {"kernel_shape": [3, 2], "p": 3, "strides": [2, 1]}, tag="p3"),
    *(Case(op, [IMAGE]) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")),
    Case("LRN", [IMAGE], {"size": 3, "alpha": 0.1, "beta": 0.7, "bias": 1.2}),
    Case("LRN", [IMAGE], {"size": 4}, tag="even"),
]  # fmt: skip

NORMS = [
    Case("BatchNormalization", [IMAGE, f32(4), f32(4), f32(4), f32(4, low=0.1)],
         opsets=(7, 9, 14, 15)),
    Case("InstanceNormalization", [IMAGE, f32(4), f32(4)], opsets=(7, 22)),
    Case("LayerNormalization", [X, f32(5), f32(5)]),
    Case("LayerNormalization", [X, f32(3, 5)], {"axis": 1}, tag="axis"),
    Case("LayerNormalization", [X, f32(5), f32(5)], outputs=3, tag="stats"),
    Case("GroupNormalization", [IMAGE, f32(2), f32(2)], {"num_groups": 2}, opsets=(18,),
         symbolic=False),
    Case("GroupNormalization", [IMAGE, f32(4), f32(4)], {"num_groups": 2}, opsets=(21,),
         symbolic=False),
    Case("RMSNormalization", [X, f32(5)], opsets=(23,)),
    Case("LpNormalization", [X], {"axis": 1, "p": 2}),
    Case("LpNormalization", [X], {"axis": -1, "p": 1}, tag="p1"),
    Case("MeanVarianceNormalization", [IMAGE], opsets=(9, 13)),
    *(Case(op, [X], {"axis": a}, opsets=(7, 11, 13), tag=str(a))
      for op in ("Softmax", "LogSoftmax", "Hardmax") for a in (0, 1, 2)),
    *(Case(op, [X], opsets=(7, 13), tag="default") for op in ("Softmax", "LogSoftmax")),
]  # fmt: skip

REDUCTIONS = [
    *(Case(op, [POSITIVE], {"axes": [-1, 0], "keepdims": k}, opsets=(7, 11), tag=f"attr{k}")
      for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1",
                 "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp") for k in (0, 1)),
    *(Case(op, [POSITIVE, i64(1)], const=(1,), opsets=(18,), tag="input")
      for op in ("ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp")),
    Case("ReduceSum", [X, i64(1)], const=(1,), opsets=(13,), tag="input"),
    Case("ReduceSum", [X], opsets=(13,), tag="all"),
    Case("ReduceSum", [X, i64()], {"noop_with_empty_axes": 1}, const=(1,), opsets=(13,),
         tag="noop"),
    Case("ReduceMax", [BOOLS], opsets=(20,), tag="bool"),
    Case("ReduceSum", [INTS], tag="int"),
    Case("ReduceLogSumExp", [X * 100], {"axes": [1]}, opsets=(13,), tag="large"),
    *(Case(op, [X], {"axis": a, "keepdims": k}, tag=f"{a}{k}")
      for op in ("ArgMax", "ArgMin") for a, k in ((0, 1), (-1, 0))),
    Case("ArgMax", [np.round(X)], {"axis": 1, "select_last_index": 1}, tag="last"),
    *(Case("CumSum", [X, np.array(1)], {"exclusive": e, "reverse": r}, const=(1,), tag=f"{e}{r}")
      for e in (0, 1) for r in (0, 1)),
    Case("TopK", [X], {"axis": -1, "k": 2}, opsets=(7,), outputs=2, tag="attr"),
    Case("TopK", [X, i64(2)], {"axis": 1}, const=(1,), opsets=(10, 11), outputs=2),
    Case("TopK", [X, i64(2)], {"largest": 0}, outputs=2, tag="computed"),
]  # fmt: skip


def einsum(equation: str, *shapes: tuple[int, ...]) -> Case:
    return Case("Einsum", [f32(*s) for s in shapes], {"equation": equation}, tag=equation)


PRODUCTS = [
    *(Case("MatMul", [f32(*a), f32(*b)], tag=f"{len(a)}{len(b)}") for a, b in (
        ((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)), ((4,), (2, 4, 5)), ((2, 3, 4), (4,)))),
    *(Case("Gemm", [f32(*a), f32(*b), c], {"transA": ta, "transB": tb, "alpha": 0.5, "beta": 2.0},
           opsets=(7, 13), tag=f"{ta}{tb}{c.shape}")
      for a, b, ta, tb in (((3, 4), (4, 5), 0, 0), ((4, 3), (5, 4), 1, 1))
      for c in (f32(5), f32(3, 1), f32(3, 5))),
    Case("Gemm", [f32(3, 4), f32(4, 5)], tag="no-bias"),
    einsum("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    einsum("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)),
    einsum("ij->ji", (3, 4)),
    einsum("ij->", (3, 4)),
    einsum("ii->i", (3, 3)),
    einsum("...ij,...jk->...ik", (2, 5, 3, 4), (5, 4, 6)),
    einsum("i,j->ij", (3,), (4,)),
    einsum("ij,j", (3, 4), (4,)),
    einsum("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    einsum("bnm,bm->bn", (2, 3, 4), (2, 4)),
    einsum("abc,cd->abd", (2, 3, 4), (4, 5)),
    einsum("bi,bi->bi", (2, 3), (2, 3)),
]  # fmt: skip


def resize(tag: str, scales: Any = None, sizes: Any = None, shape: Any = (1, 2, 5, 6),
           opsets: tuple[int, ...] = (13,), **attrs: Any) -> Case:  # fmt: skip
    empty = np.zeros(0, np.float32)
    given = None if scales is None else np.array(scales, np.float32)
    inputs = (
        [f32(*shape), empty, given]
        if sizes is None
        else [f32(*shape), empty, empty, np.array(sizes, np.int64)]
    )
    const = tuple(range(1, len(inputs)))
    return Case("Resize", inputs, attrs, const=const, opsets=opsets, tag=tag, rtol=2e-4)


for _equation, _shapes in (("ij,jk->ki", ((2, 1), (3, 4))),
                           ("ijl,jlk->ik", ((2, 3, 1), (1, 5, 4)))):  # fmt: skip
    _repeating = einsum(_equation, *_shapes)
    _repeating.symbolic = False  # that a size is 1 must be known
    PRODUCTS.append(_repeating)

MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
RESIZES = [
    *(resize(f"{m}-{c}-scales", [1, 1, 2.0, 1.5], mode=m, coordinate_transformation_mode=c)
      for m in ("nearest", "linear", "cubic") for c in MODES),
    *(resize(f"{m}-{c}-sizes", sizes=[1, 2, 3, 9], mode=m, coordinate_transformation_mode=c)
      for m in ("nearest", "linear", "cubic") for c in MODES),
    *(resize(f"nearest-{n}", [1, 1, 0.6, 1.7], mode="nearest", nearest_mode=n)
      for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    resize("upsample2", [1, 1, 2, 2], opsets=(11, 13, 19), mode="nearest",
           coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    resize("cubic-a", [1, 1, 2, 2], mode="cubic", cubic_coeff_a=-0.5),
    Case("Resize", [f32(1, 2, 5, 6), np.array([1, 1, 2, 3], np.float32)], opsets=(10,),
         const=(1,), tag="opset10"),
    Case("Resize", [f32(1, 2, 5, 6), np.array([1, 1, 2, 3], np.float32)], {"mode": "linear"},
         opsets=(10,), const=(1,), tag="opset10-linear"),
    Case("Upsample", [f32(1, 2, 5, 6), np.array([1, 1, 2, 3], np.float32)], opsets=(9,),
         const=(1,)),
    Case("Upsample", [f32(1, 2, 5, 6)], {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"},
         opsets=(7,), tag="attr"),
    Case("Resize", [f32(1, 2, 5, 6), None, None, i64(1, 2, 8, 3)], {"mode": "linear"},
         tag="computed-sizes"),
]  # fmt: skip
STATIC_RESIZES = [
    resize("antialias", sizes=[1, 2, 3, 4], shape=(1, 2, 9, 13), mode="linear", antialias=1,
           opsets=(18,)),
    resize("antialias-strong", sizes=[1, 2, 3, 4], shape=(1, 2, 30, 40), mode="cubic", antialias=1,
           opsets=(18,)),
    resize("exclude", [1, 1, 2, 0.8], mode="cubic", exclude_outside=1),
    resize("half-symmetric", [1, 1, 0.6, 1.7], mode="linear", opsets=(19,),
           coordinate_transformation_mode="half_pixel_symmetric"),
    Case("Resize", [f32(1, 2, 6, 7), np.array([0, 0, 0.2, -0.1, 1, 1, 0.8, 1.3], np.float32), None,
                    i64(1, 2, 4, 5)],
         {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize",
          "extrapolation_value": 9.0}, const=(1, 3), tag="crop"),
]  # fmt: skip
for _case in STATIC_RESIZES:
    _case.symbolic = False

GRID = f32(2, 3, 4, 2, low=-1.3, high=1.3)
SIGNAL = [
    *(Case("GridSample", [IMAGE, GRID], {"mode": m, "padding_mode": p, "align_corners": a},
           opsets=(16,), tag=f"{m}-{p}-{a}", rtol=1e-3)
      for m in ("bilinear", "nearest", "bicubic") for p in ("zeros", "border", "reflection")
      for a in (0, 1)),
    Case("GridSample", [f32(1, 2, 4, 5, 6), f32(1, 2, 3, 4, 3)], opsets=(20,), tag="3d"),
    Case("DFT", [f32(2, 10, 1)], {"axis": 1, "onesided": 1}, opsets=(17,), symbolic=False),
    Case("DFT", [f32(2, 10, 2)], {"axis": 1}, opsets=(17,), symbolic=False, tag="complex"),
    Case("DFT", [f32(2, 10, 2)], {"axis": 1, "inverse": 1}, symbolic=False, tag="inverse"),
    Case("DFT", [f32(2, 10, 1), np.array(16)], {"axis": 1}, const=(1,), symbolic=False,
         tag="padded"),
    Case("STFT", [f32(2, 100, 1), np.array(8), f32(16)], const=(1, 2), symbolic=False),
    Case("STFT", [f32(2, 100, 1), np.array(8), None, np.array(16)], {"onesided": 0}, const=(1, 3),
         symbolic=False, tag="two-sided"),
    *(Case(op, [np.array(9)], {"periodic": p}, const=(0,), tag=f"{p}")
      for op in ("HannWindow", "HammingWindow", "BlackmanWindow") for p in (0, 1)),
    Case("HannWindow", [np.array(9)], tag="computed"),
    Case("MelWeightMatrix", [np.array(8), np.array(64), np.array(8000), np.float32(0.0),
                             np.float32(4000.0)], const=(0, 1, 2, 3, 4)),
]  # fmt: skip

Q, K, V = f32(2, 4, 5, 8), f32(2, 2, 7, 8), f32(2, 2, 7, 6)
ATTENTION = [
    Case("Attention", [f32(2, 3, 5, 8), f32(2, 3, 7, 8), f32(2, 3, 7, 6)], opsets=(23,)),
    Case("Attention", [Q, K, V], opsets=(23,), tag="grouped"),
    Case("Attention", [Q, K, V, f32(5, 7)], {"scale": 0.3}, opsets=(23,), tag="mask"),
    Case("Attention", [Q, K, V], {"is_causal": 1}, opsets=(23,), tag="causal"),
    Case("Attention", [f32(2, 5, 12), f32(2, 7, 12), f32(2, 7, 12)],
         {"q_num_heads": 3, "kv_num_heads": 3}, opsets=(23,), tag="flat"),
    Case("Attention", [Q, K, V], {"softcap": 2.0}, opsets=(23,), tag="softcap"),
    Case("RotaryEmbedding", [f32(2, 3, 5, 8), f32(9, 4), f32(9, 4),
                             RNG.integers(0, 9, (2, 5))], opsets=(23,)),
]  # fmt: skip
for _case in ATTENTION:
    _case.symbolic = False

ALL = [*ELEMENTWISE, *SHAPES, *INDEX, *WINDOWS, *NORMS, *REDUCTIONS, *PRODUCTS, *RESIZES,
       *STATIC_RESIZES, *SIGNAL, *ATTENTION]  # fmt: skip
PARAMETERS = [
    pytest.param(case, opset, symbolic, id=f"{case.id}-{opset}-{'dyn' if symbolic else 'static'}")
    for case in ALL
    for opset in case.opsets
    for symbolic in ((False, True) if case.symbolic else (False,))
]


@pytest.mark.parametrize("case, opset, symbolic", PARAMETERS)
def test_lowering(case: Case, opset: int, symbolic: bool) -> None:
    check(case, opset, symbolic)


NEW_MEANING = {
    "Add": 7, "Sub": 7, "Mul": 7, "Div": 7, "Pow": 7, "Less": 7, "Greater": 7, "Equal": 7,
    "Sum": 8, "Max": 8, "Min": 8, "Mean": 8, "PRelu": 7, "Gemm": 7, "Selu": 6, "Dropout": 7,
    "BatchNormalization": 7, "OneHot": 11, "Softmax": 13, "LogSoftmax": 13, "Hardmax": 13,
    "Resize": 11, "GroupNormalization": 21,
}  # fmt: skip
"""Opset from which an operator means what it does now; the old meanings: ``test_op_versions``."""


def fits(case: Case, opset: int) -> bool:
    """Whether ONNX's schema at ``opset`` takes the node."""
    node = model_of(case, opset, False)[0].graph.node[0]
    sig = signature(case.domain, case.op, opset)
    b = Builder()
    operands = [None if a is None else b.const(np.asarray(a)) for a in case.inputs]
    try:
        assert sig is not None
        check_node(node, operands, {a.name: a for a in node.attribute}, sig)
    except ModelError:
        return False
    return True


def test_versions_of_one_meaning_agree() -> None:
    """Each case at every version of its operator that takes the node and means the same."""
    versions: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions.setdefault(schema.name, []).append(schema.since_version)
    compared = set()
    for case in ALL:
        turn = NEW_MEANING.get(case.op, 1)
        base = case.opsets[0]
        model, feeds = model_of(case, base, False)
        want = list(run(import_model(model), feeds).values())
        for opset in versions[case.op]:
            if (opset >= turn) != (base >= turn) or not fits(case, opset):
                continue
            got = list(run(import_model(model_of(case, opset, False)[0]), feeds).values())
            for a, b in zip(got, want, strict=True):
                assert a.dtype == b.dtype, (case.id, opset, base)
                np.testing.assert_array_equal(a, b, f"{case.id} at opset {opset} and {base}")
            compared.add((case.op, opset))
    assert len(compared) > 400


@pytest.mark.parametrize(
    "case",
    [
        Case("Range", [np.float16(0), np.float16(9), np.float16(1)], {"stash_type": 10},
             opsets=(27,)),
        Case("Resize", [X, None, f32(3)], {"keep_aspect_ratio_policy": "x"}, opsets=(19,)),
    ],
    ids=lambda c: c.op,
)
def test_what_is_refused_says_so(case: Case) -> None:
    from evonnx.ir.errors import EvonnxError

    model, _ = model_of(case, case.opsets[0], symbolic=False)
    if case.op == "Resize":
        with pytest.raises(EvonnxError):
            import_model(model_of(case, 19, True)[0], sizes={"nothing": 3})
        return
    with pytest.raises(UnsupportedError) as caught:
        import_model(model)
    assert "'node'" in str(caught.value)
    assert case.op in str(caught.value)
    assert caught.value.gaps
