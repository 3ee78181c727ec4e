"""The road from kernel source to running code, and the words that are not transcendental."""

from __future__ import annotations

import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from evonnx.ir.errors import CompileError
from evonnx.ir.target import Target
from evonnx.kernels import jit, linker

TWO_LOOPS = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    o = ptr_f32(bufs, 2)
    n = prm(params, 0)
    for t in range(begin, end):
        r = t * n
        for i in range(n):
            a = ld(x, r + i)
            st(o, r + i, a * ld(y, i) + a)
        for i in range(n):
            st(o, r + i, ld(o, r + i) * ld(y, i))
"""
rng = np.random.default_rng(0)


def body(*lines: str) -> str:
    return "def kernel(bufs, params, begin, end):\n" + "".join(f"    {x}\n" for x in lines)


def test_two_loops(run):
    x, y = rng.random((7, 37), np.float32), rng.random(37, np.float32)
    out = np.zeros_like(x)
    run.kernel(TWO_LOOPS, [x, y, out], [37], 7)
    np.testing.assert_allclose(out, (x * y + x) * y, rtol=1e-6)


def test_loop_forms(run):
    """Steps, downward ranges, while, if and nested bounds do what Python does."""
    source = body(
        "o = ptr_i64(bufs, 0)",
        "n = prm(params, 0)",
        "k = 0",
        "for i in range(2, n, 3):",
        "    st(o, k, i)",
        "    k = k + 1",
        "for i in range(n, 0, -2):",
        "    if i > 4:",
        "        st(o, k, i)",
        "        k += 1",
        "w = 3",
        "while w > 0:",
        "    st(o, k, -w)",
        "    k += 1",
        "    w -= 1",
        "for i in range(5, 5):",
        "    st(o, 0, 99)",
    )
    out = np.zeros(20, np.int64)
    run.kernel(source, [out], [10], 1)
    assert out[:9].tolist() == [2, 5, 8, 10, 8, 6, -3, -2, -1]


def test_operators(run):
    """Operators of integers and floats do what Python's do, of literals as well; so do `elif`
    and comparisons with NaN."""
    whole = ["n + 2 * 3 - 1", "-n", "-(2 - 7)", "n & 6", "n | 1", "n ^ (8 - 1)", "i32(-3) + n"]
    truths = ["n < 9", "n >= 10", "nan == nan", "nan != nan", "nan < x", "x <= x", "2 > 3"]
    reals = ["x * x - x", "x / f32(4)", "-x"]
    source = body(
        "o = ptr_i64(bufs, 0)", "f = ptr_f32(bufs, 1)", "n = prm(params, 0)", "x = f32(n)",
        "nan = bits_f32(0x7fc00000)",
        *(f"st(o, {k}, {text})" for k, text in enumerate(whole)),
        *(f"st(o, {k}, i64({text}))" for k, text in enumerate(truths, len(whole))),
        *(f"st(f, {k}, {text})" for k, text in enumerate(reals)),
        "if n > 100:", "    st(o, 14, 1)", "elif n > 4:", "    st(o, 14, 2)", "else:",
        "    st(o, 14, 3)")
    out, real = np.zeros(15, np.int64), np.zeros(3, np.float32)
    run.kernel(source, [out, real], [10], 1)
    names = {"n": 10, "x": 10.0, "nan": float("nan"), "i32": int, "f32": float}
    assert out.tolist() == [int(eval(text, names)) for text in whole + truths] + [2]
    assert real.tolist() == [eval(text, names) for text in reals]


def test_numba_is_not_needed():
    """Compiling a kernel imports LLVM alone: workers are small and start early."""
    source = "import sys\nfrom evonnx.kernels import jit\nfrom evonnx.ir.target import Target\n"
    source += f"jit.compile_source({TWO_LOOPS!r}, 'k', Target.named('generic'))\n"
    done = subprocess.run([sys.executable, "-c", source + "print('numba' in sys.modules)"],
                          capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_vector_width_and_no_overlap_checks():
    """AVX-512 code uses 512-bit registers, and disjoint buffers need no run-time checks."""
    assert "zmm" in jit.asm(TWO_LOOPS, "k", Target.named("avx512"))
    avx2 = jit.asm(TWO_LOOPS, "k", Target.named("avx2"))
    assert "ymm" in avx2
    assert "zmm" not in avx2
    text = jit.optimized_ir(jit.lower(TWO_LOOPS, "k", Target.named("avx2")), Target.named("avx2"))
    assert "vector.body" in text
    assert "memcheck" not in text


def test_sum_is_vectorized_but_plain_addition_keeps_its_order():
    source = body(
        "x = ptr_f32(bufs, 0)",
        "o = ptr_f32(bufs, 1)",
        "s = f32(0)",
        "for i in range(begin, end):",
        "    s = {}(s, ld(x, i))",
        "st(o, 0, s)",
    )
    target = Target.named("avx2")
    assert "vector.body" in jit.optimized_ir(jit.lower(source.format("radd"), "k", target), target)
    plain = jit.optimized_ir(jit.lower(source.format("fadd"), "k", target), target)
    assert "vector.body" not in plain


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("st(o, 0, f64(1))", "takes float32"),
        ("a = fadd(f32(1), f64(2))", "fadd does not take"),
        ("a = exp(f32(1), f32(2))", "exp does not take"),
        ("a = ptr_f32(bufs, begin)", "literal"),
        ("a = undefined_word(1)", "undefined_word"),
        ("a = [1, 2]", "no expression of a kernel"),
        ("a = begin and end", "no expression of a kernel"),
        ("return begin", "line 3: no statement of a kernel"),
        ("a = a + 1", "'a' is used before it is defined"),
        ("a = begin + f32(1)", "int64 Add float32: there is no such operator"),
        ("a = f32(1) & f32(2)", "no such operator"),
        ("a = begin // 2", "no such operator"),
        ("a = st(o, 0, f32(1))", "would have no value"),
        ("for i in bufs: a = i", "only range"),
        ("for i in range(0, 9, 0): a = i", "step other than 0"),
        ("while begin: a = 1", "a condition is a boolean"),
        ("a = (", "never closed"),
    ],
)
def test_mistakes_are_compile_errors(line, part):
    source = body("o = ptr_f32(bufs, 0)", line)
    with pytest.raises(CompileError, match=part):
        jit.compile_source(source, "k", Target.named("generic"))


def test_a_name_keeps_its_type():
    source = body("a = f32(1)", "for i in range(3):", "    a = i")
    with pytest.raises(CompileError, match="changes its type"):
        jit.compile_source(source, "k", Target.named("generic"))


@pytest.mark.parametrize(("line", "around", "counts"), [
    ("st(x, i, ld(x, i * n))", False, True),
    ("st(x, i, ld(x, i * n))", True, True),
    ("st(a, i, addr(x, i * n))", False, True),
    ("st(a, i, addr(x, i * n))", True, False),
    ("st(a, ld(a, i) * i, addr(x, i * n))", True, True),
    ("ccall('mk_f', ld(a, i) * i, i * n)", True, False),
    ("st(x, i, ld(x, i))", True, False),
])  # fmt: skip
def test_multiplications_that_matter_in_loops(line, around, counts):
    """Loop strength reduction is worth its time for these only."""
    source = body(
        "a = ptr_i64(bufs, 0)", "x = ptr_f32(bufs, 1)", "n = prm(params, 0)",
        "for t in range(begin, end):", *(["    ccall('mk_f', t, n)"] if around else []),
        "    for i in range(n):", f"        {line}")  # fmt: skip
    target = Target.named("generic")
    assert jit._multiplies_in_loop(jit.optimized_ir(jit.lower(source, "k", target), target)) == (
        counts)


@pytest.mark.parametrize(("inner", "unrolled"), [("4", True), ("n", False)])
def test_short_loops_are_unrolled_unless_other_loops_are_inside(inner, unrolled):
    source = body(
        "x = ptr_f32(bufs, 0)", "n = prm(params, 0)", "for t in range(begin, end):",
        "    for i in range(3):", f"        for j in range({inner}):",
        "            st(x, t * i + j, f32(1))")  # fmt: skip
    assert ("unroll.full" in jit.lower(source, "k", Target.named("avx2"))) is unrolled


def test_innermost_loops_begin_where_a_window_of_the_processor_does():
    """Of x86 code, wherever the object is loaded; the process's own LLVM is left as it was."""
    source = body("x = ptr_f32(bufs, 0)", "n = prm(params, 0)", "m = prm(params, 1)",
                  "for t in range(begin, end):", "    for i in range(n):",
                  "        st(x, t * n + i, ld(x, i * m))")  # fmt: skip
    for name in ("avx512", "avx2", "generic"):
        target = Target.named(name)
        text = jit.asm(source, "k", target)
        back = [line.split()[1] for line in text.splitlines() if line.startswith("\tj")]
        starts = re.findall(r"\.p2align\t6\n(\S+):", text)
        assert starts and set(starts) <= set(back)
        module = jit._module(jit.lower(source, "k", target))
        jit._optimize(module, target)
        assert "p2align\t6" not in jit._machine(target).emit_assembly(module)
        object_ = linker._Object.parse(jit.compile_source(source, "k", target))
        assert all(s.align == 64 for s in object_.sections if s.is_loaded and s.part == 0)
    assert "p2align\t6" not in jit.asm(source, "k", Target.named("arm64-board"))


