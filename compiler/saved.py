"""Compiled models as files: ``Compiled.save`` and ``load``.

A file is an artefact (``runtime.artefact``) whose notes hold what running does not need: the IR and
the schedule as text, the target, the driver's digest, and what the report says of the passes. Its
machine code includes the driver of the runtime, so that loading compiles nothing; neither ONNX nor
LLVM is imported. The IR's own weights lie beside the packed ones and are read when the graph is
asked for them, or when the model is compiled again for another machine.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .. import __version__
from ..ir.dim_parser import parse_dim
from ..ir.dims import Dim, Expr
from ..ir.errors import ArtefactError, CompileError, quote
from ..ir.graph import Constants, Graph
from ..ir.parser import parse_graph
from ..ir.schedule import parse_schedule
from ..ir.target import Target
from ..ir.text import named_constants, print_graph
from ..runtime.artefact import Archive, is_artefact, open_artefact, readable, write_artefact
from ..runtime.cache import CacheRecord
from ..runtime.constants import Key
from ..runtime.driver import SYMBOL, driver, driver_object
from ..runtime.executable import Executable, Parts
from ..runtime.machine import KnownMachine
from ..runtime.objects import link
from ..runtime.program import check_program
from . import options
from .api import Compiled
from .request import Clock, Past, Stages

_KIND = "saved model"
"""The key text of all saved models: the cache's artefacts have other keys."""


def save(stages: Stages, executable: Executable, path: str | os.PathLike[str],
         recompilable: bool = True) -> None:
    """Writes an artefact, whole or not at all; raises ``ArtefactError`` where that is impossible.

    ``recompilable``: with the weights as the IR has them."""
    text = print_graph(stages.graph)
    source, driver_code = driver_object(executable.target)
    constants: dict[Key, np.ndarray] = dict(executable.parts.constants)
    if recompilable:
        for digest in named_constants(text):
            if (digest, None) not in constants:
                constants[digest, None] = stages.graph.constants.read(digest)
    notes = {
        "evonnx": __version__, "target": str(executable.target), "ir": text,
        "schedule": str(stages.schedule), "past": _past_out(stages.past()),
        "driver": hashlib.sha256(source.encode()).hexdigest(),
    }  # fmt: skip
    objects = {**executable.parts.code.objects, SYMBOL: driver_code}
    _write(Path(path), lambda file: write_artefact(
        file, _KIND, notes, executable.program, objects, constants))  # fmt: skip


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """A file that is complete when it appears under its name."""
    temporary = path.with_name(f".{path.name[:100]}-{uuid.uuid4().hex}")
    try:
        try:
            with open(temporary, "xb") as file:
                write(file)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ArtefactError(f"cannot write {quote(path, 200)}: {error.strerror}") from None


def load(path: str | os.PathLike[str], *, threads: int | None = None, recompile: bool = False
         ) -> Compiled:
    """A compiled model from a file that ``Compiled.save`` wrote.

    ``threads``: None uses the cores this process may use. ``recompile`` compiles the IR inside,
    with its schedule, for this machine, instead of loading the machine code; settings of kernels
    that this machine cannot have are chosen anew. Loading runs machine code from the file: load
    only files you trust.

    Raises ``ArtefactError`` for a file that is damaged, of another format, or whose code this
    machine cannot run; ``OptionError`` for bad threads.
    """
    count = options.threads_of(threads)
    KnownMachine().recall()
    clock = Clock()
    clock.stage("load")
    with _opened(path) as found:
        if not recompile:
            executable = found.executable(count)
            clock.stage("")
            return Compiled(found, executable, None, clock.seconds, "loaded")
        stages = found.derive()
        found.require_weights()
    from .api import compile as compile_model

    schedule = options.fitted(stages.schedule, stages.graph, Target.detect())
    return compile_model(stages.graph, schedule=schedule, threads=count, pipeline="")


def saved_graph(path: str | os.PathLike[str]) -> Graph:
    """The optimized graph in an artefact; raises ``ArtefactError``."""
    with _opened(path) as found:
        return found.derive().graph


