"""The operator table: which ONNX operators are compiled, which run on the host, which are missing.

It is made from the outcome of ONNX's own backend suite (``bench.conformance --record``), kept
beside this module and printed by ``evonnx ops``. An operator's status is what its cases showed:

- ``native``: every case that passes runs without a host step, so does ``mixed`` for some of them
  (the others use strings, sequences or optionals), ``host`` for none;
- ``lowered``: the importer has a lowering or ONNX's function body, but the suite has no case, or
  none that passes;
- ``missing``: nothing lowers it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("operators.json")
"""The recorded table."""
PAGE = Path(__file__).resolve().parent.parent / "OPERATORS.md"
"""The same as a page of a checkout."""
STATUSES = ("native", "mixed", "host", "lowered", "missing")


@dataclass(frozen=True, slots=True)
class Case:
    """What the table needs to know of one case of the suite."""

    name: str
    kind: str
    ops: tuple[str, ...] = ()
    """Operators of the model: ``Op``, or ``domain::Op`` outside the default domain."""
    passed: bool = False
    host: tuple[str, ...] = ()
    """Kinds of the host steps it ran; empty where everything was compiled."""


def make_table(cases: Sequence[Case]) -> dict[str, Any]:
    """The table as plain values: ``onnx`` version, counts, and one entry per operator."""
    import onnx

    passed = [c for c in cases if c.passed]
    return {
        "onnx": onnx.__version__, "cases": len(cases), "passed": len(passed),
        "native": sum(not c.host for c in passed),
        "operators": [_entry(domain, op, versions, cases) for (domain, op), versions
                      in sorted(known_operators().items())],
    }  # fmt: skip


def known_operators() -> dict[tuple[str, str], list[int]]:
    """(domain, operator) -> versions, of all that the installed onnx declares or we lower."""
    import onnx

    from .importer.registry import registered

    found: dict[tuple[str, str], set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), set()).add(schema.since_version)
    for domain, op, since in registered():
        if (domain, op) not in found:
            found[domain, op] = {since}
    return {key: sorted(versions) for key, versions in found.items()}


def _entry(domain: str, op: str, versions: list[int], cases: Iterable[Case]) -> dict[str, Any]:
    name = f"{domain}::{op}" if domain else op
    own = [c for c in cases if name in c.ops]
    passed = [c for c in own if c.passed]
    # A case of several operators does not tell whose the host steps are.
    alone = [c for c in passed if len(c.ops) == 1] or passed
    if not passed:
        status = "lowered" if _lowered(domain, op, versions) else "missing"
    else:
        hosted = sum(bool(c.host) for c in alone)
        status = "native" if not hosted else "host" if hosted == len(alone) else "mixed"
    return {"domain": domain, "op": op, "versions": versions, "status": status,
            "cases": len(own), "passed": len(passed),
            "host": sorted({h for c in alone for h in c.host})}  # fmt: skip


def _lowered(domain: str, op: str, versions: list[int]) -> bool:
    import onnx

    from .importer.graphs import has_lowering

    newest = onnx.defs.onnx_opset_version() if domain == "" else versions[-1]
    return has_lowering(domain, op, newest) or any(has_lowering(domain, op, v) for v in versions)


def read_table() -> dict[str, Any]:
    """The recorded table."""
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def markdown(table: Mapping[str, Any]) -> str:
    """The table as a page, grouped by domain."""
    count = {s: sum(e["status"] == s for e in table["operators"]) for s in STATUSES}
    lines = [
        "# Operators", "",
        "Written by `python -m evonnx.bench.conformance --record` from the outcome of ONNX's own",
        f"backend suite (onnx {table['onnx']}): {table['passed']} of {table['cases']} cases pass, "
        f"{table['native']} of them", "without a host step. `evonnx ops` prints the same table.",
        "",
        "- `native`: compiled in every case that passes; `mixed`: in some (the others use strings,",
        "  sequences or optionals, which run on the host); `host`: in none.",
        "- `lowered`: supported, but the suite has no case, or none that passes.",
        "- `missing`: refused.",
        "",
        ", ".join(f"{n} {s}" for s, n in count.items()), "",
    ]  # fmt: skip
    for domain in sorted({e["domain"] for e in table["operators"]}):
        lines += [f"## {domain or 'ai.onnx'}", "",
                  "| operator | versions | status | cases passed | on the host |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for e in table["operators"]:
            if e["domain"] == domain:
                versions = ", ".join(map(str, e["versions"]))
                shown = f"{e['passed']} of {e['cases']}" if e["cases"] else "–"
                lines.append(f"| {e['op']} | {versions} | {e['status']} | {shown} | "
                             f"{', '.join(e['host'])} |")
        lines.append("")
    return "\n".join(lines)
