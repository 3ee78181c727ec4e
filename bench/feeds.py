"""Deterministic sample inputs for benchmark models.

A :class:`Feed` says what one model input means (picture, waveform, token ids, state, ...).  Values
are drawn from NumPy's PCG64 seeded by SHA-256 of the feed's name and the seed, hence the same
on every machine and independent of the order of the inputs.  Pictures and waveforms are a few
random sinusoids plus noise: unlike white noise they leave real activations in a trained network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

KINDS = ("normal", "uniform", "image", "wave", "ids", "full", "ramp", "text")


@dataclass(frozen=True)
class Feed:
    """One model input: name, shape, element type and law of its values."""

    name: str
    """Input name in the model."""
    shape: tuple[int, ...]
    """Concrete shape; a zero extent is an empty tensor."""
    dtype: str = "float32"
    """NumPy element type."""
    kind: str = "normal"
    """One of :data:`KINDS`."""
    low: float = 0.0
    """Least value (uniform, image, text, ids), mean (normal), the value itself (full)."""
    high: float = 1.0
    """Largest value (uniform, image, text), exclusive bound (ids), deviation (normal), peak (wave).
    """

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"feed {self.name!r}: unknown kind {self.kind!r}; known: {KINDS}")


def image(
    name: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype: str = "float32"
) -> Feed:
    """Smooth picture with noise, values in [low, high]; the two largest axes are the plane."""
    return Feed(name, shape, dtype, "image", low, high)


def text(
    name: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype: str = "float32"
) -> Feed:
    """Light page with lines of dark glyph-like marks (and table rules if it is tall)."""
    return Feed(name, shape, dtype, "text", low, high)


def normal(name: str, shape: tuple[int, ...], deviation: float = 1.0, mean: float = 0.0) -> Feed:
    """Float32 normal noise."""
    return Feed(name, shape, "float32", "normal", mean, deviation)


def uniform(
    name: str, shape: tuple[int, ...], low: float, high: float, dtype: str = "float32"
) -> Feed:
    """Uniform noise in [low, high)."""
    return Feed(name, shape, dtype, "uniform", low, high)


def wave(name: str, shape: tuple[int, ...], peak: float = 0.5) -> Feed:
    """Float32 waveform along the last axis, values in [-peak, peak]."""
    return Feed(name, shape, "float32", "wave", 0.0, peak)


def ids(name: str, shape: tuple[int, ...], bound: int, low: int = 0) -> Feed:
    """Int64 identifiers in [low, bound)."""
    return Feed(name, shape, "int64", "ids", low, bound)


def full(name: str, shape: tuple[int, ...], value: float, dtype: str = "int64") -> Feed:
    """Constant tensor."""
    return Feed(name, shape, dtype, "full", value)


def ramp(name: str, shape: tuple[int, ...]) -> Feed:
    """Float32 values i / n in C order, as the ONNX backend runner feeds its light models."""
    return Feed(name, shape, "float32", "ramp")


def _sinusoids(rng: np.random.Generator, grids: Iterable[np.ndarray], terms: int) -> np.ndarray:
    """Mean of ``terms`` sinusoids of random direction over coordinate grids in [0, 1]."""
    axes = list(grids)
    total = np.zeros(axes[0].shape)
    for _ in range(terms):
        phase: np.ndarray = np.full(axes[0].shape, rng.uniform(0, 2 * np.pi))
        for axis in axes:
            phase = phase + 2 * np.pi * rng.uniform(0.5, 12.0) * axis
        total += np.sin(phase)
    return total / terms


def _picture(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Values in [0, 1]: one sinusoid field per index of the axes outside the plane."""
    plane = sorted(sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:])
    height, width = (shape[axis] for axis in plane)
    grids = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    outer = [shape[axis] for axis in range(len(shape)) if axis not in plane]
    fields = np.empty((*outer, height, width))
    for index in np.ndindex(*outer):
        field = 0.5 + 0.6 * _sinusoids(rng, grids, 5) + 0.05 * rng.standard_normal((height, width))
        fields[index] = field
    return np.moveaxis(np.clip(fields, 0, 1), (-2, -1), plane)


def _page(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Values in [0, 1]: random 5x7 glyphs in lines, the same in every channel, with faint noise."""
    plane = sorted(sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:])
    height, width = (shape[axis] for axis in plane)
    page = np.full((height, width), 0.95)
    tall = height >= 160
    scale = 2 if tall else max(1, (height * 3 // 4) // 7)
    step = 7 * scale * (2 if tall else 1)
    for top in range(
        max(1, (height - 7 * scale) // 2) if not tall else 8, height - 8 * scale, step
    ):
        for left in range(8, width - 6 * scale, 6 * scale):
            if rng.uniform() < 0.15:  # a space between words
                continue
            glyph = rng.uniform(size=(7, 5)) < 0.5
            block = np.kron(glyph, np.ones((scale, scale))) > 0
            page[top : top + 7 * scale, left : left + 5 * scale][block] = 0.1
    if tall:
        for position in range(2, height, step * 2):
            page[position : position + 2, 2:] = 0.2
        for position in range(2, width, width // 4):
            page[2:, position : position + 2] = 0.2
    page = np.clip(page + 0.02 * rng.standard_normal(page.shape), 0, 1)
    outer = tuple(shape[axis] for axis in range(len(shape)) if axis not in plane)
    return np.moveaxis(np.broadcast_to(page, (*outer, height, width)), (-2, -1), plane)


def _waveform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Values in [-1, 1]: harmonics with a slow envelope and noise."""
    time = np.linspace(0, 1, shape[-1])
    rows = np.empty(shape)
    for index in np.ndindex(*shape[:-1]):
        pitch = rng.uniform(90, 240)
        tone = sum(
            np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 9)
        )
        envelope = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * time)
        signal = tone * envelope + 0.05 * rng.standard_normal(shape[-1])
        rows[index] = signal / np.abs(signal).max()
    return rows


def generate(feed: Feed, seed: int = 0) -> np.ndarray:
    """Array for one feed, C-contiguous, of ``feed.shape`` and ``feed.dtype``."""
    digest = hashlib.sha256(f"{feed.name}\0{seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    shape, low, high = feed.shape, feed.low, feed.high
    if feed.kind == "full":
        values = np.full(shape, low)
    elif feed.kind == "ramp":
        count = int(np.prod(shape))
        values = np.arange(count).reshape(shape) / count
    elif feed.kind == "ids":
        values = rng.integers(int(low), int(high), shape)
    elif feed.kind == "normal":
        values = low + high * rng.standard_normal(shape)
    elif feed.kind == "uniform":
        values = rng.uniform(low, high, shape)
    elif feed.kind == "text":
        values = low + (high - low) * _page(rng, shape)
    elif feed.kind == "image":
        values = low + (high - low) * _picture(rng, shape)
    else:
        values = high * _waveform(rng, shape)
    return np.array(values, dtype=np.dtype(feed.dtype), order="C")  # keeps 0-d, unlike ascontiguous


def generate_all(specification: Iterable[Feed], seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds of one model, by input name."""
    return {feed.name: generate(feed, seed) for feed in specification}
