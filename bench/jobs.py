"""What is measured and what came out: plain records that travel between processes as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """One model at one number of threads."""

    name: str
    path: str
    threads: int
    feeds: str
    """Path of a file with the inputs (:func:`save_feeds`)."""
    engines: tuple[str, ...]
    rounds: int
    block: float
    """Seconds of one block."""
    cold: bool
    """Also measure compilation in fresh processes."""
    reference: bool = True
    """Compare with the float64 interpreter; else with ONNX Runtime."""

    @staticmethod
    def from_json(data: dict[str, Any]) -> Job:
        """Reads back what ``dataclasses.asdict`` wrote."""
        return Job(**{**data, "engines": tuple(data["engines"])})


@dataclass
class EngineResult:
    """One engine on one job; times in seconds."""

    name: str
    version: str = ""
    error: str = ""
    """Why it did not run, on one line; empty if it did."""
    load: float | None = None
    """Load time in the warm process."""
    median: float | None = None
    low: float | None = None
    high: float | None = None
    """Quartiles of the block medians."""
    blocks: list[float] = field(default_factory=list)
    """Median of each block, in order."""
    difference: float | None = None
    """Largest error relative to the output's scale; None if it was not comparable."""
    narrow: float | None = None
    """The same against the interpreter in the declared types, if ``difference`` is large."""
    note: str = ""


@dataclass
class ColdResult:
    """Compilation in fresh processes, and memory; seconds and bytes."""

    cold: float | None = None
    """import + compile with an empty cache."""
    cached: float | None = None
    """The same with the cache that the first left."""
    cached_import: float | None = None
    """Part of ``cached`` spent in imports."""
    first_run: float | None = None
    """First call after the cached compile."""
    predicted_peak: int | None = None
    """What the memory plan promises."""
    measured_peak: int | None = None
    """What the runtime reports it used."""
    resident_growth: int | None = None
    """Growth of the process's resident set from before loading to the peak of the first run."""
    error: str = ""


@dataclass
class Result:
    """One row of the table."""

    name: str
    threads: int
    sha256: str
    error: str = ""
    """What ended the whole job (crash, timeout); empty if it finished."""
    reference: str = ""
    reference_note: str = ""
    engines: dict[str, EngineResult] = field(default_factory=dict)
    ratio: float | None = None
    """Best peer over ours: above 1 we are faster."""
    best_peer: str = ""
    cold: ColdResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Result:
        """Reads back what :meth:`to_json` wrote."""
        engines = {name: EngineResult(**value) for name, value in data["engines"].items()}
        cold = ColdResult(**data["cold"]) if data["cold"] else None
        return Result(**{**data, "engines": engines, "cold": cold})


def save_feeds(path: Path, feeds: Mapping[str, np.ndarray]) -> None:
    """Writes inputs to an .npz file, in order.

    Names are stored as data, since array names may not be anything; strings as fixed-width text.
    """
    arrays = [value.astype(np.str_) if value.dtype == object else value for value in feeds.values()]
    np.savez(path, *arrays, names=np.array(list(feeds), dtype=np.str_))


def load_feeds(path: Path | str) -> dict[str, np.ndarray]:
    """Reads what :func:`save_feeds` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = [stored[f"arr_{index}"] for index in range(len(stored["names"]))]
        texts = [value.astype(object) if value.dtype.kind == "U" else value for value in arrays]
        return dict(zip(map(str, stored["names"]), texts, strict=True))


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """An error as one line of at most ``limit`` characters."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
