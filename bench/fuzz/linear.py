"""Makers of products, convolutions, pools, resizing, quantization and recurrences."""

from __future__ import annotations

from typing import Any

import numpy as np

from .basic import in_range
from .sketch import F32, FLOATS, I8, I32, I64, U8, Misfit, Sketch, Var, draw, np_of


def _operand(s: Sketch, dtype: int, shape: list[int], scale: float = 1.0, law: str = "") -> Var:
    """A constant, or now and then an input."""
    if s.flag(0.2):
        return s.fresh(dtype, shape, law, reuse=False)
    return s.weight(dtype, shape, scale)


def matmul(s: Sketch) -> Any:
    """MatMul of any ranks, by a constant, an input or another value."""
    a = s.floats(1, 4, lambda v: v.known)
    if s.flag(0.12):
        a = s.value((I32, I64), 1, 4, lambda v: v.known)
    a = s.tame(a, -1e3, 1e3) if a.floating else a
    found = [v for v in s.pool if v.dtype == a.dtype and v.rank >= 2 and v.known
             and all(t[-2] == u[-1] for t, u in zip(v.shapes, a.shapes))]
    if found and s.flag(0.4):
        return s.op("MatMul", [a, s.tame(s.choice(found), -1e3, 1e3)])
    if not a.fixed(a.rank - 1):
        raise Misfit("sizes are open")
    inner, free = int(a.shape[-1] or 0), s.choice((1, 2, 3, 8, 16, 17, 33))
    shape = [inner] if s.flag(0.1) else [inner, free]
    if s.flag(0.25) and a.rank >= 3 and len(shape) == 2:
        shape = [1 if s.flag() or not a.fixed(k) else int(a.shape[k] or 1)
                 for k in range(s.number(0, a.rank - 2), a.rank - 2)] + shape
    w = _operand(s, a.dtype, shape, 0.5)
    y = s.op("MatMul", [a, w], bound=a.bound * 3 * max(inner, 1))
    if s.flag(0.4) and y.rank and y.floating:
        y = s.op("Add", [y, s.weight(a.dtype, [free])], bound=y.bound + 5) if len(shape) > 1 else y
    return y


def gemm(s: Sketch) -> Any:
    """Gemm with all its attributes."""
    a = s.tame(s.floats(2, 2, lambda v: v.known), -1e3, 1e3)
    ta = s.number(0, 1)
    if not a.fixed(0 if ta else 1):
        raise Misfit("sizes are open")
    inner, free = int(a.shape[0 if ta else 1] or 0), s.choice((1, 3, 5, 16, 18))
    tb = s.number(0, 1)
    b = _operand(s, a.dtype, [free, inner] if tb else [inner, free])
    c = [s.weight(a.dtype, s.choice(([free], [1, free], [1], [])))] if s.flag(0.7) else []
    return s.op("Gemm", [a, b, *c], alpha=s.choice((1.0, 0.5)), beta=s.choice((1.0, 2.0, 0.0)),
                transA=ta, transB=tb)


def _image(s: Sketch, dims: int | None = None) -> Var:
    """An image with open or fixed sizes, channels fixed."""
    def fits(v: Var) -> bool:
        return v.known and v.fixed(1) and all(0 not in t for t in v.shapes)

    rank = s.choice((3, 4, 4, 4, 5)) if dims is None else dims + 2
    found = [v for v in s.pool if v.dtype == s.real and v.rank == rank and fits(v)]
    if found and s.flag(0.85):
        return s.tame(s.choice(found[-3:]), -1e3, 1e3)
    shape: list[int | str] = [s.choice((1, 1, 2)), s.choice((1, 2, 3, 4, 8, 16, 17))]
    for _ in range(rank - 2):
        opens = s.symbols and min(s.symbols[0]) >= 3 and s.flag(0.3)
        shape.append("S0" if opens else s.choice((5, 6, 7, 9, 12) if rank < 5 else (3, 4, 5)))
    return s.fresh(s.real, shape, "normal")


def _window(s: Sketch, x: Var, kernel: list[int]) -> dict[str, Any]:
    r = x.rank - 2
    attrs: dict[str, Any] = {}
    if s.flag(0.5):
        attrs["strides"] = [s.choice((1, 1, 2, 3)) for _ in range(r)]
    if s.flag(0.3):
        attrs["dilations"] = [s.choice((1, 2)) for _ in range(r)]
    if s.flag(0.25):
        attrs["auto_pad"] = s.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif s.flag(0.6):
        attrs["pads"] = [s.number(0, k - 1) for k in kernel * 2]
    if not attrs.get("auto_pad", "").startswith("SAME"):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, attrs.get("dilations", [1] * r))]
        pads = attrs.get("pads", [0] * 2 * r)
        for t in x.shapes:
            if any((t[2 + k] or 0) + pads[k] + pads[r + k] < reach[k] for k in range(r)):
                raise Misfit("the window is larger than the image")
    return attrs


