"""Contraction tiles and packing against NumPy in float64, with edges and zero sizes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from evonnx.ir.errors import CompileError
from evonnx.kernels import micro
from evonnx.kernels.jit import load_objects

rng = np.random.default_rng(2)
KINDS = {"f32": (np.float32, 1e-5), "f64": (np.float64, 1e-13)}


def table(base: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Addresses of elements of ``base``."""
    return np.ascontiguousarray(base.ctypes.data + offsets.astype(np.int64) * base.itemsize)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("strided", [False, True], ids=["rows", "strided"])
def test_igemm(target, call_micro, dtype, strided):
    kind, tolerance = KINDS[dtype]
    for mr in micro.igemm_rows(target, dtype):
        for nv in (1, 2):
            tile = micro.igemm(target, dtype, mr, nv, strided)
            call = call_micro(tile)
            for taps, k in ((0, 4), (1, 0), (1, 1), (1, 7), (3, 5), (9, 64), (2, 129)):
                a = rng.standard_normal((taps, mr, k)).astype(kind)
                b = rng.standard_normal((taps * k, tile.nr)).astype(kind)
                stored = np.ascontiguousarray(a.transpose(0, 2, 1)) if strided else a
                row, tap = (1, mr * k) if strided else (k, mr * k)
                rows = table(stored, np.arange(taps)[:, None] * tap + np.arange(mr) * row)
                c = np.full((mr, tile.nr + 3), 7, kind)
                extra = [mr] if strided else []
                call(rows.ctypes.data, taps, k, b.ctypes.data, c.ctypes.data, tile.nr + 3, *extra)
                exact = a.transpose(1, 0, 2).reshape(mr, -1).astype(np.float64) @ b
                n = nv * tile.nr // 2
                np.testing.assert_allclose(
                    c[:, :n], exact[:, :n], rtol=tolerance, atol=tolerance * (taps * k + 1)
                )
                assert (c[:, n:] == 7).all()


@pytest.mark.parametrize("taps", [1, 64, 3])
def test_long_sums_do_not_run_in_one_chain(target, call_micro, taps):
    """Thousands of equal products: one chain of additions drifts, blocks of them do not."""
    depth = 12288
    k = depth // taps
    chain = np.float64(np.cumsum(np.full(depth, 0.1, np.float32))[-1])
    exact = depth * np.float64(np.float32(0.1))
    assert abs(chain - exact) / exact > 1e-5
    for mr in micro.igemm_rows(target):
        tile = micro.igemm(target, "f32", mr)
        a = np.full((taps, mr, k), 0.1, np.float32)
        b = np.ones((depth, tile.nr), np.float32)
        rows = table(a, np.arange(taps)[:, None] * (mr * k) + np.arange(mr) * k)
        c = np.zeros((mr, tile.nr), np.float32)
        call_micro(tile)(rows.ctypes.data, taps, k, b.ctypes.data, c.ctypes.data, tile.nr)
        np.testing.assert_allclose(c, exact, rtol=3e-6)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("finish", ["b", "r"])
