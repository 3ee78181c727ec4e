"""Variants of groups: what cost models count for them, and which of them the search takes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from evonnx.compiler.build import build_program
from evonnx.compiler.explain import explain_node
from evonnx.compiler.options import check_schedule
from evonnx.ir.builder import Builder
from evonnx.ir.dim_values import evaluate
from evonnx.ir.graph import Graph
from evonnx.ir.schedule import Group, Schedule, parse_schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.ir.variants import check_variant, step_cycles, tiling
from evonnx.runtime.program import KernelStep
from evonnx.search import variants
from evonnx.search.choose import choose
from evonnx.search.cost import GroupCost, group_cost, schedule_cost
from evonnx.search.greedy import Fuser, greedy
from evonnx.search.models import Context, GroupFacts, facts, model
from evonnx.search.settings import Search
from evonnx.search.space import Survey

WIDE = Target("wide", "x86_64-unknown-linux-gnu", "x86-64-v4", vector_bits=512, registers=32)


def _no_region(body: Graph) -> Any:
    raise AssertionError("no control flow here")


def layer(rows: int, columns: int = 64, depth: int = 32) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (rows, depth)))
    return b.build({"y": b.op("dot", x, b.const(np.ones((depth, columns), np.float32)), ta=False,
                              tb=False)})


def _image(height: int, width: int, channels: int, columns: int) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, height, width, channels)))
    w = b.const(np.ones((3, 3, channels, columns), np.float32))
    y = b.op("conv", x, w, strides=(1, 1), dilations=(1, 1), pads_lo=(1, 1), pads_hi=(1, 1),
             groups=1, layout="last")
    return b.build({"y": b.op("relu", y)})


def _in(graph: Graph, target: Target = WIDE, **settings: int) -> GroupFacts:
    nodes = [n for n in graph.nodes if n.op not in ("input", "const")]
    cost = dataclasses.replace(group_cost(graph, "contract", nodes), variant=tuple(
        settings.items()))
    return facts(cost, {}, target)


def test_unasked_costs_what_the_same_settings_cost() -> None:
    graph = _image(20, 20, 64, 64)
    assert _in(graph) == _in(graph, winograd=4, rows=5, columns=32)


def test_winograd_multiplies_less_and_moves_more() -> None:
    graph = _image(28, 28, 64, 64)
    direct, fast = _in(graph, winograd=0), _in(graph, winograd=2, rows=7)
    products, others = (sum(p.fma for p in g.phases) for g in (direct, fast))
    assert products == 2 * 28 * 28 * 9 * 64 * 64
    assert others == pytest.approx(products * 16 / 36)
    assert sum(p.stores for p in fast.phases) > 4 * sum(p.stores for p in direct.phases)


@pytest.mark.parametrize("height,width", [(8, 64), (4, 40), (56, 56)])
def test_each_side_of_squares_has_blocks_of_its_own(height: int, width: int) -> None:
    """Nothing is cheaper than what is found: of each side the best width, in blocks of any size,
    though the best side is another one before blocks are cut."""
    graph = _image(height, width, 16, 32)
    nodes = [n for n in graph.nodes if n.op not in ("input", "const")]
    cost, context, bounds = group_cost(graph, "contract", nodes), Context(WIDE, 2), model()

    def price(*variant: tuple[str, int]) -> float:
        priced = facts(dataclasses.replace(cost, variant=variant), {}, WIDE)
        return float(bounds.costs([priced], context)[0])

    best, = variants.better([cost], {}, bounds, context)
    found = price() * variants.GAIN if best is None else price(*best.variant)
    for side in (2, 3, 4):
        widths = [(("winograd", side), ("columns", columns)) for columns in (16, 32, 48, 64)]
        wide = min(widths, key=lambda v: price(*v))
        assert found <= min(price(*wide, ("block", n)) for n in variants.BLOCKS)


@pytest.mark.parametrize("rows,height,computed", [(7, 6, 12), (7, 7, 7), (49, 14, 56), (1, 14, 14)])
def test_micro_tiles_count_in_full(rows: int, height: int, computed: int) -> None:
    graph = layer(rows)
    dot = next(n for n in graph.nodes if n.op == "dot")
    cost = dataclasses.replace(group_cost(graph, "contract", [dot]), variant=(("rows", height),))
    assert max(p.fma for p in facts(cost, {}, WIDE).phases) == 2 * computed * 32 * 64


@pytest.mark.parametrize("columns,width,computed", [
    (48, 32, 48), (48, 48, 48), (36, 32, 32 + 16 * 0.7), (24, 32, 16 * 1.5), (16, 64, 16),
    (70, 64, 64 + 16 * 4 / 5), (31, 32, 32)])
def test_panels_count_what_is_computed(columns: int, width: int, computed: float) -> None:
    """Half a vector takes 0.7 of a whole one where it is alone. 70 columns: five rows of it are
    fewer sums than additions are under way."""
    graph = layer(14, columns)
    dot = next(n for n in graph.nodes if n.op == "dot")
    cost = dataclasses.replace(group_cost(graph, "contract", [dot]), variant=(("columns", width),))
    products = max(p.fma for p in facts(cost, {}, WIDE).phases)
    height = 14 if width <= 32 else 7 if width == 48 else 5  # five rows three times are 15
    assert products == pytest.approx(2 * height * math.ceil(14 / height) * 32 * computed)


@pytest.mark.parametrize("settings", [{}, {"columns": 48}, {"block": 2}, {"rows": 5, "columns": 16},
                                      {"winograd": 0}, {"winograd": 2, "block": 1}])
@pytest.mark.parametrize("sizes", [(9, 14, 24, 40), (40, 33, 16, 100)])
def test_parallel_tiles_are_those_of_the_kernel(sizes: tuple[int, int, int, int],
                                                settings: dict[str, int]) -> None:
    graph = _image(*sizes)
    nodes = tuple(k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const"))
    schedule = Schedule(graph.digest, (Group(nodes, "contract", tuple(settings.items())),))
    program = build_program(graph, schedule, WIDE, _no_region)
    steps = [s for s in program.steps if isinstance(s, KernelStep)]
    cost, = schedule_cost(graph, schedule)
    assert [evaluate(s.tiles, {}) for s in steps] == [facts(cost, {}, WIDE).tiles]


def test_a_lone_half_vector_has_no_more_rows_than_addresses_in_registers() -> None:
    """Eight columns: from ten rows on, each element's address is loaded first."""
    alone = [_in(layer(90, 8), rows=rows) for rows in (9, 10)]
    first, second = (max(p.fma for p in g.phases) for g in alone)
    assert first == pytest.approx(2 * 90 * 32 * 16 * 0.7)
    assert second == pytest.approx(2 * 90 * 32 * 16 * (1 / 2 + 1 / 3 + 1 / 20))
    assert _in(layer(90, 8)) == _in(layer(90, 8), rows=9)


