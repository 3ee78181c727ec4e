"""``compile``: the whole way from a model to a callable, and the callable.

Import, pipeline, schedule, program, executable: each stage is one function of another module whose
result can be printed; this file only strings them together and keeps the results.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


from ..ir.errors import FeedError, Gap, ScheduleError
from ..ir.graph import Graph, Node
from ..ir.schedule import Schedule, check_order, parse_schedule
from ..ir.target import Target
from ..runtime.cache import ObjectCache
from ..runtime.executable import Executable
from ..runtime.program import Program
from ..search.greedy import Fuser
from ..search.legality import implementation
from .build import Lowered, build_program
from .pipeline import run_pipeline
from .report import Report, make_report

if TYPE_CHECKING:
    import onnx

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto | Graph

Progress = Callable[[str, int, int], None]
"""(stage, done, total) -> None; total 0 means unknown."""


class Compiled:
    """A compiled model: call it with arrays, read what the compiler did."""

    def __init__(self, imported: Graph, graph: Graph, schedule: Schedule, executable: Executable,
                 fuser: Fuser | None, report: Report) -> None:
        self.imported = imported
        """The graph as it was imported, before any pass."""
        self.graph = graph
        """The optimized graph, which the schedule refers to."""
        self.schedule = schedule
        """Groups in execution order."""
        self._executable = executable
        self._fuser = fuser
        self._report = report

    # -- running ---------------------------------------------------------------------------

    def __call__(self, *args: Any, **feeds: Any) -> Any:
        """Runs the model on arrays, by position or by input name. Answers the output array, or a
        tuple where the model has several. Raises ``FeedError``."""
        names = self._executable.input_names
        if len(args) > len(names):
            raise FeedError(f"{len(args)} arrays for {len(names)} inputs: {', '.join(names)}")
        given = dict(zip(names, args, strict=False))
        twice = set(given) & set(feeds)
        if twice:
            raise FeedError(f"fed by position and by name: {', '.join(sorted(twice))}")
        results = self._executable.run_list({**given, **feeds})
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """As ONNX Runtime's ``InferenceSession.run``: outputs in order, or those named."""
        results = self._executable.run_list(feeds)
        if output_names is None:
            return results
        by_name = dict(zip(self._executable.output_names, results, strict=True))
        unknown = [n for n in output_names if n not in by_name]
        if unknown:
            raise FeedError(f"no output {unknown[0]!r}; outputs: {', '.join(by_name)}")
        return [by_name[n] for n in output_names]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self._executable.input_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self._executable.output_names)

    @property
    def executable(self) -> Executable:
        """The loaded program."""
        return self._executable

    @property
    def program(self) -> Program:
        """Steps, buffers and kernels."""
        return self._executable.program

    # -- reading ---------------------------------------------------------------------------

    @property
    def source(self) -> dict[str, str]:
        """Numba source of every kernel, by symbol."""
        return {k: code.source for p in self.program.walk() for k, code in p.kernels.items()}

    def report(self) -> Report:
        """What happened: passes, groups, C and D, memory, cache, times. Prints as tables."""
        return self._report

    def explain(self, node: str | int | Node) -> str:
        """Why a node was not rewritten or not fused with its neighbors: every rule and every
        fusion that was tried, with the first condition that failed."""
        from .explain import explain_node

        return explain_node(self.graph, self.schedule, self._fuser, node)

    def __repr__(self) -> str:
        return (f"<evonnx.Compiled {len(self.graph.nodes)} nodes in {len(self.schedule.groups)} "
                f"groups, inputs {', '.join(self.input_names)}>")


