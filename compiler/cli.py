"""The command line: ``evonnx compile | run | profile | opt | dump | check | ops | bench |
calibrate | study``.

Every command is a thin wrapper around one public function and takes ``--json``. Heavy modules are
imported inside the commands, so that ``evonnx --help`` answers at once. What several commands take
is in ``cli_options``.

Exit codes: 0 done; 1 an ``EvonnxError`` (bad model, feeds, schedule, ...), a file that cannot be
written, or no memory; 2 wrong usage; 3
``check`` or a compilation found something EvoNNX does not support; 4 a result differs from the
reference; 70 a defect of EvoNNX itself (the traceback follows); 130 interrupted.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import __version__
from .cli_options import (
    AS_JSON,
    CHECK,
    COMPILING,
    DIMS,
    FEEDING,
    FIXING,
    MODEL,
    PIPELINE,
    SEED,
    compile_as_asked,
    together,
)
from .console import Progress, named_sizes, plain, print_json, print_table, warn
from .operators import STATUSES, read_table
from .study_command import study

if TYPE_CHECKING:
    from ..ir.errors import Gap
    from ..ir.graph import Graph
    from ..ir.views import Groups
    from .api import Compiled
    from .gantt import Gantt

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_UNSUPPORTED, EXIT_MISMATCH = 0, 1, 2, 3, 4
EXIT_DEFECT, EXIT_INTERRUPT = 70, 130


class _Group(click.Group):
    """Keeps the commands in the order they are declared in."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, as the help lists them."""
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="evonnx")
def app() -> None:
    """Compile ONNX models to fast native code, run them, and look inside.

    Exit codes: 0 done, 1 error in a model or its feeds, 2 usage, 3 unsupported operators,
    4 result differs from the reference, 70 defect of EvoNNX.
    """


def _verify(
    model: Path, compiled: Compiled, pipeline: str | None, feeds: Mapping[str, Any]
) -> None:
    """Compares with the reference interpreter on ``feeds``; raises ``CheckError``."""
    from .checking import check_compiled
    from .saved import is_saved

    if is_saved(model):
        pipeline = ""  # the passes are behind it
    with Progress(f"check {model.name}"):
        check_compiled(compiled, pipeline, dict(feeds))


@app.command("compile")
@together(MODEL, COMPILING, CHECK, DIMS, SEED)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the compiled model there (model.evonnx), for evonnx run and load().")
@click.option("--recompilable/--not-recompilable", default=True,
              help="Whether -o keeps the IR's own weights, to compile them for another machine.")
