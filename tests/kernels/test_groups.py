"""Whole groups, compiled as one kernel and compared with the reference interpreter.

Every case is one group of a hand-written graph: fusion is forced by the schedule, so a case that
cannot be one kernel fails instead of being cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from evonnx.compiler.build import build_program
from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.contraction import ContractionSpace
from evonnx.ir.dims import sym
from evonnx.ir.elements import is_reduction
from evonnx.ir.errors import ScheduleError
from evonnx.ir.graph import Graph, Value
from evonnx.ir.groups import extract
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.target import Target
from evonnx.ir.tiles import Space, TileSpace, strip_width
from evonnx.ir.types import BF16, F16, F32, F64, I32, I64, U8, DType, TensorType
from evonnx.kernels.emit import emit
from evonnx.kernels.lower import lower_loops
from evonnx.runtime.cache import ObjectCache
from evonnx.runtime.executable import Executable
from evonnx.runtime.frame import data_address
from evonnx.runtime.plan import ALIGN
from evonnx.search.legality import implementation

N, S = sym("N"), sym("S")
RNG = np.random.default_rng(7)
TARGETS = ["cpu", "avx2", "generic"]
Feeds = dict[str, np.ndarray]


def array(*shape: int, dtype: DType = F32) -> np.ndarray:
    """Random numbers of a dtype."""
    if dtype.is_float:
        return RNG.standard_normal(shape).astype(dtype.np)
    return RNG.integers(-50 if dtype.kind == "i" else 0, 50, shape).astype(dtype.np)


def run_as_one(graph: Graph, feeds: Mapping[str, np.ndarray], target: str = "cpu",
               threads: int = 1, **settings: int) -> tuple[dict[str, Any], str]:
    """Results of the graph as a single group, and the implementation that legality chose;
    ``settings``: how its kernel is written."""
    nodes = [n for n in graph.nodes if n.op not in ("input", "const")]
    found, reason = implementation(graph, nodes)
    if found is None:
        raise ScheduleError(reason)
    group = Group(tuple(graph.index[n] for n in nodes), found, variant=tuple(settings.items()))
    schedule = Schedule(graph.digest, (group,))

    def no_regions(body: Graph) -> Any:
        raise AssertionError("no control flow here")

    program = build_program(graph, schedule, Target.named(target), no_regions)
    machine, cache = Target.named(target), ObjectCache()  # tests of one run share their kernels
    executable = Executable(program, graph.constants, machine, threads, cache)
    return guarded(executable, feeds), found


def guarded(executable: Executable, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Results of a call that left alone what lies behind the scratch of every thread."""
    results = executable.run(feeds)
    runner = executable._runner
    binding = runner.bound(executable.check_feeds(feeds), None)
    for frame in runner._frames:
        private = frame._private
        start = -data_address(private) % ALIGN
        behind = [private[start + t * binding.stride :][binding.stride - 2 * ALIGN : binding.stride]
                  for t in range(executable.threads)]
        for line in behind:
            line[:] = 0xA5
        executable.run(feeds)
        assert all((line == 0xA5).all() for line in behind), "a kernel wrote beyond its scratch"
    return results


def check(outputs: Value | dict[str, Value], b: Builder, feeds: Feeds, tolerance: float = 2e-5,
          target: str = "cpu", threads: int = 1, **settings: int) -> str:
    """Compiles, runs and compares with the float64 interpreter; answers the implementation."""
    graph = b.build(outputs if isinstance(outputs, dict) else {"y": outputs})
    got, found = run_as_one(graph, feeds, target, threads, **settings)
    want = interp.run(graph, feeds, float64=True)
    for name, reference in want.items():
        result = np.asarray(got[name])
        assert result.shape == reference.shape
        r, e = result.astype(np.float64), np.asarray(reference, dtype=np.float64)
        finite = np.isfinite(e)
        np.testing.assert_array_equal(r[~finite], e[~finite])
        scale = float(np.abs(e[finite]).max()) if finite.any() else 1.0
        np.testing.assert_allclose(r[finite], e[finite], rtol=0, atol=tolerance * max(scale, 1e-3))
    return found


