"""Legality of a group: one function that answers True or the reason.

Legality never looks at cost. It asks whether the group's positions propagate backwards from its
outputs to one tile space (``ir.tiles``), which is what lowering needs; acyclicity of the partition
is the chooser's (``check_order`` verifies a whole schedule).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.attention import AttentionSpace
from ..ir.elements import Refused, is_reduction
from ..ir.errors import EvonnxError
from ..ir.graph import Graph, Node, Value
from ..ir.groups import extract
from ..ir.ops import lookup
from ..ir.tiles import ContractionSpace, Space, TileSpace, micro_typed

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


def implementation(graph: Graph, members: Sequence[Node], written: Sequence[Value] | None = None
                   ) -> tuple[str | None, str]:
    """How a group can run that gives the values ``written`` (None: all that are needed outside):
    (implementation, "") or (None, reason)."""
    if len(members) == 1:
        node = members[0]
        definition = lookup(node.op)
        if node.op == "bind":
            return "bind", ""
        for trait in ("control", "host"):
            if definition.has(trait):
                return trait, ""
        if alone(node) is not None:
            return "opaque", ""
    if all(lookup(n.op).has("view") for n in members):
        return "view", ""
    if len(members) > MAX_NODES:
        return None, f"{len(members)} nodes, more than {MAX_NODES}"
    for node in members:
        reason = alone(node)
        if reason is not None:
            return None, reason
    try:
        return _fused(graph, members, written)
    except Refused as refusal:
        return None, str(refusal)
    except EvonnxError as error:
        return None, f"positions cannot be propagated: {error}"


def _fused(graph: Graph, members: Sequence[Node], written: Sequence[Value] | None
           ) -> tuple[str | None, str]:
    group = extract(graph, members, written)
    if len(members) > 1 and len(group.inputs) > MAX_OPERANDS:
        return None, f"{len(group.inputs)} operands, more than {MAX_OPERANDS}"
    reductions = [n for n in group.graph.nodes if is_reduction(n)]
    if not reductions:
        return "loops", ""
    if any(lookup(n.op).has("attention") for n in reductions):
        AttentionSpace(Space(group.graph))
        return "attention", ""
    contractions = [n for n in reductions if lookup(n.op).has("contraction")]
    if len(contractions) > 1:
        return None, "two contractions"
    reason = ""
    if contractions and len(reductions) == 1:
        try:
            ContractionSpace(Space(group.graph))
            return "contract", ""
        except Refused as refusal:
            reason = str(refusal)
            if len(members) > 1 and micro_typed(contractions[0]):
                return None, reason
    elif contractions and len(members) > 1:
        return None, "a contraction with another reduction"
    space = TileSpace(Space(group.graph), reductions)
    space.find_tiles()
    space.check_early()
    return "loops", ""


def legal(graph: Graph, members: Sequence[Node]) -> bool | str:
    """True, or the reason why the members cannot be one kernel."""
    found, reason = implementation(graph, members)
    return True if found is not None else reason
