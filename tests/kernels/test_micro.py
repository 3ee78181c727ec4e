"""Contraction tiles and packing against NumPy in float64, with edges and zero sizes."""

from __future__ import annotations

import ctypes
import re
from itertools import product

import numpy as np
import pytest

from evonnx.ir.errors import CompileError
from evonnx.ir.grids import Taps
from evonnx.ir.lines import run_pixels
from evonnx.ir.target import Target
from evonnx.ir.winograd import SQUARES, Transforms
from evonnx.kernels import jit, micro
from evonnx.kernels.linker import load_objects
from evonnx.kernels.micro.irtext import IN_ORDER
from evonnx.kernels.micro.winograd import ADDRESSES

rng = np.random.default_rng(2)
KINDS = {"f32": (np.float32, 1e-5), "f64": (np.float64, 1e-13)}


def table(base: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Addresses of elements of ``base``."""
    return np.ascontiguousarray(base.ctypes.data + offsets.astype(np.int64) * base.itemsize)


class Gemm:
    """A GEMM tile, called on arrays."""

    def __init__(self, target: Target, dtype: str, mr: int, nv: int, half: bool = False) -> None:
        self.tile = micro.igemm(target, dtype, mr, nv, half=half)
        real = ctypes.c_float if dtype == "f32" else ctypes.c_double
        self.loader = load_objects([self.tile.object_bytes()])
        kinds = [real if a in ("lo", "hi") else ctypes.c_int64 for a in self.tile.arguments]
        self.function = ctypes.CFUNCTYPE(None, *kinds)(self.loader.address(self.tile.symbol))

    def __call__(self, rows, b, c, *, taps=1, first=0, klen, m=None, n=None, part=None, bias=None,
                 res=None, lo=-np.inf, hi=np.inf):  # fmt: skip
        def at(array):
            return 0 if array is None else array.ctypes.data

        m, n = self.tile.mr if m is None else m, self.tile.nr if n is None else n
        self.function(rows.ctypes.data, taps, first, klen, b.ctypes.data, 64, 32, c.ctypes.data,
                      c.shape[1], m, n, at(part), part is not None, at(bias), at(res),
                      0 if res is None else res.shape[1], lo, hi)  # fmt: skip


@pytest.mark.parametrize("dtype", KINDS)
def test_igemm(target, dtype):
    kind, tolerance = KINDS[dtype]
    heights = micro.igemm_rows(target, dtype)
    for mr in {heights[0], heights[1], *(h for h in (5, 4, 2, 1) if h in heights)}:
        for nv, half in ((1, False), (2, False), (0, True), (1, True)):
            call = Gemm(target, dtype, mr, nv, half)
            nr = call.tile.nr
            for taps, first, k in ((0, 0, 4), (1, 0, 0), (1, 3, 1), (1, 0, 7), (3, 0, 5),
                                   (9, 2, 64), (2, 0, 129)):  # fmt: skip
                a = rng.standard_normal((taps, mr, first + k)).astype(kind)
                b = rng.standard_normal((taps * k, nr)).astype(kind)
                rows = table(a, np.arange(taps * mr) * (first + k))
                c = np.full((mr, nr + 3), 7, kind)
                call(rows, b, c, taps=taps, first=first, klen=k)
                used = a[:, :, first:].transpose(1, 0, 2).reshape(mr, -1)
                exact = used.astype(np.float64) @ b
                n = (2 * nv + half) * nr // 4
                np.testing.assert_allclose(
                    c[:, :n], exact[:, :n], rtol=tolerance, atol=tolerance * (taps * k + 1)
                )
                assert (c[:, n:] == 7).all()


@pytest.mark.parametrize("taps", [1, 64, 3])
def test_long_sums_do_not_run_in_one_chain(target, taps):
    """Thousands of equal products: one chain of additions drifts, blocks of them do not."""
    depth = 12288
    k = depth // taps
    chain = np.float64(np.cumsum(np.full(depth, 0.1, np.float32))[-1])
    exact = depth * np.float64(np.float32(0.1))
    assert abs(chain - exact) / exact > 1e-5
    for mr in micro.igemm_rows(target)[::3]:
        call = Gemm(target, "f32", mr, 2)
        a = np.full((taps, mr, k), 0.1, np.float32)
        b = np.ones((depth, call.tile.nr), np.float32)
        rows = table(a, np.arange(taps)[:, None] * (mr * k) + np.arange(mr) * k)
        c = np.zeros((mr, call.tile.nr), np.float32)
        call(rows, b, c, taps=taps, klen=k)
        np.testing.assert_allclose(c, exact, rtol=3e-6)


def test_sums_of_noise_are_as_near_as_sums_in_runs_of_128(target):
    """Root mean squares against float64, of numbers of which half are zero as behind a ReLU."""
    depth, run = 1024, 128
    call = Gemm(target, "f32", max(micro.igemm_rows(target)), 2)
    mr, nr = call.tile.mr, call.tile.nr
    ours, others = [], []
    for _ in range(4):
        a = np.maximum(rng.standard_normal((mr, depth)), 0).astype(np.float32)
        b = rng.standard_normal((depth, nr)).astype(np.float32)
        c = np.zeros((mr, nr), np.float32)
        call(table(a, np.arange(mr) * depth), b, c, klen=depth)
        products = (a.T[:, :, None] * b[:, None, :]).reshape(depth // run, run, mr, nr)
        other = np.cumsum(np.cumsum(products, 1)[:, -1], 0)[-1]
        exact = a.astype(np.float64) @ b
        ours.append(c - exact)
        others.append(other - exact)
    assert np.square(ours).mean() < 1.1**2 * np.square(others).mean()


def test_sets_of_accumulators_share_a_run(target):
    """A product of one row sums in four sets: none of them runs as long as one alone would."""
    depth = 1024
    call = Gemm(target, "f32", 1, 2)
    a, b = np.full((1, depth), 0.1, np.float32), np.ones((depth, call.tile.nr), np.float32)
    c = np.zeros((1, call.tile.nr), np.float32)
    call(table(a, np.zeros(1, np.int64)), b, c, klen=depth)
    np.testing.assert_allclose(c, depth * np.float64(np.float32(0.1)), rtol=1e-6)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("follows", ["", "part", "bias", "res", "limits", "part bias res limits"])
def test_igemm_with_epilogue(target, dtype, follows):
    """Partial sums, bias, residual and limits; edges leave the rest of C alone and read nothing
    outside; NaN survives the limits. Many products and distant rows ask for their lines first."""
    kind, tolerance = KINDS[dtype]
    for mr in (micro.igemm_rows(target, dtype)[0], 2):
        call = Gemm(target, dtype, mr, 2)
        nr = call.tile.nr
        sizes = (mr, nr), (1, 1), (mr - 1, nr), (mr, nr - 3), (mr, nr // 2)
        for (m, n), (k, wide) in product(sizes, ((9, nr), (130, nr + 128))):
            a = rng.standard_normal((mr, k)).astype(kind)
            a[0, 0] = np.nan
            b = rng.standard_normal((k, nr)).astype(kind)
            shapes = {"part": (mr, nr), "bias": (n,), "res": (m, n)}
            more = {name: rng.standard_normal(shape).astype(kind)
                    for name, shape in shapes.items() if name in follows}
            limits = {"lo": 0.0, "hi": 1.5} if "limits" in follows else {}
            c = np.full((mr, wide), 7, kind)
            call(table(a, np.arange(mr) * k), b, c, klen=k, m=m, n=n, **more, **limits)
            exact = (a.astype(np.float64) @ b)[:m, :n] + more.get("bias", 0) + more.get("res", 0)
            exact = exact + more.get("part", np.zeros((mr, nr)))[:m, :n]
            exact = np.clip(exact, limits.get("lo", -np.inf), limits.get("hi", np.inf))
            np.testing.assert_allclose(c[:m, :n], exact, atol=(11 + k) * tolerance)
            assert (c[m:] == 7).all()
            assert (c[:, n:] == 7).all()


def finish_of(channels, kind):
    """Random bias (or none) and limits (or none), and what they do to exact sums."""
    bias = rng.standard_normal(channels).astype(kind)
    lo, hi = ((-np.inf, np.inf), (0.0, 1.5))[channels % 2]
    given = channels != 64

    def after(exact):  # keeps the array that the address belongs to
        return np.clip(exact + (bias if given else 0), lo, hi)

    return bias.ctypes.data if given else 0, (lo, hi), after


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("mr", [None, 1, 2])
def test_depthwise(target, call_micro, dtype, mr):
    kind, tolerance = KINDS[dtype]
    tile = micro.depthwise(target, dtype, mr)
    call = call_micro(tile)
    for taps in (0, 1, 9):
        for channels in (1, 3, 16, 17, 31, 64, 65, 130, 144):
            x = rng.standard_normal((taps, tile.mr, channels)).astype(kind)
            w = rng.standard_normal((taps, channels)).astype(kind)
            out = np.full((tile.mr, channels + 2), 7, kind)
            rows = table(x, np.arange(taps * tile.mr) * channels)
            bias, limits, after = finish_of(channels, kind)
            call(rows.ctypes.data, taps, w.ctypes.data, channels, channels, out.ctypes.data,
                 channels + 2, bias, *limits)  # fmt: skip
            exact = after(np.einsum("trc,tc->rc", x.astype(np.float64), w.astype(np.float64)))
            np.testing.assert_allclose(out[:, :channels], exact, atol=20 * tolerance)
            assert (out[:, channels:] == 7).all()


@pytest.mark.parametrize("dtype", [*KINDS, "u8", "u8z", "s8z"])
def test_window(target, call_micro, dtype):
    """Windows on a grid whose first and last columns lie outside the image."""
    kind, tolerance = KINDS.get(dtype, KINDS["f32"])
    low, high, stored = (0, 256, np.uint8) if dtype[0] == "u" else (-128, 128, np.int8)
    zero = {"u8z": (7.0,), "s8z": (-5.0,)}.get(dtype, ())
    for kd, kh, kw, stride, dilation, mr in (
        (1, 3, 3, 1, 1, None), (1, 3, 3, 2, 1, None), (1, 5, 5, 1, 1, 2), (2, 7, 7, 1, 1, None),
        (1, 1, 2, 3, 1, 1), (1, 0, 3, 1, 1, 1), (1, 3, 3, 1, 2, None), (3, 2, 3, 2, 3, 3),
        (1, 1, 14, 1, 1, None), (1, 1, 31, 2, 1, 3), (2, 2, 10, 1, 2, None), (0, 2, 3, 1, 1, 2),
    ):  # fmt: skip
        tile = micro.window(target, kw, stride, dtype, mr, dilation)
        call = call_micro(tile)
        pixels = 2 * tile.mr + tile.mr // 2
        columns = (pixels - 1) * stride + (kw - 1) * dilation + 1
        for channels, left, right in ((1, 0, columns), (16, 1, columns), (17, 1, columns - 1),
                                      (65, 0, columns - 1), (130, columns, columns),
                                      (96, 2, 4), (32, 0, 1)):  # fmt: skip
            shape = (max(kd, 1), max(kh, 1), columns, channels + 1)
            x = rng.standard_normal(shape).astype(kind)
            if dtype not in KINDS:
                x = rng.integers(low, high, shape).astype(stored)
            outside = np.full(channels, zero[0] if zero else 0, x.dtype)
            w = rng.standard_normal((kd, kh, kw, channels)).astype(kind)
            out = np.full((pixels, channels + 2), 7, kind)
            bias, limits, after = finish_of(channels, kind)
            row = columns * (channels + 1)
            call(pixels, x.ctypes.data, channels + 1, row, kh, max(kh, 1) * row, kd, left, right,
                 outside.ctypes.data, w.ctypes.data, channels, kh * kw * channels, channels,
                 out.ctypes.data, channels + 2, bias, *limits, *zero)  # fmt: skip
            image = x.astype(np.float64) - (zero[0] if zero else 0)
            image[:, :, :left] = image[:, :, right:] = 0
            exact = np.zeros((pixels, channels))
            for r in range(pixels):
                at = r * stride + np.arange(kw) * dilation
                exact[r] = (image[:kd, :kh, at, :channels] * w).sum((0, 1, 2))
            size = 256 if dtype not in KINDS else 1
            np.testing.assert_allclose(
                out[:, :channels], after(exact), atol=50 * tolerance * size)
            assert (out[:, channels:] == 7).all()


@pytest.mark.parametrize("dtype", ["f32", "u8z", "s8"])
def test_block(target, call_micro, dtype):
    """Lines of which some rows and columns lie outside the image; sums as by the tile of one."""
    kind, tolerance = KINDS["f32"]
    low, high, stored = (0, 256, np.uint8) if dtype[0] == "u" else (-128, 128, np.int8)
    zero = {"u8z": (7.0,), "s8z": (-5.0,)}.get(dtype, ())
    for kd, down, across, lines, mr in (
        (1, Taps(3, 1, 1), Taps(3, 1, 1), 2, 3), (2, Taps(3, 2, 1), Taps(2, 2, 3), 2, 2),
        (0, Taps(2, 1, 2), Taps(1, 1, 1), 3, 1),
    ):  # fmt: skip
        tile = micro.block(target, down, across, lines, mr, dtype)
        call, single = call_micro(tile), call_micro(
            micro.window(target, across.count, across.stride, dtype, mr, across.dilation))
        pixels = 2 * mr + mr // 2
        rows, columns = down.span(lines), across.span(pixels)
        for channels, top, bottom, left, right in (
            (1, 0, rows, 0, columns), (16, 1, rows, 1, columns), (17, 0, rows - 1, 0, columns - 1),
            (70, rows, rows, 0, 1), (33, 0, 1, columns, columns),
        ):  # fmt: skip
            shape = (max(kd, 1), rows, columns, channels + 1)
            x = rng.standard_normal(shape).astype(kind)
            if dtype != "f32":
                x = rng.integers(low, high, shape).astype(stored)
            outside = np.full(channels, zero[0] if zero else 0, x.dtype)
            w = rng.standard_normal((kd, down.count, across.count, channels)).astype(kind)
            out = np.full((lines, pixels, channels + 2), 7, kind)
            bias, limits, after = finish_of(channels, kind)
            row, taps = columns * (channels + 1), down.count * across.count
            ends = (w.ctypes.data, channels, taps * channels, channels)
            step = channels + 2
            call(pixels, x.ctypes.data, channels + 1, row, top, bottom, rows * row, kd, left, right,
                 outside.ctypes.data, *ends, out.ctypes.data, step, pixels * step, bias, *limits,
                 *zero)  # fmt: skip
            image = x.astype(np.float64) - (zero[0] if zero else 0)
            image[:, :top] = image[:, bottom:] = image[:, :, :left] = image[:, :, right:] = 0
            exact = np.zeros((lines, pixels, channels))
            for line, r in np.ndindex(lines, pixels):
                down_at = line * down.stride + np.arange(down.count) * down.dilation
                at = r * across.stride + np.arange(across.count) * across.dilation
                window = image[:kd, down_at][:, :, at, :channels]
                exact[line, r] = (window * w).sum((0, 1, 2))
            size = 256 if dtype != "f32" else 1
            np.testing.assert_allclose(
                out[..., :channels], after(exact), atol=50 * tolerance * size)
            assert (out[..., channels:] == 7).all()
            if (top, bottom) == (0, rows):
                alone = np.zeros((pixels, channels), kind)
                single(pixels, x.ctypes.data, channels + 1, row * down.dilation, down.count,
                       rows * row, kd, left, right, outside.ctypes.data, *ends, alone.ctypes.data,
                       channels, bias, *limits, *zero)  # fmt: skip
                np.testing.assert_array_equal(out[0, :, :channels], alone)


@pytest.mark.parametrize("dtype", ["f32", "u8z"])
def test_roll(target, call_micro, dtype):
    """A run of lines gives what tiles of one line give, wherever the image begins and ends."""
    kind, stored = np.float32, np.float32 if dtype == "f32" else np.uint8
    zero = (7.0,) if dtype == "u8z" else ()
    most = run_pixels(target, Taps(3, 1, 1), Taps(3, 1, 1), dtype == "u8z")
    for down, across, mr in ((Taps(3, 2, 1), Taps(3, 2, 1), 3), (Taps(4, 3, 1), Taps(2, 1, 3), 2),
                             (Taps(5, 2, 1), Taps(1, 1, 1), 1), (Taps(4, 1, 1), Taps(1, 2, 1), 2),
                             (Taps(3, 1, 1), Taps(3, 1, 1), most)):
        call = call_micro(micro.roll(target, down, across, mr, dtype))
        single = call_micro(
            micro.window(target, across.count, across.stride, dtype, mr, across.dilation))
        for lines, channels, top, bottom, left, right in (
            (1, 16, 0, 99, 0, 99), (4, 17, 1, 99, 1, 99), (5, 70, 0, 6, 0, 4), (3, 33, 2, 2, 0, 1),
        ):  # fmt: skip
            pixels = 2 * mr + mr // 2
            rows, columns = down.span(lines), across.span(pixels)
            bottom, right = min(bottom, rows), min(right, columns)
            x = (40 * rng.standard_normal((rows, columns, channels + 1))).astype(stored)
            if dtype == "f32":
                x[:top] = x[bottom:] = x[:, :left] = x[:, right:] = np.nan
                x[rows // 2, columns // 2, 0] = np.inf
            outside = np.full(channels, zero[0] if zero else 0, x.dtype)
            w = rng.standard_normal((down.count, across.count, channels)).astype(kind)
            out = np.full((lines, pixels, channels + 2), 7, kind)
            bias, limits, _ = finish_of(channels, kind)
            line, step = columns * (channels + 1), channels + 2
            call(lines, pixels, x.ctypes.data, channels + 1, line, top, bottom, left, right,
                 outside.ctypes.data, w.ctypes.data, channels, channels, out.ctypes.data, step,
                 pixels * step, bias, *limits, *zero)  # fmt: skip
            assert (out[..., channels:] == 7).all()
            for number in range(lines):
                first = number * down.stride
                skipped = min(max(top - first, 0), down.count)
                kept = max(min(bottom - first, down.count) - skipped, 0)
                alone = np.zeros((pixels, channels), kind)
                single(pixels, x[first:].ctypes.data + skipped * line * x.itemsize, channels + 1,
                       line, kept, 0, 1, left, right, outside.ctypes.data,
                       w[skipped:].ctypes.data, channels, 0, channels, alone.ctypes.data, channels,
                       bias, *limits, *zero)  # fmt: skip
                np.testing.assert_array_equal(out[number, :, :channels], alone)


@pytest.mark.parametrize("dtype", KINDS)
def test_pack(target, call_micro, dtype):
    packer = micro.pack(target, dtype)
    call = call_micro(packer)
    for k in (0, 1, 3, 16, 17, 33, 64):
        for n in (1, 5, 16, 31, 32, 33, 70):
            b = rng.standard_normal((k, n)).astype(KINDS[dtype][0])
            expected = micro.pack_b(b, packer.nr)
            transposed = np.ascontiguousarray(b.T)
            spaced = np.repeat(b, 2, axis=1)
            for source, sk, sn in ((b, n, 1), (transposed, 1, k), (spaced, 2 * n, 2)):
                out = np.full(expected.shape, 7, b.dtype)
                call(source.ctypes.data, sk, sn, k, n, out.ctypes.data)
                assert (out == expected).all(), (k, n, sk, sn)


def test_turn(target, call_micro):
    """Whole blocks and edges; nothing outside is written or read."""
    call = call_micro(micro.turn(target))
    for m, n in ((0, 3), (3, 0), (1, 1), (5, 40), (16, 16), (17, 33), (64, 7), (32, 48)):
        a = rng.standard_normal((max(m, 1), n + 3)).astype(np.float32)
        a[:, n:] = np.nan
        out = np.full((n + 1, m + 2), 7, np.float32)
        call(a.ctypes.data, n + 3, m, n, out.ctypes.data, m + 2)
        assert (out[:n, :m] == a[:m, :n].T).all(), (m, n)
        assert (out[n:] == 7).all()
        assert (out[:, m:] == 7).all()


def test_fetch(target, call_micro):
    """Nothing is accessed, wherever the rows are."""
    call = call_micro(micro.fetch(target))
    for at, step, m, n in ((64, 4096, 100, 256), (1, 7, 3, 1), (0, 0, 0, 64), (8, -4096, 5, 65)):
        call(at, step, m, n)
    text = micro.fetch(target).text()
    assert text.count("call void @llvm.prefetch") == 2 and " load " not in text


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("n", [0, 1, 4, 7, 66])
def test_softmax(target, call_micro, n, more):
    """Weights, their sum and what was before them, in float64 and a lane at a time."""
    kernel = micro.softmax(target)
    call, width = call_micro(kernel), kernel.nr // kernel.nv
    for lanes, factor in ((kernel.nr, 1.0), (width - 1, 0.18), (1, 1e30)):
        scores = rng.standard_normal((n, kernel.nr)).astype(np.float32) * 20
        top = rng.standard_normal(kernel.nr).astype(np.float32) * 30
        total, gain = rng.uniform(1, 9, kernel.nr).astype(np.float32), np.full(kernel.nr, 7.0, "f4")
        scores[n // 2 :, 0], top[0] = -np.inf, -np.inf
        if lanes > 1:
            scores[n // 3 : n // 2 + 1, 1] = np.nan
            scores[:, 2], top[2] = -np.inf, -np.inf
            scores[n // 2 :, 3] = np.inf
        before = top.astype(float) if more else np.full(kernel.nr, -np.inf)
        with np.errstate(all="ignore"):
            largest = np.maximum(before, np.fmax.reduce(scores, 0, initial=-np.inf))
            shift = np.where(largest == -np.inf, 0, largest)
            weights = np.exp2((scores.astype(float) - shift) * factor)
            gains = np.exp2((before - shift) * factor) if more else np.full(kernel.nr, 7.0)
            sums = weights.sum(0) + (gains * total if more else 0)
        got = scores.copy()
        after, found = top.copy(), total.copy()
        call(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in (
            got, n, lanes, factor, after, found, gain, more)))  # fmt: skip
        used = -(-lanes // width) * width
        sound = ~np.isnan(weights).any(0)
        sound[used:] = False
        np.testing.assert_allclose(got[:, sound], weights[:, sound], 1e-5, 1e-37)
        np.testing.assert_allclose(found[sound], sums[sound], 1e-5)
        np.testing.assert_allclose(gain[sound], gains[sound], 1e-5, 1e-37)
        assert (after[sound] == largest[sound]).all()
        assert np.isnan(found[:used][~sound[:used]]).all()
        assert (found[used:] == total[used:]).all()
        assert (after[used:] == top[used:]).all()


def test_weights_of_zero(target, call_micro):
    """What is far below the largest score weighs nothing at all, the largest one exactly 1."""
    call = call_micro(micro.softmax(target))
    nr = micro.softmax(target).nr
    scores = np.zeros((5, nr), np.float32)
    scores[:4] = np.array([-126.6, -1e4, -3e38, -np.inf], np.float32)[:, None]
    state = np.zeros((3, nr), np.float32)
    call(scores.ctypes.data, 5, nr, 1.0, *(row.ctypes.data for row in state), 0)
    assert (scores[:4] == 0).all()
    assert (scores[4] == 1).all()
    assert (state[1] == 1).all()


@pytest.mark.parametrize("side", SQUARES)
def test_winograd_transforms(target, call_micro, side):
    """Products of a transformed filter and transformed pixels, transformed back, are sums over 3x3
    pixels; nothing beyond the channels is touched."""
    t = Transforms(side)
    size, width = t.size, target.lanes(32)
    pixels = call_micro(micro.pixels(target, side))
    results = call_micro(micro.results(target, side))
    g = np.array(t.weights())
    for channels in (1, width, 2 * width + 3):
        held = -(-channels // width) * width
        d = rng.standard_normal((size, size, channels)).astype(np.float32)
        filters = rng.standard_normal((3, 3, channels))
        offsets = np.zeros((size, ADDRESSES), np.int64)
        offsets[:, :size] = np.arange(size * size).reshape(size, size) * channels
        planes = np.full((size * size, held + 5), 7, np.float32)
        pixels(table(d, offsets).ctypes.data, channels, planes.ctypes.data, held + 5)
        assert (planes[:, channels:] == 7).all()
        spread = np.einsum("pi,ijc,qj->pqc", g, filters, g).reshape(size * size, channels)
        planes[:, :channels] *= spread.astype(np.float32)
        out = np.full((side * side, held + 2), 7, np.float32)
        results(planes.ctypes.data, held + 5, channels, out.ctypes.data, held + 2)
        assert (out[:, held:] == 7).all()
        windows = np.lib.stride_tricks.sliding_window_view(d.astype(np.float64), (3, 3), (0, 1))
        exact = np.einsum("yxcij,ijc->yxc", windows, filters).reshape(side * side, channels)
        np.testing.assert_allclose(out[:, :channels], exact, rtol=0, atol=3e-5)


@pytest.mark.parametrize("flip", [False, True], ids=["u8", "s8"])
def test_igemm_i8(target, call_micro, flip):
    """Exact on all bytes, extremes included, for k that do not fill a group of four."""
    low, high = (-128, 128) if flip else (0, 256)
    narrow = [(0, True), (1, True), (1, False)] if target.vector_bits >= 512 else [(1, False)]
    for mr, (nv, half) in product(micro.igemm_rows(target), [(2, False), *narrow]):
        tile = micro.igemm_i8(target, mr, nv, flip, half)
        call = call_micro(tile)
        used = (2 * nv + half) * tile.nr // 4
        for taps, k in ((0, 4), (1, 1), (1, 3), (3, 5), (9, 64), (1, 1000)):
            stored = rng.integers(low, high, taps * mr * k + 4).astype(
                np.int8 if flip else np.uint8
            )
            stored[:k] = low if flip else high - 1
            a = stored[:-4].reshape(taps, mr, k)
            w = rng.integers(-128, 128, (taps, k, tile.nr)).astype(np.int8)
            w[..., 0] = -128
            b = micro.pack_b_i8(w, tile.nr)
            rows = table(stored, np.arange(taps * mr) * k)
            c = np.full((mr, tile.nr + 3), 7, np.int32)
            call(rows.ctypes.data, taps, k, b.ctypes.data, c.ctypes.data, tile.nr + 3)
            shifted = a.astype(np.int64) + (128 if flip else 0)
            exact = np.einsum("trk,tkn->rn", shifted, w.astype(np.int64))
            assert (c[:, :used] == exact[:, :used]).all(), (mr, taps, k)
            assert (c[:, used:] == 7).all()


def test_pack_i8(target, call_micro):
    packer = micro.pack_i8(target)
    call = call_micro(packer)
    for k, n in ((1, 1), (3, 5), (4, 32), (9, 33), (16, 70)):
        b = rng.integers(0, 256, (k, n)).astype(np.uint8)
        expected = micro.pack_b_i8((b.astype(int) - 128).astype(np.int8)[None], packer.nr)
        transposed = np.ascontiguousarray(b.T)
        for source, sk, sn in ((b, n, 1), (transposed, 1, k)):
            out = np.full(expected.shape, 7, np.int8)
            call(source.ctypes.data, sk, sn, k, n, out.ctypes.data, 128)
            assert (out == expected).all()


def test_symbols_name_their_kernel(target):
    made = [
        micro.igemm(target, "f64", 2, 1), micro.igemm(target), micro.igemm_i8(target, 4),
        micro.igemm_i8(target, flip=True), micro.depthwise(target, "f64"), micro.pack_i8(target),
        micro.window(target, 3, 2), micro.window(target, 3, 1, "s8", 2, 4), micro.pack(target),
        micro.depthwise(target, "u8", 3), micro.igemm(target, nv=0, half=True),
        micro.igemm_i8(target, 3, 1, half=target.vector_bits >= 512), micro.turn(target),
        micro.softmax(target), micro.pixels(target, 4), micro.results(target, 3),
        micro.fetch(target),
        micro.block(target, Taps(3, 2, 1), Taps(2, 1, 3), 2, 3, "u8z"),
        micro.roll(target, Taps(3, 2, 1), Taps(2, 1, 3), 2, "u8z"),
    ]  # fmt: skip
    for kernel in made:
        assert micro.named(kernel.symbol, target) == kernel
        assert micro.named(kernel.symbol, target).text() == kernel.text()
    with pytest.raises(CompileError, match="mk_nothing"):
        micro.named("mk_nothing", target)
    with pytest.raises(CompileError, match="no register"):
        micro.block(target, Taps(9, 1, 1), Taps(9, 1, 1), 4, 8)


@pytest.mark.parametrize("stride", [1, 2])
def test_sums_of_wide_windows_stay_in_registers(stride):
    """LLVM's scheduler would keep hundreds of vectors of them in memory."""
    target, taps = Target.named("avx512"), Taps(5, stride, 1)

    def kept(text):
        asm = jit.asm_of_ir(text, target, optimize=False)
        return len(re.findall(r"\(%r[sb]p.*%zmm|%zmm.*\(%r[sb]p", asm))

    text = micro.block(target, taps, taps, 2, 7).text()
    assert kept(text) == 0 < kept(text.replace(IN_ORDER, "")) and kept(text) == 0


def test_objects_are_compiled_once(target):
    assert micro.pack(target).object_bytes() is micro.pack(target).object_bytes()
