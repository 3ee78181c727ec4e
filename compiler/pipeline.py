"""The way of a graph through the passes, on one screen.

Each step is a pass of ``passes/registry.py``; the order is the only thing decided here. Recognition
comes before scales are folded into weights, because the norms' scales would be; image ops turn
channels-last after everything that speaks of channels-first convolutions.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ir.graph import Graph, Node
from ..ir.verify import verify as verify_graph
from ..passes import manager
from ..passes.manager import PassReport, Progress, Step
from ..passes.registry import PASSES, RULES

PIPELINE = [
    "fold",  # constants and shape arithmetic
    "canon",  # identities, chains of movement
    "recognize",  # norms, softmax, GELU, attention
    "fuse_affine",  # scales and offsets into weights
    "halves",  # products of half-precision numbers in float32
    "wide_attention",  # its kernel is of float32, others are expanded
    "siblings:dot",  # queries, keys and values by one product
    "conv_transpose",  # as convolutions where that is better
    "layout",  # image ops channels-last from end to end
    "planes",  # depth as batch where kernels have one plane
    "canon",
    "linear",  # images multiplied where they are small
    "atrous",  # convolutions without what only meets padding
    "thin",  # padding of three-channel images made explicit
    "quantized",  # bytes limited once, and unsigned where products read them
    "fold:all",  # what is still constant is computed once, not in every call
]
"""The passes that ``compile`` runs, in order."""
LEANER = "order_sums,split_concats"
"""What runs behind them where memory is asked for and this saves some."""


def run_pipeline(
    graph: Graph,
    spec: str | None = None,
    report: list[PassReport] | None = None,
    progress: Progress | None = None,
    *,
    verify: bool = False,
    after: Callable[[str, Graph], None] | None = None,
) -> Graph:
    """``graph`` after the passes of ``spec`` ("fold,canon"; None: ``PIPELINE``).

    ``report`` receives one ``PassReport`` per pass, ``progress`` is called before each with
    (stage, done, total), ``after`` with (pass name, graph). ``verify`` checks every result and the
    postconditions. Raises ``OptionError`` for an unknown pass, ``CompileError`` for a broken
    result.
    """
    steps: list[Step] = manager.parse_spec(",".join(PIPELINE) if spec is None else spec, PASSES)
    return manager.run_steps(
        graph, steps, PASSES, report=report, progress=progress,
        verify=verify_graph if verify else None, after=after,
    )  # fmt: skip


def explain(node: Node, graph: Graph) -> list[tuple[str, str, str]]:
    """(pass, rule, verdict) for every rewriting rule that could be rooted in ``node``."""
    return manager.explain(node, graph, PASSES.values())


def rule_names() -> tuple[str, ...]:
    """Names of all rewriting rules, as reports count them."""
    return tuple(RULES)