def test_igemm_with_epilogue(target, dtype, finish):
    """Bias, residual and limits; edges leave the rest of C alone; NaN survives the limits."""
    kind, tolerance = KINDS[dtype]
    real = ctypes.c_float if dtype == "f32" else ctypes.c_double
    integer = ctypes.c_int64
    for mr in (None, 2):
        tile = micro.igemm(target, dtype, mr, finish=finish)
        loader = load_objects([tile.object_bytes()])
        kinds = [real if a in ("lo", "hi") else integer for a in tile.arguments]
        call = ctypes.CFUNCTYPE(None, *kinds)(loader.address(tile.symbol))
        k, wide = 9, tile.nv * tile.nr // 2
        for m, n in ((tile.mr, wide), (1, 1), (tile.mr - 1, wide), (tile.mr, wide - 3)):
            a = rng.standard_normal((tile.mr, k)).astype(kind)
            a[0, 0] = np.nan
            b = rng.standard_normal((k, tile.nr)).astype(kind)
            bias, res = (
                rng.standard_normal(n).astype(kind),
                rng.standard_normal((m, n)).astype(kind),
            )
            c = np.full((tile.mr, tile.nr), 7, kind)
            rows = table(a, np.arange(tile.mr) * k)
            extra = (res.ctypes.data, n) if finish == "r" else ()
            call(rows.ctypes.data, 1, k, b.ctypes.data, c.ctypes.data, tile.nr, m, n,
                 bias.ctypes.data, 0.0, 1.5, *extra)  # fmt: skip
            exact = (a.astype(np.float64) @ b)[:m, :n] + bias
            exact = np.clip(exact + res if finish == "r" else exact, 0, 1.5)
            np.testing.assert_allclose(c[:m, :n], exact, atol=20 * tolerance)
            assert (c[m:] == 7).all()
            assert (c[:, n:] == 7).all()


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
            call(rows.ctypes.data, taps, w.ctypes.data, channels, channels, out.ctypes.data,
                 channels + 2)  # fmt: skip
            exact = np.einsum("trc,tc->rc", x.astype(np.float64), w.astype(np.float64))
            np.testing.assert_allclose(out[:, :channels], exact, atol=20 * tolerance)
            assert (out[:, channels:] == 7).all()


@pytest.mark.parametrize("dtype", KINDS)
def test_window(target, call_micro, dtype):
    kind, tolerance = KINDS[dtype]
    for kh, kw, stride, mr in ((3, 3, 1, None), (3, 3, 2, None), (5, 5, 1, 2), (7, 7, 1, None),
                               (1, 2, 3, 1), (0, 3, 1, 1)):  # fmt: skip
        tile = micro.window(target, kw, stride, dtype, mr)
        call = call_micro(tile)
        columns = (tile.mr - 1) * stride + kw
        for channels in (1, 16, 17, 65, 130):
            x = rng.standard_normal((max(kh, 1), columns, channels + 1)).astype(kind)
            w = rng.standard_normal((kh, kw, channels)).astype(kind)
            out = np.full((tile.mr, channels + 2), 7, kind)
            call(x.ctypes.data, channels + 1, columns * (channels + 1), kh, w.ctypes.data,
                 channels, channels, out.ctypes.data, channels + 2)  # fmt: skip
            exact = np.zeros((tile.mr, channels))
            for r in range(tile.mr):
                part = x[:kh, r * stride : r * stride + kw, :channels].astype(np.float64)
                exact[r] = (part * w).sum((0, 1))
            np.testing.assert_allclose(out[:, :channels], exact, atol=50 * tolerance)
            assert (out[:, channels:] == 7).all()


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


@pytest.mark.parametrize("flip", [False, True], ids=["u8", "s8"])
def test_igemm_i8(target, call_micro, flip):
    """Exact on all bytes, extremes included, for k that do not fill a group of four."""
    low, high = (-128, 128) if flip else (0, 256)
    for mr in micro.igemm_rows(target):
        tile = micro.igemm_i8(target, mr, None, flip)
        call = call_micro(tile)
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
            assert (c[:, : tile.nr] == exact).all(), (mr, taps, k)
            assert (c[:, tile.nr :] == 7).all()


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
        micro.igemm(target, "f64", 2, 1, True), micro.igemm(target),
        micro.igemm(target, finish="b"), micro.igemm(target, strided=True, finish="r"),
        micro.igemm_i8(target, 4),
        micro.igemm_i8(target, flip=True), micro.depthwise(target, "f64"), micro.pack_i8(target),
        micro.window(target, 3, 2), micro.pack(target),
    ]  # fmt: skip
    for kernel in made:
        assert micro.named(kernel.symbol, target) == kernel
        assert micro.named(kernel.symbol, target).text() == kernel.text()
    with pytest.raises(CompileError, match="mk_nothing"):
        micro.named("mk_nothing", target)


def test_objects_are_compiled_once(target):
    assert micro.pack(target).object_bytes() is micro.pack(target).object_bytes()
