"""Reads a model: from a path, bytes or a ``ModelProto``, and checks what nodes build on.

Reading never executes or allocates what a model merely declares: nesting is measured with an
explicit stack before anything recursive looks at the model, opsets and names are checked before
the first node is lowered.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Union

from google.protobuf.message import DecodeError

from ...ir.errors import LimitError, ModelError, UnsupportedError, quote
from ...ir.graph import Constants
from ...ir.types import TensorType
from ...runtime.artefact import is_artefact
from ...runtime.machine import version_of
from ..messages import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto
from ..modelfile import Contents, ModelFile, model_file
from .declarations import newest_opset
from .external import ExternalFiles

Model = Union[str, "os.PathLike[str]", bytes, ModelFile, ModelProto]

MIN_OPSET = 1
"""Oldest opset of the default domain."""
MAX_NESTING = 40
"""Deepest nesting of subgraphs and function bodies."""

_ALIASES = {"ai.onnx": ""}


@dataclass(slots=True)
class Source:
    """A model that was read, and where its data files may lie."""

    proto: ModelProto
    files: ExternalFiles
    opsets: dict[str, int]
    functions: dict[tuple[str, str, str], FunctionProto] = field(default_factory=dict)
    """Functions of the model by (domain, name, overload)."""
    constants: Constants = field(default_factory=Constants)
    """Arrays of the initializers, shared by all imports of this source."""
    initializers: list[tuple[str, TensorType]] | None = None
    """(digest, type) of each initializer of the main graph, once they have been read."""
    left_out: dict[int, tuple[ModelFile, Contents]] = field(default_factory=dict)
    """Where the data of initializers lie that ``proto`` lacks, by position in the main graph."""


def canonical_domain(domain: str) -> str:
    """``ai.onnx`` is another name of the default domain."""
    return _ALIASES.get(domain, domain)


def read(model: Model) -> Source:
    """Parses and checks ``model``; raises ``ModelError``, ``UnsupportedError``, ``LimitError``."""
    if isinstance(model, ModelProto):
        proto, file = model, None
    else:
        file = model if isinstance(model, ModelFile) else model_file(model)
        proto = _parse(file)
    if not proto.HasField("graph"):
        raise ModelError("the model holds no graph (not an ONNX model, or a truncated one)")
    check_graphs(proto)
    opsets = read_opsets(proto.opset_import, "the model")
    if not opsets and proto.ir_version < 3:
        opsets = {"": 1}  # models of the first IR versions name no opset: it is the first one
    functions: dict[tuple[str, str, str], FunctionProto] = {}
    for f in proto.functions:
        key = (canonical_domain(f.domain), f.name, f.overload)
        if key in functions:
            raise ModelError(f"function {quote(f.name)} of {quote(f.domain)} is defined twice")
        functions[key] = f
    folder = None if file is None else file.folder
    left_out = {} if file is None else {c.initializer: (file, c) for c in file.contents}
    return Source(proto, ExternalFiles(folder), opsets, functions, left_out=left_out)


def _parse(file: ModelFile) -> ModelProto:
    if file.size == 0:
        raise ModelError(f"{file.name}: the model is empty (0 bytes)")
    if is_artefact(file.outline[:16]):
        raise ModelError(f"{file.name} is a compiled program, which evonnx.load reads, not an ONNX "
                         "model")
    try:
        return ModelProto.FromString(file.outline)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{file.name} ({file.size} bytes) is not an ONNX model, or is truncated: {quote(error)}"
        ) from None


def read_opsets(imports: Any, what: str) -> dict[str, int]:
    """Opset version by domain; the default domain must lie within what is supported."""
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = canonical_domain(entry.domain)
        if opsets.get(domain, entry.version) != entry.version:
            raise ModelError(f"{what} imports domain {quote(domain)} in two versions")
        opsets[domain] = entry.version
    newest = newest_opset()
    version = opsets.get("")
    if version is not None and not MIN_OPSET <= version <= newest:
        raise UnsupportedError(
            f"{what} uses opset {version}; supported are {MIN_OPSET} to {newest}"
            f" (onnx {version_of('onnx')})"
        )
    return opsets


def check_graphs(model: ModelProto) -> None:
    """Raises ``LimitError`` for subgraphs nested deeper than ``MAX_NESTING`` (explicit stack), and
    ``ModelError`` for names that are no text."""
    stack: list[tuple[Any, int]] = [(model.graph, 1)]
    stack.extend((f, 1) for f in model.functions)
    while stack:
        holder, depth = stack.pop()
        if depth > MAX_NESTING:
            raise LimitError(f"subgraphs are nested deeper than {MAX_NESTING} levels")
        _check_names(holder)
        for node in holder.node:
            for graph in subgraphs(node):
                stack.append((graph, depth + 1))


def _check_names(holder: GraphProto | FunctionProto) -> None:
    """Raises ``ModelError`` for a name that is not UTF-8: protobuf hands it on as bytes."""
    names = [name for node in holder.node
             for name in (node.name, node.op_type, node.domain, *node.input, *node.output,
                          *(a.name for a in node.attribute))]
    if isinstance(holder, GraphProto):
        for named in (holder.input, holder.output, holder.initializer, holder.value_info):
            names += [v.name for v in named]
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"the name {quote(name)} in the model is not UTF-8")


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Graphs among the node's attributes."""
    found: list[GraphProto] = []
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            found.append(a.g)
        elif a.type == AttributeProto.GRAPHS:
            found.extend(a.graphs)
    return found