def tensor(b: Builder, name: str, *shape: Any, dtype: DType = F32) -> Value:
    return b.input(name, TensorType(dtype, shape))


@pytest.mark.parametrize("shape,perm", [
    ((40, 33), (1, 0)), ((3, 50, 17), (0, 2, 1)), ((37, 5, 4), (2, 1, 0)), ((16, 16), (1, 0)),
    ((20, 3, 18), (2, 0, 1)), ((2, 21, 4, 19), (3, 1, 2, 0)), ((0, 40), (1, 0)),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [F32, I64, U8])
def test_transposes_run_in_blocks(shape: tuple[int, ...], perm: tuple[int, ...], dtype: DType
                                  ) -> None:
    """Blocks that the sizes do not divide, beside operands that lie as the result does."""
    b = Builder()
    x = tensor(b, "x", *shape, dtype=dtype)
    turned = tuple(shape[k] for k in perm)
    y = b.op("add", b.op("transpose", x, perm=perm), tensor(b, "r", *turned, dtype=dtype))
    check(y, b, {"x": array(*shape, dtype=dtype), "r": array(*turned, dtype=dtype)}, threads=2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape,perm", [
    ((40, 33), (1, 0)), ((3, 70, 16), (0, 2, 1)), ((64, 130), (1, 0)),
    ((2, 21, 4, 19), (3, 1, 2, 0)), ((2, 17, 5, 20), (0, 3, 1, 2)), ((0, 40), (1, 0)),
])  # fmt: skip
def test_blocks_are_turned_in_registers(shape: tuple[int, ...], perm: tuple[int, ...], target: str
                                        ) -> None:
    """Plain transposes of float32, of a slice, and beside an operand that is gathered."""
    b = Builder()
    x = tensor(b, "x", *shape)
    whole = b.op("transpose", x, perm=perm)
    sizes = tuple(max(d - 1, 0) for d in shape)
    cut = b.op("slice", x, starts=(min(1, shape[0]), *[0] * (len(shape) - 1)), sizes=sizes,
               steps=(1,) * len(shape))
    feeds = {"x": array(*shape)}
    check(whole, b, feeds, tolerance=0, target=target, threads=2)
    check(b.op("transpose", cut, perm=perm), b, feeds, tolerance=0, target=target)
    if shape[0]:
        at = b.const(np.arange(20) % shape[0])
        check(b.op("transpose", b.op("gather", x, at, axis=0), perm=perm), b, feeds, tolerance=0,
              target=target)


@pytest.mark.parametrize("groups", [2, 3, 4, 5, 8])
def test_short_transposes_are_shuffles(groups: int) -> None:
    """The innermost loop interleaves a few channels: of lengths that fill no vectors, of operands
    that are read side by side and of one that is not, with NaN, guarded and not."""
    b = Builder()
    x = b.input("x", TensorType(F32, (5, groups, 35)))
    scale = b.input("s", TensorType(F32, (groups, 35)))
    other = b.input("o", TensorType(F32, (5, 35, groups)))
    turned = b.op("transpose", b.op("relu", b.op("mul", x, scale)), perm=(0, 2, 1))
    feeds = {"x": array(5, groups, 35), "s": array(groups, 35), "o": array(5, 35, groups)}
    feeds["x"][0, 0, :3] = np.nan, np.inf, -np.inf
    y = b.op("add", turned, other)
    assert check(y, b, feeds) == "loops"
    assert f"* {groups} + " in emit(lower_loops(b.build({"y": y}))).source
    padded = b.op("pad", turned, 7.0, lo=(0, 1, 0), hi=(0, 2, 0), mode="constant")
    assert check({"y": padded}, b, feeds) == "loops"


def test_a_transpose_is_four_loops() -> None:
    b = Builder()
    y = b.op("transpose", tensor(b, "x", 40, 33, dtype=I64), perm=(1, 0))
    domain, = lower_loops(b.build({"y": y})).domains
    assert [a.hi for a in domain.rows] == [3, 3]
    assert len(domain.steps[0].axes) == 2  # type: ignore[union-attr]


