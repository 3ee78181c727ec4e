"""Groups bound by memory, each a model of a few nodes, against the peers and the memory's stream.

    python -m evonnx.bench.streams
    python -m evonnx.bench.streams norm silu --no-peers

Norms, softmax, activations, transposes, reductions and resampling at the sizes of the networks they
are called after. *Stream* is the time in which the smallest memory that holds operands and results
moves each of them once, *attainable* the larger of that and of the operations at the peak; an
exponential counts 12. Rates are measured as ``roofline`` says. The kernel's time is that of all its
steps, one thread; a peer's is that of the whole call, beside which ours stands.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console

from ..ir.target import Target
from ..runtime.profile import profile
from .engines import OURS, PEERS, load
from .roofline import (
    ROUNDS,
    Timed,
    aligned,
    bandwidth,
    faster,
    fastest,
    rates,
    roofs_line,
    table,
    under,
)  # fmt: skip

Nodes = list[onnx.NodeProto]


@dataclass(frozen=True)
class Small:
    """Inputs and result ``y`` of a few nodes, and the constants they read."""

    nodes: Nodes
    inputs: dict[str, tuple[int, ...]]
    result: tuple[int, ...]
    held: dict[str, np.ndarray]

    def model(self) -> onnx.ModelProto:
        """The nodes as a model."""
        kind = onnx.TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info(n, kind, s) for n, s in self.inputs.items()]
        result = helper.make_tensor_value_info("y", kind, self.result)
        held = [numpy_helper.from_array(array, name) for name, array in self.held.items()]
        graph = helper.make_graph(self.nodes, "group", inputs, [result], held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    @property
    def nbytes(self) -> int:
        """Bytes of operands and result."""
        sizes = [np.prod(s) for s in (*self.inputs.values(), self.result)]
        return 4 * int(sum(sizes))


Step = tuple[str, Sequence[str], dict[str, Any]]
"""Op, operands after the first, attributes."""


def _chain(shape: Sequence[int], *steps: Step, result: Sequence[int] = (),
           held: dict[str, np.ndarray] | None = None, residual: bool = False) -> Small:
    """Nodes each of which reads the result before; with ``residual``, ``r`` is added last."""
    steps = (*steps, ("Add", ("r",), {})) if residual else steps
    nodes, before = [], "x"
    for k, (op, more, attributes) in enumerate(steps):
        after = "y" if k == len(steps) - 1 else f"t{k}"
        nodes.append(helper.make_node(op, [before, *more], [after], **attributes))
        before = after
    y = tuple(result or shape)
    return Small(nodes, {"x": tuple(shape)} | ({"r": y} if residual else {}), y, held or {})


def _weights(**shapes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(n, dtype=np.float32) for name, n in shapes.items()}


def layer_norm(*shape: int, residual: bool = False) -> Small:
    """Layer norm of rows, with ``residual`` added to another tensor."""
    return _chain(shape, ("LayerNormalization", ("w", "b"), {"axis": -1}),
                  held=_weights(w=shape[-1], b=shape[-1]), residual=residual)


def softmax(*shape: int) -> Small:
    """Softmax of rows."""
    return _chain(shape, ("Softmax", (), {"axis": -1}))


def head_norm(windows: int, rows: int, heads: int, size: int) -> Small:
    """Every head of a row divided by its length; heads outside."""
    split = np.array([windows, rows, heads, size])
    return _chain((windows, rows, heads * size), ("Reshape", ("split",), {}),
                  ("LpNormalization", (), {"axis": -1, "p": 2}),
                  ("Transpose", (), {"perm": (0, 2, 1, 3)}),
                  result=(windows, heads, rows, size), held={"split": split})


def activation(op: str, *shape: int) -> Small:
    """One function of every element."""
    return _chain(shape, (op, (), {}))


def silu(*shape: int, turned: bool = False, gate: bool = False) -> Small:
    """``x`` times its sigmoid, turned or times a gate."""
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    result, inputs = shape, {"x": shape}
    if turned or gate:
        nodes[-1].output[0] = "t"
    if turned:
        nodes.append(helper.make_node("Transpose", ["t"], ["y"], perm=(0, 2, 1)))
        result = (shape[0], shape[2], shape[1])
    if gate:
        nodes.append(helper.make_node("Mul", ["t", "g"], ["y"]))
        inputs["g"] = shape
    return Small(nodes, inputs, result, {})


def gated_gelu(rows: int, columns: int) -> Small:
    """One half of every row times GELU of the other."""
    nodes = [helper.make_node("Split", ["x"], ["a", "g"], axis=-1, num_outputs=2),
             helper.make_node("Gelu", ["g"], ["h"]), helper.make_node("Mul", ["a", "h"], ["y"])]
    return Small(nodes, {"x": (rows, 2 * columns)}, (rows, columns), {})


def transposed(*shape: int, perm: Sequence[int], residual: bool = False) -> Small:
    """A transpose, added to another tensor."""
    return _chain(shape, ("Transpose", (), {"perm": perm}), result=[shape[k] for k in perm],
                  residual=residual)


def group_norm(channels: int, side: int, groups: int = 32) -> Small:
    """Group norm of an image."""
    shape = (1, channels, side, side)
    held = _weights(w=channels, b=channels) | {
        "inner": np.array([1, groups, -1]), "outer": np.array(shape),
        "one": np.ones(groups, np.float32), "zero": np.zeros(groups, np.float32)}
    held |= {name: held[name].reshape(-1, 1, 1) for name in "wb"}
    return _chain(shape, ("Reshape", ("inner",), {}),
                  ("InstanceNormalization", ("one", "zero"), {}), ("Reshape", ("outer",), {}),
                  ("Mul", ("w",), {}), ("Add", ("b",), {}), held=held)


def pool(channels: int, side: int) -> Small:
    """The mean of 3x3 pixels less the one in the middle."""
    nodes = [helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
             helper.make_node("Sub", ["p", "x"], ["y"])]
    shape = (1, channels, side, side)
    return Small(nodes, {"x": shape}, shape, {})


GROUPS: dict[str, Callable[[], Small]] = {
    "swin2sr head norm 64x64x6x10": partial(head_norm, 64, 64, 6, 10),
    "swin2sr layer norm 4096x60, residual": partial(layer_norm, 4096, 60, residual=True),
    "segformer layer norm 16384x32": partial(layer_norm, 16384, 32),
    "segformer layer norm 4096x64": partial(layer_norm, 4096, 64),
    "segformer layer norm 1024x160": partial(layer_norm, 1024, 160),
    "swin, convnext layer norm 3136x96": partial(layer_norm, 3136, 96),
    "yolos layer norm 1125x192": partial(layer_norm, 1125, 192),
    "whisper layer norm 1500x384": partial(layer_norm, 1500, 384),
    "vit layer norm 197x768": partial(layer_norm, 197, 768),
    "unet group norm 320x64x64": partial(group_norm, 320, 64),
    "swin softmax 192x49x49": partial(softmax, 192, 49, 49),
    "vit softmax 12x197x197": partial(softmax, 12, 197, 197),
    "softmax 16384x64": partial(softmax, 16384, 64),
    "bert GELU 128x3072": partial(activation, "Gelu", 128, 3072),
    "unet gated GELU 1024x2560": partial(gated_gelu, 1024, 2560),
    "llama SiLU and gate 128x1536": partial(silu, 128, 1536, gate=True),
    "unet SiLU 4096x320, turned": partial(silu, 1, 4096, 320, turned=True),
    "unet transpose 4096x320, residual": partial(transposed, 1, 4096, 320, perm=(0, 2, 1),
                                                 residual=True),
    "poolformer transpose 3136x64": partial(transposed, 1, 3136, 64, perm=(0, 2, 1)),
    "image 3x512x512 channels-last": partial(transposed, 1, 3, 512, 512, perm=(0, 2, 3, 1)),
    "poolformer pool 64x56x56": partial(pool, 64, 56),
    "exp 512x768": partial(activation, "Exp", 512, 768),
    "tanh 512x768": partial(activation, "Tanh", 512, 768),
    "relu 512x768": partial(activation, "Relu", 512, 768),
}
"""Name (network, what it does, sizes) -> group."""


@dataclass(frozen=True)
class Row(Timed):
    """One group, measured."""

    stream: float = 0.0
    """Seconds at the stream of the memory that holds everything; 0: not known yet."""


def measure(name: str, engines: Sequence[str], rounds: int) -> Row:
    """Times one group on one thread; what is attainable is not known yet."""
    group = GROUPS[name]()
    rng = np.random.default_rng(1)
    feeds = {n: aligned(rng.standard_normal(s, dtype=np.float32))
             for n, s in group.inputs.items()}
    with tempfile.TemporaryDirectory(prefix="evonnx-stream-") as folder:
        path = Path(folder, "group.onnx")
        onnx.save(group.model(), path)
        loaded = [load(engine, path, 1) for engine in (OURS, *engines)]
        steps = profile(loaded[0].handle.executable, feeds, rounds)
        calls = fastest({e.name: partial(e.call, feeds) for e in loaded}) if engines else {}
    return Row(name, sum(s.flops for s in steps), group.nbytes, sum(s.seconds for s in steps),
               calls=calls)


def markdown(rows: Sequence[Row], target: Target) -> str:
    """The rows as a table, the smallest share first."""
    return "\n".join([roofs_line(target), "", *table(
        ["group", "us", "GB/s", "of the stream", "of the attainable"],
        [(row, [row.name, f"{row.seconds * 1e6:.0f}", f"{row.nbytes / row.seconds / 1e9:.1f}",
                f"{row.stream / row.seconds:.2f}", f"{row.share:.2f}"])
         for row in sorted(rows, key=lambda row: row.share)])])


@click.command()
@click.argument("names", nargs=-1)
@click.option("--peers/--no-peers", default=True, help="Time ONNX Runtime and OpenVINO too.")
@click.option("--rounds", default=4 * ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--json", "document", type=click.Path(dir_okay=False, path_type=Path),
              help="File for the numbers.")
def main(names: tuple[str, ...], peers: bool, rounds: int, document: Path | None) -> None:
    """Measure the groups whose names contain one of NAMES (all without), one thread."""
    chosen = [n for n in GROUPS if not names or any(part in n for part in names)]
    if not chosen:
        raise click.UsageError(f"no group is called like {' or '.join(names)}; "
                               f"there are {', '.join(GROUPS)}")
    target = rates()
    rows = [measure(name, PEERS if peers else (), rounds) for name in chosen]
    target = faster(target, rates())
    rows = [replace(under(row, target), stream=row.nbytes / bandwidth(row.nbytes, target))
            for row in rows]
    Console(width=200).print(markdown(rows, target), markup=False, highlight=False)
    if document is not None:
        document.write_text(json.dumps([asdict(r) | {"share": r.share} for r in rows], indent=1))


if __name__ == "__main__":
    main()
