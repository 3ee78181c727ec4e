"""Networks of published shape that `transformers` does not have, and caches as plain tensors.

Imported only where models are exported: needs torch and transformers (the `bench` extra).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional


class Cached(nn.Module):
    """A causal language model with its cache as inputs and outputs: ``(input_ids[1, n], key_0,
    value_0, ...) -> (logits, new_key_0, ...)``, caches ``[1, heads, past, size]``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, **caches: Tensor) -> tuple[Tensor, ...]:
        """One step; positions continue behind the cache."""
        cache = transformers.DynamicCache()
        layers = len(caches) // 2
        for k in range(layers):
            cache.update(caches[f"key_{k}"], caches[f"value_{k}"], k)
        out = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        new = out.past_key_values.layers
        return (out.logits, *(x for k in range(layers) for x in (new[k].keys, new[k].values)))


class Edsr(nn.Module):
    """EDSR baseline, twice as large: 16 residual blocks of 64 channels (B. Lim et al., 2017)."""

    def __init__(self, channels: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``[1, 3, h, w] -> [1, 3, 2 h, 2 w]``."""
        x = first = self.head(pixel_values)
        for block in self.body:
            x = x + 0.1 * block(x)
        x = first + self.last(x)
        return (self.tail(functional.pixel_shuffle(self.up(x), 2)),)


class Tagger(nn.Module):
    """A tagger of words: embedding, two bidirectional LSTM layers of 512, scores of 50 tags."""

    def __init__(self, words: int = 30000, size: int = 300, hidden: int = 512) -> None:
        super().__init__()
        self.words = nn.Embedding(words, size)
        self.lstm = nn.LSTM(size, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(2 * hidden, 50)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """``[1, length] -> [1, length, 50]``."""
        return (self.tags(self.lstm(self.words(tokens))[0]),)


class DeepSpeech(nn.Module):
    """Deep Speech 2: two convolutions, three bidirectional GRU layers (D. Amodei et al., 2016)."""

    def __init__(self, hidden: int = 512) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, (41, 11), (2, 2), (20, 5)),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
            nn.Conv2d(32, 32, (21, 11), (2, 1), (10, 5)),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
        )
        self.gru = nn.GRU(32 * 41, hidden, num_layers=3, bidirectional=True, batch_first=True)
        self.letters = nn.Linear(2 * hidden, 29)

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, ...]:
        """``[1, 1, 161, frames] -> [1, frames / 2, 29]``."""
        x = self.convolutions(spectrogram).flatten(1, 2).transpose(1, 2)
        return (functional.log_softmax(self.letters(self.gru(x)[0]), -1),)


class Dlrm(nn.Module):
    """Deep learning recommendation model: 26 tables of 20,000 rows, pairwise products of their
    vectors (M. Naumov et al., 2019), MLPs of the Criteo configuration."""

    def __init__(self, tables: int = 26, rows: int = 20000, size: int = 64) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, size) for _ in range(tables))
        self.bottom = self.perceptron(13, 512, 256, size)
        pairs = tables * (tables + 1) // 2
        self.top = self.perceptron(size + pairs, 512, 256)
        self.last = nn.Linear(256, 1)
        self.register_buffer("pairs", torch.tril_indices(tables + 1, tables + 1, -1))

    @staticmethod
    def perceptron(*sizes: int) -> nn.Sequential:
        """Linear layers with ReLU between ``sizes``."""
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(sizes):
            layers += [nn.Linear(n, m), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, dense: Tensor, sparse: Tensor) -> tuple[Tensor, ...]:
        """``dense[batch, 13], sparse[batch, tables] -> [batch, 1]``."""
        x = self.bottom(dense)
        vectors = torch.stack([x, *(t(sparse[:, k]) for k, t in enumerate(self.tables))], 1)
        products = vectors @ vectors.transpose(1, 2)
        chosen = products[:, self.pairs[0], self.pairs[1]]
        return (torch.sigmoid(self.last(self.top(torch.cat([x, chosen], 1)))),)


class _GatLayer(nn.Module):
    def __init__(self, size: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads, self.out = heads, out
        self.project = nn.Linear(size, heads * out, bias=False)
        self.source = nn.Parameter(torch.zeros(heads, out))
        self.target = nn.Parameter(torch.zeros(heads, out))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Softmax over the edges into a node, by scattered maxima and sums."""
        nodes = x.shape[0]
        h = self.project(x).view(nodes, self.heads, self.out)
        scores = (h * self.source).sum(-1)[edges[0]] + (h * self.target).sum(-1)[edges[1]]
        scores = functional.leaky_relu(scores, 0.2)
        index = edges[1].unsqueeze(-1).expand(-1, self.heads)
        top = torch.full((nodes, self.heads), -1e30).scatter_reduce(0, index, scores, "amax")
        weights = torch.exp(scores - top[edges[1]])
        total = torch.zeros(nodes, self.heads).scatter_add(0, index, weights)
        messages = h[edges[0]] * weights.unsqueeze(-1)
        where = index.unsqueeze(-1).expand(-1, -1, self.out)
        summed = torch.zeros(nodes, self.heads, self.out).scatter_add(0, where, messages)
        return (summed / (total.unsqueeze(-1) + 1e-16)).reshape(nodes, -1)


class Gat(nn.Module):
    """Graph attention network on a graph of the size of Cora (P. Velickovic et al., 2018)."""

    def __init__(self, size: int = 1433, classes: int = 7) -> None:
        super().__init__()
        self.first = _GatLayer(size, 8, 8)
        self.last = _GatLayer(64, 1, classes)

    def forward(self, features: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        """``features[nodes, size], edges[2, count] -> [nodes, classes]``."""
        x = functional.elu(self.first(features, edges))
        return (functional.log_softmax(self.last(x, edges), -1),)


class _Resnet(nn.Module):
    def __init__(self, size: int, out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, size), nn.GroupNorm(32, out)
        self.conv1 = nn.Conv2d(size, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.time = nn.Linear(time, out)
        self.skip = nn.Conv2d(size, out, 1) if size != out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = y + self.time(functional.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(functional.silu(self.norm2(y)))


class _Attention(nn.Module):
    def __init__(self, size: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(size, size, bias=False)
        self.k = nn.Linear(context, size, bias=False)
        self.v = nn.Linear(context, size, bias=False)
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.q(x), self.k(context), self.v(context))
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class _Transformer(nn.Module):
    """Attention among pixels, to the text, and a gated MLP."""

    def __init__(self, size: int, text: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.own, self.cross = _Attention(size, size, 8), _Attention(size, text, 8)
        self.wide, self.narrow = nn.Linear(size, 8 * size), nn.Linear(4 * size, size)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        y = self.norm(x).flatten(2).transpose(1, 2)
        z = self.norms[0](y)
        y = y + self.own(z, z)
        y = y + self.cross(self.norms[1](y), text)
        value, gate = self.wide(self.norms[2](y)).chunk(2, -1)
        y = y + self.narrow(value * functional.gelu(gate))
        return x + y.transpose(1, 2).reshape(x.shape)


class DiffusionUnet(nn.Module):
    """The U-Net of latent diffusion (R. Rombach et al., 2022) with 128, 256 and 256 channels."""

    def __init__(self, sizes: tuple[int, ...] = (128, 256, 256), text: int = 768) -> None:
        super().__init__()
        self.width, time = sizes[0], 4 * sizes[0]
        self.embed = nn.Sequential(nn.Linear(sizes[0], time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(4, sizes[0], 3, padding=1)
        before = (sizes[0], *sizes)
        pairs = list(zip(before, sizes, strict=False))
        self.down = nn.ModuleList(_Resnet(n, m, time) for n, m in pairs)
        self.looks = nn.ModuleList(_Transformer(m, text) for _, m in pairs)
        self.shrink = nn.ModuleList(nn.Conv2d(m, m, 3, 2, 1) for m in sizes[:-1])
        self.middle = _Resnet(sizes[-1], sizes[-1], time)
        self.up = nn.ModuleList(_Resnet(2 * m, n, time) for n, m in reversed(pairs))
        self.back = nn.ModuleList(_Transformer(n, text) for n, _ in reversed(pairs))
        self.grow = nn.ModuleList(nn.Conv2d(n, n, 3, padding=1) for n in reversed(sizes[:-1]))
        self.norm, self.last = nn.GroupNorm(32, sizes[0]), nn.Conv2d(sizes[0], 4, 3, padding=1)

    def forward(self, latent: Tensor, step: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """``latent[1, 4, h, w], step[1], text[1, n, 768] -> [1, 4, h, w]``."""
        half = self.width // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
        phase = step.float()[:, None] * rates
        time = self.embed(torch.cat([phase.cos(), phase.sin()], -1))
        x, kept = self.first(latent), []
        for k, (block, look) in enumerate(zip(self.down, self.looks, strict=True)):
            x = look(block(x, time), text)
            kept.append(x)
            if k < len(self.shrink):
                x = self.shrink[k](x)
        x = self.middle(x, time)
        for k, (block, look) in enumerate(zip(self.up, self.back, strict=True)):
            x = look(block(torch.cat([x, kept.pop()], 1), time), text)
            if k < len(self.grow):
                x = self.grow[k](functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return (self.last(functional.silu(self.norm(x))),)
