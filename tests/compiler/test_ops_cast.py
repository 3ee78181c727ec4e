"""Cast, CastLike and BitCast against the tables of ONNX's specification and its reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import evonnx

F8 = {
    "e4m3fn": ml_dtypes.float8_e4m3fn, "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2": ml_dtypes.float8_e5m2, "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip
OTHERS = (ml_dtypes.float4_e2m1fn, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2,
          ml_dtypes.uint2, ml_dtypes.bfloat16, np.float16)  # fmt: skip
NAN, INF = float("nan"), float("inf")


def cast(x: np.ndarray, to: Any, opset: int = 25, op: str = "Cast", **attrs: Any) -> Any:
    """A compiled model that converts ``x``, and ONNX's reference of it."""
    number = helper.np_dtype_to_tensor_dtype(np.dtype(to))
    node = helper.make_node(op, ["x"], ["y"], to=number, **attrs)
    given = helper.make_tensor_value_info(
        "x", helper.np_dtype_to_tensor_dtype(x.dtype), ["n"] if x.ndim else [])
    out = helper.make_tensor_value_info("y", number, ["n"] if x.ndim else [])
    graph = helper.make_graph([node], "cast", [given], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=13)
    got = evonnx.compile(model)(x)
    with np.errstate(all="ignore"):
        want = ReferenceEvaluator(model).run(None, {"x": x}) if op == "Cast" else [None]
    return got, want[0]


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """The same codes; any NaN is as good as another."""
    a, b = (v.astype(np.float64) for v in (got, want))
    codes = [v.reshape(-1, 1).view(np.uint8) for v in (got, want)]
    equal = (codes[0] == codes[1]).all(axis=1) | (np.isnan(a) & np.isnan(b))
    return got.dtype == want.dtype and bool(equal.all())


@pytest.mark.parametrize("kind", F8)
@pytest.mark.parametrize("saturate", [1, 0])
def test_float8_tables(kind: str, saturate: int) -> None:
    x = np.array([0.0, -0.0, NAN, INF, -INF, 1e6, -1e6, 0.3, -0.3], np.float32)
    top = float(ml_dtypes.finfo(F8[kind]).max)
    big = top if saturate else INF if kind == "e5m2" else NAN
    near = float(np.float32(0.3).astype(F8[kind]).astype(np.float32))
    want = np.array([0.0, -0.0, NAN, big, -big, big, -big, near, -near])
    if kind.endswith("fnuz"):
        want[1] = 0.0
    got, reference = cast(x, F8[kind], saturate=saturate)
    assert same(got, reference)
    wide = got.astype(np.float64)
    np.testing.assert_array_equal(wide, want)
    assert np.signbit(wide[1]) == np.signbit(want[1])


@pytest.mark.parametrize("kind", F8)
@pytest.mark.parametrize("saturate", [1, 0])
def test_every_half_to_float8(kind: str, saturate: int) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    got, want = cast(halves, F8[kind], saturate=saturate)
    assert same(got, want)
    whole = np.array([0, 1, -7, 200, 449, 70000, -(1 << 40)])
    got, _ = cast(whole, F8[kind], saturate=saturate)
    assert same(got, cast(whole.astype(np.float32), F8[kind], saturate=saturate)[1])


@pytest.mark.parametrize("to", OTHERS, ids=lambda t: np.dtype(t).name)
def test_other_narrow_types(to: Any) -> None:
    rng = np.random.default_rng(1)
    info = ml_dtypes.iinfo(to) if "int" in np.dtype(to).name else ml_dtypes.finfo(to)
    low, high = float(info.min), float(info.max)
    x = (rng.uniform(-8.9, 15.9, 500).astype(np.float32)).clip(low - 0.9, high + 0.9)
    for source in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        assert same(*cast(x.astype(source), to)), source
    for source in (np.int8, np.int32, np.int64, np.uint8):  # out of range: the low bits are kept
        assert same(*cast(np.arange(-20, 40).astype(source), to)), source
    back, want = cast(np.arange(4).astype(to), np.float32)
    assert same(back, want)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [1, 0])
