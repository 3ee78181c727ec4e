"""What ONNX declares of its operators: counts, types and attributes, by opset.

They are read from a table beside this module, one line of JSON for each operator, of which a model
needs a few: ``onnx.defs`` builds the schemas of all operators and opsets, documentation included,
where one is asked for, 6 MB and 0.04 s besides the import of ``onnx``. The table is that of one
version of the package (``python -m evonnx.bench.declarations`` records it); with another one
installed ``onnx.defs`` is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.machine import version_of

if TYPE_CHECKING:
    from onnx.defs import OpSchema

TABLE = Path(__file__).with_name("declarations.jsonl")
"""The recorded table. Its first line holds the version of ``onnx``, the newest opset of the default
domain and the sets of types that operands refer to by number; each other line
``[domain, op, [version, ...]]``, versions ascending, each as ``_packed`` says."""
_MOST = 2**31
"""Opsets from here on are none (``onnx.defs`` counts in 32 bits)."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One declared input of an operator."""

    name: str
    variable: str
    """The type variable that all operands which share it agree on; empty for the inputs of a
    variadic parameter that may differ from one another."""
    types: frozenset[str]
    """Types allowed, as ONNX spells them."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One operator at one opset."""

    domain: str
    op: str
    since: int
    """The opset that declared it so."""
    deprecated: bool
    has_body: bool
    """Whether ONNX publishes a function body."""
    inputs: tuple[int, int]
    """Fewest and most."""
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    """Attribute types by name, as ``AttributeProto`` numbers them."""
    required: tuple[str, ...]
    operands: tuple[Operand, ...]
    """The declared inputs in order; a variadic one is the last and stands for all that follow."""


@lru_cache(maxsize=4096)
def signature(domain: str, op: str, opset: int) -> Signature | None:
    """ONNX's declaration, or None where the operator is not known at that opset."""
    if not _is_current():
        return asked(domain, op, opset)
    versions = _recorded(domain, op) if opset < _MOST else []
    packed = next((v for v in reversed(versions) if v[0] <= opset), None)
    return None if packed is None else _unpacked(domain, op, packed)


def newest_opset() -> int:
    """The newest opset of the default domain that the installed ``onnx`` declares."""
    if _is_current():
        return int(_table()[1]["opset"])
    import onnx

    return int(onnx.defs.onnx_opset_version())


def asked(domain: str, op: str, opset: int) -> Signature | None:
    """``signature`` as ``onnx.defs`` answers it."""
    from onnx import defs

    try:
        return _declared(defs.get_schema(op, opset, domain))
    except (defs.SchemaError, ValueError, TypeError):
        return None


def _declared(schema: OpSchema) -> Signature:
    attributes = schema.attributes
    return Signature(
        schema.domain, schema.name, schema.since_version, schema.deprecated,
        schema.has_function or schema.has_context_dependent_function,
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {name: int(a.type.value) for name, a in attributes.items()},
        tuple(name for name, a in attributes.items() if a.required),
        tuple(Operand(p.name, p.type_str if p.is_homogeneous else "", frozenset(p.types))
              for p in schema.inputs),
    )  # fmt: skip


# -- the table ---------------------------------------------------------------------------------


@cache
def _table() -> tuple[str, dict[str, Any]]:
    """The text of ``TABLE``, and its first line."""
    text = TABLE.read_text(encoding="utf-8")
    return text, json.loads(text[: text.index("\n")])


@cache
def _is_current() -> bool:
    """Whether the installed ``onnx`` is the one that the table was made from."""
    recorded: str = _table()[1]["onnx"]
    return version_of("onnx") == recorded


def _recorded(domain: str, op: str) -> list[list[Any]]:
    """All versions of an operator, packed."""
    text = _table()[0]
    start = text.find(f"\n{_head(domain, op)}") + 1
    if not start:
        return []
    versions: list[list[Any]] = json.loads(text[start : text.index("\n", start)])[2]
    return versions


def _head(domain: str, op: str) -> str:
    """How the line of an operator begins."""
    return json.dumps([domain, op], separators=(",", ":"))[:-1] + ","


@cache
def _types(number: int) -> frozenset[str]:
    return frozenset(_table()[1]["types"][number].split())


def _unpacked(domain: str, op: str, packed: list[Any]) -> Signature:
    since, flags, counts, attributes, required, operands = packed
    return Signature(
        domain, op, since, bool(flags & 1), bool(flags & 2), tuple(counts[:2]), tuple(counts[2:]),
        attributes, tuple(required),
        tuple(Operand(name, variable, _types(number)) for name, variable, number in operands),
    )  # fmt: skip


def _packed(one: Signature, sets: dict[str, int]) -> list[Any]:
    """Opset, flags (1: deprecated, 2: has a body), counts of inputs and outputs, attributes, names
    of those required, and operands, whose types are numbers of ``sets``."""
    return [
        one.since, one.deprecated + 2 * one.has_body, [*one.inputs, *one.outputs],
        dict(one.attributes), one.required,
        [(o.name, o.variable, sets.setdefault(" ".join(sorted(o.types)), len(sets)))
         for o in one.operands],
    ]  # fmt: skip


def lines() -> Iterator[str]:
    """The table of the installed ``onnx``, line by line."""
    import onnx

    by_name: dict[tuple[str, str], list[Signature]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        one = _declared(schema)
        by_name.setdefault((one.domain, one.op), []).append(one)
    sets: dict[str, int] = {}
    rest = [
        _head(*name) + _dense([_packed(v, sets) for v in sorted(versions, key=lambda v: v.since)])
        for name, versions in sorted(by_name.items())
    ]
    yield _dense({"onnx": onnx.__version__, "opset": onnx.defs.onnx_opset_version(),
                  "types": list(sets)})  # fmt: skip
    yield from (line + "]" for line in rest)


def _dense(value: Iterable[Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