@pytest.mark.parametrize("columns,block,cuts", [(78, 8, 2), (78, 1, 0), (80, 8, 0), (30, 8, 0)])
def test_panels_share_lines_where_rows_are_no_whole_lines(columns: int, block: int, cuts: int
                                                          ) -> None:
    """In blocks that leave the level-1 cache, the line in which one panel of a row ends comes again
    for the next panel. 80 columns are whole lines, 30 are one panel."""
    product = _in(layer(784, columns), rows=4, block=3 * block).phases[-1]
    beside = 0.9 * 4 * 784 * columns  # tiles of eight vectors hold nothing else up
    assert product.spilled == pytest.approx(64 * 784 * cuts + beside)


@pytest.mark.parametrize("rows,height,block,squares,meetings", [
    (640, 8, 8, 40, 0),  # blocks of 64 rows
    (640, 4, 1, 160, 159 * 3 / 4),
    (640, 8, 1, 80, 79 / 2),
    (640, 6, 2, 54, 53 * 3 / 4),  # of 12, of 4 at the end
    (196, 8, 8, 14, 2.5 * 3 / 4),  # of 56, of 28 at the end
])
def test_turned_results_count_whole_squares_and_lines_written_twice(
        rows: int, height: int, block: int, squares: int, meetings: float) -> None:
    """Per 16 columns so many squares; of the rows where blocks meet most are not where a line
    begins."""
    phase = _in(_turned(rows, 256), rows=height, block=block).phases[-1]
    assert phase.entries == 16 * squares
    assert phase.plain == 4 * 256 * phase.entries
    assert phase.spilled == pytest.approx(4 * 64 * 256 * meetings, rel=0.02)


