"""Nests for people: one line per buffer, loop, store and call."""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.access import Cond
from ..ir.axes import Axis
from ..ir.dims import Dim
from ..ir.elements import Ex
from .nest import Accumulate, Address, Call, Claim, Domain, Loop, Nest, Nested, SetRows, Step, Store


def print_nest(nest: Nest) -> str:
    """The nest as text; positions count elements, scratch sizes are in elements."""
    lines = ["nest"]
    for k, b in enumerate(nest.buffers):
        size = f"[{b.size}]" if b.role == "scratch" else ""
        lines.append(f"  b{k}: {b.role} {b.dtype}{size}")
    for name, g in nest.gathers.items():
        lines.append(f"  {name} = wrap({g.value}) in [0, {g.extent})")
    for domain in nest.domains:
        lines.extend(_domain(domain))
    return "\n".join(lines) + "\n"


def _domain(domain: Domain) -> Iterator[str]:
    rows = " x ".join(f"{a.var} < {a.hi}" for a in domain.rows) or "1"
    yield f"  tiles of {domain.rows_per_tile} in {rows}"
    for variable, value in domain.lets:
        yield f"    let {variable} = {value}"
    for step in domain.steps:
        yield from _step(step, "    ")


def _loops(axes: tuple[Axis, ...], indent: str) -> tuple[list[str], str]:
    lines = []
    for a in axes:
        lines.append(f"{indent}for {a.var} in {a.lo} .. {a.hi}")
        indent += "  "
    return lines, indent


def _conds(conds: tuple[Cond, ...]) -> str:
    return " & ".join(f"{c.lo} <= {c.expr} < {c.hi}" for c in conds)


def _step(step: Step, indent: str) -> Iterator[str]:
    if isinstance(step, Loop):
        for name, ex in step.init:
            yield f"{indent}{name} = {ex}"
    lines, inner = _loops(step.axes, indent)
    yield from lines
    if isinstance(step, Loop):
        if step.guard:
            yield f"{inner}if {_conds(step.guard)}"
            inner += "  "
        for item in step.body:
            yield inner + _item(item)
        for name, ex in step.finish:
            yield f"{indent}{name} = {ex}"
    elif isinstance(step, Nested):
        for variable, value in step.lets:
            yield f"{inner}let {variable} = {value}"
        for child in step.steps:
            yield from _step(child, inner)
    elif isinstance(step, SetRows):
        where = f"&b{step.address.buffer}[{step.address.position}]"
        if step.conds:
            where = f"{_conds(step.conds)} ? {where} : &b{step.zeros}[0]"
        yield f"{inner}b{step.table}[{step.position}] = {where}"
    elif isinstance(step, Call):
        yield f"{inner}{step.name}({', '.join(map(_argument, step.args))})"


def _argument(a: Address | Dim | Ex) -> str:
    return f"&b{a.buffer}[{a.position}]" if isinstance(a, Address) else str(a)


def _item(item: Store | Accumulate | Claim) -> str:
    if isinstance(item, Claim):
        return f"claim b{item.buffer}[{item.position}]"
    if isinstance(item, Store):
        return f"b{item.buffer}[{item.position}] = {item.value}"
    into = item.local or f"b{item.buffer}[{item.position}]"
    return f"{into} {item.kind}= {item.value}"