# -- maps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 3, 17])
def test_broadcast_and_symbols(n: int) -> None:
    b = Builder()
    x, c, r = tensor(b, "x", N, 5, S), tensor(b, "c", 5, 1), tensor(b, "r", N, 1, S)
    y = b.op("relu", b.op("mul", b.op("add", x, c), r))
    check(y, b, {"x": array(n, 5, 9), "c": array(5, 1), "r": array(n, 1, 9)})


@pytest.mark.parametrize("size", [1, 6])
def test_a_size_that_may_be_one_broadcasts_at_run_time(size: int) -> None:
    b = Builder()
    x, y = tensor(b, "x", N, 4), tensor(b, "y", S, 4)
    check(b.op("add", x, y), b, {"x": array(6, 4), "y": array(size, 4)})


def test_special_values_survive_fusion() -> None:
    b = Builder()
    x = tensor(b, "x", 7)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38], dtype=np.float32)
    outputs = {name: b.op(name, x) for name in ("exp", "tanh", "sigmoid", "erf", "abs", "relu")}
    outputs["max"] = b.op("max", x, 1.0)
    outputs["sum"] = b.op("add", b.op("mul", x, 2.0), b.op("neg", x))
    outputs["sqrt"] = b.op("sqrt", b.op("abs", x))
    with np.errstate(all="ignore"):
        check(outputs, b, {"x": special})


@pytest.mark.parametrize("target", TARGETS)
def test_gelu_of_large_numbers(target: str) -> None:
    """The definition loses what an error function near -1 says; at the ends it is exact."""
    b = Builder()
    x = tensor(b, "x", 7)
    graph = b.build({"y": b.op("gelu", x, approximate="none")})
    feeds = {"x": np.array([-4.0, -30, -1e30, -np.inf, np.inf, np.nan, 1e30], np.float32)}
    got = run_as_one(graph, feeds, target=target)[0]["y"]
    np.testing.assert_allclose(got[0], -4 * math.erfc(4 / math.sqrt(2)) / 2, rtol=1e-3)
    want = interp.run(graph, feeds)["y"]
    np.testing.assert_array_equal(got[1:], want[1:])


@pytest.mark.parametrize("dtype", [F64, F16, BF16, I32, I64, U8])
def test_element_types(dtype: DType) -> None:
    b = Builder()
    x, z = tensor(b, "x", 3, 37, dtype=dtype), tensor(b, "z", 37, dtype=dtype)
    y = b.op("max", b.op("add", b.op("mul", x, z), x), z)
    tolerance = {F16: 2e-3, BF16: 2e-2}.get(dtype, 1e-6)
    check(y, b, {"x": array(3, 37, dtype=dtype), "z": array(37, dtype=dtype)}, tolerance)


def test_half_remainder_needs_no_library() -> None:
    b = Builder()
    x, y = tensor(b, "x", 40, dtype=F16), tensor(b, "y", 40, dtype=F16)
    feeds = {"x": array(40, dtype=F16), "y": np.abs(array(40, dtype=F16)) + np.float16(0.1)}
    check({"c": b.op("fmod", x, y), "python": b.op("mod", x, y)}, b, feeds, 2e-3)


def test_shuffle_is_index_arithmetic() -> None:
    b = Builder()
    x = tensor(b, "x", 2, 12, 5, 4)
    y = b.op("reshape", x, shape=(2, 3, 4, 5, 4))
    y = b.op("reshape", b.op("transpose", y, perm=(0, 2, 1, 3, 4)), shape=(2, 12, 20))
    check(b.op("neg", y), b, {"x": array(2, 12, 5, 4)})


def test_concat_pieces_with_an_epilogue() -> None:
    b = Builder()
    x, z = tensor(b, "x", 2, 3, S), tensor(b, "z", 2, 3, N)
    y = b.op("exp", b.op("concat", x, z, b.op("neg", x), axis=2))
    check(y, b, {"x": array(2, 3, 5), "z": array(2, 3, 4)})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(mode: str) -> None:
    b = Builder()
    x = tensor(b, "x", 3, S)
    y = b.op("pad", x, 7.0, lo=(1, 5), hi=(0, 3), mode=mode)
    check(y, b, {"x": array(3, 11)})


