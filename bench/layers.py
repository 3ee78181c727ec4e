"""Every convolution and matrix product of a model by itself, under the roofline of this machine.

    python -m evonnx.bench.layers resnet50 mobilenetv2 --plot figures/
    python -m evonnx.bench.layers my_model.onnx --peers --json layers.json

Each distinct ``Conv``, ``ConvTranspose``, ``Gemm`` and ``MatMul`` with constant weights (by op,
attributes and shapes) becomes a model of its own with random weights. Its kernel is timed as the
step of a program, with images channels-last and at multiples of a cache line as between layers, and
as the second of two runs in a row: the first one writes the result into memory that the system has
just handed out, which is no matter of the kernel. What is *attainable*, ``roofline`` says; a share
above 1 has fewer operations than the direct sum (Winograd). Peers are timed by the whole call,
where ours stands beside them: it includes what a layer alone needs around its kernel (turning the
image channels-last and back).
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console

from ..ir.target import Target
from ..runtime.profile import StepTime, profile
from .engines import NAMES, OURS, load
from .models import feeds, get, is_present, path_of
from .roofline import (
    ROUNDS,
    Timed,
    aligned,
    faster,
    fastest,
    rates,
    roofs_line,
    table,
    under,
)  # fmt: skip

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Shape:
    """What distinguishes one layer from another."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    bias: bool
    attributes: tuple[tuple[str, Any], ...]

    @property
    def flops(self) -> int:
        """Operations of the direct sum."""
        if self.op == "ConvTranspose":
            return 2 * math.prod(self.x) * math.prod(self.w[1:])
        if self.op == "Conv":
            return 2 * math.prod(self.y) * math.prod(self.w[1:])
        depth = self.x[0 if dict(self.attributes).get("transA") else -1]
        return 2 * math.prod(self.y) * depth

    @property
    def nbytes(self) -> int:
        """Bytes of input, weights and output."""
        return 4 * (math.prod(self.x) + math.prod(self.w) + math.prod(self.y))

    def __str__(self) -> str:
        text = f"{self.op} {_dims(self.x)} * {_dims(self.w)}"
        shown = {k: v for k, v in self.attributes
                 if k in ("strides", "dilations", "group") and np.any(np.array(v) != 1)}
        return text + "".join(f" {k}={_dims(np.atleast_1d(v).tolist())}" for k, v in shown.items())


