"""Loads and runs one model in a fresh process and prints its resident memory as JSON:

    python -m evonnx.bench.resident ENGINE MODEL THREADS FEEDS.npz

``ENGINE`` is a peer, ``evonnx`` (compile, with whatever the cache folder holds) or ``load`` (MODEL
is what ``Compiled.save`` wrote). Nothing but NumPy and the engine is imported, since memory is what
is measured. ``VmHWM`` is the largest resident set so far; what is resident at the end is split into
pages of the process's own (``RssAnon``) and pages of mapped files, which the system shares between
processes and takes back when it needs them (``RssFile``). Linux only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .coldstart import status
from .engines import OURS, PEERS, load
from .jobs import load_feeds

LOAD = "load"
"""Our engine on a saved artefact."""
FIELDS = {"peak": "VmHWM", "resident": "VmRSS", "anonymous": "RssAnon", "file": "RssFile"}


def now() -> dict[str, int]:
    """The sizes of ``FIELDS``, bytes."""
    found = {name: status(field) for name, field in FIELDS.items()}
    return {name: size for name, size in found.items() if size is not None}


def _import(engine: str) -> None:
    if engine == OURS:
        from .. import compile  # noqa: F401
    elif engine == LOAD:
        from .. import load as load_artefact  # noqa: F401
    elif engine == "onnxruntime":
        import onnxruntime  # noqa: F401
    else:
        import openvino  # noqa: F401


def _loaded(engine: str, model: str, threads: int) -> Callable[[Mapping[str, Any]], list[Any]]:
    if engine != LOAD:
        return load(engine, Path(model), threads).call
    from .. import load as load_artefact

    compiled = load_artefact(model, threads=threads)
    return lambda feeds: list(compiled.run(None, feeds))


def measure(engine: str, model: str, threads: int, feeds_file: str) -> dict[str, dict[str, int]]:
    """Sizes before the engine is imported, after, after loading, after one run and after ten."""
    if engine not in (OURS, LOAD, *PEERS):
        raise ValueError(f"engine {engine!r}: one of {', '.join((OURS, LOAD, *PEERS))}")
    feeds = load_feeds(feeds_file)
    sizes = {"start": now()}
    _import(engine)
    sizes["imported"] = now()
    call = _loaded(engine, model, threads)
    sizes["loaded"] = now()
    call(feeds)
    sizes["once"] = now()
    for _ in range(9):
        call(feeds)
    sizes["ten times"] = now()
    return sizes


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])))
