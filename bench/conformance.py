"""ONNX's own backend suite in parallel processes: what passes, what runs where, how long it takes.

The cases are those of ``onnx.backend.test`` (kinds node, simple, pytorch-converted and
pytorch-operator), loaded and compared by its own functions; each is compiled through
``evonnx.backend``. A case that kills or hangs its process fails alone (``bench.pool``).

    python -m evonnx.bench.conformance                  # summary and failures
    python -m evonnx.bench.conformance -k resize        # a part
    python -m evonnx.bench.conformance --record         # all, and rewrites the operator table
"""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from ..compiler.operators import PAGE, TABLE, Case, make_table, markdown
from .pool import Dead, Pool

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
"""Kinds of cases that come with the onnx package."""
LIMIT_S = 120.0
"""Seconds after which a case counts as hung."""


@dataclass(frozen=True, slots=True)
class Outcome(Case):
    """What became of one case."""

    status: str = "failed"
    """'passed', 'wrong' (runs, but differs), 'failed' (raises) or 'crashed'."""
    message: str = ""
    compile_s: float = 0.0


def load_cases(pattern: str = "") -> list[tuple[str, Any]]:
    """(kind, onnx ``TestCase``) of all cases whose name matches ``pattern``."""
    from onnx.backend.test.loader import load_model_tests

    return [(kind, case) for kind in KINDS for case in load_model_tests(kind=kind)
            if re.search(pattern, case.name)]


def data_sets(case: Any, model: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    """Inputs and expected outputs of a case, from memory or its folder."""
    from onnx import TensorProto, numpy_helper

    if case.data_sets is not None:
        for values in case.data_sets:
            yield tuple([numpy_helper.to_array(v) if isinstance(v, TensorProto) else v
                         for v in side] for side in values)  # type: ignore[misc]
        return
    for folder in sorted(Path(case.model_dir).glob("test_data_set*")):
        sides: list[list[Any]] = []
        for what, infos in (("input", model.graph.input), ("output", model.graph.output)):
            files = sorted(folder.glob(f"{what}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
            sides.append([_read(f.read_bytes(), info.type) for f, info in zip(files, infos)])
        yield sides[0], sides[1]


def _read(data: bytes, type_: Any) -> Any:
    from onnx import OptionalProto, SequenceProto, TensorProto, numpy_helper

    what = type_.WhichOneof("value")
    if what == "tensor_type":
        return numpy_helper.to_array(TensorProto.FromString(data))
    if what == "sequence_type":
        return numpy_helper.to_list(SequenceProto.FromString(data))
    return numpy_helper.to_optional(OptionalProto.FromString(data))


def run_case(kind: str, case: Any) -> Outcome:
    """Compiles and runs one case."""
    import onnx
    from onnx.backend.test.runner import Runner

    from .. import backend

    model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
    ops, status, host, seconds, message = operators(model), "failed", [], 0.0, ""
    try:
        start = time.perf_counter()
        rep = backend.prepare(model)
        seconds = time.perf_counter() - start
        for inputs, expected in data_sets(case, model):
            outputs = rep.run(inputs)
            status = "wrong"
            Runner.assert_similar_outputs(expected, outputs, case.rtol, case.atol)
            status = "failed"
        host = sorted(set(rep.compiled.report().host))
        status = "passed"
    except Exception as error:
        message = f"{type(error).__name__}: {error}".strip()[:600]
    return Outcome(case.name, kind, ops, status == "passed", tuple(host), status, message, seconds)


def operators(model: Any) -> tuple[str, ...]:
    """Operators of a model, subgraphs and functions included: ``Op``, or ``domain::Op`` outside
    the default domain; sorted."""
    names: set[str] = set()
    local = {(f.domain, f.name) for f in model.functions}
    stack = [model.graph, *model.functions]
    while stack:
        for node in stack.pop().node:
            domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
            if (node.domain, node.op_type) not in local:
                names.add(domain + node.op_type)
            for a in node.attribute:
                stack += [a.g] if a.HasField("g") else []
                stack += list(a.graphs)
    return tuple(sorted(names))


def _opener(pattern: str) -> Callable[[int], Outcome]:
    cases = load_cases(pattern)
    return lambda k: run_case(*cases[k])


def run_suite(pattern: str = "", workers: int | None = None,
              progress: Callable[[int, int], None] | None = None) -> list[Outcome]:
    """Every case whose name matches ``pattern``, on ``workers`` processes (None: the cores)."""
    names = [(kind, case.name) for kind, case in load_cases(pattern)]
    count = workers or len(os.sched_getaffinity(0))
    found: dict[int, Outcome] = {}
    for k, answer in Pool(count, _opener, (pattern,), LIMIT_S).run(len(names)):
        if isinstance(answer, Dead):
            kind, name = names[k]
            answer = Outcome(name, kind, (), False, (), "crashed", answer.reason)
        found[k] = answer
        if progress is not None:
            progress(len(found), len(names))
    return [found[k] for k in range(len(names))]


def summary(cases: list[Outcome], seconds: float) -> str:
    """Counts and times in one line."""
    passed = [c for c in cases if c.passed]
    native = sum(not c.host for c in passed)
    median = statistics.median([c.compile_s for c in passed] or [0.0])
    return (f"{len(passed)} of {len(cases)} passed in {seconds:.1f} s, {native} of them without a "
            f"host step; a model compiles in {median * 1e3:.0f} ms (median)")


@click.command()
@click.option("-k", "pattern", default="", help="Regular expression a case's name must match.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: the cores.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the outcomes as JSON.")
@click.option("--record", is_flag=True, help="Rewrite the operator table from a whole run.")
def main(pattern: str, workers: int | None, out: Path | None, record: bool) -> None:
    """Runs the suite and prints what failed."""
    from ..compiler.console import Progress, plain

    if record and pattern:
        raise click.UsageError("--record needs the whole suite, not a part of it")
    start = time.perf_counter()
    with Progress("backend suite") as bar:
        cases = run_suite(pattern, workers, lambda done, total: bar("cases", done, total))
    for case in cases:
        if not case.passed:
            first = (case.message.splitlines() or [""])[0]
            click.echo(plain(f"{case.status:8} {case.kind}/{case.name}: {first}"))
    click.echo(summary(cases, time.perf_counter() - start))
    if out is not None:
        out.write_text(json.dumps([asdict(c) for c in cases], indent=1) + "\n")
    if record:
        table = make_table(cases)
        TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(markdown(table), encoding="utf-8")
        click.echo(f"wrote {TABLE} and {PAGE}")


if __name__ == "__main__":
    main()