def test_padding_behind_a_concat_is_written() -> None:
    b = Builder()
    x, z = tensor(b, "x", 2, 3), tensor(b, "z", 2, 2)
    y = b.op("pad", b.op("concat", x, z, axis=1), 0.5, lo=(2, 0), hi=(0, 1), mode="constant")
    check(y, b, {"x": array(2, 3), "z": array(2, 2)})


def test_a_position_made_of_gathered_indices_only() -> None:
    b = Builder()
    x, i = tensor(b, "x", 4, 5, 3), tensor(b, "i", 1, 2, dtype=I64)
    y = b.op("neg", b.op("gather_nd", x, i, batch_dims=0))
    check({"y": b.op("expand", y, shape=(6, 3))}, b,
          {"x": array(4, 5, 3), "i": np.array([[2, -1]])})


def test_slice_backwards_and_gather_negative() -> None:
    b = Builder()
    x, i = tensor(b, "x", 9, 6), tensor(b, "i", 4, dtype=I64)
    y = b.op("slice", x, starts=(8, 1), sizes=(4, 3), steps=(-2, 2))
    check({"y": b.op("gather", y, i, axis=0)}, b,
          {"x": array(9, 6), "i": np.array([0, -1, 3, -4])})


def test_gathers_on_two_axes_meet_in_a_concat() -> None:
    b = Builder()
    x, z = tensor(b, "x", 1, 3, 3, 2), tensor(b, "z", 1, 6, 6, 2)
    i = tensor(b, "i", 6, dtype=I64)
    y = b.op("gather", b.op("gather", x, i, axis=1), i, axis=2)
    idx = np.array([0, 0, 1, 1, 2, 2])
    check(b.op("concat", y, z, axis=3), b,
          {"x": array(1, 3, 3, 2), "z": array(1, 6, 6, 2), "i": idx})


def test_a_wrong_index_does_not_reach_foreign_memory() -> None:
    b = Builder()
    x, i = tensor(b, "x", 4, 3), tensor(b, "i", 2, dtype=I64)
    graph = b.build({"y": b.op("gather", x, b.op("neg", i), axis=0)})  # fed ones are refused
    data = array(4, 3)
    got, _ = run_as_one(graph, {"x": data, "i": np.array([-(10**12), 10**12])})
    np.testing.assert_array_equal(got["y"], data[[3, 0]])


# -- reductions --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape,axis", [((2, 3, 65), 2), ((2, 33, 7), 1), ((5, 1), 1), ((0, 4), 1)])
def test_softmax_is_one_kernel(shape: tuple[int, ...], axis: int) -> None:
    b = Builder()
    x = tensor(b, "x", *shape)
    y = b.op("softmax", b.op("mul", x, 0.125), axis=axis)
    assert check(y, b, {"x": array(*shape) * 5}) == "loops"


def test_layer_norm_keeps_the_sum_it_reads() -> None:
    b = Builder()
    x, r = tensor(b, "x", N, S, 48), tensor(b, "r", N, S, 48)
    g, c = tensor(b, "g", 48), tensor(b, "c", 48)
    a = b.op("add", x, r)
    y = b.op("layer_norm", a, g, c, axis=2, eps=1e-5)
    check({"a": a, "y": y}, b, {"x": array(2, 3, 48), "r": array(2, 3, 48), "g": array(48),
                                "c": array(48)})


