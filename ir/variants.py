"""The variants of a group: how else its kernel can be written, and how it is if nobody says.

A schedule may say of a group, by name and number (``g3 = contract [7] {winograd=2, rows=6}``):

============  ======================================================================================
``winograd``  of a convolution of 3x3 pixels: the side of the squares of outputs that Winograd's
              F(m x m, 3 x 3) computes at once; 0 sums all products directly
``rows``      of a contraction: rows of a micro-tile
``columns``   columns of a packed panel, whole vectors
``depth``     products that are summed between two visits of a strip of sums, about
``block``     micro-tiles of rows in a parallel tile
``window``    of a depthwise convolution: 1 if windows inside the image are read without a table of
              addresses, else 0; of one of narrow groups or few channels: 1 if windows are moved
              along a line, 0 if it is a product (or one per group)
``over``      of a convolution that ``groups.keeps_pixels``: 1 if its result may be written over
              the image it reads; sums are added up as they are without it
``unroll``    of small windows in loops (pools): 1 if they are written out, else 0
============  ======================================================================================

What is not said, the kernel chooses by ``tiling``; so no setting at all is the first variant of
every group. ``Form`` says what a group can have: lowering, the check of a schedule and the cost
model read this one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from .axes import coefficient, name_of
from .contraction import SPLITS, ContractionSpace, least_rows
from .dims import Dim, product
from .elements import Refused, is_reduction
from .graph import Graph, Node
from .grids import FEW_CHANNELS, FEW_PRODUCTS, Fan, fan_of, find_grid
from .groups import keeps_pixels, overwritable
from .ops import lookup
from .ops.contraction import split_layout
from .separable import Lines, Needed, SeparableSpace
from .target import Target
from .tiles import Space
from .types import F32
from .winograd import SQUARES, Images, unasked, winograd_form

Variant = tuple[tuple[str, int], ...]
"""Settings of a group, as its schedule has them."""

WAYS = 8
"""Ways of a common level-1 cache, and bytes of one way."""
WAY_BYTES = 4096
CHUNK = 1024
"""Products of one chunk of a long sum, about: a chunk of a panel is 128 KB."""
CHAIN = 256
"""Products of the shortest chunk of a long sum."""
KEYS = 256
"""Keys of one block of an attention, at most."""
MOST_BLOCK = 64
"""Micro-tiles of rows in a parallel tile, at most."""
SHORT_TILE = 4
"""Rows of a micro-tile up to which its sums are added up in several chains (``micro.gemm``)."""
MOST_LINES = 64
"""Lines of pixels in a tile, at most."""
NEEDED = 1.5
"""Level-2 caches that may be filled by the lines that a tile's windows read: what overflows costs
less than computing more of them twice. Measured on Zen 4."""
LEAST_LANES = 4
"""Elements of float32 in the vectors of any machine, at least."""
CHAINS = 4
"""Vectors of sums that the multiply-adds of a core keep under way."""
BURST, STRIP_BURST = 8, 12
"""Vectors of results that leave a micro-tile while the next one's products begin: into the result
(all of what is more waits from twice as many on), and into a strip of scratch."""
CALL, PIECE, PANEL, LINES = 16, 8, 0.25, 3
"""Cycles that a call of a micro-kernel takes, and each piece that its rows lie in; that a step
waits for each vector of a panel from the level-2 cache; that each vector waits which leaves a tile
in a burst, two neighbors at most. Measured on Zen 4."""
MOST_WEIGHTS = 96
"""Vectors of weights of a row of windows, which are written out, at most."""
HALF, HALF_OF_MANY = 0.7, 0.57
"""Time of half a vector of a micro-tile, in that of a whole one: alone or beside one that is whole,
and beside more. Measured on Zen 4."""
MOST_HALVES = 9
"""Rows of three half vectors of sums each that leave room for those of a panel."""
BROADCAST, RELOAD, POINTERS = 1 / 2, 1 / 3, 9
"""Cycles of loading an element into all lanes, and of loading its address before it; rows whose
addresses stay in registers."""
PREFETCHES, AHEAD = 4, 0.2
"""Rows from which on a micro-tile prefetches the panel that comes next: with fewer, loads are what
it is made of. And the part of the time that a panel is waited for which is left then."""
TAPS = 32
"""Elements of a window that is written out, at most: 5x5, 3x3x3."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a group's variants depend on."""

    kind: str = ""
    """``product``, ``bytes``, ``depthwise``, ``separable``, ``window``; "" for a group with one
    variant only."""
    rows: Dim = 1
    """Rows of the left operand of a contraction."""
    columns: Dim = 1
    """Neighboring columns that share packed panels."""
    depth: Dim = 1
    """Products of one sum."""
    run: Dim = 1
    """Of these, how many lie in one piece."""
    crowded: bool = False
    """Whether the rows lie a multiple of a cache way apart and compete for the ways of one set."""
    images: Images | str = "it is no contraction"
    """Sizes for Winograd's convolution, or why it is none."""
    fan: Fan | None = None
    """Channels of a group of a convolution whose windows lie on a grid; None for other products."""
    grouped: bool = False
    """Whether it has several groups."""
    width: int = 1
    """Taps of a row of such a window."""
    lines: Lines | None = None
    """What the depthwise convolution of a ``separable`` group computes."""
    needed: Needed | None = None
    """What it reads, where the group computes that as well."""
    over: bool = False
    """Whether there is a kernel for it that may write over its image."""


