"""The fuzzer's parts, and every example that it once failed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from evonnx.bench.fuzz import broken
from evonnx.bench.fuzz.asked import STEPS, check_asked
from evonnx.bench.fuzz.broken import FAULTS, Fault, run_broken
from evonnx.bench.fuzz.case import LOOSE, run_case
from evonnx.bench.fuzz.corpus import from_text, load, to_text
from evonnx.bench.fuzz.drawn import AFTER, FIXED, SEARCHED, draw
from evonnx.bench.fuzz.generate import GROUPS, Example, example
from evonnx.bench.fuzz.judge import Judge
from evonnx.bench.fuzz.loosen import loosened
from evonnx.bench.fuzz.shrink import shrink
from evonnx.bench.fuzz.varied import varied
from evonnx.bench.fuzz.verdict import Failure
from evonnx.compiler.api import Compiled, compile
from evonnx.compiler.importer import import_model
from evonnx.compiler.options import check_schedule
from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir.builder import Builder
from evonnx.ir.interp import run
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.passes.manager import PassReport
from evonnx.search.greedy import greedy
from evonnx.search.settings import Search

CORPUS = dict(load(Path(__file__).parent.parent / "fuzz_corpus"))


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_found_and_fixed(name: str) -> None:
    found = run_case(CORPUS[name])
    assert found.status == "passed", f"{CORPUS[name].note}\n{found.detail}"


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_corpus_is_valid_and_plain(name: str) -> None:
    onnx.checker.check_model(CORPUS[name].model, full_check=True)
    assert CORPUS[name].note
    assert "rawData" not in to_text(CORPUS[name])


def test_seeds_decide_everything() -> None:
    first, second = to_text(example(7)), to_text(example(7))
    assert first == second and first != to_text(example(8))


def test_models_are_valid_and_makers_are_drawn() -> None:
    used: set[str] = set()
    for seed in range(400):
        given = example(seed)
        used |= set(given.groups)
        if seed < 60:
            onnx.checker.check_model(given.model, full_check=True)
    made = {f"{m.__module__.rpartition('.')[2]}.{m.__name__}" for g in GROUPS.values() for m in g}
    assert made == used


def test_text_keeps_every_bit() -> None:
    for seed in range(40):
        given = example(seed)
        again = from_text(to_text(given))
        one, two = given.feeds(), again.feeds()
        assert all(one[k].tobytes() == two[k].tobytes() for k in one)
        for a, b in zip(given.model.graph.initializer, again.model.graph.initializer, strict=True):
            x, y = onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b)
            assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def _model(nodes: list[onnx.NodeProto], outputs: list[str], shape: tuple[int, ...] = (4, 9)
           ) -> Example:
    info = onnx.helper.make_tensor_value_info
    types = [info(n, 1, shape) for n in ("a", "b", "c", "d")]
    graph = onnx.helper.make_graph(nodes, "g", [info("x", 1, shape)],
                                   [t for t in types if t.name in outputs])
    graph.value_info.extend(t for t in types if t.name not in outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    return Example(model, {"x": "normal"}, [{}], 3)


def test_judge_sees_errors_and_forgives_rounding() -> None:
    node = onnx.helper.make_node
    given = _model([node("Exp", ["x"], ["a"]), node("Softmax", ["a"], ["b"]),
                    node("Sub", ["b", "a"], ["c"]), node("Floor", ["a"], ["d"])], ["b", "c", "d"])
    graph = import_model(given.model)
    right = run(graph, given.feeds())
    judge = Judge(graph, given.feeds())
    assert judge.wrong(right) == {}
    near = {k: v * np.float32(1 + 2e-7) for k, v in right.items() if k != "d"}
    assert judge.wrong({**right, **near}) == {}
    for name in right:
        bad = {k: v.copy() for k, v in right.items()}
        bad[name][2, 5] += 1e-4 * abs(bad[name]).max()
        assert list(judge.wrong(bad)) == [name]
        bad[name][2, 5] = np.nan
        assert list(judge.wrong(bad)) == [name]
    assert "shape" in judge.wrong({**right, "b": right["b"][:3]})["b"]


def test_judge_knows_what_cancels() -> None:
    """1e8 is lost next to x: the error is large next to the result, and allowed."""
    node = onnx.helper.make_node
    given = _model([node("Exp", ["x"], ["a"]), node("Add", ["a", "big"], ["b"]),
                    node("Sub", ["b", "big"], ["c"])], ["c"])
    given.model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array(1e8, np.float32), "big"))
    graph = import_model(given.model)
    judge = Judge(graph, given.feeds())
    exact = np.exp(given.feeds()["x"])
    assert judge.wrong({"c": exact}) == {} and judge.wrong({"c": np.round(exact / 8) * 8}) == {}
    assert judge.wrong({"c": exact + np.float32(1000)})


def test_judge_knows_that_sums_have_an_order() -> None:
    """A running sum of n terms is off by the root of n roundings; ten terms less are an error."""
    mean = onnx.helper.make_node("ReduceMean", ["x", "axes"], ["a"], keepdims=1)
    given = _model([mean, onnx.helper.make_node("Sub", ["x", "a"], ["b"])], ["b"], (4, 30_000))
    given.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    feeds = {"x": np.abs(given.feeds()["x"]) + 1}
    x = feeds["x"]
    exact = x.mean(1, dtype=np.float64, keepdims=True)
    running = np.add.accumulate(x, axis=1)[:, -1:] / np.float32(30_000)
    assert (np.abs(running - exact) > 20 * np.finfo(np.float32).eps * exact).any()
    judge = Judge(import_model(given.model), feeds)
    assert judge.wrong({"b": x - running}) == {}
    short = exact - x[:, :10].sum(1, keepdims=True) / 30_000
    assert judge.wrong({"b": x - short.astype(np.float32)}) != {}


def test_judge_knows_that_products_may_be_fused_into_sums() -> None:
    node = onnx.helper.make_node
    given = _model([node("Mul", ["x", "x"], ["a"]), node("Sub", ["a", "a"], ["b"])], ["b"])
    x = given.feeds()["x"].astype(np.float64)
    rest = (x * x - (x * x).astype(np.float32)).astype(np.float32)
    judge = Judge(import_model(given.model), given.feeds())
    assert (rest != 0).any() and judge.wrong({"b": rest}) == {}
    assert judge.wrong({"b": 100 * rest}) != {}


def test_judge_knows_that_the_tail_of_gelu_is_small_beside_its_gate() -> None:
    """Where ``1 + erf`` is nearly zero, an error that is small beside 1 is all that is promised."""
    gelu = onnx.helper.make_node("Gelu", ["x"], ["y"])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([gelu], "g", [info("x", 1, [64])], [info("y", 1, [64])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    x = np.linspace(-6, -4, 64, dtype=np.float32)
    judge = Judge(import_model(model), {"x": x})
    want = judge.wide["y"]
    assert judge.wrong({"y": (want + 1e-7 * x).astype(np.float32)}) == {}
    assert judge.wrong({"y": (want + 1e-4 * x).astype(np.float32)}) != {}


def test_judge_knows_that_gates_cancel_inside() -> None:
    """The inside of a recurrence is not observed: what is small there may be off by more."""
    rng = np.random.default_rng(1)
    w, r = (rng.standard_normal((1, 32, n)) for n in (2, 8))
    lstm = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=8)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [lstm], "g", [info("x", 11, [5, 9, 2])], [info("y", 11, [5, 1, 9, 8])],
        [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(r, "r")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    judge = Judge(import_model(model), {"x": 20 * rng.choice([-1.0, 1.0], (5, 9, 2))})
    want = judge.wide["y"]
    assert judge.wrong({"y": want + np.finfo(np.float64).eps}) == {}
    assert judge.wrong({"y": want + 1e-12}) != {}


def test_ops_that_do_nothing_are_put_in_and_found() -> None:
    reached: set[str] = set()
    for seed in range(0, 40 * LOOSE, LOOSE):
        graph = import_model(example(seed).model)
        loose = loosened(graph, np.random.default_rng(seed))
        report: list[PassReport] = []
        run_pipeline(loose, "fold,canon", report)
        reached |= {name for entry in report for name in entry.fired}
    assert {"concat_one", "expand_same", "pad_none", "reshape_same", "slice_all",
            "transpose_same"} <= reached


def test_kernels_are_drawn_that_groups_can_have() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 6, 6, 16)))
    w = b.const(np.ones((3, 3, 16, 48), np.float32))
    y = b.op("conv", x, w, pads_lo=(1, 1), pads_hi=(1, 1), strides=(1, 1), dilations=(1, 1),
             groups=1, layout="last")
    graph, target = b.build({"y": b.op("relu", y)}), Target.named("avx2")
    schedule = greedy(graph)
    drawn = [varied(schedule, graph, target, np.random.default_rng(k), k % 2 == 0)
             for k in range(40)]
    assert len({str(s) for s in drawn}) > 20
    names: set[str] = set()
    for k, found in enumerate(drawn):
        if found is not None:
            check_schedule(found, graph, target)
            settings = dict(found.groups[0].variant)
            names |= settings.keys()
            assert k % 2 == 0 or not settings.get("winograd")
    assert names == {"window", "winograd", "columns", "rows", "depth", "block"}


def test_options_are_drawn_that_go_together() -> None:
    drawn = [draw(np.random.default_rng(k)) for k in range(400)]
    for o in drawn:
        Search(o["search"], o.get("cost_model", "bounds"), o.get("budget", 1), o["seed"],
               objective=o.get("objective", "time"), measure=o.get("measure", 0.0),
               max_memory=1 if "limit" in o else None)
    assert {o["search"] for o in drawn} == set(SEARCHED)
    assert {o["fix"] for o in drawn if "fix" in o} == set(FIXED)
    assert {step for o in drawn for step in o["after"]} == set(AFTER) == set(STEPS)
    assert any("limit" in o and "objective" in o for o in drawn)


def _open_sizes() -> Example:
    """A model of two open sizes, under two bindings of them."""
    node = onnx.helper.make_node
    given = _model([node("Exp", ["x"], ["a"]), node("Softmax", ["a"], ["b"]),
                    node("Mul", ["a", "b"], ["c"])], ["b", "c"])
    for v in (*given.model.graph.input, *given.model.graph.output, *given.model.graph.value_info):
        for d, name in zip(v.type.tensor_type.shape.dim, ("s0", "s1"), strict=True):
            d.dim_param = name
    given.bindings = [{"s0": 4, "s1": 9}, {"s0": 3, "s1": 5}]
    return given


@pytest.mark.parametrize("fix", ["", *FIXED])
def test_options_are_checked(fix: str, tmp_path: Path) -> None:
    given = _open_sizes()
    given.options = {"search": "annealing", "budget": 20, "threads": 2, "limit": 9.0, "expect": 1,
                     "after": list(AFTER), **({"fix": fix} if fix else {})}
    given = from_text(to_text(given))
    plain = compile(given.model, threads=1, cache=str(tmp_path))
    graph = import_model(given.model)
    judges = [Judge(graph, given.feeds(k)) for k in range(2)]
    check_asked(given, plain, judges, str(tmp_path))
    if fix != "constants":
        with pytest.raises(Failure, match="wrong"):
            check_asked(given, plain, [Judge(graph, given.feeds(1)), judges[1]], str(tmp_path))


def test_what_fails_with_options_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Compiled, node: object) -> str:
        raise ZeroDivisionError("nothing is left")

    given = _open_sizes()
    given.options = {"search": "none", "threads": 1, "fix": "sizes", "after": ["explain", "save"]}
    monkeypatch.setattr(Compiled, "explain", broken)
    found = run_case(given, with_peers=False)
    assert found.status == "error" and '"fix": "sizes"' in found.detail
    assert "ZeroDivisionError: nothing is left (test_fuzz.py:" in found.detail
    small = shrink(given, lambda e: run_case(e, with_peers=False).status == "error")
    assert small.options == {"after": ["explain"]} and len(small.model.graph.node) == 1


@pytest.mark.parametrize("fault", dict.fromkeys(FAULTS), ids=lambda f: f.__name__)
def test_faults_change_models(fault: Fault) -> None:
    changed = 0
    for seed in range(30):
        given, once = example(seed), example(seed)
        fault(given.model, np.random.default_rng(seed))
        fault(once.model, np.random.default_rng(seed))
        assert given.model == once.model
        changed += given.model != example(seed).model
    assert changed > 5


def test_broken_models_are_refused_in_words_or_right(tmp_path: Path) -> None:
    found = [run_broken(seed, str(tmp_path)) for seed in range(40)]
    assert {o.status for o in found} == {"passed", "refused in words"}, [
        o.detail for o in found if o.failed]


def test_what_a_broken_model_brings_up_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(broken, "import_model", died)
    found = run_broken(1)
    assert found.failed and "RecursionError: too deep" in found.detail


def test_shrinks_to_the_guilty_node() -> None:
    node = onnx.helper.make_node
    given = _model([node("Exp", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Abs", ["b"], ["c"]),
                    node("Tanh", ["c"], ["d"])], ["a", "d"])

    def fails(e: Example) -> bool:
        return any(n.op_type == "Abs" for n in e.model.graph.node)

    small = shrink(given, fails)
    assert [n.op_type for n in small.model.graph.node] == ["Abs"]
    assert [o.name for o in small.model.graph.output] == ["c"]
    assert list(small.laws) == [i.name for i in small.model.graph.input]
