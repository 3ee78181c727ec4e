"""Three greedy fusion rules that others have published, on our candidates: yardsticks and starts.

``postdominator`` (TVM: T. Chen et al., "TVM: an automated end-to-end optimizing compiler for deep
learning", 2018): a node is fused with its immediate post-dominator and everything on the paths
between them, where all of it may be one kernel; first contractions take the maps behind them, then
maps go into maps and reductions.

``priority`` (XLA's priority fusion for GPUs): of all producers the one whose fusion into *all* its
consumers saves most time under the cost model goes first, computed again in each of several
consumers if it is cheap; times of the neighbors are then estimated anew.

``score`` (PyTorch Inductor's scheduler): of all pairs of groups that share memory, as producer and
consumer or as readers of the same value, the one that saves the most bytes goes first; of equal
ones those that are near one another in the program.

Each starts from one group per node (views go with whom they like), joins groups as long as the
result is a legal kernel and no cycle between groups arises, and never takes a step back.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..ir.schedule import Schedule
from .candidates import Candidate, Candidates, schedule_of

Units = tuple[int, ...]


class Prices:
    """Costs of candidates, such as their seconds or their bytes: one for each structure, asked for
    many at once where they are known to be needed."""

    def __init__(self, price: Callable[[Sequence[Candidate]], Sequence[float]]) -> None:
        self._price = price
        self._known: dict[int, float] = {}
        """By the identity of the candidate's cost: those of one structure share it."""

    def ask(self, candidates: Iterable[Candidate]) -> None:
        """Prices what has no price yet."""
        fresh = {id(c.cost): c for c in candidates if id(c.cost) not in self._known}
        if fresh:
            prices = self._price(list(fresh.values()))
            self._known |= zip(fresh, prices, strict=True)

    def of(self, candidate: Candidate) -> float:
        """The price of one."""
        self.ask((candidate,))
        return self._known[id(candidate.cost)]


class Partition:
    """Groups of units that are joined step by step; acyclic at any time."""

    def __init__(self, table: Candidates) -> None:
        self.table = table
        self.groups: dict[int, Units] = {}
        """Units by the number of their group."""
        self.home: dict[int, int] = {}
        """Group of each unit."""
        for units in table.of.values():
            self.groups[units[0]] = units
            self.home |= dict.fromkeys(units, units[0])

    def before(self, group: int) -> list[int]:
        """Groups that this one reads, ascending."""
        return self._around(group, self.table.preds)

    def behind(self, group: int) -> list[int]:
        """Groups that read this one, ascending."""
        return self._around(group, self.table.succs)

    def _around(self, group: int, edges: Callable[[int], Sequence[int]]) -> list[int]:
        return sorted({self.home[w] for v in self.groups[group] for w in edges(v)} - {group})

    def siblings(self, group: int) -> list[int]:
        """Groups that read what this one reads, ascending."""
        return sorted({b for a in self.before(group) for b in self.behind(a)} - {group})

    def joined(self, groups: Iterable[int]) -> Candidate | None:
        """The groups as one candidate, if they may be one kernel."""
        return self.ask(v for g in groups for v in self.groups[g])

    def ask(self, units: Iterable[int]) -> Candidate | None:
        """The units as one candidate, if they may be one kernel and it is one that those who
        published the rules had: none of theirs holds two contractions."""
        found = self.table.ask(tuple(sorted(units)))
        return None if found is None or found.implementation == "separable" else found

    def acyclic(self, groups: Sequence[int]) -> bool:
        """Whether no path between the groups leads through another."""
        inside = set(groups)
        todo = [b for g in groups for b in self.behind(g) if b not in inside]
        seen = set(todo)
        last = max(v for g in groups for v in self.groups[g])
        while todo:
            for b in self.behind(todo.pop()):
                if b in inside:
                    return False
                if b not in seen and min(self.groups[b]) <= last:
                    seen.add(b)
                    todo.append(b)
        return True

    def join(self, groups: Sequence[int]) -> int:
        """Makes the groups one; answers its number."""
        number = min(groups)
        units = tuple(sorted(v for g in groups for v in self.groups.pop(g)))
        self.groups[number] = units
        self.home |= dict.fromkeys(units, number)
        return number

    def spread(self, group: int) -> list[tuple[int, Units]]:
        """(group that reads this one, the units it gets): all where it is the only one, else those
        that it reads."""
        units = self.groups[group]
        readers = self.behind(group)
        if len(readers) == 1:
            return [(readers[0], units)]
        parts: dict[int, list[int]] = {g: [] for g in readers}
        for v in units:
            for g in {self.home[w] for w in self.table.succs(v)} - {group}:
                parts[g].append(v)
        return [(g, tuple(copies)) for g, copies in sorted(parts.items())]

    def schedule(self) -> Schedule:
        """The groups in a topological order that follows the graph's own."""
        waits = {g: set(self.before(g)) for g in self.groups}
        ready = [(min(self.groups[g]), g) for g, needs in waits.items() if not needs]
        heapq.heapify(ready)
        order = []
        while ready:
            _, g = heapq.heappop(ready)
            order.append(g)
            for b in self.behind(g):
                waits[b].discard(g)
                if not waits[b]:
                    heapq.heappush(ready, (min(self.groups[b]), b))
        chosen = [self.table.found[self.groups[g]] for g in order]
        return schedule_of(self.table.graph, chosen)