def form_of(graph: Graph, implementation: str, constants: frozenset[int]) -> Form:
    """The form of a group that ``ir.groups.extract`` cut out; ``constants`` are its inputs known
    when the model is loaded. Raises ``Refused`` for what is not such a group."""
    if implementation == "contract":
        return contraction_form(ContractionSpace(Space(graph)), read_once(graph, constants))
    if implementation == "separable":
        return separable_form(SeparableSpace(graph), read_once(graph, constants))
    if implementation == "loops" and small_windows(graph):
        return Form("window")
    return Form()


def contraction_form(space: ContractionSpace, once: frozenset[int]) -> Form:
    """The form of a contraction; ``once`` as ``read_once`` answers."""
    rows = product(a.hi for a in space.rows)
    over = _writes_over(space)
    if space.channel is not None:
        return Form("depthwise", rows, over=over and find_grid(space) is not None)
    step = coefficient(space.a.data[1], name_of(space.rows[-1].var)) if (
        space.direct and space.rows) else None
    crowded = isinstance(step, int) and step != 0 and step * F32.itemsize % WAY_BYTES == 0
    constant = space.b.kind == "load" and space.b.data[0] in once
    fan = fan_of(space)
    grid = None if fan is None else find_grid(space)
    return Form("bytes" if space.bytes else "product", rows, space.columns[-1].hi,
                product(a.hi for a in space.body.reduced), product(a.hi for a in space.run),
                crowded, winograd_form(space, constant), None if grid is None else fan,
                bool(space.batch), 1 if grid is None else grid.across.taps.count, over=over)


def _writes_over(space: ContractionSpace) -> bool:
    """Whether a group's result of float32 may lie where its convolution reads pixels."""
    graph = space.low.graph
    if not keeps_pixels(space.anchor) or space.pixels != F32:
        return False
    nodes = [n for n in graph.nodes if n.op not in ("input", "const")]
    given = [v for _, v in graph.outputs]
    return all(v.dtype == F32 for v in given) and len(overwritable(nodes, given, True)) > len(
        overwritable(nodes, given))


def separable_form(space: SeparableSpace, once: frozenset[int]) -> Form:
    """The form of a depthwise convolution and its pointwise neighbors: that of the product behind
    it, or without columns; ``once`` as ``read_once`` answers of the whole group."""
    if space.product is None:
        return Form("separable", columns=0, lines=space.lines, needed=space.needed)
    return replace(contraction_form(space.product, once), kind="separable", crowded=False, fan=None,
                   lines=space.lines, needed=space.needed, images="it is pointwise", over=False)


def read_once(graph: Graph, constants: frozenset[int]) -> frozenset[int]:
    """Constants that a kernel may pack: one that is read besides, by the epilogue or as the other
    operand, stays as it is."""
    reads = [v for n in graph.nodes for v in n.operands]
    return frozenset(k for k in constants if reads.count(graph.inputs[k]) == 1)


def small_windows(graph: Graph) -> bool:
    """Whether all reductions of a group are small windows that can be written out."""
    nodes = [n for n in graph.nodes if is_reduction(n)]
    return bool(nodes) and all(_small(n) for n in nodes)


