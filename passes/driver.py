"""The rule driver: find matches, choose those that do not overlap, rebuild once; again until none.

The three steps are pure functions, so that matches can be printed, counted and chosen by others.
Nodes that a sweep does not touch are taken over as they are, and a node where no rule applies is
not tried again: its whole upstream is the same object. Every set of rules declares a measure
that each sweep must lower; one that does not, or an empty fuel tank, ends the loop and is reported
with the names of the rules that fired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..ir.builder import Builder
from ..ir.graph import Graph, Node, Value
from .facts import Refusal
from .pattern import Trace
from .rebuild import New, with_replaced
from .rule import (
    Match,
    Rule,
    build_result,
    condition_refusal,
    find_at,
    index_rules,
    refusal,
    shared_refusal,
)  # fmt: skip

Measure = Callable[[Graph], float]
"""What every sweep of a rule set must lower."""

FUEL = 64
"""Most sweeps of one rule set."""

WEIGHTS: dict[str, int] = {
    "input": 0, "const": 0, "dims": 1, "erf": 12, "div": 12, "sub": 11, "pow": 40, "expand": 11,
    "transpose": 12, "gather": 30, "pad": 14, "concat": 14, "softmax": 20, "log_softmax": 20,
    "layer_norm": 24, "rms_norm": 24, "gelu": 24, "attention": 30, "reciprocal": 11,
    "reshape": 4, "slice": 10, "select": 11, "reduce": 14, "scatter_elements": 15,
}  # fmt: skip
"""Weight of one node in ``op_weight``; 10 where not listed."""


_PASSED = frozenset(
    {"reshape", "transpose", "expand", "slice", "concat", "pad", "neg", "cast", "not", "abs"}
)
"""Ops that rules learn to read past."""


def op_weight(graph: Graph) -> float:
    """The default measure: a weight per node, higher for ops that rules replace by simpler ones.
    Operands and reduced axes count a little, operands that were only moved or negated a little
    more for each such op in a row, so that reading past one is progress even where others keep it
    alive."""
    total = 0.0
    moved: dict[Node, int] = {}
    for node in graph.nodes:
        total += WEIGHTS.get(node.op, 10)
        behind = [moved.get(v.node, 0) for v in node.inputs if v is not None]
        if behind:
            total += 0.01 * len(behind) + 0.04 * sum(behind)
            if node.op in _PASSED:
                moved[node] = 1 + max(behind)
        if node.op == "reduce":
            total += 0.01 * len(node.attrs["axes"])
    return total


@dataclass
class Sweeps:
    """What a run of the driver did."""

    fired: Counter[str] = field(default_factory=Counter)
    """Applications by rule."""
    refused: Counter[str] = field(default_factory=Counter)
    """Matches refused by a condition, by rule."""
    count: int = 0
    """Sweeps that changed the graph."""
    stopped: str = ""
    """Why the loop was ended by force, with the rules' names; empty after a fixed point."""


@dataclass
class Memory:
    """What a run of the driver knows about nodes; they never change, so neither does this."""

    settled: set[Node] = field(default_factory=set)
    """No rule applies at the node, whatever else the graph holds."""
    declined: set[tuple[str, Node]] = field(default_factory=set)
    """(rule, root) of matches whose result could not be built."""
    refused: Counter[str] = field(default_factory=Counter)
    """Matches refused by a condition, by rule."""


def find(graph: Graph, rules: Sequence[Rule], memory: Memory | None = None) -> list[Match]:
    """All matches whose conditions hold: per node the first rule that fits, in graph order.
    ``memory`` holds what earlier sweeps found out, and is extended."""
    table = index_rules(tuple(rules))
    memory = memory or Memory()
    found: list[Match] = []
    for node in graph.nodes:
        candidates = table.get(node.op)
        if not candidates or node in memory.settled:
            continue
        settled = True
        for rule in candidates:
            match = find_at(rule, node, graph)
            if match is None or (rule.name, node) in memory.declined:
                continue
            if condition_refusal(match) is not None:
                memory.refused[rule.name] += 1
            elif shared_refusal(match) is not None:
                memory.refused[rule.name] += 1
                settled = False
            else:
                found.append(match)
                settled = False
                break
        if settled:
            memory.settled.add(node)
    return found


