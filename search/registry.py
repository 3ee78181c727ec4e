"""Names of exchangeable parts: shipped ones, registered ones, and those of installed packages.

Cost models and strategies are found the same way: by a lower-case name, in the table of what was
registered, else among the shipped ones, else among the entry points of one group, whose entries
make a part without arguments. Names are known without importing what they name, so that options
can be checked before NumPy or Numba is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Generic, TypeVar

from ..ir.errors import OptionError, quote

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .models import CostModel
    from .strategies import Strategy

T = TypeVar("T")


def _entry_points(group: str) -> Iterable[EntryPoint]:
    """What installed packages offer. Few callers ask, and the import takes 10 ms."""
    from importlib.metadata import entry_points

    return entry_points(group=group)


class Registry(Generic[T]):
    """Factories of one kind of part, by name."""

    def __init__(self, what: str, group: str, shipped: Iterable[str],
                 load: Callable[[], Mapping[str, Callable[[], T]]],
                 packages: Mapping[str, str] | None = None) -> None:
        """``what`` it is, for messages; the entry point ``group``; the names that are ``shipped``,
        whose factories ``load`` imports; the optional ``packages`` that some of them need."""
        self.what, self.group, self.shipped = what, group, tuple(shipped)
        self._load, self._packages = load, dict(packages or {})
        self._known: dict[str, Callable[[], T]] = {}

    def register(self, name: str, factory: Callable[[], T]) -> None:
        """Gives ``factory`` a name. Raises ``OptionError`` if another factory has it."""
        taken = name.lower() in self.shipped
        if taken or self._known.setdefault(name.lower(), factory) is not factory:
            raise OptionError(f"{self.what} {quote(name)} is registered already")

    def names(self) -> tuple[str, ...]:
        """All registered and installed names, in alphabetic order."""
        installed = {point.name.lower() for point in _entry_points(self.group)}
        return tuple(sorted({*self.shipped, *self._known, *installed}))

    def check(self, name: str, also: Iterable[str] = ()) -> None:
        """Raises ``OptionError`` for a name nobody registered, which lists those that are known
        (and ``also`` others), and for one whose optional package is not installed."""
        low = name.lower()
        package = self._packages.get(low)
        if package is not None and find_spec(package) is None:
            raise OptionError(f"{self.what} {quote(name)} needs the package {package}: "
                              "pip install 'evonnx[search]'")
        if low not in self._known and low not in self.shipped and low not in self.names():
            known = ", ".join(dict.fromkeys((*also, *self.names())))
            raise OptionError(f"there is no {self.what} {quote(name)}: known are {known}")

    def factory(self, name: str) -> Callable[[], T]:
        """What makes the part of that name. Raises ``OptionError`` as ``check`` does."""
        self.check(name)
        low = name.lower()
        if low in self._known:
            return self._known[low]
        if low in self.shipped:
            return self._load()[low]
        points = _entry_points(self.group)
        found: Callable[[], T] = next(p for p in points if p.name.lower() == low).load()
        return found


def _strategies() -> Mapping[str, Callable[[], Strategy]]:
    from .strategies import SHIPPED

    return SHIPPED


def _models() -> Mapping[str, Callable[[], CostModel]]:
    from .models import SHIPPED

    return SHIPPED


_OPTUNA = ("optuna-grid", "optuna-random", "optuna-rules-grid", "optuna-rules-tpe", "optuna-tpe")
_PYMOO = ("pymoo-ga", "pymoo-nsga2", "pymoo-pso")
STRATEGIES: Registry[Strategy] = Registry(
    "strategy", "evonnx.strategies",
    ("annealing", "beam", "exact", "exhaustive", "genetic", "nsga2", *_OPTUNA, *_PYMOO, "random",
     "swarm"),
    _strategies, {**dict.fromkeys(_OPTUNA, "optuna"), **dict.fromkeys(_PYMOO, "pymoo")},
)  # fmt: skip
"""Search strategies; ``strategies/__init__.py`` has the classes."""
MODELS: Registry[CostModel] = Registry(
    "cost model", "evonnx.cost_models", ("bounds", "cd", "roofline"), _models)
"""Cost models; ``models/__init__.py`` has the classes."""
