"""``compile``: the whole way from a model to a callable, and the callable.

Import, pipeline, schedule, program, executable: each stage is one function of another module whose
result can be printed; this file only strings them together and keeps the results. A program that
the cache has is loaded without any of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..ir.errors import FeedError, Gap, ModelError, OptionError, quote
from ..ir.graph import Constants, Graph, Node, attr_regions
from ..ir.schedule import Schedule
from ..ir.target import Target
from ..ir.types import Type
from ..runtime.cache import CacheRecord, ObjectCache
from ..runtime.crew import Crew
from ..runtime.executable import Executable, Parts, measure_peak, return_free_memory
from ..runtime.objects import Early, begin_driver, link
from ..runtime.program import Program
from ..runtime.seen import SeenFiles
from ..runtime.store import ProgramCache
from ..runtime.team import usable_cores
from ..search.settings import BUDGET, DEFAULT_SEARCH, Search
from . import options
from .collector import rare_collections
from .needs import DependsOnFeeds
from .request import Clock, Origin, Progress, Request, Stages, stale

if TYPE_CHECKING:
    import numpy as np

    from ..search.models import CostModel
    from ..search.strategies import Strategy
    from .build import Lowered, Made
    from .gantt import Gantt
    from .profiling import Profile
    from .report import Costs, Report
    from .request import Model
    from .specialize import Shapes

_MANY_NODES = 60
"""Operations of an imported graph, those of its regions included, from which on compile workers
are started ahead."""
_VISIBLE = 1 << 20
"""Bytes of growth from which on resident memory says something."""


class Compiled:
    """A compiled model: call it with arrays, read what the compiler did.

    Calls are thread-safe and re-entrant. Dense arrays of the declared dtypes are read where they
    lie, outputs are the caller's own.
    """

    def __init__(self, origin: Origin, executable: Executable, stages: Stages | None,
                 seconds: Mapping[str, float], found: str) -> None:
        self._origin = origin
        self._executable = executable
        self._arity = len(executable.input_names)
        self._derived = stages
        self._seconds = dict(seconds)
        self._found = found
        self._measured: int | None = None

    # -- running ---------------------------------------------------------------------------

    def __call__(self, /, *args: Any, **feeds: Any) -> Any:
        """Runs the model on arrays, by position or by input name. Answers the output array, or a
        tuple where the model has several. Raises ``FeedError``."""
        if feeds or len(args) != self._arity:
            results = self._run(self._by_name(args, feeds))
        else:
            results = self._run_in_order(args)
        return results[0] if len(results) == 1 else tuple(results)

    def _by_name(self, args: Sequence[Any], feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Feeds by name, from arrays by position and by name; raises ``FeedError``."""
        names = self.input_names
        if len(args) > len(names):
            listed = ", ".join(names) or "none"
            raise FeedError(f"{len(args)} arrays, but the inputs are: {listed}")
        given = dict(zip(names, args, strict=False))
        if twice := given.keys() & feeds.keys():
            raise FeedError(f"fed by position and by name: {', '.join(sorted(twice))}")
        return {**given, **feeds}

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """As ONNX Runtime's ``InferenceSession.run``: outputs in order, or those named. Raises
        ``FeedError``."""
        if type(feeds) is not dict and not isinstance(feeds, Mapping):
            raise FeedError("feeds: a dictionary of arrays by input name, not "
                            f"{type(feeds).__name__}")
        if not output_names:
            return self._run(feeds)
        if isinstance(output_names, str):
            raise FeedError(f"output_names: a list of names, not {quote(output_names)} alone")
        if unknown := [n for n in output_names if n not in self.output_names]:
            raise FeedError(f"no output {quote(unknown[0])}; outputs: "
                            + ", ".join(quote(n) for n in self.output_names))
        by_name = dict(zip(self.output_names, self._run(feeds), strict=True))
        return [by_name[n] for n in output_names]

    def _run_in_order(self, values: Sequence[Any]) -> list[Any]:
        return self._executable.run_in_order(values)

    def _run(self, feeds: Mapping[str, Any]) -> list[Any]:
        return self._executable.run_list(feeds)

    def version_for(self, feeds: Mapping[str, Any]) -> Compiled:
        """The program that runs on these feeds: this one, unless the structure of the model depends
        on what is fed (``compiler/specialize.py``)."""
        return self

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
        return self.executable.outputs

    @property
    def executable(self) -> Executable:
        """The loaded program."""
        return self._executable

    @property
    def program(self) -> Program:
        """Steps, buffers and kernels."""
        return self.executable.program

    # -- reading ---------------------------------------------------------------------------

    @property
    def _stages(self) -> Stages:
        """Graphs and schedule. A program that came from the cache has none: the model is imported
        and optimized now (of an artefact: its IR is read). Raises ``ModelError`` if the model was
        changed meanwhile."""
        if self._derived is None:
            self._origin.check_unchanged()
            self._derived = self._origin.derive()
        return self._derived

    @property
    def imported(self) -> Graph:
        """The graph as it was imported, before any pass; of a loaded artefact the graph it holds,
        which is the optimized one."""
        return self._stages.imported

    @property
    def graph(self) -> Graph:
        """The optimized graph, which the schedule refers to."""
        return self._stages.graph

    @property
    def schedule(self) -> Schedule:
        """Groups in execution order."""
        return self._stages.schedule

    @property
    def source(self) -> dict[str, str]:
        """Numba source of every kernel, by symbol."""
        return {k: code.source for p in self.program.walk() for k, code in p.kernels.items()}

    def report(self, cost_model: str | CostModel | None = None) -> Report:
        """What happened: passes, groups, C and D, memory, cache, times. Prints as tables. Numbers
        that depend on symbolic sizes are those of the call that came last. ``cost_model`` (a name
        or a model whose unit is seconds; None: the default) predicts the times."""
        from .report import make_report

        return make_report(self._stages, self._executable, self._costs, self._seconds,
                           self._found, self._measured, cost_model)

    @cached_property
    def _costs(self) -> Costs:
        from .report import Costs

        return Costs.of(self._stages)

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

    def save(self, path: str | os.PathLike[str], *, recompilable: bool = True) -> None:
        """Writes the compiled model to one file that ``evonnx.load`` runs without compiling: IR,
        schedule, machine code, packed weights. ``recompilable`` also keeps the weights as the IR
        has them, which another machine needs to compile them anew. Raises ``ArtefactError`` where
        the file cannot be written."""
        from .saved import save

        save(self._stages, self._executable, path, recompilable)

    def profile(self, /, *args: Any, rounds: int = 5, **feeds: Any) -> Profile:
        """Where the time of a call with these arrays goes: every group with its time, operations
        and bytes per second, and its share of what the target can do at most. Prints as a table;
        ``save_trace(file)`` writes it for Perfetto, ``plot(file)`` draws the roofline. Times are
        the smallest of ``rounds``. Raises ``FeedError``."""
        return self._profile(self._by_name(args, feeds), rounds)

    def _profile(self, feeds: Mapping[str, Any], rounds: int) -> Profile:
        from .profiling import make_profile

        return make_profile(self._stages, self._executable, self._costs, feeds,
                            options.rounds_of(rounds))

    def gantt(self, /, *args: Any, cost_model: str | CostModel | None = None, rounds: int = 5,
              **feeds: Any) -> Gantt:
        """The schedule as a Gantt chart of stages and groups: the times that ``cost_model``
        predicts and, where arrays are given, those that ``profile`` measures. Prints as text;
        ``save(file)`` draws it as SVG. Raises ``FeedError`` and ``OptionError``."""
        return self._gantt(self._by_name(args, feeds), cost_model, rounds)

    def _gantt(self, feeds: Mapping[str, Any], cost_model: str | CostModel | None, rounds: int
               ) -> Gantt:
        from .gantt import make_gantt

        measured = self._profile(feeds, rounds) if feeds or not self.input_names else None
        report = self.report(cost_model)
        return make_gantt(report.groups, report.stages, report.threads, report.cost_model,
                          measured)

    def explain(self, node: str | int | Node) -> str:
        """Why a node was not rewritten or not fused with its neighbors: every rule and every
        fusion that was tried, with the first condition that failed. ``node``: number in
        ``graph.nodes``, ONNX name, or op where there is one. Raises ``EvonnxError`` if unknown."""
        from .explain import explain_node

        choice = self._stages.choice
        return explain_node(self.graph, self.schedule, self._stages.fuser, node, self.imported,
                            self.executable.target, self.executable.threads,
                            None if choice is None else choice.sizes)

    def __repr__(self) -> str:
        return f"<evonnx.Compiled ({signature(self.inputs)}): {len(self.program.steps)} steps>"