@pytest.mark.parametrize("kind", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize("axes", [(2,), (1, 2), (0,), (1,), (0, 1, 2)])
def test_reduce(kind: str, axes: tuple[int, ...]) -> None:
    b = Builder()
    x = tensor(b, "x", N, 5, 19)
    y = b.op("reduce", b.op("abs", x), kind=kind, axes=axes, keepdims=False)
    check(b.op("add", y, 1.0), b, {"x": array(3, 5, 19)})


@pytest.mark.parametrize("shape", [(7, 5, 3), (3, 17, 31), (2, 300, 4), (4, 0, 3)])
def test_statistics_across_leading_axes(shape: tuple[int, ...]) -> None:
    """Every axis behind the reduced one is part of one strip of lanes."""
    b = Builder()
    x, w, u = tensor(b, "x", *shape), tensor(b, "w", shape[0], 1, 1), tensor(b, "u", shape[1], 1)
    for weight in (w, u):
        c = b.op("sub", x, b.op("reduce", x, kind="mean", axes=(0,), keepdims=True))
        v = b.op("reduce", b.op("mul", c, c), kind="mean", axes=(0,), keepdims=True)
        y = b.op("mul", b.op("div", c, b.op("sqrt", b.op("add", v, 1e-5))), weight)
        check(y, b, {"x": array(*shape), "w": array(shape[0], 1, 1), "u": array(shape[1], 1)})


@pytest.mark.parametrize("shape", [(3, 7, 19), (5, 300, 33), (4, 0, 3)])
@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2,)])
def test_what_only_an_output_before_a_sum_needs_is_not_kept(shape: tuple[int, ...],
                                                            axes: tuple[int, ...]) -> None:
    """The sigmoid is dear, but the sum's own loop stores what is made of it."""
    b = Builder()
    x = tensor(b, "x", *shape)
    y = b.op("mul", x, b.op("sigmoid", x))
    m = b.op("reduce", y, kind="sum", axes=axes, keepdims=False)
    data = array(*shape)
    if data.size:
        data[0, 0, :3] = np.nan, np.inf, -200.0
    check({"y": y, "m": m}, b, {"x": data})
    nest = lower_loops(b.build({"y": y, "m": m}))
    assert all(buffer.size != math.prod(shape) for buffer in nest.buffers
               if buffer.role == "scratch") or not data.size


@pytest.mark.parametrize("pixels", [(1, 1), (1, 7), (5, 5), (4, 8), (33, 67), (130, 20), (0, 3)])
@pytest.mark.parametrize("channels", [1, 16, 24, 96, 144, 512, 700])
def test_several_pixels_of_a_channels_last_image_are_added_up_at_once(
    pixels: tuple[int, int], channels: int
) -> None:
    """In strips narrow and wide, with what is added stored besides and without; numbers of pixels
    around those of an iteration and of a block."""
    b = Builder()
    x = tensor(b, "x", 2, *pixels, channels)
    y = b.op("mul", x, b.op("sigmoid", x))
    axes, data = (1, 2), array(2, *pixels, channels)
    if data.size:
        data[0, 0, 0, 0], data[1, -1, -1, -1], data[1, 0, -1, 0] = np.nan, np.inf, -np.inf
    check(b.op("reduce", x, kind="mean", axes=axes, keepdims=True), b, {"x": data})
    check({"y": y, "m": b.op("reduce", y, kind="mean", axes=axes, keepdims=True)}, b, {"x": data})


@pytest.mark.parametrize("lanes,rows,terms,width", [
    (32, 1, 12544, 16), (144, 1, 3136, 16), (480, 1, 196, 128), (2048, 1, 49, 512),
    (144, 4, 3136, 144), (144, 1, 10, 144), (40, 1, 400, 16), (7, 1, 10**6, 7), (0, 1, 9, 1),
])
def test_strips_of_lanes_are_work_for_a_few_threads(
    lanes: int, rows: int, terms: int, width: int
) -> None:
    assert strip_width(lanes, rows, terms) == width


def test_strips_of_lanes_are_as_wide_as_memory_allows() -> None:
    b = Builder()
    x = tensor(b, "x", 9, 256, 4)
    y = b.op("sub", x, b.op("reduce", x, kind="max", axes=(0,), keepdims=True))
    nest = lower_loops(b.build({"y": y}))
    assert [a.hi for a in nest.domains[0].rows] == [2]
    x = array(9, 256, 4)
    x[3, 5, 2], x[0, 7, 1] = np.nan, np.inf
    check(y, b, {"x": x})


def test_reduction_over_nothing_is_neutral() -> None:
    b = Builder()
    x = tensor(b, "x", 3, S)
    y = {k: b.op("reduce", x, kind=k, axes=(1,), keepdims=False) for k in ("sum", "max", "prod")}
    for name, value in y.items():
        graph = b.build({name: value})
        got, _ = run_as_one(graph, {"x": array(3, 0)})
        want = interp.run(graph, {"x": array(3, 0)})
        np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize("kind,layout", [("max", "last"), ("sum", "last"), ("max", "first")])
