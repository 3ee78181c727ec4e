"""Registry of host steps: ops on strings, sequences and optionals, which no kernel can run.

A host function takes the step's inputs (NumPy arrays, object arrays of ``str``, lists for
sequences, None for an absent optional operand) and its attributes and returns one value per
output. Arrays it gets are views of memory that the next call overwrites: it must not keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..ir.errors import UnsupportedError, quote

HostFunction = Callable[[Sequence[Any], Mapping[str, Any]], Sequence[Any]]
"""(inputs, attributes) -> outputs."""

HOST: dict[str, HostFunction] = {}
"""Kind of a host step -> its function."""


def host(*kinds: str) -> Callable[[HostFunction], HostFunction]:
    """Registers the decorated function for one or several kinds of host steps."""

    def add(function: HostFunction) -> HostFunction:
        for kind in kinds:
            if kind in HOST:
                raise RuntimeError(f"host step {kind} is registered twice")
            HOST[kind] = function
        return function

    return add


def lookup(kind: str) -> HostFunction:
    """The function of ``kind``; raises ``UnsupportedError`` naming the kinds there are."""
    found = HOST.get(kind)
    if found is None:
        known = ", ".join(sorted(HOST)) or "none"
        raise UnsupportedError(f"no host function {quote(kind)}; known: {known}")
    return found