def signature(inputs: Mapping[str, Type]) -> str:
    """Names and types of inputs in a line, made safe and short as ``quote`` does."""
    shown = ", ".join(f"{quote(name)}: {kind}" for name, kind in inputs.items())
    return shown if len(shown) <= 200 else shown[:197] + "..."


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
    weights: str | None = None,
    search: str | Strategy = DEFAULT_SEARCH,
    cost_model: str | CostModel = "bounds",
    objective: str = "time",
    budget: int = BUDGET,
    seed: int = 0,
    max_memory: int | None = None,
    measure: float = 0.0,
    expect: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles a model into native code for this machine, and answers a callable.

    What is compiled:

    ``model``: path, bytes or ``ModelProto`` of an ONNX model, or an IR ``Graph``.
    ``sizes``: fixes named sizes (``{"batch": 1}``); ``shapes`` replaces shapes of inputs, by sizes
    and names; ``constants`` gives inputs a fixed value. The program is right for all that is left
    open, and one program serves every size.
    ``target``: a ``Target``, "cpu" (this machine), "avx512", "avx2", "generic", the name of a
    shipped machine (``Target.shipped()``), or a target file.
    ``threads``: of a call; None: the cores this process may use. No bit of a result depends on it.
    ``weights``: "bf16" rounds constant weights of matrix products to bfloat16 (docs/NUMERICS.md):
    half the bytes to read, which is the time of models that multiply few rows at a time; arithmetic
    stays float32.
    ``pipeline``: replaces the list of passes ("fold,canon").

    How the schedule (fusion, order, recomputation, how kernels are written) is chosen:

    ``schedule``: replays one (object, text or file) instead.
    ``search``: what looks for one that ``cost_model`` (a name or a ``CostModel``) says is better
    than greedy fusion. "none" takes greedy's; "default" and "exact" prove the best over all
    candidate groups ("default" only where that is quick); "genetic", "swarm", "annealing" and
    other strategies, or a ``Strategy`` of your own, try ``budget`` schedules, and their result
    depends on ``seed``, never on time; "postdominator", "priority" and "score" are greedy rules
    that others have published.
    ``objective``: "time" (what the cost model says), "peak" (memory), "C" (operations) or "D"
    (bytes moved).
    ``max_memory``: bytes that a call may take, weights included.
    ``measure``: seconds for which schedules, their groups and variants of their kernels are timed
    on this machine; compiling them comes on top, up to three times as long. 2 choose among the
    search's schedule and the rules', 20 to 40 search with measured times (``compiler.contest``).
    Greedy fusion's stays unless another is surely faster.
    ``expect``: sizes of symbols that all of this shall count on. What the others count as is read
    off the graph and said by ``report()`` (``search.symbols``: a batch 1, the side of an image 256,
    a sequence 32, ...).

    On the way:

    ``cache``: keeps kernels and programs on disk; True: in the default folder, a path: there.
    ``check``: compares with the reference interpreter, on random inputs (True) or on the feeds
    given, and names the first pass and node, or group, that differ.
    ``progress``: called with (stage, done, total) as the work goes on.

    Where the structure of the program depends on inputs (axes, a rank) that these do not fix, the
    answer is a ``Specialized``, which compiles per value that is fed.

    Raises ``OptionError``, ``ModelError``, ``UnsupportedError`` (with all gaps), ``ScheduleError``,
    ``LimitError`` (no schedule keeps ``max_memory``), ``CompileError``, ``CheckError``: all are
    ``EvonnxError``.
    """
    objects, programs = options.caches_of(cache)
    where, count = options.target_of(target), options.threads_of(threads)
    how = Search(search, cost_model, budget, seed, where.cores,
                 options.sizes_of(expect, "expect") or {}, objective, None, max_memory, measure)
    passes = options.weights_of(weights, options.text_of(pipeline, "pipeline"), check)
    request = Request(model, where, options.schedule_text(schedule), options.shapes_of(shapes),
                      options.sizes_of(sizes), options.mapping_of(constants, "constants", "arrays"),
                      passes, how, None if programs is None else SeenFiles(programs.folder.parent))
    check, progress = options.check_of(check), options.progress_of(progress)
    if not how.named:
        programs = None  # a model of the caller's own is nothing a key could name
    try:
        return _compiled(request, count, objects, programs, check, progress)
    except DependsOnFeeds as needed:
        if request.schedule is not None:
            raise OptionError(f"schedule: it is for one graph, but {needed}") from None
        return _specialized(request, needed, count, objects, programs, check)


def _compiled(request: Request, threads: int | None, objects: ObjectCache | None,
              programs: ProgramCache | None, check: bool | Mapping[str, Any],
              progress: Progress | None = None) -> Compiled:
    """``compile`` with its arguments checked; raises ``DependsOnFeeds`` where they do not say all
    that the program depends on."""
    clock = Clock(progress)
    where = request.target
    found = "cache is off" if programs is None else "a check wants every stage"
    if programs is not None and check is False:
        clock.stage("load")
        parts, program, found, settled = _cached(programs, request)
        if parts is not None and program is not None:
            executable = Executable(program, Constants(), where, threads, objects, parts=parts)
            clock.stage("")
            known = request
            if settled is not None:
                known = replace(request, schedule=settled["schedule"], found=settled["search"],
                                known=request.digest)
            return Compiled(known, executable, None, clock.seconds, found)
    with rare_collections(), Crew(where) as crew:
        stages = request.derive(clock, lambda graph: _foresee(graph, crew, objects))
        options.check_rounded(stages.passes)
        if request.search.measure and stages.fuser is not None:
            from .contest import Contest

            contest = Contest(stages, where, request.search, threads, objects, clock)
            stages = contest.run(request.search.measure)
        patience = request.patience
        executable = _executable(stages, where, threads, objects, clock, crew, patience)
        if request.search.max_memory is not None and stages.fuser is not None:
            from .memory import within

            stages, executable = within(request, stages, executable, lambda s: _executable(
                s, where, threads, objects, clock, crew, patience))
    if programs is not None:
        clock.stage("keep")
        found += _keep(programs, request, stages, executable)
    return_free_memory()  # what the compiler took comes before what the first call takes
    clock.stage("")
    compiled = Compiled(request, executable, stages, clock.seconds, found)
    if check is not False:
        from .checking import check_compiled

        clock.stage("check")
        check_compiled(compiled, request.pipeline, None if check is True else check)
    return compiled


def _operations(graph: Graph) -> int:
    """Operations of a graph and of its regions, which have kernels of their own."""
    counted = [n for n in graph.nodes if n.op not in ("input", "const")]
    return len(counted) + sum(_operations(r) for n in counted for r in attr_regions(n.attrs))


def _foresee(graph: Graph, crew: Crew, objects: ObjectCache | None) -> None:
    """A graph of some size has kernels enough for workers, which are up when they are known, and
    compile the driver until then."""
    if _operations(graph) >= _MANY_NODES:
        crew.start_early()
        begin_driver(objects, crew)


def _executable(stages: Stages, target: Target, threads: int | None, objects: ObjectCache | None,
                clock: Clock, crew: Crew, patience: int = 0) -> Executable:
    """The program of the stages' schedule, loaded."""
    clock.stage("lower")
    program = program_of(stages.graph, stages.schedule, target, clock.progress,
                         Early(target, objects, crew))
    program = replace(program, patience=patience)
    clock.stage("kernels")
    return Executable(program, stages.graph.constants, target, threads, objects, clock.progress,
                      crew)


