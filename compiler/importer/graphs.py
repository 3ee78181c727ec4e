"""Imports graphs: scopes, nodes in order, regions, functions, and the list of gaps.

Every node is lowered by the function registered for its operator; else by the body of a function
the model defines, or that ONNX publishes for the operator; else it is a gap. An error names the
node, its operator, opset and operand types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import EvonnxError, Gap, LimitError, ModelError, UnsupportedError, quote
from ...ir.graph import Graph, Value
from ...ir.types import LooseTensor, TensorType, Type
from ...runtime.feeds import Feeds
from ..messages import AttributeProto, FunctionProto, GraphProto, NodeProto, ValueInfoProto
from ..needs import DependsOnFeeds, Need
from .context import Ctx, Region, node_name, op_title
from .declarations import Signature, newest_opset, signature
from .model import MAX_NESTING, Source, canonical_domain, read_opsets, subgraphs
from .registry import EXTENSIONS, find_lowering
from .scope import Poisoned, Scope, ordered
from .signature import check_node, defaults, function_body
from .strings import host_strings
from .tensors import check_size, dtype_of, load_constants, sparse_to_array
from .tidy import tidy
from .types import SizeNames, input_type, lacks_rank, with_element_shape


@dataclass(slots=True)
class Frame:
    """Where nodes are being imported: names, opsets, and a function's actual attributes."""

    scope: Scope
    opsets: Mapping[str, int]
    attrs: Mapping[str, AttributeProto] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    """Names of the function calls around, for provenance."""
    active: tuple[tuple[str, str], ...] = ()
    """Functions being expanded: none may contain itself."""


