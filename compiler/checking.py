"""``check=True``: the compiled model against the reference interpreter.

Three questions, in order: is the optimized graph still the imported one (if not, which pass changed
it, by which rule, at which node); does the compiled model give the optimized graph's outputs; and
if not, which group's result is the first that differs. For the last one the same schedule is
compiled once more with every group's results exposed as outputs, and every group is judged on the
operands it was really given, so that an early error is not blamed on what comes after it.

The reference runs in float64 and, where that disagrees, in the declared types: float32 overflows
and rounds where float64 does not, and a result is right if it agrees with either. Where every group
is right on its own operands and the model gives what its groups give, the model is right as well:
deep or quantized networks may carry a rounding far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import interp
from ..ir.dims import free_symbols
from ..ir.errors import CheckError, EvonnxError, FeedError
from ..ir.graph import Graph, Node, Value
from ..ir.schedule import Schedule
from ..ir.text import namer, node_lines
from ..ir.types import TensorType
from ..passes.driver import rewrite
from ..passes.manager import RulePass, parse_spec
from ..passes.registry import PASSES
from ..runtime.executable import Executable
from .feeds import random_feeds
from .pipeline import PIPELINE, run_pipeline

if TYPE_CHECKING:
    from .api import Compiled

TOLERANCE = 1e-3
"""Largest error allowed, relative to the largest magnitude of the tensor (float32 results)."""
EXACT = TOLERANCE / 10
"""The same between two graphs that are both run in float64."""
UNIFORM = (2, 4, 8, 16, 32, 64, 1, 96, 128, 224, 256, 320)
"""Sizes tried for all symbols at once, after small different ones."""

JUMPS = frozenset({"round", "floor", "ceil", "sign", "eq", "lt", "le", "argmax", "argmin", "topk",
                   "mod", "fmod", "nonzero", "nms", "unique"})  # fmt: skip
"""Ops whose result jumps where their operand moves by a rounding; casts to integers do, too."""
FLIPS = 100
"""In a group with a jump, one element in this many may be on the other side of it."""

Feeds = Mapping[str, Any]


def error_of(got: Any, want: Any) -> float:
    """Largest absolute difference over the largest finite magnitude of ``want``; NaN must meet NaN
    and infinity the same infinity, else the answer is infinity. Strings and sequences: 0 or inf."""
    if not isinstance(want, np.ndarray) or want.dtype == object:
        return 0.0 if _same_host(got, want) else np.inf
    if np.shape(got) != want.shape:
        return np.inf
    kind = np.complex128 if np.iscomplexobj(want) else np.float64
    a, b = np.asarray(got).astype(kind), want.astype(kind)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(b[finite]).max()), 1e-6)
    worst = float(np.abs(a[finite] - b[finite]).max())
    return worst / scale if worst == worst else np.inf


def _same_host(got: Any, want: Any) -> bool:
    """Whether host values agree: lists and maps entry by entry, numbers within the tolerance."""
    if isinstance(want, Mapping):
        return isinstance(got, Mapping) and list(got) == list(want) and _same_host(
            list(got.values()), list(want.values()))
    if isinstance(want, (list, tuple)):
        return (isinstance(got, (list, tuple)) and len(got) == len(want)
                and all(map(_same_host, got, want)))
    if isinstance(want, np.ndarray) and want.dtype == object:
        return np.array_equal(got, want)
    if isinstance(want, (np.ndarray, np.generic, float)):
        return error_of(got, np.asarray(want)) <= TOLERANCE
    return bool(got == want)


def check_compiled(compiled: Compiled, spec: str | None, feeds: Feeds | None = None) -> None:
    """Raises ``CheckError`` naming the first pass and node, or the first group, that is wrong.

    ``spec`` is the pipeline the model was compiled with, ``feeds`` what to compare on (None:
    random arrays; symbolic sizes are tried until the model accepts them). Raises ``FeedError`` if
    no feeds are found that the reference accepts."""
    if feeds is not None:
        version = compiled.version_for(feeds)
        fixed = set(compiled.input_names).difference(version.input_names)
        compiled, feeds = version, {n: v for n, v in feeds.items() if n not in fixed}
    graph = compiled.imported
    feeds, want = chosen_feeds(graph) if feeds is None else (
        feeds, interp.run(graph, feeds, float64=True))
    check_passes(graph, spec, feeds, want)
    got = compiled.executable.run(feeds)
    wrong = _wrong(got, want)
    if wrong:
        narrow = _wrong(got, interp.run(graph, feeds))
        wrong = {n: min(e, narrow[n]) for n, e in wrong.items() if n in narrow}
    if not wrong:
        return
    name = max(wrong, key=wrong.__getitem__)
    place = first_fault(compiled.graph, compiled.schedule, compiled.executable, feeds, got)
    if place is not None:
        raise CheckError(f"output {name!r} differs by {wrong[name]:.2g} of its scale; {place}")


def _wrong(got: Mapping[str, Any], want: Mapping[str, Any], tolerance: float = TOLERANCE
           ) -> dict[str, float]:
    errors = {n: error_of(got[n], want[n]) for n in want}
    return {n: e for n, e in errors.items() if e > tolerance}


# -- feeds -------------------------------------------------------------------------------------


def chosen_feeds(graph: Graph) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Random feeds that the reference accepts, and what it answers in float64."""
    inputs = {v.node.attrs["name"]: v.type for v in graph.inputs}
    symbols = sorted({s for t in inputs.values() if isinstance(t, TensorType)
                      for d in t.shape for s in free_symbols(d)})
    reason = ""
    for sizes in _sizes_to_try(symbols):
        feeds = random_feeds(inputs, sizes)
        try:
            return feeds, interp.run(graph, feeds, float64=True)
        except EvonnxError as error:
            reason = reason or str(error)
    tried = f" at any of the sizes tried for {', '.join(symbols)}" if symbols else ""
    raise FeedError(f"check: the model does not accept random inputs{tried}; give your own as "
                    f"check={{name: array}} ({reason})")