def _specialized(request: Request, needed: DependsOnFeeds, threads: int | None,
                 objects: ObjectCache | None, programs: ProgramCache | None,
                 check: bool | Mapping[str, Any]) -> Compiled:
    """A model whose programs are compiled per value of what it needs; with ``check`` every one is
    checked, with feeds to check on the one for these, at once."""
    from .specialize import Specialized

    unchanged = request.digest

    def build(values: Mapping[str, np.ndarray], shapes: Shapes) -> Compiled:
        fixed = replace(request, constants={**(request.constants or {}), **values},
                        shapes={**(request.shapes or {}), **shapes})
        if fixed.digest != unchanged:
            raise ModelError("the model was changed after it was compiled: compile it again")
        return _compiled(fixed, threads, objects, programs, check is True)

    made = Specialized(needed, build, request.target, threads or usable_cores())
    if isinstance(check, Mapping):
        from .checking import check_compiled

        check_compiled(made, request.pipeline, check)
    return made


def _cached(programs: ProgramCache, request: Request
            ) -> tuple[Parts | None, Program | None, str, Mapping[str, Any] | None]:
    """Parts and program from the cache; or None, and why not; the note of ``_keep`` where the
    schedule does not follow from the request."""
    artefact, why = programs.get(request.key)
    if artefact is None:
        return None, None, why, None
    if changed := stale(request.folder, artefact.notes["stamps"]):
        return None, None, changed, None
    records = [CacheRecord(symbol, True, why, 0.0, len(code))
               for symbol, code in artefact.objects.items()]
    code = link(artefact.objects, records)
    parts = Parts(code, artefact.constants, code.seconds)
    return parts, artefact.program, why, artefact.notes.get("settled")


