"""From a contraction to phases: what its kernel executes in one of its variants, at given sizes.

*Direct.* Tiles are blocks of rows times blocks of panels. Rows are prepared once per tile, so as
often as there are blocks of panels. Micro-tiles that stick out of the rows and panels that stick
out of the columns count in full. Where a panel is larger than the level-1 cache allows, it comes
from the level-2 cache for every micro-tile, which hides behind the products of all but the lowest
tiles. What does not hide are results: many vectors that leave a micro-tile at once hold up the
products behind them (``held_up``), and so do, by less, vectors side by side and a residual that is
read for them. A short tile adds up its sets of sums at the end of each call. A result that is
stored turned leaves by squares of a vector's lanes (``turn``).

*Lines.* A depthwise convolution in the same kernel computes the rows of a block, a few lines of
pixels, into scratch; then all panels follow. Another convolution may compute the lines that it
reads, those at the border of two tiles twice.

*Winograd's F(m x m, 3 x 3).* Of every square of ``m x m`` outputs, ``(m + 2)^2`` pixels are
transformed per channel into scratch, as often as there are blocks of panels; as many products of
the same micro-kernel follow, which read that scratch from the level-2 cache once per panel and
whose sums wait in a strip; then they are transformed back, with whatever follows. Additions per
transform are those of ``ir.winograd``. The weights are read as they were transformed when the model
was loaded: ``(m + 2)^2`` numbers where the graph has nine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ...ir.contraction import panels_together, rows_of_block
from ...ir.dims import Dim
from ...ir.grids import DEPTHWISE
from ...ir.lines import crowded, lines_shape
from ...ir.target import Target
from ...ir.types import F32
from ...ir.variants import (
    BURST,
    PREFETCHES,
    STRIP_BURST,
    WAYS,
    Form,
    Tiling,
    Variant,
    in_windows,
    lines_of_tile,
    micro_tile,
    narrowest,
    separable_tiling,
    sets_of_sums,
    step_cycles,
    tiling,
)
from ...ir.winograd import RUNS, Images, Transforms
from ..phases import AFFINE, GUARDED, TABLE, row_division
from ..work import ImageWork, LoopWork, ProductWork
from .base import Phase
from .loops import LINE, down, loop, one_by_one, strips

Number = Callable[[Dim], float]

NOMINAL = Target("nominal", "", "", vector_bits=512, registers=32)
"""The machine that counts where none is named."""
_PIXELS, _STRIP = 8, 2
"""Neighboring pixels of a window, and vectors of its channels, that are computed at once, about."""
_START = 2.0
"""Entries of an inner loop that such pixels of one vector cost, however many taps they have."""
_SHARED = 0.5
"""Elements such a window loads per product, about; without windows one each."""
_CALL, _PIECE, _PART = 1.2, 0.2, 3.6
"""Entries of an inner loop that a call of a micro-kernel costs, each piece that its rows lie in,
and a call that begins with what others left in a strip besides."""
_CROWDED = 1 / 120
"""Time of a product by the square of the rows that find no way of their own in a set of a cache, in
that of one whose rows do: each of them drives out lines of the others."""
_BROADCAST = 0.5
"""Loading one element into all lanes, of loading a vector."""
_AGAIN = 2.0
"""Bytes from the level-2 cache in the time by which each byte of transformed pixels delays the
products of a panel, half of which is counted."""
_FURTHER = 4.0
"""Bytes from the level-2 cache in the time by which a byte of each further result delays the loop
behind a product, half of which is counted: its lines are read before they are written."""
_UNFORESEEN = 12.0
"""Lines from the level-2 cache in the time that an epilogue waits for one of an operand that is in
neither cache and of which nobody knows in time which rows are read."""
_REWRITTEN = 4.0
"""Lines from the level-2 cache in the time by which one delays turned results that was written in
part, has left the level-1 cache and is written again, about half of which is counted."""
_FETCHED = 4.0
"""The same where one is written at first, of a result of which the level-2 cache holds nothing: it
comes from beyond it, and the lines of neighboring columns lie too far apart to be foreseen."""
_MASKED = 0.08
"""Entries of an inner loop that storing a vector costs of which a mask leaves out lanes."""
_HELD_UP = 2.5
"""Bytes from the level-2 cache in the time by which a byte of results delays what comes behind it,
half of which is counted."""
_BESIDE, _RESIDUAL = 0.9, 2.0
"""The same of results of micro-tiles of two vectors and more, however few leave at once, and of the
residual that such a tile reads behind its products. A column of single vectors is foreseen."""


@dataclass(frozen=True, slots=True)
class ProductCount:
    """What the kernel of a contraction executes."""

    phases: list[Phase]
    tiles: float
    """Parallel tiles."""
    spread: float = 0.0
    """Bytes by which the packed constant is larger than that of the graph."""


def count_product(p: ProductWork, number: Number, variant: Variant, target: Target | None
                  ) -> ProductCount:
    """The phases of a contraction in a variant on ``target`` (None: ``NOMINAL``)."""
    machine = NOMINAL if target is None else target
    given = dict(variant)
    if p.form.lines is not None:
        return _separable(p, number, machine, given)
    if p.form.kind == "depthwise":
        found = _depthwise(p, number, bool(given.get("window", 1)), machine)
        if given.get("over"):
            found.phases.append(_copied(number(p.rows), number(p.channels)))
        return found
    if p.windows is not None and in_windows(p.form, machine, given):
        return _depthwise(p.windows, number, True, machine)
    plan = tiling(p.form, machine, given)
    if plan.winograd and isinstance(p.form.images, Images):
        return _Winograd(p, p.form.images, number, plan, machine).count()
    return _Direct(p, number, plan, machine).count()


def _separable(p: ProductWork, number: Number, machine: Target, given: Mapping[str, int]
               ) -> ProductCount:
    """Lines of a depthwise convolution, those that it reads and what is behind it."""
    assert p.form.lines is not None and p.before is not None
    if p.form.columns != 0:
        lines, plan = separable_tiling(p.form, machine, given)
        return _Separable(p, number, plan, machine, lines).count()
    lines = given.get("lines") or lines_of_tile(p.form, machine)
    tiles = max(1.0, math.ceil(number(p.form.lines.count) / lines))
    return ProductCount([*_needed(p, p.form, number, machine, lines),
                         *_depthwise(p, number, True, machine).phases], tiles)


def _needed(window: ProductWork, form: Form, number: Number, machine: Target, lines: int
            ) -> list[Phase]:
    """What the windows of a tile of ``lines`` lines read, where it is computed before them; lines
    at the border of two tiles in both."""
    needed = form.needed
    if window.before is None or needed is None or form.lines is None:
        return []
    count, held = number(needed.lines.count), number(needed.most(lines))
    tiles = math.ceil(number(form.lines.count) / lines)
    often = max(1.0, min(tiles * held, count + (tiles - 1) * max(
        needed.reach - number(needed.step), 0.0)) / max(count, 1.0))
    nbytes = F32.itemsize * held * needed.lines.width * needed.lines.channels
    phases = []
    for phase in _depthwise(window.before, number, True, machine).phases:
        spilled = phase.spilled
        if nbytes > machine.l2_bytes:  # written, and read again
            spilled += 2 * phase.stores * machine.l2_rate / machine.l3_rate
        phases.append(phase._replace(spilled=spilled).times(often))
    return phases


def _depthwise(p: ProductWork, number: Number, windows: bool, machine: Target) -> ProductCount:
    """Neighboring pixels share what a row of their windows reads. In groups of whole vectors an
    element is loaded into all lanes of two. Where every channel is its own group, the taps of a
    window are written out, and a vector that is not full takes as long as a full one. Several lines
    at once take what their shape was chosen by (``ir.lines``)."""
    lanes = machine.lanes(32)
    rows, depth, taps, channels = (number(d) for d in (p.rows, p.depth, p.taps, p.channels))
    across = math.ceil(channels / lanes)
    products = rows * depth * across * lanes
    shared = _SHARED if windows else 1.0
    if p.form.fan is not None and p.form.fan.after >= lanes:
        shared = 1 / _PIXELS + _BROADCAST / (2 * p.form.width)
    table = 0.0 if windows else rows * taps * TABLE
    grouped = p.form.fan is not None and p.form.fan != DEPTHWISE
    pixels = math.ceil(rows / _PIXELS)
    starts = pixels * (taps if grouped or not windows else _START * across)
    results = 4 * rows * channels
    vectors = min(channels / lanes, _STRIP)
    held = 0.0 if p.epilogue is not None else held_up(
        results, results, _PIXELS * vectors, vectors, machine)
    cycles = _several_lines(p.image, number, machine) if windows and p.image is not None else 0.0
    if cycles:
        held, starts, products = 0.0, 0.0, cycles * across * lanes
    found = [Phase(fma=2 * products, loads=4 * shared * products, stores=results,
                   entries=starts, outer=table, spilled=held)]
    lines = rows * channels / (1 << 14)
    if p.epilogue is not None:
        after = loop(p.epilogue, number)
        if p.epilogue.turned:
            after = _turned_lines(p.epilogue, rows, channels, number, machine)
        elif p.epilogue.scattered:
            after = one_by_one(after)
        found.append(after)
    return ProductCount(found, max(1.0, math.ceil(lines)))


def _turned_lines(w: LoopWork, rows: float, channels: float, number: Number, machine: Target
                  ) -> Phase:
    """Storing lines of pixels turned, one after another."""
    lanes, pixels = machine.lanes(32), number(w.turned)
    lines = rows / max(pixels, 1.0)
    squares = lines * math.ceil(pixels / lanes) * math.ceil(channels / lanes)
    return turn(w, squares, channels, (rows, pixels), 0.0, F32.itemsize * rows * channels, machine)


def _several_lines(image: ImageWork, number: Number, machine: Target) -> float:
    """Multiply-adds that a vector of channels of all images takes as long as, where several lines
    are computed at once; else 0."""
    images, lines, pixels, step = (
        int(number(d)) for d in (image.images, image.lines, image.pixels, image.step))
    if min(images, lines, pixels) < 1 or crowded(F32.itemsize * step):
        return 0.0
    shape = lines_shape(
        machine, image.down, image.across, lines, pixels, images * lines, image.runs)
    return images * shape.cycles if shape.lines > 1 else 0.0


def _copied(pixels: float, channels: float) -> Phase:
    """Pixels that pass through scratch, where a result lies over its image."""
    nbytes = F32.itemsize * pixels * channels
    return Phase(loads=nbytes, stores=nbytes, entries=pixels, length=channels)


def turn(w: LoopWork, squares: float, columns: float, rows: tuple[float, float], beside: float,
         results: float, machine: Target) -> Phase:
    """Storing ``squares`` of a result turned, of which one in part takes as long as a whole one;
    ``rows``: those of a column, and those that are stored at a time. A line of memory in which two
    such pieces of a column meet is written twice: it comes back if a piece of all ``columns``, and
    the ``beside`` bytes that are used with it, drive it out of the level-1 cache. What the level-2
    cache cannot hold of all ``results`` bytes comes from beyond it, line by line."""
    elements = squares * machine.lanes(32)**2
    line = LINE // F32.itemsize
    count, each = rows
    inside = 1.0 - math.gcd(int(each), int(count), line) / line
    again = (count / each - 1.0) * inside * columns if each else 0.0
    if 2 * (LINE * columns + beside) < machine.l1_bytes:
        again = 0.0
    lines = count / each * max(each / line, 1.0) * columns if each else 0.0
    far = min(max(results / machine.l2_bytes - 1.0, 0.0), 1.0)
    return Phase(plain=w.plain * elements, loads=w.loads * elements, stores=w.stores * elements,
                 entries=squares, spilled=LINE * (_REWRITTEN * again + _FETCHED * lines * far))


def held_up(sums: float, results: float, tile: float, vectors: float, machine: Target) -> float:
    """Bytes of the level-2 cache in the time that ``sums`` bytes hold up the products behind them:
    nothing while few of the vectors of a ``tile`` leave at once, or while the level-1 cache holds
    all ``results`` bytes; of ``vectors`` side by side, lines come together."""
    part = min(max(tile / BURST - 1.0, 0.0), 1.0)
    missed = min(max(2 * results / machine.l1_bytes - 1.0, 0.0), 1.0)
    return _HELD_UP * sums * part * missed * min(2.0 / vectors, 1.0)


class _Sizes:
    """The tiles of a contraction with so many rows and so long sums."""

    def __init__(self, p: ProductWork, number: Number, plan: Tiling, machine: Target) -> None:
        self.p, self.number, self.plan, self.machine = p, number, plan, machine
        self.batches, self.columns, self.outer, self.depth, self.taps = (
            number(d) for d in (p.batches, p.columns, p.outer, p.depth, p.taps))
        self.lanes = micro_tile(machine)[2]
        self.width = plan.panel * self.lanes
        """Columns of a panel."""
        count = math.ceil(self.columns / self.width)
        self.panels = self.outer * count
        self.padded = float(self.width)
        self.busy = self.lanes * step_cycles(plan.rows, plan.panel, False) / plan.rows
        """Those that are computed, on average: the last panel has a narrower micro-tile; and those
        that take as long as its steps do."""
        self.sets = sets_of_sums(machine, plan.rows, plan.panel, False)
        """Sets of accumulators of a micro-tile."""
        self.masked = 0.0
        """Vectors of a row of the result that are stored under a mask."""
        if isinstance(p.form.columns, int) and count:
            last = int(self.columns) - (count - 1) * self.width
            own = count == 1 or self.outer == 1  # a micro-tile of its own
            vectors, half = narrowest(machine, plan.panel, last if own else int(self.width))
            narrow = self.lanes * (vectors + half / 2)
            self.masked = self.outer * (vectors + half) if last < narrow else 0.0
            waits = self.lanes * step_cycles(plan.rows, vectors, half) / plan.rows
            self.padded = ((count - 1) * self.width + narrow) / count
            self.busy = ((count - 1) * self.busy + waits) / count
        self.crowded = p.form.crowded and not plan.winograd

    def cut(self, rows: float, most: float) -> None:
        """Blocks of rows and panels as lowering cuts them; ``most`` rows of a block."""
        height = self.plan.rows
        self.rows = rows
        self.micro_rows = math.ceil(rows / height)
        block = None
        if self.plan.block is None and not self.plan.winograd:
            beside = 0.0 if self.plan.over else self.batches * self.panels
            block = rows_of_block(self.p.rows, int(most), height, beside)
        if block is None:
            blocks = max(1, math.ceil(rows / max(most, 1.0)))
            block = max(1, math.ceil(rows / (blocks * height))) * height
        self.block = block
        self.row_blocks = math.ceil(rows / self.block)
        tiles = max(self.batches * self.row_blocks, 1.0)
        self.panel_block: float = self.panels if self.plan.over else panels_together(
            self.panels, tiles, bool(self.plan.winograd) or self.p.left is not None)

    @property
    def panel_blocks(self) -> int:
        return math.ceil(self.panels / self.panel_block)

    @property
    def tiles(self) -> float:
        return max(1.0, self.batches * self.row_blocks * self.panel_blocks)

    def product(self, depth: float, chunk: float, times: float, pieces: float = 1.0,
                call: float = _CALL) -> Phase:
        """``times`` products of all rows with all panels over ``depth``, in calls of ``chunk``,
        each of which costs ``call``; a row lies in so many ``pieces``."""
        h = self.plan.rows
        calls = times * self.batches * self.micro_rows * self.panels
        steps = calls * depth
        streamed = 0.0
        if h < PREFETCHES:  # rows pass by
            held = 4 * (self.padded + h) * chunk
            far = min(max(2 * held / self.machine.l1_bytes - 1.0, 0.0), 1.0)
            streamed = 4.0 * steps * (h + self.padded * far)  # and the panel may not stay
        visits = math.ceil(depth / chunk) if chunk > 0 else 1.0
        crowded = 1.0 + _CROWDED * max(h - WAYS, 0) ** 2 * self.crowded
        turns = (self.sets - 1.0) * visits * self.padded  # sets of sums that are added up
        slower = self.machine.load_rate / self.machine.l2_rate  # prefetched: they only take turns
        return Phase(fma=2 * h * (steps * self.busy * crowded + calls * turns),
                     loads=4 * steps * (_BROADCAST * h * self.lanes + self.padded)
                     + streamed * slower,
                     entries=calls * (call * visits + _PIECE * pieces))

    def waits(self, sums: float, results: float) -> float:
        """``held_up`` of this product's micro-tiles."""
        vectors = self.padded / self.lanes
        return held_up(sums, results, self.plan.rows * vectors, vectors, self.machine)

    def beside(self, results: float) -> float:
        """What else holds up ``results`` bytes side by side, and their residual."""
        alone = self.padded <= self.lanes
        return 0.0 if alone else (_BESIDE + _RESIDUAL * self.p.residuals) * results

    def after(self, w: LoopWork) -> Iterable[Phase]:
        """What follows over the strips of all panels of all blocks."""
        if w.turned:
            return [self.turn(w)]
        return down(w, self.number, self.block) if w.down else strips(w, self.number, self.width)

    def turn(self, w: LoopWork) -> Phase:
        """Storing the strips of all panels of all blocks turned."""
        whole, rest = divmod(self.rows, self.block)
        high = whole * math.ceil(self.block / self.lanes) + math.ceil(rest / self.lanes)
        panels, left = divmod(self.columns, self.width)
        across = panels * self.plan.panel + math.ceil(left / self.lanes)
        pieces = self.block if self.row_blocks > 1 else self.rows
        beside = F32.itemsize * self.depth * (self.block + self.width)
        columns = self.outer * self.columns
        results = F32.itemsize * self.batches * self.rows * columns
        return turn(w, self.outer * across * high, columns, (self.rows, pieces), beside, results,
                    self.machine).times(self.batches)

    def seams(self) -> float:
        """Bytes of lines in which one panel of a row ends and the next begins, where they have left
        the level-1 cache in between."""
        p, stride = self.p, self.number(self.p.stride)
        row = F32.itemsize * stride
        together = row * min(self.block, self.rows) * p.arrays
        whole = F32.itemsize * self.columns % LINE == 0
        if whole or stride < self.columns or 2 * together < self.machine.l1_bytes:
            return 0.0
        beside = min(max(stride // (self.columns * self.outer), 1.0), self.batches)
        cuts = beside * (1.0 if row % LINE == 0 else self.panels) - 1.0
        return LINE * p.arrays * self.rows * self.batches / beside * max(cuts, 0.0)


class _Direct(_Sizes):
    """All products summed directly."""

    def count(self) -> ProductCount:
        p, number = self.p, self.number
        rows, height = number(p.rows), self.plan.rows
        chunk, chunks = self.depth, 1
        run = number(p.form.run)
        if rows > height or not isinstance(p.rows, int):
            length = self.plan.depth
            if self.taps <= 1:
                chunks = max(1, math.ceil(run / length))
            else:
                chunks = math.ceil(self.taps / max(1, length // max(run, 1)))
            chunk = math.ceil(self.depth / chunks)
        self.cut(rows, (self.plan.block or self._left(chunk)) * height)
        if chunks > 1 and p.before is None and not self.plan.over:
            room = self.machine.l2_bytes // 4 // (4 * self.width)
            self.panel_block = min(self.panel_block, max(1, room // self.block))
        found = list(strips(p.pack, number, self.width)) if p.pack is not None else []
        if p.left is not None:
            left_rows = loop(p.left, number, self.panel_blocks)
            far = 4 * self.depth * min(self.block, rows) > self.machine.l1_bytes / 2
            spilled = 2 * left_rows.stores if far else 0.0  # written, and read by the product
            found.append(left_rows._replace(spilled=spilled))
        elif self.plan.over:
            found.append(_copied(rows, self.depth))
        entries = self.batches * rows * self.panel_blocks
        apart = self.taps > 1 or p.divisions
        entry = GUARDED if p.guarded else TABLE if apart else AFFINE
        found.append(Phase(outer=entries * (entry * self.taps + p.divisions)))
        product = self.product(self.depth, chunk, 1.0, self.taps)
        sums = 4 * self.batches * rows * self.panels * self.padded
        waiting = 2 * (chunks - 1) * sums
        again = (self.batches * self.row_blocks - 1) * 4 * self.depth * self.panels * self.width
        far_again = 4 * self.depth * self.panels * self.width > self.machine.l2_bytes / 2
        spilled = product.spilled + waiting
        if far_again:
            spilled += again * max(self.machine.l2_rate / self.machine.l3_rate - 1.0, 0.0)
        moved = 4 * self.batches * rows * self.columns * self.outer
        if p.epilogue is None:  # what comes out of the registers is the result
            spilled += self.waits(moved, moved) + self.beside(moved) + self.seams()
            masked = _MASKED * self.batches * rows * self.masked
            found.append(product._replace(stores=moved + waiting / 2, spilled=spilled,
                                 entries=product.entries + masked,
                                 loads=product.loads + p.residuals * moved))
        else:
            further = max(p.epilogue.stores / F32.itemsize - 1.0, 0.0) * moved
            spilled += self.waits(sums, moved) + self.beside(sums) + self.seams()
            spilled += _FURTHER * further
            found.append(product._replace(stores=sums + waiting / 2, spilled=spilled))
            found += self.after(p.epilogue)
            gathered = number(p.epilogue.unforeseen)
            if gathered > self.machine.l2_bytes:
                found.append(Phase(far=_UNFORESEEN * gathered / LINE))
        return ProductCount(found, self.tiles)


    def _left(self, chunk: float) -> float:
        """Micro-tiles of rows whose chunk takes about 3/8 of the level-2 cache."""
        left = self.machine.l2_bytes * 3 // 32 // max(chunk, 1)
        return min(max(left // self.plan.rows, 1), 16)


class _Separable(_Direct):
    """Rows that a depthwise convolution computes, a few lines per tile."""

    def __init__(self, p: ProductWork, number: Number, plan: Tiling, machine: Target, lines: int
                 ) -> None:
        super().__init__(p, number, plan, machine)
        assert p.form.lines is not None
        self.lines, self.tile_rows = lines, lines * p.form.lines.width

    def count(self) -> ProductCount:
        assert self.p.before is not None
        found = _needed(self.p.before, self.p.form, self.number, self.machine, self.lines)
        found += _depthwise(self.p.before, self.number, True, self.machine).phases
        count = super().count()
        if 4 * self.depth * self.block > self.machine.l2_bytes / 2:  # written, and read again
            slower = self.machine.l2_rate / self.machine.l3_rate
            again = 8 * self.depth * self.rows * slower
            found[-1] = found[-1]._replace(spilled=found[-1].spilled + again)
        return ProductCount(found + count.phases, count.tiles)

    def cut(self, rows: float, most: float) -> None:
        height = self.plan.rows
        self.rows, self.block = rows, max(1, min(self.tile_rows, int(rows)))
        self.row_blocks = math.ceil(rows / self.block)
        whole, rest = divmod(rows, self.block)
        self.micro_rows = int(whole) * math.ceil(self.block / height) + math.ceil(rest / height)
        self.panel_block = math.ceil(self.panels)


class _Winograd(_Sizes):
    """Squares of outputs at once."""

    def __init__(self, p: ProductWork, images: Images, number: Number, plan: Tiling,
                 machine: Target) -> None:
        super().__init__(p, number, plan, machine)
        self.images = images
        self.squares = math.prod(number(d) for d in images.squares(plan.winograd))

    def count(self) -> ProductCount:
        side, channels, height = self.plan.winograd, float(self.images.channels), self.plan.rows
        transforms, run = Transforms(side), RUNS[side]
        points, outputs = transforms.size**2, side * side
        room = self.machine.l2_bytes // 4 // (points * 4 * channels)
        most = self.plan.block or min(max(room // height, 1), 8)
        self.cut(self.squares, most * height)
        entered = self.squares * self.panel_blocks
        pixels = entered * channels
        apart = 2 * row_division(self.images.height)
        border = float(points)  # outside the image a zero is chosen instead
        found = [Phase(plain=(transforms.there + border) * pixels, loads=4 * points * pixels,
                       stores=4 * points * pixels, spilled=8 * points * pixels,
                       entries=entered, length=channels, outer=entered * (apart + 4 * side))]
        product = self.product(channels, min(channels, run), points, call=_CALL + _PART)
        sums = 4 * points * self.squares * self.panels * self.padded
        visits = math.ceil(channels / run)
        results = self.squares * self.columns
        burst = self.plan.rows * self.padded > STRIP_BURST * self.lanes
        held = held_up(sums * visits, 4 * outputs * results, 2.0 * BURST * burst, 2.0,
                       self.machine)
        again = _AGAIN * 4 * points * self.squares * channels * self.panels
        found.append(product._replace(stores=sums * visits, spilled=held + again,
                             loads=product.loads + sums * (visits - 1)))
        after, loads, special = 0.0, 0.0, 0.0
        if self.p.epilogue is not None:
            after = self.p.epilogue.plain
            loads = self.p.epilogue.loads - (0 if self.p.epilogue.down else 4)
            special = self.p.epilogue.special
        else:
            after, loads = 3.0, 4.0 * self.p.residuals
        found.append(Phase(
            plain=(transforms.back + outputs * after) * results,
            special=outputs * special * results,
            loads=(4 * points + outputs * (4 + loads)) * results, stores=8 * outputs * results,
            spilled=4 * points * results, entries=self.squares * self.panels,
            length=min(self.width, self.columns), outer=self.squares * self.panels * apart))
        weights = points * channels * self.panels * self.padded
        given = self.depth * self.columns * self.outer
        spread = F32.itemsize * max(weights - given, 0.0)
        return ProductCount(found, self.tiles, spread)
