"""Contractions: epilogues in registers and in strips, sums in chunks, tile heights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.contraction import ContractionSpace
from evonnx.ir.dims import Dim, sym
from evonnx.ir.graph import Graph, Value
from evonnx.ir.groups import extract
from evonnx.ir.target import Target
from evonnx.ir.tiles import Space
from evonnx.ir.types import F32, I32, I64, U8, TensorType
from evonnx.ir.variants import contraction_form, tiling
from evonnx.kernels.contract import FETCH_KERNEL, lower_contraction
from evonnx.kernels.micro import igemm
from evonnx.kernels.nest import Call, Loop, Nest, Nested, Step

from .test_groups import RNG, TARGETS, array, check, conv, tensor

N, S = sym("N"), sym("S")
Follow = Callable[[Builder, Value, int, int], Value]


def _bias(b: Builder, y: Value, m: int, n: int) -> Value:
    return b.op("add", y, b.const(array(n)))


def _residual(b: Builder, y: Value, m: int, n: int) -> Value:
    return b.op("add", b.const(array(m, n)), y)


def _relu(b: Builder, y: Value, m: int, n: int) -> Value:
    return b.op("relu", y)


def _clip(b: Builder, y: Value, m: int, n: int) -> Value:
    return b.op("max", 0.25, b.op("min", y, 3.0))


def _gate(b: Builder, y: Value, m: int, n: int) -> Value:
    return b.op("mul", b.op("sigmoid", y), y)


FOLLOWS: dict[str, tuple[tuple[Follow, ...], bool]] = {
    "nothing": ((), True),
    "bias": ((_bias,), True),
    "residual": ((_residual,), True),
    "limits": ((_clip,), True),
    "all": ((_residual, _bias, _relu), True),
    "two biases": ((_bias, _bias), True),
    "after relu": ((_relu, _residual), False),
    "three": ((_bias, _residual, _residual), False),
    "gate": ((_bias, _gate), False),
    "limits that cross": ((_clip, lambda b, y, m, n: b.op("min", y, 0.0)), False),
}
"""Name -> what follows the product, and whether the micro-kernel's store does it."""


def product(follows: tuple[Follow, ...], m: int, k: int, n: int) -> tuple[Builder, Value]:
    b = Builder()
    y = b.op("dot", tensor(b, "x", m, k), b.const(array(k, n)), ta=False, tb=False)
    for follow in follows:
        y = follow(b, y, m, n)
    return b, y


def lowered(graph: Graph) -> Nest:
    """The main nest of a graph that is one contraction."""
    cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")])
    constants = frozenset(k for k, v in enumerate(cut.inputs) if v.node.op == "const")
    return lower_contraction(cut.graph, igemm(Target.named("avx2")), constants).nest


def loops_over_strips(graph: Graph) -> int:
    """Loops around stores in the main nest of a contraction."""
    nest = lowered(graph)

    def count(step: Step) -> int:
        if isinstance(step, Nested):
            return sum(map(count, step.steps))
        return int(isinstance(step, Loop))

    assert any(isinstance(s, Nested) for s in nest.domains[0].steps)
    return sum(count(s) for s in nest.domains[0].steps)


@pytest.mark.parametrize("name", FOLLOWS)
def test_epilogues_in_registers(name: str) -> None:
    follows, fused = FOLLOWS[name]
    b, y = product(follows, 20, 7, 40)
    assert (loops_over_strips(b.build({"y": y})) == 0) == fused


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FOLLOWS)
@pytest.mark.parametrize("m,k,n", [(1, 9, 33), (37, 5, 70)])
def test_epilogues(name: str, m: int, k: int, n: int, target: str) -> None:
    b, y = product(FOLLOWS[name][0], m, k, n)
    x = array(m, k)
    x[0, 0] = np.nan
    assert check(y, b, {"x": x}, target=target) == "contract"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch,m,k,n", [(1, 37, 5, 70), (1, 300, 40, 20), (3, 18, 2100, 33),
                                         (1, 1, 8, 16), (1, 0, 8, 16), (2, 20, 7, 2)])
def test_turned_results(batch: int, m: int, k: int, n: int, target: str) -> None:
    """Rows side by side (channels-first images), beside an operand that lies as the sum does."""
    b = Builder()
    x, r = tensor(b, "x", batch, m, k), array(batch, m, n)
    y = b.op("dot", x, b.const(array(k, n)), ta=False, tb=False)
    y = _clip(b, b.op("add", b.op("add", y, b.const(array(n))), b.const(r)), m, n)
    feed = array(batch, m, k)
    if m:
        feed[0, 0, :2] = np.nan, np.inf
    turned = b.op("transpose", y, perm=(0, 2, 1))
    assert check(turned, b, {"x": feed}, target=target, threads=2, tolerance=1e-4) == "contract"


