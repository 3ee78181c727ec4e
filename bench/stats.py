"""Statistics of timings and the comparison of outputs.

Timings are summarized by the median and the interquartile range of per-block medians: a block that
another process disturbed moves neither.  Ratios are averaged geometrically.

Outputs are compared relative to the output's own scale: the largest absolute difference over the
largest finite magnitude of the reference.  NaN must meet NaN and an infinity the same infinity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Median and quartiles of a sample, in the sample's unit."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    count: int

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def summarize(sample: Sequence[float]) -> Summary:
    """Median and quartiles; ValueError on an empty sample."""
    if not sample:
        raise ValueError("no measurements to summarize")
    low, middle, high = np.quantile(np.asarray(sample, np.float64), (0.25, 0.5, 0.75))
    return Summary(float(middle), float(low), float(high), len(sample))


def geomean(ratios: Sequence[float]) -> float | None:
    """Geometric mean of positive numbers; None if there are none."""
    if not ratios:
        return None
    if min(ratios) <= 0:
        raise ValueError("a geometric mean needs positive numbers")
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over rounds of numerator / denominator of the same round."""
    return summarize([a / b for a, b in zip(numerators, denominators, strict=True)]).median


def kendall(measured: Sequence[float], predicted: Sequence[float], noise: float = 0.0) -> float:
    """Kendall's tau over the pairs whose measured values differ by more than the part ``noise``:
    pairs in the same order less pairs in the opposite order (equal predictions are neither), over
    all of these pairs (M. Kendall, "A new measure of rank correlation", 1938). NaN without any."""
    x, y = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    more = x[:, None] > x[None, :] * (1 + noise)
    agree = np.sign(y[:, None] - y[None, :])[more]
    return float(agree.mean()) if agree.size else math.nan


def _flatten(value: Any, path: str) -> list[tuple[str, np.ndarray]]:
    """Arrays inside an output (tensor, sequence, map), with a path that names each."""
    if isinstance(value, Mapping):
        keys = sorted(value)
        found = [(f"{path}.keys", np.asarray(keys))]
        return found + [pair for key in keys for pair in _flatten(value[key], f"{path}[{key!r}]")]
    if isinstance(value, list | tuple):
        return [pair for i, item in enumerate(value) for pair in _flatten(item, f"{path}[{i}]")]
    return [(path, np.asarray(value))]


def _difference(path: str, ours: np.ndarray, reference: np.ndarray) -> float:
    """Error of one array relative to the reference's scale; inf where they disagree in kind."""
    if ours.shape != reference.shape:
        raise ValueError(f"{path}: shape {ours.shape}, reference {reference.shape}")
    if not reference.size:
        return 0.0
    if reference.dtype.kind in "fc" or ours.dtype.kind in "fc":
        wide = np.complex128 if "c" in (ours.dtype.kind, reference.dtype.kind) else np.float64
        a, b = ours.astype(wide), reference.astype(wide)
        finite = np.isfinite(b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if not np.all(finite | same) or not np.all(np.isfinite(a[finite])):
            return math.inf
        if not finite.any():
            return 0.0
        scale = float(np.abs(b[finite]).max())
        worst = float(np.abs(a[finite] - b[finite]).max())
        return worst / scale if scale else (math.inf if worst else 0.0)
    return float(np.count_nonzero(ours != reference)) / reference.size


def relative_error(outputs: Sequence[Any], reference: Sequence[Any]) -> float:
    """Largest error over all outputs.

    Float outputs: relative to the scale of that output.  Others (integers, booleans, strings):
    fraction of elements that differ.  ValueError if number, shapes or keys differ.
    """
    if len(outputs) != len(reference):
        raise ValueError(f"{len(outputs)} outputs, reference has {len(reference)}")
    worst = 0.0
    for index, (ours, expected) in enumerate(zip(outputs, reference, strict=True)):
        left = _flatten(ours, f"output {index}")
        right = _flatten(expected, f"output {index}")
        if [path for path, _ in left] != [path for path, _ in right]:
            raise ValueError(f"output {index}: structure differs from the reference")
        for (path, a), (_, b) in zip(left, right, strict=True):
            worst = max(worst, _difference(path, a, b))
    return worst
