"""Every error EvoNNX raises on purpose: one documented tree under ``EvonnxError``.

A message names what failed (node, op, dtypes, shapes), what is supported, and what to do.
Text that comes from a model is quoted with ``repr`` and cut, so it can neither forge output
nor flood it.
"""

from __future__ import annotations

from dataclasses import dataclass


class EvonnxError(Exception):
    """Base class of all errors raised on purpose by EvoNNX."""


class ModelError(EvonnxError):
    """The model is not valid: truncated, cyclic, inconsistent or contradicting its opset."""


class ExternalDataError(ModelError):
    """External tensor data points outside the model's folder, or outside its file."""


class LimitError(EvonnxError):
    """A declared size is larger than any machine could hold, or nesting is too deep."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing a model needs that EvoNNX does not support."""

    node: str
    """ONNX name of the node (or of its first output)."""
    op: str
    """``domain::OpType`` and opset version."""
    reason: str
    """What is missing, and what would be supported."""

    def __str__(self) -> str:
        return f"{self.node}: {self.op}: {self.reason}"


class UnsupportedError(EvonnxError):
    """The model is valid ONNX, but needs something EvoNNX does not support; see ``gaps``."""

    def __init__(self, message: str, gaps: tuple[Gap, ...] = ()) -> None:
        super().__init__(message)
        self.gaps = gaps


class ParseError(EvonnxError):
    """A piece of IR, schedule or target text cannot be read."""


class VerifyError(EvonnxError):
    """A graph, a nest or a program breaks an invariant; the message shows the lines around."""


class FeedError(EvonnxError):
    """Wrong names, dtypes, ranks or sizes were fed to a compiled model."""


class ScheduleError(EvonnxError):
    """A schedule is not legal for its graph; the message carries the reason."""


class CompileError(EvonnxError):
    """Code generation failed for a group; the message names its nodes."""


class ArtefactError(EvonnxError):
    """A file is no compiled program, is damaged, or was made for something else."""


class OptionError(EvonnxError, ValueError):
    """An argument of ``compile`` has a value that makes no sense."""


class CheckError(EvonnxError):
    """``check=True`` found a result that differs from the reference interpreter."""


def quote(text: object, limit: int = 80) -> str:
    """Model text, made safe for a message: ``repr``, at most ``limit`` characters."""
    shown = repr(str(text))
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"
