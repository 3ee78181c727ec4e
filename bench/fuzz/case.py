"""One example through everything: compiled, interpreted, compared, replayed.

Checked, in this order: the importer takes what ONNX's checker and a peer take; IR text reads back
as the same graph, before and after the passes; the compiled results under every binding are those
of the reference (``judge``); a second binding compiles no kernel; a second run, the replayed
schedule and two threads give the same bits; so are, for some seeds, a graph with ops that do
nothing put in, kernels with settings drawn at random (``varied``), and schedules drawn at random
(``regrouped``); so is the model compiled with the options that its seed draws (``asked``); the
reference agrees with
ONNX Runtime, or where it does not, with ONNX's reference evaluator.
"""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...compiler.api import Compiled, compile
from ...compiler.importer import import_model
from ...ir.errors import EvonnxError, UnsupportedError
from ...ir.graph import Graph
from ...ir.parser import parse_graph
from ...ir.text import print_graph
from ...runtime import objects
from . import peers
from .asked import check_asked
from .generate import Example
from .judge import SLACK, Judge
from .loosen import loosened
from .regrouped import regrouped
from .varied import varied
from .verdict import Failure, check_right, check_same, named

LOOSE = 5
"""Every so many seeds, the graph is also compiled with ops that do nothing (``loosen``)."""
VARIED = 3
"""Every so many seeds, kernels with random settings are compiled as well."""
REGROUPED = 2
"""Every so many seeds, another schedule drawn at random is run as well."""
FAILURES = ("crash", "hang", "error", "refused", "text", "wrong", "recompiled", "rerun", "threads",
            "replay", "saved", "limit", "meaning")
"""Kinds of failure; ``meaning`` is that both peers, or the only one, contradict the reference."""


@dataclass(slots=True)
class Outcome:
    """What became of one example."""

    seed: int
    status: str = "passed"
    """'passed', 'unsupported', 'invalid' (nobody takes the model), or one of ``FAILURES``."""
    detail: str = ""
    ops: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    peer: str = ""
    """How the peers voted: 'onnxruntime', 'reference', 'neither runs', 'peers differ', ..."""
    bindings: int = 1
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether this is an error of the project."""
        return self.status in FAILURES


def run_case(given: Example, cache: str | bool = False, with_peers: bool = True) -> Outcome:
    """Runs every check; never raises."""
    start = time.perf_counter()
    found = Outcome(given.seed, bindings=len(given.bindings))
    _count_ops(given.model.graph, found)
    try:
        _check(given, found, cache, with_peers)
    except Failure as failure:
        found.status, found.detail = failure.kind, failure.detail
    except UnsupportedError as error:
        found.status, found.detail = "unsupported", str(error)[:300]
    except Exception as error:  # whatever escapes is a defect
        found.status, found.detail = "error", said(error)
    found.seconds = time.perf_counter() - start
    return found


def said(error: Exception) -> str:
    """An exception and the line that raised it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}"[:600] + f" ({Path(at.filename).name}:{at.lineno})"


def _check(given: Example, found: Outcome, cache: str | bool, with_peers: bool) -> None:
    graph = _imported(given, found)
    if graph is None:
        return
    _text_law(graph)
    compiled = compile(given.model, threads=1, cache=cache)
    found.rules.update(compiled.report().rules)
    _text_law(compiled.graph)
    first: dict[str, Any] = {}
    judges: list[Judge] = []
    for binding in range(len(given.bindings)):
        feeds = given.feeds(binding)
        judge = _judge(graph, feeds, given, binding)
        if judge is None:
            found.bindings = binding
            break
        before = _Compiles.count
        got = named(compiled, feeds)
        if binding and _Compiles.count != before:
            raise Failure("recompiled", f"binding {given.bindings[binding]} compiled "
                          f"{_Compiles.count - before} kernels")
        check_right(judge.wrong(got), f"binding {given.bindings[binding]}: ")
        judges.append(judge)
        first = first or got
    if not judges:
        found.status = "invalid"
        return
    _same_again(given, compiled, first, cache)
    if given.seed % VARIED == 0:
        _otherwise(given, compiled, judges[0], cache)
    if given.seed % REGROUPED == 0:
        _elsewise(given, compiled, judges[0], cache)
    if given.seed % LOOSE == 0:
        _loosely(given, graph, found, judges[0], cache)
    if given.options:
        _asked(given, compiled, judges, cache)
    if with_peers:
        _vote(given, judges[0], found)


def _imported(given: Example, found: Outcome) -> Graph | None:
    """The imported graph; None where the model is not valid for a peer either."""
    try:
        return import_model(given.model)
    except UnsupportedError:
        raise
    except EvonnxError as error:
        try:
            peers.onnxruntime(given.model, given.feeds())
        except peers.Declined:
            found.status, found.detail = "invalid", str(error)[:300]
            return None
        raise Failure("refused", f"{type(error).__name__}: {error}"[:400]) from None


def _judge(graph: Graph, feeds: Mapping[str, Any], given: Example, binding: int) -> Judge | None:
    """The reference's results; None where the reference and a peer refuse the feeds."""
    try:
        return Judge(graph, feeds, given.seed)
    except EvonnxError as error:
        try:
            peers.onnxruntime(given.model, feeds)
        except peers.Declined:
            return None
        if _out_of_range(str(error)):
            return None
        raise Failure("refused", f"binding {given.bindings[binding]}: {error}"[:400]) from None