def _small(node: Node) -> bool:
    a = node.attrs
    taps = product(a["kernel"]) if lookup(node.op).has("window") else TAPS + 1
    if not isinstance(taps, int) or taps > TAPS:
        return False
    _, spatial, _ = split_layout(node.operands[0].shape, a["layout"])
    padded = (lo != 0 or hi != 0 for lo, hi in zip(a["pads_lo"], a["pads_hi"], strict=True))
    # A size that is not known might be 0: then there is no position to move back to.
    return all(isinstance(d, int) and d > 0 for d, p in zip(spatial, padded, strict=True) if p)


# -- what can be said ----------------------------------------------------------------------------


def micro_tile(target: Target) -> tuple[int, int, int]:
    """``(rows, vectors, lanes)`` of the full float32 micro-tile: 14x2 vectors for 32 registers of
    512 bits, 6x2 for 16 registers, 8x2 for 32 registers of 128 bits."""
    rows = 6 if target.registers < 32 else 14 if target.vector_bits >= 512 else 8
    return rows, 2, target.lanes(32)


def most_rows(target: Target, vectors: int) -> int:
    """Rows of the tallest micro-tile that is so many vectors wide: its sums, a row of the panel and
    one element of the left operand stay in registers."""
    return min(micro_tile(target)[0], (target.registers - 1 - vectors) // vectors)


def narrowest(target: Target, panel: int, columns: int) -> tuple[int, bool]:
    """``(vectors, half)`` of the narrowest micro-tile for so many columns of a panel of ``panel``
    vectors: whole vectors, and whether half a one follows. Processors whose vectors have 512 bits
    multiply half ones too, some of them in half the time."""
    lanes = target.lanes(32)
    whole, rest = divmod(min(columns, panel * lanes), lanes)
    half = 0 < rest <= lanes // 2 and target.vector_bits >= 512
    return whole + (rest > 0 and not half), half


def row_parts(rows: int, vectors: int, half: bool) -> int:
    """Equal parts of its rows that a micro-tile of one vector and a half computes one after the
    other, of halves only: processors that multiply half vectors in half the time do so if there are
    no whole ones between them. 0: there are whole ones. A part has no more rows than 32 registers
    have room for, and not too few."""
    if not half or vectors != 1:
        return 0
    return next((n for n in range(1, rows + 1) if rows % n == 0 and MOST_HALVES // 2 < rows // n
                 <= MOST_HALVES), int(rows <= MOST_HALVES))


def step_cycles(rows: int, vectors: int, half: bool) -> float:
    """Cycles of one step of a micro-tile's sums, in those of a multiply-add of one vector: its
    multiply-adds, but no less than an addition takes, or than loading one element of each row takes
    and the vectors of the panel. Half a vector takes less time than a whole one, but more than half
    of it: the units take turns unevenly."""
    width = vectors + (0.0 if not half else 0.5 if row_parts(rows, vectors, half) else
                       HALF if vectors < 2 else HALF_OF_MANY)
    loads = rows * (BROADCAST + (RELOAD if rows > POINTERS else 0.0)) + (vectors + half) / 2
    return max(rows * width, CHAINS, loads)


def sets_of_sums(target: Target, rows: int, vectors: int, half: bool) -> int:
    """Sets of accumulators of a micro-tile so many whole vectors wide and, perhaps, ``half`` a one:
    the steps of a short tile take turns between as many as its registers hold, and at its end they
    are added up."""
    width = vectors + half
    if rows > (2 if half and vectors else SHORT_TILE):
        return 1
    room = (target.registers - width - 1) // (rows * width)
    return 4 if room >= 4 else 2 if room >= 2 else 1


def values(form: Form, target: Target, given: Mapping[str, int] | None = None
           ) -> dict[str, Sequence[int]]:
    """What each setting of a group may be where the others are as ``given``."""
    over: dict[str, Sequence[int]] = {"over": (0, 1)} if form.over else {}
    if form.kind == "depthwise":
        return over if (given or {}).get("over") else {"window": (0, 1), **over}
    if form.kind == "window":
        return {"unroll": (0, 1)}
    if form.kind == "separable":
        return {"lines": range(1, MOST_LINES + 1)}
    if form.kind not in ("product", "bytes"):
        return {}
    said, (_, full, lanes) = given or {}, micro_tile(target)
    if in_windows(form, target, said):
        return {"window": (0, 1)}
    widths = [v for v in (1, 2, 3, 4) if most_rows(target, v) >= 4]
    vectors = said.get("columns", full * lanes) // lanes
    tallest = most_rows(target, vectors if vectors in widths else full)
    found: dict[str, Sequence[int]] = {
        "rows": range(1, tallest + 1), "block": range(1, MOST_BLOCK + 1)}
    if form.kind == "product":
        found["columns"] = [v * lanes for v in widths]
        side = tiling(form, target, {"winograd": said.get("winograd", -1)}).winograd
        found["winograd"] = (0, *SQUARES) if isinstance(form.images, Images) else (0,)
        if side == 0:  # the transformed sums are short
            found["depth"] = range(CHAIN, 1 << 20)
    if fits_lanes(form, target):
        found["window"] = (0, 1)
    return found if in_windows(form, target, {}) else found | over


def fits_lanes(form: Form, target: Target) -> bool:
    """Whether a convolution can be computed by windows: a group is whole vectors, or a vector holds
    whole groups, and its sums are short enough to be one chain."""
    fan, lanes = form.fan, target.lanes(32)
    if fan is None or not by_windows(form):
        return False
    if fan.after % lanes == 0:
        return True
    return form.grouped and lanes % fan.after == 0 and fan.before <= fan.after and (
        fan.before * form.width <= MOST_WEIGHTS)


def by_windows(form: Form) -> bool:
    """Whether ``fits_lanes`` may hold on some machine, of vectors of 128 bits or more."""
    return (form.fan is not None and isinstance(form.depth, int) and form.depth <= 2 * CHAIN
            and (form.grouped or form.fan.after % LEAST_LANES == 0))


def in_windows(form: Form, target: Target, given: Mapping[str, int]) -> bool:
    """Whether a convolution is computed by windows: narrow groups, and few channels that are not
    grouped, unless something is said that only products have."""
    if not fits_lanes(form, target) or "window" not in given and given:
        return False
    assert form.fan is not None and isinstance(form.depth, int)
    few = form.fan.before <= FEW_CHANNELS and form.depth <= FEW_PRODUCTS
    if isinstance(form.images, Images) and unasked(form.images):
        few = False
    narrow = form.fan.after <= 2 * target.lanes(32)
    return bool(given.get("window", narrow if form.grouped else few))


def check_variant(form: Form, target: Target, variant: Variant) -> None:
    """Raises ``Refused`` with what the group could have where it cannot have ``variant``."""
    given = dict(variant)
    allowed = values(form, target, given)
    for name, value in variant:
        if name not in allowed:
            known = ", ".join(f"{k} ({_shown(v)})" for k, v in sorted(allowed.items()))
            raise Refused(f"it has no {name} to choose" + (
                f"; what can be set is {known}" if known else ": nothing can be set"))
        if value not in allowed[name]:
            why = f", since {form.images}" if name == "winograd" and isinstance(
                form.images, str) else ""
            raise Refused(f"{name}={value} is none of its choices: {_shown(allowed[name])}{why}")


def _shown(choices: Sequence[int]) -> str:
    if isinstance(choices, range):
        return f"{choices[0]} to {choices[-1]}"
    return " or ".join(map(str, choices))


# -- what is done ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a contraction is computed."""

    winograd: int
    """Side of the squares of outputs that are computed at once; 0 for the direct sum."""
    rows: int
    """Rows of a micro-tile."""
    panel: int
    """Vectors of a panel."""
    depth: int = CHUNK
    """Products of one chunk of a long sum, about."""
    block: int | None = None
    """Micro-tiles of rows in a parallel tile; None: by the sizes of caches."""
    over: bool = False
    """Whether a tile computes all of its rows, which it reads before it writes any of them."""


def tiling(form: Form, target: Target, given: Mapping[str, int]) -> Tiling:
    """The tiling of a contraction: what is ``given``, and for the rest what wastes least."""
    _, full, lanes = micro_tile(target)
    panel = given.get("columns", full * lanes) // lanes
    side = given.get("winograd", -1)
    if side < 0:
        side = unasked(form.images) if isinstance(form.images, Images) else 0
    height = given.get("rows") or _height(form, target, panel, side)
    return Tiling(side, height, panel, given.get("depth", CHUNK), given.get("block"),
                  bool(given.get("over")))


def separable_tiling(form: Form, target: Target, given: Mapping[str, int]) -> tuple[int, Tiling]:
    """(lines of a tile, tiling of the product of its rows) of a ``separable`` group."""
    assert form.lines is not None
    lines = given.get("lines") or lines_of_tile(form, target)
    alone = tiling(replace(form, kind="product"), target, {})
    tiled = tiling(replace(form, kind="product", rows=lines * form.lines.width), target, {})
    return lines, tiled if min(alone.rows, tiled.rows) > SHORT_TILE else alone


def lines_of_tile(form: Form, target: Target) -> int:
    """Lines of a tile: at most ``SPLITS`` parts of the image, half of the level-2 cache and, with
    those that they need, ``NEEDED`` of it; of these as many as waste least of the micro-tiles, of
    equal ones the most, since the right operand is read once per tile and lines at its border are
    computed twice."""
    assert form.lines is not None
    width = max(form.lines.width, 1)
    count = max(least_rows(form.lines.count), 1)
    room = target.l2_bytes // 2 // (F32.itemsize * width * max(form.lines.channels, 1))
    if form.needed is not None:
        wide, step = form.needed.lines, form.needed.step
        held = int(target.l2_bytes * NEEDED) // (F32.itemsize * wide.width * wide.channels)
        room = min(room, (held - form.needed.reach) // step + 1) if isinstance(step, int) else 1
    most = min(max(count // SPLITS, 1), max(room, 1), MOST_LINES)
    if form.columns == 0:
        return most

    def computed(lines: int) -> int:
        height = tiling(replace(form, kind="product", rows=lines * width), target, {}).rows
        whole, rest = divmod(count, lines)
        return height * (whole * -(-lines * width // height) + -(-rest * width // height))

    return min(range(most, 0, -1), key=computed)


@lru_cache(maxsize=4096)
def _height(form: Form, target: Target, panel: int, side: int) -> int:
    """Rows of the micro-tiles that take the fewest cycles; of equal ones those that stick out the
    least, then the taller.

    Steps take what ``step_cycles`` says; calls come on top, and a panel that comes from the level-2
    cache again for each tile. Where the result does not stay in
    the level-1 cache, its lines wait for one another unless so few leave a tile at once that the
    next tile's products hide them (``BURST``)."""
    heights: Sequence[int] = range(most_rows(target, panel), 0, -1)
    if form.crowded and not side:
        heights = range(min(heights[0], WAYS), 0, -1)
    rows, depth = form.rows, form.depth
    if side and isinstance(form.images, Images):
        rows, depth = product(form.images.squares(side)), form.images.channels
    least, lanes = least_rows(rows), target.lanes(32)
    known = isinstance(rows, int) or least >= 2 * heights[0]
    if form.kind != "product" or not (least and known and isinstance(depth, int)
                                      and isinstance(form.columns, int) and form.columns):
        return best_height(heights, rows)
    whole, rest = divmod(form.columns, panel * lanes)
    last = narrowest(target, panel, rest)
    pieces = depth // form.run if isinstance(form.run, int) and form.run and not side else 1
    call = CALL + PIECE * pieces
    line = F32.itemsize * panel * lanes
    again = PANEL * panel if line * min(depth, CHUNK) > target.l1_bytes // 2 else 0.0
    far = bool(side) or F32.itemsize * least * form.columns > target.l1_bytes

    def cycles(height: int) -> tuple[float, int]:
        count = -(-least // height)
        total = 0.0
        for many, (vectors, half) in ((whole, (panel, False)), (1 if rest else 0, last)):
            width = vectors + half / 2
            waiting = again * (1.0 if height < PREFETCHES else AHEAD)
            step = step_cycles(height, vectors, half) + waiting
            full = height * width
            held = full > STRIP_BURST if side else min(max(full / BURST - 1.0, 0.0), 1.0)
            waits = LINES * height * min(width, 2.0) * held if far else 0.0
            total += many * (depth * step + call + waits)
        return count * total, count * height

    return min(heights, key=cycles)


def best_height(heights: Sequence[int], rows: Dim) -> int:
    """The one of ``heights`` that wastes the least for so many rows, or for those of one image; a
    tile of ``h`` rows costs about as much as ``h + 1``."""
    least = least_rows(rows)
    if least == 0 or not isinstance(rows, int) and least < 2 * max(heights):
        return max(heights)
    return min(heights, key=lambda h: -(-least // h) * (h + 1))
