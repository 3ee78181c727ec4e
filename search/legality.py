"""Legality of a group: one function that answers True or the reason.

Legality never looks at cost. It asks whether the group's positions propagate backwards from its
outputs to one tile space (``ir.tiles``), which is what lowering needs; acyclicity of the partition
is the chooser's (``check_order`` verifies a whole schedule).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attention import AttentionSpace
from ..ir.contraction import ContractionSpace, micro_typed
from ..ir.elements import Refused, is_reduction
from ..ir.errors import EvonnxError
from ..ir.graph import Graph, Node, Value
from ..ir.groups import GroupGraph, extract
from ..ir.ops import lookup
from ..ir.separable import SeparableSpace
from ..ir.tiles import Space, TileSpace

MAX_NODES = 48
"""Nodes in one group: source length and compile time grow with it."""
MAX_OPERANDS = 20
"""Distinct tensors a group may read: each is a pointer that stays in a register."""

_ALONE = ("opaque", "control", "dynamic", "host", "random", "recurrent", "scatter", "sort")


def alone(node: Node) -> str | None:
    """Why a node is always a group of its own, or None if it may be fused."""
    definition = lookup(node.op)
    for trait in _ALONE:
        if definition.has(trait):
            return f"{node.op} is {trait}: a step of its own"
    if definition.access is None and definition.expand is None:
        return f"{node.op} has no access map: a kernel of its own"
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether nodes may be one group, and what was found out on the way."""

    implementation: str | None
    """How the group can run; None where it cannot."""
    reason: str = ""
    """Why it cannot."""
    cut: GroupGraph | None = None
    """The group as a graph of its own, where it was looked at as one."""
    tiles: TileSpace | SeparableSpace | None = None
    """Its tile space, where it has reductions; ``find_tiles`` has been called."""


def judge(graph: Graph, members: Sequence[Node], written: Sequence[Value] | None = None
          ) -> Verdict:
    """How a group can run that gives the values ``written`` (None: all that are needed outside)."""
    if len(members) == 1:
        node = members[0]
        definition = lookup(node.op)
        if node.op == "bind":
            return Verdict("bind")
        for trait in ("control", "host"):
            if definition.has(trait):
                return Verdict(trait)
        if alone(node) is not None:
            return Verdict("opaque")
    if all(lookup(n.op).has("view") for n in members):
        return Verdict("view")
    if len(members) > MAX_NODES:
        return Verdict(None, f"{len(members)} nodes, more than {MAX_NODES}")
    for node in members:
        reason = alone(node)
        if reason is not None:
            return Verdict(None, reason)
    try:
        return _fused(graph, members, written)
    except Refused as refusal:
        return Verdict(None, str(refusal))
    except EvonnxError as error:
        return Verdict(None, f"positions cannot be propagated: {error}")


def _fused(graph: Graph, members: Sequence[Node], written: Sequence[Value] | None) -> Verdict:
    group = extract(graph, members, written)
    if len(members) > 1 and len(group.inputs) > MAX_OPERANDS:
        return Verdict(None, f"{len(group.inputs)} operands, more than {MAX_OPERANDS}")
    reductions = [n for n in group.graph.nodes if is_reduction(n)]
    if not reductions:
        return Verdict("loops", cut=group)
    if any(lookup(n.op).has("attention") for n in reductions):
        return Verdict("attention", cut=group, tiles=AttentionSpace(Space(group.graph)))
    contractions = [n for n in reductions if lookup(n.op).has("contraction")]
    if len(contractions) > 1:
        return Verdict("separable", cut=group, tiles=SeparableSpace(group.graph))
    if contractions and len(reductions) == 1:
        try:
            return Verdict("contract", cut=group, tiles=ContractionSpace(Space(group.graph)))
        except Refused as refusal:
            if len(members) > 1 and micro_typed(contractions[0]):
                return Verdict(None, str(refusal))
    elif contractions and len(members) > 1:
        return Verdict(None, "a contraction with another reduction")
    space = TileSpace(Space(group.graph), reductions)
    space.find_tiles()
    space.check_early()
    return Verdict("loops", cut=group, tiles=space)


def implementation(graph: Graph, members: Sequence[Node], written: Sequence[Value] | None = None
                   ) -> tuple[str | None, str]:
    """How a group can run that gives the values ``written`` (None: all that are needed outside):
    (implementation, "") or (None, reason)."""
    found = judge(graph, members, written)
    return found.implementation, found.reason


def legal(graph: Graph, members: Sequence[Node]) -> bool | str:
    """True, or the reason why the members cannot be one kernel."""
    found, reason = implementation(graph, members)
    return True if found is not None else reason
