"""A depthwise convolution and the pointwise one behind it in one kernel: against the reference
interpreter, and equal to the two kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.compiler.build import build_program
from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.graph import Graph, Value
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.target import Target
from evonnx.ir.types import BF16, F32, U8, TensorType
from evonnx.runtime.executable import Executable
from evonnx.search.legality import implementation

from .test_groups import RNG, array, check, tensor

CASES = [
    # image, columns, kernel, strides, dilations, pads_lo, pads_hi
    ((1, 9, 14, 24), 40, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 8, 31, 5), 3, (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((1, 7, 7, 40), 64, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 6, 20, 17), 70, (5, 5), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 11, 29, 8), 9, (5, 3), (2, 3), (1, 1), (0, 1), (2, 0)),
    ((3, 9, 5, 4), 33, (3, 3), (1, 1), (2, 2), (2, 2), (2, 2)),
    ((1, 8, 30, 16), 16, (3, 1), (1, 1), (1, 1), (1, 0), (1, 0)),
    ((1, 2, 2, 6), 5, (3, 3), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 5, 1, 7), 8, (3, 1), (1, 1), (1, 1), (1, 0), (1, 0)),
    ((2, 60, 12), 20, (9,), (1,), (1,), (4,), (4,)),
    ((0, 6, 20, 3), 4, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 3, 4, 9, 6), 10, (2, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 1, 1)),
    ((1, 4, 6, 1024), 12, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 3, 21, 1100), 10, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
]  # fmt: skip
SAME = ("strides", "dilations", "pads_lo", "pads_hi")


def window(b: Builder, case: tuple[Any, ...], x: Value) -> Value:
    c = case[0][-1]
    return b.op("conv", x, tensor(b, "w", *case[2], 1, c), groups=c, layout="last",
                **dict(zip(SAME, case[3:], strict=True)))


def pointwise(b: Builder, case: tuple[Any, ...], x: Value, w: Value | None = None) -> Value:
    rank = len(case[2])
    w = tensor(b, "p", *[1] * rank, case[0][-1], case[1]) if w is None else w
    return b.op("conv", x, w, groups=1, layout="last", **dict.fromkeys(SAME[:2], (1,) * rank),
                **dict.fromkeys(SAME[2:], (0,) * rank))


def weights(case: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Everything but the image."""
    c, rank = case[0][-1], len(case[2])
    p = array(*[1] * rank, c, case[1]) / np.float32(np.sqrt(c))
    return {"w": array(*case[2], 1, c), "p": p, "b": array(c), "q": array(case[1])}


def limited(b: Builder, x: Value, bias: Value) -> Value:
    return b.op("min", b.op("relu", b.op("add", x, bias)), 6.0)


def both(b: Builder, case: tuple[Any, ...], shape: tuple[Dim, ...], residual: bool = True
         ) -> Value:
    """As networks for telephones have it: bias and limits, then bias and a residual."""
    y = window(b, case, tensor(b, "x", *shape))
    y = pointwise(b, case, limited(b, y, tensor(b, "b", case[0][-1])))
    y = b.op("add", y, tensor(b, "q", case[1]))
    return b.op("add", y, tensor(b, "r", *y.shape)) if residual else y


def feeds(case: tuple[Any, ...], y: Value | None = None) -> dict[str, np.ndarray]:
    given = weights(case) | {"x": array(*case[0])}
    return given if y is None else given | {"r": array(*y.shape)}  # type: ignore[arg-type]


@pytest.mark.parametrize("case,target", [
    *((case, "cpu") for case in range(len(CASES))),
    (1, "avx2"), (3, "avx2"), (12, "avx2"), (1, "generic"), (5, "generic"),
])
def test_bias_limits_and_residual(case: int, target: str) -> None:
    b = Builder()
    y = both(b, CASES[case], CASES[case][0])
    settings = {} if case % 2 else {"lines": 2}
    found = check(y, b, feeds(CASES[case], y), target=target, threads=1 + case % 2, **settings)
    assert found == "separable"


@pytest.mark.parametrize("case", [1, 11])
def test_other_epilogues(case: int) -> None:
    """What registers cannot do runs over strips, on either side; and the product gives two
    results."""
    b = Builder()
    y = window(b, CASES[case], tensor(b, "x", *CASES[case][0]))
    y = pointwise(b, CASES[case], b.op("mul", y, b.op("sigmoid", y)))
    given = feeds(CASES[case])
    del given["b"], given["q"]
    assert check({"y": b.op("sigmoid", y), "z": y}, b, given, threads=2) == "separable"


