"""ONNX importer: a model file becomes a ``Graph``.

``import_model`` reads a model, checks it, and lowers every node by the function registered for
its operator (``registry.lowering``); what has none is expanded by its ONNX function body.
``missing`` lists everything a model needs that is not supported. Adding an operator is one
function in the ``ops_*`` file of its subject.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.errors import Gap, UnsupportedError
from ...ir.graph import Graph
from ..needs import DependsOnFeeds
from .context import Ctx, Region
from .graphs import Importer
from .model import Model, read
from .registry import lowering
from .sharing import share
from .types import SizeNames

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name.startswith("ops_")):
    importlib.import_module(f"{__name__}.{_module}")


def import_model(
    model: Model,
    *,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    sizes: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | None = None,
    stamps: list[tuple[Any, ...]] | None = None,
) -> Graph:
    """Imports an ONNX model: a path, the bytes of a file, or a ``ModelProto``.

    ``shapes`` replaces the declared shape of inputs (sizes, names of symbolic sizes, or None for
    a symbolic size of its own);
    ``sizes`` fixes named sizes of the model, ``{"batch": 1}``; ``constants`` gives inputs a fixed
    value (an array), so that axes or shapes that a model takes as inputs are known. External data
    is found beside a path only; ``stamps`` receives what its files are recognized by
    (``request.stamp``). Inputs that have an initializer are constants.

    Raises ``ModelError`` for a broken model, ``ExternalDataError`` for data files outside the
    model's folder, ``LimitError`` for declared sizes or nesting beyond any machine, and
    ``UnsupportedError``, whose ``gaps`` lists everything that is missing; ``DependsOnFeeds`` is
    one without gaps, whose ``needs`` lists what must be given in ``constants`` and ``shapes``."""
    source = read(model)
    given = {*(shapes or {}), *(constants or {})}

    def attempt(names: SizeNames) -> Graph:
        return Importer(source, names, shapes, constants).run()

    try:
        names = SizeNames(sizes, share(source.proto.graph, given, attempt))
        graph = attempt(names)
        names.check_used()
        if stamps is not None:
            stamps.extend(source.files.stamps())
        return graph
    except UnsupportedError as error:
        if not error.gaps and not isinstance(error, DependsOnFeeds):
            raise
        everything = Importer(source, SizeNames(sizes), shapes, constants, collect=True)
        gaps = _gaps(everything) or error.gaps
        if not gaps:
            needs = everything.needs or getattr(error, "needs", [])
            raise DependsOnFeeds(needs, *everything.signature()) from None
        shown = "\n".join(f"  {g}" for g in gaps[:20])
        more = f"\n  (and {len(gaps) - 20} more)" if len(gaps) > 20 else ""
        raise UnsupportedError(f"the model needs what is not supported:\n{shown}{more}",
                               gaps) from None  # fmt: skip


def missing(
    model: Model,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    sizes: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> tuple[Gap, ...]:
    """Everything the model needs that is not supported, at once; empty if it imports.

    A node behind an unsupported one is judged by its operator alone, since its operands are
    unknown. Raises like ``import_model`` for a broken model."""
    return _gaps(Importer(read(model), SizeNames(sizes), shapes, constants, collect=True))


def _gaps(importer: Importer) -> tuple[Gap, ...]:
    try:
        importer.run()
    except UnsupportedError as error:
        found = error.gaps or (Gap("(model)", "", str(error)),)
        return (*(importer.gaps or ()), *found)
    return tuple(importer.gaps or ())


__all__ = ["Ctx", "Gap", "Model", "Region", "import_model", "lowering", "missing"]