def _out_of_range(message: str) -> bool:
    """Positions out of range are the model's error; ONNX Runtime checks them, but not all."""
    return "out of range" in message or "out of bounds" in message


def _text_law(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text, graph.constants, verify=False)
    if again.digest != graph.digest or print_graph(again) != text:
        raise Failure("text", "the text of the graph reads back as another graph")


def _same_again(given: Example, compiled: Compiled, first: Mapping[str, Any], cache: str | bool
                ) -> None:
    feeds = given.feeds()
    again = named(compiled, feeds)
    check_same("rerun", first, again)
    replayed = compile(given.model, threads=2, cache=cache, schedule=str(compiled.schedule))
    if replayed.source != compiled.source:
        raise Failure("replay", "the replayed schedule gives other kernels")
    check_same("threads", first, named(replayed, feeds))


def _asked(given: Example, compiled: Compiled, judges: list[Judge], cache: str | bool) -> None:
    """The model with the options of the example; what fails there names them."""
    under = f"with {json.dumps(given.options)}: "
    try:
        check_asked(given, compiled, judges, cache)
    except Failure as failure:
        raise Failure(failure.kind, under + failure.detail) from None
    except Exception as error:
        raise Failure("error", under + said(error)) from error


def _otherwise(given: Example, compiled: Compiled, judge: Judge, cache: str | bool) -> None:
    """The same groups with other kernels, by the same judge."""
    feeds = given.feeds()
    finite = all(np.isfinite(v).all() for v in feeds.values()
                 if isinstance(v, np.ndarray) and v.dtype.kind == "f")
    schedule = varied(compiled.schedule, compiled.graph, compiled.executable.target,
                      np.random.default_rng([given.seed, 4]), finite)
    if schedule is None:
        return
    other = compile(given.model, threads=2, cache=cache, schedule=str(schedule))
    check_right(judge.wrong(named(other, feeds)), "with other kernels: ")


def _elsewise(given: Example, compiled: Compiled, judge: Judge, cache: str | bool) -> None:
    """Other groups, by the same judge, on one thread and two."""
    feeds = given.feeds()
    schedule = regrouped(compiled.graph, compiled.executable.target,
                         np.random.default_rng([given.seed, 5]))
    if schedule is None:
        return
    other = compile(given.model, threads=1, cache=cache, schedule=str(schedule))
    got = named(other, feeds)
    check_right(judge.wrong(got), "with other groups: ")
    both = compile(given.model, threads=2, cache=cache, schedule=str(schedule))
    check_same("threads", got, named(both, feeds))


def _loosely(given: Example, graph: Graph, found: Outcome, judge: Judge, cache: str | bool) -> None:
    """The graph with ops that do nothing, by the same judge."""
    loose = loosened(graph, np.random.default_rng([given.seed, 3]))
    _text_law(loose)
    compiled = compile(loose, threads=1, cache=cache)
    found.rules.update(compiled.report().rules)
    check_right(judge.wrong(named(compiled, given.feeds())), "with ops that do nothing: ")


def _vote(given: Example, judge: Judge, found: Outcome) -> None:
    """The reference against the peers; raises where they outvote it."""
    votes: dict[str, dict[str, str]] = {}
    feeds = given.feeds()
    for name, run in (("onnxruntime", peers.onnxruntime), ("reference", peers.reference)):
        try:
            votes[name] = judge.wrong(run(given.model, feeds), SLACK)
        except peers.Declined:
            continue
        if not votes[name]:
            found.peer = name if len(votes) == 1 else "reference, not onnxruntime"
            return
    if not votes:
        found.peer = "neither runs"
        return
    found.peer = "differs from " + " and ".join(votes)
    # The evaluator alone is wrong too often to accuse; so is half precision of one peer alone.
    halves = found.dtypes["FLOAT16"] + found.dtypes["BFLOAT16"]
    if "onnxruntime" in votes and (len(votes) == 2 or not halves):
        name, reason = next(iter(votes["onnxruntime"].items()))
        both = "both peers" if len(votes) == 2 else "ONNX Runtime alone"
        raise Failure("meaning", f"{both}: output {name}: {reason}")


def _count_ops(graph: onnx.GraphProto, found: Outcome) -> None:
    stack = [graph]
    while stack:
        g = stack.pop()
        for v in (*g.input, *g.output, *g.value_info):
            if v.type.HasField("tensor_type"):
                found.dtypes[onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type)] += 1
        for node in g.node:
            found.ops[node.op_type] += 1
            stack += [a.g for a in node.attribute if a.HasField("g")]


class _Compiles:
    """Counts the kernels that this process compiles."""

    count = 0


def watch_compilation() -> None:
    """Counts every kernel that is compiled in this process from now on; once is enough."""
    compile_one = objects.Job.compile
    if getattr(compile_one, "counted", False):
        return

    def counted(self: objects.Job, target: Any) -> bytes:
        _Compiles.count += 1
        return compile_one(self, target)

    counted.counted = True  # type: ignore[attr-defined]
    objects.Job.compile = counted  # type: ignore[method-assign]
