"""Programs compiled per value of the inputs that decide their structure.

Where the importer finds that axes, a block shape or a rank is fed (``needs.py``), ``compile``
answers a ``Specialized``. A call reads these small inputs, takes the program that was compiled for
exactly their contents, or compiles it: with the values as constants, and ranks as shapes of
symbolic sizes, so that other sizes never compile again. A program may turn out to need further
inputs; the table then leads from the first ones to these. The last ``LIMIT`` entries are kept.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import ArtefactError, EvonnxError, FeedError, quote
from ..ir.types import LooseTensor, TensorType
from ..runtime.feeds import Feeds
from ..runtime.forks import after_fork
from .api import Compiled, signature
from .needs import MAX_ELEMENTS, REMEDY, DependsOnFeeds, Need, Versions

if TYPE_CHECKING:
    from ..ir.target import Target
    from ..ir.types import Type
    from ..runtime.executable import Executable
    from ..search.models import CostModel
    from .gantt import Gantt
    from .profiling import Profile
    from .report import Report
    from .request import Stages

LIMIT = 16
"""Entries of the table of programs, the least recently used of which goes first."""

Shapes = Mapping[str, Sequence[int | None]]
"""Shapes of inputs by name; None is a symbolic size."""
Build = Callable[[Mapping[str, np.ndarray], Shapes], Compiled]
"""Compiles with these inputs fixed; raises ``DependsOnFeeds`` if that is not enough."""
_Part = tuple[str, tuple[int | None, ...], bytes | tuple[Any, ...] | None]
"""(input, shape, elements): all that a program depends on of one input; the elements are None where
only the shape counts, and a size is None where it does not."""
_Key = tuple[_Part, ...]


class Specialized(Compiled):
    """A compiled model whose program depends on the values of some inputs; see the module.

    Calls are thread-safe: programs are compiled one at a time, and none twice while it is kept.
    What describes a program (``graph``, ``schedule``, ``source``, ``explain``, ...) describes the
    newest one, and raises before there is one; ``version_for(feeds)`` answers any of them.
    """

    def __init__(self, needed: DependsOnFeeds, build: Build, target: Target, threads: int) -> None:
        self._needs = needed.needs
        self._types, self._outputs = needed.inputs, needed.outputs
        self._arity = len(needed.inputs)
        self._build, self._target, self._threads = build, target, threads
        self._table: OrderedDict[_Key, Compiled | tuple[Need, ...]] = OrderedDict()
        self._known_needs = dict.fromkeys(needed.needs)
        self._readers = self._readers_of(needed.needs)
        self._newest: Compiled | None = None
        self._count = 0
        self._after_fork()
        after_fork(self)

    def _after_fork(self) -> None:
        self._lock, self._building = threading.Lock(), threading.Lock()

    # -- running ---------------------------------------------------------------------------

    def version_for(self, feeds: Mapping[str, Any]) -> Compiled:
        """The program for these feeds, of which those that it depends on are enough: from the
        table, or compiled now. Raises ``FeedError`` for feeds that do not fit, and what ``compile``
        raises, for values that the model does not allow, naming them."""
        needs = self._needs
        key: _Key = ()
        while True:
            key = (*key, *(self._part(need, feeds) for need in needs))
            entry = self._look_up(key) or self._make(key)
            if isinstance(entry, Compiled):
                return entry
            needs = entry

    def _run_in_order(self, values: Sequence[Any]) -> list[Any]:
        return self._run(self._by_name(values, {}))

    def _run(self, feeds: Mapping[str, Any]) -> list[Any]:
        if not feeds.keys() <= self._types.keys():
            unknown = ", ".join(quote(n) for n in feeds if n not in self._types)
            takes = ", ".join(f"{quote(n)} {t}" for n, t in self._types.items())
            raise FeedError(f"wrong feeds: unknown {unknown}; the model takes {takes}")
        version = self.version_for(feeds)
        return version._run({n: feeds[n] for n in version.input_names if n in feeds})

    def _part(self, need: Need, feeds: Mapping[str, Any]) -> _Part:
        """What ``need`` asks for, of the feeds."""
        name, declared = need.input, self._types[need.input]
        given = feeds.get(name)
        if given is None:
            raise FeedError(f"input {quote(name)} {declared} is not fed, but the program depends on"
                            f" the {need}")
        array: np.ndarray = self._readers[name].arrays({name: given})[0]
        if need.aspect == "rank":
            return name, (None,) * array.ndim, None
        if isinstance(declared, TensorType):
            _check_shape(name, declared, array)
        if need.aspect == "length":
            return name, array.shape, None
        if array.size > MAX_ELEMENTS:
            raise FeedError(f"input {quote(name)} has {array.size} elements; a program is compiled"
                            f" per value of inputs of at most {MAX_ELEMENTS} only ({need})")
        return name, array.shape, (
            tuple(array.ravel()) if array.dtype == object else array.tobytes())

    def _look_up(self, key: _Key) -> Compiled | tuple[Need, ...] | None:
        with self._lock:
            entry = self._table.get(key)
            if entry is not None:
                self._table.move_to_end(key)
            return entry

    def _make(self, key: _Key) -> Compiled | tuple[Need, ...]:
        """A new entry of the table, unless another thread has made it meanwhile."""
        with self._building:
            entry = self._look_up(key)
            if entry is not None:
                return entry
            values = {name: self._array(name, shape, elements)
                      for name, shape, elements in key if elements is not None}  # fmt: skip
            shapes = {name: shape for name, shape, elements in key if elements is None}
            try:
                entry = self._build(values, shapes)
            except DependsOnFeeds as more:
                entry = more.needs
            except EvonnxError as error:
                error.args = (f"with {_shown(values, shapes)}: {error}", *error.args[1:])
                raise
            with self._lock:
                self._table[key] = entry
                if len(self._table) > LIMIT:
                    self._table.popitem(last=False)
                if isinstance(entry, Compiled):
                    self._newest = entry
                    self._count += 1
                else:
                    self._known_needs |= dict.fromkeys(entry)
                    self._readers |= self._readers_of(entry)
            return entry

    def _readers_of(self, needs: Sequence[Need]) -> dict[str, Feeds]:
        """What brings a feed of each input into the declared form."""
        return {n.input: Feeds([(n.input, 0, self._types[n.input])]) for n in needs}

    def _array(self, name: str, shape: Any, elements: Any) -> np.ndarray:
        """The value of an input from its part of the key."""
        declared = self._types[name]
        assert isinstance(declared, (TensorType, LooseTensor))
        if declared.dtype.kind == "s":
            flat = np.empty(len(elements), object)
            flat[:] = elements
            return flat.reshape(shape)
        return np.frombuffer(elements, declared.dtype.np).reshape(shape)

    # -- reading ---------------------------------------------------------------------------

    @property
    def newest(self) -> Compiled:
        """The program that was compiled last; raises ``EvonnxError`` before the first."""
        if self._newest is None:
            needs = "\n".join(f"  {n}" for n in self._known_needs)
            raise EvonnxError("the program is not compiled yet, since it depends on what is fed:"
                              " call the model (or its version_for), or give it to compile()"
                              f" ahead, {REMEDY}:\n{needs}")
        return self._newest

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of all inputs, in the order of the model."""
        return tuple(self._types)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self._outputs

    @property
    def inputs(self) -> dict[str, Type]:
        """Declared types of the inputs; ``any`` where a rank is open."""
        return dict(self._types)

    @property
    def executable(self) -> Executable:
        """The newest loaded program."""
        return self.newest.executable

    @property
    def _stages(self) -> Stages:
        return self.newest._stages

    def measure_memory(self, feeds: Mapping[str, Any]) -> int | None:
        """See ``Compiled.measure_memory``; of the program for these feeds."""
        version = self.version_for(feeds)
        return version.measure_memory({n: feeds[n] for n in version.input_names if n in feeds})

    def save(self, path: str | os.PathLike[str], *, recompilable: bool = True) -> None:
        """Raises ``ArtefactError``: an artefact holds one program. ``version_for(feeds)`` answers
        one that can be saved."""
        needs = "".join(f"\n  {n}" for n in self._known_needs)
        raise ArtefactError("an artefact holds one program, and this model has one for each value "
                            f"that it depends on: save version_for(feeds), or compile {REMEDY}:"
                            f"{needs}")

    def _profile(self, feeds: Mapping[str, Any], rounds: int) -> Profile:
        version = self.version_for(feeds)
        return version._profile({n: feeds[n] for n in version.input_names if n in feeds}, rounds)

    def _gantt(self, feeds: Mapping[str, Any], cost_model: str | CostModel | None, rounds: int
               ) -> Gantt:
        version = self.version_for(feeds) if feeds else self.newest
        return version._gantt({n: feeds[n] for n in version.input_names if n in feeds},
                              cost_model, rounds)

    def report(self, cost_model: str | CostModel | None = None) -> Report:
        """What the program depends on, and the report of the newest version (an empty one, if
        there is none)."""
        from .report import blank_report

        with self._lock:
            kept = sum(isinstance(e, Compiled) for e in self._table.values())
            versions = Versions(tuple(self._known_needs), self._count, kept, LIMIT)
        newest = self._newest
        if newest is None:
            found = blank_report(self._target, self._threads)
        else:
            found = newest.report(cost_model)
        return replace(found, versions=versions)

    def __repr__(self) -> str:
        needs = ", ".join(f"{n.aspect} of {quote(n.input)}" for n in self._known_needs)
        return (f"<evonnx.Specialized ({signature(self.inputs)}): {self._count} versions by "
                f"{needs[:200]}>")


def _shown(values: Mapping[str, np.ndarray], shapes: Shapes) -> str:
    """What a program was compiled for, for messages."""
    parts = [f"input {quote(n)} = {quote(v.tolist())[1:-1]}" for n, v in values.items()]
    for name, shape in shapes.items():
        sizes = ", ".join("?" if d is None else str(d) for d in shape)
        parts.append(f"input {quote(name)} of shape [{sizes}]")
    return ", ".join(parts)


def _check_shape(name: str, declared: TensorType, array: np.ndarray) -> None:
    """Raises ``FeedError`` where the array does not have the declared shape."""
    fits = array.ndim == declared.rank and all(
        d == n for d, n in zip(declared.shape, array.shape, strict=True) if isinstance(d, int)
    )
    if not fits:
        raise FeedError(f"input {quote(name)} is {declared}, got shape {list(array.shape)}")


__all__ = ["LIMIT", "Specialized"]
