"""``check_model``: a conformance suite for cost models, the shipped ones and people's own.

It prices a fixed set of groups, drawn once with a fixed seed over many orders of magnitude, on
several machines, and reports every promise of the protocol that does not hold:

``protocol``      the attributes and methods are there
``shape``         f64[n], one number per group (``parts``: one column per objective)
``finite``        no infinities, no NaN
``nonnegative``   no cost below zero
``deterministic`` the same question twice gets the same answer
``batch``         a group alone costs what it costs among others, to the last bit
``permutation``   the order of the groups does not matter
``flops``         more operations never cost less
``bytes``         more bytes never cost less
``zero``          a view costs nothing; an empty group costs no more than any other of its kind
``unit``          a machine twice as fast halves a cost in seconds; any other unit does not see it
``explain``       the explanation tells the cost of the batch, and the bound that is largest
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...ir.schedule import IMPLEMENTATIONS
from ...ir.target import Target
from .base import FREE, SECONDS, Context, CostModel, GroupFacts, Phase, binding

_GROUPS = 60
_TOLERANCE = 1e-9
"""Relative error that rounding may make."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A promise that a model does not keep."""

    check: str
    """Name of the check; see the module."""
    reason: str
    """What was asked, what came."""

    def __str__(self) -> str:
        return f"{self.check}: {self.reason}"


def check_model(model: CostModel) -> list[Failure]:
    """The first failure of every check that fails; empty for a model that keeps all promises. A
    check that the model answers with an exception fails with that exception as its reason."""
    if not isinstance(model, CostModel):
        missing = [n for n in ("name", "unit", "objectives", "costs", "explain")
                   if not hasattr(model, n)]  # fmt: skip
        return [Failure("protocol", f"{type(model).__name__} lacks {', '.join(missing)}")]
    if len(model.objectives) > 1 and not hasattr(model, "parts"):
        return [Failure("protocol", f"{len(model.objectives)} objectives, but no method parts")]
    found = []
    for name, check in _CHECKS.items():
        try:
            with np.errstate(all="ignore"):  # what is not finite is reported, not warned of
                reason = next(check(model), None)
        except Exception as error:  # whatever a model raises is its failure, not ours
            reason = f"raised {type(error).__name__}: {error}"
        if reason is not None:
            found.append(Failure(name, reason))
    return found


def sample_groups(count: int = _GROUPS, seed: int = 0) -> list[GroupFacts]:
    """Groups of all implementations, from empty to gigabytes."""
    rng = np.random.default_rng(seed)
    groups = [GroupFacts(name) for name in IMPLEMENTATIONS]
    for k in range(count):
        flops, constant, inputs, outputs = (float(v) for v in 10.0 ** rng.uniform(0, 10, 4))
        tiles = float(rng.integers(1, 200)) if k % 3 else 1.0
        special = flops * float(rng.choice([0, 0.3, 1]))
        groups.append(GroupFacts(
            IMPLEMENTATIONS[k % len(IMPLEMENTATIONS)], flops, special,
            constant if k % 2 else 0.0, inputs, outputs,
            0.0 if k % 5 else min(inputs, outputs), tiles, int(rng.integers(1, 30)),
            phases=tuple(_sample_phase(rng) for _ in range(k % 4)),
        ))  # fmt: skip
    return groups


def _sample_phase(rng: np.random.Generator) -> Phase:
    fma, plain, special, loads, stores, apart, far, spilled, outer, entries = (
        float(v) for v in 10.0 ** rng.uniform(0, 8, 10))
    length = float(rng.integers(0, 100))
    return Phase(fma, plain, special, loads, stores, apart, far, spilled, outer, entries, length,
                 float(rng.integers(0, 2)), float(rng.integers(0, 2)))


def sample_contexts() -> list[Context]:
    """Machines of one and several threads, with small and large constants."""
    small = Target("small", "x86_64-unknown-linux-gnu", "x86-64")
    large = replace(small, name="large", cores=12, l2_bytes=2 << 20, l3_bytes=64 << 20,
                    flops=200e9, dram_rate_all=150e9)  # fmt: skip
    return [Context(small, 1, 1e4), Context(small, 1, 1e9), Context(large, 3, 1e6),
            Context(large, 12, 1e9)]  # fmt: skip


Check = Callable[[CostModel], Iterator[str]]


def _answers(model: CostModel) -> Iterator[tuple[Context, np.ndarray]]:
    """The costs (and parts, one objective a time) of the sample on every machine."""
    groups = sample_groups()
    for context in sample_contexts():
        yield from ((context, column) for column in _columns(model, groups, context))


def _columns(model: CostModel, groups: Sequence[GroupFacts], context: Context
             ) -> list[np.ndarray]:  # fmt: skip
    found = [model.costs(groups, context)]
    if len(model.objectives) > 1:
        parts = model.parts(groups, context)  # type: ignore[attr-defined]
        found += [parts[:, k] for k in range(parts.shape[1])]
    return found


