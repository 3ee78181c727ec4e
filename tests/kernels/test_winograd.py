"""Winograd's F(m x m, 3 x 3) against the reference interpreter in float64, and where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.graph import Value
from evonnx.ir.groups import extract
from evonnx.ir.target import Target
from evonnx.ir.variants import form_of, tiling
from evonnx.ir.winograd import SQUARES
from evonnx.kernels import micro
from evonnx.kernels.group import Kernel, group_kernels
from evonnx.kernels.nest_interp import run_nest
from evonnx.kernels.winograd import lower_winograd
from evonnx.runtime.constants import apply

from .test_groups import array, check, run_as_one, tensor

BOUND = {2: 1.5, 3: 2.5, 4: 3.5}
"""Errors of noise, as ``docs/NUMERICS.md`` states them."""
CASES = [
    # image, output channels, pads_lo, pads_hi
    ((1, 12, 16, 16), 32, (1, 1), (1, 1)),
    ((2, 13, 9, 20), 40, (1, 1), (1, 1)),
    ((1, 12, 14, 33), 17, (0, 0), (0, 0)),
    ((3, 10, 11, 16), 64, (0, 2), (1, 0)),
    ((1, 31, 29, 24), 48, (2, 1), (0, 1)),
    ((0, 8, 8, 16), 16, (1, 1), (1, 1)),
]  # fmt: skip


def conv(b: Builder, x: Value, w: np.ndarray, lo: Any, hi: Any, **attrs: Any) -> Value:
    attrs = {"strides": (1, 1), "dilations": (1, 1), "groups": 1} | attrs
    return b.op("conv", x, b.const(w), pads_lo=lo, pads_hi=hi, layout="last", **attrs)


def used(b: Builder, y: Value) -> bool:
    graph = b.build({"y": y})
    nodes = [n for n in graph.nodes if n.op not in ("input", "const")]
    form = form_of(extract(graph, nodes).graph, "contract", frozenset([1]))
    return tiling(form, Target.named("avx512"), {}).winograd > 0


def weights(c: int, m: int) -> np.ndarray:
    return (array(3, 3, c, m) / np.float32(np.sqrt(9 * c))).astype(np.float32)


@pytest.mark.parametrize("target", ["cpu", "avx2", "generic"])
@pytest.mark.parametrize("side", SQUARES)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_with_epilogue(case: int, side: int, target: str) -> None:
    shape, m, lo, hi = CASES[case]
    b = Builder()
    y = conv(b, tensor(b, "x", *shape), weights(shape[-1], m), lo, hi)
    r = tensor(b, "r", *y.shape)
    y = b.op("add", b.op("relu", b.op("add", y, tensor(b, "b", m))), r)
    feeds = {"x": array(*shape), "b": array(m), "r": array(*y.shape)}  # type: ignore[arg-type]
    check(y, b, feeds, tolerance=3e-6, target=target, winograd=side)


@pytest.mark.parametrize("side", SQUARES)
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 3), (1, 1), (0, 4)])
def test_sizes_known_late(size: tuple[int, int], side: int) -> None:
    b = Builder()
    shape: tuple[Dim, ...] = (sym("N"), sym("H"), sym("W"), 16)
    y = conv(b, tensor(b, "x", *shape), weights(16, 24), (1, 1), (1, 1))
    assert used(b, y)
    check(b.op("relu", y), b, {"x": array(2, *size, 16)}, tolerance=3e-6, winograd=side)


@pytest.mark.parametrize("side", SQUARES)
def test_threads_do_not_change_a_bit(side: int) -> None:
    results = []
    x, w = array(1, 29, 31, 32), weights(32, 96)
    for threads in (1, 2):
        b = Builder()
        graph = b.build({"y": conv(b, tensor(b, "x", *x.shape), w, (1, 1), (1, 1))})
        results.append(run_as_one(graph, {"x": x}, threads=threads, winograd=side)[0]["y"])
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("side", SQUARES)
def test_the_error_stays_within_its_bound(side: int, smooth: bool) -> None:
    """Root mean squares against float64, of that of a direct sum in float32 in runs of 144:
    ``BOUND`` of noise, less where neighbors resemble one another."""
    x, w = array(1, 24, 24, 256), weights(256, 64)
    if smooth:
        x = np.cumsum(np.cumsum(x, 1), 2) / np.float32(8)
    b = Builder()
    graph = b.build({"y": conv(b, tensor(b, "x", *x.shape), w, (1, 1), (1, 1))})
    exact = interp.run(graph, {"x": x}, float64=True)["y"]
    fast = run_as_one(graph, {"x": x}, winograd=side)[0]["y"]
    assert np.abs(fast - exact).max() / np.abs(exact).max() < 3e-6
    rows = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    direct = np.zeros(exact.shape, np.float32)
    for c in range(0, 256, 16):
        part = np.zeros(exact.shape, np.float32)
        for i, j, k in np.ndindex(3, 3, 16):
            part += rows[:, i : i + 24, j : j + 24, c + k, None] * w[i, j, c + k]
        direct += part
    error, other = (np.sqrt(np.mean((y - exact) ** 2)) for y in (fast, direct))
    assert error < (BOUND[side] if not smooth else 2) * other


@pytest.mark.parametrize("side", SQUARES)
def test_what_is_not_finite_stays_in_its_squares(side: int) -> None:
    """Outputs whose square reads no infinity and no NaN are what they are without them."""
    x = array(1, 12, 12, 16)
    b = Builder()
    graph = b.build({"y": conv(b, tensor(b, "x", *x.shape), weights(16, 16), (1, 1), (1, 1))})
    clean = run_as_one(graph, {"x": x}, winograd=side)[0]["y"]
    x[0, 5, 5, 3], x[0, 5, 6, 2] = np.inf, np.nan
    spoilt = run_as_one(graph, {"x": x}, winograd=side)[0]["y"]
    first, last = ((place - 1) // side * side for place in (5, 7))
    reads = np.zeros((12, 12), bool)
    reads[first : (6 // side + 1) * side, first : last + side] = True
    assert not np.isfinite(spoilt[0, 4:7, 4:7]).any()
    np.testing.assert_array_equal(spoilt[0][~reads], clean[0][~reads])


@pytest.mark.parametrize("other", [{"strides": (2, 2)}, {"dilations": (2, 2)}, {"groups": 2}])
def test_other_convolutions_are_summed_directly(other: dict[str, Any]) -> None:
    b = Builder()
    w = weights(32 // other.get("groups", 1), 32)
    assert not used(b, conv(b, tensor(b, "x", 1, 20, 20, 32), w, (1, 1), (1, 1), **other))


def test_thin_images_and_images_of_few_tiles_are_summed_directly() -> None:
    b = Builder()
    assert not used(b, conv(b, tensor(b, "x", 1, 20, 20, 8), weights(8, 32), (1, 1), (1, 1)))
    assert not used(b, conv(b, tensor(b, "z", 1, 1, 3, 64), weights(64, 64), (1, 1), (1, 1)))


def test_channels_that_are_no_neighbors() -> None:
    """An image that is turned inside the group: few channels make it taps of a direct sum."""
    b = Builder()
    turned = b.op("transpose", tensor(b, "x", 2, 16, 14, 15), perm=(0, 2, 3, 1))
    y = conv(b, turned, weights(16, 24), (1, 1), (1, 1))
    assert not used(b, y)
    check(b.op("relu", y), b, {"x": array(2, 16, 14, 15)}, tolerance=3e-6)


def test_pixels_at_uneven_strides() -> None:
    """Behind a pixel shuffle a line's place in memory is no multiple of its number."""
    b = Builder()
    x = tensor(b, "x", 1, 6, 7, 2, 2, 16)
    shuffled = b.op("transpose", x, perm=(0, 1, 3, 2, 4, 5))
    y = conv(b, b.op("reshape", shuffled, shape=(1, 12, 14, 16)), weights(16, 40), (1, 1), (1, 1))
    graph = b.build({"y": y})
    (kernel,) = kernels_of(b, y)
    assert "mk_pixels_f32_2" in kernel.externs
    check(graph.outputs[0][1], b, {"x": array(1, 6, 7, 2, 2, 16)}, tolerance=2e-6)


