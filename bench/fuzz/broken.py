"""Models that were broken: what is refused must be refused in words, and what is taken be right.

One to three faults are drawn and put into the model of an example: bytes cut off or flipped, types,
sizes, names, operands, attributes and constants that do not fit, cycles, data files elsewhere. The
compiler then either raises an ``EvonnxError`` or compiles a model that gives what the reference
interpreter gives. Anything else (another exception, a process that dies, hangs or takes all memory)
is a defect.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ...compiler.api import compile
from ...compiler.importer import import_model
from ...ir.errors import EvonnxError
from .case import Outcome, said
from .generate import Example, example
from .judge import Judge
from .verdict import Failure, check_right, named

EXTREMES = (-(2**63), -(2**31) - 1, -100, -2, -1, 0, 1, 2, 3, 7, 1000, 2**31 - 1, 2**32, 2**63 - 1)
"""Whole numbers that are put where one was."""
MEMORY = 8 << 30
"""Bytes of addresses that a process may take: what asks for more is told so."""
_FLOATS = (np.nan, np.inf, -np.inf, 1e30, -1.0, 0.0, 1e-45)
_OPS = ("Add", "MatMul", "Conv", "Reshape", "Concat", "Gather", "Softmax", "LSTM", "If", "Loop",
        "Slice", "Resize", "Nothing", "")

Fault = Callable[[onnx.ModelProto, np.random.Generator], None]
"""Breaks a model where it lies; may find nothing to break."""


def limit_memory() -> None:
    """Lets this process have no more than ``MEMORY``."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def run_broken(seed: int, cache: str | bool = False) -> Outcome:
    """Breaks the model of a seed and compiles what is left; never raises."""
    rng = np.random.default_rng([seed, 7])
    given = example(seed)
    found = Outcome(seed)
    model: onnx.ModelProto | bytes = given.model
    faults = []
    if rng.random() < 0.15:
        faults.append("bytes")
        model = _bytes(given.model.SerializeToString(), rng)
    else:
        for k in rng.integers(len(FAULTS), size=int(rng.integers(1, 4))):
            faults.append(FAULTS[k].__name__.strip("_"))
            FAULTS[k](given.model, rng)
    try:
        found.status, found.detail = _tried(given, model, cache)
    except Failure as failure:
        found.status, found.detail = failure.kind, failure.detail
    except MemoryError as error:  # Python's own, which a caller can catch: the process lives on
        found.status, found.detail = "refused in words", said(error)
    except Exception as error:
        found.status, found.detail = "error", said(error)
    found.detail = f"{', '.join(faults)}: {found.detail}"
    return found


def _tried(given: Example, model: onnx.ModelProto | bytes, cache: str | bool
           ) -> tuple[str, str]:
    """(status, detail) of a broken model."""
    try:
        graph = import_model(model)
        compiled = compile(model, threads=1, cache=cache)
    except EvonnxError as error:
        return "refused in words", str(error)
    try:
        feeds = _feeds(given, compiled.input_names)
        got = named(compiled, feeds)
    except EvonnxError as error:
        return "refused in words", f"at the call: {error}"
    try:
        judge = Judge(graph, feeds, given.seed)
    except EvonnxError as error:  # positions out of range are not checked at run time
        return "passed", f"not compared, the reference refuses it: {error}"
    check_right(judge.wrong(got))
    return "passed", ""


def _feeds(given: Example, names: tuple[str, ...]) -> dict[str, Any]:
    """What is fed to the model as it is now."""
    try:
        feeds = given.feeds()
    except (KeyError, ValueError, MemoryError, OverflowError, TypeError):
        return {}
    return {k: v for k, v in feeds.items() if k in names}


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """A file cut off, or some of its bits flipped."""
    if rng.random() < 0.4:
        return data[: int(rng.integers(len(data)))]
    changed = bytearray(data)
    for place in rng.integers(len(data), size=int(rng.integers(1, 6))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _one(things: Any, rng: np.random.Generator) -> Any:
    return things[int(rng.integers(len(things)))] if len(things) else None


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    found, todo = [], [model.graph]
    while todo:
        found.append(todo.pop())
        todo += [a.g for n in found[-1].node for a in n.attribute if a.HasField("g")]
    return found


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for g in _graphs(model) for n in g.node]


def _held(model: onnx.ModelProto) -> list[TensorProto]:
    return [t for g in _graphs(model) for t in g.initializer]


