"""Networks whose branches decide how much memory they take: RandWire, NASNet, DARTS, Inception.

Imported only where models are exported: needs torch (the `bench` extra). Operations run in the
order in which the papers' own code defines them, which is the order of the exported graph.
"""

from __future__ import annotations

import itertools

import networkx
import torch
from torch import Tensor, nn
from torch.nn import functional


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Unit(nn.Sequential):
    """ReLU, separable 3x3 convolution, batch normalization: a node of RandWire."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
            nn.Conv2d(before, channels, 1, bias=False),
            _norm(channels),
        )


class _RandomStage(nn.Module):
    """A random graph WS(nodes, near, rewired) of Watts and Strogatz, edges from small to large
    numbers; a node sums its inputs with a sigmoid weight each; what nobody reads is averaged."""

    def __init__(self, before: int, channels: int, seed: int, nodes: int) -> None:
        super().__init__()
        graph = networkx.connected_watts_strogatz_graph(nodes, 4, 0.75, seed=seed)
        edges = {(min(edge), max(edge)) for edge in graph.edges}
        self.sources = [sorted(a for a, b in edges if b == v) for v in range(nodes)]
        self.ends = [v for v in range(nodes) if all(a != v for a, _ in edges)]
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(max(1, len(s))))
                                        for s in self.sources)
        self.units = nn.ModuleList(
            _Unit(channels if s else before, channels, 1 if s else 2) for s in self.sources)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, before, h, w] -> [n, channels, h / 2, w / 2]``."""
        made: list[Tensor] = []
        for sources, weight, unit in zip(self.sources, self.weights, self.units, strict=True):
            if not sources:
                made.append(unit(x))
                continue
            part = torch.sigmoid(weight)
            total = made[sources[0]] * part[0]
            for k in range(1, len(sources)):
                total = total + made[sources[k]] * part[k]
            made.append(unit(total))
        total = made[self.ends[0]]
        for v in self.ends[1:]:
            total = total + made[v]
        return total / len(self.ends)


