"""``check=True``: the compiled model against the reference interpreter.

Three questions, in order, on random inputs and in float64 where it matters: is the optimized graph
still the imported one (if not, which pass changed it); does the compiled model give the optimized
graph's outputs; and if not, which group's result is the first that differs. For the last one the
same schedule is compiled once more with every group's results exposed as outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import interp
from ..ir.errors import CheckError
from ..ir.graph import Graph, Node, Value
from ..ir.groups import escaping
from ..ir.schedule import Schedule
from ..ir.types import TensorType
from ..runtime.executable import Executable
from .feeds import random_feeds
from .pipeline import run_pipeline

if TYPE_CHECKING:
    from .api import Compiled

TOLERANCE = 1e-3
"""Largest error allowed, relative to the largest magnitude of the tensor (float32 results)."""
SYMBOLS = 4
"""Size of every symbolic dimension where nobody gives feeds."""

Feeds = Mapping[str, np.ndarray]


def error_of(got: Any, want: Any) -> float:
    """Largest absolute difference over the largest finite magnitude of ``want``; NaN must meet NaN
    and infinity the same infinity, else the answer is infinity. Strings and sequences: 0 or inf."""
    if not isinstance(want, np.ndarray) or want.dtype == object:
        return 0.0 if _same_host(got, want) else np.inf
    if np.shape(got) != want.shape:
        return np.inf
    a, b = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(b[finite]).max()), 1e-6)
    worst = float(np.abs(a[finite] - b[finite]).max())
    return worst / scale if worst == worst else np.inf


def _same_host(got: Any, want: Any) -> bool:
    if isinstance(want, np.ndarray):
        return np.array_equal(got, want)
    if isinstance(want, (list, tuple)):
        return len(got) == len(want) and all(_same_host(a, b) for a, b in zip(got, want,
                                                                               strict=True))
    return bool(got == want)


def check_compiled(compiled: Compiled, spec: str | None, feeds: Feeds | None = None) -> None:
    """Raises ``CheckError`` naming the first pass or the first group that is wrong."""
    graph = compiled.imported
    if feeds is None:
        feeds = random_feeds({v.node.attrs["name"]: v.type for v in graph.inputs}, others=SYMBOLS)
    want = interp.run(graph, feeds, float64=True)
    _check_passes(graph, spec, feeds, want)
    got = dict(zip(compiled.output_names, compiled.run(None, feeds), strict=True))
    wrong = {n: e for n in want if (e := error_of(got[n], want[n])) > TOLERANCE}
    if not wrong:
        return
    found = first_wrong_group(compiled.graph, compiled.schedule, compiled.executable, feeds)
    name, error = max(wrong.items(), key=lambda kv: kv[1])
    place = found or "every group alone is right; the difference is accumulated rounding"
    raise CheckError(f"output {name!r} differs by {error:.2g} of its scale; first: {place}")


def _check_passes(graph: Graph, spec: str | None, feeds: Feeds, want: Mapping[str, Any]) -> None:
    failed: list[str] = []

    def after(name: str, result: Graph) -> None:
        if failed:
            return
        got = interp.run(result, feeds, float64=True)
        for output, reference in want.items():
            error = error_of(got[output], reference)
            if error > TOLERANCE / 10:
                failed.append(f"pass {name!r} changes output {output!r} by {error:.2g} of its "
                              f"scale")
                return

    run_pipeline(graph, spec, after=after)
    if failed:
        raise CheckError(failed[0])


def exposed(graph: Graph, schedule: Schedule) -> tuple[Graph, Schedule, dict[str, int]]:
    """The graph with every group's results as extra outputs, its schedule, and which group
    gives which output."""
    outputs: list[tuple[str, Value]] = []
    group_of: dict[str, int] = {}
    for k, nodes in enumerate(schedule.members(graph)):
        for i, v in enumerate(escaping(graph, nodes)):
            if isinstance(v.type, TensorType):
                outputs.append((f"g{k}.{i}", v))
                group_of[f"g{k}.{i}"] = k
    wide = Graph(graph.inputs, outputs, graph.nodes, graph.constants)
    return wide, Schedule(wide.digest, schedule.groups), group_of


def first_wrong_group(graph: Graph, schedule: Schedule, like: Executable, feeds: Feeds
                      ) -> str | None:
    """The first group whose results differ from the interpreter's, described; None if none."""
    from .api import program_of

    wide, wide_schedule, group_of = exposed(graph, schedule)
    program = program_of(wide, wide_schedule, like.target)
    executable = Executable(program, wide.constants, like.target, like.threads)
    got = executable.run(feeds)
    names = {v: name for name, v in wide.outputs}
    suspects: list[dict[str, float]] = []
    for float64 in (True, False):  # a float32 reference shares float32's own rounding
        errors: dict[str, float] = {}

        def compare(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
            """Every group starts from what the compiled groups before it gave."""
            replaced = list(results)
            for i, v in enumerate(node.outputs):
                name = names.get(v)
                if name is None:
                    continue
                errors[name] = error_of(got[name], results[i])  # noqa: B023
                if isinstance(results[i], np.ndarray):
                    replaced[i] = np.asarray(got[name]).astype(results[i].dtype)
            return tuple(replaced)

        interp.run(wide, feeds, float64=float64, observe=compare)
        suspects.append(errors)
    for name, v in wide.outputs:
        error = min(errors[name] for errors in suspects)
        if error > TOLERANCE:
            return _describe(graph, schedule, group_of[name], error, v)
    return None


def _describe(graph: Graph, schedule: Schedule, k: int, error: float, v: Value) -> str:
    nodes = [graph.nodes[i] for i in schedule.groups[k].nodes]
    origin = ", ".join(dict.fromkeys(o for n in nodes for o in n.origin))
    ops = " ".join(n.op for n in nodes)
    return (f"group g{k} {schedule.groups[k].implementation} ({ops}) from {origin}: "
            f"error {error:.2g} of scale in {v.type}")
