"""Convolutions without what only meets padding: cropped, in bands, in phases."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.types import F32, F64, DType, TensorType
from evonnx.ir.verify import verify
from evonnx.passes import atrous
from evonnx.passes.atrous import narrow_dilated

RNG = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of convolutions that are small enough for the interpreter."""
    monkeypatch.setattr(atrous, "SAVED", 1)


def conv(size: tuple[Any, ...], kernel: tuple[int, ...] = (3, 3), rate: int = 1, channels: int = 2,
         weights: np.ndarray | None = None, groups: int = 1, dtype: DType = F32, batch: Any = 2,
         **changes: tuple[int, ...]) -> Graph:
    """A convolution, padded so that it keeps its sizes unless ``changes`` say otherwise."""
    b = Builder()
    pads = tuple(rate * (k // 2) for k in kernel)
    ones = (1,) * len(kernel)
    attrs: dict[str, Any] = {"strides": ones, "dilations": (rate,) * len(kernel), "pads_lo": pads,
                             "pads_hi": pads, **changes}
    if weights is None:
        weights = RNG.standard_normal((*kernel, channels // groups, channels))
    x = b.input("x", TensorType(dtype, (batch, *size, channels)))
    w = b.const(weights.astype(np.float64 if dtype == F64 else np.float32))
    return b.build({"y": b.op("conv", x, w, groups=groups, layout="last", **attrs)})


def narrowed(graph: Graph, name: str | None, **sizes: int) -> Graph:
    """The pass fired as ``name`` (None: not at all), and the reference says the same, also of
    infinities and NaN in the image."""
    fired: Counter[str] = Counter()
    result = verify(narrow_dilated(graph, fired))
    assert dict(fired) == ({} if name is None else {name: 1})
    shape = [sizes.get(str(d), d) for d in graph.inputs[0].shape]
    x = RNG.standard_normal(shape).astype(np.float32)
    wild = x.copy()
    wild.reshape(-1)[:: max(1, x.size // 5)] = np.nan
    wild.reshape(-1)[1 :: max(1, x.size // 4)] = np.inf
    for image in (x, wild):
        with np.errstate(invalid="ignore"):
            want = interp.run(graph, {"x": image})["y"]
            got = interp.run(result, {"x": image})["y"]
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    return result


def kernels(graph: Graph) -> list[tuple[Any, ...]]:
    """The spatial sizes of the kernels of all convolutions."""
    return [n.operands[1].shape[:-2] for n in graph.nodes if n.op == "conv"]


@pytest.mark.parametrize("rate", [9, 12])
def test_taps_outside_the_image_are_left_out(rate: int) -> None:
    assert kernels(narrowed(conv((9, 7), rate=rate), "atrous_bands")) == [(1, 1)]
    assert kernels(narrowed(conv((1, 1)), "atrous_bands")) == [(1, 1)]
    assert kernels(narrowed(conv((1, 5)), "atrous_bands")) == [(1, 3)]


@pytest.mark.parametrize("changes", [
    {}, {"strides": (2, 1)}, {"strides": (1, 3)}, {"pads_lo": (5, 6)}, {"pads_hi": (7, 4)},
    {"dilations": (6, 5)}, {"dilations": (1, 6)},
])  # fmt: skip
def test_outputs_that_see_the_same_taps_are_one_convolution(changes: dict[str, Any]) -> None:
    found = narrowed(conv((8, 9), rate=6, **changes), "atrous_bands")
    assert len(kernels(found)) > 1


def test_bands_of_one_axis_and_of_three() -> None:
    assert kernels(narrowed(conv((10,), (3,), rate=7), "atrous_bands")) == [(2,), (1,), (2,)]
    assert len(kernels(narrowed(conv((5, 5, 5), (3, 3, 3), rate=3), "atrous_bands"))) == 27


def test_groups_are_cropped_only() -> None:
    graph = conv((6, 6), rate=4, channels=4, groups=2)
    narrowed(graph, None)
    assert kernels(narrowed(conv((4, 4), rate=4, channels=4, groups=2), "atrous_bands")) == [(1, 1)]


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (7, 40)])
@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_phases_are_dense_convolutions(size: tuple[int, int], batch: Any) -> None:
    graph = conv(size, rate=2, channels=64, batch=sym("N") if batch == "N" else batch)
    found = narrowed(graph, "atrous_phases", N=2)
    one, = (n for n in found.nodes if n.op == "conv")
    assert one.attrs["dilations"] == (1, 1)


@pytest.mark.parametrize("changes", [
    {"pads_lo": (0, 0)}, {"pads_lo": (0, 0), "pads_hi": (0, 0)}, {"dilations": (2, 1)},
    {"dilations": (1, 2)},
])  # fmt: skip
def test_phases_of_other_paddings(changes: dict[str, Any]) -> None:
    graph = conv((15, 17), rate=2, channels=64, **{"pads_lo": (2, 2), "pads_hi": (2, 2), **changes})
    fired: Counter[str] = Counter()
    result = verify(narrow_dilated(graph, fired))
    x = RNG.standard_normal((2, 15, 17, 64)).astype(np.float32)
    np.testing.assert_allclose(interp.run(result, {"x": x})["y"], interp.run(graph, {"x": x})["y"],
                               rtol=1e-4, atol=1e-4)
    assert fired["atrous_phases"] == ("dilations" not in changes)


@pytest.mark.parametrize("graph", [
    conv((9, 9)), conv((2, 2)), conv((sym("H"), 9), rate=9), conv((9, 7), rate=9, dtype=F64),
    conv((0, 7), rate=9), conv((9, 7), rate=9, weights=np.full((3, 3, 2, 2), np.inf)),
    conv((15, 15), rate=2, channels=64, strides=(2, 2)),
], ids=["dense", "small", "unknown", "f64", "empty", "infinite", "strided"])  # fmt: skip
def test_other_convolutions_stay(graph: Graph) -> None:
    assert narrow_dilated(graph) is graph


def test_an_output_of_padding_alone_keeps_its_convolution() -> None:
    graph = conv((4, 4), rate=2, pads_lo=(9, 9))
    assert narrow_dilated(graph) is graph
    narrowed(conv((4, 4), rate=3, pads_lo=(9, 3)), "atrous_bands")


def test_small_convolutions_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = conv((8, 8), rate=6)
    monkeypatch.undo()
    assert narrow_dilated(graph) is graph
    assert kernels(narrowed(conv((8, 8), rate=8), "atrous_bands")) == [(1, 1)]