def _sizes_to_try(symbols: list[str]) -> Iterable[dict[str, int]]:
    yield {s: 3 + k for k, s in enumerate(symbols)}
    if symbols:
        yield from (dict.fromkeys(symbols, n) for n in UNIFORM)


# -- passes ------------------------------------------------------------------------------------


def check_passes(graph: Graph, spec: str | None, feeds: Feeds, want: Mapping[str, Any]) -> None:
    """Raises ``CheckError`` naming the first pass of ``spec`` that changes what ``graph`` means,
    with the rule and the node where they can be told."""
    before = graph
    for name, options in parse_spec(",".join(PIPELINE) if spec is None else spec, PASSES):
        step = f"{name}:{'+'.join(options)}" if options else name
        after = run_pipeline(before, step)
        wrong = None if after is before else _pass_wrong(after, feeds, want)
        if wrong is not None:
            output, reason = wrong
            node, part = _first_strange(before, after, output, feeds)
            if node is None or not jumps(node) or part * FLIPS > 1:
                blame = _blame(step, before, feeds, want)
                raise CheckError(f"pass {step!r} {reason}{blame}{_shown(node, after)}")
            want = interp.run(after, feeds, float64=True)  # a folded constant tipped a rounding
        before = after


def _pass_wrong(graph: Graph, feeds: Feeds, want: Mapping[str, Any]) -> tuple[str, str] | None:
    """(output, what is wrong with it) for the worst output of a rewritten graph."""
    try:
        wrong = _wrong(interp.run(graph, feeds, float64=True), want, EXACT)
    except EvonnxError as refusal:
        return "", f"makes a graph that cannot be run: {refusal}"
    if not wrong:
        return None
    name = max(wrong, key=wrong.__getitem__)
    return name, f"changes output {name!r} by {wrong[name]:.2g} of its scale"


def _blame(step: str, before: Graph, feeds: Feeds, want: Mapping[str, Any]) -> str:
    """The rules that do it on their own, as text."""
    rules = PASSES[step.partition(":")[0]]
    if not isinstance(rules, RulePass):
        return ""
    guilty = []
    for rule in rules.rules:
        alone, done = rewrite(before, [rule], rules.measure, rules.fuel)
        if done.fired and _pass_wrong(alone, feeds, want):
            guilty.append(rule.name)
    return f"; rule {', '.join(guilty)}" if guilty else ""


def _first_strange(before: Graph, after: Graph, output: str, feeds: Feeds
                   ) -> tuple[Node | None, float]:
    """The first node of ``after``, on the way to the wrong output, that computes what ``before``
    never did from operands that it did, and the part of its elements that are wrong."""
    known: dict[tuple[Any, ...], list[np.ndarray]] = {}
    values = dict(after.outputs)
    if output not in values:
        return None, 1.0

    def keep(node: Node, results: tuple[Any, ...]) -> None:
        for r in results:
            if isinstance(r, np.ndarray):
                known.setdefault(r.shape, []).append(r)

    interp.run(before, feeds, float64=True, observe=keep)
    strange: dict[Node, float] = {}

    def judge(node: Node, results: tuple[Any, ...]) -> None:
        for r in results:
            if not isinstance(r, np.ndarray):
                continue
            same = known.get(r.shape, ())
            if not any(error_of(r, k) <= EXACT for k in same):
                strange[node] = min((wrong_part(r, k) for k in same), default=1.0)

    interp.run(after, feeds, float64=True, observe=judge)
    node, seen = values[output].node, set()
    while True:
        seen.add(node)
        deeper = [v.node for v in node.operands
                  if v.node in strange and v.node not in seen and v.node.op != "const"]
        if not deeper:
            return node, strange.get(node, 1.0)
        node = max(deeper, key=after.index.__getitem__)


