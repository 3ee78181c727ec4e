"""A random model from a seed: which types and sizes, which makers, which outputs.

The seed alone decides, also with which options it is compiled. A model is a few to a dozen drawn
attempts of the makers; every value that nothing reads is an output, and now and then one that is
read, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from . import basic, control, idioms, linear, movement, reduce
from .drawn import draw
from .sketch import (
    BF16,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    OPSETS,
    SIZES,
    U8,
    Misfit,
    Sketch,
    Var,
    feed_values,
)

Maker = Callable[[Sketch], Any]

GROUPS: dict[str, dict[Any, int]] = {
    "basic": basic.MAKERS, "movement": movement.MAKERS, "reduce": reduce.MAKERS,
    "linear": linear.MAKERS, "control": control.MAKERS, "idioms": idioms.MAKERS,
}  # fmt: skip
"""Makers by subject."""
_WEIGHTS = {"basic": 30, "movement": 25, "reduce": 15, "linear": 14, "control": 4, "idioms": 34}
PER_NODE = 200
"""Attempts after which a sketch without any node is given up."""


@dataclass(slots=True)
class Example:
    """A model and how to feed it."""

    model: onnx.ModelProto
    laws: dict[str, str]
    """Law of the values by input."""
    bindings: list[dict[str, int]]
    """Sizes of the symbols; the model is run under each."""
    seed: int
    """Seed of the values."""
    note: str = ""
    """What it is or once showed."""
    groups: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    """How it is compiled once more (``drawn``); empty: in no other way."""

    def feeds(self, binding: int = 0) -> dict[str, np.ndarray]:
        """Inputs by name under one binding."""
        found = {}
        for info in self.model.graph.input:
            t = info.type.tensor_type
            shape = tuple(self.bindings[binding][d.dim_param] if d.dim_param else int(d.dim_value)
                          for d in t.shape.dim)
            found[info.name] = feed_values(info.name, self.laws[info.name], t.elem_type, shape,
                                           self.seed + binding)
        return found


def _flat() -> tuple[list[Maker], np.ndarray]:
    makers, weights = [], []
    for group, table in GROUPS.items():
        total = sum(table.values())
        for maker, weight in table.items():
            makers.append(maker)
            weights.append(_WEIGHTS[group] * weight / total)
    return makers, np.array(weights) / sum(weights)


def new_sketch(rng: np.random.Generator) -> Sketch:
    """An empty sketch with its types, sizes and symbols drawn."""
    real = int(rng.choice([F32, F64, F16, BF16], p=[0.68, 0.1, 0.14, 0.08]))
    whole = int(rng.choice([I64, I32, I8, U8, I16], p=[0.4, 0.3, 0.12, 0.12, 0.06]))
    special = bool(rng.random() < 0.2)
    sizes = SIZES + ((0, 0) if rng.random() < 0.12 else ())
    symbols: tuple[tuple[int, ...], ...] = ()
    if rng.random() < 0.4:
        symbols = tuple((int(rng.choice([3, 4, 7])), int(rng.choice([5, 6, 1, 2])))
                        for _ in range(int(rng.integers(1, 3))))
    if symbols and rng.random() < 0.6:  # windows and reductions want larger ones
        symbols = tuple((a + 4, b + 4) for a, b in symbols)
    return Sketch(rng, int(rng.choice(OPSETS)), real, whole, special, sizes, symbols,
                  2 if symbols else 1)


def example(seed: int) -> Example:
    """The example of a seed."""
    rng = np.random.default_rng([seed, 0xF022])
    makers, weights = _flat()
    s = new_sketch(rng)
    if rng.random() < 0.25:  # a few kinds of nodes, often: patterns repeat
        few = rng.choice(len(makers), 4, p=weights)
        makers, weights = [makers[k] for k in few], np.full(4, 0.25)
    wanted = int(rng.choice([1, 2, 3, 4, 6, 9], p=[0.12, 0.2, 0.22, 0.2, 0.18, 0.08]))
    made = 0
    used: list[str] = []
    for _ in range(PER_NODE):
        if made >= wanted or len(s.nodes) > 40:
            break
        maker = makers[int(rng.choice(len(makers), p=weights))]
        mark = s.mark()
        try:
            maker(s)
        except Misfit:
            s.rollback(mark)
            continue
        made += 1
        used.append(f"{maker.__module__.rpartition('.')[2]}.{maker.__name__}")
    return Example(model_of(s), {v.name: f.law for v, f, _ in s.inputs}, bindings_of(s), seed,
                   groups=used, options=draw(np.random.default_rng([seed, 6])))


def bindings_of(s: Sketch) -> list[dict[str, int]]:
    """Sizes of the symbols that the inputs use, per binding."""
    used = {d for _, _, shape in s.inputs for d in shape if isinstance(d, str)}
    if not used:
        return [{}]
    return [{d: s.symbols[int(d[1:])][k] for d in sorted(used)} for k in range(s.bindings)]


def model_of(s: Sketch) -> onnx.ModelProto:
    """The model of a sketch: dead constants and inputs are left out."""
    read = {name for node in s.nodes for name in _reads(node)}
    outputs = [s.types[name] for node in s.nodes for name in node.output
               if name in s.types and (name not in read or s.rng.random() < 0.12)]
    if not s.nodes:  # nothing fitted: the identity of an input
        x = s.fresh(F32, (2, 3))
        outputs = [s.op("Identity", [x])]
        read |= {x.name}
    read |= {name for node in s.nodes for name in _reads(node)}
    inputs = [helper.make_tensor_value_info(v.name, v.dtype, shape)
              for v, _, shape in s.inputs if v.name in read]
    held = [numpy_helper.from_array(a, k) for k, a in s.held.items() if k in read]
    graph = helper.make_graph(s.nodes, "fuzz", inputs, [_info(v) for v in outputs], held)
    graph.value_info.extend(_info(v) for v in s.types.values()
                            if v.name in read and v.data is None and v not in outputs
                            and v.name not in {i.name for i in inputs})
    s.inputs = [entry for entry in s.inputs if entry[0].name in read]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", s.opset)],
                             ir_version=10)


def _info(v: Var) -> onnx.ValueInfoProto:
    shape = [d if v.fixed(k) else None for k, d in enumerate(v.shape)]
    return helper.make_tensor_value_info(v.name, v.dtype, shape)


def _reads(node: onnx.NodeProto) -> list[str]:
    names = [n for n in node.input if n]
    for a in node.attribute:
        if a.HasField("g"):
            names += [n for inner in a.g.node for n in _reads(inner)]
            names += [o.name for o in a.g.output]
    return names


__all__ = ["GROUPS", "Example", "example", "new_sketch"]
