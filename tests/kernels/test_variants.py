"""Every variant of a group gives what the reference gives; what a group cannot have is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.errors import ScheduleError
from evonnx.ir.graph import Graph, Value
from evonnx.ir.schedule import Group, Schedule, parse_schedule
from evonnx.ir.target import Target
from evonnx.ir.types import I8, I32, U8
from evonnx.ir.variants import micro_tile, most_rows
from evonnx.search.legality import implementation

from .test_groups import array, tensor

Case = tuple[Graph, dict[str, np.ndarray]]


def conv(b: Builder, x: Value, w: np.ndarray, pad: int = 1, **attrs: Any) -> Value:
    rank = x.rank - 2
    attrs = {"strides": (1,) * rank, "dilations": (1,) * rank, "groups": 1} | attrs
    return b.op("conv", x, b.const(w), pads_lo=(pad,) * rank, pads_hi=(pad,) * rank, layout="last",
                **attrs)


def dot(rows: Dim, size: int, depth: int, columns: int) -> Case:
    b = Builder()
    x = tensor(b, "x", rows, depth)
    w = array(depth, columns) / np.float32(np.sqrt(max(depth, 1)))
    y = b.op("relu", b.op("dot", x, b.const(w), ta=False, tb=False))
    return b.build({"y": b.op("add", y, tensor(b, "r", columns))}), {
        "x": array(size, depth), "r": array(columns)}


def images(size: tuple[int, int], channels: int, columns: int) -> Case:
    b = Builder()
    x = tensor(b, "x", 2, *size, channels)
    w = array(3, 3, channels, columns) / np.float32(3 * np.sqrt(channels))
    return b.build({"y": b.op("relu", conv(b, x, w))}), {"x": array(2, *size, channels)}


def depthwise(size: tuple[int, int], channels: int, stride: int) -> Case:
    b = Builder()
    x = tensor(b, "x", 1, *size, channels)
    y = conv(b, x, array(3, 3, 1, channels), groups=channels, strides=(stride, stride))
    return b.build({"y": b.op("relu", y)}), {
        "x": array(1, *size, channels)}


def grouped(size: tuple[int, int], groups: int) -> Case:
    b = Builder()
    x = tensor(b, "x", 1, *size, 4 * groups)
    y = conv(b, x, array(3, 3, 4, 4 * groups), groups=groups)
    return b.build({"y": b.op("relu", y)}), {"x": array(1, *size, 4 * groups)}


def pool(size: tuple[int, int]) -> Case:
    b = Builder()
    x = tensor(b, "x", 1, *size, 20)
    y = b.op("pool", x, kind="max", kernel=(3, 3), strides=(2, 2), dilations=(1, 1),
             pads_lo=(1, 1), pads_hi=(1, 1), layout="last")
    return b.build({"y": b.op("neg", y)}), {"x": array(1, *size, 20)}


def scheduled(graph: Graph, **settings: int) -> str:
    """The graph as one group with these settings, as text."""
    nodes = [n for n in graph.nodes if n.op not in ("input", "const")]
    word, reason = implementation(graph, nodes)
    assert word is not None, reason
    group = Group(tuple(graph.index[n] for n in nodes), word, tuple(settings.items()))
    return str(Schedule(graph.digest, (group,)))


def run(case: Case, target: str = "cpu", threads: int = 1, tolerance: float = 3e-6,
        **settings: int) -> str:
    """Compares with the reference; answers the source."""
    graph, feeds = case
    made = evonnx.compile(graph, schedule=scheduled(graph, **settings), pipeline="", target=target,
                          threads=threads)
    assert made.schedule.groups[0].variant == tuple(settings.items())
    want = interp.run(graph, feeds, float64=True)["y"]
    got = made.run(None, feeds)[0]
    assert got.shape == want.shape
    scale = max(float(np.abs(want).max()), 1e-3) if want.size else 1.0
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
    return "".join(made.source.values())


def widths(target: str) -> list[int]:
    machine = Target.named(target)
    return [v * micro_tile(machine)[2] for v in (1, 2, 3, 4) if most_rows(machine, v) >= 4]


@pytest.mark.parametrize("target", ["cpu", "avx2", "generic"])
def test_panels_of_every_width(target: str) -> None:
    for columns in widths(target):
        for size, shape in ((37, (50, 49)), (5, (300, 16)), (3, (7, 2)), (0, (4, 3))):
            run(dot(size, size, *shape), target, columns=columns)
    assert len(widths(target)) >= 2


@pytest.mark.parametrize("settings", [
    {"rows": 1}, {"rows": 5, "columns": 16}, {"rows": 9, "columns": 48}, {"rows": 6, "block": 1},
    {"depth": 256}, {"depth": 700, "rows": 3, "block": 2}, {"depth": 4096, "block": 64},
])  # fmt: skip
@pytest.mark.parametrize("rows", [61, 1, 0, "N"])
def test_products(settings: dict[str, int], rows: int | str) -> None:
    if Target.detect().vector_bits < 512:
        pytest.skip("tile sizes of 512-bit vectors")
    size, dim = (33, sym("N")) if isinstance(rows, str) else (rows, rows)
    run(dot(dim, size, 1500, 70), threads=2, **settings)


@pytest.mark.parametrize("settings", [
    {"winograd": 0}, {"winograd": 2}, {"winograd": 2, "rows": 4, "columns": 16, "block": 1},
    {"winograd": 3}, {"winograd": 4}, {"winograd": 4, "rows": 5, "block": 1},
    {"winograd": 0, "rows": 3, "depth": 256}, {"block": 5},
])  # fmt: skip
@pytest.mark.parametrize("sizes", [((9, 14), 24, 40), ((2, 5), 40, 3), ((3, 3), 3, 17)])
def test_convolutions(settings: dict[str, int], sizes: tuple[tuple[int, int], int, int]) -> None:
    case = images(*sizes)
    source = run(case, threads=2, **settings)
    if "winograd" in settings:
        direct = run(case, threads=2, **settings | {"winograd": 0})
        assert (source == direct) == (settings["winograd"] == 0)


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise(window: int, stride: int) -> None:
    source = run(depthwise((11, 19), 21, stride), window=window)
    assert ("mk_window" in source or "mk_block" in source) == bool(window)


@pytest.mark.parametrize("settings", [{"window": 1}, {"window": 0}, {"window": 0, "rows": 3},
                                      {"rows": 3}])
def test_narrow_groups(settings: dict[str, int]) -> None:
    source = run(grouped((11, 19), 6), **settings)
    assert ("mk_window" in source) == bool(settings.get("window"))


@pytest.mark.parametrize("unroll", [0, 1])
def test_pools(unroll: int) -> None:
    case = pool((9, 13))
    assert (run(case, unroll=unroll) == run(case, unroll=1)) == bool(unroll)


def test_bytes() -> None:
    b = Builder()
    x, w = tensor(b, "x", 29, 40, dtype=U8), array(40, 50, dtype=I8)
    graph = b.build({"y": b.op("dot", x, b.const(w), ta=False, tb=False, acc=I32)})
    feeds = {"x": array(29, 40, dtype=U8)}
    want = interp.run(graph, feeds)["y"]
    for rows in (1, 4, 6):
        made = evonnx.compile(graph, pipeline="", schedule=scheduled(graph, rows=rows, block=1))
        np.testing.assert_array_equal(made.run(None, feeds)[0], want)


REFUSED: list[tuple[Callable[[], Case], dict[str, int], str]] = [
    (lambda: dot(8, 8, 40, 40), {"winograd": 2}, "winograd=2 .* choices: 0, since it is no conv"),
    (lambda: images((6, 6), 8, 8), {"winograd": 5}, "winograd=5 is none .* 0 or 2 or 3 or 4"),
    (lambda: dot(8, 8, 40, 40), {"rows": 15}, "rows=15 is none of its choices: 1 to "),
    (lambda: dot(8, 8, 40, 40), {"rows": 0}, "rows=0 is none of its choices"),
    (lambda: dot(8, 8, 40, 40), {"columns": 17}, "columns=17 is none of its choices: "),
    (lambda: dot(8, 8, 40, 40), {"rows": 14, "columns": 64}, "rows=14 is none of its choices"),
    (lambda: dot(8, 8, 40, 40), {"window": 1}, "it has no window to choose; what can be set is"),
    (lambda: images((6, 6), 8, 8), {"winograd": 2, "depth": 256}, "no depth to choose"),
    (lambda: depthwise((8, 8), 8, 1), {"rows": 2}, "no rows to choose; .* window \\(0 or 1\\)"),
    (lambda: grouped((8, 8), 4), {"window": 1, "rows": 2}, "no rows to choose; .* window"),
    (lambda: pool((8, 8)), {"mr": 2}, "no mr to choose; what can be set is unroll"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_a_group_cannot_have_is_refused(number: int) -> None:
    make, settings, message = REFUSED[number]
    graph, _ = make()
    with pytest.raises(ScheduleError, match="group g0 .*" + message):
        evonnx.compile(graph, pipeline="", schedule=scheduled(graph, **settings))


def test_a_group_with_one_variant_has_nothing_to_set() -> None:
    b = Builder()
    graph = b.build({"y": b.op("exp", tensor(b, "x", 3))})
    with pytest.raises(ScheduleError, match="no rows to choose: nothing can be set"):
        evonnx.compile(graph, pipeline="", schedule=scheduled(graph, rows=3))


def test_settings_are_printed_and_read() -> None:
    text = scheduled(images((6, 6), 16, 16)[0], winograd=2, rows=6)
    assert "g0 = contract [" in text and "{winograd=2, rows=6}" in text
    assert str(parse_schedule(text)) == text