def test_powers_of_two(mode: str, saturate: int) -> None:
    rng = np.random.default_rng(2)
    x = np.exp2(rng.uniform(-126, 126, 4096)).astype(np.float32)
    x[:600] = np.exp2(np.arange(600) % 253 - 126.0) * np.repeat([1, 1.5, 1.25, 1.75], 150)
    got, want = cast(x, ml_dtypes.float8_e8m0fnu, saturate=saturate, round_mode=mode)
    assert same(got, want)


def test_powers_of_two_table() -> None:
    """The two columns of the table, where ONNX's reference departs from it."""
    x = np.array([0.0, NAN, INF, 2.0**127 * 1.5, 2.0**-128, 2.0**-127, 1.2 * 2.0**-127], np.float32)
    to = ml_dtypes.float8_e8m0fnu
    up, _ = cast(x, to, saturate=1, round_mode="up")
    assert up.view(np.uint8).tolist() == [0, 255, 254, 254, 0, 0, 1]
    nearest, _ = cast(x, to, saturate=0, round_mode="nearest")
    assert nearest.view(np.uint8).tolist() == [255, 255, 255, 255, 255, 0, 0]
    with pytest.raises(evonnx.EvonnxError, match="round_mode"):
        cast(x, to, round_mode="upwards")


BITS = [(np.float32, np.int32), (np.int64, np.float64), (np.float16, np.uint16),
        (ml_dtypes.bfloat16, np.int16), (np.int8, ml_dtypes.float8_e5m2), (np.bool_, np.uint8),
        (ml_dtypes.int4, ml_dtypes.float4_e2m1fn), (ml_dtypes.uint2, ml_dtypes.int2),
        (np.complex64, np.int64), (np.uint64, np.complex64)]  # fmt: skip


@pytest.mark.parametrize("pair", BITS, ids=lambda p: "-".join(np.dtype(t).name for t in p))
def test_bitcast(pair: tuple[Any, Any]) -> None:
    source, to = (np.dtype(t) for t in pair)
    raw = np.random.default_rng(3).integers(0, 256, 16 * source.itemsize, dtype=np.uint8)
    if source.itemsize == 1 and source != np.int8:
        raw &= {"bool": 1, "int4": 15}.get(source.name, 3)
    x = raw.view(source)
    got, _ = cast(x, to, 26, "BitCast")
    assert got.dtype == to
    assert (got.view(np.uint8) == raw).all()
    scalar, _ = cast(x[:1].reshape(()), to, 26, "BitCast")
    assert scalar.shape == ()
    assert scalar.tobytes() == got[:1].tobytes()


def test_bitcast_needs_one_width() -> None:
    with pytest.raises(evonnx.EvonnxError, match="different widths"):
        cast(np.zeros(4, np.float32), np.int16, 26, "BitCast")


def test_powers_of_integers_with_real_exponents() -> None:
    """Whole exponents are exact: 9 to the 3.0 is 729, not what is left of 728.99."""
    x, e = np.arange(1, 12), np.array([3.0, 2.0, 0.5], np.float32).reshape(3, 1)
    nodes = [helper.make_node("Pow", ["x", "e"], ["y"])]
    info = [helper.make_tensor_value_info("x", 7, x.shape),
            helper.make_tensor_value_info("e", 1, e.shape)]
    out = [helper.make_tensor_value_info("y", 7, (3, 11))]
    model = helper.make_model(helper.make_graph(nodes, "pow", info, out),
                              opset_imports=[helper.make_opsetid("", 15)])  # fmt: skip
    got = evonnx.compile(model)(x, e)
    assert got.tolist() == [(x**3).tolist(), (x**2).tolist(), np.sqrt(x).astype(int).tolist()]