@pytest.mark.parametrize("width,channels,columns", [(4, 24, 16), (29, 24, 40), (29, 1100, 70)])
def test_blocks_that_are_not_whole_micro_tiles(width: int, channels: int, columns: int) -> None:
    """Strips have room for all rows of the last one, and chunks of sums do not meet."""
    case = ((2, 6, width, channels), columns, (5, 5), (1, 1), (1, 1), (2, 2), (2, 2))
    b = Builder()
    y = pointwise(b, case, window(b, case, tensor(b, "x", *case[0])))
    given = feeds(case)
    del given["b"], given["q"]
    assert check(b.op("sigmoid", y), b, given, threads=2, lines=1) == "separable"


def test_nothing_between() -> None:
    b = Builder()
    y = pointwise(b, CASES[0], window(b, CASES[0], tensor(b, "x", *CASES[0][0])))
    given = feeds(CASES[0])
    del given["b"], given["q"]
    assert check(y, b, given) == "separable"


@pytest.mark.parametrize("lines", [1, 3])
def test_special_values_stay_where_they_are(lines: int) -> None:
    b = Builder()
    y = both(b, CASES[1], CASES[1][0])
    given = feeds(CASES[1], y)
    given["x"][0, 0, 0, 3], given["x"][1, 4, 20, 1] = np.nan, np.inf
    given["r"][1, 2, 3, 1] = -np.inf
    with np.errstate(all="ignore"):
        assert check(y, b, given, threads=2, lines=lines) == "separable"


def test_numbers_of_images_and_of_lines_known_late() -> None:
    for images, height in ((3, 5), (0, 4)):
        b = Builder()
        case = ((images, height, 31, 5), *CASES[1][1:])
        y = both(b, case, (sym("N"), sym("H"), 31, 5), residual=False)
        assert check(y, b, feeds(case)) == "separable"


def test_images_of_bytes() -> None:
    """The depthwise half reads them as it does by itself."""
    b = Builder()
    x = b.op("sub", b.op("cast", b.input("x", TensorType(U8, CASES[0][0])), to=F32), 130.0)
    y = pointwise(b, CASES[0], b.op("relu", window(b, CASES[0], x)))
    given = feeds(CASES[0])
    del given["b"], given["q"]
    given["x"] = RNG.integers(0, 256, CASES[0][0]).astype(np.uint8)
    assert check(y, b, given, tolerance=1e-3) == "separable"


def test_a_matrix_product_of_pixels() -> None:
    """The pointwise half may be written as a product of rows."""
    b = Builder()
    case = CASES[1]
    y = b.op("relu", window(b, case, tensor(b, "x", *case[0])))
    rows = b.op("reshape", y, shape=(2 * 4 * 16, 5))
    y = b.op("dot", rows, tensor(b, "p", 5, 3), ta=False, tb=False)
    given = feeds(case)
    given["p"] = given["p"].reshape(5, 3)
    del given["b"], given["q"]
    assert check(y, b, given, threads=2) == "separable"


