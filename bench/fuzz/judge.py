"""Whether a result is right: the tolerance of every element, from the conditioning of the graph.

The yardstick is the reference interpreter in float64. How far a correct computation in the declared
types may be from it is measured, not assumed, by Monte Carlo arithmetic (Parker, "Monte Carlo
arithmetic", 1997): the graph is run again in float64 with every inexact result moved by a random
fraction of the rounding error of its declared type and rounded to that type (so a difference of
near numbers may come out as zero, and its reciprocal as infinity). A sum of n terms, in whatever
order, is moved by unit roundoff times the sum of magnitudes times the root of n: rounding errors of
n additions are as good as independent (Higham and Mary, "A new approach to probabilistic rounding
error analysis", 2019).
The largest movement of an output element over the runs, times a factor, is its tolerance. So an
ill-conditioned element may be far off, a well-conditioned one may not, and an element that jumps
(a comparison, a rounding, an index) is only judged where rounding cannot tip it. A result is also
right where it agrees with the interpreter in the declared types: those overflow where float64 does
not. A result that fails with a few runs is judged again with many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from ...compiler.pipeline import run_pipeline
from ...ir import interp
from ...ir.errors import EvonnxError
from ...ir.graph import Graph, Node, Value
from ...ir.ops import lookup
from ...ir.types import DType, TensorType

FEW, MANY = 3, 24
"""Runs with noise: at first, and before a difference is called an error."""
FACTOR = 10.0
"""Tolerance in measured movements."""
ULPS = 6.0
"""Units in the last place that any result may be off."""
SLACK = 3e-5
"""Part of the largest magnitude that a peer may be off besides: it may compute positions or double
precision in single precision, and it is asked for the meaning, not for the last bits."""

_EXACT = frozenset({
    "neg", "abs", "sign", "floor", "ceil", "round", "max", "min", "relu", "select", "not", "and",
    "or", "xor", "eq", "lt", "le", "isnan", "isinf", "topk", "argmax", "argmin", "nonzero",
    "unique", "bind", "dims", "iota", "input", "const", "nms", "host",
})  # fmt: skip
"""Ops whose results are exact where their operands are."""
_SUMS = frozenset({"dot", "conv", "conv_transpose", "cumulate"})
_MOVES = ("movement", "gather", "control", "source")


def _limits(dtype: DType) -> tuple[float, float, float]:
    """(unit in the last place of 1, smallest positive number, largest) of a float type."""
    info = ml_dtypes.finfo(dtype.np)
    return float(info.eps), float(info.smallest_subnormal), float(info.max)


@dataclass(slots=True)
class Noise:
    """An observer of the interpreter that moves inexact results by rounding errors."""

    rng: np.random.Generator
    coarse: bool
    """Whether inputs and constants are moved, too: for graphs with composites, recurrences and
    regions, inside of which nothing is observed."""
    values: dict[Value, Any] = field(default_factory=dict)

    def feed(self, graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs."""
        found = {}
        for v in graph.inputs:
            name, dtype = v.node.attrs["name"], DType.of(feeds[v.node.attrs["name"]].dtype)
            x = interp.promote(feeds[name])
            if self.coarse and dtype.is_float:
                x = self._shifted(x, np.abs(x), dtype)
            found[name] = self.values[v] = x
        return found

    def __call__(self, node: Node, results: tuple[Any, ...]) -> Sequence[Any] | None:
        moved = [self._moved(node, t, x) for t, x in zip(node.types, results, strict=True)]
        self.values.update(zip(node.outputs, moved, strict=True))
        return moved

    def _moved(self, node: Node, t: Any, x: Any) -> Any:
        if not isinstance(x, np.ndarray) or not isinstance(t, TensorType) or (
                not t.dtype.is_float or x.dtype != np.float64):
            return x
        if node.op == "const" and self.coarse:
            return self._shifted(x, np.abs(x), t.dtype)
        if self._exact(node, t.dtype):
            return x
        return self._shifted(x, self._magnitude(node, x), t.dtype, self._terms(node))

    def _shifted(self, x: np.ndarray, scale: np.ndarray, dtype: DType, terms: int = 1
                 ) -> np.ndarray:
        """``x`` moved by up to the error of a sum of ``terms`` terms of magnitude ``scale``."""
        eps, tiny, most = _limits(dtype)
        eps *= max(1.0, 0.5 * math.sqrt(terms))  # eps is two unit roundoffs
        with np.errstate(all="ignore"):
            noise = self.rng.uniform(-1, 1, x.shape)
            step = np.where(np.isfinite(scale), eps * scale + tiny * (x != 0), 0.0)
            moved = (x + noise * step).astype(dtype.np).astype(np.float64)
            # A sum of huge terms may overflow on the way, either way, or not: its order is open.
            over = self.rng.choice([np.nan, np.inf, -np.inf], x.shape)
            return np.where(np.isfinite(x) & (scale > most / 2), over, moved)

    def _exact(self, node: Node, dtype: DType) -> bool:
        definition = lookup(node.op)
        if node.op in _EXACT or any(definition.has(trait) for trait in _MOVES):
            return True
        if node.op == "reduce" and node.attrs["kind"] in ("max", "min"):
            return True
        if node.op == "pool" and node.attrs["kind"] == "max":
            return True
        if node.op == "cast":
            source = node.operands[0].tensor.dtype
            return source.is_float and dtype.bits >= source.bits and dtype.name != "bf16"
        return definition.has("scatter") and node.attrs.get("reduction") == "none"

    def _magnitude(self, node: Node, x: np.ndarray) -> np.ndarray:
        """Sum of the magnitudes of the terms, where the result is a sum; else its own, and that of
        a product that may be added without being rounded before."""
        if node.op in ("add", "sub"):
            products = [np.abs(self.values[v]) for v in node.operands if _is_product(v)]
            return sum(products, start=np.abs(x))
        if node.op == "erfc":  # it stands for 1 - erf(x): small beside 1, not beside itself
            return np.maximum(np.abs(x), 1.0)
        if not _is_sum(node):
            return np.abs(x)
        definition = lookup(node.op)
        terms = [None if v is None else np.abs(self.values[v]) for v in node.inputs]
        if node.op == "cumulate":
            terms[1:] = [self.values[v] for v in node.operands[1:]]
        types = tuple(t.with_dtype(DType.of(np.float64)).with_shape(x.shape)
                      for t in node.types if isinstance(t, TensorType))
        try:
            assert definition.reference is not None
            with np.errstate(all="ignore"):
                return np.asarray(definition.reference(terms, node.attrs, types)[0])
        except (EvonnxError, TypeError, ValueError, AttributeError):
            return np.abs(x) + max((np.nanmax(np.abs(t), initial=0) for t in terms
                                    if t is not None and t.dtype == np.float64), default=0.0)


    def _terms(self, node: Node) -> int:
        """How many numbers are added up for one element of the result."""
        if not _is_sum(node):
            return 1
        x, a = np.shape(self.values[node.operands[0]]), node.attrs
        if node.op == "reduce":
            return math.prod(x[k] for k in a["axes"])
        if node.op == "cumulate":
            return x[a["axis"]]
        if node.op == "pool":
            return math.prod(a["kernel"])
        if node.op == "dot":
            return x[-2 if a["ta"] else -1] if len(x) > 1 else x[0]
        w = np.shape(self.values[node.operands[1]])
        outputs = w[1] if node.op == "conv_transpose" else (
            w[0] if a["layout"] == "first" else w[-1])
        return math.prod(w) // max(outputs, 1)


