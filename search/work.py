"""The work of one group: loop nests, contractions and attentions with their sizes, as ``phases``
finds them in what the kernel executes and as the cost models (``models.counting``) count them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.dims import Dim
from ..ir.grids import Taps
from ..ir.variants import Form

PRODUCT = Form("product")


@dataclass(slots=True)
class LoopWork:
    """One loop nest. Per iteration of the innermost loop, unless said otherwise."""

    entries: Dim = 1
    """Times the innermost loop is entered."""
    length: Dim = 1
    """Its iterations."""
    joined: Dim = 1
    """Iterations of the loop around it that are one loop with it, since it is short: unrolled."""
    plain: float = 0.0
    """Plain operations."""
    special: float = 0.0
    """Operations of special functions, weighted as the op table does."""
    loads: float = 0.0
    """Bytes of contiguous reads."""
    stores: float = 0.0
    """Bytes of contiguous writes."""
    apart: list[tuple[float, Dim | None]] = field(default_factory=list)
    """What is read one element at a time: elements, and bytes from one to the next (None where
    nobody knows)."""
    scattered: list[tuple[float, Dim | None]] = field(default_factory=list)
    """The same of what is written."""
    neighbors: Dim = 1
    """Elements side by side that blocks of the loops read of a line before they leave it."""
    unforeseen: Dim = 0
    """Bytes of the largest operand of an epilogue of which rows are read that no stride tells."""
    outer: list[tuple[float, Dim]] = field(default_factory=list)
    """Operations outside the innermost loop: number per iteration, iterations in all."""
    scalar: bool = False
    """Whether a condition on the innermost loop keeps it from being vectorized."""
    sums: bool = False
    """Whether the innermost loop ends in a sum over the lanes of a vector."""
    down: bool = False
    """Whether the innermost loop runs down the rows of a block, since the result does."""
    turned: Dim = 0
    """Rows that lie side by side in a column of the result, where a micro-kernel turns squares of
    as many rows and columns as a vector has lanes; else 0."""


@dataclass(frozen=True, slots=True)
class ImageWork:
    """The results of a depthwise convolution whose windows lie on a grid."""

    down: Taps
    across: Taps
    images: Dim
    lines: Dim
    pixels: Dim
    """Those of a line."""
    step: Dim
    """Elements from column to column of the grid."""
    runs: bool
    """Whether a tile may go down a run of lines."""


@dataclass(frozen=True, slots=True)
class ProductWork:
    """A contraction on a micro-kernel: ``batches`` products of ``rows x depth`` by ``depth x
    columns``."""

    batches: Dim
    rows: Dim
    columns: Dim
    """Neighboring columns that share a packed panel; 1 for a depthwise window."""
    outer: Dim
    """Further columns, in panels of their own."""
    depth: Dim
    taps: Dim
    """Pieces that a row of the left operand is in memory."""
    guarded: bool = False
    """Whether some of them may lie outside of the image, and are zeros then."""
    divisions: float = 0
    """Operations by which the number of a row is taken apart to know where it is."""
    channels: Dim = 0
    """Channels of a window, which are neither rows nor columns; else 0."""
    left: LoopWork | None = None
    """Computing the left operand's rows once, where they cannot be addressed."""
    pack: LoopWork | None = None
    """Packing the right operand, where it is no constant."""
    epilogue: LoopWork | None = None
    """What follows over the result in scratch; None where the micro-kernel's store does it."""
    residuals: int = 0
    """Elements it then reads per element."""
    stride: Dim = 0
    """Elements from one row of the result to the next; 0 where they lie otherwise."""
    arrays: int = 1
    """Arrays that are read and written row by row with the result, it included."""
    form: Form = PRODUCT
    """What its variants depend on."""
    image: ImageWork | None = None
    """Of a depthwise window: where several lines may be computed at once."""
    windows: ProductWork | None = None
    """The same as windows, of a convolution of narrow groups."""
    before: ProductWork | None = None
    """The convolution by windows that computes the left operand, lines of it per tile."""


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """``batches`` attentions of ``rows`` queries to ``keys`` keys of ``depth`` elements, whose
    values have ``columns``."""

    batches: Dim
    rows: Dim
    keys: Dim
    depth: Dim
    columns: Dim
    masked: bool
    after: LoopWork | None = None
    """What follows per element of the result; None where that is only moved."""
    turned: bool = True
    """Whether it follows in vectors of queries, which are turned as they are stored; else elements
    are taken from there one at a time."""


@dataclass(frozen=True, slots=True)
class Work:
    """The phases of one group."""

    loops: tuple[LoopWork, ...] = ()
    product: ProductWork | None = None
    attention: AttentionWork | None = None