def _keep(programs: ProgramCache, request: Request, stages: Stages, executable: Executable) -> str:
    """Keeps a program for the next process; answers "" or why that was not possible."""
    parts = executable.parts
    notes: dict[str, Any] = {"stamps": stages.stamps}
    by_trial = request.search.measure or request.search.max_memory is not None
    if by_trial and stages.choice is not None:  # by time, or by what a finished program needs
        notes["settled"] = {"schedule": str(stages.schedule), "search": stages.choice.facts()}
    why = programs.put(request.key, notes, executable.program,
                       parts.code.objects, parts.constants)
    return f"; not kept: {why}" if why else ""


def program_of(graph: Graph, schedule: Schedule, target: Target, progress: Progress | None = None,
               made: Made = lambda code: None, lowered: Lowered | None = None) -> Program:
    """The program; regions of control ops are optimized and scheduled like whole graphs. ``made``
    is told of every kernel at once; ``lowered`` are kernels of other programs of the graph."""
    from ..search.greedy import Fuser
    from .build import build_program
    from .pipeline import run_pipeline

    lowered = {} if lowered is None else lowered

    def region(body: Graph) -> Program:
        optimized = run_pipeline(body)
        return build_program(optimized, Fuser(optimized).run(), target, region, lowered,
                             made=made)

    return build_program(graph, schedule, target, region, lowered, progress, made)


def check(model: Model) -> tuple[Gap, ...]:
    """Everything a model needs that EvoNNX does not support, all at once; empty if it compiles.
    Raises ``ModelError`` if the file is not a valid model."""
    from .importer import missing

    return () if isinstance(model, Graph) else missing(model)


__all__ = ["Compiled", "check", "compile"]
