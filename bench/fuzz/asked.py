"""A model compiled with drawn options: what they mean for it, and all that must hold then.

The results are those of the reference under every binding that is left; a call takes no more memory
than was allowed; the same options give the same bits again, so do the schedule that was found, on
another number of threads, and the file that was saved; and whatever else a caller may ask of a
compiled model is answered.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compiler.api import Compiled, compile
from ...compiler.saved import load
from ...ir.errors import LimitError, OptionError
from .generate import Example
from .judge import Judge
from .verdict import Failure, check_right, check_same, named

_WORDS = ("fix", "limit", "expect", "after")
"""Options that are no arguments of ``compile``."""
_FIXING = ("sizes", "one size", "shapes", "constants")
"""Ways to fix something after which only the first binding can be fed."""


def check_asked(given: Example, plain: Compiled, judges: list[Judge], cache: str | bool) -> None:
    """Compiles a model with the options of its example; ``plain`` is it without any, ``judges``
    know its results under the first bindings. Raises ``Failure``."""
    options, asked = given.options, arguments(given, plain)
    try:
        compiled = compile(given.model, cache=cache, **asked)
    except (LimitError, OptionError) as error:
        if isinstance(error, LimitError) and not _reachable(options):
            return
        if "exhaustive search" in str(error):  # for few nodes, and none of its budget is left out
            return
        raise Failure("limit", f"{type(error).__name__}: {error}"[:400]) from None
    most = asked.get("max_memory")
    if most is not None and (takes := needs(given, compiled)) > most:
        raise Failure("limit", f"a call takes {takes} bytes of {most}")
    known = judges[:1] if options.get("fix") in _FIXING else judges
    results = []
    for binding, judge in enumerate(known):
        results.append(named(compiled, feeds_of(given, binding)))
        check_right(judge.wrong(results[-1]), f"binding {given.bindings[binding]}: ")
    made = _Made(given, compiled, judges[0], results[0], asked, cache)
    for step in options.get("after", ()):
        STEPS[step](made)


def arguments(given: Example, plain: Compiled) -> dict[str, Any]:
    """The arguments of ``compile`` that the options of an example stand for; ``plain`` is its model
    compiled without any."""
    options, binding = given.options, given.bindings[0]
    inputs = given.model.graph.input
    made = {k: v for k, v in options.items() if k not in _WORDS}
    fix = options.get("fix")
    if binding and fix == "sizes":
        made["sizes"] = binding
    elif binding and fix == "one size":
        name = min(binding)
        made["sizes"] = {name: binding[name]}
    elif fix in ("shapes", "renamed"):
        made["shapes"] = {v.name: [_renamed(d.dim_param) if fix == "renamed" and d.dim_param
                                   else _size(d, binding) for d in v.type.tensor_type.shape.dim]
                          for v in inputs}
    elif fix == "constants" and inputs:
        made["constants"] = {inputs[0].name: given.feeds()[inputs[0].name]}
    counted = options.keys() & {"expect", "limit"}
    if binding and counted and fix not in ("sizes", "shapes", "constants"):
        made["expect"] = {_renamed(k) if fix == "renamed" else k: v
                          for k, v in _expected(given).items()}
    if "limit" in options:
        made["max_memory"] = max(1, int(options["limit"] * needs(given, plain)))
    return made


def _reachable(options: Mapping[str, Any]) -> bool:
    """Whether a limit leaves room for the model compiled without options: not on more threads, each
    of which has scratch of its own, nor by kernels of another target or of sizes that are fixed."""
    return (options.get("limit", 1) >= 1 and options.get("threads") == 1
            and not options.keys() & {"target", "fix"})


def feeds_of(given: Example, binding: int) -> dict[str, Any]:
    """What is still fed under the options of an example."""
    feeds: dict[str, Any] = given.feeds(binding)
    if given.options.get("fix") == "constants" and feeds:
        del feeds[given.model.graph.input[0].name]
    return feeds


def needs(given: Example, compiled: Compiled) -> int:
    """Bytes that a call of ``compiled`` takes at the sizes that the options count on."""
    sizes = _expected(given)
    shapes = {v.name: [_size(d, sizes) for d in v.type.tensor_type.shape.dim]
              for v in given.model.graph.input if v.name in compiled.input_names}
    return compiled.executable.predicted_peak(shapes).total


def _expected(given: Example) -> dict[str, int]:
    which = 0 if given.options.get("fix") in _FIXING else int(given.options.get("expect", 0))
    return given.bindings[which % len(given.bindings)]


def _size(d: Any, sizes: Mapping[str, int]) -> int:
    return sizes[d.dim_param] if d.dim_param else int(d.dim_value)


def _renamed(name: str) -> str:
    return f"{name}_other"


@dataclass(frozen=True, slots=True)
class _Made:
    """A model compiled with its options, and its results under the first binding."""

    given: Example
    compiled: Compiled
    judge: Judge
    first: dict[str, Any]
    asked: dict[str, Any]
    cache: str | bool

    @property
    def feeds(self) -> dict[str, Any]:
        return feeds_of(self.given, 0)

    def scheduled(self) -> None:
        """The schedule that was found, given back, on other threads."""
        fixed = {k: v for k, v in self.asked.items()
                 if k in ("sizes", "shapes", "constants", "target")}
        again = compile(self.given.model, cache=self.cache, schedule=str(self.compiled.schedule),
                        threads=3 - self.asked.get("threads", 1) % 2, **fixed)
        if again.source != self.compiled.source:
            raise Failure("replay", "the schedule given back gives other kernels")
        check_same("threads", self.first, named(again, self.feeds))

    def again(self) -> None:
        """The same once more: out of the cache, where there is one."""
        if "measure" in self.asked and not self.cache:
            return
        again = compile(self.given.model, cache=self.cache, **self.asked)
        check_same("rerun", self.first, named(again, self.feeds))
        if str(again.schedule) != str(self.compiled.schedule):
            raise Failure("rerun", "the same options give another schedule")

    def saved(self) -> None:
        """Its file, as it is."""
        with self._file() as path:
            check_same("saved", self.first, named(load(path, threads=2), self.feeds))

    def recompiled(self) -> None:
        """Its file, compiled anew for this machine."""
        with self._file() as path:
            check_right(self.judge.wrong(named(load(path, recompile=True), self.feeds)),
                        "saved and compiled anew: ")

    @contextmanager
    def _file(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="evonnx-fuzz-") as folder:
            path = Path(folder) / "m.evonnx"
            self.compiled.save(path)
            yield path

    def explained(self) -> None:
        """Every node."""
        for k, node in enumerate(self.compiled.graph.nodes):
            if node.op not in ("input", "const"):
                self.compiled.explain(k)


STEPS: dict[str, Callable[[_Made], object]] = {
    "again": _Made.again, "explain": _Made.explained, "recompile": _Made.recompiled,
    "save": _Made.saved, "schedule": _Made.scheduled,
    "gantt": lambda made: str(made.compiled.gantt(**made.feeds, rounds=1)),
    "profile": lambda made: str(made.compiled.profile(**made.feeds, rounds=1)),
    "report": lambda made: str(made.compiled.report("roofline")),
}  # fmt: skip
"""What is done with a compiled model, by the name of an option's step."""