def test_pool(kind: str, layout: str) -> None:
    b = Builder()
    shape = (2, 9, 8, 5) if layout == "last" else (2, 5, 9, 8)
    x = tensor(b, "x", *shape)
    y = b.op("pool", x, kind=kind, kernel=(3, 2), strides=(2, 1), dilations=(1, 2),
             pads_lo=(1, 1), pads_hi=(1, 0), layout=layout)
    check(b.op("relu", y), b, {"x": array(*shape)})


# -- contractions ------------------------------------------------------------------------------



@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("m,k,n", [(1, 64, 40), (33, 65, 70), (14, 1, 32), (50, 7, 33), (3, 5, 2)])
def test_dot_with_epilogue(m: int, k: int, n: int, target: str) -> None:
    b = Builder()
    x = tensor(b, "x", 1, m, k)
    y = b.op("dot", x, b.const(array(k, n)), ta=False, tb=False)
    y = b.op("gelu", b.op("add", y, b.const(array(n))), approximate="none")
    assert check(y, b, {"x": array(1, m, k)}, target=target) == "contract"


@pytest.mark.parametrize("constant", [False, True])
def test_product_over_nothing_is_zero(constant: bool) -> None:
    b = Builder()
    x = tensor(b, "x", 3, S)
    z = b.const(array(0, 4)) if constant else tensor(b, "z", S, 4)
    y = b.op("add", b.op("dot", x, z, ta=False, tb=False), 1.0)
    graph = b.build({"y": y})
    feeds = {v.node.attrs["name"]: array(*((3, 0) if v is graph.inputs[0] else (0, 4)))
             for v in graph.inputs}
    got, _ = run_as_one(graph, feeds)
    np.testing.assert_array_equal(got["y"], np.ones((3, 4), np.float32))


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_dot_of_two_activations(ta: bool, tb: bool) -> None:
    b = Builder()
    x = tensor(b, "x", 2, 3, *((9, S) if ta else (S, 9)))
    z = tensor(b, "z", 3, *((20, 9) if tb else (9, 20)))
    y = b.op("dot", x, z, ta=ta, tb=tb)
    shape = (2, 3, 9, 11) if ta else (2, 3, 11, 9)
    feeds = {"x": array(*shape), "z": array(3, *((20, 9) if tb else (9, 20)))}
    assert check(y, b, feeds) == "contract"


def test_heads_are_address_arithmetic() -> None:
    b = Builder()
    q, k = tensor(b, "q", N, S, 48), tensor(b, "k", N, S, 48)

    def heads(x: Value) -> Value:
        return b.op("transpose", b.op("reshape", x, shape=(N, S, 4, 12)), perm=(0, 2, 1, 3))

    y = b.op("mul", b.op("dot", heads(q), heads(k), ta=False, tb=True), 0.25)
    assert check(y, b, {"q": array(2, 19, 48), "k": array(2, 19, 48)}) == "contract"


def test_heads_are_put_back_by_the_epilogue() -> None:
    b = Builder()
    p, v = tensor(b, "p", 2, 4, 10, 19), tensor(b, "v", 2, 4, 19, 12)
    y = b.op("transpose", b.op("dot", p, v, ta=False, tb=False), perm=(0, 2, 1, 3))
    y = b.op("reshape", y, shape=(2, 10, 48))
    assert check(y, b, {"p": array(2, 4, 10, 19), "v": array(2, 4, 19, 12)}) == "contract"


def test_heads_are_put_together_by_addresses() -> None:
    """The reduced axis is two axes of the operand's memory: no position is divided."""
    b = Builder()
    x = tensor(b, "x", N, 4, 10, 12)
    x = b.op("reshape", b.op("transpose", x, perm=(0, 2, 1, 3)), shape=(N, 10, 48))
    y = b.op("add", b.op("dot", x, b.const(array(48, 20)), ta=False, tb=False), 1.0)
    assert check(y, b, {"x": array(3, 4, 10, 12)}) == "contract"
    graph = b.build({"y": y})
    members = [n for n in graph.nodes if n.op not in ("input", "const")]
    space = ContractionSpace(Space(extract(graph, members).graph))
    assert space.direct and [a.hi for a in (*space.taps, *space.run)] == [4, 12]


