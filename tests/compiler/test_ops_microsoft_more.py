"""More operators of com.microsoft, compiled, against ONNX Runtime, which defines them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import helper

import evonnx
from evonnx.ir.errors import UnsupportedError

RNG = np.random.default_rng(17)


def _f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _q(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def _s(value: float) -> np.ndarray:
    return np.float32(value).reshape(())


def _u(value: int) -> np.ndarray:
    return np.uint8(value).reshape(())


def _n(op: str, inputs: str, outputs: str = "y", **attrs: Any) -> Any:
    """A node; operands by name, "-" where one is absent."""
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op, names, outputs.split(), domain="com.microsoft", **attrs)


def _check(
    lab: Any, node: Any, feeds: dict[str, Any], held: dict[str, Any] | None = None,
    tolerance: float = 2e-5, shapes: Any = None,
) -> None:  # fmt: skip
    feeds = {k: np.asarray(v) for k, v in feeds.items()}
    held = {k: np.asarray(v) for k, v in (held or {}).items()}
    outputs = [o for o in node.output if o]
    model = lab.model([node], feeds, outputs, held, 22, shapes)
    want = lab.theirs(model, feeds)
    compiled = evonnx.compile(model, threads=1, search="none")
    for name, got in zip(outputs, compiled.run(outputs, feeds), strict=True):
        assert got.shape == want[name].shape and got.dtype == want[name].dtype
        np.testing.assert_allclose(
            got.astype(np.float64), want[name].astype(np.float64), rtol=tolerance, atol=tolerance)


# -- weights of a few bits -----------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "k", "block", "zeros"), [
    (4, 32, 16, ""), (4, 48, 32, "packed"), (4, 64, 32, "float"), (8, 48, 32, "packed"),
    (2, 32, 16, "packed"), (2, 64, 32, ""),
])  # fmt: skip
def test_matmul_nbits(lab: Any, bits: int, k: int, block: int, zeros: str) -> None:
    blocks = -(-k // block)
    held = {"w": _q(10, blocks, block * bits // 8), "s": np.abs(_f(10, blocks)) * 0.1}
    if zeros == "packed":
        held["z"] = _q(10, (blocks * bits + 7) // 8)
    elif zeros:
        held["z"] = RNG.integers(0, 1 << bits, (10, blocks)).astype(np.float32)
    node = _n("MatMulNBits", "a w s z" if zeros else "a w s", K=k, N=10, bits=bits,
              block_size=block)  # fmt: skip
    _check(lab, node, {"a": _f(2, 3, k)}, held, 1e-3, {"a": ("B", "S", k)})


@pytest.mark.parametrize("zeros", [False, True])
def test_gather_block_quantized(lab: Any, zeros: bool) -> None:
    held = {"d": _q(6, 16), "s": np.abs(_f(6, 2))} | ({"z": _q(6, 1)} if zeros else {})
    node = _n("GatherBlockQuantized", "d i s z" if zeros else "d i s", block_size=16, bits=4,
              quantize_axis=1, gather_axis=0)  # fmt: skip
    _check(lab, node, {"i": [[0, 3], [5, -1]]}, held)


# -- embeddings ----------------------------------------------------------------------------------

IDS = {"ids": RNG.integers(0, 20, (2, 5)).astype(np.int32)}
SEGMENTS = {"seg": RNG.integers(0, 2, (2, 5)).astype(np.int32)}
MASK = {"mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)}


@pytest.mark.parametrize(("inputs", "feeds", "outputs"), [
    ("ids seg w p s g b mask", {**IDS, **SEGMENTS, **MASK}, "y m e"),
    ("ids - w p - g b", IDS, "y m"),
    ("ids seg w p s g b - at", {**IDS, **SEGMENTS, "at": IDS["ids"][:, ::-1] // 2}, "y m"),
])  # fmt: skip
def test_embed_layer_normalization(lab: Any, inputs: str, feeds: Any, outputs: str) -> None:
    held = {"w": _f(20, 8), "p": _f(12, 8), "s": _f(2, 8), "g": _f(8), "b": _f(8)}
    held = {k: v for k, v in held.items() if k in inputs.split()}
    _check(lab, _n("EmbedLayerNormalization", inputs, outputs), feeds, held)


def test_quantized_embed_layer_normalization(lab: Any) -> None:
    names = "wpsgb"
    held = {n: _q(*d) for n, d in zip(names, ((20, 8), (12, 8), (2, 8), (8,), (8,)), strict=True)}
    held |= {f"{n}s": _s(0.01 * (k + 1)) for k, n in enumerate(names)}
    held |= {f"{n}z": _u(90 + 10 * k) for k, n in enumerate(names)}
    inputs = "ids seg w p s g b mask ws ps ss gs bs wz pz sz gz bz"
    _check(lab, _n("QEmbedLayerNormalization", inputs, "y m"), {**IDS, **SEGMENTS, **MASK}, held)


def test_word_convolution(lab: Any) -> None:
    words = np.int32([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [3, 3, 3, 3, 3], [1, 0, 0, 0, 0]])
    held = {"w": _f(6, 1, 2, 4), "b": _f(6), "c": _f(9, 4)}
    node = _n("WordConvEmbedding", "s w b c")
    _check(lab, node, {"s": words}, held)
    # ONNX Runtime leaves the row of a word without letters as it finds it; here it is 0.
    (empty,) = _run(lab, node, {"s": 0 * words}, held)
    assert (empty == 0).all()


# -- arrays --------------------------------------------------------------------------------------

ARRAYS: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (_n("GatherND", "d i"), {"d": _f(3, 4, 5), "i": [[0, 1], [2, 3]]}, {}),
    (_n("Pad", "d p v"), {"d": _f(3, 4)}, {"p": [1, 0, 2, 3], "v": np.float32([2.5])}),
    (_n("Pad", "d p", mode="reflect"), {"d": _f(3, 4)}, {"p": [1, 0, 2, 3]}),
    (_n("Range", "a b c"), {"a": _s(1), "b": _s(7.5), "c": _s(0.5)}, {}),
    (_n("Range", "a b"), {"a": 1, "b": 7}, {}),
    (_n("Trilu", "x k", upper=0), {"x": _f(2, 4, 5)}, {"k": 1}),
    (_n("Unique", "x", "y i c"), {"x": np.float32([2, 1, 1, 3, 4, 3])}, {}),
    (_n("ExpandDims", "x a"), {"x": _f(3, 4)}, {"a": np.int32(-1)}),
    (_n("UnfoldTensor", "x", dim=1, size=3, step=2), {"x": _f(2, 9, 4)}, {}),
    (_n("CDist", "a b", metric="euclidean"), {"a": _f(5, 7), "b": _f(3, 7)}, {}),
    (_n("CDist", "a b"), {"a": _f(5, 7), "b": _f(3, 7)}, {}),
    (_n("MurmurHash3", "x", seed=5), {"x": np.int32([1, -2, 99, 2**31 - 1])}, {}),
    (_n("MurmurHash3", "x", positive=0), {"x": np.int32([1, -2, 99])}, {}),
    (_n("MatMulInteger16", "a b"),
     {"a": RNG.integers(-999, 999, (3, 4)).astype(np.int16),
      "b": RNG.integers(-999, 999, (4, 5)).astype(np.int16)}, {}),
    (_n("ScaledSiLU", "x", alpha=0.7), {"x": _f(2, 3)}, {}),
    (_n("GatedAdd", "x y2 g"), {"x": _f(2, 3, 4), "y2": _f(2, 3, 4), "g": _f(2, 3, 1)}, {}),
    (_n("GatedRMSNorm", "x s g"), {"x": _f(2, 3, 8), "g": _f(2, 3, 8)}, {"s": _f(4)}),
    (_n("CausalConvWithState", "x w b p", "y s", activation="silu"),
     {"x": _f(2, 4, 6), "p": _f(2, 4, 2)}, {"w": _f(4, 1, 3), "b": _f(4)}),
]  # fmt: skip


@pytest.mark.parametrize(("node", "feeds", "held"), ARRAYS, ids=lambda v: getattr(v, "op_type", ""))
def test_arrays(lab: Any, node: Any, feeds: Any, held: Any) -> None:
    _check(lab, node, feeds, held, 1e-4)


def test_inverse(lab: Any) -> None:
    _check(lab, _n("Inverse", "x"), {"x": _f(2, 4, 4) + 3 * np.eye(4, dtype="f")}, {}, 1e-3)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_attention(lab: Any, rule: str) -> None:
    feeds = {"q": _f(2, 5, 8), "k": _f(2, 5, 8) * 0.3, "v": _f(2, 5, 6), "p": _f(2, 2, 4, 3)}
    if "gated" in rule:
        feeds["d"] = -np.abs(_f(2, 5, 2))
    if "delta" in rule:
        feeds["b"] = np.abs(_f(2, 5, 2)) * 0.3
    inputs = f"q k v p {'d' if 'd' in feeds else '-'} {'b' if 'b' in feeds else '-'}"
    node = _n("LinearAttention", inputs.rstrip(" -"), "y s", q_num_heads=2, kv_num_heads=2,
              update_rule=rule)  # fmt: skip
    _check(lab, node, feeds, {}, 1e-4)


# -- quantized -----------------------------------------------------------------------------------


def test_quantized_gemm(lab: Any) -> None:
    held = {"sa": _s(0.1), "za": _u(100), "b": _q(5, 8), "sb": _s(0.02), "zb": _u(128)}
    held |= {"c": RNG.integers(-99, 99, 5).astype(np.int32), "sy": _s(0.3), "zy": _u(99)}
    node = _n("QGemm", "a sa za b sb zb c sy zy", alpha=0.5, transB=1)
    _check(lab, node, {"a": _q(3, 8)}, held)
    held |= {"b": _q(8, 5).view(np.int8), "sb": np.abs(_f(5)), "zb": np.zeros(5, np.int8)}
    del held["sy"], held["zy"]
    _check(lab, _n("QGemm", "a sa za b sb zb c", transA=1), {"a": _q(8, 3)}, held)


def test_quantized_where(lab: Any) -> None:
    held = {"xs": _s(0.1), "xz": _u(3), "ys": _s(0.2), "yz": _u(100), "zs": _s(0.3), "zz": _u(9)}
    feeds = {"c": [[True], [False]], "x": _q(2, 5), "y": _q(1, 5)}
    _check(lab, _n("QLinearWhere", "c x xs xz y ys yz zs zz", "z"), feeds, held)


def test_quantized_attention(lab: Any) -> None:
    held = {"w": _q(8, 24), "b": _f(24), "sx": _s(0.02), "sw": _s(0.01)}
    _check(lab, _n("QAttention", "x w b sx sw", num_heads=2, unidirectional=1),
           {"x": _q(2, 4, 8)}, held, 1e-4)  # fmt: skip
    held |= {"zx": _u(120), "zw": _u(128)}
    _check(lab, _n("QAttention", "x w b sx sw m zx zw", num_heads=2),
           {"x": _q(2, 4, 8), "m": np.int32([4, 3])}, held, 1e-4)  # fmt: skip


def test_channels_last(lab: Any) -> None:
    held = {"xs": _s(0.1), "xz": _u(120), "w": _q(8, 4, 3, 3).view(np.int8), "ws": _s(0.02),
            "wz": np.int8(0), "ys": _s(0.9), "yz": _u(128),
            "b": RNG.integers(-99, 99, 8).astype(np.int32)}  # fmt: skip
    node = _n("QLinearConv", "x xs xz w ws wz ys yz b", channels_last=1, pads=[1, 1, 1, 1],
              strides=[2, 1])  # fmt: skip
    _check(lab, node, {"x": _q(1, 6, 7, 4)}, held)
    pool = _n("NhwcMaxPool", "x", kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 1, 1])
    _check(lab, pool, {"x": _q(1, 6, 7, 4)})


# -- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample(lab: Any, mode: str, padding: str) -> None:
    feeds = {"x": _f(2, 3, 5, 6), "g": RNG.uniform(-1.4, 1.4, (2, 4, 3, 2)).astype(np.float32)}
    node = _n("GridSample", "x g", mode=mode, padding_mode=padding, align_corners=1)
    _check(lab, node, feeds, {}, 1e-4)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_crop_and_resize(lab: Any, mode: str) -> None:
    boxes = [[0, 0, 1, 1], [0.12, 0.2, 0.71, 0.63], [-0.3, 0.1, 1.2, 0.5], [0.6, 0.7, 0.1, 0.2]]
    feeds = {"x": _f(2, 3, 6, 8), "r": np.float32(boxes), "i": np.int32([0, 1, 0, 1])}
    node = _n("CropAndResize", "x r i s", mode=mode, extrapolation_value=7.0)
    for size in ([4, 3], [1, 2]):
        _check(lab, node, feeds, {"s": np.int32(size)})


def test_transposed_convolution_with_pads(lab: Any) -> None:
    held = {"w": _f(2, 3, 3, 3), "p": [1, 0, 1, 1], "b": _f(3)}
    node = _n("ConvTransposeWithDynamicPads", "x w p b", strides=[2, 2])
    _check(lab, node, {"x": _f(1, 2, 4, 5)}, held)


# -- attention over a cache ----------------------------------------------------------------------

CACHES: list[dict[str, Any]] = [
    {"rows": 5, "lens": [4, 4]},
    {"rows": 5, "lens": [4, 4], "do_rotary": 1, "packed": True},
    {"rows": 5, "lens": [4, 4], "do_rotary": 1, "rotary_interleaved": 1},
    {"rows": 5, "lens": [4, 4], "past": 12, "do_rotary": 1},
    {"rows": 1, "lens": [6, 4], "past": 6, "do_rotary": 1},
    {"rows": 1, "lens": [6, 4], "past": 20, "do_rotary": 1, "partial": True},
    {"rows": 3, "lens": [8], "past": 6, "do_rotary": 1},
    {"rows": 1, "lens": [9, 7], "past": 9, "local_window_size": 3},
    {"rows": 5, "lens": [4, 4], "softcap": 2.0, "bias": True},
    {"rows": 5, "lens": [4, 4], "smooth_softmax": 1},
    {"rows": 5, "lens": [4, 4], "sink": True, "scale": 0.3},
    {"rows": 5, "lens": [4, 4], "causal": 0},
]  # fmt: skip


@pytest.mark.parametrize("case", CACHES, ids=lambda c: "-".join(map(str, c)))
def test_group_query_attention(lab: Any, case: dict[str, Any]) -> None:
    attrs = dict(case)
    rows, lens, past = attrs.pop("rows"), attrs.pop("lens"), attrs.pop("past", None)
    packed, partial = attrs.pop("packed", False), attrs.pop("partial", False)
    bias, sink = attrs.pop("bias", False), attrs.pop("sink", False)
    n, heads, shared, size = len(lens), 4, 2, 32
    total = max(lens) + 1
    feeds: dict[str, Any] = {"l": np.int32(lens), "t": np.int32(total)}
    held: dict[str, Any] = {}
    if packed:
        feeds["q"] = _f(n, rows, (heads + 2 * shared) * size)
    else:
        feeds |= {"q": _f(n, rows, heads * size), "k": _f(n, rows, shared * size),
                  "v": _f(n, rows, shared * size)}  # fmt: skip
    names = ["q", "-", "-"] if packed else ["q", "k", "v"]
    if past is not None:
        feeds |= {"pk": _f(n, shared, past, size), "pv": _f(n, shared, past, size)}
    names += ["pk", "pv"] if past is not None else ["-", "-"]
    names += ["l", "t"]
    if attrs.get("do_rotary"):
        half = size // 4 if partial else size // 2
        held = {"cos": _f(64, half), "sin": _f(64, half)}
    names += ["cos", "sin", "-"] if held else ["-", "-", "-"]
    feeds |= {"ab": _f(1, heads, rows, total)} if bias else {}
    held |= {"sink": _f(heads)} if sink else {}
    names += ["ab" if bias else "-", "sink" if sink else "-"]
    node = _n("GroupQueryAttention", " ".join(names).rstrip(" -"), "y nk nv", num_heads=heads,
              kv_num_heads=shared, **attrs)  # fmt: skip
    shapes = {"l": ("B",), "q": ("B", "S", feeds["q"].shape[2])}
    if past is not None:
        shapes |= dict.fromkeys(("pk", "pv"), ("B", shared, "P", size))
    if not packed:
        shapes |= dict.fromkeys(("k", "v"), ("B", "S", shared * size))
    _check(lab, node, feeds, held, 1e-4, shapes)


def test_cache_of_bytes_is_refused(lab: Any) -> None:
    feeds = {"q": _f(1, 1, 64), "k": _f(1, 1, 32), "v": _f(1, 1, 32), "l": np.int32([0]),
             "t": np.int32(1).reshape(())}  # fmt: skip
    node = _n("GroupQueryAttention", "q k v - - l t", "y nk nv", num_heads=2, kv_num_heads=1,
              k_quant_type="PER_TENSOR")  # fmt: skip
    with pytest.raises(UnsupportedError, match="k_quant_type"):
        evonnx.compile(lab.model([node], feeds, ["y"]))


# -- operators that ONNX Runtime has for other devices only --------------------------------------


def _run(lab: Any, node: Any, feeds: dict[str, Any], held: dict[str, Any] | None = None) -> Any:
    outputs = [o for o in node.output if o]
    model = lab.model([node], feeds, outputs, held, 22)
    return evonnx.compile(model, threads=1, search="none").run(outputs, feeds)


def test_relative_position_bias(lab: Any) -> None:
    """T5's buckets, as its paper's code computes them."""
    table, size, far = _f(32, 4), 60, 40
    for both in (0, 1):
        node = _n("RelativePositionBias", "t a b", max_distance=far, is_bidirectional=both)
        held = {"a": np.array([size]), "b": np.array([size])}
        (got,) = _run(lab, node, {"t": table}, held)
        for i in range(size):
            for j in range(0, size, 7):
                buckets, d, at = 32, i - j, 0
                if both:
                    buckets, at = 16, 16 * (d < 0)
                d = abs(d) if both else max(d, 0)
                exact = buckets // 2
                if d >= exact:
                    grown = math.log(np.float32(d / exact)) / math.log(far / exact)
                    d = min(exact + int(grown * (buckets - exact)), buckets - 1)
                np.testing.assert_array_equal(got[0, :, i, j], table[at + d])


def test_fourier_transforms(lab: Any) -> None:
    x = _f(2, 3, 8)
    (got,) = _run(lab, _n("Rfft", "x", signal_ndim=1), {"x": x})
    want = np.fft.rfft(x)
    np.testing.assert_allclose(got, np.stack([want.real, want.imag], -1), atol=1e-5)
    (back,) = _run(lab, _n("Irfft", "x", signal_ndim=1), {"x": got})
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_group_norms(lab: Any) -> None:
    x, scale, bias = _f(2, 5, 6, 8), _f(8), _f(8)
    skip, more = _f(2, 8), _f(8)
    s = x + skip[:, None, None] + more
    for name, total in (("GroupNorm", x), ("SkipGroupNorm", s)):
        rows = total.reshape(2, 30, 4, 2).transpose(0, 2, 1, 3).reshape(2, 4, 60)
        normal = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)
        normal = normal.reshape(2, 4, 30, 2).transpose(0, 2, 1, 3).reshape(x.shape)
        want = normal * scale + bias
        want = want / (1 + np.exp(-want))
        feeds = {"x": x, "skip": skip, "more": more} if total is s else {"x": x}
        inputs = "x g b skip more" if total is s else "x g b"
        node = _n(name, inputs, "y t" if total is s else "y", groups=4, activation=1)
        got = _run(lab, node, feeds, {"g": scale, "b": bias})
        np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)
        if total is s:
            np.testing.assert_allclose(got[1], s, rtol=1e-6)


def test_gates(lab: Any) -> None:
    x, bias = _f(2, 3, 4, 5), _f(2, 1, 1, 5)
    (got,) = _run(lab, _n("BiasSoftmax", "x b", axis=3, is_inner_broadcast=1),
                  {"x": x, "b": bias})  # fmt: skip
    e = np.exp(x + bias)
    np.testing.assert_allclose(got, e / e.sum(-1, keepdims=True), rtol=1e-5)
    a, c = _f(3, 4, 2), _f(3, 4, 2)
    (got,) = _run(lab, _n("ComplexMulConj", "a b"), {"a": a, "b": c})
    want = (a[..., 0] + 1j * a[..., 1]) * (c[..., 0] - 1j * c[..., 1])
    np.testing.assert_allclose(got, np.stack([want.real, want.imag], -1), rtol=1e-4, atol=1e-6)
    bad = a.copy()
    bad[0, 0, 0] = np.nan
    for feeds, attrs, want in (((a, c), {}, True), ((a, bad), {}, False),
                               ((a, bad), {"isinf_only": 1}, True)):  # fmt: skip
        node = _n("IsAllFinite", "a b", **attrs)
        assert bool(_run(lab, node, dict(zip("ab", feeds, strict=True)))[0]) is want
