"""Programs compiled per value that is fed: axes, block shapes, ranks, against ONNX's reference."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import evonnx
from evonnx.compiler import specialize
from evonnx.compiler.cli import app
from evonnx.compiler.importer import import_model
from evonnx.compiler.needs import DependsOnFeeds

F, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Feeds = dict[str, Any]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def info(name: str, kind: int, shape: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes: Sequence[Any], inputs: Mapping[str, tuple[int, Any]], opset: int = 20,
             constants: Mapping[str, np.ndarray] | None = None, output: str = "y"
             ) -> onnx.ModelProto:  # fmt: skip
    held = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(
        nodes, "g", [info(n, k, s) for n, (k, s) in inputs.items()],
        [onnx.ValueInfoProto(name=output)], held,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def one(op: str, feeds: Feeds, opset: int = 20, symbolic: bool = True, **attrs: Any
        ) -> onnx.ModelProto:  # fmt: skip
    """A model of one node; every input fed, arrays of symbolic sizes."""
    def shape(name: str, a: np.ndarray) -> list[Any]:
        return [f"{name}{k}" for k in range(a.ndim)] if symbolic else list(a.shape)

    inputs = {n: (helper.np_dtype_to_tensor_dtype(a.dtype), shape(n, a))
              for n, a in feeds.items() if a is not None}  # fmt: skip
    names = [n if a is not None else "" for n, a in feeds.items()]
    return model_of([helper.make_node(op, names, ["y"], **attrs)], inputs, opset)


def agree(compiled: evonnx.Compiled, model: onnx.ModelProto, feeds: Feeds) -> None:
    feeds = {n: a for n, a in feeds.items() if a is not None}
    want = ReferenceEvaluator(model).run(None, feeds)
    for got, expected in zip(compiled.run(None, feeds), want, strict=True):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def check(model: onnx.ModelProto, *calls: Feeds, versions: int) -> evonnx.Compiled:
    compiled = evonnx.compile(model)
    for feeds in calls:
        agree(compiled, model, feeds)
    found = compiled.report().versions
    assert (0 if found is None else found.compiled) == versions
    return compiled


# -- operators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSumExp",
                                "ReduceMean"])  # fmt: skip
def test_reductions(op: str) -> None:
    model = one(op, {"x": X, "axes": ints(0)}, keepdims=0)
    calls = [{"x": X, "axes": a} for a in (ints(0), ints(1, -1), ints(), ints(0))]
    check(model, *calls, versions=3)


def test_new_sizes_never_compile_again() -> None:
    model = one("ReduceSum", {"x": X, "axes": ints(1)})
    wider = RNG.standard_normal((5, 1, 9)).astype(np.float32)
    check(model, {"x": X, "axes": ints(1)}, {"x": wider, "axes": ints(1)}, versions=1)


@pytest.mark.parametrize(("op", "axes"), [
    ("Unsqueeze", [ints(0), ints(1, 3), ints(-1)]),
    ("Squeeze", [ints(0), ints(-2)]),
    ("CumSum", [np.array(0), np.array(2)]),
])  # fmt: skip
def test_axes(op: str, axes: list[np.ndarray]) -> None:
    x = X if op != "Squeeze" else X[:1, :1]
    model = one(op, {"x": x, "axes": axes[0]}, symbolic=op != "Squeeze")
    check(model, *({"x": x, "axes": a} for a in axes), versions=len(axes))


def test_slice_axes_and_steps_but_not_bounds() -> None:
    feeds = {"x": X, "starts": ints(0), "ends": ints(2), "axes": ints(1), "steps": ints(1)}
    moved = feeds | {"starts": ints(-1), "ends": ints(99)}
    back = feeds | {"starts": ints(-1), "ends": ints(-99), "axes": ints(2), "steps": ints(-2)}
    two = {"x": X, "starts": ints(0, 1), "ends": ints(1, 2), "axes": ints(0, 1),
           "steps": ints(1, 1)}  # fmt: skip
    check(one("Slice", feeds), feeds, moved, back, two, versions=3)


def test_pad_axes() -> None:
    feeds = {"x": X, "pads": ints(1, 2), "value": np.array(7, np.float32), "axes": ints(1)}
    more = feeds | {"pads": ints(0, 4)}
    last = feeds | {"axes": ints(-1)}
    check(one("Pad", feeds), feeds, more, last, versions=2)


def test_transforms() -> None:
    signal = RNG.standard_normal((2, 6, 5, 1)).astype(np.float32)
    feeds = {"x": signal, "n": None, "axis": np.array(1)}
    check(one("DFT", feeds, symbolic=False), feeds, feeds | {"axis": np.array(-2)}, versions=2)
    wave = RNG.standard_normal((1, 64, 1)).astype(np.float32)
    feeds = {"x": wave, "step": np.array(8), "window": None, "length": np.array(16)}
    check(one("STFT", feeds, symbolic=False), feeds, feeds | {"step": np.array(4)}, versions=2)


def test_col2im_block() -> None:
    columns = RNG.standard_normal((1, 5, 5)).astype(np.float32)
    feeds = {"x": columns, "image": ints(5, 5), "block": ints(1, 5)}
    check(one("Col2Im", feeds, symbolic=False), feeds, feeds | {"block": ints(5, 1)}, versions=2)


@pytest.mark.parametrize("attrs", [
    {"mode": "linear", "antialias": 1}, {"mode": "cubic", "exclude_outside": 1},
    {"mode": "nearest", "keep_aspect_ratio_policy": "not_larger"},
])  # fmt: skip
def test_resize_to_sizes_that_need_tables(attrs: dict[str, Any]) -> None:
    image = RNG.standard_normal((1, 1, 8, 6)).astype(np.float32)
    feeds = {"x": image, "roi": None, "scales": None, "sizes": ints(1, 1, 5, 3)}
    model = one("Resize", feeds, symbolic=False, **attrs)
    check(model, feeds, feeds | {"sizes": ints(1, 1, 4, 5)}, versions=2)


def test_resize_of_a_region() -> None:
    image = RNG.standard_normal((1, 1, 8, 6)).astype(np.float32)
    feeds = {"x": image, "roi": floats(0, 0, 0.4, 0.6, 1, 1, 0.6, 1.7), "scales": None,
             "sizes": ints(1, 1, 4, 5)}  # fmt: skip
    model = one("Resize", feeds, symbolic=False, mode="linear", extrapolation_value=9.0,
                coordinate_transformation_mode="tf_crop_and_resize")  # fmt: skip
    check(model, feeds, feeds | {"roi": floats(0, 0, 0, 0, 1, 1, 0.5, 0.5)}, versions=2)


def test_upsample() -> None:
    feeds = {"x": RNG.standard_normal((1, 1, 2, 3)).astype(np.float32),
             "scales": floats(1, 1, 2, 3)}  # fmt: skip
    compiled = evonnx.compile(one("Upsample", feeds, opset=9, symbolic=False, mode="nearest"))
    for y, x in ((2, 3), (3, 1)):
        want = feeds["x"].repeat(y, 2).repeat(x, 3)
        np.testing.assert_array_equal(compiled(feeds["x"], floats(1, 1, y, x)), want)
    assert compiled.report().versions.compiled == 2  # type: ignore[union-attr]


def test_resize_by_scales_without_tables_is_one_program() -> None:
    image = RNG.standard_normal((1, 1, 8, 6)).astype(np.float32)
    feeds = {"x": image, "roi": None, "scales": floats(1, 1, 0.6, 1.5)}
    for mode in ("half_pixel", "half_pixel_symmetric"):
        model = one("Resize", feeds, symbolic=False, mode="linear",
                    coordinate_transformation_mode=mode)  # fmt: skip
        check(model, feeds, feeds | {"scales": floats(1, 1, 2.2, 1)}, versions=0)


def test_mel_weights() -> None:
    feeds = {"mels": np.array(4), "dft": np.array(16), "rate": np.array(8000),
             "low": np.array(0, np.float32), "high": np.array(4000, np.float32)}  # fmt: skip
    check(one("MelWeightMatrix", feeds), feeds, feeds | {"mels": np.array(3)}, versions=2)


def test_branches_of_different_ranks() -> None:
    def branch(op: str, **attrs: Any) -> Any:
        node = helper.make_node(op, ["x"], ["r"], **attrs)
        return helper.make_graph([node], "b", [], [onnx.ValueInfoProto(name="r")])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("ReduceSum", keepdims=0),
                            else_branch=branch("Relu"))  # fmt: skip
    model = model_of([node], {"x": (F, ["A", "B", "C"]), "c": (BOOL, [])})
    check(model, *({"x": X, "c": np.array(c)} for c in (True, False, True)), versions=2)


# -- one program for all values ----------------------------------------------------------------


def test_depth_and_ramp_of_floats_are_sizes() -> None:
    feeds = {"i": ints(0, 2, -1), "depth": np.array(4, np.float32), "v": floats(0, 1)}
    check(one("OneHot", feeds), feeds, feeds | {"depth": np.array(7, np.float32)}, versions=0)
    feeds = {"a": np.array(0.5, np.float32), "b": np.array(3, np.float32),
             "d": np.array(0.75, np.float32)}  # fmt: skip
    down = {"a": np.array(3, np.float32), "b": np.array(0, np.float32),
            "d": np.array(-0.5, np.float32)}  # fmt: skip
    check(one("Range", feeds), feeds, down, feeds | {"b": np.array(-3, np.float32)}, versions=0)
    model = model_of([helper.make_node("Range", ["zero", "n", "one"], ["y"])], {"n": (F, [])},
                     constants={"zero": np.float32(0), "one": np.float32(1)})  # fmt: skip
    check(model, {"n": np.array(5, np.float32)}, {"n": np.array(2.5, np.float32)}, versions=0)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("batch", [1, 2])
def test_affine_grids_of_all_sizes(aligned: int, batch: int) -> None:
    for r, first, second in ((2, (4, 5), (3, 7)), (3, (3, 4, 5), (2, 6, 3))):
        theta = RNG.standard_normal((batch, r, r + 1)).astype(np.float32)
        feeds = {"theta": theta, "size": ints(batch, 2, *first)}
        model = one("AffineGrid", feeds, symbolic=False, align_corners=aligned)
        check(model, feeds, feeds | {"size": ints(batch, 2, *second)}, versions=0)
        model = one("AffineGrid", feeds, align_corners=aligned)  # the number of sizes is open
        check(model, feeds, feeds | {"size": ints(batch, 2, *second)}, versions=1)


# -- where the values come from ----------------------------------------------------------------


def test_values_computed_from_inputs() -> None:
    nodes = [helper.make_node("Sub", ["a", "one"], ["b"]),
             helper.make_node("Concat", ["b", "c"], ["axes"], axis=0),
             helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]  # fmt: skip
    inputs = {"x": (F, ["A", "B", "C"]), "a": (INT, [1]), "c": (INT, [1])}
    model = model_of(nodes, inputs, constants={"one": ints(1)})
    calls = [{"x": X, "a": ints(a), "c": ints(c)} for a, c in ((1, 1), (2, 2), (1, 1))]
    compiled = check(model, *calls, versions=2)
    assert [n.input for n in compiled.report().versions.needs] == ["a", "c"]  # type: ignore[union-attr]


def test_values_captured_by_a_loop() -> None:
    nodes = [helper.make_node("ReduceSum", ["s", "axes"], ["q"]),
             helper.make_node("Add", ["s", "q"], ["t"]),
             helper.make_node("Identity", ["c"], ["d"])]  # fmt: skip
    body = helper.make_graph(
        nodes, "b", [info("i", INT, []), info("c", BOOL, []), info("s", F, ["A", "B", "C"])],
        [info("d", BOOL, []), info("t", F, ["A", "B", "C"])],
    )  # fmt: skip
    model = model_of([helper.make_node("Loop", ["n", "true", "x"], ["y"], body=body)],
                     {"x": (F, ["A", "B", "C"]), "axes": (INT, [1]), "n": (INT, [])},
                     constants={"true": np.array(True)})  # fmt: skip
    calls = [{"x": X, "axes": ints(a), "n": np.array(n)} for a, n in ((1, 3), (0, 2), (1, 2))]
    check(model, *calls, versions=2)


def test_needs_that_show_later() -> None:
    nodes = [helper.make_node("ReduceSum", ["x", "a"], ["r"], keepdims=0),
             helper.make_node("Unsqueeze", ["r", "b"], ["y"])]  # fmt: skip
    model = model_of(nodes, {"x": (F, ["A", "B", "C"]), "a": (INT, [1]), "b": (INT, ["K"])})
    compiled = evonnx.compile(model)
    assert [n.input for n in compiled.report().versions.needs] == ["a"]  # type: ignore[union-attr]
    for a, b in ((1, ints(0)), (2, ints(0)), (2, ints(0, 1)), (1, ints(0))):
        agree(compiled, model, {"x": X, "a": ints(a), "b": b})
    found = compiled.report().versions
    assert found is not None and found.compiled == found.kept == 3
    assert [n.input for n in found.needs] == ["a", "b"]


def test_rank_of_an_input_without_a_shape() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Softmax", ["r"], ["y"])]
    model = model_of(nodes, {"x": (F, None)})
    compiled = check(model, {"x": X}, {"x": X[0]}, {"x": X[:, :1]}, versions=2)
    assert compiled([[3.0]]) == [[1.0]] and str(compiled.inputs["x"]) == "any f32"
    fixed = evonnx.compile(model, shapes={"x": ("N", 4)})
    assert str(fixed.inputs["x"]) == "f32[N, 4]" and fixed.report().versions is None


def test_length_of_a_shape() -> None:
    model = one("Reshape", {"x": X, "shape": ints(1)})
    calls = [{"x": X, "shape": s} for s in (ints(6, 4), ints(3, 8), ints(-1), ints(0, 12))]
    check(model, *calls, versions=2)


# -- refusals ----------------------------------------------------------------------------------


def test_values_of_large_inputs_are_refused() -> None:
    nodes = [helper.make_node("ArgMax", ["z"], ["axes"], keepdims=0),
             helper.make_node("ReduceSum", ["x", "axes"], ["y"])]  # fmt: skip
    model = model_of(nodes, {"x": (F, ["A", "B"]), "z": (F, ["P", "Q"])})
    with pytest.raises(evonnx.UnsupportedError, match="axes must be constant") as caught:
        evonnx.compile(model)
    assert not isinstance(caught.value, DependsOnFeeds) and evonnx.check(model)
    static = model_of(nodes, {"x": (F, ["A", "B"]), "z": (F, [1025, 1])})
    with pytest.raises(evonnx.UnsupportedError):
        evonnx.compile(static)


def test_other_gaps_are_reported_at_once() -> None:
    nodes = [helper.make_node("ReduceSum", ["x", "a"], ["r"]),
             helper.make_node("Nobody", ["r"], ["y"], domain="some.where")]  # fmt: skip
    inputs = {"x": (F, ["A", "B"]), "a": (INT, [1])}
    assert evonnx.check(model_of(nodes[:1], inputs, output="r")) == ()
    model = model_of(nodes, inputs)
    model.opset_import.append(helper.make_opsetid("some.where", 1))
    assert [g.node for g in evonnx.check(model)] == ["'y'"]
    with pytest.raises(evonnx.UnsupportedError, match="Nobody") as caught:
        evonnx.compile(model)
    assert not isinstance(caught.value, DependsOnFeeds)


@pytest.mark.parametrize(("feeds", "says"), [
    ({"x": X, "axes": ints(7)}, r"input 'axes' = \[7\]: node 'y': ReduceSum.*axis 7"),
    ({"x": X, "axes": ints(1, 1)}, "repeated"),
    ({"x": X}, "input 'axes' .* is not fed"),
    ({"x": X, "axes": ints(0), "z": X}, "unknown 'z'"),
    ({"x": X, "axes": floats(0)}, "got dtype float32"),
    ({"x": X, "axes": np.zeros((1, 1), np.int64)}, r"got shape \[1, 1\]"),
    ({"x": X, "axes": np.zeros(2000, np.int64)}, "2000 elements"),
    ({"x": X[0], "axes": ints(0)}, "'x'"),
])  # fmt: skip
def test_wrong_feeds(feeds: Feeds, says: str) -> None:
    compiled = evonnx.compile(one("ReduceSum", {"x": X, "axes": ints(0)}))
    with pytest.raises(evonnx.EvonnxError, match=says):
        compiled.run(None, feeds)
    agree(compiled, one("ReduceSum", {"x": X, "axes": ints(0)}), {"x": X, "axes": ints(0)})


def test_before_the_first_call_errors_say_what_to_do() -> None:
    compiled = evonnx.compile(one("ReduceSum", {"x": X, "axes": ints(0)}))
    assert compiled.input_names == ("x", "axes") and compiled.output_names == ("y",)
    for read in ("graph", "schedule", "source", "program", "imported", "outputs", "executable"):
        with pytest.raises(evonnx.EvonnxError, match="constants="):
            getattr(compiled, read)
    with pytest.raises(evonnx.EvonnxError, match="constants="):
        compiled.explain("y")
    with pytest.raises(DependsOnFeeds, match="constants="):
        import_model(one("ReduceSum", {"x": X, "axes": ints(0)}))


def test_a_schedule_needs_the_values() -> None:
    model = one("ReduceSum", {"x": X, "axes": ints(0)})
    fixed = evonnx.compile(model, constants={"axes": ints(0)})
    assert type(fixed) is evonnx.Compiled and fixed.report().versions is None
    with pytest.raises(evonnx.OptionError, match="input 'axes'"):
        evonnx.compile(model, schedule=str(fixed.schedule))
    again = evonnx.compile(model, constants={"axes": ints(0)}, schedule=fixed.schedule)
    np.testing.assert_array_equal(again(X), fixed(X))


def test_constants_without_a_dtype_take_the_declared_one() -> None:
    model = one("ReduceSum", {"x": X, "axes": ints(0)}, keepdims=0)
    fixed = evonnx.compile(model, constants={"axes": [0, 2]})
    np.testing.assert_allclose(fixed(X), X.sum((0, 2)), atol=1e-5)
    with pytest.raises(evonnx.FeedError, match="exactly"):
        evonnx.compile(model, constants={"axes": [0.5]})
    with pytest.raises(evonnx.ModelError, match="is i64, but its constant is float32"):
        evonnx.compile(model, constants={"axes": floats(0)})


def test_a_fixed_size_that_only_a_fixed_input_names() -> None:
    model = one("ReduceSum", {"x": X, "axes": ints(0)}, keepdims=0)
    compiled = evonnx.compile(model, sizes={"axes0": 1})
    np.testing.assert_allclose(compiled(X, ints(1)), X.sum(1), atol=1e-5)
    with pytest.raises(evonnx.FeedError, match=r"i64\[1\], got shape \[2\]"):
        compiled(X, ints(0, 1))


def test_command_line(tmp_path: Path) -> None:
    path, axes = tmp_path / "m.onnx", tmp_path / "axes.npy"
    onnx.save(one("ReduceSum", {"x": X, "axes": ints(0)}), path)
    np.save(axes, ints(2))
    run = CliRunner().invoke
    for value in ("[1]", str(axes)):
        shown = run(app, ["dump", str(path), "--const", f"axes={value}"])
        assert f"axes=[{1 if value == '[1]' else 2}]" in shown.output, shown.output
    report = run(app, ["compile", str(path), "--json"])
    assert json.loads(report.output)["versions"]["needs"][0]["input"] == "axes"
    dims = ["--dim", "x0=2", "--dim", "x1=2", "--dim", "x2=2", "--dim", "axes0=1"]
    checked = run(app, ["run", str(path), "-i", "random", *dims, "--check", "--json"])
    assert checked.exit_code == 0, checked.output
    for wrong in ("axes=one", "=[1]", "axes=null"):
        refused = run(app, ["opt", str(path), "--const", wrong]).exception
        assert isinstance(refused, evonnx.FeedError)
    assert isinstance(run(app, ["opt", str(path)]).exception, DependsOnFeeds)


# -- versions ----------------------------------------------------------------------------------


def test_the_newest_version_is_shown() -> None:
    compiled = evonnx.compile(one("ReduceSum", {"x": X, "axes": ints(0)}))
    before = compiled.report()
    assert "not compiled yet" in str(before)
    assert "value of input 'axes': 'y': ReduceSum" in str(before)
    assert before.to_dict()["versions"]["compiled"] == 0
    first = compiled.version_for({"axes": ints(0)})
    assert compiled.graph is first.graph and first.input_names == ("x",)
    second = compiled.version_for({"axes": ints(1)})
    assert second is not first and compiled.schedule is second.schedule
    assert compiled.version_for({"axes": ints(0)}) is first
    report = compiled.report()
    assert report.versions is not None and report.versions.compiled == 2
    assert report.nodes_after and "2 compiled, 2 kept" in str(report)
    assert "y" in compiled.explain("y") and compiled.source and "2 versions" in repr(compiled)
    fixed = first.version_for({"axes": ints(1)})
    assert fixed is first


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specialize, "LIMIT", 2)
    model = one("ReduceSum", {"x": X, "axes": ints(0)})
    compiled = evonnx.compile(model)
    for a in (0, 1, 0, 2, 0, 1):  # 2 puts 1 out, the last 1 puts 2 out
        agree(compiled, model, {"x": X, "axes": ints(a)})
    found = compiled.report().versions
    assert found is not None and (found.compiled, found.kept, found.limit) == (4, 2, 2)


def test_threads_compile_a_value_once() -> None:
    model = one("ReduceSum", {"x": X, "axes": ints(0)}, keepdims=0)
    compiled = evonnx.compile(model)
    barrier, wrong = threading.Barrier(8), []

    def work(k: int) -> None:
        barrier.wait()
        for n in range(20):
            axis = (k + n) % 3
            if not np.allclose(compiled(X, ints(axis)), X.sum(axis), atol=1e-5):
                wrong.append(axis)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and compiled.report().versions.compiled == 3  # type: ignore[union-attr]


def test_locks_held_elsewhere_do_not_reach_a_child() -> None:
    compiled = evonnx.compile(one("ReduceSum", {"x": X, "axes": ints(0)}, keepdims=0), threads=1)
    assert isinstance(compiled, evonnx.Specialized)
    compiled(X, ints(1))
    with compiled._lock:  # as if another thread was just looking something up
        child = os.fork()
        if child == 0:
            os._exit(0 if np.allclose(compiled(X, ints(1)), X.sum(1), atol=1e-5) else 1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert status == 0


def test_checked_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    from evonnx.compiler import checking

    seen: list[tuple[str, ...]] = []
    original = checking.check_compiled

    def watch(compiled: evonnx.Compiled, *args: Any) -> None:
        seen.append(compiled.input_names)
        original(compiled, *args)

    monkeypatch.setattr(checking, "check_compiled", watch)
    model = one("ReduceSum", {"x": X, "axes": ints(0)})
    compiled = evonnx.compile(model, check=True)
    compiled(X, ints(1))
    assert seen == [("x",)]
    evonnx.compile(model, check={"x": X, "axes": ints(1)})
    assert seen == [("x",), ("x", "axes")]


def test_a_model_that_changed_is_not_mixed_with_the_old_one() -> None:
    model = one("ReduceSum", {"x": X, "axes": ints(0)})
    compiled = evonnx.compile(model)
    compiled(X, ints(0))
    model.graph.node[0].op_type = "ReduceMax"
    np.testing.assert_allclose(compiled(X, ints(0)), X.sum(0, keepdims=True), atol=1e-5)
    with pytest.raises(evonnx.ModelError, match="changed"):
        compiled(X, ints(1))


def test_memory_is_measured_per_version() -> None:
    compiled = evonnx.compile(one("ReduceSum", {"x": X, "axes": ints(0)}))
    assert isinstance(compiled, evonnx.Specialized)
    compiled.measure_memory({"x": X, "axes": ints(0)})
    assert compiled.report().memory.predicted is not None