class RandWire(nn.Module):
    """RandWire WS(4, 0.75), small regime (S. Xie et al., 2019), for 1000 classes."""

    def __init__(self, channels: int = 78, nodes: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels // 2, 3, 2, 1, bias=False), _norm(channels // 2), nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 3, 2, 1, bias=False), _norm(channels),
        )  # fmt: skip
        widths = [channels, channels, 2 * channels, 4 * channels]
        self.stages = nn.Sequential(*(
            _RandomStage(a, b, 10 * seed + k, nodes)
            for k, (a, b) in enumerate(itertools.pairwise(widths))))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(widths[-1], 1280, 1, bias=False),
                                  _norm(1280), nn.ReLU())
        self.classes = nn.Linear(1280, 1000)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``[1, 3, 224, 224] -> [1, 1000]``."""
        x = self.head(self.stages(self.stem(pixel_values)))
        return (self.classes(x.mean((2, 3))),)


class _Separable(nn.Sequential):
    """NASNet's separable convolution: twice ReLU, depthwise, pointwise, normalization."""

    def __init__(self, before: int, channels: int, kernel: int, stride: int = 1) -> None:
        layers: list[nn.Module] = []
        for c, s in ((before, stride), (channels, 1)):
            layers += [nn.ReLU(), nn.Conv2d(c, c, kernel, s, kernel // 2, groups=c, bias=False),
                       nn.Conv2d(c, channels, 1, bias=False), _norm(channels)]
        super().__init__(*layers)


class _Squeeze(nn.Sequential):
    """ReLU, 1x1 convolution, normalization; with ``stride`` 2 of every second pixel (the two
    shifted paths of the original are one here)."""

    def __init__(self, before: int, channels: int, stride: int = 1) -> None:
        super().__init__(nn.ReLU(), nn.Conv2d(before, channels, 1, stride, bias=False),
                         _norm(channels))


def _mean(stride: int = 1) -> nn.Module:
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


class _Cell(nn.Module):
    """A cell of NASNet-A: five sums of two operations, concatenated; with ``reduces`` the reduction
    cell, of four."""

    def __init__(self, before: int, last: int, channels: int, reduces: bool, older: int) -> None:
        super().__init__()
        self.reduces = reduces
        self.old, self.new = _Squeeze(before, channels, older), _Squeeze(last, channels)
        kernels = (5, 7, 7, 5, 3) if reduces else (5, 3, 5, 3, 3)
        strides = (2, 2, 2, 2, 1) if reduces else (1,) * 5
        self.convs = nn.ModuleList(_Separable(channels, channels, k, s)
                                   for k, s in zip(kernels, strides, strict=True))
        self.pools = nn.ModuleList([nn.MaxPool2d(3, 2, 1), _mean(2), _mean()] if reduces
                                   else [_mean(), _mean(), _mean()])

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """The outputs of the last cell but one and of the last -> that of this one."""
        old, new = self.old(before), self.new(last)
        c, p = self.convs, self.pools
        if self.reduces:
            a = c[0](new) + c[1](old)
            b = p[0](new) + c[2](old)
            d = p[1](new) + c[3](old)
            e = p[2](a) + b
            return torch.cat([b, d, e, c[4](a) + p[0](new)], 1)
        a = c[0](new) + c[1](old)
        b = c[2](old) + c[3](old)
        d = p[0](new) + old
        e = p[1](old) + p[2](old)
        return torch.cat([old, a, b, d, e, c[4](new) + new], 1)


class Nasnet(nn.Module):
    """NASNet-A (B. Zoph et al., 2018): mobile, 4 @ 1056 for 224 x 224 and 1000 classes; ``small``
    has the stem for images of 32 x 32 (6 @ 768: 6 cells, 32 filters, 10 classes)."""

    def __init__(self, cells: int = 4, filters: int = 44, small: bool = False) -> None:
        super().__init__()
        stem = 3 * filters if small else 32
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, 1 if small else 2, int(small), bias=False), _norm(stem))
        plan = [] if small else [(filters // 4, True), (filters // 2, True)]
        for k in range(3):
            plan += [(filters * 2**k, True)] * (k > 0) + [(filters * 2**k, False)] * cells
        self.cells = nn.ModuleList()
        before, last, older = stem, stem, 1
        for channels, reduces in plan:
            self.cells.append(_Cell(before, last, channels, reduces, older))
            before, last, older = last, channels * (4 if reduces else 6), 2 if reduces else 1
        self.classes = nn.Linear(last, 10 if small else 1000)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``[1, 3, side, side] -> [1, classes]``."""
        before = last = self.stem(pixel_values)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return (self.classes(functional.relu(last).mean((2, 3))),)


class _Dilated(nn.Sequential):
    """ReLU, depthwise 3x3 over every second pixel, pointwise, normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.ReLU(),
                         nn.Conv2d(channels, channels, 3, 1, 2, 2, channels, bias=False),
                         nn.Conv2d(channels, channels, 1, bias=False), _norm(channels))


class _Searched(nn.Module):
    """A cell of DARTS V2: four sums of two operations, concatenated."""

    NORMAL = ("sep 0", "sep 1", "sep 0", "sep 1", "sep 1", "skip 0", "skip 0", "dil 2")
    REDUCES = ("max 0", "max 1", "skip 2", "max 1", "max 0", "skip 2", "skip 2", "max 1")

    def __init__(self, before: int, last: int, channels: int, reduces: bool, older: int) -> None:
        super().__init__()
        self.old, self.new = _Squeeze(before, channels, older), _Squeeze(last, channels)
        self.sources: list[int] = []
        self.operations = nn.ModuleList()
        for text in self.REDUCES if reduces else self.NORMAL:
            kind, source = text.split()
            stride = 2 if reduces and int(source) < 2 else 1
            made = {"sep": lambda s: _Separable(channels, channels, 3, s),
                    "max": lambda s: nn.MaxPool2d(3, s, 1), "skip": lambda s: nn.Identity(),
                    "dil": lambda s: _Dilated(channels)}  # fmt: skip
            self.operations.append(made[kind](stride))
            self.sources.append(int(source))

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """The outputs of the last cell but one and of the last -> that of this one."""
        states = [self.old(before), self.new(last)]
        for k in range(0, len(self.sources), 2):
            one, two = (self.operations[j](states[self.sources[j]]) for j in (k, k + 1))
            states.append(one + two)
        return torch.cat(states[2:], 1)


class Darts(nn.Module):
    """DARTS V2 (H. Liu et al., 2019) for 224 x 224 and 1000 classes: 14 cells, 48 channels;
    ``small`` has the stem for images of 32 x 32 (20 cells, 36 channels, 10 classes)."""

    def __init__(self, cells: int = 14, channels: int = 48, small: bool = False) -> None:
        super().__init__()
        if small:
            before = last = 3 * channels
            self.first: nn.Module = nn.Sequential(
                nn.Conv2d(3, last, 3, 1, 1, bias=False), _norm(last))
            self.second: nn.Module = nn.Identity()
        else:
            before = last = channels
            half = channels // 2
            self.first = nn.Sequential(
                nn.Conv2d(3, half, 3, 2, 1, bias=False), _norm(half), nn.ReLU(),
                nn.Conv2d(half, channels, 3, 2, 1, bias=False), _norm(channels),
            )  # fmt: skip
            self.second = nn.Sequential(
                nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1, bias=False), _norm(channels))
        self.cells = nn.ModuleList()
        older = 1 if small else 2
        for k in range(cells):
            reduces = k in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduces else 1
            self.cells.append(_Searched(before, last, channels, reduces, older))
            before, last, older = last, 4 * channels, 2 if reduces else 1
        self.classes = nn.Linear(last, 10 if small else 1000)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``[1, 3, side, side] -> [1, classes]``."""
        before = self.first(pixel_values)
        last = self.second(before)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return (self.classes(last.mean((2, 3))),)


class _Conv(nn.Sequential):
    """Convolution, normalization, ReLU."""

    def __init__(self, before: int, channels: int, kernel: int | tuple[int, int], stride: int = 1,
                 padding: int | tuple[int, int] = 0) -> None:
        super().__init__(nn.Conv2d(before, channels, kernel, stride, padding, bias=False),
                         _norm(channels), nn.ReLU())


class _Branches(nn.Module):
    """Branches of one image, concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w] -> [n, sum of the branches' channels, h', w']``."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def _long(before: int, inner: int, channels: int, twice: bool) -> nn.Sequential:
    """1x1, then 1x7 and 7x1, once or twice."""
    turns = ((1, 7), (7, 1)) if not twice else ((7, 1), (1, 7), (7, 1), (1, 7))
    layers: list[nn.Module] = [_Conv(before, inner, 1)]
    for k, kernel in enumerate(turns):
        out = channels if k == len(turns) - 1 else inner
        layers.append(_Conv(inner, out, kernel, 1, (kernel[0] // 2, kernel[1] // 2)))
    return nn.Sequential(*layers)


def _pooled(before: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), _Conv(before, channels, 1))


def _ends(before: int, channels: int) -> _Branches:
    """1x3 beside 3x1."""
    return _Branches(_Conv(before, channels, (1, 3), 1, (0, 1)),
                     _Conv(before, channels, (3, 1), 1, (1, 0)))  # fmt: skip


class Inception(nn.Module):
    """Inception-v3 (C. Szegedy et al., 2016), for 299 x 299 and 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            _Conv(3, 32, 3, 2), _Conv(32, 32, 3), _Conv(32, 64, 3, 1, 1), nn.MaxPool2d(3, 2),
            _Conv(64, 80, 1), _Conv(80, 192, 3), nn.MaxPool2d(3, 2),
        ]  # fmt: skip
        width = 192
        for pooled in (32, 64, 64):
            layers.append(_Branches(
                _Conv(width, 64, 1),
                nn.Sequential(_Conv(width, 48, 1), _Conv(48, 64, 5, 1, 2)),
                nn.Sequential(_Conv(width, 64, 1), _Conv(64, 96, 3, 1, 1),
                              _Conv(96, 96, 3, 1, 1)),
                _pooled(width, pooled)))
            width = 224 + pooled
        layers.append(_Branches(
            _Conv(288, 384, 3, 2),
            nn.Sequential(_Conv(288, 64, 1), _Conv(64, 96, 3, 1, 1), _Conv(96, 96, 3, 2)),
            nn.MaxPool2d(3, 2)))
        layers += [_Branches(_Conv(768, 192, 1), _long(768, c, 192, False),
                             _long(768, c, 192, True), _pooled(768, 192))
                   for c in (128, 160, 160, 192)]  # fmt: skip
        layers.append(_Branches(
            nn.Sequential(_Conv(768, 192, 1), _Conv(192, 320, 3, 2)),
            nn.Sequential(_long(768, 192, 192, False), _Conv(192, 192, 3, 2)),
            nn.MaxPool2d(3, 2)))
        layers += [_Branches(
            _Conv(c, 320, 1), nn.Sequential(_Conv(c, 384, 1), _ends(384, 384)),
            nn.Sequential(_Conv(c, 448, 1), _Conv(448, 384, 3, 1, 1), _ends(384, 384)),
            _pooled(c, 192)) for c in (1280, 2048)]  # fmt: skip
        self.layers = nn.Sequential(*layers)
        self.classes = nn.Linear(2048, 1000)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``[1, 3, 299, 299] -> [1, 1000]``."""
        return (self.classes(self.layers(pixel_values).mean((2, 3))),)