def test_unknown_functions_are_refused():
    source = body('ccall("system", 1)')
    with pytest.raises(CompileError, match="system"):
        jit.compile_source(source, "k", Target.named("generic"))


def test_target_text():
    for name in ("cpu", "avx512", "avx2", "generic"):
        target = Target.named(name)
        assert Target.parse(str(target)) == target
    with pytest.raises(KeyError):
        Target.named("pentium")


def test_source_is_plain_numba():
    """The same source compiles under ``numba.cfunc``, whatever our shortcuts do."""
    import ctypes

    import numba
    from numba import types

    from evonnx.kernels import plain_numba

    namespace = plain_numba.intrinsics()
    exec(TWO_LOOPS.replace("a * ld(y, i) + a", "exp(a) * ld(y, i) + fmax(a, f32(0))"), namespace)
    pointer = types.CPointer(types.int64)
    signature = types.void(pointer, pointer, types.int64, types.int64)
    kernel = numba.cfunc(signature)(namespace["kernel"])
    x, y = rng.random((7, 37), np.float32), rng.random(37, np.float32)
    out = np.zeros_like(x)
    buffers, params = np.array([v.ctypes.data for v in (x, y, out)]), np.array([37])
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
    kind(kernel.address)(buffers.ctypes.data, params.ctypes.data, 0, 7)
    np.testing.assert_allclose(out, (np.exp(x) * y + x) * y, rtol=1e-5)


