"""What several commands of ``evonnx`` take, and the compilation that it describes.

Arguments and options as decorators of click, in groups: what compiles, what is fed, what is fixed.
``compile_as_asked`` hands the values of ``COMPILING`` to ``compile``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ..search.settings import BUDGET, DEFAULT_SEARCH, OBJECTIVES
from .console import Progress, named_sizes

if TYPE_CHECKING:
    from .api import Compiled

F = TypeVar("F", bound=Callable[..., Any])


def together(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several click decorators as one, in the order of the help text."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


MODEL = click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
PIPELINE = click.option(
    "-p", "--pipeline", metavar="SPEC",
    help='Passes to run, e.g. "fold,canon"; default: the whole pipeline.',
)  # fmt: skip
DIMS = click.option(
    "--dim", "dims", metavar="NAME=SIZE", multiple=True,
    help="Size of a symbolic dimension in made-up inputs; repeatable.",
)  # fmt: skip
SEED = click.option("--seed", default=0, show_default=True, help="Seed of made-up inputs.")
FIXING = together(
    click.option("--fix", "fixed", metavar="NAME=SIZE", multiple=True,
                 help="Compile for this size of a symbolic dimension only; repeatable."),
    click.option("--const", "constants", metavar="NAME=VALUE", multiple=True,
                 help="Compile for this value of an input only: a number, a JSON list or FILE.npy; "
                 "repeatable."),
)  # fmt: skip
COMPILING = together(
    click.option("--target", default="cpu", show_default=True, metavar="NAME|FILE",
                 help="cpu (this machine), avx512, avx2, generic, a shipped machine, or a file."),
    click.option("--threads", type=click.IntRange(1), help="Threads per inference."),
    click.option("--schedule", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                 help="Replay this schedule instead of choosing one."),
    click.option("--search", metavar="NAME", default=DEFAULT_SEARCH, show_default=True,
                 help="How to look for a schedule: none, default, exact, a strategy (genetic, "
                 "swarm, annealing, beam, nsga2, ...), a published rule (postdominator, priority, "
                 "score), or what is installed."),
    click.option("--objective", type=click.Choice(OBJECTIVES), default="time", show_default=True,
                 help="What the search minimizes: time by the cost model, peak memory, operations "
                 "(C) or bytes moved (D)."),
    click.option("--max-memory", type=click.IntRange(1), metavar="BYTES",
                 help="Bytes of a call, weights included, that the schedule must keep."),
    click.option("--measure", type=click.FloatRange(0), default=0.0, metavar="SECONDS",
                 help="Time schedules and variants of kernels on this machine for so "
                 "long (2: the best few; 20 to 40: a search), and compile them besides."),
    click.option("--cost-model", default="bounds", show_default=True, metavar="NAME",
                 help="What the search minimizes: bounds, roofline, cd, or an installed one."),
    click.option("--budget", type=click.IntRange(1), default=BUDGET, show_default=True,
                 help="Schedules that a search may score."),
    click.option("--search-seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--expect", "expected", metavar="NAME=SIZE", multiple=True,
                 help="Size of a symbol that the search counts on (else read off the graph); "
                      "repeatable."),
    FIXING,
    PIPELINE,
    click.option("--weights", type=click.Choice(["bf16"]),
                 help="Round constant weights of matrix products to bfloat16: half the bytes."),
    click.option("--no-cache", is_flag=True, help="Neither read nor write the compile cache."),
    click.option("--recompile", is_flag=True,
                 help="Of a saved model: compile the IR inside for this machine."),
)  # fmt: skip
_LOADING = ("threads", "no_cache", "recompile")
"""The options of ``COMPILING`` that a saved model takes."""
FEEDING = click.option(
    "-i", "--input", "inputs", metavar="[NAME=]VALUE", multiple=True,
    help="NAME=FILE.npy, NAME=random, NAME=zeros, NAME=ones or NAME=<number>; FILE.npz for several "
    "by name; 'random' for all that are left. Repeatable.",
)  # fmt: skip


def _exclusive(context: click.Context, _: click.Parameter, checked: bool) -> bool:
    if checked and context.params.get("weights"):
        raise click.UsageError("--check compares with the model's own weights: not with --weights")
    return checked


CHECK = click.option(
    "--check", "checked", is_flag=True, callback=_exclusive,
    help="Compare with the reference interpreter; exit 4 on a difference.",
)  # fmt: skip


def compile_as_asked(model: Path, label: str, options: dict[str, Any]) -> Compiled:
    """``compile()`` with the command-line options and a progress bar; ``load()`` for a file that
    ``compile -o`` wrote."""
    from .saved import is_saved, load

    if is_saved(model):
        context = click.get_current_context()
        for option in context.command.params:
            name = option.name or ""
            given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
            if given and name in options and name not in _LOADING:
                raise click.UsageError(
                    f"{model.name} is compiled already: {option.opts[-1]} comes too late")
        return load(model, threads=options["threads"], recompile=options["recompile"])
    if options["recompile"]:
        raise click.UsageError(f"--recompile is for saved models; {model.name} is none")
    from .api import compile as compile_model
    from .feeds import read_constants
    from .irfile import graph_or_file

    with Progress(label) as progress:
        return compile_model(
            graph_or_file(model), target=options["target"], threads=options["threads"],
            schedule=options["schedule"], pipeline=options["pipeline"],
            weights=options["weights"],
            sizes=named_sizes("--fix", options["fixed"]) or None,
            constants=read_constants(options["constants"]) or None, cache=not options["no_cache"],
            search=options["search"], cost_model=options["cost_model"],
            objective=options["objective"], max_memory=options["max_memory"],
            measure=options["measure"], budget=options["budget"], seed=options["search_seed"],
            expect=named_sizes("--expect", options["expected"]),
            progress=progress,
        )  # fmt: skip