@dataclass(frozen=True)
class Row(Timed):
    """One layer, measured."""

    count: int = 1
    """Times it occurs in the model."""

    @property
    def rate(self) -> float:
        """Operations per second of the direct sum."""
        return self.flops / self.seconds

    @property
    def attainable(self) -> float:
        """The same at the roof."""
        return self.flops / self.least


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def layers_of(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[Shape, int]:
    """The layers of a model at the shapes of ``inputs``, with how often each occurs."""
    model = onnx.load(path)
    for value in model.graph.input:
        if value.name in inputs:
            shape = value.type.tensor_type.shape
            for dim, size in zip(shape.dim, inputs[value.name].shape, strict=True):
                dim.dim_value = size
    model = onnx.shape_inference.infer_shapes(model)
    known = {t.name: tuple(t.dims) for t in model.graph.initializer}
    held = set(known)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = tuple(node.attribute[0].t.dims)
            held.add(node.output[0])
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        sizes = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        if all(sizes):
            known[value.name] = sizes
    found: dict[Shape, int] = {}
    for node in model.graph.node:
        if node.op_type not in OPS or node.domain or node.input[1] not in held:
            continue
        if node.input[0] not in known or node.output[0] not in known:
            click.echo(f"{node.name}: its shapes are not known, left out", err=True)
            continue
        attributes = tuple(sorted((a.name, _plain(helper.get_attribute_value(a)))
                                  for a in node.attribute))
        shape = Shape(node.op_type, known[node.input[0]], known[node.input[1]],
                      known[node.output[0]], len(node.input) > 2 and bool(node.input[2]),
                      attributes)
        found[shape] = found.get(shape, 0) + 1
    return found


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def single(shape: Shape, last: bool = False, seed: int = 0) -> onnx.ModelProto:
    """The layer as a model with random weights, from ``x`` to ``y``; with ``last``, images come and
    go channels-last, as they do between the layers of a network."""
    rng = np.random.default_rng(seed)
    held = {"w": rng.standard_normal(shape.w).astype(np.float32) / math.sqrt(shape.w[-1])}
    conv = shape.op.startswith("Conv")
    names = ["x", "w"]
    if shape.bias:
        size = shape.y[1] if conv else shape.y[-1]
        held["b"] = rng.standard_normal(size).astype(np.float32)
        names.append("b")
    nodes = [helper.make_node(shape.op, names, ["y"], **dict(shape.attributes))]
    ends = {"x": shape.x, "y": shape.y}
    if last and conv:
        rank = len(shape.x)
        back = (0, *range(2, rank), 1)
        nodes[0].input[0], nodes[0].output[0] = "x_first", "y_first"
        nodes = [helper.make_node("Transpose", ["x"], ["x_first"], perm=(0, rank - 1, *range(
                     1, rank - 1))), *nodes,
                 helper.make_node("Transpose", ["y_first"], ["y"], perm=back)]
        ends = {name: tuple(sizes[k] for k in back) for name, sizes in ends.items()}
    kind = onnx.TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, sizes) for name, sizes in ends.items())
    graph = helper.make_graph(nodes, "layer", [x], [y], [
        numpy_helper.from_array(array, name) for name, array in held.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(shape: Shape, count: int, target: Target, engines: Sequence[str], rounds: int) -> Row:
    """Times one layer on one thread."""
    rng, calls = np.random.default_rng(1), dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="evonnx-layer-") as folder:
        path = Path(folder, "layer.onnx")
        onnx.save(single(shape, last=True), path)
        ours = load(OURS, path, 1)
        inner = aligned(rng.standard_normal(ours.handle.inputs["x"].shape, dtype=np.float32))
        seconds = _kernel(profile(ours.handle.executable, {"x": inner}, rounds, warm=True)).seconds
        x = rng.standard_normal(shape.x).astype(np.float32)
        onnx.save(single(shape), path)
        if engines:
            loaded = [load(name, path, 1) for name in (OURS, *engines)]
            calls = fastest({e.name: partial(e.call, {"x": x}) for e in loaded})
    return under(Row(str(shape), shape.flops, shape.nbytes, seconds, calls=calls, count=count),
                 target)


def _kernel(steps: Sequence[StepTime]) -> StepTime:
    """The step that computes the layer: the one of most operations."""
    return max(steps, key=lambda step: step.flops)


def markdown(rows: Sequence[Row], target: Target) -> str:
    """The rows as a table."""
    lines = [roofs_line(target), "", *table(
        ["layer", "times", "us", "GFLOP/s", "attainable", "share"],
        [(row, [row.name, str(row.count), f"{row.seconds * 1e6:.1f}", f"{row.rate / 1e9:.1f}",
                f"{row.attainable / 1e9:.1f}", f"{row.share:.2f}"]) for row in rows])]
    total = sum(row.count * row.seconds for row in rows)
    floor = sum(row.count * row.least for row in rows)
    reached = sum(row.count for row in rows if row.share >= 0.9)
    every = sum(row.count for row in rows)
    lines += ["", f"All layers {total * 1e3:.3f} ms, at the roofline {floor * 1e3:.3f} ms; "
              f"{reached} of {every} layers at 0.9 of it or more."]  # fmt: skip
    return "\n".join(lines)


def lost(row: Row) -> float:
    """Seconds that all layers of the row take beyond the roofline."""
    return row.count * (row.seconds - row.least)


def plot(rows: Sequence[Row], target: Target, title: str, path: Path) -> None:
    """Draws every layer as a dot under the roofs; its area is its share of the time."""
    from matplotlib.figure import Figure

    from ..compiler.roofline_plot import roofs

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    at = [row.flops / row.nbytes for row in rows]
    roofs(axes, target, 1, (min(at) / 2, max(at) * 2))
    total = sum(row.count * row.seconds for row in rows)
    axes.scatter(at, [row.rate / 1e9 for row in rows], alpha=0.6,
                 s=[12 + 1500 * row.count * row.seconds / total for row in rows])  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.set_xlabel("operations of the direct sum per byte")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(title, parse_math=False)
    axes.grid(which="both", alpha=0.2)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _source(name: str) -> tuple[Path, dict[str, np.ndarray]]:
    """Path and inputs of a catalogued model, or of a file with static shapes."""
    if name.endswith(".onnx"):
        return Path(name), {}
    try:
        model = get(name)
    except KeyError as error:
        raise click.UsageError(str(error.args[0])) from None
    if not is_present(model):
        raise click.UsageError(f"{name} is not here: see python -m evonnx.bench.models fetch")
    return path_of(model), feeds(model)


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--peers", is_flag=True, help="Time ONNX Runtime and OpenVINO on each layer too.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--most", default=0, help="Only so many layers, those of most operations first.")
@click.option("--plot", "folder", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for a roofline plot per model (SVG).")
@click.option("--json", "document", type=click.Path(dir_okay=False, path_type=Path),
              help="File for the numbers.")
def main(models: tuple[str, ...], peers: bool, rounds: int, most: int, folder: Path | None,
         document: Path | None) -> None:
    """Measure every layer of MODELS (catalogued names or .onnx files) by itself, one thread."""
    console = Console(width=200)
    target = rates()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in models:
        path, inputs = _source(name)
        shapes = sorted(layers_of(path, inputs).items(), key=lambda item: -item[0].flops * item[1])
        shapes = shapes[:most] if most else shapes
        engines = [n for n in NAMES if n != OURS] if peers else []
        rows = [measure(shape, count, target, engines, rounds) for shape, count in shapes]
        target = faster(target, rates())
        rows = sorted((under(row, target) for row in rows), key=lost, reverse=True)
        console.print(f"## {name}\n\n{markdown(rows, target)}\n", markup=False, highlight=False)
        if folder is not None:
            plot(rows, target, f"{name}, one thread", folder / f"{Path(name).stem}.svg")
        found[name] = [asdict(row) | {"share": row.share} for row in rows]
    if document is not None:
        document.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
