"""Ops without tensor operands: inputs, constants, symbolic shapes, ramps, random numbers, bind."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..access import AccessMap
from ..errors import ModelError
from ..types import I64, TensorType
from .base import Attributes, OpDef, register, tensor


def _infer_input(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    raise ModelError("input and const nodes carry their type; they are not inferred")


def _infer_dims(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    return (TensorType(I64, tuple(attrs["shape"])),)


def _ref_dims(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    return (np.array(attrs["values"], dtype=np.int64).reshape(attrs["shape"]),)


def _infer_shaped(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    return (TensorType(attrs["dtype"], tuple(attrs["shape"])),)


def _ref_iota(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    shape, axis = tuple(attrs["shape"]), attrs["axis"]
    ramp = np.arange(shape[axis]).astype(attrs["dtype"].np)
    view = ramp.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return (np.asarray(np.broadcast_to(view, shape), order="C"),)


def splitmix64(counter: np.ndarray, seed: int) -> np.ndarray:
    """Counter-based 64-bit generator (Steele, Lea, Flood 2014: SplitMix), vectorized."""
    with np.errstate(all="ignore"):
        z = counter.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
            seed & 0xFFFFFFFFFFFFFFFF
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _uniform(n: int, seed: int, stream: int) -> np.ndarray:
    bits = splitmix64(np.arange(1, n + 1, dtype=np.uint64) + np.uint64(stream << 40), seed)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * (1.0 / (1 << 53))


def _ref_random_uniform(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    n = int(np.prod(attrs["shape"], dtype=np.int64))
    u = _uniform(n, attrs["seed"], 0)
    values = attrs["low"] + u * (attrs["high"] - attrs["low"])
    return (values.reshape(attrs["shape"]).astype(attrs["dtype"].np),)


def _ref_random_mersenne(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    state = np.random.RandomState(attrs["seed"] & 0xFFFFFFFF)
    drawn = np.asarray(state.uniform(0.0, 1.0, attrs["shape"]))
    return (drawn.astype(attrs["dtype"].np),)


def _ref_random_normal(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    n = int(np.prod(attrs["shape"], dtype=np.int64))
    u, v = _uniform(n, attrs["seed"], 0), _uniform(n, attrs["seed"], 1)
    normal = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)  # Box and Muller 1958
    values = attrs["mean"] + attrs["scale"] * normal
    return (values.reshape(attrs["shape"]).astype(attrs["dtype"].np),)


def _infer_bind(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "bind")
    if t.dtype != I64 or t.rank != 0:
        raise ModelError(f"bind defines a size and needs an i64 scalar, got {t}")
    return (t,)


def _no_reads(types: Any, attrs: Attributes, index: Any, fresh: Any) -> AccessMap:
    return AccessMap(())


_SOURCE = frozenset({"source"})

register(OpDef("input", (0, 0), _infer_input, None, _SOURCE, attrs=("name",),
               doc="a graph input"))
register(OpDef("const", (0, 0), _infer_input, None, _SOURCE, attrs=("digest",),
               doc="a constant of the graph's table"))
register(OpDef("dims", (0, 0), _infer_dims, _ref_dims, _SOURCE | {"opaque"},
               attrs=("values", "shape"), doc="an i64 tensor of symbolic sizes"))
register(OpDef("iota", (0, 0), _infer_shaped, _ref_iota, _SOURCE, access=_no_reads,
               attrs=("shape", "axis", "dtype"), doc="each element's position along an axis"))
register(OpDef("random_uniform", (0, 0), _infer_shaped, _ref_random_uniform,
               _SOURCE | {"random", "opaque"}, attrs=("shape", "dtype", "low", "high", "seed"),
               doc="seeded uniform numbers, the same on every machine"))
register(OpDef("random_mersenne", (0, 0), _infer_shaped, _ref_random_mersenne,
               _SOURCE | {"random", "opaque"}, attrs=("shape", "dtype", "seed"),
               doc="uniform numbers in [0, 1) of the Mersenne Twister, as NumPy's RandomState"))
register(OpDef("random_normal", (0, 0), _infer_shaped, _ref_random_normal,
               _SOURCE | {"random", "opaque"}, attrs=("shape", "dtype", "mean", "scale", "seed"),
               doc="seeded normal numbers (Box-Muller)"))
register(OpDef("bind", (1, 1), _infer_bind, lambda a, attrs, t: (a[0],), frozenset({"dynamic"}),
               attrs=("name",), doc="defines the symbol `name` as the value of a scalar"))
