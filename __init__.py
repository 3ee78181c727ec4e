"""EvoNNX: an ONNX compiler that emits Numba kernels.

    compiled = evonnx.compile("model.onnx")
    y = compiled(x)

``compile`` answers a ``Compiled``; ``check`` lists what a model needs and EvoNNX lacks; a
``Target`` describes a machine and a ``Schedule`` what is fused. Everything raised on purpose is an
``EvonnxError``. The names are looked up on first use, so that ``import evonnx`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compiler.api import Compiled, check, compile
    from .compiler.figures import figures
    from .compiler.gantt import Gantt
    from .compiler.profiling import Profile
    from .compiler.report import Report
    from .compiler.samples import dataset
    from .compiler.saved import load
    from .compiler.specialize import Specialized
    from .compiler.study import study
    from .ir.errors import (
        ArtefactError,
        CheckError,
        CompileError,
        EvonnxError,
        ExternalDataError,
        FeedError,
        Gap,
        LimitError,
        ModelError,
        OptionError,
        ParseError,
        ScheduleError,
        UnsupportedError,
        VerifyError,
    )  # fmt: skip
    from .ir.graph import Graph
    from .ir.schedule import Schedule
    from .ir.target import Target

__version__ = "0.1.0"

_HOMES = {
    "compiler.api": ("compile", "check", "Compiled"),
    "compiler.figures": ("figures",),
    "compiler.saved": ("load",),
    "compiler.report": ("Report",),
    "compiler.profiling": ("Profile",),
    "compiler.gantt": ("Gantt",),
    "compiler.samples": ("dataset",),
    "compiler.study": ("study",),
    "compiler.specialize": ("Specialized",),
    "ir.graph": ("Graph",),
    "ir.schedule": ("Schedule",),
    "ir.target": ("Target",),
    "ir.errors": (
        "EvonnxError", "ModelError", "ExternalDataError", "UnsupportedError", "Gap", "FeedError",
        "ParseError", "VerifyError", "ScheduleError", "LimitError", "CompileError", "CheckError",
        "OptionError", "ArtefactError",
    ),
}  # fmt: skip
"""Module -> the names it lends to the face."""

__all__ = [  # noqa: PLE0604  (all of them are strings)
    *(name for names in _HOMES.values() for name in names), "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports the module that holds ``name`` and keeps the name here."""
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What the face offers."""
    return sorted(__all__)