def _shown(node: Node | None, graph: Graph) -> str:
    if node is None:
        return ""
    line = next(iter(node_lines(node, namer(graph), graph.constants))).strip()
    return f"; first node that differs: {line}"


# -- groups ------------------------------------------------------------------------------------


def exposed(graph: Graph, schedule: Schedule) -> tuple[Graph, Schedule, dict[str, int]]:
    """The graph with every group's results as extra outputs, its schedule, and which group
    gives which output."""
    outputs: list[tuple[str, Value]] = []
    group_of: dict[str, int] = {}
    for k, written in enumerate(schedule.written(graph)):
        for i, v in enumerate(written):
            if isinstance(v.type, TensorType):
                outputs.append((f"g{k}.{i}", v))
                group_of[f"g{k}.{i}"] = k
    wide = Graph(graph.inputs, outputs, graph.nodes, graph.constants)
    return wide, Schedule(wide.digest, schedule.groups), group_of


def first_fault(graph: Graph, schedule: Schedule, like: Executable, feeds: Feeds,
                got: Mapping[str, Any]) -> str | None:
    """The first group whose results differ from the interpreter's on the same operands, described;
    or that the model's outputs ``got`` are not what its groups give; None if neither."""
    from .api import program_of

    wide, wide_schedule, group_of = exposed(graph, schedule)
    program = program_of(wide, wide_schedule, like.target)
    executable = Executable(program, wide.constants, like.target, like.threads)
    results = executable.run(feeds)
    suspects = [_judged(wide, results, feeds, float64) for float64 in (True, False)]
    members = schedule.members(graph)
    for name, v in wide.outputs:
        k = group_of[name]
        best = min((errors[name] for errors in suspects), key=lambda e: e[0])
        if best[0] > TOLERANCE and not (any(map(jumps, members[k])) and best[1] * FLIPS <= 1):
            return _describe(graph, schedule, k, best[0], v)
    shown = {v: name for name, v in wide.outputs}
    for name, v in graph.outputs:
        if v not in shown and v.node.op not in ("input", "const"):
            return f"output {name!r} is a {v.type}, which is made on the host"
        if v in shown and error_of(got[name], np.asarray(results[shown[v]])) > EXACT:
            return (f"every group alone is right, but output {name!r} is not what its group gives: "
                    "the memory plan or the threads are at fault")
    return None


def jumps(node: Node) -> bool:
    """Whether a rounding of an operand may move a result of the node by a whole step."""
    if node.op == "cast":
        return node.operands[0].dtype.is_float and not node.out.dtype.is_float
    return node.op in JUMPS


def _judged(graph: Graph, got: Mapping[str, Any], feeds: Feeds, float64: bool
            ) -> dict[str, tuple[float, float]]:
    """(error, part of the elements that are wrong) of every output, each computed from the
    operands in ``got``."""
    names = {v: name for name, v in graph.outputs}
    errors: dict[str, tuple[float, float]] = {}

    def compare(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        replaced = list(results)
        for i, v in enumerate(node.outputs):
            name = names.get(v)
            if name is None:
                continue
            errors[name] = error_of(got[name], results[i]), wrong_part(got[name], results[i])
            if isinstance(results[i], np.ndarray) and np.shape(got[name]) == results[i].shape:
                replaced[i] = np.asarray(got[name]).astype(results[i].dtype)
        return tuple(replaced)

    interp.run(graph, feeds, float64=float64, observe=compare)
    return errors


def wrong_part(got: Any, want: Any) -> float:
    """The part of the elements that differ by more than the tolerance; 1 if they do not compare."""
    if not isinstance(want, np.ndarray) or want.dtype == object or np.shape(got) != want.shape:
        return 1.0
    if not want.size:
        return 0.0
    kind = np.complex128 if np.iscomplexobj(want) else np.float64
    a, b = np.asarray(got).astype(kind), want.astype(kind)
    scale = max(float(np.abs(b[np.isfinite(b)]).max(initial=0.0)), 1e-6)
    with np.errstate(invalid="ignore"):
        close = (np.abs(a - b) <= TOLERANCE * scale) | (a == b) | (np.isnan(a) & np.isnan(b))
    return 1.0 - float(close.mean())


def _describe(graph: Graph, schedule: Schedule, k: int, error: float, v: Value) -> str:
    nodes = schedule.members(graph)[k]
    origin = ", ".join(dict.fromkeys(o for n in nodes for o in n.origin))
    ops = " ".join(n.op for n in nodes)
    return (f"first: group g{k} {schedule.groups[k].implementation} ({ops}) from {origin}: "
            f"error {error:.2g} of scale in {v.type}")
