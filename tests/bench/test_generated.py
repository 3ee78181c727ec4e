"""Layers drawn at random: the same for a seed, valid, and of the sizes that are promised."""

from __future__ import annotations

import math

import onnx

from evonnx.bench.generated import LEAST, MOST, layers


def test_the_same_seed_draws_the_same_layers() -> None:
    first, second, other = (dict(layers(seed, 8)) for seed in (3, 3, 4))
    assert list(first) == list(second) and len(first) == 8
    assert all(first[k] == second[k] for k in first)
    assert not first.keys() & other.keys()


def test_layers_are_valid_and_of_the_size_that_is_promised() -> None:
    """Shapes are what inference finds, and operations, counted from the nodes, within limits."""
    for name, model in layers(11, 40):
        onnx.checker.check_model(model, full_check=True)
        held = {t.name: tuple(t.dims) for t in model.graph.initializer}
        shape = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
                 for v in [*model.graph.input, *model.graph.output]}
        out = shape[model.graph.output[0].name]
        inner = model.graph.node[0]
        if inner.op_type == "Conv":
            each = held["w"][1] * held["w"][2] * held["w"][3]
        else:
            each = shape["x"][-1]
        assert LEAST <= 2 * each * math.prod(out) <= MOST, name