@click.option("--save-schedule", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the schedule, to edit and replay with --schedule.")  # fmt: skip
@AS_JSON
def compile_command(
    model: Path, checked: bool, dims: tuple[str, ...], seed: int, output: Path | None,
    recompilable: bool, save_schedule: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Compile MODEL (and fill the cache); print what was fused, planned and predicted."""
    from .feeds import random_feeds

    compiled = compile_as_asked(model, f"compile {model.name}", options)
    if checked:
        feeds = random_feeds(compiled.inputs, named_sizes("--dim", dims), seed)
        _verify(model, compiled, options["pipeline"], feeds)
    if output is not None:
        compiled.save(output, recompilable=recompilable)
    if save_schedule is not None:
        save_schedule.write_text(str(compiled.schedule), encoding="utf-8")
    report = compiled.report()
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(plain(report))


@app.command()
@together(MODEL, COMPILING)
@together(FEEDING, DIMS, SEED, CHECK)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the outputs to this .npz file (.npy for a single output).")  # fmt: skip
@AS_JSON
def run(
    model: Path, inputs: tuple[str, ...], dims: tuple[str, ...], seed: int,
    checked: bool, output: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Compile MODEL and run it once."""
    from .feeds import read_feeds, write_arrays

    compiled = compile_as_asked(model, f"compile {model.name}", options)
    feeds = read_feeds(inputs, compiled.inputs, named_sizes("--dim", dims), seed)
    with Progress(f"run {model.name}"):
        began = time.perf_counter()
        results = compiled.run(None, feeds)
        seconds = time.perf_counter() - began
    if checked:
        _verify(model, compiled, options["pipeline"], feeds)
    named = dict(zip(compiled.output_names, results, strict=True))
    if output is not None:
        write_arrays(output, named)
    rows = [_describe(name, array) for name, array in named.items()]
    if as_json:
        print_json({"seconds": seconds, "outputs": rows})
        return
    title = f"{model.name}: {seconds * 1e3:.3g} ms"
    print_table(title, list(rows[0]) if rows else [], [list(row.values()) for row in rows])


def _describe(name: str, array: Any) -> dict[str, object]:
    """Name, dtype, shape and a few figures of one output."""
    import numpy as np

    if not isinstance(array, np.ndarray):  # a sequence or a map
        return {"name": name, "dtype": type(array).__name__, "shape": f"[{len(array)}]",
                "min": "", "max": "", "mean": "", "first": str(array)[:60]}  # fmt: skip
    row: dict[str, object] = {
        "name": name, "dtype": str(array.dtype), "shape": str(list(array.shape)),
        "min": "", "max": "", "mean": "",
    }  # fmt: skip
    if array.size and array.dtype.kind in "biufV":
        wide = array.astype(np.float64)
        row |= {"min": float(wide.min()), "max": float(wide.max()), "mean": float(wide.mean())}
    row["first"] = " ".join(
        f"{v:.6g}" if isinstance(v, float) else str(v) for v in array.reshape(-1)[:4].tolist()
    )
    return row


@app.command()
@together(MODEL, FIXING, PIPELINE)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the IR there, its large constants to FILE.npz beside it.")  # fmt: skip
@click.option("--stats", is_flag=True, help="Also print the passes and rules that ran (stderr).")
@AS_JSON
def opt(
    model: Path, pipeline: str | None, output: Path | None, stats: bool, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Run passes over MODEL (ONNX or IR text) and print the IR."""
    from ..ir.text import print_graph
    from .irfile import write_graph

    before = _load_graph(model, options)
    graph, report = _optimize(model, before, pipeline)
    text = print_graph(graph)
    if output is not None:
        write_graph(output, graph)
    if as_json:
        print_json({"nodes_before": len(before.nodes), "nodes_after": len(graph.nodes),
                    "passes": report, "ir": None if output else text})  # fmt: skip
        return
    if stats:
        for entry in report:
            warn(", ".join(f"{key}: {value}" for key, value in entry.items()))
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))


def _load_graph(path: Path, options: Mapping[str, Any]) -> Graph:
    """The graph of an ONNX file, or of a text file of IR."""
    from .feeds import read_constants
    from .irfile import read_graph

    with Progress(f"import {path.name}"):
        return read_graph(path, named_sizes("--fix", options["fixed"]),
                          read_constants(options["constants"]))  # fmt: skip


def _optimize(path: Path, graph: Graph, spec: str | None) -> tuple[Graph, list[dict[str, object]]]:
    """``graph`` after the pipeline, and one entry per pass that ran."""
    from ..passes.manager import PassReport
    from .pipeline import run_pipeline

    report: list[PassReport] = []
    with Progress(f"optimize {path.name}") as progress:
        graph = run_pipeline(graph, spec, report, progress)
    return graph, [entry.as_dict() for entry in report]


@app.command()
@together(MODEL, COMPILING, FEEDING, DIMS, SEED)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True,
              help="Times every group is measured; the smallest counts.")  # fmt: skip
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a trace (JSON) for ui.perfetto.dev or chrome://tracing.")  # fmt: skip
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path),
              help="Draw the roofline into this file (.svg, .png, .pdf); needs Matplotlib.")
@AS_JSON
def profile(
    model: Path, inputs: tuple[str, ...], dims: tuple[str, ...], seed: int, rounds: int,
    trace: Path | None, plot: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Compile MODEL and time every group: rates, share of the roofline, what bounds it."""
    from .feeds import read_feeds

    compiled = compile_as_asked(model, f"compile {model.name}", options)
    feeds = read_feeds(inputs or ("random",), compiled.inputs, named_sizes("--dim", dims), seed)
    with Progress(f"profile {model.name}"):
        found = compiled.profile(*map(feeds.get, compiled.input_names), rounds=rounds)
    if trace is not None:
        found.save_trace(trace)
    if plot is not None:
        found.plot(plot)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(plain(found), nl=False)


_VIEWS = ("ir", "schedule", "gantt", "source", "dot", "svg", "onnx")
_SCHEDULED = ("schedule", "gantt", "source")
"""Views of the compiled model."""


@app.command()
@together(MODEL, COMPILING, DIMS, SEED)
@click.option("--what", type=click.Choice(_VIEWS), default="ir", show_default=True,
              help="What to print.")  # fmt: skip
@click.option("--raw", is_flag=True, help="The graph as imported, before any pass.")
@click.option("--groups", is_flag=True, help="Draw the groups of the schedule into dot or svg.")
@click.option("--kernel", metavar="NAME", help="Only this kernel, with --what source.")
@click.option("--explain", metavar="NODE",
              help="Which rules and fusions were tried at a node, and why not.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Write there instead of to standard output (needed for onnx).")  # fmt: skip
@AS_JSON
def dump(
    model: Path, what: str, raw: bool, groups: bool, kernel: str | None, explain: str | None,
    output: Path | None, dims: tuple[str, ...], seed: int, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Print MODEL as IR, schedule, kernel source or a drawing; or export it back to ONNX."""
    from .irfile import write_graph

    if raw and (groups or explain is not None or what in _SCHEDULED):
        raise click.UsageError("--raw shows the graph before it is scheduled")
    if groups and what not in ("dot", "svg"):
        raise click.UsageError("--groups is for --what dot or svg")
    if groups or explain is not None or what in _SCHEDULED:
        compiled = compile_as_asked(model, f"compile {model.name}", options)
        if what == "gantt" and explain is None:
            chart = _gantt(compiled, named_sizes("--dim", dims), seed)
            if as_json:
                print_json(chart.to_dict())
                return
            svg = output is not None and output.suffix == ".svg"
            text = chart.svg() if svg else plain(chart)
        else:
            text = _compiled_view(compiled, what, kernel, explain)
    else:
        graph = _load_graph(model, options)
        if not raw:
            graph, _ = _optimize(model, graph, options["pipeline"])
        if what == "onnx":
            _export(graph, output, as_json)
            return
        text = _graph_view(graph, what)
        if what == "ir" and output is not None:
            write_graph(output, graph)
            text = ""
    if output is not None and text:
        output.write_text(text, encoding="utf-8")
        text = ""
    if as_json:
        shown = "explain" if explain is not None else what
        print_json({"what": shown, "text": text, "file": output})
    elif output is None:
        click.echo(text, nl=not text.endswith("\n"))


def _gantt(compiled: Compiled, sizes: dict[str, int], seed: int) -> Gantt:
    """The chart, measured on random inputs."""
    from .feeds import random_feeds

    feeds = random_feeds(compiled.inputs, sizes, seed)
    with Progress("profile"):
        return compiled.gantt(*(feeds[n] for n in compiled.input_names))


def _compiled_view(compiled: Compiled, what: str, kernel: str | None, explain: str | None) -> str:
    if explain is not None:
        return plain(compiled.explain(explain))
    if what == "schedule":
        return str(compiled.schedule)
    if what in ("dot", "svg"):
        members = compiled.schedule.members(compiled.graph)
        groups = {
            f"g{k} {group.implementation}": nodes
            for k, (group, nodes) in enumerate(zip(compiled.schedule.groups, members, strict=True))
        }
        return _graph_view(compiled.graph, what, groups)
    from ..kernels.jit import annotated

    source, target = compiled.source, compiled.executable.target
    if kernel is None:
        return "\n\n".join(f"# {name}\n{annotated(text, target)}"
                           for name, text in source.items())
    if kernel not in source:
        raise click.UsageError(f"no kernel {kernel!r}; there are: {', '.join(source)}")
    return annotated(source[kernel], target)


def _graph_view(graph: Graph, what: str, groups: Groups | None = None) -> str:
    if what == "ir":
        from ..ir.text import print_graph

        return print_graph(graph)
    from ..ir.views import to_dot, to_svg

    return to_dot(graph, groups) if what == "dot" else to_svg(graph, groups)


def _export(graph: Graph, output: Path | None, as_json: bool) -> None:
    from .exporter import export_model

    if output is None:
        raise click.UsageError("--what onnx writes a binary file: give -o FILE.onnx")
    export_model(graph, output)
    if as_json:
        print_json({"what": "onnx", "file": output, "nodes": len(graph.nodes)})


@app.command()
@together(MODEL, AS_JSON)
def check(model: Path, as_json: bool) -> None:
    """List everything in MODEL that EvoNNX does not support; exit 3 if there is anything."""
    from .api import check as find_gaps
    from .irfile import graph_or_file

    with Progress(f"check {model.name}"):
        gaps = find_gaps(graph_or_file(model))
    if as_json:
        print_json({"supported": not gaps, "gaps": [_gap_row(gap) for gap in gaps]})
    elif gaps:
        rows = [list(_gap_row(gap).values()) for gap in gaps]
        print_table(f"{model.name}: {len(gaps)} gaps", ["node", "op", "reason"], rows)
    else:
        click.echo(plain(f"{model.name}: everything is supported"))
    if gaps:
        raise SystemExit(EXIT_UNSUPPORTED)


def _gap_row(gap: Gap) -> dict[str, str]:
    return {"node": gap.node, "op": gap.op, "reason": gap.reason}


@app.command()
@click.option("--status", type=click.Choice(STATUSES), help="Only operators of this status.")
@click.option("--domain", help='Only this domain; "" is ONNX\'s own.')
@AS_JSON
def ops(status: str | None, domain: str | None, as_json: bool) -> None:
    """List all ONNX operators: compiled, on the host, or missing, as ONNX's own suite showed."""
    table = read_table()
    entries = [e for e in table["operators"]
               if status in (None, e["status"]) and domain in (None, e["domain"])]  # fmt: skip
    if as_json:
        print_json({**table, "operators": entries})
        return
    rows = [[e["domain"] or "ai.onnx", e["op"], ", ".join(map(str, e["versions"])), e["status"],
             f"{e['passed']}/{e['cases']}", ", ".join(e["host"])] for e in entries]  # fmt: skip
    title = f"onnx {table['onnx']}: {table['passed']} of {table['cases']} cases of its suite pass"
    print_table(title, ["domain", "operator", "versions", "status", "cases", "on the host"], rows)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Time models here and in the installed peers, interleaved, on the same inputs."""
    from ..bench.run import main as bench_command  # a command of its own: python -m evonnx.bench

    bench_command.main(list(arguments), prog_name="evonnx bench", standalone_mode=False)


@app.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a target file, to edit and to give to --target.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=120.0,
              show_default=True, help="Time to measure.")  # fmt: skip
@AS_JSON
def calibrate(output: Path | None, seconds: float, as_json: bool) -> None:
    """Measure this machine for the cost models: rates and times, best while nothing else runs."""
    from .calibrate import calibrate as measure

    with Progress("calibrate") as progress:
        target, found = measure(None, seconds, progress)
    if output is not None:
        output.write_text(str(target), encoding="utf-8")
    rows = [[m.name, m.value, m.unit, f"{m.spread:.0%}", m.samples] for m in found]
    header = ["constant", "value", "unit", "spread", "samples"]
    if as_json:
        measured = [dict(zip(header, (m.name, m.value, m.unit, m.spread, m.samples), strict=True))
                    for m in found]  # fmt: skip
        print_json({"target": str(target), "measured": measured, "file": output})
        return
    print_table(f"{target.name}: {target.cpu}, {target.cores} cores", header, rows)
    if output is None:
        click.echo(plain(target), nl=False)


app.add_command(study)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: runs a command and turns errors into messages and exit codes."""
    argv = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(_guarded(argv))


def _guarded(argv: list[str]) -> int:
    """Exit code of the command line ``argv`` (without the program's name)."""
    from ..ir.errors import EvonnxError

    try:
        app(argv, prog_name="evonnx", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        warn("interrupted")
        return EXIT_INTERRUPT
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EvonnxError as error:
        return _report_error(error, "--json" in argv)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return EXIT_OK
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else EXIT_ERROR
    except Exception as error:
        if refused := _refused_by_system(error):
            return _report_error(error, "--json" in argv, refused)
        warn("This is a defect of EvoNNX, please report it with the model's `evonnx dump --raw`:")
        warn(traceback.format_exc())
        return EXIT_DEFECT
    return EXIT_OK


def _refused_by_system(error: Exception) -> str:
    """What the system refused, in words: a file it names, or memory; "" for any other error."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r}: {error.strerror}"
    if isinstance(error, MemoryError):
        return str(error) or "out of memory"
    return ""


def _report_error(error: Exception, as_json: bool, message: str = "") -> int:
    """Prints an error and answers its exit code; ``message`` is said instead of its own."""
    from ..ir.errors import CheckError, OptionError, UnsupportedError

    kind = type(error).__name__.lstrip("_")
    message = message or str(error)
    if as_json:
        gaps = [_gap_row(gap) for gap in getattr(error, "gaps", ())]
        print_json({"error": {"type": kind, "message": message, "gaps": gaps}})
    else:
        warn(f"{kind}: {message}")
    codes = {
        UnsupportedError: EXIT_UNSUPPORTED, CheckError: EXIT_MISMATCH, OptionError: EXIT_USAGE,
    }  # fmt: skip
    return next((code for cls, code in codes.items() if isinstance(error, cls)), EXIT_ERROR)
