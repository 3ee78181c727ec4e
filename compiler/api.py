"""``compile``: the whole way from a model to a callable, and the callable.

Import, pipeline, schedule, program, executable: each stage is one function of another module whose
result can be printed; this file only strings them together and keeps the results.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..ir.errors import FeedError, Gap, OptionError, quote
from ..ir.graph import Graph, Node
from ..ir.schedule import Schedule
from ..ir.target import Target
from ..ir.types import Type
from ..passes.manager import PassReport
from ..runtime.executable import Executable, measure_peak
from ..runtime.program import Program
from ..search.greedy import Fuser
from . import options
from .build import Lowered, build_program
from .pipeline import run_pipeline
from .report import Costs, Report, make_report

if TYPE_CHECKING:
    import onnx

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto | Graph

Progress = Callable[[str, int, int], None]
"""(stage, done, total) -> None; total 0 means unknown."""


_VISIBLE = 1 << 20
"""Bytes of growth from which on resident memory says something."""


class Compiled:
    """A compiled model: call it with arrays, read what the compiler did.

    Calls are thread-safe and re-entrant. Dense arrays of the declared dtypes are read where they
    lie, outputs are the caller's own.
    """

    def __init__(self, imported: Graph, graph: Graph, schedule: Schedule, executable: Executable,
                 fuser: Fuser | None, passes: Sequence[PassReport], seconds: Mapping[str, float]
                 ) -> None:
        self.imported = imported
        """The graph as it was imported, before any pass."""
        self.graph = graph
        """The optimized graph, which the schedule refers to."""
        self.schedule = schedule
        """Groups in execution order."""
        self._executable = executable
        self._fuser = fuser
        self._passes = tuple(passes)
        self._seconds = dict(seconds)
        self._measured: int | None = None

    # -- running ---------------------------------------------------------------------------

    def __call__(self, /, *args: Any, **feeds: Any) -> Any:
        """Runs the model on arrays, by position or by input name. Answers the output array, or a
        tuple where the model has several. Raises ``FeedError``."""
        if args:
            names = self._executable.input_names
            if len(args) > len(names):
                listed = ", ".join(names) or "none"
                raise FeedError(f"{len(args)} arrays for {len(names)} inputs: {listed}")
            given = dict(zip(names, args, strict=False))
            if twice := given.keys() & feeds.keys():
                raise FeedError(f"fed by position and by name: {', '.join(sorted(twice))}")
            feeds = given | feeds
        results = self._executable.run_list(feeds)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """As ONNX Runtime's ``InferenceSession.run``: outputs in order, or those named."""
        if not output_names:
            return self._executable.run_list(feeds)
        if unknown := [n for n in output_names if n not in self._executable.output_names]:
            raise FeedError(f"no output {quote(unknown[0])}; outputs: "
                            + ", ".join(quote(n) for n in self._executable.output_names))
        by_name = self._executable.run(feeds)
        return [by_name[n] for n in output_names]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order positions have."""
        return tuple(self._executable.input_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(self._executable.output_names)

    @property
    def inputs(self) -> dict[str, Type]:
        """Types of the inputs by name; symbolic sizes are bound by every call."""
        return self._executable.inputs

    @property
    def outputs(self) -> dict[str, Type]:
        """Types of the outputs by name."""
        return self._executable.outputs

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
        """What happened: passes, groups, C and D, memory, cache, times. Prints as tables. Numbers
        that depend on symbolic sizes are those of the call that came last."""
        return make_report(self.imported, self.graph, self.schedule, self._executable, self._costs,
                           self._passes, self._seconds, self._measured)

    @cached_property
    def _costs(self) -> Costs:
        return Costs.of(self.imported, self.graph, self.schedule)

    def measure_memory(self, feeds: Mapping[str, Any]) -> int | None:
        """Runs once on memory not allocated yet; answers, and keeps for the report, the packed
        constants plus the bytes by which the call raised the process's resident peak. None where
        the system does not say, or says so little (under 1 MiB) that pages hide it. Nothing else
        should run in the process meanwhile."""
        grown = measure_peak(self._executable, feeds)
        if grown is not None and grown >= _VISIBLE:
            self._measured = grown + self._executable.constant_bytes
        else:
            self._measured = None
        return self._measured

    def explain(self, node: str | int | Node) -> str:
        """Why a node was not rewritten or not fused with its neighbors: every rule and every
        fusion that was tried, with the first condition that failed. ``node``: number in
        ``graph.nodes``, ONNX name, or op where there is one. Raises ``EvonnxError`` if unknown."""
        from .explain import explain_node

        return explain_node(self.graph, self.schedule, self._fuser, node, self.imported)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{n}: {t}" for n, t in self.inputs.items())
        return (f"<evonnx.Compiled ({inputs[:200]}): {len(self.graph.nodes)} nodes in "
                f"{len(self.schedule.groups)} groups>")


def compile(
    model: Model,
    *,
    target: str | os.PathLike[str] | Target = "cpu",
    threads: int | None = None,
    schedule: Schedule | str | os.PathLike[str] | None = None,
    cache: bool | str | os.PathLike[str] = True,
    check: bool | Mapping[str, Any] = False,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    sizes: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | None = None,
    pipeline: str | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles an ONNX model (path, bytes, ``ModelProto``) or an IR graph into native code.

    ``target``: a ``Target``, "cpu" (this machine), "avx512", "avx2", "generic", or a target file.
    ``threads``: None uses the cores this process may use. ``schedule`` (object, text or file)
    replays a schedule instead of choosing one. ``cache`` keeps compiled kernels on disk (True: the
    default folder; a path: that folder). ``check`` compares with the reference interpreter, on
    random inputs or on the feeds given, and raises ``CheckError`` naming the first pass and node,
    or group, that differ. ``sizes`` fixes named sizes of the model (``{"batch": 1}``), ``shapes``
    replaces shapes of inputs, ``constants`` gives inputs a fixed value. ``pipeline`` replaces the
    pass list ("fold,canon"). ``progress(stage, done, total)`` is called as the work goes on.

    Raises ``OptionError``, ``ModelError``, ``UnsupportedError`` (with all gaps), ``ScheduleError``,
    ``CompileError``, ``CheckError``: all are ``EvonnxError``.
    """
    where, count = options.target_of(target), options.threads_of(threads)
    objects = options.cache_of(cache)
    clock = _Clock(progress)
    clock.stage("import")
    imported = _import(model, shapes, sizes, constants)
    clock.stage("passes")
    passes: list[PassReport] = []
    graph = run_pipeline(imported, pipeline, passes, progress)
    clock.stage("schedule")
    chosen, fuser = _schedule(graph, schedule)
    clock.stage("lower")
    program = program_of(graph, chosen, where, progress)
    clock.stage("kernels")
    executable = Executable(program, graph.constants, where, count, objects, progress)
    clock.stage("")
    compiled = Compiled(imported, graph, chosen, executable, fuser, passes, clock.seconds)
    if check is not False:
        from .checking import check_compiled

        clock.stage("check")
        check_compiled(compiled, pipeline, None if check is True else check)
    return compiled


