"""Windows that fusion cannot express: positions of maxima, maxima over regions of images.

Tiles of ``pool_argmax`` are rows of outputs; the first largest element in row-major order of the
window wins and a NaN counts as the largest. Tiles of ``max_roi_pool`` are channels of regions; the
bins are those of Fast R-CNN (Girshick 2015): region borders rounded to pixels, halves away from
zero.
"""

from __future__ import annotations

from ...ir.dims import product
from ...ir.graph import Node
from ...ir.target import Target
from .base import OpaqueKernel, Source, opaque, tensor_shape
from .lines import better_element


@opaque("pool_argmax")
def pool_argmax(node: Node, target: Target) -> OpaqueKernel:
    """Flat position of the largest element of each window."""
    x, a = node.operands[0], node.attrs
    sizes, outs = x.shape[2:], tensor_shape(node.types[0])[2:]
    r = len(sizes)
    s = Source(node)
    s.operand("x", 0)
    s.result("y")
    s.size("image", product(sizes))
    for k in range(r):
        s.size(f"d{k}", sizes[k])
        s.size(f"o{k}", outs[k])
        for name, key in (("k", "kernel"), ("s", "strides"), ("l", "dilations"), ("p", "pads_lo")):
            s.size(f"{name}{k}", a[key][k])
        strides = sizes[:k] if a["column_major"] else sizes[k + 1 :]
        s.size(f"m{k}", product(strides))
    with s.block("for t in range(begin, end):"):
        s.line("rest = t")
        for k in reversed(range(r - 1)):
            s.line(f"b{k} = imod(rest, o{k}) * s{k} - p{k}\nrest = idiv(rest, o{k})")
        s.line("base = rest * image")
        with s.block(f"for q in range(o{r - 1}):"):
            s.line(f"b{r - 1} = q * s{r - 1} - p{r - 1}\nat = 0\nfound = 0\nbest = ld(x, base)")
            _search(s, node, 0)
            s.line(f"st(y, t * o{r - 1} + q, base + at)")
    return s.finish(product(x.shape[:2]) * product(outs[:-1]))


def _search(s: Source, node: Node, k: int) -> None:
    """Loops over the window from axis ``k`` on; ``best`` and ``at`` follow the largest element."""
    r = len(node.attrs["kernel"])
    if k == r:
        row: str = "0"
        for i in range(r):
            row = f"({row}) * d{i} + i{i}"
        where = " + ".join(f"i{i} * m{i}" for i in range(r))
        s.line(f"v = ld(x, base + {row})\nw = {better_element(node.operands[0].dtype)}")
        with s.block("if found == 0:"):
            s.line(f"best = v\nat = {where}\nfound = 1")
        with s.block("elif w:"):
            s.line(f"best = v\nat = {where}")
        return
    with s.block(f"for j{k} in range(k{k}):"):
        s.line(f"i{k} = b{k} + j{k} * l{k}")
        with s.block(f"if i{k} >= 0:"), s.block(f"if i{k} < d{k}:"):
            _search(s, node, k + 1)


@opaque("max_roi_pool")
def max_roi_pool(node: Node, target: Target) -> OpaqueKernel:
    """Maxima of the bins of one channel of one region."""
    x, rois = node.operands
    rows, columns = node.attrs["pooled"]
    scale = float(node.attrs["scale"])
    s = Source(node)
    s.operand("x", 0)
    s.operand("q", 1)
    s.result("y")
    for name, size in zip(("n", "c", "h", "w"), x.shape, strict=True):
        s.size(name, size)
    s.size("ph", rows)
    s.size("pw", columns)
    kind = "f64" if x.dtype.name == "f64" else "f32"
    with s.block("for t in range(begin, end):"):
        s.line("r = idiv(t, c)\nch = t - r * c\ng = imin(imax(i64(ld(q, r * 5)), 0), n - 1)")
        s.line("base = (g * c + ch) * h * w")
        for name, at in (("x1", 1), ("y1", 2), ("x2", 3), ("y2", 4)):
            s.line(f"e = f64(ld(q, r * 5 + {at})) * {scale!r}")
            s.line(f"{name} = i64(copysign(floor(fabs(e) + 0.5), e))")
        s.line("sh = f64(imax(y2 - y1 + 1, 1)) / f64(ph)\nsw = f64(imax(x2 - x1 + 1, 1)) / f64(pw)")
        with s.block("for i in range(ph):"):
            _bounds(s, "i", "sh", "y1", "h", "t0", "t1")
            with s.block("for j in range(pw):"):
                _bounds(s, "j", "sw", "x1", "w", "u0", "u1")
                s.line(f"v = {kind}(0.0)")
                with s.block("if t1 > t0:"), s.block("if u1 > u0:"):
                    s.line("v = ld(x, base + t0 * w + u0)")
                    with s.block("for a in range(t0, t1):"), s.block("for b in range(u0, u1):"):
                        s.line("v = fmax(v, ld(x, base + a * w + b))")
                s.line("st(y, (t * ph + i) * pw + j, v)")
    return s.finish(rois.shape[0] * x.shape[1])


def _bounds(s: Source, i: str, step: str, first: str, size: str, low: str, high: str) -> None:
    """Pixels of bin ``i`` along one axis."""
    s.line(f"{low} = imin(imax(i64(floor(f64({i}) * {step})) + {first}, 0), {size})")
    s.line(f"{high} = imin(imax(i64(ceil(f64({i} + 1) * {step})) + {first}, 0), {size})")
