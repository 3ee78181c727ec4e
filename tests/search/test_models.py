"""Cost models: predictions counted by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from evonnx.compiler.build import build_program
from evonnx.ir.builder import Builder
from evonnx.ir.dim_values import evaluate
from evonnx.ir.dims import sym
from evonnx.ir.errors import EvonnxError, OptionError
from evonnx.ir.graph import Attrs, Graph
from evonnx.ir.grids import Taps
from evonnx.ir.lines import lines_shape
from evonnx.ir.ops import lookup
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.runtime.program import KernelStep
from evonnx.search.cost import schedule_cost
from evonnx.search.greedy import greedy
from evonnx.search.models import (
    CD,
    Bounds,
    Context,
    GroupFacts,
    Phase,
    Roofline,
    context_of,
    facts,
    facts_of,
    sensitivity,
)
from evonnx.search.models.products import NOMINAL
from evonnx.search.models.roofline import LOOPS, MICRO_KERNEL
from evonnx.search.phases import AFFINE, KNOWN_DIVISION, TABLE

MACHINE = Target(
    "toy", "x86_64-unknown-linux-gnu", "x86-64", cores=2, l1_bytes=100, l2_bytes=1000,
    l3_bytes=10_000, flops=1e9, vector_rate=5e8, special_rate=2e8, load_rate=4e9, store_rate=2e9,
    l1_rate=3e9, l2_rate=1e9, l3_rate=1e8, l3_rate_all=1.5e8, dram_rate=1e7, dram_rate_all=1.5e7,
    launch_s=1e-6, sync_s=2e-6, latency_s=1e-9,
)  # fmt: skip
ONE, TWO = Context(MACHINE, 1), Context(MACHINE, 2)


def seconds(cost_model: Any, group: GroupFacts, context: Context = ONE) -> float:
    """The cost of one group, which its explanation must tell as well."""
    told = cost_model.explain(group, context).seconds
    assert told == pytest.approx(float(cost_model.costs([group], context)[0]), rel=1e-12)
    return float(told)


# Facts ---------------------------------------------------------------------------------------


def layer(rows: Any, columns: int = 64) -> Graph:
    """``softmax(exp(x @ w))`` of x[rows, 32] and w[32, columns]."""
    b = Builder()
    x = b.input("x", TensorType(F32, (rows, 32)))
    w = b.const(np.ones((32, columns), np.float32))
    y = b.op("exp", b.op("dot", x, w, ta=False, tb=False))
    return b.build({"y": b.op("softmax", y, axis=1)})


def test_facts_are_the_costs_at_sizes() -> None:
    graph = layer(sym("N"))
    dot, exp = (next(n for n in graph.nodes if n.op == op) for op in ("dot", "exp"))
    got = facts_of(graph, "contract", [dot, exp], {"N": 112})
    rows, product, epilogue = got.phases
    assert dataclasses.replace(got, phases=()) == GroupFacts(
        "contract", flops=112 * 64 * (2 * 32 + 12), special=112 * 64 * 12, constant=4 * 32 * 64,
        inputs=4 * 112 * 32, outputs=4 * 112 * 64, tiles=2, nodes=2,
    )  # fmt: skip
    assert rows == Phase(outer=112 * 2)  # a table of row addresses per block of panels
    calls = 8 * 2  # of 14 rows and 32 columns each
    assert product == Phase(
        fma=2 * 112 * 64 * 32, loads=calls * 32 * 4 * (14 * 16 / 2 + 32),
        stores=4 * 112 * 64, entries=pytest.approx((1.2 + 0.2) * calls),
        spilled=pytest.approx((2.5 * 0.75 + 0.9) * 4 * 112 * 64))  # fmt: skip  # bursts, of 28 KB
    assert epilogue == Phase(
        special=12 * 7168, loads=4 * 7168, stores=4 * 7168, length=32)
    with pytest.raises(EvonnxError, match="N"):
        facts_of(graph, "contract", [dot, exp], {})
    groups = [facts(cost, {"N": 112}) for cost in schedule_cost(graph, greedy(graph))]
    assert context_of(MACHINE, 0, groups) == Context(MACHINE, 1, 4 * 32 * 64)


def one(graph: Graph, *ops: str, implementation: str = "loops") -> tuple[Phase, ...]:
    """Phases of the nodes with these operators as one group."""
    return facts_of(graph, implementation, [n for n in graph.nodes if n.op in ops], {}).phases


def test_phases_of_loops() -> None:
    """A map is one loop; what it reads or writes across its innermost loop lies apart; what does
    not depend on the innermost loop is computed outside of it; a reduction is a loop of its own and
    runs along memory; dear values that are needed again are kept."""
    b = Builder()
    x = b.input("x", TensorType(F32, (6, 10, 32)))
    s = b.input("s", TensorType(F32, (10, 1)))
    turned = b.op("transpose", x, perm=(0, 2, 1))
    scaled = b.op("mul", x, b.op("sqrt", s))
    graph = b.build({"a": turned, "b": scaled})
    assert one(graph, "transpose") == (
        Phase(stores=4 * 1920, apart=1920, entries=192, length=10),)
    root = lookup("sqrt").flops_per_element
    assert one(graph, "sqrt", "mul") == (
        Phase(plain=1920, loads=4 * 1920, stores=4 * 1920, outer=60 * (1 + root), entries=60,
              length=32),)
    last = b.build({"y": b.op("softmax", x, axis=2)})
    largest, total, result = one(last, "softmax")
    assert (largest.entries, largest.length, largest.sums) == (60, 32, 1)
    assert (total.special, total.stores, result.plain) == (12 * 1920, 4 * 1920, 1920)
    first = b.build({"y": b.op("reduce", x, kind="sum", axes=(0,), keepdims=False)})
    added, stored = one(first, "reduce")
    assert (added.sums, added.plain, added.entries, added.length) == (0, 1920, 6, 320)
    assert stored.stores == 4 * 320  # one strip of lanes
    many = b.input("many", TensorType(F32, (80, 32)))
    last = b.build({"y": b.op("reduce", many, kind="sum", axes=(0,), keepdims=False)})
    added, _ = one(last, "reduce")
    work = (added.entries, added.length, added.plain, added.stores)
    assert work == (10, 8 * 32, 80 * 32, 4 * 10 * 32)  # eight terms of each lane at once


def test_short_loops_start_nothing_and_stay_near() -> None:
    """A shuffle of channels: the innermost loop of four is unrolled into the one around it, and
    vectors of four channels go through two shuffles each, however many operands they come from."""
    b = Builder()
    x = b.input("x", TensorType(F32, (64, 4, 32)))
    phase, = one(b.build({"y": b.op("transpose", x, perm=(0, 2, 1))}), "transpose")
    assert (phase.entries, phase.length) == (64, 128)
    assert (phase.apart, phase.loads, phase.plain) == (0, 4 * 64 * 128, 2 * 64 * 128)
    z = b.input("y", TensorType(F32, (64, 4, 32)))
    added = b.op("transpose", b.op("add", x, z), perm=(0, 2, 1))
    phase, = one(b.build({"y": added}), "add", "transpose")
    assert (phase.apart, phase.loads, phase.plain) == (0, 8 * 64 * 128, (1 + 2) * 64 * 128)
    far = b.input("z", TensorType(F32, (3, 1 << 14)))
    phase, = one(b.build({"y": b.op("transpose", far, perm=(1, 0))}), "transpose")
    assert phase.far == 0, "three planes are read side by side"


def test_lines_that_are_left_before_they_are_used_up() -> None:
    """Reading lines far apart waits, by blocks once per line; writing them moves whole lines."""
    b = Builder()
    x = b.input("x", TensorType(F32, (1024, 1024)))
    phase, = one(b.build({"y": b.op("transpose", x, perm=(1, 0))}), "transpose")
    assert phase.far == 1024 * 1024 / 16
    assert (phase.apart, phase.spilled) == (1024 * 1024 - phase.far, 0)
    product = b.op("dot", x, b.const(np.ones((1024, 512), np.float32)), ta=False, tb=False)
    turned = b.op("transpose", b.op("exp", product), perm=(1, 0))
    written = one(b.build({"y": turned}), "dot", "exp", "transpose", implementation="contract")
    assert sum(p.spilled for p in written) >= 64 * 1024 * 512
    assert sum(p.far for p in written) == 0


def test_a_turned_product_leaves_by_whole_lines() -> None:
    """Limits are applied in registers; a micro-kernel turns the strip that follows."""
    b = Builder()
    x = b.input("x", TensorType(F32, (1024, 64)))
    product = b.op("dot", x, b.const(np.ones((64, 512), np.float32)), ta=False, tb=False)
    turned = b.op("transpose", b.op("relu", product), perm=(1, 0))
    *_, last = one(b.build({"y": turned}), "dot", "relu", "transpose", implementation="contract")
    assert (last.loads, last.stores, last.apart) == (4 * 1024 * 512, 4 * 1024 * 512, 0)


def test_a_product_that_is_added_is_one_operation() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (8, 32)))
    graph = b.build({"y": b.op("add", b.op("mul", x, x), b.op("add", x, x))})
    phase, = one(graph, "mul", "add")
    assert phase.plain == 2 * 8 * 32


@pytest.mark.parametrize("before", ["", "exp"])
def test_small_windows_are_counted_as_they_are_written_out(before: str) -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 16, 16, 64)))
    v = b.op(before, x) if before else x
    y = b.op("pool", v, kind="max", kernel=(3, 3), strides=(2, 2), dilations=(1, 1),
             pads_lo=(0, 0), pads_hi=(0, 0), layout="last")
    phase, = one(b.build({"y": y}), "pool", before)
    results = 7 * 7 * 64
    assert phase.loads == 9 * 4 * results
    assert phase.plain == 8 * results
    assert phase.special == (9 * lookup("exp").flops_per_element * results if before else 0)


def test_phases_of_contractions() -> None:
    """An epilogue that the registers cannot do is a loop; a left operand that is not where it can
    be addressed is computed as often as there are blocks of panels; a right operand that is no
    constant is packed by a kernel of its own."""
    b = Builder()
    x = b.input("x", TensorType(F32, (280, 40)))
    z = b.input("z", TensorType(F32, (40, 64)))
    w = b.const(np.ones((40, 64), np.float32))
    y = b.op("dot", x, w, ta=False, tb=False)
    plain = b.build({"y": b.op("relu", y)})
    assert [p.fma > 0 for p in one(plain, "dot", "relu", implementation="contract")] == [
        False, True]  # fmt: skip
    turned = b.build({"y": b.op("transpose", b.op("exp", y), perm=(1, 0))})
    *_, epilogue = one(turned, "dot", "exp", "transpose", implementation="contract")
    assert epilogue.apart == 280 * 64
    computed = b.build({"y": b.op("dot", b.op("exp", x), w, ta=False, tb=False)})
    left, *_ = one(computed, "dot", "exp", implementation="contract")
    assert left.special == 12 * 280 * 40 * 2
    both = b.build({"y": b.op("dot", x, z, ta=False, tb=False)})
    pack, *_ = one(both, "dot", implementation="contract")
    assert (pack.loads, pack.stores, pack.length) == (4 * 2560, 4 * 2560, 32)
    assert facts_of(both, "contract", [both.nodes[-1]], {}).kernels == 2


def convolution(side: int, channels: int, columns: int, kernel: int, groups: int = 1) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, side, side, channels)))
    w = b.const(np.ones((kernel, kernel, channels // groups, columns), np.float32))
    y = b.op("conv", x, w, strides=(1, 1), dilations=(1, 1), pads_lo=(0, 0), pads_hi=(0, 0),
             groups=groups, layout="last")
    return b.build({"y": y})


def test_weights_of_winograds_products_count_as_they_were_transformed() -> None:
    graph = convolution(18, 64, 64, 3)
    cost, = schedule_cost(graph, greedy(graph))
    for side, numbers in ((0, 9), (2, 16), (4, 36)):
        found = facts(dataclasses.replace(cost, variant=(("winograd", side),)), {})
        assert found.constant == 4 * numbers * 64 * 64


def test_a_depthwise_window_starts_once_per_vector_however_many_taps_it_has() -> None:
    (seven,), (nine,), (more,) = (one(convolution(16 + k - 1, n, n, k, n), "conv",
                                      implementation="contract")
                                  for k, n in ((7, 64), (9, 64), (7, 68)))
    assert seven.entries == nine.entries == 16 * 16 / 8 * 4 * 2
    assert (more.entries, more.fma) == (seven.entries * 5 / 4, seven.fma * 5 / 4)


@pytest.mark.parametrize("size,lines,rolled", [(16, 2, False), (28, 7, True)])
def test_several_lines_of_a_depthwise_window_take_what_they_were_chosen_by(
        size: int, lines: int, rolled: bool) -> None:
    """Blocks of two lines, and runs; but for pixels 2 KB apart, which are computed line by line."""
    three = Taps(3, 1, 1)
    shape = lines_shape(NOMINAL, three, three, size, size, size, True)
    assert (shape.lines, shape.rolled) == (lines, rolled)
    phase, = one(convolution(size + 2, 64, 64, 3, 64), "conv", implementation="contract")
    assert phase.fma == 2 * 16 * 4 * shape.cycles
    assert phase.entries == phase.spilled == 0
    crowded, = one(convolution(size + 2, 512, 512, 3, 512), "conv", implementation="contract")
    assert crowded.fma == 2 * size * size * 9 * 512


def test_further_results_of_a_product_hold_it_up() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (280, 40)))
    y = b.op("dot", x, b.const(np.ones((40, 64), np.float32)), ta=False, tb=False)
    r, e = b.op("relu", y), b.op("exp", y)
    single = one(b.build({"r": b.op("add", r, e)}), "dot", "relu", "exp", "add",
                 implementation="contract")
    double = one(b.build({"r": r, "e": e}), "dot", "relu", "exp", implementation="contract")
    more = double[1].spilled - single[1].spilled
    assert more == 4 * (4 * 280 * 64)


def test_pixels_are_rows_of_a_matrix_where_they_lie_side_by_side() -> None:
    """What a 1x1 convolution reads is one run of rows, whose numbers are not taken apart."""
    table, _ = one(convolution(30, 64, 32, 1), "conv", implementation="contract")
    assert table == Phase(outer=30 * 30 * AFFINE)
    table, _ = one(convolution(30, 64, 32, 2), "conv", implementation="contract")
    assert table == Phase(outer=29 * 29 * (2 * TABLE + KNOWN_DIVISION))  # taps of a row are one run


@pytest.mark.parametrize("length,steps", [(16, 1), (24, 2), (14, 7), (36, 6), (39, 9)])
def test_what_is_left_of_a_loop_is_done_by_half_a_vector_and_one_by_one(length: int, steps: int
                                                                        ) -> None:
    machine = dataclasses.replace(MACHINE, vector_bits=512)
    work = GroupFacts("loops", phases=(Phase(plain=100.0 * length, length=length),))
    told = Bounds().explain(work, Context(machine, 1)).bounds["vector"]
    assert told == pytest.approx(100 * 16 * steps / machine.vector_rate)


def test_micro_kernels_ask_early_for_what_they_read() -> None:
    """What a product reads from caches hides behind it, what a loop reads half."""
    work = Phase(fma=1e6)
    near = {"inputs": 900, "outputs": 0}  # l2 and beyond, not main memory
    product, loop = (GroupFacts(word, phases=(work,), **near) for word in ("contract", "loops"))
    alone = GroupFacts("contract", phases=(work,))
    assert seconds(Bounds(), product) == seconds(Bounds(), alone)
    assert seconds(Bounds(), loop) > seconds(Bounds(), product)


def test_phases_run_one_after_another() -> None:
    """Work hides behind other work of its own phase only."""
    multiply, exp = Phase(fma=1e6, loads=100), Phase(special=1e5, stores=100)
    apart = [GroupFacts("contract", phases=(p,)) for p in (multiply, exp)]
    joined = GroupFacts("contract", phases=(multiply, exp))
    bounds = Bounds().explain(joined, ONE).bounds
    assert bounds["fma"] == pytest.approx(1e6 / 1e9)
    assert bounds["special"] == pytest.approx(1e5 / 2e8)
    assert seconds(Bounds(), joined) == pytest.approx(
        sum(seconds(Bounds(), g) for g in apart) - LAUNCH - BLOCK)
    short = Phase(plain=4000, entries=1000, length=4)
    long = Phase(plain=4000, entries=1, length=4000)
    at = [Bounds().explain(GroupFacts("loops", phases=(p,)), ONE).bounds for p in (short, long)]
    assert at[0]["latency"] > 100 * (at[1]["latency"] - TILE)
    elements = long._replace(length=4 * 1000 + 3)
    assert Bounds().explain(GroupFacts("loops", phases=(elements,)), ONE).bounds[
        "vector"] > at[1]["vector"]


@pytest.mark.parametrize("rows", [1, 40, 3000])
@pytest.mark.parametrize("columns", [8, 200, 3000])
def test_tiles_are_about_what_lowering_makes(rows: int, columns: int) -> None:
    graph = layer(rows, columns)
    schedule = greedy(graph)
    target = Target.named("generic")
    program = build_program(graph, schedule, target, _no_region)
    steps = [s for s in program.steps if isinstance(s, KernelStep)]
    costs = schedule_cost(graph, schedule)
    assert len(steps) == len(costs)
    for step, cost in zip(steps, costs, strict=True):
        made, told = evaluate(step.tiles, {}), facts(cost, {}, target).tiles
        near = 1 if cost.implementation == "contract" else 4  # eight short rows may be one tile
        assert told / near <= made <= told * near, (cost.implementation, made, told)


def _no_region(body: Graph) -> Any:
    raise AssertionError("no control flow here")


# CD ------------------------------------------------------------------------------------------


def test_cd_adds_operations_and_bytes() -> None:
    group = GroupFacts("loops", flops=100, constant=8, inputs=20, outputs=12)
    both = CD().parts([group, GroupFacts("view", flops=5, inputs=7)], ONE)
    assert both.tolist() == [[100.0, 40.0], [0.0, 0.0]]
    assert seconds(CD(2.0, 3.0), group) == 320
    assert CD(2.0, 3.0).explain(group, ONE).bound == "C"
    assert CD(1.0, 3.0).explain(group, ONE).bound == "D"
    with pytest.raises(OptionError, match="not negative"):
        CD(-1.0)


def test_the_textbook_example() -> None:
    """Ten operators of C = 100, 150, ..., 550 and D = 2 C against six of 200, 250, ..., 450."""
    for first, last, c, d in ((100, 550, 3250, 6500), (200, 450, 1950, 3900)):
        groups = [GroupFacts("loops", flops=k, inputs=k, outputs=k)
                  for k in range(first, last + 1, 50)]  # fmt: skip
        assert CD().parts(groups, ONE).sum(axis=0).tolist() == [c, d]
        assert CD().costs(groups, ONE).sum() == c + d


# Roofline ------------------------------------------------------------------------------------


def test_roofline_takes_the_larger_of_compute_and_memory() -> None:
    one = Roofline()
    busy = GroupFacts("contract", flops=1e6, inputs=900)
    assert one.explain(busy, ONE).bound == "compute"
    assert seconds(one, busy) == pytest.approx(1e6 / (1e9 * MICRO_KERNEL) + 1e-6)
    loops = dataclasses.replace(busy, implementation="loops")
    assert seconds(one, loops) == pytest.approx(1e6 / (1e9 * LOOPS) + 1e-6)
    waits = GroupFacts("loops", flops=10, inputs=4000, outputs=1000)
    assert one.explain(waits, ONE).bound == "memory"
    assert seconds(one, waits) == pytest.approx(5000 / 1e8 + 1e-6)
    assert one.explain(GroupFacts("loops", flops=10, inputs=100), ONE).bound == "launch"


def test_weights_come_from_where_all_of_them_fit() -> None:
    group = GroupFacts("contract", constant=500)
    assert seconds(Roofline(), group, Context(MACHINE, 1, 500)) == pytest.approx(500 / 1e9 + 1e-6)
    assert seconds(Roofline(), group, Context(MACHINE, 1, 1e6)) == pytest.approx(500 / 1e7 + 1e-6)


def test_threads_share_work_where_that_pays() -> None:
    busy = GroupFacts("contract", flops=1e6)
    assert seconds(Roofline(), busy, TWO) == pytest.approx(1e6 / (2e9 * MICRO_KERNEL) + 3e-6)
    small = GroupFacts("contract", flops=10)
    assert seconds(Roofline(), small, TWO) == seconds(Roofline(), small, ONE)
    far = GroupFacts("loops", inputs=1e6)
    assert seconds(Roofline(), far, TWO) == pytest.approx(1e6 / 1.5e7 + 3e-6)
    wide = Context(dataclasses.replace(MACHINE, dram_rate_all=1e9), 2)
    assert seconds(Roofline(), far, wide) == pytest.approx(1e6 / 2e7 + 3e-6)


# Bounds --------------------------------------------------------------------------------------

LAUNCH = 1e-6
TILE, BLOCK = 30e-9, 3e-9
"""What starting a tile takes: 30 operations that wait for one another."""
CASES = {
    "fma": (GroupFacts("contract", 1e6, tiles=2), 1e6 / 1e9),
    "vector": (GroupFacts("loops", 1e6, tiles=2), 1e6 / 5e8),
    "special": (GroupFacts("loops", 1e6, 6e5, tiles=2), 4e5 / 5e8 + 6e5 / 2e8),
    "load/store": (GroupFacts("loops", phases=(Phase(loads=100, apart=1000, far=50),)),
                   (100 + 1000 * 16) / 4e9 + 50 * 3e-9),
    "l2": (GroupFacts("loops", 1, inputs=300, outputs=200), 500 / 1e9),
    "l3": (GroupFacts("loops", 1, inputs=2000, outputs=3000), 5000 / 1e8),
    "dram": (GroupFacts("loops", 1, inputs=2e4), (2e4 - 5e3) / 1e7),
    "latency": (GroupFacts("loops", phases=(Phase(entries=100, outer=80, sums=1),)),
                (3 + 13) * 100 * 1e-9 + 20e-9 + TILE),
}
OWN, MEMORY = ("fma", "vector", "special", "load/store", "latency"), ("l1", "l2", "l3", "dram")


@pytest.mark.parametrize("bound", CASES)
def test_each_bound_by_hand(bound: str) -> None:
    """A group costs its largest bound, half of what hides behind it, and what is always paid."""
    group, expected = CASES[bound]
    quick = Context(dataclasses.replace(MACHINE, launch_s=1e-9), 1)
    told = Bounds().explain(group, quick)
    assert (told.bound, bool(told.advice)) == (bound, True)
    assert told.bounds[bound] == pytest.approx(expected)
    core = sum(told.bounds[name] for name in OWN)
    memory = max(told.bounds[name] for name in MEMORY)
    assert seconds(Bounds(), group, quick) == pytest.approx(
        max(core, memory) + min(core, memory) / 2 + 1e-9 + told.bounds["live"])


def test_near_caches_and_the_ports() -> None:
    machine = dataclasses.replace(MACHINE, launch_s=1e-15, latency_s=1e-15, l1_bytes=2000,
                                  l2_bytes=4000)  # fmt: skip
    quick = Context(machine, 1)
    both = GroupFacts("loops", inputs=400, outputs=300)
    assert Bounds().explain(both, quick).bounds["load/store"] == pytest.approx(300 / 2e9)
    assert Bounds().explain(both, quick).bound == "l1"
    assert seconds(Bounds(), both, quick) == pytest.approx(700 / 3e9 + 300 / 4e9, rel=1e-3)
    writes = GroupFacts("loops", outputs=700)
    assert Bounds().explain(writes, quick).bound == "load/store"
    spilled = GroupFacts("loops", phases=(Phase(stores=700, spilled=1400),))
    assert Bounds().explain(spilled, quick).bounds["load/store"] == pytest.approx(
        1400 / 1e9 + 700 / 2e9 / 2)  # half of the smaller one does not hide


def test_a_cache_holds_all_up_to_half_its_size_and_nothing_from_its_size_on() -> None:
    def l3(nbytes: float) -> float:
        return Bounds().explain(GroupFacts("loops", inputs=nbytes), ONE).bounds["l3"]

    assert l3(500) == 0
    assert l3(750) == pytest.approx(750 / 2 / 1e8)
    assert l3(1_000) == pytest.approx(1_000 / 1e8)


def test_the_last_level_cache_keeps_half_its_size() -> None:
    def dram(nbytes: float) -> float:
        return Bounds().explain(GroupFacts("loops", inputs=nbytes), ONE).bounds["dram"]

    assert dram(5_000) == 0
    assert dram(7_500) == pytest.approx(2_500 / 1e7)
    assert dram(20_000) == pytest.approx(15_000 / 1e7)
    weights = GroupFacts("contract", constant=500)
    near, far = (Bounds().explain(weights, Context(MACHINE, 1, c)) for c in (500, 1e6))
    assert (near.bounds["dram"], far.bounds["dram"]) == (0, pytest.approx(500 * 0.995 / 1e7))


def test_tiles_limit_threads_and_their_tail_waits() -> None:
    work = 1e6 / 1e9
    alone = GroupFacts("contract", 1e6, tiles=1)
    assert seconds(Bounds(), alone, TWO) == seconds(Bounds(), alone, ONE)
    even = dataclasses.replace(alone, tiles=4)
    assert seconds(Bounds(), even, TWO) == pytest.approx(work / 2 + 2 * BLOCK + 3e-6)
    assert Bounds().explain(even, TWO).bound == "fma"
    odd = dataclasses.replace(alone, tiles=3)
    assert seconds(Bounds(), odd, TWO) == pytest.approx(work * 2 / 3 + 2 * BLOCK + 3e-6)
    assert Bounds().explain(odd, TWO).bounds["tail"] == pytest.approx(
        (work + 3 * BLOCK) * (2 / 3 - 1 / 2))


def test_joining_what_does_not_fit_the_cache_is_not_free() -> None:
    """Two groups of 900 bytes fit a cache of 1,000, if barely; as one group they do not, and it
    evicts."""
    half = GroupFacts("loops", inputs=500, outputs=400)
    both = GroupFacts("loops", inputs=1000, outputs=800, nodes=2)
    assert Bounds().explain(half, ONE).bounds["live"] == 0
    assert Bounds().explain(both, ONE).bounds["live"] == pytest.approx(800 / 1e8)
    assert seconds(Bounds(), both) > 2 * seconds(Bounds(), half)


def test_a_soft_maximum_is_between_the_maximum_and_the_sum() -> None:
    group = GroupFacts("loops", 1e6, 3e5, inputs=1e4, outputs=1e4, tiles=4)
    hard, soft, softer = (seconds(Bounds(p), group) for p in (None, 16, 2))
    terms = Bounds().explain(group, ONE).bounds
    assert hard < soft < softer < sum(terms.values())
    with pytest.raises(OptionError, match="power"):
        Bounds(power=3)


def test_sensitivity_names_what_would_move_a_group() -> None:
    found = sensitivity(Bounds(), GroupFacts("loops", 1, inputs=1.2e4), ONE)
    assert list(found)[:2] == ["l3_bytes", "dram_rate"]
    assert found["l3_bytes"] == pytest.approx(0.7, abs=0.05)
    assert found["dram_rate"] == pytest.approx(0.5, abs=0.05)
    assert sensitivity(Bounds(), GroupFacts("view"), ONE) == {}


@pytest.mark.parametrize("lines,far", [(2, False), (128, True)])
def test_rows_gathered_behind_a_product(lines: int, far: bool) -> None:
    """An image that is widened and added comes late where the caches do not hold it."""
    b = Builder()
    x, wide = (b.input(n, TensorType(F32, s)) for n, s in (
        ("x", (lines * 128, 32)), ("s", (lines, 64, 256))))
    y = b.op("dot", x, b.const(np.ones((32, 256), np.float32)), ta=False, tb=False)
    nodes = [y.node]
    index = b.const(np.arange(128) // 2)
    for op, operands, attrs in (("reshape", (y,), {"shape": (lines, 128, 256)}),
                                ("gather", (wide, index), {"axis": 1})):
        nodes.append(b.op(op, *operands, **attrs).node)
    nodes.append((y := b.op("add", *(n.out for n in nodes[1:]))).node)
    got = facts_of(b.build({"y": y}), "contract", nodes, {})
    assert sum(p.far for p in got.phases) == (12 * lines * 64 * 256 * 4 / 64 if far else 0)


# attention -----------------------------------------------------------------------------------


def _attention(heads: int, rows: int, keys: int, masked: bool = False, gate: Any = None
               ) -> GroupFacts:
    """``gate``: what the result is multiplied by, a number or the shape of an operand."""
    b = Builder()
    sizes = [rows, keys, keys]
    operands: list[Any] = [b.input(f"x{k}", TensorType(F32, (heads, n, 64)))
                           for k, n in enumerate(sizes)]
    operands.append(b.input("m", TensorType(F32, (rows, keys))) if masked else None)
    y = b.node("attention", operands, Attrs({"scale": 0.125, "safe": False}.items())).outputs[0]
    nodes = [y.node]
    if gate is not None:
        by = b.const(gate, F32) if isinstance(gate, float) else b.input("g", TensorType(F32, gate))
        nodes.append((y := b.op("mul", y, by)).node)
    graph = b.build({"y": y})
    return facts_of(graph, "attention", nodes, {})


def test_attention_is_two_products_around_a_softmax() -> None:
    got = _attention(3, 128, 256)
    pack, scores, before, exps, result, *_ = got.phases
    assert scores.fma == pytest.approx(2 * 3 * 128 * 256 * 64, rel=0.04)  # 256 in tiles of 13 rows
    assert result.fma == pytest.approx(2 * 3 * 128 * 256 * 64, rel=0.1)
    assert exps.special == lookup("exp").flops_per_element * 3 * 128 * 256
    assert before.special == 0 and before.plain > 0 and pack.fma == 0
    assert got.tiles == 3 * 128 / 32
    assert sum(p.plain for p in _attention(3, 128, 256, True).phases) == pytest.approx(
        sum(p.plain for p in got.phases) + 3 * 128 * 256)


def test_what_follows_an_attention() -> None:
    """Applied to vectors of queries where it reads nothing else, else element by element."""
    plain, number, operand = (_attention(3, 128, 256, gate=gate)
                              for gate in (None, 0.5, (3, 128, 64)))
    assert sum(p.plain for p in number.phases) == pytest.approx(
        sum(p.plain for p in plain.phases) + 3 * 128 * 64)
    apart = [sum(p.apart + p.far for p in facts.phases) for facts in (plain, number, operand)]
    assert apart[1] == apart[0] and apart[2] > 2 * apart[0]
    cost = [float(Bounds().costs([facts], ONE)[0]) for facts in (plain, number, operand)]
    assert cost[0] < cost[1] < 1.02 * cost[0] < cost[2]


def test_queries_fill_vectors() -> None:
    one, sixteen = (sum(p.fma for p in _attention(2, n, 512).phases) for n in (1, 16))
    assert one == sixteen > 0