def _is_product(v: Value) -> bool:
    while lookup(v.node.op).has("movement") and len(v.node.operands) == 1:
        (v,) = v.node.operands
    return v.node.op == "mul"


def _is_sum(node: Node) -> bool:
    return node.op in _SUMS or (
        node.op in ("reduce", "pool") and node.attrs["kind"] in ("sum", "mean"))


def _coarse(graph: Graph) -> bool:
    hidden = ("composite", "recurrent", "control", "image")
    return any(lookup(n.op).has(h) for n in graph.nodes for h in hidden)


class Judge:
    """The reference results of one graph on one set of feeds, and what may differ from them."""

    def __init__(self, graph: Graph, feeds: Mapping[str, np.ndarray], seed: int = 0) -> None:
        self.graph, self.feeds = graph, dict(feeds)
        self.narrow = interp.run(graph, self.feeds)
        """Results in the declared types."""
        self.wide = interp.run(graph, self.feeds, float64=True)
        """Results in float64."""
        self._rng = np.random.default_rng([seed, 7])
        self._parts = run_pipeline(graph, "expand")
        """The graph with composites in their parts, so that noise reaches inside."""
        self._coarse = _coarse(self._parts)
        self._samples: list[dict[str, Any]] = []

    def samples(self, count: int) -> list[dict[str, Any]]:
        """Results of ``count`` runs with noise."""
        while len(self._samples) < count:
            coarse = self._coarse and len(self._samples) % 2 == 0
            noise = Noise(self._rng, coarse)
            feeds = noise.feed(self._parts, self.feeds)
            try:
                found = interp.run(self._parts, feeds, float64=True, observe=noise)
            except EvonnxError:  # noise made a size or an index impossible: everything may differ
                found = {}
            self._samples.append(found)
        return self._samples[:count]

    def wrong(self, got: Mapping[str, Any], slack: float = 0.0) -> dict[str, str]:
        """Output -> what is wrong with it; few runs with noise first, many before the verdict.
        ``slack`` is a part of the largest magnitude that is allowed besides."""
        found = {}
        for name in self.wide:
            reason = self._wrong(name, got[name], FEW, slack) and (
                self._wrong(name, got[name], MANY, slack))
            if reason:
                found[name] = reason
        return found

    def _wrong(self, name: str, got: Any, count: int, slack: float) -> str:
        want, narrow = self.wide[name], self.narrow[name]
        if not isinstance(want, np.ndarray) or want.dtype == object:
            return "" if _same_host(got, narrow) else f"{got!r:.80} instead of {narrow!r:.80}"
        samples = [s.get(name) for s in self.samples(count)]
        if any(x is None or x.shape != want.shape for x in samples):
            return ""  # rounding decides the size
        if np.shape(got) != want.shape:
            return f"shape {list(np.shape(got))} instead of {list(want.shape)}"
        if np.asarray(got).dtype != narrow.dtype:
            return f"type {np.asarray(got).dtype} instead of {narrow.dtype}"
        if want.dtype.kind == "c":
            return ""
        bad = ~self._close(np.asarray(got), want, narrow, [np.asarray(x) for x in samples], slack)
        if not bad.any():
            return ""
        at = np.unravel_index(int(np.argmax(bad)), bad.shape)
        return (f"{int(bad.sum())} of {bad.size} elements; at {[int(k) for k in at]}: "
                f"{np.asarray(got)[at]!s} instead of {want[at]!s} (float64) or {narrow[at]!s}")

    def _close(self, got: np.ndarray, want: np.ndarray, narrow: np.ndarray,
               samples: list[np.ndarray], slack: float) -> np.ndarray:
        if not DType.of(narrow.dtype).is_float:
            same = (got == want) | (got == narrow)
            for x in samples:
                same |= x != want  # rounding tips it
            return np.asarray(same)
        a, n = got.astype(np.float64), narrow.astype(np.float64)
        eps, tiny, most = _limits(DType.of(narrow.dtype))
        with np.errstate(all="ignore"):
            spread = np.zeros(want.shape)
            open_ = np.zeros(want.shape, dtype=bool)
            for x in samples:
                open_ |= ~((np.isfinite(x) == np.isfinite(want)) | (x == want))
                moved = np.abs(x - want)
                spread = np.maximum(spread, np.where(np.isfinite(moved), moved, 0.0))
            slack = slack and max(slack, 4 * eps)
            hidden = slack * _largest(want)
            if self._coarse:  # roundings inside: seen next to float64, guessed where that is all
                hidden += 4 * max(_largest(n - want), eps * _largest(want))
            tolerance = (FACTOR * spread + ULPS * eps * np.abs(want) + 4 * tiny
                         + 2 * np.where(np.isfinite(n - want), np.abs(n - want), 0.0) + hidden)
            close = (np.abs(a - want) <= tolerance) | (np.abs(a - n) <= tolerance)
            close |= (a == want) | (a == n) | (np.isnan(a) & (np.isnan(want) | np.isnan(n)))
            if slack:  # ONNX leaves open whether max and min see NaN; peers do not agree
                close |= np.isnan(want)
            over = np.abs(want) + tolerance >= most * 0.99
            over &= np.isinf(a) | (np.abs(a) >= most * 0.9)
        return np.asarray(close | open_ | over)


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0))


def _same_host(a: Any, b: Any) -> bool:
    if isinstance(b, (list, tuple)):
        return isinstance(a, (list, tuple)) and len(a) == len(b) and all(map(_same_host, a, b))
    if isinstance(b, np.ndarray):
        return np.array_equal(np.asarray(a), b)
    return bool(a == b)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two results are the same to the last bit (every NaN is one)."""
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same_bits, a, b))
    if not isinstance(a, np.ndarray) or a.dtype == object:
        return _same_host(a, b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    x, y = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if DType.of(a.dtype).is_float:
        hole = np.isnan(x)
        if not np.array_equal(hole, np.isnan(y)):
            return False
        x, y = np.where(hole, 0, x).astype(a.dtype), np.where(hole, 0, y).astype(a.dtype)
    return x.tobytes() == y.tobytes()
