"""Records of a study: who made them, how they are read, and what is told of a set of them.

A record is a dictionary of plain values, one line of JSON; ``study`` lists the fields. What was
searched with is named by ``Maker``: the registered name (or module and class) and the parameters,
which are the attributes named like the constructor's arguments. Only registered names are ever made
again from a record: reading one runs no code that it names.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ..bench.machine import describe
from ..ir.errors import OptionError, ParseError, quote

T = TypeVar("T")
Record = dict[str, Any]
RECORD = 1
"""Version of a record's fields."""


@dataclass(frozen=True)
class Maker(Generic[T]):
    """Makes a strategy (or cost model) anew for every run, so that none sees what another left."""

    label: str
    """What tables and figures call it."""
    algorithm: str
    """Its registered name, or module and class."""
    parameters: Mapping[str, Any] | None
    """Arguments that make it; None where its attributes do not tell."""
    make: Callable[[], T]

    @classmethod
    def of(cls, given: object, known: Mapping[str, Callable[[], T]], wanted: Sequence[str],
           label: str = "") -> Maker[T]:
        """From a registered name, a class, a factory or an instance (which is copied); ``wanted``
        are methods that it has. Raises ``OptionError`` for anything else."""
        name = ""
        if isinstance(given, str):
            if given not in known:
                raise OptionError(f"there is no {quote(given)}: known are {', '.join(known)}")
            name, make = given, known[given]
        elif all(hasattr(given, w) for w in wanted) and not isinstance(given, type):
            kept = copy.deepcopy(given)
            make = lambda: copy.deepcopy(kept)  # type: ignore[assignment, return-value]  # noqa: E731
        elif callable(given):
            make = given
        else:
            raise OptionError(f"a name, a class, a factory or an object with {', '.join(wanted)} "
                              f"is wanted, not {type(given).__name__}")
        made: Any = make()
        if missing := [w for w in wanted if not hasattr(made, w)]:
            raise OptionError(f"{type(made).__name__} lacks {', '.join(missing)}")
        if not name:
            name = next((k for k, f in known.items() if f is type(made)), "")
        parameters = parameters_of(made)
        plain = name or type(made).__name__
        return cls(label or _label(plain, made, parameters),
                   name or f"{type(made).__module__}:{type(made).__qualname__}", parameters, make)


def parameters_of(made: object) -> dict[str, Any] | None:
    """The arguments of an object's constructor, from attributes of the same names; None where one
    is missing or no plain value."""
    if type(made).__init__ is object.__init__:
        return {}
    found = {}
    for name, argument in inspect.signature(type(made)).parameters.items():
        value = getattr(made, name, inspect.Parameter.empty)
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD) or not _plain(value):
            return None
        found[name] = value
    return found


def _plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _label(name: str, made: object, parameters: Mapping[str, Any] | None) -> str:
    """The name, and the parameters that are not the constructor's defaults."""
    declared = inspect.signature(type(made)).parameters if parameters else {}
    told = [f"{k}={v}" for k, v in (parameters or {}).items() if v != declared[k].default]
    return f"{name}({', '.join(told)})" if told else name


def makers(given: Iterable[Any] | Mapping[str, Any], known: Mapping[str, Callable[[], T]],
           wanted: Sequence[str]) -> list[Maker[T]]:
    """A maker for each, labels from the keys of a mapping. Raises ``OptionError`` for two of one
    label."""
    pairs = given.items() if isinstance(given, Mapping) else (("", g) for g in given)
    found = [Maker.of(g, known, wanted, label) for label, g in pairs]
    labels = [m.label for m in found]
    if len(set(labels)) < len(labels):
        raise OptionError(f"two of {', '.join(labels)} have the same label: give a mapping from "
                          "labels to them")
    return found


def circumstances() -> Record:
    """Machine, versions and date, for every record."""
    found = describe()
    machine = f"{found['cpu']}, {found['cpus']} cpus, {' '.join(found['isa'])}"
    return {"machine": machine, "system": found["system"], "date": found["date"],
            "versions": {"python": found["python"], **found["versions"]}}  # fmt: skip


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """The records in a file of JSON lines. Raises ``ParseError`` for a line that is none."""
    records = []
    for number, text in enumerate(Path(path).read_text("utf-8").splitlines(), 1):
        where = f"{quote(path)}, line {number}"
        try:
            record = json.loads(text)
        except ValueError as error:
            raise ParseError(f"{where}: {error}") from None
        if not isinstance(record, dict) or record.get("record") != RECORD:
            raise ParseError(f"{where}: no record of version {RECORD}")
        records.append(record)
    return records


def grouped(records: Iterable[Record], *keys: str) -> dict[tuple[Any, ...], list[Record]]:
    """Records by the values of ``keys``, in the order of their first appearance."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record.get(k) for k in keys), []).append(record)
    return found


def best_by(record: Record, limit: float, by: str = "evaluations") -> float:
    """Best cost that a run had found when it had spent ``limit`` evaluations or "seconds"; NaN
    before its first."""
    column = {"evaluations": 0, "seconds": 1}[by]
    found = math.nan
    for step in record["history"]:
        if step[column] > limit:
            break
        found = step[2]
    return found


def median_interval(values: Sequence[float], draws: int = 2000, seed: int = 0
                    ) -> tuple[float, float, float]:
    """(median, low, high): the median and its 95 % interval by the percentile bootstrap (B. Efron,
    1979); NaN without values."""
    data = np.asarray(values, np.float64)
    if not data.size:
        return math.nan, math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(data), size=(draws, len(data)))
    low, high = np.quantile(np.median(data[drawn], axis=1), [0.025, 0.975])
    return float(np.median(data)), float(low), float(high)