def is_saved(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as artefacts do."""
    with open(path, "rb") as file:
        return is_artefact(file.read(64))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_Saved]:
    """An artefact file, with its name in every error."""
    try:
        with open(path, "rb") as file:
            if not is_artefact(file.read(64)):
                raise ArtefactError("not an EvoNNX artefact; compile() takes ONNX models")
            file.seek(0)
            yield _Saved(open_artefact(file))
    except OSError as error:
        raise ArtefactError(f"cannot read {quote(path, 200)}: {error.strerror}") from None
    except (ArtefactError, CompileError) as error:
        raise ArtefactError(f"{quote(path, 200)}: {error}") from error


class _Saved:
    """An open artefact as the origin of a ``Compiled``."""

    def __init__(self, archive: Archive) -> None:
        if archive.key != _KIND:
            raise ArtefactError("an entry of the compile cache, not a saved model")
        self._archive = archive
        self._notes = archive.notes
        with readable("target"):
            self._target = Target.parse(self._notes["target"])
        with readable("program"):
            check_program(archive.program)

    def check_unchanged(self) -> None:
        """An artefact holds its own IR, which nobody changes."""

    def executable(self, threads: int | None) -> Executable:
        """The loaded program."""
        if not self._target.runs_here():
            here = Target.detect()
            raise ArtefactError(
                f"compiled for {quote(self._target.name)} ({self._target.isa[:120]}), which this "
                f"machine ({here.triple}, {here.cpu}) cannot run: load it with recompile=True, or "
                "compile the model with target='generic'")  # fmt: skip
        objects = self._archive.objects()
        driver(_StoredDriver(objects.pop(SYMBOL, b""), str(self._notes.get("driver"))))
        records = [CacheRecord(s, True, "loaded", 0.0, len(c)) for s, c in objects.items()]
        code = link(objects, records)
        parts = Parts(code, self._archive.constants(), code.seconds)
        return Executable(self._archive.program, Constants(), self._target, threads, parts=parts)

    def derive(self) -> Stages:
        """IR and schedule, as they were written; weights are read at need."""
        with readable("IR"):
            graph = parse_graph(self._notes["ir"], self._constants())
            schedule = parse_schedule(self._notes["schedule"])
            past = _past_in(self._notes["past"])
        return Stages(graph, graph, schedule, None, None, (), (), past)

    def _constants(self) -> Constants:
        table = Constants()
        for digest in named_constants(self._notes["ir"]):
            table.add_lazy(digest, partial(self._constant, digest))
        return table

    def _constant(self, digest: str) -> np.ndarray:
        self._require(digest)
        return self._archive.constant((digest, None))

    def require_weights(self) -> None:
        """Raises ``ArtefactError`` unless everything that the IR names is in the file."""
        for digest in named_constants(self._notes["ir"]):
            self._require(digest)

    def _require(self, digest: str) -> None:
        if (digest, None) not in self._archive:
            raise ArtefactError("saved without the weights of its IR (recompilable=False): the "
                                "graph can be read but neither run nor compiled")


class _StoredDriver:
    """The driver's machine code from a file, if it is that of this version's text."""

    def __init__(self, code: bytes, digest: str) -> None:
        self._code, self._digest = code, digest

    def fetch(
        self, symbol: str, text: str, target: Target, compile_: Callable[[], bytes]
    ) -> bytes:
        """The code from the file, or compiled (by LLVM alone, in some 50 ms)."""
        fits = bool(self._code) and hashlib.sha256(text.encode()).hexdigest() == self._digest
        return self._code if fits else compile_()


def _past_out(past: Past) -> dict[str, Any]:
    return {**asdict(past), "work": [str(d) if isinstance(d, Expr) else int(d) for d in past.work]}


def _past_in(value: dict[str, Any]) -> Past:
    before: list[Dim] = [parse_dim(d) if isinstance(d, str) else d for d in value["work"]]
    return Past(value["nodes"], (before[0], before[1]), value["passes"], value["search"])


__all__ = ["is_saved", "load", "save", "saved_graph"]