class _Clock:
    """Times the stages and tells the progress bar."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._name, self._start = "", 0.0

    def stage(self, name: str) -> None:
        """Ends the stage before and begins ``name``; empty: just ends."""
        now = time.perf_counter()
        if self._name:
            self.seconds[self._name] = now - self._start
        self._name, self._start = name, now
        if self.progress is not None and name:
            self.progress(name, 0, 0)


def _import(model: Model, shapes: Mapping[str, Sequence[int | str]] | None,
            sizes: Mapping[str, int] | None, constants: Mapping[str, Any] | None) -> Graph:
    if isinstance(model, Graph):
        if shapes or sizes or constants:
            raise OptionError("shapes, sizes and constants are for ONNX models; this is a graph "
                              "that was imported already")
        return model
    from .importer import import_model

    return import_model(model, shapes=options.shapes_of(shapes), sizes=options.sizes_of(sizes),
                        constants=constants)


def _schedule(
    graph: Graph, given: Schedule | str | os.PathLike[str] | None
) -> tuple[Schedule, Fuser | None]:
    """The schedule to use: given (checked), or greedy."""
    if given is None:
        fuser = Fuser(graph)
        return fuser.run(), fuser
    return options.schedule_of(given, graph), None


def program_of(graph: Graph, schedule: Schedule, target: Target, progress: Progress | None = None
               ) -> Program:
    """The program; regions of control ops are optimized and scheduled like whole graphs."""
    lowered: Lowered = {}

    def region(body: Graph) -> Program:
        optimized = run_pipeline(body)
        return build_program(optimized, Fuser(optimized).run(), target, region, lowered)

    return build_program(graph, schedule, target, region, lowered, progress)


def check(model: Model) -> tuple[Gap, ...]:
    """Everything a model needs that EvoNNX does not support, all at once; empty if it compiles.
    Raises ``ModelError`` if the file is not a valid model."""
    from .importer import missing

    return () if isinstance(model, Graph) else missing(model)


__all__ = ["Compiled", "check", "compile"]