def test_what_surrounds_the_products_is_written_once() -> None:
    """A narrower last panel has its own products, and nothing else of its own."""
    b = Builder()
    x = tensor(b, "x", 1, 13, 13, 16)
    (kernel,) = kernels_of(b, conv(b, x, weights(16, 40), (1, 1), (1, 1)))
    assert kernel.source.count("ccall(") == 4
    assert kernel.source.count("st(b3, ") == 1


def test_borders_make_no_other_kernel() -> None:
    """Whether squares stick out of the image, and where, is not in the source."""
    sources = set()
    for height, width in ((28, 28), (27, 28), (28, 27), (27, 27)):
        b = Builder()
        x = tensor(b, "x", 1, height, width, 64)
        (kernel,) = kernels_of(b, conv(b, x, weights(64, 64), (1, 1), (1, 1)))
        sources.add(kernel.source)
    assert len(sources) == 1


@pytest.mark.parametrize("side", SQUARES)
def test_nest(side: int) -> None:
    """The nest alone, run by its interpreter, which checks every position."""
    target = Target.named("generic")
    x, w = array(2, 5, 7, 17), weights(17, 20)
    b = Builder()
    graph = b.build({"y": b.op("relu", conv(b, tensor(b, "x", *x.shape), w, (1, 0), (1, 2)))})
    cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")]).graph
    plan = tiling(form_of(cut, "contract", frozenset([1])), target, {"winograd": side})
    tile = micro.igemm(target, mr=plan.rows, panel=plan.panel)
    lowered = lower_winograd(cut, tile, frozenset([1]), plan)
    assert lowered.panels is not None
    p = lowered.panels[1][0]
    packed = apply(w, p.spec)
    y = np.full(graph.outputs[0][1].shape, np.nan, np.float32)  # type: ignore[arg-type]
    run_nest(lowered.nest, [x, w, packed, y], {}, tile.nr)
    np.testing.assert_allclose(y, interp.run(graph, {"x": x})["y"], rtol=0, atol=1e-5)


def kernels_of(b: Builder, y: Value) -> tuple[Kernel, ...]:
    """Kernels of all nodes that lead to ``y``, as one group for AVX-512 in squares of two."""
    graph = b.build({"y": y})
    nodes = [n for n in graph.nodes if n.op not in ("input", "const")]
    cut = extract(graph, nodes)
    constants = frozenset(k for k, v in enumerate(cut.inputs) if v.node.op == "const")
    return group_kernels(cut.graph, "contract", Target.named("avx512"), constants,
                         (("winograd", 2),)).kernels