class Importer:
    """State of one import; ``collect`` makes it list gaps instead of stopping at the first."""

    def __init__(
        self,
        source: Source,
        sizes: SizeNames,
        shapes: Mapping[str, Sequence[int | str | None]] | None = None,
        fixed: Mapping[str, Any] | None = None,
        collect: bool = False,
    ) -> None:
        self.source, self.sizes = source, sizes
        self.shapes = dict(shapes or {})
        self.fixed = dict(fixed or {})
        self.constants = source.constants
        self.gaps: list[Gap] | None = [] if collect else None
        self.needs: list[Need] = []
        """What has to be fed before the program can be written, as far as ``collect`` got."""
        self.main = Builder(source.constants)
        """The builder of the main graph."""
        self.bound: dict[str, tuple[Value, Builder]] = {}
        """For each symbol that a ``bind`` node defines: the value, and the builder it is in."""
        self.regions: dict[Builder, Scope] = {}
        """The scope of each region, by its builder."""
        self._depth = 0

    # -- graphs ----------------------------------------------------------------------------

    def run(self) -> Graph:
        """Imports the model's main graph."""
        graph, b = self.source.proto.graph, self.main
        scope = Scope(b)
        frame = Frame(scope, self.source.opsets)
        if not graph.output:
            raise ModelError("the model's graph is empty: it has no outputs")
        initialized = {t.name for t in graph.initializer}
        initialized |= {t.values.name for t in graph.sparse_initializer}
        for info in graph.input:
            if info.name in scope.values:
                raise ModelError(f"two inputs are called {quote(info.name)}")
            if info.name in initialized:
                continue  # a default; we take it as the constant it is nearly always
            if not info.name:
                raise ModelError("an input has no name")
            if info.name in self.fixed:
                scope.values[info.name] = self._fixed_input(info, b)
            elif info.name not in self.shapes and lacks_rank(info):
                scope.values[info.name] = None
                self.needs.append(Need(info.name, "rank", "", "the model declares no shape"))
            else:
                scope.values[info.name] = b.input(info.name, self._input_type(info, b))
        unknown = sorted({*self.shapes, *self.fixed} - {i.name for i in graph.input})
        if unknown:
            raise ModelError(f"the model has no input {quote(unknown[0])}")
        if self.needs and self.gaps is None:
            raise DependsOnFeeds(self.needs)
        self._body(graph, frame, main=True)
        outputs = self._outputs(graph, scope)
        return host_strings(b.build(outputs))

    def signature(self) -> tuple[dict[str, Type], tuple[str, ...]]:
        """Declared types of the inputs that a caller feeds (loose: no rank), names of outputs."""
        graph, b = self.source.proto.graph, Builder()
        default = {t.name for t in graph.initializer}
        default |= {t.values.name for t in graph.sparse_initializer}
        types: dict[str, Type] = {}
        for i in graph.input:
            if i.name in default or i.name in self.fixed:
                continue
            if i.name not in self.shapes and lacks_rank(i):
                what = f"input {quote(i.name)}"
                types[i.name] = LooseTensor(dtype_of(i.type.tensor_type.elem_type, what))
            else:
                types[i.name] = self._input_type(i, b)
        return types, tuple(o.name for o in graph.output)

    def _input_type(self, info: ValueInfoProto, b: Builder) -> Type:
        given = self.shapes.get(info.name)
        if given is None:
            return input_type(info, b, self.sizes)
        what = f"input {quote(info.name)}"
        shape = tuple(
            b.fresh(f"{info.name[:40]}_{axis}") if d is None
            else self.sizes.dim(d) if isinstance(d, str) else int(d)
            for axis, d in enumerate(given)
        )  # fmt: skip
        if info.type.WhichOneof("value") != "tensor_type":
            return with_element_shape(input_type(info, b, self.sizes), shape, what)
        type_ = TensorType(dtype_of(info.type.tensor_type.elem_type, what), shape)
        check_size(type_, what)
        return type_

    def _fixed_input(self, info: ValueInfoProto, b: Builder) -> Value:
        """The value given for an input; what has no dtype of its own takes the declared one."""
        what, given = f"input {quote(info.name)}", self.fixed[info.name]
        if info.type.WhichOneof("value") != "tensor_type":
            raise ModelError(f"{what} is not a tensor; it cannot be given as a constant")
        declared = dtype_of(info.type.tensor_type.elem_type, what)
        if isinstance(given, (list, tuple, int, float, bool)):
            given = Feeds([(info.name, 0, LooseTensor(declared))]).arrays({info.name: given})[0]
        if not lacks_rank(info):
            input_type(info, Builder(), self.sizes)  # the sizes it names are the model's
        array = np.asarray(given)
        if array.dtype != declared.np:
            raise ModelError(f"{what} is {declared}, but its constant is {array.dtype}")
        return b.const(array)

    def _outputs(self, graph: GraphProto, scope: Scope) -> list[tuple[str, Value]]:
        outputs: list[tuple[str, Value]] = []
        seen: set[str] = set()
        for info in graph.output:
            if info.name in seen:
                raise ModelError(f"two outputs are called {quote(info.name)}")
            seen.add(info.name)
            if not scope.known(info.name):
                raise ModelError(f"output {quote(info.name)} is not made by any node")
            try:
                value = scope.find(info.name)
            except Poisoned:
                continue
            _check_declared(info, value)
            outputs.append((info.name, value))
        return outputs

    def _body(self, graph: GraphProto, frame: Frame, main: bool = False) -> None:
        scope = frame.scope
        for name, (digest, type_) in self._initializers(graph, main):
            if not name or name in scope.values:
                raise ModelError(f"initializer {quote(name)} has no name of its own")
            scope.values[name] = scope.b.const_ref(digest, type_)
        for s in graph.sparse_initializer:
            if not s.values.name or s.values.name in scope.values:
                raise ModelError(f"initializer {quote(s.values.name)} has no name of its own")
            array = sparse_to_array(s, self.source.files)
            scope.values[s.values.name] = scope.b.const(array)
        self._nodes(graph.node, frame)

    def _initializers(
        self, graph: GraphProto, main: bool
    ) -> list[tuple[str, tuple[str, TensorType]]]:
        """(name, (digest, type)) of the initializers; those of the main graph are read once."""
        tensors = list(graph.initializer)
        if not main:
            loaded = load_constants(tensors, self.constants, self.source.files, {})
            return [(t.name, entry) for t, entry in zip(tensors, loaded, strict=True)]
        source = self.source
        if source.initializers is None:
            source.initializers = load_constants(
                tensors, self.constants, source.files, source.left_out
            )
        return [(t.name, e) for t, e in zip(tensors, source.initializers, strict=True)]

    def _nodes(self, nodes: Sequence[NodeProto], frame: Frame) -> None:
        self._depth += 1
        try:
            if self._depth > MAX_NESTING:
                raise LimitError(f"graphs and functions are nested deeper than {MAX_NESTING}")
            for node in ordered(nodes, frame.scope):
                self._node(node, frame)
        finally:
            self._depth -= 1

    # -- nodes -----------------------------------------------------------------------------

    def _node(self, node: NodeProto, frame: Frame) -> None:
        scope = frame.scope
        try:
            inputs = [scope.find(name) if name else None for name in node.input]
            results = self.apply(node, frame, inputs)
        except Poisoned:
            self._poison(node, frame)
            return
        except DependsOnFeeds as error:
            if self.gaps is None:
                raise
            self.needs.extend(error.needs)
            self._poison(node, frame)
            return
        except UnsupportedError as error:
            if self.gaps is None:
                raise
            self.gaps.extend(error.gaps)
            self._poison(node, frame)
            return
        for name, value in zip(node.output, results, strict=False):
            if name:
                scope.values[name] = value
        for name in node.output:
            if name and name not in scope.values:
                raise ModelError(f"node {node_name(node)} does not make its output {quote(name)}")

    def apply(
        self,
        node: NodeProto,
        frame: Frame,
        inputs: list[Value | None],
        opset: int | None = None,
    ) -> tuple[Value | None, ...]:
        """Lowers one node on given operands; errors name the node."""
        domain = canonical_domain(node.domain)
        version = self._opset(domain, frame, node) if opset is None else opset
        while inputs and inputs[-1] is None:
            inputs.pop()
        attrs = self._attributes(node, frame)
        ctx = Ctx(self, frame, node, version, inputs, attrs)
        b = frame.scope.b
        before = b.default_origin
        b.default_origin = (*frame.path, node.name or next(iter(node.output), ""))
        try:
            results = self._lower(ctx, domain, attrs)
            for v in results:
                if v is not None and isinstance(v.type, TensorType):
                    check_size(v.type, "the result")
            return results
        except (Poisoned, _Located, DependsOnFeeds):
            raise
        except UnsupportedError as error:
            raise _located_gap(error, ctx) from None
        except EvonnxError as error:
            text = f"node {node_name(node)}: {ctx.describe()}: {error}"
            raise type(error)(text) from error
        except (ArithmeticError, LookupError, TypeError, ValueError, AssertionError) as error:
            raise ModelError(
                f"node {node_name(node)}: {ctx.describe()}: cannot be made sense of"
                f" ({type(error).__name__}: {quote(error, 200)})"
            ) from error
        finally:
            b.default_origin = before

    def _lower(
        self, ctx: Ctx, domain: str, attrs: dict[str, AttributeProto]
    ) -> tuple[Value | None, ...]:
        node, frame = ctx.node, ctx._frame
        local = self.source.functions.get((domain, node.op_type, node.overload))
        if local is not None:
            return self._call(local, ctx, attrs, None)
        sig = signature(domain, node.op_type, ctx.opset)
        fn = find_lowering(domain, node.op_type, ctx.opset)
        if sig is not None:
            if sig.deprecated and fn is None:
                ctx.fail(f"ONNX removed the operator in opset {sig.since}")
            check_node(node, ctx.inputs, attrs, sig)
        elif fn is None or (domain in ("", "ai.onnx.ml") and node.op_type not in EXTENSIONS):
            ctx.fail(_unknown(domain, node.op_type, ctx.opset))
        if fn is None:
            return self.published_body(ctx)
        result = fn(ctx, node)
        results = result if isinstance(result, tuple) else (result,)
        return tuple(v if v is None else tidy(frame.scope.b, v) for v in results)

    def published_body(self, ctx: Ctx) -> tuple[Value | None, ...]:
        """See ``Ctx.function_body``."""
        node = ctx.node
        attrs = self._attributes(node, ctx._frame)
        if any(a.ref_attr_name for a in node.attribute):  # the builder reads actual values
            node = NodeProto()
            node.CopyFrom(ctx.node)
            del node.attribute[:]
            for name, a in attrs.items():
                copy = node.attribute.add()
                copy.CopyFrom(a)
                copy.name = name
        sig = signature(canonical_domain(node.domain), node.op_type, ctx.opset)
        body = None if sig is None else function_body(sig, ctx.opset, node, ctx.inputs)
        if body is None:
            ctx.fail("the operator is not supported yet")
        return self._call(body, ctx, attrs, sig)

    def _opset(self, domain: str, frame: Frame, node: NodeProto) -> int:
        found = frame.opsets.get(domain)
        if found is None:
            if domain == "":
                raise ModelError(
                    f"node {node_name(node)}: the model does not import the default domain"
                )
            return 1
        return found

    @staticmethod
    def _attributes(node: NodeProto, frame: Frame) -> dict[str, AttributeProto]:
        attrs: dict[str, AttributeProto] = {}
        for a in node.attribute:
            if a.name in attrs:
                raise ModelError(f"node {node_name(node)}: attribute {quote(a.name)} is repeated")
            if a.ref_attr_name:
                actual = frame.attrs.get(a.ref_attr_name)
                if actual is None:
                    continue
                attrs[a.name] = actual
            else:
                attrs[a.name] = a
        return attrs

    def _poison(self, node: NodeProto, frame: Frame) -> None:
        """Marks the node's outputs unknown; with unknown inputs, still looks for a lowering."""
        for name in node.output:
            if name:
                frame.scope.values[name] = None
        assert self.gaps is not None
        stack = [node]
        while stack:
            n = stack.pop()
            domain = canonical_domain(n.domain)
            opset = frame.opsets.get(domain, 1)
            key = (domain, n.op_type, n.overload)
            if key not in self.source.functions and not has_lowering(domain, n.op_type, opset):
                gap = Gap(node_name(n), op_title(n, opset), _unknown(domain, n.op_type, opset))
                if all(
                    (g.node, g.op.split(" (")[0]) != (gap.node, gap.op.split(" (")[0])
                    for g in self.gaps
                ):
                    self.gaps.append(gap)
            for graph in subgraphs(n):
                stack.extend(graph.node)

    # -- regions and functions -------------------------------------------------------------

    def region(
        self, graph: GraphProto, frame: Frame, types: Sequence[Type | None] | None
    ) -> Region:
        """See ``Ctx.region``."""

        def fill(inner: Frame) -> list[tuple[str, Value]]:
            self._formals(graph, inner.scope, types)
            self._body(graph, inner)
            find = inner.scope.find
            return [(o.name or f"output.{i}", find(o.name)) for i, o in enumerate(graph.output)]

        return self._closed(frame, fill)

    def built_region(
        self,
        ctx: Ctx,
        types: Sequence[Type | None],
        build: Callable[[Ctx, list[Value]], Sequence[Value]],
    ) -> Region:
        """See ``Ctx.built_region``."""

        def fill(inner: Frame) -> list[tuple[str, Value]]:
            b = inner.scope.b
            b.default_origin = ctx.b.default_origin
            formals: list[Value | None] = [
                b.input(f"formal.{i}", t) for i, t in enumerate(types) if t is not None
            ]
            within = Ctx(self, inner, ctx.node, ctx.opset, formals, ctx._attrs)
            made = build(within, [within.input(i) for i in range(len(formals))])
            return [(f"output.{i}", v) for i, v in enumerate(made)]

        return self._closed(ctx._frame, fill)

    def _closed(self, frame: Frame, fill: Callable[[Frame], list[tuple[str, Value]]]) -> Region:
        """A region inside ``frame``: ``fill`` makes its inputs and nodes and gives its outputs."""
        outer = frame.scope.b
        symbols = set(outer.taken)
        b = Builder(self.constants)
        b.reserve(symbols)
        scope = self.regions[b] = Scope(b, frame.scope)
        values = fill(Frame(scope, frame.opsets, frame.attrs, frame.path, frame.active))
        scope.close(symbols, outer, [v for _, v in values])
        outer.reserve(b.taken)
        return Region(host_strings(b.build(values)), tuple(scope.captures))

    def _formals(
        self, graph: GraphProto, scope: Scope, types: Sequence[Type | None] | None
    ) -> None:
        if types is not None and len(types) != len(graph.input):
            raise ModelError(
                f"a subgraph has {len(graph.input)} inputs where {len(types)} are passed"
            )
        for i, info in enumerate(graph.input):
            given = None if types is None else types[i]
            type_ = given if given is not None else input_type(info, scope.b, self.sizes)
            if info.name in scope.values:
                raise ModelError(f"two inputs of a subgraph are called {quote(info.name)}")
            scope.values[info.name] = scope.b.input(info.name, type_)

    def inline(
        self, graph: GraphProto, frame: Frame, inputs: Sequence[Value | None]
    ) -> tuple[Value, ...]:
        """See ``Ctx.inline``."""
        if len(inputs) != len(graph.input):
            raise ModelError(
                f"a subgraph has {len(graph.input)} inputs where {len(inputs)} are passed"
            )
        scope = Scope(frame.scope.b, frame.scope)
        for info, value in zip(graph.input, inputs, strict=True):
            scope.values[info.name] = value
        inner = Frame(scope, frame.opsets, frame.attrs, frame.path, frame.active)
        self._body(graph, inner)
        return tuple(scope.find(o.name) for o in graph.output)

    def _call(
        self,
        fn: FunctionProto,
        ctx: Ctx,
        attrs: dict[str, AttributeProto],
        sig: Signature | None,
    ) -> tuple[Value | None, ...]:
        """Expands a function body in place."""
        frame = ctx._frame
        key = (fn.domain, fn.name)
        if key in frame.active:
            raise ModelError(f"function {quote(fn.name)} contains itself")
        if len(ctx.inputs) > len(fn.input) or ctx.n_outputs > len(fn.output):
            raise ModelError(f"function {quote(fn.name)} is called with too many values")
        actual = {a.name: a for a in fn.attribute_proto}
        if sig is not None:
            actual |= defaults(sig)
        actual |= attrs
        opsets = read_opsets(fn.opset_import, f"function {quote(fn.name)}") or dict(frame.opsets)
        opsets.setdefault("", frame.opsets.get("", newest_opset()))
        scope = Scope(frame.scope.b)
        for i, name in enumerate(fn.input):
            value = ctx.optional(i)
            if value is not None:
                scope.values[name] = value
        absent = {n for i, n in enumerate(fn.input) if ctx.optional(i) is None}
        nodes = [_without(n, absent) for n in fn.node] if absent else list(fn.node)
        path = (*frame.path, ctx.node.name or fn.name)
        self._nodes(nodes, Frame(scope, opsets, actual, path[-4:], (*frame.active, key)))
        return tuple(
            scope.find(name) if i < ctx.n_outputs and ctx.wants(i) else None
            for i, name in enumerate(fn.output)
        )


