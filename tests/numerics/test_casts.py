"""Conversions of floats to integers have a stated result for every float, on every target."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

VALUES = [
    np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.5, 1.9, -1.9, -1, 127.5, 128, -128.9, -129, 255.9,
    256, 32767.9, 32768, -32769, 65535.5, 65536, 2147483520, 2147483648, -2147483648, -2.2e9,
    4294967040, 4294967296, 9.2e18, 9.3e18, -9.3e18, 1.8e19, 1.9e19, 1e30, -1e30,
]  # fmt: skip
SOURCES = {"float32": np.float32, "float64": np.float64, "float16": np.float16,
           "bfloat16": ml_dtypes.bfloat16}  # fmt: skip
TARGETS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def meaning(x: float, dtype: np.dtype) -> int:
    """NaN is 0. Truncated towards zero and limited to int32 for results of up to 32 bits, but to
    int64 for uint32, and to the type itself for 64 bits; of that the low bits."""
    if x != x:
        return 0
    wide = {"uint32": np.iinfo(np.int64), "int64": np.iinfo(np.int64),
            "uint64": np.iinfo(np.uint64)}.get(dtype.name, np.iinfo(np.int32))  # fmt: skip
    whole = wide.max if x >= wide.max else wide.min if x <= wide.min else int(x)
    bits = 8 * dtype.itemsize
    whole &= (1 << bits) - 1
    return whole - (1 << bits) if dtype.kind == "i" and whole >> (bits - 1) else whole


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_float_has_an_integer(lab: Any, target: Any) -> None:
    feeds = {s: np.array(VALUES, np.float64).astype(kind) for s, kind in SOURCES.items()}
    ways = [(source, to) for source in SOURCES for to in (*TARGETS, "bool")]
    nodes = [helper.make_node("Cast", [s], [f"{s}_{to}"], to=getattr(TensorProto, to.upper()))
             for s, to in ways]  # fmt: skip
    results = lab.run(nodes, feeds, [n.output[0] for n in nodes], target=target)
    for (source, to), got in zip(ways, results, strict=True):
        x = feeds[source].astype(np.float64)
        if to == "bool":
            assert got.tolist() == (x != 0).tolist()
        else:
            want = [meaning(float(v), np.dtype(to)) for v in x]
            assert [int(v) for v in got] == want, (source, to)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_quantization_saturates(lab: Any, target: Any) -> None:
    """QuantizeLinear limits first: out of range it gives the nearest number, whatever a conversion
    alone does. A NaN becomes the lower limit or the number that NaN converts to, never garbage."""
    x = np.array(VALUES[1:], np.float64).astype(np.float32)
    nodes, zeros = [], {"s": np.array(0.5, np.float32)}
    for to in ("int8", "uint8", "int16", "uint16"):
        zeros[f"z{to}"] = np.array(3, to)
        nodes.append(helper.make_node("QuantizeLinear", ["x", "s", f"z{to}"], [to]))
    outputs = [n.output[0] for n in nodes]
    for to, got in zip(outputs, lab.run(nodes, {"x": x}, outputs, zeros, target=target)):
        info = np.iinfo(to)
        want = np.clip(np.rint(x.astype(np.float64) / 0.5) + 3, info.min, info.max)
        assert got.tolist() == want.astype(np.int64).tolist(), to


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_constants_limit_is_converted_as_everything_else(lab: Any, target: Any) -> None:
    """Limits before the conversion, in either order: nothing has to be limited by it, but NaN."""
    feeds: dict[str, np.ndarray] = {"x": np.array(VALUES, np.float64).astype(np.float32)}
    limits = {"low": -128.5, "high": 127.25, "far": 3e9}
    ways = [(("Max", "low"), ("Min", "high")), (("Min", "high"), ("Max", "low")),
            (("Max", "low"), ("Min", "far"))]  # fmt: skip
    nodes, outputs = [], []
    for k, way in enumerate(ways):
        before = "x"
        for step, (op, limit) in enumerate(way):
            nodes.append(
                helper.make_node("Constant", [], [f"c{k}{step}"], value_float=limits[limit]))
            nodes.append(helper.make_node(op, [before, f"c{k}{step}"], [f"v{k}{step}"]))
            before = f"v{k}{step}"
        for to in ("int8", "uint8", "int32", "uint32", "int64"):
            outputs.append((k, to))
            nodes.append(helper.make_node("Cast", [before], [f"y{k}{to}"],
                                          to=getattr(TensorProto, to.upper())))  # fmt: skip
    results = lab.run(nodes, {"x": feeds["x"]}, [f"y{k}{to}" for k, to in outputs], target=target)
    for (k, to), got in zip(outputs, results, strict=True):
        kept = feeds["x"]
        for op, limit in ways[k]:
            kept = (np.maximum if op == "Max" else np.minimum)(kept, np.float32(limits[limit]))
        assert [int(v) for v in got] == [meaning(float(v), np.dtype(to)) for v in kept], (k, to)
