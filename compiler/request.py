"""What ``compile`` was asked for: model and options, as a key of the program cache and as stages.

``Request.key`` names everything a program is made of: the model's content, every option, target,
versions and our own source. A program found under it needs neither the importer nor the passes.
``Request.derive`` runs these: import, pipeline, schedule. It can be run again later, when a caller
asks a program from the cache for its graph, and answers the same then.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache as memo
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np

from ..ir.dims import Dim
from ..ir.errors import ModelError, OptionError, quote
from ..ir.graph import Constants, Graph
from ..ir.schedule import Schedule
from ..ir.target import Target
from ..runtime.cache import code_digest, toolchain
from ..runtime.machine import version_of
from ..runtime.seen import SeenFiles
from ..search.settings import Search
from .modelfile import ModelFile, model_file

if TYPE_CHECKING:
    import onnx

    from ..passes.manager import PassReport
    from ..search.choose import Choice
    from ..search.greedy import Fuser

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto | Graph

Progress = Callable[[str, int, int], None]
"""(stage, done, total) -> None; total 0 means unknown."""

PATIENCE = 500
"""How often a plan of the arena above its bound is tried to be made better where memory was asked
for: 2 ms each for 500 buffers."""
_ROOMS = ("ir", "passes", "search", "kernels", "runtime", "compiler")


class Clock:
    """Times the stages and tells the progress bar."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        """Wall time of each finished stage."""
        self._name, self._start = "", 0.0

    def stage(self, name: str) -> None:
        """Ends the stage before and begins ``name``; empty: just ends."""
        now = time.perf_counter()
        if self._name:
            self.seconds[self._name] = now - self._start
        self._name, self._start = name, now
        if self.progress is not None and name:
            self.progress(name, 0, 0)


@dataclass(frozen=True, slots=True)
class Past:
    """What a report says of the way to the optimized graph."""

    nodes: int
    """Operations of the imported graph."""
    work: tuple[Dim, Dim]
    """C and D of the imported graph, run op by op."""
    passes: list[dict[str, Any]]
    """``PassReport.as_dict`` of every pass that ran."""
    search: dict[str, Any]
    """``Choice.facts``; empty where the schedule was given."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What comes before the program."""

    imported: Graph
    """The graph as it was imported, before any pass; of a loaded artefact the graph it holds."""
    graph: Graph
    """The optimized graph."""
    schedule: Schedule
    """Groups in execution order."""
    fuser: Fuser | None
    """Greedy fusion with its reasons; None where the schedule was given."""
    choice: Choice | None
    """How the schedule was found; None where the caller gave it."""
    passes: tuple[PassReport, ...]
    stamps: tuple[tuple[Any, ...], ...]
    """Data files that were read, as ``stamp`` makes them."""
    kept: Past | None = None
    """What an artefact kept of its compilation."""

    def past(self) -> Past:
        """The way to the graph; counts the work of the imported graph anew."""
        if self.kept is not None:
            return self.kept
        from ..search.cost import unfused_work

        nodes = sum(n.op not in ("input", "const") for n in self.imported.nodes)
        return Past(nodes, unfused_work(self.imported), [p.as_dict() for p in self.passes],
                    {} if self.choice is None else self.choice.facts())


class Origin(Protocol):
    """Where the stages of a program that was not compiled here can be had."""

    def check_unchanged(self) -> None:
        """Raises ``ModelError`` if they would not be those of the program any more."""

    def derive(self) -> Stages:
        """Makes them."""