def conv(s: Sketch) -> Any:
    """Conv in one to three dimensions: groups, strides, dilations, padding; often an epilogue."""
    x = _image(s)
    c = int(x.shape[1] or 1)
    groups = s.choice((1, 1, 1, c, *[g for g in range(2, c) if c % g == 0]))
    m = groups * s.choice((1, 2, 3)) if groups > 1 else s.choice((1, 3, 4, 8, 16, 17, 20))
    kernel = [s.choice((1, 1, 3, 3, 2)) for _ in range(x.rank - 2)]
    # Weights are finite: whether padding meets an infinite one is for each kernel to decide.
    w = _operand(s, x.dtype, [m, c // groups, *kernel], 0.4, "normal")
    parts = [x, w] + ([s.weight(x.dtype, [m])] if s.flag() else [])
    y = s.op("Conv", parts, bound=x.bound * 100, group=groups, **_window(s, x, kernel))
    if s.flag(0.35):
        half = [s.weight(x.dtype, [m]) for _ in range(3)]
        var = s.const((np.abs(s.rng.standard_normal(m)) + 0.3).astype(np_of(x.dtype)))
        y = s.op("BatchNormalization", [y, *half, var], epsilon=1e-3)
    if s.flag(0.4):
        y = s.op(s.choice(("Relu", "Sigmoid", "HardSwish", "Tanh")), [y], bound=y.bound)
    return y


def wide_conv(s: Sketch) -> Any:
    """Conv of 3x3 pixels and stride 1 between as many channels as Winograd's method wants, of an
    image that is fed, and may lie in memory channels-last, or be turned before."""
    c, m = s.choice((16, 17, 24, 32)), s.choice((16, 20, 32, 33))
    size = [s.choice((5, 6, 8, 9, 12)) for _ in range(2)]
    last = s.flag(0.3)
    x = s.fresh(F32, [1, *size, c] if last else [1, c, *size], "normal")
    if last:
        x = s.op("Transpose", [x], perm=[0, 3, 1, 2], bound=x.bound)
    if s.flag(0.4):
        x = s.op(s.choice(("Relu", "Sigmoid", "Neg")), [x], bound=x.bound)
    attrs: dict[str, Any] = {"pads": [s.number(0, 1) for _ in range(4)]} if s.flag(0.8) else {}
    y = s.op("Conv", [x, s.weight(F32, [m, c, 3, 3], 0.1), s.weight(F32, [m])],
             bound=x.bound * 20, **attrs)
    if s.flag(0.4):
        y = s.op("Relu", [y], bound=y.bound)
    return s.op("Transpose", [y], perm=[0, 2, 3, 1], bound=y.bound) if s.flag(0.2) else y


def conv_transpose(s: Sketch) -> Any:
    """ConvTranspose."""
    x = _image(s, s.choice((1, 2, 2)))
    c = int(x.shape[1] or 1)
    groups = s.choice((1, 1, c))
    m = s.choice((1, 2, 4))
    kernel = [s.choice((1, 2, 3, 4)) for _ in range(x.rank - 2)]
    attrs: dict[str, Any] = {}
    if s.flag(0.7):
        attrs["strides"] = [s.choice((1, 2, 2, 3)) for _ in kernel]
    if s.flag(0.3):
        attrs["dilations"] = [s.choice((1, 2)) for _ in kernel]
    if s.flag(0.4):
        attrs["pads"] = [s.number(0, max((k - 1) // 2, 0)) for k in kernel * 2]
    if s.flag(0.3) and "strides" in attrs:
        attrs["output_padding"] = [s.number(0, t - 1) for t in attrs["strides"]]
    w = _operand(s, x.dtype, [c, m, *kernel], 0.4, "normal")
    parts = [x, w] + ([s.weight(x.dtype, [m * groups])] if s.flag() else [])
    return s.op("ConvTranspose", parts, bound=x.bound * 100, group=groups, **attrs)


def pool(s: Sketch) -> Any:
    """MaxPool, AveragePool, LpPool and the global pools."""
    x = _image(s)
    kind = s.choice(("MaxPool", "MaxPool", "AveragePool", "AveragePool", "GlobalAveragePool",
                     "GlobalMaxPool", "LpPool"))
    if kind.startswith("Global"):
        return s.op(kind, [x], bound=x.bound)
    kernel = [s.choice((1, 2, 2, 3)) for _ in range(x.rank - 2)]
    attrs = _window(s, x, kernel)
    if "auto_pad" in attrs:  # ONNX Runtime leaves the dilations out of its padding
        attrs.pop("dilations", None)
    if kind == "LpPool":
        attrs["p"] = s.choice((1, 2))
    elif "auto_pad" not in attrs:
        attrs["ceil_mode"] = int(s.flag(0.3))
    if kind == "AveragePool":
        attrs["count_include_pad"] = s.number(0, 1)
    return s.op(kind, [x], bound=x.bound * 30, kernel_shape=kernel, **attrs)


def padded(s: Sketch) -> Any:
    """Pad, then a convolution or a pool: the padding joins the window."""
    x = _image(s, 2)
    width = [0, 0, s.number(0, 2), s.number(0, 2), 0, 0, s.number(0, 2), s.number(0, 2)]
    top = s.flag()
    fill = s.choice((0.0, 0.0, -0.0)) if not top else -np.inf
    y = s.op("Pad", [x, s.ints(width), s.scalar(fill, x)], bound=x.bound)
    if top:
        return s.op("MaxPool", [y], bound=x.bound, kernel_shape=[2, 2], strides=[2, 1])
    w = s.weight(x.dtype, [4, int(x.shape[1] or 1), 3, 3], 0.3)
    return s.op("Conv", [y, w], bound=x.bound * 50)


def einsum(s: Sketch) -> Any:
    """Einsum over one or two operands."""
    text = s.choice(("ij->ji", "ij,jk->ik", "bij,bjk->bik", "bij,bkj->bik", "ij->i", "ij->",
                     "bij->bji", "bhid,bhjd->bhij", "ij,ij->ij", "ii->i", "i,j->ij",
                     "...ij->...ji"))
    left = text.split("->")[0].split(",")
    sizes: dict[str, int] = {}
    operands: list[Var] = []
    for term in left:
        letters = term.replace("...", "")
        rank = len(letters) + (1 if "..." in term else 0)
        if not operands and len(set(letters)) == len(letters):
            x = s.tame(s.floats(rank, rank, lambda v: v.static), -100, 100)
        else:
            x = s.weight(operands[0].dtype if operands else s.real,
                         [sizes.setdefault(c, s.choice((2, 3, 5))) for c in letters])
        sizes |= dict(zip(reversed(letters), (int(d or 0) for d in reversed(x.shape))))
        operands.append(x)
    return s.op("Einsum", operands, equation=text)


def resize(s: Sketch) -> Any:
    """Resize by scales or sizes in every mode and coordinate law."""
    if s.special:  # peers multiply NaN by a weight of zero
        raise Misfit("NaN spreads in peers")
    x = s.floats(3, 4, lambda v: v.known and all(0 not in t for t in v.shapes))
    mode = s.choice(("nearest", "nearest", "linear", "cubic"))
    how = s.choice(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"))
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": how}
    if mode == "nearest":
        attrs["nearest_mode"] = s.choice(("floor", "ceil", "round_prefer_floor",
                                          "round_prefer_ceil"))
    if mode == "linear" and s.flag(0.2):
        attrs["antialias"] = 1
    if mode == "cubic":
        if x.rank != 4:
            raise Misfit("cubic is for planes")
        attrs["cubic_coeff_a"] = s.choice((-0.75, -0.5))
        attrs["exclude_outside"] = s.number(0, 1)
    spatial = list(range(2, x.rank))
    if s.flag():
        scales = [1.0, 1.0] + [s.choice((0.5, 1.0, 2.0, 1.5, 3.0)) for _ in spatial]
        return s.op("Resize", [x, None, s.const(np.array(scales, np.float32))], bound=x.bound * 2,
                    **attrs)
    if not x.fixed(0) or not x.fixed(1):
        raise Misfit("sizes are open")
    sizes = [int(x.shape[0] or 1), int(x.shape[1] or 1)] + [s.number(1, 12) for _ in spatial]
    return s.op("Resize", [x, None, None, s.ints(sizes)], bound=x.bound * 2, **attrs)


# -- quantization ------------------------------------------------------------------------------


def _parameters(s: Sketch, dtype: int, count: int | None, real: int) -> tuple[Var, Var]:
    """A scale and a zero point, one number or a vector."""
    shape = () if count is None else (count,)
    scale = s.const(np.asarray(s.rng.uniform(0.02, 0.2, shape)).astype(np_of(real)))
    low = 0 if dtype in (I8, I32) else 100
    return scale, s.const(np.asarray(s.rng.integers(low - 3, low + 4, shape)).astype(np_of(dtype)))


def quantize(s: Sketch) -> Any:
    """QuantizeLinear, with DequantizeLinear behind it; per tensor, per axis, dynamic."""
    x = s.value((1,) if s.flag(0.8) else FLOATS[:3], 1, 4, lambda v: v.known)
    x = in_range(s, x, -100, 100)
    if s.flag(0.2) and x.dtype == 1 and all(0 not in t for t in x.shapes):
        return s.ops("DynamicQuantizeLinear", [x], 3)
    dtype = s.choice((I8, U8))
    axis = s.number(0, x.rank - 1)
    per_axis = s.flag(0.4) and x.fixed(axis)
    scale, zero = _parameters(s, dtype, int(x.shape[axis] or 0) if per_axis else None, x.dtype)
    if per_axis:
        zero = s.const(np.zeros(zero.shapes[0], np_of(dtype)))  # type: ignore[arg-type]
    more: dict[str, Any] = {"axis": axis} if per_axis else {}
    q = s.op("QuantizeLinear", [x, scale, zero], bound=255, **more)
    if s.flag(0.4):
        q = s.op(s.choice(("Relu", "Identity")) if dtype == I8 else "Identity", [q], bound=255)
    return s.op("DequantizeLinear", [q, scale, zero], bound=60, **more) if s.flag(0.7) else q


def quantized_product(s: Sketch) -> Any:
    """MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv."""
    kind = s.choice(("MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"))
    a_type, b_type = s.choice(((U8, U8), (U8, I8), (I8, I8)))
    image = "Conv" in kind
    if image:
        c, m = s.choice((1, 3, 8)), s.choice((1, 4, 5))
        a = s.fresh(a_type, [1, c, s.choice((5, 7)), 6], f"below:{200 if a_type == U8 else 100}")
        b = s.const(draw("small", b_type, (m, c, 3, 3), s.rng))
    else:
        k, n = s.choice((1, 4, 17, 33)), s.choice((1, 5, 16, 19))
        rows = s.shape_of_rank(s.number(1, 2), 30)
        a = s.fresh(a_type, [*rows, k], f"below:{200 if a_type == U8 else 100}")
        b = s.const(draw("extreme", b_type, (k, n), s.rng))
    az = s.const(np.array(s.number(0, 9), np_of(a_type)))
    bz = s.const(np.array(s.number(0, 2) if not image else 0, np_of(b_type)))
    if kind.endswith("Integer"):
        zeros = s.choice(([], [az], [az, bz]))
        attrs: dict[str, Any] = {"pads": [1, 1, 1, 1]} if image and s.flag() else {}
        y = s.op(kind, [a, b, *zeros], bound=1e6, **attrs)
        if s.flag():
            y = s.op("Cast", [y], bound=1e6, to=1)
            y = s.op("Mul", [y, s.const(np.array(0.01, np.float32))], bound=1e4)
        return y
    sa, sb, sy = (s.const(np.array(v, np.float32)) for v in (0.05, 0.03, 0.4))
    yz = s.const(np.array(5, np_of(a_type)))
    y = s.op(kind, [a, sa, az, b, sb, bz, sy, yz], bound=255)
    return s.op("DequantizeLinear", [y, sy, yz], bound=120) if s.flag() else y


# -- recurrences -------------------------------------------------------------------------------


def recurrent(s: Sketch) -> Any:
    """RNN, GRU, LSTM in every direction, with and without initial state, lengths, bias."""
    kind = s.choice(("RNN", "GRU", "LSTM"))
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    x = s.floats(3, 3, lambda v: v.known and v.fixed(2) and all(0 not in t for t in v.shapes))
    x = s.tame(x, -20, 20)
    way = s.choice(("forward", "reverse", "bidirectional"))
    dirs = 2 if way == "bidirectional" else 1
    hidden, wide = s.choice((1, 3, 4, 8)), int(x.shape[2] or 1)
    operands: list[Var | None] = [
        x, s.weight(x.dtype, [dirs, gates * hidden, wide], 0.4),
        s.weight(x.dtype, [dirs, gates * hidden, hidden], 0.4)]
    operands.append(s.weight(x.dtype, [dirs, 2 * gates * hidden], 0.3) if s.flag() else None)
    batch = int(x.shape[1] or 1)
    lengths = s.flag(0.3) and x.fixed(1)
    least = min(int(t[0] or 1) for t in x.shapes)
    operands.append(s.const(s.rng.integers(1, least + 1, batch).astype(np.int32))
                    if lengths else None)
    if s.flag(0.4) and x.fixed(1):
        operands.append(s.weight(x.dtype, [dirs, batch, hidden]))
    attrs: dict[str, Any] = {"linear_before_reset": s.number(0, 1)} if kind == "GRU" else {}
    if s.flag(0.2):
        attrs["clip"] = 0.7
    count = 3 if kind == "LSTM" else 2
    return s.ops(kind, operands, count, bound=hidden * 20.0, hidden_size=hidden, direction=way,
                 **attrs)


MAKERS = {matmul: 8, gemm: 3, conv: 6, wide_conv: 2, conv_transpose: 2, pool: 3, padded: 2,
          einsum: 2, resize: 2, quantize: 3, quantized_product: 3, recurrent: 2}
"""Makers and how often they are drawn."""