def choose(matches: Iterable[Match]) -> list[Match]:
    """Matches of which no two share a node: larger ones first, then in graph order."""
    order = sorted(enumerate(matches), key=lambda im: (-len(im[1].nodes), im[0]))
    taken: set[Node] = set()
    chosen = []
    for _, match in order:
        if taken.isdisjoint(match.nodes):
            taken.update(match.nodes)
            chosen.append(match)
    return chosen


def apply(
    graph: Graph, matches: Sequence[Match], memory: Memory | None = None
) -> tuple[Graph, Counter[str]]:
    """``graph`` with every match replaced, and how often each rule fired. A match whose result
    cannot be built, or has another type, is left as it was and noted in ``memory``."""
    declined = (memory or Memory()).declined
    at_root = {m.root: m for m in matches}
    fired: Counter[str] = Counter()

    def result(builder: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        match = at_root.get(node)
        if match is None:
            return None
        try:
            built = build_result(match, builder, new)
        except Refusal:
            declined.add((match.rule.name, node))
            return None
        fired[match.rule.name] += 1
        return (built,)

    return with_replaced(graph, result), fired


def rewrite(
    graph: Graph, rules: Sequence[Rule], measure: Measure = op_weight, fuel: int = FUEL
) -> tuple[Graph, Sweeps]:
    """Applies ``rules`` until none fits, the measure stops falling, or ``fuel`` sweeps are done."""
    done = Sweeps()
    memory = Memory(refused=done.refused)
    level = measure(graph)
    fired: Counter[str] = Counter()
    while done.count < fuel:
        chosen = choose(find(graph, rules, memory))
        if not chosen:
            return graph, done
        known = len(memory.declined)
        after, fired = apply(graph, chosen, memory)
        if not fired:
            if len(memory.declined) == known:
                return graph, done
            continue  # what was declined no longer stands in the way of other matches
        reached = measure(after)
        if not reached < level:
            after, fired, reached = _one_by_one(graph, chosen, measure, level, done)
            if not fired:
                return graph, done
        graph, level = after, reached
        done.fired += fired
        done.count += 1
    done.stopped = f"{fuel} sweeps did not reach a fixed point: {_listed(done.fired)}"
    return graph, done


def _one_by_one(
    graph: Graph, matches: Sequence[Match], measure: Measure, level: float, done: Sweeps
) -> tuple[Graph, Counter[str], float]:
    """After a sweep that did not lower the measure: each rule's matches alone; rules that do not
    lower it are named as the culprits."""
    culprits: Counter[str] = Counter()
    by_rule: dict[str, list[Match]] = {}
    for match in matches:
        by_rule.setdefault(match.rule.name, []).append(match)
    for name, group in by_rule.items():
        after, fired = apply(graph, group)
        reached = measure(after)
        if fired and reached < level:
            return after, fired, reached
        if fired:
            culprits[name] += 1
    done.stopped = f"the measure did not fall (from {level}) under {_listed(culprits)}"
    return graph, Counter(), level


def _listed(names: Counter[str]) -> str:
    return ", ".join(f"{n} ({k}x)" for n, k in names.most_common(8)) or "no rule"


def explain(node: Node, graph: Graph, rules: Sequence[Rule]) -> list[tuple[str, str]]:
    """(rule, verdict) for every rule that can be rooted in ``node``'s op: "applies", or the first
    thing that failed, in the pattern or among the conditions."""
    verdicts = []
    for rule in index_rules(tuple(rules)).get(node.op, ()):
        trace = Trace()
        match = find_at(rule, node, graph, trace)
        if match is None:
            verdicts.append((rule.name, trace.reason or "the pattern does not fit"))
        else:
            verdicts.append((rule.name, refusal(match) or _dry_run(match) or "applies"))
    return verdicts


def _dry_run(match: Match) -> str | None:
    """Why the result of a match cannot be built, or None."""
    try:
        build_result(match, Builder(match.graph.constants), lambda v: v)
    except Refusal as e:
        return str(e)
    return None
