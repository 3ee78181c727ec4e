"""Lines of source in nested scopes: a statement goes to the outermost one that knows its operands.

A scope is the body of a loop or a condition, with the names that are assigned there. A name is
assigned once per scope, before the block that is being written; scopes that end in a barrier keep
what may only be computed inside, such as a load that a condition guards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Scope:
    """Lines of one loop body, and the names known there."""

    def __init__(self, parent: Scope | None, depth: int, bound: frozenset[str]) -> None:
        self.parent, self.depth = parent, depth
        self.bound: frozenset[str] = bound if parent is None else parent.bound | bound
        self.lines: list[str | Scope] = []
        self.names: dict[object, str] = {}
        self.open_at: int | None = None
        """Where the statement that is being written begins: hoisted lines go before it."""
        self.barrier = False
        """Whether statements must not leave this scope (they may read out of bounds)."""

    def find(self, key: object) -> str | None:
        """The name of a value that is known here or around."""
        scope: Scope | None = self
        while scope is not None:
            if key in scope.names:
                return scope.names[key]
            scope = scope.parent
        return None


class Writer:
    """Writes lines to the scope that is open, or to one around it."""

    def __init__(self) -> None:
        self.counter = 0
        self.root = Scope(None, 1, frozenset())
        self.scope = self.root

    def fresh(self, prefix: str) -> str:
        """A name that is not in use."""
        self.counter += 1
        return f"{prefix}{self.counter}"

    def line(self, text: str) -> None:
        """One statement at the end of the open scope."""
        self.scope.lines.append(text)

    @contextmanager
    def writing(self, home: Scope) -> Iterator[None]:
        """Writes to an enclosing scope, before the loop that is open there."""
        before, self.scope = self.scope, home
        tail: list[str | Scope] = []
        opened = home.open_at
        if opened is not None and home is not before:
            tail = home.lines[opened:]
            del home.lines[opened:]
            home.open_at = None
        try:
            yield
        finally:
            if tail:
                home.open_at = len(home.lines)
                home.lines.extend(tail)
            self.scope = before

    def home(self, variables: frozenset[str]) -> Scope:
        """The outermost scope in which all ``variables`` are bound."""
        best = self.scope
        scope: Scope | None = self.scope
        while scope is not None and variables <= scope.bound:
            best = scope
            if scope.barrier:
                break
            scope = scope.parent
        return best

    def define(self, key: object, text: str, variables: frozenset[str], prefix: str) -> str:
        """Assigns ``text`` to a fresh name in the outermost possible scope, once."""
        home = self.home(variables)
        name = home.find(key)
        if name is None:
            name = self.fresh(prefix)
            with self.writing(home):
                self.line(f"{name} = {text}")
            home.names[key] = name
        return name

    @contextmanager
    def block(
        self, head: str, bound: frozenset[str] = frozenset(), barrier: bool = False
    ) -> Iterator[None]:
        """An indented block under ``head`` whose statements may use the variables ``bound``."""
        outer = self.scope
        saved = outer.open_at
        outer.open_at = len(outer.lines)
        if head == "else:":
            outer.open_at -= 2  # nothing goes between the two branches
        inner = Scope(outer, outer.depth + 1, bound)
        inner.barrier = barrier
        outer.lines.extend((head, inner))
        self.scope = inner
        try:
            yield
        finally:
            self.scope = outer
            outer.open_at = saved


def render(scope: Scope) -> str:
    """The lines of a scope and of those in it, indented."""
    out: list[str] = []
    for item in scope.lines:
        out.append(render(item) if isinstance(item, Scope) else "    " * scope.depth + item)
    if not out:
        out.append("    " * scope.depth + "pass")
    return "\n".join(out)