@pytest.mark.parametrize("size", [1, 30, 128])
def test_turned_results_of_unknown_length(size: int) -> None:
    b = Builder()
    y = conv(b, tensor(b, "x", 1, S, 40), array(3, 40, 72), pads_lo=(1,), pads_hi=(1,))
    y = b.op("relu", b.op("add", y, b.const(array(72))))
    check(b.op("transpose", y, perm=(0, 2, 1)), b, {"x": array(1, size, 40)}, threads=2)


def test_plain_turned_results_need_no_loop() -> None:
    b, y = product((_bias, _clip), 20, 7, 40)
    assert loops_over_strips(b.build({"y": b.op("transpose", y, perm=(1, 0))})) == 0


def test_a_sum_that_others_need_is_stored_too() -> None:
    b, y = product((_bias,), 9, 12, 40)
    check({"y": y, "z": b.op("relu", y)}, b, {"x": array(9, 12)})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("m", [1, 45])
@pytest.mark.parametrize("k", [1023, 1025, 2100])
@pytest.mark.parametrize("follows", [(_bias, _relu), (_gate,)], ids=["registers", "strips"])
def test_sums_in_chunks(k: int, m: int, follows: tuple[Follow, ...], target: str) -> None:
    b, y = product(follows, m, k, 70)
    assert check(y, b, {"x": array(m, k)}, target=target, tolerance=1e-5) == "contract"


@pytest.mark.parametrize("k", [0, 1, 1024, 2500])
def test_sums_of_unknown_length(k: int) -> None:
    b = Builder()
    x, z = tensor(b, "x", N, 3, S), tensor(b, "z", N, S, 40)
    y = b.op("relu", b.op("dot", x, z, ta=False, tb=False))
    check(y, b, {"x": array(2, 3, k), "z": array(2, k, 40)})