class _Located(UnsupportedError):
    """A refusal that names its node already."""


def _located_gap(error: UnsupportedError, ctx: Ctx) -> UnsupportedError:
    gaps = error.gaps or (Gap(node_name(ctx.node), ctx.describe(), str(error)),)
    return _Located("; ".join(f"node {g}" for g in gaps), gaps)


def _without(node: NodeProto, absent: set[str]) -> NodeProto:
    """The node with operands that the call leaves out left out as well."""
    if not absent.intersection(node.input):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    for i, name in enumerate(copy.input):
        if name in absent:
            copy.input[i] = ""
    return copy


def has_lowering(domain: str, op: str, opset: int) -> bool:
    """Whether a node of this operator can be lowered: by a function of ours or by a function body
    that ONNX publishes."""
    if find_lowering(domain, op, opset) is not None:
        known = domain not in ("", "ai.onnx.ml") or op in EXTENSIONS
        return known or signature(domain, op, opset) is not None
    sig = signature(domain, op, opset)
    return sig is not None and not sig.deprecated and sig.has_body


def _unknown(domain: str, op: str, opset: int) -> str:
    if signature(domain, op, opset) is not None:
        return "the operator is not supported yet"
    return f"there is no operator {quote(op)} in domain {quote(domain)} at opset {opset}"


def _check_declared(info: ValueInfoProto, value: Value) -> None:
    """The declared element type must be what is computed. Declared sizes of outputs are often
    stale in real files (a batch made dynamic afterwards): the computed shape is the result."""
    if not info.HasField("type") or info.type.WhichOneof("value") != "tensor_type":
        return
    number = info.type.tensor_type.elem_type
    if number == 0:
        return
    declared = dtype_of(number, f"output {quote(info.name)}")
    if isinstance(value.type, TensorType) and value.dtype != declared:
        raise ModelError(
            f"output {quote(info.name)} is declared as {declared}, but is computed as {value.type}"
        )
