"""Names of exchangeable parts: shipped ones, registered ones, and those of installed packages.

Cost models and strategies are found the same way: by a lower-case name, in the table of what was
registered, else among the entry points of one group, whose entries make a part without arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from ..ir.errors import OptionError, quote

T = TypeVar("T")


class Registry(Generic[T]):
    """Factories of one kind of part, by name."""

    def __init__(self, what: str, group: str, shipped: Mapping[str, Callable[[], T]]) -> None:
        """``what`` it is, for messages; the entry point ``group``; what is there from the start."""
        self.what, self.group = what, group
        self._known = dict(shipped)

    def register(self, name: str, factory: Callable[[], T]) -> None:
        """Gives ``factory`` a name. Raises ``OptionError`` if another factory has it."""
        if self._known.setdefault(name.lower(), factory) is not factory:
            raise OptionError(f"{self.what} {quote(name)} is registered already")

    def names(self) -> tuple[str, ...]:
        """All registered and installed names, in alphabetic order."""
        installed = {point.name.lower() for point in entry_points(group=self.group)}
        return tuple(sorted(installed | self._known.keys()))

    def factory(self, name: str) -> Callable[[], T]:
        """What makes the part of that name. Raises ``OptionError`` for a name nobody registered."""
        found = self._known.get(name.lower())
        if found is None:
            for point in entry_points(group=self.group):
                if point.name.lower() == name.lower():
                    found = point.load()
        if found is None:
            known = ", ".join(self.names())
            raise OptionError(f"there is no {self.what} {quote(name)}: known are {known}")
        return found