@pytest.mark.parametrize("target", ["cpu", "avx2"])
def test_weights_of_bfloat16(target: str) -> None:
    """The pointwise half widens them as it loads them, as it does by itself."""
    b = Builder()
    case = CASES[1]
    y = b.op("relu", window(b, case, tensor(b, "x", *case[0])))
    rows = b.op("reshape", y, shape=(2 * 4 * 16, 5))
    p = b.const(weights(case)["p"].reshape(5, 3).astype(BF16.np))
    graph = b.build({"y": b.op("dot", rows, b.op("cast", p, to=F32), ta=False, tb=False)})
    given = {"x": array(*case[0]), "w": weights(case)["w"]}
    nodes = [k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const")]
    found, reason = implementation(graph, [graph.nodes[k] for k in nodes])
    assert found == "separable", reason
    one = run(graph, [Group(tuple(nodes), found, (("lines", 2),))], given, target)
    want = interp.run(graph, given)["y"]
    np.testing.assert_allclose(one, want, rtol=2e-5, atol=2e-5)
    start = next(k for k in nodes if graph.nodes[k].op in ("reshape", "cast"))
    parts = [tuple(k for k in nodes if k < start), tuple(k for k in nodes if k >= start)]
    two = run(graph, [Group(part, "contract") for part in parts], given, target)
    np.testing.assert_array_equal(one, two)


def test_lines_may_be_columns() -> None:
    """Of an image that is turned on its way from one half to the other."""
    b = Builder()
    y = b.op("relu", window(b, CASES[4], tensor(b, "x", *CASES[4][0])))
    y = pointwise(b, CASES[4], b.op("transpose", y, perm=(0, 2, 1, 3)))
    given = feeds(CASES[4])
    del given["b"], given["q"]
    assert check(y, b, given) == "separable"


# -- as two kernels ------------------------------------------------------------------------------


def run(graph: Graph, groups: list[Group], given: dict[str, np.ndarray], target: str
        ) -> np.ndarray:
    def no_regions(body: Graph) -> Any:
        raise AssertionError("no control flow here")

    schedule = Schedule(graph.digest, tuple(groups))
    program = build_program(graph, schedule, Target.named(target), no_regions)
    made = Executable(program, graph.constants, Target.named(target), 1)
    return np.asarray(made.run(given)["y"])


@pytest.mark.parametrize("case,target,few", [
    (0, "cpu", False), (2, "cpu", False), (13, "cpu", False), (3, "avx2", False),
    (0, "avx2", True), (9, "generic", True),
])
def test_sums_are_those_of_two_kernels(case: int, target: str, few: bool) -> None:
    """To the last bit, whatever the lines of a tile. ``few`` channels are convolved by windows if
    nobody asks, which begin with the bias; here it is a product."""
    b = Builder()
    known = {k: b.const(v) for k, v in weights(CASES[case]).items()}
    keys = dict(zip(SAME, CASES[case][3:], strict=True))
    c = CASES[case][0][-1]
    y = b.op("conv", tensor(b, "x", *CASES[case][0]), known["w"], groups=c, layout="last", **keys)
    y = pointwise(b, CASES[case], limited(b, y, known["b"]), known["p"])
    graph = b.build({"y": b.op("relu", b.op("add", y, known["q"]))})
    nodes = [k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const")]
    second = [k for k in nodes if graph.nodes[k].op == "conv"][1]
    given = {"x": array(*CASES[case][0])}
    parts = [tuple(k for k in nodes if k < second), tuple(k for k in nodes if k >= second)]
    settings = (("window", 0),) if few else ()
    two = [Group(parts[0], "contract"), Group(parts[1], "contract", settings)]
    want = run(graph, two, given, target)
    for lines in (1, 3):
        one = [Group(tuple(nodes), "separable", (("lines", lines),))]
        np.testing.assert_array_equal(run(graph, one, given, target), want)


# -- what is refused -----------------------------------------------------------------------------


def refused(make: Any, case: tuple[Any, ...] = CASES[0], shape: tuple[Dim, ...] | None = None
            ) -> str:
    """Why what ``make`` builds on the convolved image is not one kernel."""
    b = Builder()
    made = make(b, window(b, case, tensor(b, "x", *(case[0] if shape is None else shape))))
    graph = b.build(made if isinstance(made, dict) else {"y": made})
    found, reason = implementation(graph, [n for n in graph.nodes
                                           if n.op not in ("input", "const")])
    assert found is None
    return reason


def test_the_value_between_has_one_reader() -> None:
    case = CASES[0]

    def given_out(b: Builder, h: Value) -> dict[str, Value]:
        return {"y": pointwise(b, case, h), "h": h}

    def added(b: Builder, h: Value) -> Value:
        w = tensor(b, "p", 1, 1, 24, 24)
        return b.op("add", pointwise(b, case, h, w), h)

    def squeezed(b: Builder, h: Value) -> Value:
        mean = b.op("reduce", h, kind="mean", axes=(1, 2), keepdims=True)
        return pointwise(b, case, b.op("mul", h, b.op("sigmoid", mean)))

    assert "needed besides" in refused(given_out)
    assert "read at two places" in refused(added)
    assert "reduction" in refused(squeezed)


def test_rows_are_pixels_in_their_order() -> None:
    case = CASES[0]

    def strided(b: Builder, h: Value) -> Value:
        same = dict(zip(SAME, ((2, 2), (1, 1), (0, 0), (0, 0)), strict=True))
        return b.op("conv", h, tensor(b, "p", 1, 1, 24, 40), groups=1, layout="last", **same)

    def wide(b: Builder, h: Value) -> Value:
        same = dict(zip(SAME, ((1, 1), (1, 1), (1, 1), (1, 1)), strict=True))
        return b.op("conv", h, tensor(b, "p", 3, 3, 24, 40), groups=1, layout="last", **same)

    def grouped(b: Builder, h: Value) -> Value:
        same = dict(zip(SAME, ((1, 1), (1, 1), (0, 0), (0, 0)), strict=True))
        return b.op("conv", h, tensor(b, "p", 1, 1, 12, 40), groups=2, layout="last", **same)

    for make in (strided, wide, grouped):
        assert "two contractions" in refused(make), make
    late = refused(lambda b, h: pointwise(b, case, h), case, (1, 9, sym("W"), 24))
    assert "of a size that is not known" in late
    far = ((1, 4, 1 << 16, 8), *case[1:])
    assert "no cache holds one" in refused(lambda b, h: pointwise(b, far, h), far)


def test_the_first_is_depthwise() -> None:
    b = Builder()
    case = CASES[0]
    y = pointwise(b, case, tensor(b, "x", *case[0]))
    y = b.op("dot", y, tensor(b, "v", 40, 8), ta=False, tb=False)
    graph = b.build({"y": y})
    found, reason = implementation(graph, [n for n in graph.nodes if n.op in ("conv", "dot")])
    assert found is None and "no depthwise convolution" in reason