def conv(b: Builder, x: Value, w: np.ndarray, **changes: Any) -> Value:
    r = x.rank - 2
    attrs: dict[str, Any] = {"strides": (1,) * r, "dilations": (1,) * r, "pads_lo": (0,) * r,
                             "pads_hi": (0,) * r, "groups": 1, "layout": "last"}
    return b.op("conv", x, b.const(w), **{**attrs, **changes})


CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 9, 8, 16), (3, 3, 16, 20), {"pads_lo": (1, 1), "pads_hi": (1, 1)}),
    ((1, 11, 12, 3), (5, 5, 3, 33), {"strides": (2, 3), "pads_lo": (2, 1), "pads_hi": (0, 2)}),
    ((1, 7, 7, 8), (1, 1, 8, 64), {}),
    ((1, 12, 12, 6), (3, 3, 6, 5), {"dilations": (2, 3), "pads_lo": (2, 3), "pads_hi": (2, 3)}),
    ((2, 10, 10, 12), (3, 3, 3, 8), {"groups": 4, "pads_lo": (1, 1), "pads_hi": (1, 1)}),
    ((2, 9, 9, 1), (3, 3, 1, 4), {"pads_lo": (1, 1), "pads_hi": (1, 1)}),
    ((2, 30, 5), (4, 5, 7), {"strides": (2,), "pads_lo": (3,), "pads_hi": (1,)}),
    ((1, 5, 6, 7, 4), (3, 2, 3, 4, 9), {"pads_lo": (1, 0, 1), "pads_hi": (1, 1, 1)}),
    ((1, 14, 15, 40), (3, 3, 1, 40), {"groups": 40, "pads_lo": (1, 1), "pads_hi": (1, 1)}),
    ((2, 9, 9, 33), (5, 5, 1, 33), {"groups": 33, "strides": (2, 2), "pads_lo": (2, 2),
                                    "pads_hi": (2, 2)}),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", range(len(CONVS)))
def test_conv_with_residual(case: int, target: str) -> None:
    shape, kernel, changes = CONVS[case]
    b = Builder()
    x = tensor(b, "x", *shape)
    y = conv(b, x, array(*kernel), **changes)
    r = tensor(b, "r", *y.shape)
    y = b.op("relu", b.op("add", b.op("add", y, b.const(array(kernel[-1]))), r))
    feeds = {"x": array(*shape), "r": array(*(int(d) for d in r.shape))}
    assert check(y, b, feeds, target=target) == "contract"


def test_integer_products_are_exact() -> None:
    b = Builder()
    x, w = tensor(b, "x", 5, 300, dtype=U8), tensor(b, "w", 300, 7, dtype=U8)
    graph = b.build({"y": b.op("dot", x, w, ta=False, tb=False, acc=I32)})
    feeds = {"x": np.full((5, 300), 255, np.uint8), "w": np.full((300, 7), 255, np.uint8)}
    got, found = run_as_one(graph, feeds)
    assert found == "loops"
    np.testing.assert_array_equal(got["y"], np.full((5, 7), 255 * 255 * 300, np.int32))


def test_a_product_read_at_two_positions_is_refused() -> None:
    b = Builder()
    x = tensor(b, "x", 6, 6)
    y = b.op("dot", x, x, ta=False, tb=False)
    graph = b.build({"y": b.op("sub", y, b.op("transpose", y, perm=(1, 0)))})
    with pytest.raises(ScheduleError, match="two positions"):
        run_as_one(graph, {"x": array(6, 6)})


def test_outputs_over_different_parts_are_refused() -> None:
    b = Builder()
    soft = b.op("softmax", tensor(b, "x", 4, 8), axis=1)
    part = b.op("neg", b.op("slice", soft, starts=(0, 0), sizes=(2, 8), steps=(1, 1)))
    graph = b.build({"all": b.op("exp", soft), "part": part})
    with pytest.raises(ScheduleError, match="different parts"):
        run_as_one(graph, {"x": array(4, 8)})