def postdominator(table: Candidates, prices: Prices) -> Schedule:
    """TVM's rule; ``prices`` are not looked at."""
    found = Partition(table)
    for phase in (("contract",), ("map", "reduce")):
        for start in sorted(found.groups):
            group = found.home.get(start, -1)
            if group not in found.groups or found.groups[group][0] != start:
                continue
            while table.kind(start) in phase and (path := _to_postdominator(found, group)):
                if found.joined(path) is None or not found.acyclic(path):
                    break
                group = found.join(path)
    return found.schedule()


def _to_postdominator(found: Partition, group: int) -> list[int]:
    """The group, its immediate post-dominator among groups, and all groups on paths between them;
    empty where there is none, or where the way is longer than a kernel is large."""
    inside, frontier = {group}, set(found.behind(group))
    if any(v in found.table.given for v in found.groups[group]):
        return []
    while len(frontier) > 1 and len(inside) < found.table.most:
        first = min(frontier, key=lambda g: min(found.groups[g]))
        frontier.discard(first)
        if not found.behind(first) or any(v in found.table.given for v in found.groups[first]):
            return []
        inside.add(first)
        frontier |= set(found.behind(first)) - inside
    return sorted(inside | frontier) if len(frontier) == 1 else []


def priority(table: Candidates, prices: Prices) -> Schedule:
    """XLA's rule; ``prices`` in seconds."""
    found = Partition(table)
    queue: list[tuple[float, int, Units]] = []

    def push(groups: Iterable[int]) -> None:
        plans = {g: plan for g in groups if (plan := _into_consumers(found, g)) is not None}
        prices.ask(c for before, merged in plans.values() for c in (*before, *merged))
        for g, plan in plans.items():
            gain = _saved(plan, prices)
            if gain > 0:
                heapq.heappush(queue, (-gain, g, found.groups[g]))

    push(sorted(found.groups))
    while queue:
        gain, group, units = heapq.heappop(queue)
        if found.groups.get(group) != units:
            continue
        plan = _into_consumers(found, group)
        now = 0.0 if plan is None else _saved(plan, prices)
        if now <= 0:
            continue
        if now < -gain - 1e-15:  # a neighbor has changed: it has to wait for its turn
            heapq.heappush(queue, (-now, group, units))
            continue
        touched = []
        parts = found.spread(group)
        if len(parts) == 1:
            touched.append(found.join([group, parts[0][0]]))
        else:
            del found.groups[group]
            for consumer, copies in parts:
                merged = tuple(sorted((*copies, *found.groups.pop(consumer))))
                found.groups[consumer] = merged
                found.home |= dict.fromkeys(merged, consumer)
                touched.append(consumer)
        push({*touched, *(b for t in touched for b in found.before(t))})
    return found.schedule()


_Plan = tuple[list[Candidate], list[Candidate]]
"""A producer, followed by its consumers, and each of these with it in one kernel."""


def _into_consumers(found: Partition, group: int) -> _Plan | None:
    """What fusing a group into all its consumers replaces by what; None where that cannot be."""
    table = found.table
    parts = found.spread(group)
    if not parts or any(v in table.given for v in found.groups[group]):
        return None
    units = found.groups[group]
    if len(parts) > 1 and (sum(len(copies) for _, copies in parts) != len(units)
                           or len({table.units[v] for v in units}) > 1):
        return None  # several consumers, but not one copy for each: it would have to stay
    before, behind = [table.found[units]], []
    for consumer, copies in parts:
        merged = found.ask((*copies, *found.groups[consumer]))
        if merged is None or len(parts) == 1 and not found.acyclic([group, consumer]):
            return None
        before.append(table.found[found.groups[consumer]])
        behind.append(merged)
    return before, behind


def _saved(plan: _Plan, prices: Prices) -> float:
    """What a plan saves."""
    (producer, *consumers), joined = plan
    saved = prices.of(producer)
    for consumer, merged in zip(consumers, joined, strict=True):
        saved += prices.of(consumer) - prices.of(merged)
    return saved


def score(table: Candidates, prices: Prices) -> Schedule:
    """Inductor's rule; ``prices`` in bytes."""
    found = Partition(table)
    queue: list[tuple[float, int, int, int, Units, Units]] = []

    def push(pairs: Iterable[tuple[int, int]]) -> None:
        joined = [(a, b, merged) for a, b in pairs
                  if (merged := found.joined((a, b))) is not None]
        prices.ask(c for a, b, merged in joined
                   for c in (table.found[found.groups[a]], table.found[found.groups[b]], merged))
        for a, b, merged in joined:
            one, other = found.groups[a], found.groups[b]
            saved = (prices.of(table.found[one]) + prices.of(table.found[other])
                     - prices.of(merged))
            if saved > 0:
                heapq.heappush(queue, (-saved, abs(one[0] - other[0]), a, b, one, other))

    def beside(group: int) -> Iterator[int]:
        yield from found.behind(group)
        yield from found.siblings(group)

    push((group, other) for group in sorted(found.groups) for other in beside(group)
         if other > group)
    while queue:
        *_, a, b, left, right = heapq.heappop(queue)
        if found.groups.get(a) != left or found.groups.get(b) != right:
            continue
        if not found.acyclic((a, b)):
            continue
        made = found.join((a, b))
        push((min(made, g), max(made, g)) for g in {*found.before(made), *beside(made)})
    return found.schedule()


RULES: dict[str, Callable[[Candidates, Prices], Schedule]] = {
    "postdominator": postdominator, "priority": priority, "score": score,
}
"""Name -> rule."""
