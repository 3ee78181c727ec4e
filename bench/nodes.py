"""Convolutions of unusual form, each a model of one node, against the peers.

    python -m evonnx.bench.nodes
    python -m evonnx.bench.nodes resnext conv1d --json nodes.json

Grouped, transposed, dilated, 1-D and 3-D convolutions at the sizes of published networks: what
the layers of classical image networks (``layers.py``) do not show. Bias, channels-first in and
out, one thread. All engines take turns in one process, and the fastest call counts; ours includes
turning the image channels-last and back, which a model pays once. The kernel alone, as between
layers, stands beside it under the roofline as in ``layers.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.console import Console

from .engines import OURS, PEERS
from .layers import Row, Shape, markdown, measure
from .roofline import ROUNDS, rates


def convolution(x: Sequence[int], kernel: Sequence[int], outputs: int, *, group: int = 1,
                stride: int = 1, dilation: int = 1, pads: Sequence[int] | int = 0) -> Shape:
    """``Conv`` with bias of an image ``x`` (batch, channels, ...); ``pads`` per axis or of all."""
    pads = [pads] * len(kernel) if isinstance(pads, int) else pads
    y = [(size + 2 * pad - dilation * (k - 1) - 1) // stride + 1
         for size, k, pad in zip(x[2:], kernel, pads, strict=True)]
    attributes = _attributes(len(kernel), pads, stride, group=group,
                             dilations=(dilation,) * len(kernel))
    return Shape("Conv", tuple(x), (outputs, x[1] // group, *kernel), (x[0], outputs, *y), True,
                 attributes)


def transposed(x: Sequence[int], kernel: Sequence[int], outputs: int, *, stride: int, pad: int = 0,
               more: int = 0) -> Shape:
    """``ConvTranspose`` with bias of an image ``x``; ``more`` is the output padding."""
    rank = len(kernel)
    y = [(size - 1) * stride + k - 2 * pad + more for size, k in zip(x[2:], kernel, strict=True)]
    attributes = _attributes(rank, [pad] * rank, stride, output_padding=(more,) * rank)
    return Shape("ConvTranspose", tuple(x), (x[1], outputs, *kernel), (x[0], outputs, *y), True,
                 attributes)


def _attributes(rank: int, pads: Sequence[int], stride: int, **others: int | tuple[int, ...]
                ) -> tuple[tuple[str, int | tuple[int, ...]], ...]:
    return tuple(sorted({"pads": (*pads, *pads), "strides": (stride,) * rank, **others}.items()))


NODES = {
    "resnext 128 g32 56": convolution((1, 128, 56, 56), (3, 3), 128, group=32, pads=1),
    "resnext 256 g32 28": convolution((1, 256, 28, 28), (3, 3), 256, group=32, pads=1),
    "resnext 1024 g32 7": convolution((1, 1024, 7, 7), (3, 3), 1024, group=32, pads=1),
    "shuffle 240 g3 28 1x1": convolution((1, 240, 28, 28), (1, 1), 240, group=3),
    "dilated 2d 64 d2 56": convolution((1, 64, 56, 56), (3, 3), 64, dilation=2, pads=2),
    "conv3d 3-64 k3 8x56x56": convolution((1, 3, 8, 56, 56), (3, 3, 3), 64, pads=1),
    "conv3d 64-64 k3 8x28x28": convolution((1, 64, 8, 28, 28), (3, 3, 3), 64, pads=1),
    "conv3d 64-144 k1x3x3 8x28x28": convolution((1, 64, 8, 28, 28), (1, 3, 3), 144,
                                                pads=(0, 1, 1)),
    "conv3d 144-64 k3x1x1 8x28x28": convolution((1, 144, 8, 28, 28), (3, 1, 1), 64,
                                                pads=(1, 0, 0)),
    "conv3d depthwise 96 k3 8x28x28": convolution((1, 96, 8, 28, 28), (3, 3, 3), 96, group=96,
                                                  pads=1),
    "conv1d wave 1-512 k10 s5 T16000": convolution((1, 1, 16000), (10,), 512, stride=5),
    "conv1d stem 80-512 k3 T3000": convolution((1, 80, 3000), (3,), 512, pads=1),
    "conv1d s2 512-512 k3 T3000": convolution((1, 512, 3000), (3,), 512, stride=2, pads=1),
    "conv1d dilated 64-128 k3 d8 T4000": convolution((1, 64, 4000), (3,), 128, dilation=8, pads=8),
    "conv1d groups 768 g16 k128 T249": convolution((1, 768, 249), (128,), 768, group=16, pads=64),
    "conv1d depthwise 512 k5 T1000": convolution((1, 512, 1000), (5,), 512, group=512, pads=2),
    "conv1d depthwise 256 k31 T500": convolution((1, 256, 500), (31,), 256, group=256, pads=15),
    "convT gan 512-256 k4 s2 8": transposed((1, 512, 8, 8), (4, 4), 256, stride=2, pad=1),
    "convT gan 64-3 k4 s2 32": transposed((1, 64, 32, 32), (4, 4), 3, stride=2, pad=1),
    "convT unet 128-64 k2 s2 32": transposed((1, 128, 32, 32), (2, 2), 64, stride=2),
    "convT k3 s2 op1 128-64 56": transposed((1, 128, 56, 56), (3, 3), 64, stride=2, pad=1, more=1),
    "convT 1d vocoder 256-128 k16 s8 T64": transposed((1, 256, 64), (16,), 128, stride=8, pad=4),
}
"""Name (network or form, channels, kernel, image) -> layer."""


def _standing(row: Row) -> float:
    """The better peer's time by ours; without peers the share of the roofline."""
    return min(row.calls[n] for n in PEERS) / row.calls[OURS] if row.calls else row.share


@click.command()
@click.argument("names", nargs=-1)
@click.option("--peers/--no-peers", default=True, help="Time ONNX Runtime and OpenVINO too.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--json", "document", type=click.Path(dir_okay=False, path_type=Path),
              help="File for the numbers.")
def main(names: tuple[str, ...], peers: bool, rounds: int, document: Path | None) -> None:
    """Measure the nodes whose names contain one of NAMES (all without), one thread."""
    chosen = [n for n in NODES if not names or any(part in n for part in names)]
    if not chosen:
        raise click.UsageError(f"no node is called like {' or '.join(names)}; "
                               f"there are {', '.join(NODES)}")
    target = rates()
    rows = [replace(measure(NODES[name], 1, target, PEERS if peers else (), rounds), name=name)
            for name in chosen]
    rows.sort(key=_standing)
    Console(width=200).print(markdown(rows, target), markup=False, highlight=False)
    if document is not None:
        document.write_text(json.dumps([asdict(r) | {"share": r.share} for r in rows], indent=1))


if __name__ == "__main__":
    main()