@pytest.mark.parametrize("make", [
    lambda b: b.op("softmax", tensor(b, "x", 40, 70), axis=1),
    lambda b: conv(b, tensor(b, "x", 1, 30, 30, 8), np.ones((3, 3, 8, 40), np.float32)),
    lambda b: b.op("tanh", tensor(b, "x", 100, 333)),
])  # fmt: skip
def test_threads_do_not_change_a_bit(make: Callable[[Builder], Value]) -> None:
    b = Builder()
    graph = b.build({"y": make(b)})
    feeds = {"x": array(*(int(d) for d in graph.inputs[0].shape))}
    one, _ = run_as_one(graph, feeds, threads=1)
    two, _ = run_as_one(graph, feeds, threads=2)
    np.testing.assert_array_equal(one["y"], two["y"])


@pytest.mark.parametrize("pixels", [1, 35, 300])
def test_channels_first_results_are_written_along_pixels(pixels: int) -> None:
    b = Builder()
    y = b.op("dot", tensor(b, "x", 2, pixels, 24), tensor(b, "w", 24, 40), ta=False, tb=False)
    y = b.op("transpose", b.op("relu", y), perm=(0, 2, 1))
    feeds = {"x": array(2, pixels, 24), "w": array(24, 40)}
    assert check(y, b, feeds) == "contract"


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels,size", [(8, 3), (12, 5), (4, 7), (8, 0)])
def test_groups_of_channels_are_normalized_once(channels: int, size: int, last: bool) -> None:
    """A norm over ``[n, groups, channels of a group and pixels]``, read back as an image: the
    groups are the tiles, however its reshapes flatten positions."""
    b = Builder()
    x = tensor(b, "x", 2, *((size, size, channels) if last else (channels, size, size)))
    image = b.op("transpose", x, perm=(0, 3, 1, 2)) if last else x
    length = channels // 4 * size * size
    scale, bias = array(length), array(length)
    y = b.op("reshape", image, shape=(2, 4, length))
    y = b.op("layer_norm", y, b.const(scale), b.const(bias), axis=2, eps=1e-5)
    y = b.op("mul", b.op("reshape", y, shape=image.shape), b.const(array(channels, 1, 1)))
    graph = b.build({"y": y})
    cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")]).graph
    space = TileSpace(Space(cut), [n for n in cut.nodes if is_reduction(n)])
    space.find_tiles()
    if size:
        assert math.prod(int(a.hi) for a in space.tile) == 2 * 4  # type: ignore[arg-type]
    assert check(y, b, {"x": array(*x.shape)}) == "loops"  # type: ignore[arg-type]


@pytest.mark.parametrize("least", [None, 1e-12])
def test_a_root_divides_as_by_its_reciprocal(least: float | None) -> None:
    """What is the same along a row is multiplied by: roots of zero, of the least and the largest
    numbers, of infinity, and of what has none."""
    b = Builder()
    root = b.op("sqrt", tensor(b, "y", 8, 1))
    divisor = root if least is None else b.op("max", root, least)
    graph = b.build({"y": b.op("div", tensor(b, "x", 8, 19), divisor)})
    x, y = array(8, 19), array(8, 1)
    y[:, 0] = 0.0, -0.0, 1e-45, 1e-38, 3e38, np.inf, np.nan, -1.0
    x[:, :4] = 0.0, np.inf, -np.inf, np.nan
    got, _ = run_as_one(graph, {"x": x, "y": y})
    with np.errstate(all="ignore"):
        want = x / (np.sqrt(y) if least is None else np.maximum(np.sqrt(y), np.float32(least)))
    np.testing.assert_allclose(got["y"], want, rtol=2e-7, atol=0)
    source = emit(lower_loops(graph)).source
    assert source.index(" / ") < source.rindex("for ")  # once per row


@pytest.mark.parametrize("divisor", [255.0, 3.0, 0.1, 1e-3])
def test_numbers_divide_exactly(divisor: float) -> None:
    """A reciprocal of a number, unlike one of a root, would move what is quantized."""
    b = Builder()
    graph = b.build({"y": b.op("div", tensor(b, "x", 8, 190), divisor)})
    x = array(8, 190)
    want = x / np.float32(divisor)
    assert (x * (np.float32(1) / np.float32(divisor)) != want).any()
    np.testing.assert_array_equal(run_as_one(graph, {"x": x})[0]["y"], want)