def _element_type(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    g = model.graph
    v = _one([*g.input, *g.output, *g.value_info], rng)
    if v is not None:
        v.type.tensor_type.elem_type = int(rng.integers(-1, 30))


def _declared_size(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    g = model.graph
    v = _one([*g.input, *g.output, *g.value_info], rng)
    d = None if v is None else _one(v.type.tensor_type.shape.dim, rng)
    if d is not None:
        d.dim_value = int(_one(EXTREMES, rng))


def _declared_rank(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    v = _one([*model.graph.input, *model.graph.output], rng)
    if v is None:
        return
    if rng.random() < 0.3:
        v.type.tensor_type.ClearField("shape")
    elif rng.random() < 0.5 or not v.type.tensor_type.shape.dim:
        v.type.tensor_type.shape.dim.add().dim_value = 2
    else:
        del v.type.tensor_type.shape.dim[0]


def _constant_type(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    t = _one(_held(model), rng)
    if t is not None:
        t.data_type = int(rng.integers(-1, 30))


def _constant_dims(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    t = _one(_held(model), rng)
    if t is not None and t.dims:
        t.dims[int(rng.integers(len(t.dims)))] = int(_one(EXTREMES, rng))
    elif t is not None:
        t.dims.append(2)


def _constant_values(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    t = _one([t for t in _held(model) if t.data_type in (6, 7)
              and t.data_location != TensorProto.EXTERNAL], rng)
    if t is None:
        return
    try:
        values = numpy_helper.to_array(t).copy()
    except ValueError:  # another fault was there before
        return
    if values.size:
        info = np.iinfo(values.dtype)
        values.flat[int(rng.integers(values.size))] = min(
            max(int(_one(EXTREMES, rng)), info.min), info.max)
    t.CopyFrom(numpy_helper.from_array(values, t.name))


def _constant_away(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    held = model.graph.initializer
    if held:
        del held[int(rng.integers(len(held)))]


def _data_elsewhere(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    t = _one(_held(model), rng)
    if t is None:
        return
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    where = _one(("../../etc/passwd", "/etc/passwd", "nowhere", ".", "", "a/../../b", "\0"), rng)
    for key, value in (("location", where), ("offset", "-1"), ("length", str(2**62))):
        if rng.random() < 0.8:
            entry = t.external_data.add()
            entry.key, entry.value = key, value


def _name_twice(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    g = model.graph
    one, other = (_one([*g.input, *g.initializer, *g.node], rng) for _ in range(2))
    if one is None:
        return
    if isinstance(one, onnx.NodeProto):
        name = other.output[0] if isinstance(other, onnx.NodeProto) else other.name
        if one.output:
            one.output[0] = name
    elif not isinstance(other, onnx.NodeProto):
        one.name = other.name


def _operand(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Another operand: of a later node (a cycle), of nobody, none."""
    nodes = _nodes(model)
    node = _one([n for n in nodes if n.input], rng)
    if node is not None:
        outputs = [o for n in nodes for o in n.output]
        names = [*outputs, *(t.name for t in _held(model)), "nobody", ""]
        node.input[int(rng.integers(len(node.input)))] = _one(names, rng)


def _operands(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """One operand or result more or less."""
    node = _one(_nodes(model), rng)
    if node is None:
        return
    part = node.input if rng.random() < 0.7 else node.output
    if part and rng.random() < 0.6:
        del part[int(rng.integers(len(part)))]
    else:
        part.append(part[0] if part and rng.random() < 0.5 else "more")


def _attribute(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Another value, type or name of an attribute, or none of it."""
    node = _one([n for n in _nodes(model) if n.attribute], rng)
    if node is None:
        return
    a = _one(node.attribute, rng)
    how = rng.random()
    if how < 0.1:
        node.attribute.remove(a)
    elif how < 0.2:
        a.type = int(rng.integers(0, 15))
    elif how < 0.25:
        a.name = "nobody_knows"
    elif how < 0.3:
        node.attribute.add().CopyFrom(a)
    elif a.ints:
        a.ints[int(rng.integers(len(a.ints)))] = int(_one(EXTREMES, rng))
    elif a.type == onnx.AttributeProto.FLOAT:
        a.f = float(_one(_FLOATS, rng))
    elif a.type == onnx.AttributeProto.STRING:
        a.s = _one((b"", b"\xff\xfe", b"NOTSET", b"x" * 1000), rng)
    elif a.type == onnx.AttributeProto.INT:
        a.i = int(_one(EXTREMES, rng))
    elif a.HasField("g"):
        whole = onnx.GraphProto()
        whole.CopyFrom(model.graph)  # protobuf cannot copy a message into a part of itself
        _one((lambda: a.g.ClearField("output"), lambda: a.g.ClearField("node"),
              lambda: a.g.input.add(), lambda: a.g.CopyFrom(whole)), rng)()


def _operator(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    nodes = _nodes(model)
    node = _one(nodes, rng)
    if node is not None:
        node.op_type = _one([*_OPS, *(n.op_type for n in nodes)], rng)
        if rng.random() < 0.1:
            node.domain = "com.nobody"


def _opset(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    model.opset_import[0].version = int(rng.choice([-1, 0, 1, 5, 9, 12, 13, 17, 99]))


def _nodes_turned(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])


def _output(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    g = model.graph
    how = rng.random()
    if how < 0.3:
        g.ClearField("output")
    elif how < 0.6:
        g.output.add().name = "nobody"
    elif g.output:
        g.output.add().CopyFrom(g.output[0])


FAULTS: tuple[Fault, ...] = (
    _element_type, _declared_size, _declared_rank, _constant_type, _constant_dims,
    _constant_values, _constant_values, _constant_away, _data_elsewhere, _name_twice, _operand,
    _operand, _operands, _attribute, _attribute, _operator, _opset, _nodes_turned, _output,
)  # fmt: skip
"""Ways to break a model; those that reach most are there twice."""
