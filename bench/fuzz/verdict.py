"""What a check answers with: a failure of some kind, and the comparisons that raise it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...compiler.api import Compiled
from .judge import same_bits


class Failure(Exception):
    """A check that failed: (kind, detail)."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


def named(compiled: Compiled, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a call by name."""
    return dict(zip(compiled.output_names, compiled.run(None, feeds), strict=True))


def check_right(wrong: Mapping[str, str], where: str = "") -> None:
    """Raises where a judge found an output wrong; ``where`` goes before the first reason."""
    if wrong:
        name, reason = next(iter(wrong.items()))
        more = f" (and {len(wrong) - 1} more outputs)" if len(wrong) > 1 else ""
        raise Failure("wrong", f"{where}output {name}: {reason}{more}")


def check_same(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises a failure of a ``kind`` where two results differ in any bit."""
    for name in a:
        if not same_bits(a[name], b[name]):
            raise Failure(kind, f"output {name} has other bits")


__all__ = ["Failure", "check_right", "check_same", "named"]