def _shape(model: CostModel) -> Iterator[str]:
    groups = sample_groups()
    for context in sample_contexts():
        for some in (groups, groups[:1], []):
            got = model.costs(some, context)
            if not isinstance(got, np.ndarray) or got.dtype != np.float64:
                yield f"costs answers {type(got).__name__}, not an array of float64"
            elif got.shape != (len(some),):
                yield f"costs of {len(some)} groups have shape {got.shape}"
            if len(model.objectives) > 1:
                parts = model.parts(some, context)  # type: ignore[attr-defined]
                if parts.shape != (len(some), len(model.objectives)):
                    yield f"parts of {len(some)} groups have shape {parts.shape}"


def _finite(model: CostModel) -> Iterator[str]:
    for context, costs in _answers(model):
        for k in np.flatnonzero(~np.isfinite(costs)):
            yield f"{sample_groups()[k]} on {context.threads} threads costs {costs[k]}"


def _nonnegative(model: CostModel) -> Iterator[str]:
    for context, costs in _answers(model):
        for k in np.flatnonzero(costs < 0):
            yield f"{sample_groups()[k]} on {context.threads} threads costs {costs[k]}"


def _deterministic(model: CostModel) -> Iterator[str]:
    for (_, once), (_, twice) in zip(_answers(model), _answers(model), strict=True):
        if once.tobytes() != twice.tobytes():
            yield f"asked twice, costs differ by up to {np.abs(once - twice).max()}"


def _batch(model: CostModel) -> Iterator[str]:
    groups = sample_groups()
    for context in sample_contexts():
        together = _columns(model, groups, context)
        for k, group in enumerate(groups):
            for column, alone in zip(together, _columns(model, [group], context), strict=True):
                if column[k] != alone[0]:
                    yield f"{group} costs {alone[0]} alone and {column[k]} among others"


def _permutation(model: CostModel) -> Iterator[str]:
    groups = sample_groups()
    order = np.random.default_rng(1).permutation(len(groups))
    for context in sample_contexts():
        plain = _columns(model, groups, context)
        mixed = _columns(model, [groups[k] for k in order], context)
        for a, b in zip(plain, mixed, strict=True):
            if a[order].tobytes() != b.tobytes():
                k = int(order[np.argmax(a[order] != b)])
                yield f"{groups[k]} costs something else in another order"


def _monotone(model: CostModel, fields: Sequence[str]) -> Iterator[str]:
    groups = sample_groups()
    for context in sample_contexts():
        before = _columns(model, groups, context)
        for field in fields:
            for factor in (1.01, 2.0, 100.0):
                more = [replace(g, **{field: getattr(g, field) * factor + 1.0}) for g in groups]
                if field == "special":
                    more = [replace(g, flops=g.flops + g.special - old.special)
                            for g, old in zip(more, groups, strict=True)]  # fmt: skip
                for a, b in zip(before, _columns(model, more, context), strict=True):
                    for k in np.flatnonzero(b < a * (1 - _TOLERANCE)):
                        yield (f"{groups[k]} costs {a[k]}, but {b[k]} with {field} "
                               f"{getattr(more[k], field)}")


def _flops(model: CostModel) -> Iterator[str]:
    return _monotone(model, ("flops", "special"))


def _bytes(model: CostModel) -> Iterator[str]:
    return _monotone(model, ("constant", "inputs", "outputs"))


def _zero(model: CostModel) -> Iterator[str]:
    for context in sample_contexts():
        for name in FREE:
            if (cost := float(model.costs([GroupFacts(name, 1e6, nodes=2)], context)[0])) != 0:
                yield f"a {name} does nothing at run time but costs {cost}"
        for group in sample_groups():
            empty = GroupFacts(group.implementation)
            least, cost = (float(c) for c in model.costs([empty, group], context))
            if least > cost * (1 + _TOLERANCE):
                yield f"an empty {group.implementation} costs {least}, more than {group}: {cost}"


def _unit(model: CostModel) -> Iterator[str]:
    groups = sample_groups()
    for context in sample_contexts():
        faster = replace(context, target=context.target.sped_up(2.0))
        before, after = model.costs(groups, context), model.costs(groups, faster)
        wanted = before / 2.0 if model.unit == SECONDS else before
        for k in np.flatnonzero(np.abs(after - wanted) > _TOLERANCE * np.abs(wanted)):
            yield (f"{groups[k]} costs {before[k]} {model.unit}, and {after[k]} on a machine twice "
                   f"as fast")


def _explain(model: CostModel) -> Iterator[str]:
    groups = sample_groups()
    for context in sample_contexts():
        for group, cost in zip(groups, model.costs(groups, context), strict=True):
            told = model.explain(group, context)
            if abs(told.seconds - cost) > _TOLERANCE * abs(cost):
                yield f"{group} costs {cost}, its explanation says {told.seconds}"
            if told.bound != binding(told.bounds):
                yield (f"{group}: {told.bound!r} is said to bind, the largest is "
                       f"{binding(told.bounds)!r}")


_CHECKS: dict[str, Check] = {
    "shape": _shape, "finite": _finite, "nonnegative": _nonnegative,
    "deterministic": _deterministic, "batch": _batch, "permutation": _permutation,
    "flops": _flops, "bytes": _bytes, "zero": _zero, "unit": _unit, "explain": _explain,
}  # fmt: skip
