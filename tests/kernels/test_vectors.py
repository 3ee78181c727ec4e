"""Loops that the front end writes as vectors: every rest, special values, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.target import Target
from evonnx.kernels import jit

RNG = np.random.default_rng(23)
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-42, 3e38], np.float32)
MAP = """
def kernel(bufs, params, begin, end):
    n = prm(params, 0)
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    z = ptr_f32(bufs, 2)
    one = f32(1.0)
    for i in range(begin, end):
        c = ld(y, i)
        low = i * n
        high = low + n
        for j in range(low, high):
            a = ld(x, j)
            o = j - low + 1
            b = ld(y, o)
            m = select(lt(a, c), fmax(a, b), {})
            st(z, j, m)
"""
ROWS = """
def kernel(bufs, params, begin, end):
    n = prm(params, 0)
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    start = f32(0.5)
    least = bits_f32(4286578688)
    for i in range(begin, end):
        total = start
        square = start
        high = least
        low = neg(least)
        base = i * n
        for j in range({}):
            o = base + j
            a = ld(x, o)
            total = radd(total, a)
            square = radd(square, a * a)
            high = fmax(high, a)
            low = fmin(low, a)
        at = i * 4
        st(y, at, total)
        st(y, at + 1, square)
        st(y, at + 2, high)
        st(y, at + 3, low)
"""
ONTO = """
def kernel(bufs, params, begin, end):
    n = prm(params, 0)
    x = ptr_f32(bufs, 0)
    z = ptr_f32(bufs, 1)
    for i in range(begin, end):
        base = i * n
        for j in range(n):
            a = ld(x, base + j)
            st(z, j, radd(ld(z, j), a * a))
"""
SIZES = (0, 1, 7, 15, 16, 17, 31, 32, 33, 49, 63, 80, 100, 197)


def numbers(*shape: int, special: bool) -> np.ndarray:
    x = RNG.standard_normal(shape).astype(np.float32) * 3
    spots = RNG.random(shape) < 0.05
    return np.where(spots, RNG.choice(SPECIAL, shape), x) if special else x


def close(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("special", [False, True])
def test_maps(run, special):
    rows = 5
    for n in SIZES:
        x, y = numbers(rows, n, special=special), numbers(n + rows + 1, special=special)
        z = np.full(rows * n + 64, 7.0, np.float32)
        run.kernel(MAP.format("a * b - c / fabs(b) + one"), [x, y, z], [n], rows)
        with np.errstate(all="ignore"):
            b, c = y[1:n + 1], y[:rows, None]
            wanted = np.where(x < c, np.maximum(x, b), x * b - c / np.abs(b) + 1)
        close(z[:rows * n].reshape(rows, n), wanted)
        assert (z[rows * n:] == 7).all(), "behind the last row"


@pytest.mark.parametrize("word,exact", [
    ("exp(a)", np.exp), ("tanh(a)", np.tanh), ("sigmoid(a)", lambda x: 1 / (1 + np.exp(-x))),
    ("log(fabs(a))", lambda x: np.log(np.abs(x))), ("rint(a)", np.rint), ("floor(a)", np.floor),
    ("sqrt(fabs(a))", lambda x: np.sqrt(np.abs(x))), ("copysign(one, a)", None),
])  # fmt: skip
def test_functions(run, word, exact):
    exact = exact or (lambda x: np.copysign(1, x))
    for n in (5, 16, 51):
        x, y = numbers(2, n, special=True), np.full(n + 3, -np.inf, np.float32)
        z = np.empty(2 * n, np.float32)
        run.kernel(MAP.format(word), [x, y, z], [n], 2)
        with np.errstate(all="ignore"):
            close(z.reshape(2, n), exact(x.astype(np.float64)).astype(np.float32))


def test_terms_added_to_a_row_in_memory(run):
    for n in SIZES:
        x, y, z = numbers(4, n, special=True), numbers(n, special=True), np.empty(n, np.float32)
        x[x == SPECIAL[-1]] = 1e3  # its square is no number, unless it is never rounded
        z[:], wanted = y, y.copy()
        run.kernel(ONTO, [x, z], [n], 4)
        with np.errstate(all="ignore"):
            for row in x:
                wanted += row * row
        close(z, wanted)


@pytest.mark.parametrize("special", [False, True])
def test_rows(run, special):
    rows = 6
    for n in SIZES:
        x = numbers(rows, n, special=special)
        x[x == SPECIAL[-1]] = 1e30  # no order of additions may overflow
        if special and n > 20:
            x[0], x[1, 3:] = -np.inf, np.nan
            x[2, -1] = np.nan
        for length in ("n", str(n)):
            y = np.full((rows, 4), 7.0, np.float32)
            run.kernel(ROWS.format(length), [x, y], [n], rows)
            with np.errstate(all="ignore"):
                wide = x.astype(np.float64)
                close(y[:, 0], (wide.sum(1) + 0.5).astype(np.float32))
                close(y[:, 1], ((wide * wide).sum(1) + 0.5).astype(np.float32))
            np.testing.assert_array_equal(y[:, 2], x.max(1, initial=-np.inf))
            np.testing.assert_array_equal(y[:, 3], x.min(1, initial=np.inf))


BORDERS = """
def kernel(bufs, params, begin, end):
    n = prm(params, 0)
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    other = f32(-2.0)
    for i in range(begin, end):
        base = i * n
        for j in each(n):
            before = j - 1
            c = (before >= 0)
            p = base + before
            a = ldm(x, p, c, other)
            after = j + 3
            d = (after < n)
            q = base + after
            b = ldm(x, q, d, other)
            o = base + j
            st(y, o, a * b)