@pytest.mark.parametrize("channels,kernel", [(300, 3), (130, 5)])
def test_taps_in_chunks(channels: int, kernel: int) -> None:
    b = Builder()
    x = tensor(b, "x", 1, 6, 7, channels)
    pad = (kernel // 2,) * 2
    w = array(kernel, kernel, channels, 20)
    y = b.op("relu", conv(b, x, w, pads_lo=pad, pads_hi=pad))
    assert check(y, b, {"x": array(1, 6, 7, channels)}) == "contract"


def heights(rows: Dim, depth: int) -> int:
    b = Builder()
    x = b.input("x", TensorType(F32, (rows, depth)))
    graph = b.build({"y": b.op("dot", x, b.const(array(depth, 64)), ta=False, tb=False)})
    cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")])
    form = contraction_form(ContractionSpace(Space(cut.graph)), frozenset())
    return tiling(form, Target.named("avx512"), {}).rows


@pytest.mark.parametrize("m,n,asked", [
    (20000, 96, 3), (20000, 16, 0), (20, 96, 0), (N, 96, 3), (N, 16, 0),
])
def test_lines_of_wide_results_are_asked_for(m: Dim, n: int, asked: int) -> None:
    """A factor, a residual and the result, panel by panel of rows that lie apart."""
    b = Builder()
    x, factor, more = tensor(b, "x", m, 8), tensor(b, "f", m, n), tensor(b, "r", m, n)
    y = b.op("dot", x, b.const(array(8, n)), ta=False, tb=False)
    y = b.op("add", b.op("mul", b.op("mul", y, factor), b.const(array(n))), more)
    found: list[Step] = list(lowered(b.build({"y": y})).domains[0].steps)
    for step in found:
        found += step.steps if isinstance(step, Nested) else ()
    assert sum(isinstance(s, Call) and s.name == FETCH_KERNEL for s in found) == asked
    if m == N:
        feeds = {"x": array(29, 8), "f": array(29, n), "r": array(29, n)}
        assert check(y, b, feeds) == "contract"


def test_tile_heights() -> None:
    assert heights(N, 100) == 14
    assert heights(128, 768) == 8  # no row sticks out
    assert heights(3, 768) == 3
    assert heights(140, 1024) <= 8  # rows one cache way apart
    assert heights(140, 1040) == 14


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n", [3, 8, 9, 20, 24, 31, 33, 40, 48, 70])
@pytest.mark.parametrize("follows", [(_bias, _relu), (_gate,)], ids=["registers", "strips"])
def test_the_last_panel_has_a_tile_of_its_own(n: int, follows: tuple[Follow, ...], target: str
                                              ) -> None:
    b, y = product(follows, 17, 300, n)
    x = array(17, 300)
    x[2, 3], x[5, 0] = np.nan, np.inf
    assert check(y, b, {"x": x}, target=target, tolerance=1e-5) == "contract"


@pytest.mark.parametrize("n", [8, 24, 40, 56])
def test_narrow_panels_in_chunks_and_blocks(n: int) -> None:
    """The last panel is in another parallel tile than the first ones, and sums come in chunks."""
    b, y = product((_bias,), 60, 2100, 256 + n)
    assert check(y, b, {"x": array(60, 2100)}, tolerance=1e-5) == "contract"


@pytest.mark.parametrize("n", [5, 16, 24, 33, 40])
@pytest.mark.parametrize("target", TARGETS)
def test_narrow_panels_of_bytes(n: int, target: str) -> None:
    b = Builder()
    x = b.input("x", TensorType(U8, (19, 13)))
    w = RNG.integers(-128, 128, (13, n)).astype(np.int8)
    y = b.op("dot", x, b.const(w), ta=False, tb=False, acc=I32)
    feed = RNG.integers(0, 256, (19, 13)).astype(np.uint8)
    assert check(y, b, {"x": feed}, target=target, tolerance=0) == "contract"


@pytest.mark.parametrize(("groups", "batches"), [(4, 4), (2, 2)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_tile_has_all_groups_of_its_rows(groups: int, batches: int, shuffled: bool) -> None:
    """Threads that shared a row of a grouped convolution would write to the same cache lines."""
    b = Builder()
    x = tensor(b, "x", 1, 8, 8, 8 * groups)
    y = b.op("relu", conv(b, x, array(1, 1, 8, 6 * groups), groups=groups))
    if shuffled:
        y = b.op("reshape", y, shape=(1, 8, 8, groups, 6))
        y = b.op("transpose", y, perm=(0, 1, 2, 4, 3))
        y = b.op("reshape", y, shape=(1, 8, 8, 6 * groups))
    graph = b.build({"y": y})
    cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")])
    nest = lower_contraction(cut.graph, igemm(Target.named("avx512")), frozenset({1})).nest
    (domain,) = nest.domains
    assert domain.rows_per_tile == batches
    assert check(y, b, {"x": array(1, 8, 8, 8 * groups)}, threads=2) == "contract"


def test_batches_that_lie_apart_are_tiles_of_their_own() -> None:
    b = Builder()
    x, z = tensor(b, "x", 3, 50, 40), tensor(b, "z", 3, 40, 24)
    graph = b.build({"y": b.op("dot", x, z, ta=False, tb=False)})
    cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")])
    nest = lower_contraction(cut.graph, igemm(Target.named("avx512")), frozenset()).nest
    assert nest.domains[0].rows_per_tile == 1


@pytest.mark.parametrize("images", [0, 1, 3])
def test_a_batch_of_unknown_size_is_cut_like_one_image(images: int) -> None:
    b = Builder()
    x = tensor(b, "x", N, 14, 14, 24)
    y = b.op("relu", conv(b, x, array(1, 1, 24, 80)))
    assert check(y, b, {"x": array(images, 14, 14, 24)}, threads=2) == "contract"
    assert heights(N * 49, 100) == heights(49, 100) != 14


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [0, 1, 5, 37])
@pytest.mark.parametrize("biased", [False, True])
def test_rows_that_are_gathered_are_no_residual_in_registers(rows: int, biased: bool, target: str
                                                            ) -> None:
    """Messages along the edges of a graph: the row that is added lies where an index says."""
    b = Builder()
    nodes, index = tensor(b, "nodes", 9, 40), tensor(b, "index", rows, dtype=I64)
    y = b.op("dot", tensor(b, "x", rows, 24), b.const(array(24, 40)), ta=False, tb=False)
    y = _bias(b, y, rows, 40) if biased else y
    y = b.op("relu", b.op("add", b.op("gather", nodes, index, axis=0), y))
    feeds = {"nodes": array(9, 40), "index": RNG.integers(0, 9, rows), "x": array(rows, 24)}
    assert check(y, b, feeds, target=target, threads=2) == "contract"