@dataclass(frozen=True)
class Request:
    """A model and the options that decide about its program, already checked."""

    model: Model
    target: Target
    schedule: str | None = None
    """Text of a schedule to replay."""
    shapes: Mapping[str, Sequence[int | str | None]] | None = None
    sizes: Mapping[str, int] | None = None
    constants: Mapping[str, Any] | None = None
    pipeline: str | None = None
    search: Search = field(default_factory=Search)
    seen: SeenFiles | None = field(default=None, compare=False)
    """Digests of files that were read before."""
    found: Mapping[str, Any] | None = field(default=None, compare=False)
    """``Choice.facts`` of ``schedule``, where an earlier search settled on it."""
    known: str = field(default="", compare=False)
    """``digest``, where it was computed before."""
    _read: list[ModelFile] = field(default_factory=list, compare=False, repr=False)
    """The model's file between ``digest``, if that had to read it, and ``derive``."""

    @cached_property
    def digest(self) -> str:
        """Content digest of the model; raises ``ModelError`` for a file that cannot be read."""
        if self.known or isinstance(self.model, Graph) or _is_proto(self.model):
            return self.known or model_digest(self.model)
        file = model_file(self.model)
        digest = f"onnx {file.digest(self.seen)}"
        if file.was_read:
            self._read.append(file)
        return digest

    @cached_property
    def key(self) -> str:
        """Everything the program depends on, as text."""
        fixed = {name: Constants.digest_of(np.asarray(value))
                 for name, value in (self.constants or {}).items()}
        shapes = {name: list(shape) for name, shape in (self.shapes or {}).items()}
        return "\n".join([
            f"model {self.digest}",
            f"shapes {sorted(shapes.items())!r}",
            f"sizes {sorted((self.sizes or {}).items())!r}",
            f"constants {sorted(fixed.items())!r}",
            f"pipeline {self.pipeline!r}",
            f"schedule {self.schedule!r}",
            f"search {self.search}",
            _others(),
            f"evonnx {code_digest(*_ROOMS, seen=self.seen)}",
            toolchain(),
            str(self.target),
        ])  # fmt: skip

    @property
    def patience(self) -> int:
        """``Program.patience`` of what is compiled."""
        asked = self.search.objective == "peak" or self.search.max_memory is not None
        return PATIENCE if asked else 0

    @property
    def folder(self) -> Path | None:
        """Where the model's data files lie; None for a model without a path."""
        return Path(self.model).parent if isinstance(self.model, (str, os.PathLike)) else None

    def derive(self, clock: Clock | None = None, show: Callable[[Graph], None] | None = None
               ) -> Stages:
        """Import, passes, schedule; raises what these raise. ``show`` gets the graph as soon
        as it is imported."""
        from ..search.choose import Choice, choose
        from ..search.greedy import Fuser
        from ..search.symbols import symbols_of
        from . import options
        from .pipeline import run_pipeline

        clock = Clock() if clock is None else clock
        clock.stage("import")
        stamps: list[tuple[Any, ...]] = []
        imported = self._import(stamps)
        if show is not None:
            show(imported)
        clock.stage("passes")
        passes: list[PassReport] = []
        graph = run_pipeline(imported, self.pipeline, passes, clock.progress)
        clock.stage("schedule")
        if self.search.expect:
            options.check_expected(self.search.expect, symbols_of(imported), symbols_of(graph),
                                   self.sizes or ())
        if self.schedule is not None:
            if not options.is_schedule_of(self.schedule, graph):
                from .memory import lean_graphs

                for lean, more, _ in lean_graphs(graph, self.search):
                    if options.is_schedule_of(self.schedule, lean):
                        graph, passes = lean, [*passes, *more]
                        break
            chosen = options.schedule_of(self.schedule, graph, self.target)
            how = None if self.found is None else Choice(chosen, **self.found)
            return Stages(imported, graph, chosen, None, how, tuple(passes), tuple(stamps))
        fuser = Fuser(graph)
        choice = choose(graph, fuser, self.target, self.search, clock.progress)
        found = Stages(imported, graph, choice.schedule, fuser, choice, tuple(passes),
                       tuple(stamps))
        if self.search.objective != "peak":
            return found
        from .memory import leaner

        return min([found, *leaner(self, found, clock.progress)],
                   key=lambda s: inf if s.choice is None else s.choice.peak)

    def check_unchanged(self) -> None:
        """Raises ``ModelError`` if the model is not the one any more that ``key`` speaks of."""
        if model_digest(self.model) != self.digest:
            raise ModelError("the model was changed after it was compiled: compile it again")

    def _import(self, stamps: list[tuple[Any, ...]]) -> Graph:
        if isinstance(self.model, Graph):
            if self.shapes or self.sizes or self.constants:
                raise OptionError("shapes, sizes and constants are for ONNX models; this is a "
                                  "graph that was imported already")
            return self.model
        from .importer import import_model

        model = self._read.pop() if self._read else self.model
        return import_model(model, shapes=self.shapes, sizes=self.sizes,
                            constants=self.constants, stamps=stamps)


@memo
def _others() -> str:
    """The packages that a program depends on."""
    return "\n".join(f"{name} {version_of(name)}" for name in ("numpy", "onnx", "ml_dtypes"))


def model_digest(model: Model) -> str:
    """SHA-256 of a model's content; data files beside it are not read (see ``stamp``). Raises
    ``ModelError`` for a file that cannot be read or an object that is no model."""
    if isinstance(model, Graph):
        return f"graph {model.digest}"
    if not _is_proto(model):
        return f"onnx {model_file(model).digest()}"
    try:
        data = model.SerializeToString(deterministic=True)
    except ValueError as error:  # protobuf serializes at most 2 GiB
        raise ModelError(f"the ModelProto cannot be serialized: {quote(error)}") from None
    return f"onnx {hashlib.sha256(data).hexdigest()}"


def _is_proto(model: Model) -> TypeGuard[onnx.ModelProto]:
    return hasattr(model, "SerializeToString")


def stamp(location: str, info: os.stat_result) -> tuple[Any, ...]:
    """What a data file is recognized by without reading it: its location in the model's folder,
    size, times of change, device and inode."""
    return (location, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_dev, info.st_ino)


def stale(folder: Path | None, stamps: Sequence[Sequence[Any]]) -> str:
    """The first data file that is not the one it was, in words; "" if all are."""
    for old in stamps:
        location = str(old[0])
        try:
            now = stamp(location, os.stat((folder or Path()) / location))
        except OSError as error:
            return f"data file {quote(location)}: {error.strerror}"
        if list(now) != list(old):
            return f"data file {quote(location)} has changed"
    return ""