"""


def test_reads_under_masks(run):
    """Each row by itself: its neighbors, which lie before and behind it, are NaN."""
    for n in SIZES[1:]:
        x = np.full((5, n), np.nan, np.float32)
        x[1::2] = numbers(2, n, special=False)
        y = np.full((5, n), np.nan, np.float32)
        run.kernel(BORDERS, [x, y], [n], 5)
        padded = np.pad(x[1::2], ((0, 0), (1, 3)), constant_values=-2)
        np.testing.assert_array_equal(y[1::2], padded[:, :n] * padded[:, 4:])


def test_which_loops():
    """Vectors where masks are, not of what an iteration reads that another one writes."""
    wide, narrow = Target.named("avx512"), Target.named("generic")
    for target in (wide, Target.named("avx2")):
        assert "llvm.masked.store" in jit.lower(MAP.format("a"), "k", target)
        assert "llvm.masked" in jit.lower(ROWS.format("n"), "k", target)
    assert "llvm.masked" not in jit.lower(MAP.format("a"), "k", narrow)
    shifted = MAP.format("a").replace("st(z, j, m)", "st(y, j, m)")
    assert "llvm.masked" not in jit.lower(shifted, "k", wide)
    alone = ROWS.format("n").replace("square = radd", "other = fadd")
    assert "llvm.masked" not in jit.lower(alone.replace("other", "square"), "k", wide)


@pytest.mark.parametrize("source,note", [
    (MAP.format("a"), "vectors of 16"),
    (ONTO, "vectors of 16"),
    (MAP.format("sin(a)"), "left to LLVM: sin of float32 (vector) has no vectors"),
    (MAP.format("a").replace("st(z, j, m)", "st(y, j, m)"),
     "left to LLVM: what one iteration writes, another one may read"),
    (MAP.format("a").replace("high = low + n", "high = n").replace("(low, high)", "(low, n, 2)"),
     "left to LLVM: its steps are not of 1"),
    (ROWS.format("n").replace("square = radd(square, a * a)", "square = radd(square, total)"),
     "left to LLVM: the partial result total is no float32 or is used elsewhere, too"),
    (MAP.format("a").replace("st(z, j, m)", "k = m"), "left to LLVM: it writes nothing"),
])  # fmt: skip
def test_what_is_said_of_loops(source, note):
    text = jit.annotated(source, Target.named("avx512"))
    inner = next(line for line in text.splitlines() if line.lstrip().startswith("for j"))
    assert inner.endswith(f"# {note}")
    outer = next(line for line in text.splitlines() if line.lstrip().startswith("for i"))
    assert outer.endswith("# left to LLVM: there are loops or branches in it")
    assert "no vectors with masks" in jit.annotated(source, Target.named("generic"))


def test_a_running_sum_stays_one(run):
    """Every iteration reads what the one before wrote."""
    source = MAP.format("a").replace("ld(x, j)", "ld(z, j)").replace("st(z, j, m)", "st(z, o, c)")
    source = source.replace("o = j - low + 1", "o = j + 1").replace("c = ld(y, i)", "k = ld(y, i)")
    source = source.replace("m = select(lt(a, c), fmax(a, b), a)", "c = a + k")
    n = 40
    x, y = np.zeros(1, np.float32), np.ones(n + 2, np.float32)
    z = np.arange(n + 1, dtype=np.float32)
    run.kernel(source, [x, y, z], [n], 1)
    np.testing.assert_array_equal(z, np.arange(n + 1, dtype=np.float32))
    z = np.zeros(n + 1, np.float32)
    run.kernel(source, [x, y, z], [n], 1)
    np.testing.assert_array_equal(z, np.arange(n + 1, dtype=np.float32))


def norms(rows: int) -> str:
    """Rows divided by their lengths, ``rows`` of them side by side; zeros stay."""
    every = range(rows)
    lines = ["def kernel(bufs, params, begin, end):", "    n = prm(params, 0)",
             "    x = ptr_f32(bufs, 0)", "    y = ptr_f32(bufs, 1)", "    zero = f32(0.0)",
             "    one = f32(1.0)", "    count = f32(n)", "    for i in range(begin, end):"]
    lines += [f"        base{k} = (i * {rows} + {k}) * n" for k in every]
    lines += [f"        a{k} = zero" for k in every]
    lines += ["        for j in range(n):"]
    for k in every:
        lines += [f"            o{k} = base{k} + j", f"            v{k} = ld(x, o{k})",
                  f"            a{k} = radd(a{k}, v{k} * v{k})"]
    for k in every:
        lines += [f"        root{k} = sqrt(a{k} / count)",
                  f"        safe{k} = select(eq(root{k}, zero), one, root{k})",
                  f"        inverse{k} = one / safe{k}"]
    lines += ["        for l in each(n):"]
    for k in every:
        lines += [f"            p{k} = base{k} + l", f"            w{k} = ld(x, p{k})",
                  f"            st(y, p{k}, w{k} * inverse{k})"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8])
def test_what_follows_from_sums_of_rows(run, rows):
    for n in (1, 10, 16, 33, 100):
        x = numbers(2 * rows, n, special=False)
        x[0] = 0
        if rows > 1:
            x[1, -1], x[-1, 0], x[rows] = np.nan, np.inf, 1e-20
        y = np.full(x.size + 32, 7.0, np.float32)
        run.kernel(norms(rows), [x, y], [n], 2)
        with np.errstate(all="ignore"):
            root = np.sqrt((x.astype(np.float64) ** 2).astype(np.float32).sum(1, keepdims=True) / n)
            close(y[:x.size].reshape(x.shape), x / np.where(root == 0, 1, root))
        assert (y[x.size:] == 7).all(), "behind the last row"


def test_rows_are_divided_together():
    wide = Target.named("avx512")
    assert "fdiv <4 x float>" in jit.lower(norms(4), "k", wide).replace("contract ", "")
    assert "fdiv <4 x float>" not in jit.lower(norms(3), "k", wide).replace("contract ", "")


def distances(rows: int, word: str, start: str) -> str:
    """Distances of the elements of ``rows`` rows side by side from their largest or smallest."""
    every = range(rows)
    lines = ["def kernel(bufs, params, begin, end):", "    n = prm(params, 0)",
             "    x = ptr_f32(bufs, 0)", "    y = ptr_f32(bufs, 1)", f"    start = {start}",
             "    for i in range(begin, end):"]
    for k in every:
        lines += [f"        base{k} = (i * {rows} + {k}) * n", f"        a{k} = start"]
    lines += ["        for j in range(n):"]
    for k in every:
        lines += [f"            o{k} = base{k} + j", f"            v{k} = ld(x, o{k})",
                  f"            a{k} = {word}(a{k}, v{k})"]
    lines += ["        for l in each(n):"]
    for k in every:
        lines += [f"            p{k} = base{k} + l", f"            w{k} = ld(x, p{k})",
                  f"            st(y, p{k}, w{k} - a{k})"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("rows", [1, 4, 5, 8])
@pytest.mark.parametrize(("word", "start", "best"), [
    ("fmax", "bits_f32(4286578688)", np.max), ("fmin", "bits_f32(2139095040)", np.min)])
def test_extremes_of_rows(run, rows, word, start, best):
    """Each row has its own, wherever in the row it lies; NaN and infinities stay in theirs."""
    for n in (1, 10, 16, 33, 100):
        x = numbers(3 * rows, n, special=False)
        x[rows:2 * rows] = RNG.permuted(np.arange(rows * n).reshape(rows, n), axis=1)
        x[2, -1], x[-1, 0], x[0] = np.nan, np.inf, -np.inf
        y = np.full(x.size + 32, 7.0, np.float32)
        run.kernel(distances(rows, word, start), [x, y], [n], 3)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(y[:x.size].reshape(x.shape),
                                          x - best(x, axis=1, keepdims=True))
        assert (y[x.size:] == 7).all(), "behind the last row"


def test_rows_under_a_condition(run):
    """What rows start with is what they have where no loop runs."""
    loop = "        for j in range(n):"
    source = norms(4).replace(loop, f"        if i > 0:\n  {loop}")
    head, body = source.split("          for j in range(n):\n")
    inner, rest = body.split("        root0", 1)
    inner = "".join("  " + line + "\n" for line in inner.splitlines())
    source = f"{head}          for j in range(n):\n{inner}        root0{rest}"
    n = 40
    x = numbers(8, n, special=False)
    y = np.zeros(x.size, np.float32)
    run.kernel(source, [x, y], [n], 2)
    root = np.sqrt((x**2).mean(1, keepdims=True))
    root[:4] = 1
    close(y.reshape(x.shape), x / root)