def test_few_turned_columns_stay_in_the_nearest_cache() -> None:
    assert _in(_turned(640, 16), rows=4, block=1).phases[-1].spilled == 0


@pytest.mark.parametrize("rows,block,lines", [
    (1024, 8, 0),  # 1 MB: the level-2 cache holds it
    (1536, 8, 256 * 96 / 2),
    (2048, 8, 256 * 128),
    (4096, 8, 256 * 256),  # 4 MB: all of it comes from beyond
    (4096, 2, 256 * 256),  # whole lines of 16 rows
    (4096, 1, 256 * (512 + 511 / 2)),  # half lines, of which every other one is written again
])
def test_turned_results_that_leave_the_level_2_cache_wait_for_their_lines(
        rows: int, block: int, lines: float) -> None:
    phase = _in(_turned(rows, 256), rows=8, block=block).phases[-1]
    assert phase.spilled == pytest.approx(4 * 64 * lines)


def test_turned_windows_count_squares_per_line() -> None:
    """Of 20 pixels a line is two squares high, of 32 too."""
    found = []
    for width in (20, 32):
        b = Builder()
        x = b.input("x", TensorType(F32, (1, 8, width, 32)))
        w = b.const(np.ones((3, 3, 1, 32), np.float32))
        y = b.op("conv", x, w, strides=(1, 1), dilations=(1, 1), pads_lo=(1, 1), pads_hi=(1, 1),
                 groups=32, layout="last")
        found.append(_in(b.build({"y": b.op("transpose", y, perm=(0, 3, 1, 2))})).phases[-1])
    assert found[0].entries == found[1].entries == 8 * 2 * 2


def test_what_follows_runs_down_rows_that_lie_side_by_side() -> None:
    """Where a result is turned and more is done than a micro-kernel can, an element at a time."""
    found = {}
    for perm in ((0, 1), (1, 0)):
        b = Builder()
        x = b.input("x", TensorType(F32, (200, 32)))
        y = b.op("dot", x, b.const(np.ones((32, 64), np.float32)), ta=False, tb=False)
        graph = b.build({"y": b.op("transpose", b.op("sigmoid", y), perm=perm)})
        found[perm] = _in(graph, rows=8, block=8).phases[2:]
    assert [(p.entries, p.length, p.scalar) for p in found[1, 0]] == [(192, 56, 1), (64, 32, 1)]
    assert all(p.apart and not p.far for p in found[1, 0])
    assert [(p.length, p.scalar) for p in found[0, 1]] == [(32, 0)]
    both = [sum(p.special for p in phases) for phases in found.values()]
    assert both[0] == 2 * both[1] > 0
    wide, single = (sum(float(p.stores) for p in phases) for phases in found.values())
    assert wide == single == 4 * 200 * 64


def _turned(rows: int, columns: int) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (rows, 32)))
    y = b.op("dot", x, b.const(np.ones((32, columns), np.float32)), ta=False, tb=False)
    return b.build({"y": b.op("transpose", y, perm=(1, 0))})


def test_single_vectors_and_their_residuals_are_foreseen() -> None:
    """Side by side they wait, and a residual waits longer."""
    waiting = {(columns, residual): _in(_sum(columns, residual), rows=4).phases[-1].spilled
               for columns in (16, 32) for residual in (False, True)}
    assert waiting[16, False] == waiting[16, True] == 0
    assert waiting[32, False] == pytest.approx(0.9 * 4 * 784 * 32)
    assert waiting[32, True] == pytest.approx(2.9 * 4 * 784 * 32)


def _sum(columns: int, residual: bool) -> Graph:
    """``x[784, 32] @ w``, perhaps plus another operand."""
    b = Builder()
    x = b.input("x", TensorType(F32, (784, 32)))
    y = b.op("dot", x, b.const(np.ones((32, columns), np.float32)), ta=False, tb=False)
    if residual:
        y = b.op("add", y, b.input("r", TensorType(F32, (784, columns))))
    return b.build({"y": y})