# --- words ----------------------------------------------------------------------------------------


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits, all NaN being equal."""
    nan = np.isnan(b.astype(np.float64))
    assert np.isnan(a[nan].astype(np.float64)).all()
    kind = f"u{a.itemsize}"
    return bool((a[~nan].view(kind) == b[~nan].view(kind)).all())


HALVES = np.arange(65536, dtype=np.uint16)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bit_floats(run, dtype):
    name = "f16" if dtype is np.float16 else "bf16"
    with np.errstate(all="ignore"):
        stored = HALVES.view(dtype)
        wide = stored.astype(np.float32)
        assert same(run.elementwise("a", "f32", **{f"a_{name}": stored}), wide)
        bits = rng.integers(0, 2**32, 200_000).astype(np.uint32).view(np.float32)
        values = np.concatenate([bits, wide, (wide[:-1] + wide[1:]) / 2]).astype(np.float32)
        assert same(run.elementwise("a", name, a_f32=values), values.astype(dtype))
        fine = np.concatenate([values.astype(np.float64) * (1 + 2**-40), values])
        rounded = run.elementwise(f"{name}(a)", "f32", a_f64=fine)
        if dtype is np.float16:
            assert same(rounded, fine.astype(dtype).astype(np.float32))


INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")


@pytest.mark.parametrize("name", INTEGERS)
def test_integer_words(run, name):
    kind = np.dtype(name.replace("i", "int").replace("uint", "u").replace("u", "uint"))
    info = np.iinfo(kind)
    a = rng.integers(info.min, info.max, 500, dtype=kind, endpoint=True)
    b = rng.integers(info.min, info.max, 500, dtype=kind, endpoint=True)
    b[:200] = rng.integers(1, 7, 200)
    a[200:250], b[220:270] = info.min, (-1 if info.min else info.max)
    names = {f"a_{name}": a, f"b_{name}": b}
    nonzero = b != 0
    c = rng.integers(0, 20, 500).astype(kind)
    names[f"c_{name}"] = c
    reference = {
        "iadd(a, b)": np.add, "isub(a, b)": np.subtract, "imul(a, b)": np.multiply,
        "imod(a, b)": np.mod, "ifmod(a, b)": np.fmod, "imax(a, b)": np.maximum,
        "imin(a, b)": np.minimum, "iand(a, b)": np.bitwise_and, "ixor(a, b)": np.bitwise_xor,
    }  # fmt: skip
    others = ["idiv(a, b)", "ipow(a, c)", "ishl(a, c)"]
    got = run.many(
        {**dict.fromkeys([*reference, *others], name), "lt(a, b)": "bool", "f32(a)": "f32"}, **names
    )
    with np.errstate(all="ignore"):
        for expression, function in reference.items():
            assert (got[expression] == function(a, b))[nonzero].all(), expression
        assert (got["lt(a, b)"] == (a < b)).all()
        assert (got["f32(a)"] == a.astype(np.float32)).all()
        exact = [abs(int(x)) // abs(int(y)) * (1 if (x < 0) == (y < 0) else -1) if y else 0
                 for x, y in zip(a, b)]  # fmt: skip
        assert all((int(x) - y) % (1 << info.bits) == 0 for x, y in zip(got["idiv(a, b)"], exact))
        assert (got["ipow(a, c)"] == np.power(a, c)).all()
        fits = c < info.bits
        assert (got["ishl(a, c)"] == (a << c))[fits].all()
        assert not got["ishl(a, c)"][~fits].any()


def test_index_division(run):
    a, b = rng.integers(0, 1 << 40, 500), rng.integers(1, 1 << 20, 500)
    got = run.many({"qdiv(a, b)": "i64", "qmod(a, b)": "i64"}, a_i64=a, b_i64=b)
    assert (got["qdiv(a, b)"] == a // b).all()
    assert (got["qmod(a, b)"] == a % b).all()


def test_division_by_zero_is_zero(run):
    a = np.array([-5, 0, 7, np.iinfo(np.int32).min], np.int32)
    zero = np.zeros_like(a)
    for word in ("idiv", "imod", "ifmod"):
        assert not run.elementwise(f"{word}(a, b)", "i32", a_i32=a, b_i32=zero).any()


@pytest.mark.parametrize("name", INTEGERS)
def test_float_to_integer(run, name):
    info = np.iinfo(name.replace("i", "int").replace("u", "uint").replace("uuint", "uint"))
    a = np.array([0.0, 0.9, -0.9, 1.5, 100.7, np.nan], np.float32)
    got = run.elementwise(f"{name}(a)", name, a_f32=a)
    assert got.tolist() == [0, 0, 0, 1, 100, 0]
    if info.bits >= 32 and name != "u32":
        huge = np.array([np.inf, -np.inf, 1e30, -1e30], np.float32)
        got = run.elementwise(f"{name}(a)", name, a_f32=huge)
        assert got.tolist() == [info.max, info.min, info.max, info.min]


def test_calls_of_micro_kernels_have_all_arguments(target):
    source = 'def kernel(bufs, params, begin, end):\n    ccall("mk_depthwise_f32_1", 1, 2, 3)\n'
    with pytest.raises(CompileError, match=r"takes 10 arguments .rows, taps, w.*, not 3"):
        jit.compile_source(source, "k", target, ("mk_depthwise_f32_1",))


FLOATS = np.concatenate(
    [
        rng.standard_normal(3000) * rng.choice([1e-3, 1, 1e3, 1e7], 3000),
        [np.inf, -np.inf, np.nan, 0.0, -0.0, 0.5, -0.5, 1.5, 2.5, 1e-45, 8388609.0, 1e30],
    ]
).astype(np.float32)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_float_words(run, dtype):
    a = FLOATS.astype(np.float32 if dtype == "f32" else np.float64)
    b = rng.permutation(a)
    names = {f"a_{dtype}": a, f"b_{dtype}": b}
    one = {
        "rint(a)": np.rint, "floor(a)": np.floor, "ceil(a)": np.ceil, "trunc(a)": np.trunc,
        "fabs(a)": np.abs, "neg(a)": np.negative, "sqrt(a)": np.sqrt, "sign(a)": np.sign,
    }  # fmt: skip
    two = {
        "fmax(a, b)": np.maximum, "fmin(a, b)": np.minimum, "copysign(a, b)": np.copysign,
        "a / b": np.divide, "a - b": np.subtract, "ffmod(a, b)": np.fmod, "fmod(a, b)": np.mod,
    }  # fmt: skip
    picked = "select(lt(a, b), a, b)"
    got = run.many(
        {**dict.fromkeys([*one, *two, picked], dtype), "isnan(a)": "bool", "isinf(a)": "bool"},
        **names,
    )
    with np.errstate(all="ignore"):
        for expression, function in one.items():
            assert np.array_equal(got[expression], function(a), equal_nan=True), expression
        for expression, function in two.items():
            assert np.array_equal(got[expression], function(a, b), equal_nan=True), expression
        assert (got["isnan(a)"] == np.isnan(a)).all()
        assert (got["isinf(a)"] == np.isinf(a)).all()
        assert np.array_equal(got[picked], np.where(a < b, a, b), equal_nan=True)
