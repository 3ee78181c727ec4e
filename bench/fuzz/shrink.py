"""A failing model made small: options, nodes, outputs and sizes go while the failure stays.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002)
on the ONNX graph itself. Tried in turn, until nothing helps: fewer options; one output alone; an
intermediate value as the output, which drops everything behind it; an operand that is computed
replaced by an input of its type, which drops everything before it; a node replaced by one of its
operands of the same type; symbols replaced by their sizes. Types of values come from the model's
``value_info``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import onnx

from .generate import Example, _reads

Fails = Callable[[Example], bool]
"""Whether an example still shows the failure."""


def shrink(given: Example, fails: Fails, tries: int = 150) -> Example:
    """The smallest example found for which ``fails`` holds, in at most ``tries`` trials."""
    best, left = given, tries
    progress = True
    while progress and left > 0:
        progress = False
        for smaller in candidates(best):
            if left <= 0:
                break
            left -= 1
            if fails(smaller):
                best, progress = smaller, True
                break
    return best


def candidates(given: Example) -> Iterator[Example]:
    """Smaller examples, the boldest first."""
    graph = given.model.graph
    known = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}
    yield from _with_less(given)
    if len(graph.output) > 1:
        for v in graph.output:
            yield _with(given, graph.node, [v], graph.input)
    if len(given.bindings) > 1:
        for binding in given.bindings:
            yield _static(given, binding)
    for k, node in enumerate(graph.node):  # end early
        ends = [known[n] for n in node.output if n in known]
        if ends and any(o.name not in node.output for o in graph.output):
            yield _with(given, graph.node[: k + 1], ends, graph.input)
    held = {t.name for t in graph.initializer} | {v.name for v in graph.input}
    for node in reversed(graph.node):  # start late
        for name in node.input:
            if name in known and name not in held and _typed(known[name]):
                yield _cut(given, known[name])
    for k, node in enumerate(graph.node):  # leave one out
        for name in node.input:
            if len(node.output) and node.output[0] in known and name in known and (
                    known[name].type == known[node.output[0]].type):
                yield _bypass(given, k, name)


def _with_less(given: Example) -> Iterator[Example]:
    """Without any option, then without one of them."""
    options = given.options
    if options:
        yield replace(given, options={})
    for name in options:
        yield replace(given, options={k: v for k, v in options.items() if k != name})
    for step in options.get("after", ()):
        rest = [s for s in options["after"] if s != step]
        if rest:
            yield replace(given, options={**options, "after": rest})


def _typed(v: onnx.ValueInfoProto) -> bool:
    t = v.type.tensor_type
    return t.HasField("shape") and all(d.HasField("dim_value") for d in t.shape.dim)


def _with(given: Example, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto],
          inputs: list[onnx.ValueInfoProto], more: dict[str, str] | None = None) -> Example:
    """An example of some nodes; dead nodes, constants and inputs go."""
    wanted = {v.name for v in outputs}
    kept = []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for a in copy.attribute:
                if a.HasField("g"):
                    _prune(a.g)
            kept.append(copy)
            wanted |= set(_reads(copy))
    graph = given.model.graph
    model = onnx.ModelProto()
    model.CopyFrom(given.model)
    new = model.graph
    for part in (new.node, new.input, new.output, new.initializer, new.value_info):
        del part[:]
    new.node.extend(reversed(kept))
    new.output.extend(outputs)
    new.input.extend(v for v in inputs if v.name in wanted)
    new.initializer.extend(t for t in graph.initializer if t.name in wanted)
    made = {n for node in kept for n in node.output}
    new.value_info.extend(v for v in (*graph.value_info, *graph.output)
                          if v.name in made and v.name not in {o.name for o in outputs})
    laws = given.laws | (more or {})
    return replace(given, model=model, laws={v.name: laws[v.name] for v in new.input})


def _prune(graph: onnx.GraphProto) -> None:
    """Drops the dead nodes and constants of a subgraph."""
    wanted = {v.name for v in graph.output}
    kept = []
    for node in reversed(list(graph.node)):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(_reads(node))
    held = [t for t in graph.initializer if t.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(held)


def _cut(given: Example, v: onnx.ValueInfoProto) -> Example:
    graph = given.model.graph
    nodes = [n for n in graph.node if v.name not in n.output]
    if any(o.name == v.name for o in graph.output):
        outputs = [o for o in graph.output if o.name != v.name]
    else:
        outputs = list(graph.output)
    law = _law(v.type.tensor_type.elem_type)
    return _with(given, nodes, outputs, [*graph.input, v], {v.name: law})


def _law(dtype: int) -> str:
    if dtype == onnx.TensorProto.BOOL:
        return "bool"
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16,
              onnx.TensorProto.BFLOAT16)
    return "normal" if dtype in floats else "small"


def _bypass(given: Example, k: int, name: str) -> Example:
    """Without node ``k``: its first result is its operand ``name``."""
    graph = given.model.graph
    gone = graph.node[k].output[0]
    if any(o.name == gone for o in graph.output):
        return given
    nodes = []
    for i, node in enumerate(graph.node):
        if i == k:
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for j, operand in enumerate(copy.input):
            if operand == gone:
                copy.input[j] = name
        nodes.append(copy)
    return _with(given, nodes, list(graph.output), list(graph.input))


def _static(given: Example, binding: dict[str, int]) -> Example:
    """The example with its symbols replaced by their sizes."""
    graph = given.model.graph
    inputs = []
    for v in graph.input:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(v)
        for d in copy.type.tensor_type.shape.dim:
            if d.dim_param:
                d.dim_value = binding[d.dim_param]
        inputs.append(copy)
    return replace(_with(given, list(graph.node), list(graph.output), inputs), bindings=[{}])