def test_short_tiles_add_up_their_sets_of_sums() -> None:
    """Tiles of two vectors take turns between two sets up to four rows, of one vector up to four
    sets; where they are that few, adding them up counts as one more product of a set."""
    graph = layer(840, 32)
    for rows, sets in ((2, 4), (4, 2), (5, 1)):
        fma = _in(graph, rows=rows).phases[-1].fma
        assert fma == pytest.approx(2 * 840 * 32 * (32 * max(1, 4 / rows / 2) + sets - 1))


def test_rows_that_find_no_way_of_a_cache_drive_out_others() -> None:
    """By the square of how many they are: rows that lie a multiple of 4096 bytes apart."""
    graph = layer(840, 32, 1024)
    eight, *more = (_in(graph, rows=h).phases[-1].fma / -(-840 // h) / h for h in (8, 10, 12, 14))
    for height, fma in zip((10, 12, 14), more, strict=True):
        loads = step_cycles(height, 2, False) / height / 2
        assert fma / eight == pytest.approx((1 + (height - 8) ** 2 / 120) * loads)


def test_vectors_stored_in_part_wait() -> None:
    entries = [max(p.entries for p in _in(layer(140, n), rows=14).phases) for n in (32, 28, 24)]
    assert entries[0] == entries[2] == pytest.approx(1.4 * 10)
    assert entries[1] == pytest.approx(1.4 * 10 + 0.08 * 140 * 2)


@pytest.mark.parametrize("columns,held", [(16, 0.0), (32, 2.5), (64, 2.5)])
def test_windows_of_two_vectors_wait_for_their_results(columns: int, held: float) -> None:
    """Eight pixels of two vectors leave at once, of one vector half as many."""
    product, = _in(_image(40, 40, 8, columns), window=1).phases
    assert product.spilled == pytest.approx(held * 4 * 40 * 40 * columns)
    assert product.entries == 40 * 40 / 8 * 9


# what the search takes --------------------------------------------------------------------------

FAST = dataclasses.replace(WIDE, cores=2, launch_s=1e-7)


def narrow() -> Graph:
    """A product of few rows with 48 columns, which one panel of 48 does at once, then an epilogue,
    and another."""
    b = Builder()
    x = b.input("x", TensorType(F32, (7, 16)))
    w, v = (np.full(shape, 0.1, np.float32) for shape in ((16, 48), (48, 64)))
    y = b.op("relu", b.op("dot", x, b.const(w), ta=False, tb=False))
    return b.build({"y": b.op("dot", y, b.const(v), ta=False, tb=False)})


@pytest.mark.parametrize("name", ["default", "exact", "genetic", "swarm", "annealing"])
def test_searches_take_what_the_model_sees_cheaper(name: str) -> None:
    graph = narrow()
    found = choose(graph, Fuser(graph), FAST, Search(name, budget=2000))
    groups = {g.nodes: dict(g.variant) for g in found.schedule.groups}
    first = next(v for nodes, v in groups.items() if len(nodes) == 2)
    assert first["columns"] == 48
    assert found.cost < found.greedy
    check_schedule(found.schedule, graph, FAST)
    assert parse_schedule(str(found.schedule)) == found.schedule


def test_greedy_fusion_and_other_objectives_set_nothing() -> None:
    graph = narrow()
    for how in (Search(), Search("exact", objective="C"), Search("exact", objective="D"),
                Search("exact", "cd")):
        schedule = choose(graph, Fuser(graph), FAST, how).schedule
        assert all(g.variant == () for g in schedule.groups)


@pytest.mark.parametrize("gain,taken", [(0.0, 0), (1.0, 1)])
def test_small_gains_are_none(gain: float, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "GAIN", gain)
    graph = narrow()
    chosen = choose(graph, Fuser(graph), FAST, Search("exact")).schedule
    assert sum(g.variant != () for g in chosen.groups) >= taken
    assert taken or all(g.variant == () for g in chosen.groups)


def test_a_variant_depends_on_what_is_fused() -> None:
    """Of the same product, alone and with what follows, each has its own best variant."""
    graph = narrow()
    survey = Survey(graph, Fuser(graph).run(), FAST, Search("exact"))
    settings = [c.cost.variant for _, c in survey.offered]
    plain = len(survey.table.found)
    assert set(settings[:plain]) == {()} and () not in settings[plain:]
    assert [survey.members[k] for k in range(plain)] == list(survey.table.found)
    problem = survey.space().problem
    doubles = [v for v in problem.variants if len(v) == 2]
    assert len(doubles) == len(settings) - plain
    assert all(problem.cost[v[0]] < variants.GAIN * problem.cost[v[1]] for v in doubles)


def test_what_is_worth_timing_is_new_and_cheapest_first() -> None:
    graph = narrow()
    nodes = [n for n in graph.nodes if n.op in ("dot", "relu")][:2]
    cost = group_cost(graph, "contract", nodes)
    assert cost.work is not None and cost.work.product is not None
    form, context, bounds = cost.work.product.form, Context(FAST), model("bounds")
    few = variants.worth_timing(cost, {}, bounds, context, {()}, 4)
    made = {tiling(form, FAST, dict(v)) for v in few}
    assert len(few) == len(made) == 4 and tiling(form, FAST, {}) not in made
    prices = bounds.costs([facts(dataclasses.replace(cost, variant=v), {}, FAST) for v in few],
                          context)
    assert list(prices) == sorted(prices)
    more = variants.worth_timing(cost, {}, bounds, context, {(), *few}, 4)
    assert not made & {tiling(form, FAST, dict(v)) for v in more}
    for v in (*few, *more):
        check_variant(form, FAST, v)


def test_neighbors_of_a_variant_are_worth_timing() -> None:
    """Two settings of the same group may be better than each alone, which all that is tried has."""
    graph = layer(100)
    cost, = schedule_cost(graph, greedy(graph))
    own = (("columns", 48), ("rows", 6))
    found = variants.worth_timing(dataclasses.replace(cost, variant=own), {}, model("bounds"),
                                  Context(WIDE), {(), own}, 1000)
    assert (("columns", 48), ("rows", 6), ("block", 2)) in found
    assert (("columns", 48), ("rows", 7)) in found
    assert all([s[0] for s in v] == sorted((s[0] for s in v), key=variants.ORDER.index)
               for v in found)


def test_nothing_is_worth_timing_where_nothing_can_be_set() -> None:
    cost = GroupCost("loops", flops=100)
    assert variants.worth_timing(cost, {}, model("bounds"), Context(FAST), set(), 4) == []


def test_heights_of_micro_tiles_are_tried() -> None:
    """Of direct products of every width, as far as its registers go."""
    cost, = schedule_cost(layer(100), greedy(layer(100)))
    found = [dict(v) for v in variants.tried(cost, WIDE)]
    heights = {w: [v["rows"] for v in found if "rows" in v and v.get("columns") == w]
               for w in (None, 16, 48, 64)}
    assert heights == {None: [4, 6, 8, 10, 12, 14], 16: [4, 6, 8, 10, 12, 14], 48: [4, 6, 8],
                       64: [4, 6]}
    assert not any({"rows", "block"} <= v.keys() for v in found)
    graph = _image(20, 20, 64, 64)
    image, = schedule_cost(graph, greedy(graph))
    squares = [dict(v) for v in variants.tried(image, WIDE) if dict(v).get("winograd")]
    assert squares and not any("rows" in v for v in squares)
    assert image.work is not None and image.work.product is not None
    form = image.work.product.form
    for v in (dict(v) for v in variants.tried(image, WIDE)):  # squares go without saying here
        assert "rows" not in v or tiling(form, WIDE, v).winograd == 0
    assert tiling(form, WIDE, {}).winograd


def test_a_schedule_takes_the_variants_that_a_search_would_take() -> None:
    graph = narrow()
    plain = Fuser(graph).run()
    tuned = variants.with_variants(graph, plain, {}, model("bounds"), Context(FAST))
    assert [g.nodes for g in tuned.groups] == [g.nodes for g in plain.groups]
    assert any(dict(g.variant).get("columns") == 48 for g in tuned.groups)
    check_schedule(tuned, graph, FAST)


def test_explanations_name_the_variants() -> None:
    graph = narrow()
    chosen = choose(graph, Fuser(graph), FAST, Search("exact")).schedule
    node = next(n for n in graph.nodes if n.op == "dot")
    text = explain_node(graph, chosen, None, node, target=FAST)
    assert "run as contract {columns=48" in text and ", as scheduled" in text
    assert "us without settings" in text
    assert "variants" not in explain_node(graph, chosen, None, node)