def compile(  # noqa: A001  (the name users expect, as re.compile)
    model: Model,
    *,
    target: str | Target = "cpu",
    threads: int | None = None,
    schedule: Schedule | str | os.PathLike[str] | None = None,
    cache: bool | str | os.PathLike[str] = True,
    check: bool = False,
    pipeline: str | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles an ONNX model (path, bytes, ``ModelProto``) or an IR graph into native code.

    ``target`` is a ``Target`` or its name ("cpu" is this machine); ``threads`` None uses the cores
    this process may use. ``schedule`` (object, text or file) replays a schedule instead of
    searching one. ``cache`` keeps compiled kernels on disk (True: the default folder). ``check``
    compares with the reference interpreter and raises ``CheckError`` naming the first pass and
    node that differ. ``pipeline`` replaces the pass list ("fold,canon"). ``progress(stage, done,
    total)`` is called as the work goes on.

    Raises ``ModelError``, ``UnsupportedError`` (with all gaps), ``ScheduleError``,
    ``CompileError``, ``CheckError``: all are ``EvonnxError``.
    """
    clock = _Clock(progress)
    where = target if isinstance(target, Target) else Target.named(target)
    clock.stage("import")
    imported = _import(model)
    clock.stage("passes")
    passes: list[Any] = []
    graph = run_pipeline(imported, pipeline, report=passes)
    clock.stage("schedule")
    chosen, fuser = _schedule(graph, schedule)
    clock.stage("lower")
    program = program_of(graph, chosen, where)
    clock.stage("kernels")
    folder = None if cache is True or cache is False else Path(cache)
    executable = Executable(program, graph.constants, where, threads,
                            ObjectCache(folder) if cache is not False else None, progress)
    clock.stage("done")
    report = make_report(imported, graph, chosen, executable, passes, clock.seconds)
    compiled = Compiled(imported, graph, chosen, executable, fuser, report)
    if check:
        from .checking import check_compiled

        check_compiled(compiled, pipeline)
    return compiled


class _Clock:
    """Times the stages and tells the progress bar."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._name, self._start = "", 0.0

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        if self._name:
            self.seconds[self._name] = now - self._start
        self._name, self._start = name, now
        if self.progress is not None and name != "done":
            self.progress(name, 0, 0)


def _import(model: Model) -> Graph:
    if isinstance(model, Graph):
        return model
    from .importer import import_model

    return import_model(model)


def _schedule(
    graph: Graph, given: Schedule | str | os.PathLike[str] | None
) -> tuple[Schedule, Fuser | None]:
    """The schedule to use: given (checked), or greedy."""
    if given is None:
        fuser = Fuser(graph)
        return fuser.run(), fuser
    if not isinstance(given, Schedule):
        text = given if isinstance(given, str) and "\n" in given else Path(given).read_text("utf-8")
        given = parse_schedule(text)
    check_order(given, graph)
    for k, (group, nodes) in enumerate(zip(given.groups, given.members(graph), strict=True)):
        found, reason = implementation(graph, nodes)
        if found is None or (found != group.implementation and not (
            found == "contract" and group.implementation == "loops"
        )):
            why = reason or f"it can run as {found}, not as {group.implementation}"
            raise ScheduleError(f"group g{k} {print_nodes(nodes)} is not legal: {why}")
    return given, None


def print_nodes(nodes: Sequence[Node]) -> str:
    """The ops of a group, for messages."""
    return "(" + " ".join(n.op for n in nodes) + ")"


def program_of(graph: Graph, schedule: Schedule, target: Target) -> Program:
    """The program; regions of control ops are optimized and scheduled like whole graphs."""
    lowered: Lowered = {}

    def region(body: Graph) -> Program:
        optimized = run_pipeline(body)
        return build_program(optimized, Fuser(optimized).run(), target, region, lowered)

    return build_program(graph, schedule, target, region, lowered)


def check(model: Model) -> tuple[Gap, ...]:
    """Everything a model needs that EvoNNX does not support, all at once; empty if it compiles.
    Raises ``ModelError`` if the file is not a valid model."""
    from .importer import missing

    return () if isinstance(model, Graph) else missing(model)


__all__ = ["Compiled", "check", "compile"]
