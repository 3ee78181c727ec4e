"""``compile`` and ``Compiled``: every way in, every way to feed, and what a wrong call says."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import evonnx
from evonnx.ir.builder import Builder
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType

RNG = np.random.default_rng(5)
W = RNG.standard_normal((8, 6)).astype(np.float32)
BIAS = RNG.standard_normal(6).astype(np.float32)


def mlp(rows: int | str = "N") -> onnx.ModelProto:
    """``y = softmax(relu(x @ W + s + b))`` and ``z = 2 y`` of x[rows, 8] and s[6]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Add", ["m", "s"], ["a"], name="shift"),
        helper.make_node("Add", ["a", "b"], ["c"], name="bias"),
        helper.make_node("Relu", ["c"], ["r"], name="clamp"),
        helper.make_node("Softmax", ["r"], ["y"], name="soft", axis=-1),
        helper.make_node("Add", ["y", "y"], ["z"], name="twice"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mlp",
        [info("x", TensorProto.FLOAT, [rows, 8]), info("s", TensorProto.FLOAT, [6])],
        [info("y", TensorProto.FLOAT, None), info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected(x: np.ndarray, s: np.ndarray) -> np.ndarray:
    r = np.maximum(x @ W + s + BIAS, 0)
    e = np.exp(r - r.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
    return (RNG.standard_normal((rows, 8)).astype(np.float32),
            RNG.standard_normal(6).astype(np.float32))  # fmt: skip


@pytest.fixture(scope="module")
def compiled() -> evonnx.Compiled:
    return evonnx.compile(mlp(), threads=1)


# Ways in -------------------------------------------------------------------------------------


def test_path_bytes_proto_and_graph(tmp_path: Path, compiled: evonnx.Compiled) -> None:
    proto = mlp()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    feeds = dict(zip("xs", draw(3), strict=True))
    want = compiled.run(None, feeds)
    for model in (path, str(path), proto.SerializeToString(), proto, compiled.imported):
        got = evonnx.compile(model, threads=1).run(None, feeds)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("target", ["cpu", "avx2", "generic"])
def test_targets_agree(target: str) -> None:
    if not Target.named(target).runs_here():
        pytest.skip(f"this machine cannot run {target}")
    x, s = draw(4)
    y, _ = evonnx.compile(mlp(), target=target, threads=2)(x, s)
    np.testing.assert_allclose(y, expected(x, s), rtol=1e-5, atol=1e-6)


def test_target_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "machine.target"
    file.write_text(str(Target.named("generic")))
    compiled = evonnx.compile(mlp(), target=file, threads=1)
    assert compiled.executable.target == Target.named("generic")


def test_the_face_is_light_and_complete() -> None:
    script = (
        "import sys, evonnx\n"
        "heavy = {'numpy', 'numba', 'llvmlite', 'onnx', 'rich', 'networkx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in evonnx.__all__: getattr(evonnx, name)\n"
        "assert issubclass(evonnx.FeedError, evonnx.EvonnxError)\n"
        "try: evonnx.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Feeding -------------------------------------------------------------------------------------


def test_positions_names_and_run(compiled: evonnx.Compiled) -> None:
    x, s = draw(5)
    want = expected(x, s)
    for y, z in (compiled(x, s), compiled(x=x, s=s), compiled(x, s=s),
                 compiled.run(None, {"s": s, "x": x}), compiled.run([], {"s": s, "x": x})):
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(z, 2 * want, rtol=1e-5, atol=1e-6)
    z, y = compiled.run(["z", "y"], {"x": x, "s": s})
    np.testing.assert_allclose(z, 2 * want, rtol=1e-5, atol=1e-6)
    (y,) = compiled.run(["y"], {"x": x, "s": s})
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    assert compiled.input_names == ("x", "s")
    assert compiled.output_names == ("y", "z")
    assert str(compiled.inputs["x"]) == "f32[N, 8]"
    assert str(compiled.outputs["z"]) == "f32[N, 6]"


def test_a_single_output_comes_alone_and_any_name_can_be_fed() -> None:
    b = Builder()
    x = b.input("self", TensorType(F32, (3,)))
    compiled = evonnx.compile(b.build({"y": b.op("neg", x)}), threads=1)
    data = np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(compiled(data), -data)
    np.testing.assert_array_equal(compiled(self=data), -data)


def test_a_dictionary_by_position_says_how_to_feed_by_name() -> None:
    b = Builder()
    one = evonnx.compile(b.build({"y": b.op("neg", b.input("x", TensorType(F32, (2,))))}))
    with pytest.raises(evonnx.FeedError, match=r"dictionary.*run\(None, feeds\)"):
        one({"x": np.zeros(2, np.float32)})


def test_inputs_are_read_in_place_and_outputs_are_the_callers() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1 << 20,)))
    compiled = evonnx.compile(b.build({"y": b.op("relu", x), "same": x}), threads=1)
    data = RNG.standard_normal(1 << 20).astype(np.float32)
    first, same = compiled(data)
    kept = first.copy()
    second, _ = compiled(-data)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, np.maximum(-data, 0))
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(same, data)
    strided = np.repeat(data, 2)[::2]  # not dense: copied, not refused
    np.testing.assert_array_equal(compiled(strided)[0], kept)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({"x": np.zeros((2, 8), np.float32)}, "missing 's'"),
        ({"x": np.zeros((2, 8), np.float32), "s": np.zeros(6, np.float32), "t": 1}, "unknown 't'"),
        ({"x": np.zeros((2, 8)), "s": np.zeros(6, np.float32)}, "float64"),
        ({"x": np.zeros((2, 8), np.int32), "s": np.zeros(6, np.float32)}, "int32"),
        ({"x": np.zeros(8, np.float32), "s": np.zeros(6, np.float32)}, r"f32\[N, 8\].*\[8\]"),
        ({"x": np.zeros((2, 9), np.float32), "s": np.zeros(6, np.float32)}, "axis 1 has size 9"),
        ({"x": np.zeros((2, 8), np.float32), "s": np.zeros(5, np.float32)}, "size 5, expected 6"),
        ({"x": [[1, "a"]], "s": np.zeros(6, np.float32)}, "'x'"),
    ],
)
def test_wrong_feeds(compiled: evonnx.Compiled, feeds: dict[str, Any], says: str) -> None:
    with pytest.raises(evonnx.FeedError, match=says):
        compiled.run(None, feeds)


def test_wrong_calls(compiled: evonnx.Compiled) -> None:
    x, s = draw(2)
    with pytest.raises(evonnx.FeedError, match="3 arrays, but the inputs are: x, s"):
        compiled(x, s, s)
    with pytest.raises(evonnx.FeedError, match="by position and by name: x"):
        compiled(x, x=x, s=s)
    with pytest.raises(evonnx.FeedError, match=r"feeds: a dictionary of arrays .* not list"):
        compiled.run(None, [np.ones(3)])  # type: ignore[arg-type]
    with pytest.raises(evonnx.FeedError, match="no output 'w'; outputs: 'y', 'z'"):
        compiled.run(["w"], {"x": x, "s": s})
    with pytest.raises(evonnx.FeedError, match="output_names: a list of names, not 'y' alone"):
        compiled.run("y", {"x": x, "s": s})


# Sizes ---------------------------------------------------------------------------------------


def test_new_sizes_compile_nothing(compiled: evonnx.Compiled, monkeypatch: Any) -> None:
    compiled(*draw(2))

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a size led to a compilation")

    monkeypatch.setattr("evonnx.runtime.executable.build", fail)
    monkeypatch.setattr("evonnx.kernels.jit.compile_source", fail)
    for rows in (1, 7, 33, 0, 100):
        x, s = draw(rows)
        y, _ = compiled(x, s)
        assert y.shape == (rows, 6)
        if rows:
            np.testing.assert_allclose(y, expected(x, s), rtol=1e-5, atol=1e-6)


def test_sizes_shapes_and_constants_are_fixed_on_request() -> None:
    x, s = draw(4)
    fixed = evonnx.compile(mlp(), sizes={"N": 4}, threads=1)
    assert str(fixed.inputs["x"]) == "f32[4, 8]"
    np.testing.assert_allclose(fixed(x, s)[0], expected(x, s), rtol=1e-5, atol=1e-6)
    with pytest.raises(evonnx.FeedError, match="size 3, expected 4"):
        fixed(*draw(3))
    named = evonnx.compile(mlp(4), shapes={"x": ["rows", 8]}, threads=1)
    assert str(named.inputs["x"]) == "f32[rows, 8]"
    folded = evonnx.compile(mlp(), constants={"s": s}, threads=1)
    assert folded.input_names == ("x",)
    np.testing.assert_allclose(folded(x)[0], expected(x, s), rtol=1e-5, atol=1e-6)


# Wrong options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "abacus"}, "unknown target 'abacus': known are cpu"),
        ({"target": "absent.target"}, "target file 'absent.target': No such file"),
        ({"target": 3}, "target: a name, a file or a Target, not int"),
        ({"threads": 0}, "threads: 1 to 1024, not 0"),
        ({"threads": -2}, "not -2"),
        ({"threads": 1.5}, "threads: a whole number, not '1.5'"),
        ({"threads": True}, "whole number"),
        ({"threads": 10**9}, "1 to 1024"),
        ({"cache": 1.0}, "cache: True, False or a folder"),
        ({"sizes": {"N": -1}}, "a size is not negative"),
        ({"sizes": {"N": "four"}}, "'four' is not a size"),
        ({"shapes": {"x": "N8"}}, "a list of sizes and names"),
        ({"schedule": 7}, "schedule: a Schedule, its text or a file"),
        ({"sizes": [4]}, "sizes: a dictionary of sizes by name, not list"),
        ({"expect": {"N": "x"}}, r"expect\['N'\]: 'x' is not a size"),
        ({"expect": {"M": 4}}, "expect: the model has no size 'M'; there are 'N'"),
        ({"expect": {"M": 4}, "cache": False}, "the model has no size 'M'"),
        ({"shapes": 3}, "shapes: a dictionary"),
        ({"shapes": {"x": 3}}, "a list of sizes and names, not '3'"),
        ({"constants": [1]}, "constants: a dictionary of arrays by name"),
        ({"check": 3}, "check: a dictionary of feeds .or True, or False. by name, not int"),
        ({"pipeline": 3}, "pipeline: a text or None, not int"),
        ({"progress": 3}, "progress: a function of"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(evonnx.OptionError, match=says):
        evonnx.compile(mlp(), **options)


def test_other_refusals(tmp_path: Path, compiled: evonnx.Compiled) -> None:
    with pytest.raises(evonnx.ModelError, match="no size 'M'; there are 'N'"):
        evonnx.compile(mlp(), sizes={"M": 4})
    with pytest.raises(evonnx.ModelError, match="no input 'q'"):
        evonnx.compile(mlp(), shapes={"q": [4]})
    with pytest.raises(evonnx.OptionError, match="there is no pass 'nonsense'"):
        evonnx.compile(mlp(), pipeline="fold,nonsense")
    with pytest.raises(evonnx.OptionError, match="imported already"):
        evonnx.compile(compiled.graph, sizes={"N": 4})
    with pytest.raises(evonnx.ModelError, match="cannot read the model"):
        evonnx.compile(tmp_path / "absent.onnx")
    bad = tmp_path / "bad.target"
    bad.write_text("nonsense")
    with pytest.raises(evonnx.OptionError, match="unknown or malformed entry"):
        evonnx.compile(mlp(), target=bad)
    elsewhere = Target.named("cpu")
    foreign = Target("far", "sparc64-unknown-linux-gnu", "ultrasparc", vector_bits=128)
    assert elsewhere.runs_here() and not foreign.runs_here()
    with pytest.raises(evonnx.OptionError, match="needs instructions that this machine lacks"):
        evonnx.compile(mlp(), target=foreign)


def test_every_error_is_an_evonnx_error() -> None:
    for name in evonnx.__all__:
        found = getattr(evonnx, name)
        if name.endswith("Error"):
            assert issubclass(found, evonnx.EvonnxError)


# Schedules -----------------------------------------------------------------------------------


def test_a_schedule_replays_from_object_text_and_file(
    compiled: evonnx.Compiled, tmp_path: Path
) -> None:
    file = tmp_path / "s.txt"
    file.write_text(str(compiled.schedule))
    x, s = draw(3)
    want = compiled(x, s)
    for given in (compiled.schedule, str(compiled.schedule), file, str(file)):
        again = evonnx.compile(mlp(), schedule=given, threads=1)
        assert again.schedule == compiled.schedule
        assert again.source == compiled.source
        for a, b in zip(again(x, s), want, strict=True):
            np.testing.assert_array_equal(a, b)


def _groups(text: str) -> tuple[str, list[tuple[str, list[int]]]]:
    """Head line and (implementation, nodes) of each group of a schedule text."""
    head, *lines = text.strip().splitlines()
    found = []
    for line in lines:
        _, _, rest = line.partition("=")
        implementation, _, nodes = rest.strip().partition(" ")
        found.append((implementation, [int(n) for n in nodes.strip(" []").split(",")]))
    return head, found


def _text(head: str, groups: list[tuple[str, list[int]]]) -> str:
    lines = [f"  g{k} = {how} {nodes}" for k, (how, nodes) in enumerate(groups)]
    return "\n".join([head, *lines]) + "\n"


def test_a_group_split_by_hand_gives_the_same_results(compiled: evonnx.Compiled) -> None:
    head, groups = _groups(str(compiled.schedule))
    k = next(i for i, (how, nodes) in enumerate(groups) if how == "contract" and len(nodes) > 1)
    _, nodes = groups[k]
    groups[k : k + 1] = [("contract", nodes[:1]), ("loops", nodes[1:])]
    split = evonnx.compile(mlp(), schedule=_text(head, groups), threads=1)
    assert len(split.schedule.groups) == len(compiled.schedule.groups) + 1
    x, s = draw(6)
    for a, b in zip(split(x, s), compiled(x, s), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_an_illegal_schedule_says_why(compiled: evonnx.Compiled) -> None:
    head, groups = _groups(str(compiled.schedule))

    def refuse(edited: list[tuple[str, list[int]]], says: str, head: str = head) -> None:
        with pytest.raises(evonnx.ScheduleError, match=says):
            evonnx.compile(mlp(), schedule=_text(head, edited), threads=1)

    everything = sorted(n for _, nodes in groups for n in nodes)
    refuse([("contract", everything)], r"group g0 \(dot .*softmax.*\) is not legal: ")
    refuse(groups[::-1], "runs before")
    refuse(groups[:-1], "is in no group")
    refuse([*groups, groups[-1]], "scheduled twice")
    refuse([("opaque", groups[0][1]), *groups[1:]], "runs as contract, not as opaque")
    refuse([*groups, ("loops", [0])], "input is not computed by any group")
    refuse(groups, "the schedule is for graph 0123", "schedule 0123456789abcdef")
    with pytest.raises(evonnx.ScheduleError, match="No such file"):
        evonnx.compile(mlp(), schedule="absent.txt")
    with pytest.raises(evonnx.ParseError, match="line 2"):
        evonnx.compile(mlp(), schedule=f"{head}\n  g0 = magic [4]\n")
    text = str(compiled.schedule).replace("]", "] {mr=8}", 1)
    with pytest.raises(evonnx.ScheduleError, match="it has no mr to choose"):
        evonnx.compile(mlp(), schedule=text)


# Cache, progress, threads --------------------------------------------------------------------


def test_the_second_compilation_finds_everything(tmp_path: Path) -> None:
    first = evonnx.compile(mlp(), cache=tmp_path / "c", threads=1).report()
    second = evonnx.compile(mlp(), cache=str(tmp_path / "c"), threads=1).report()
    assert (first.cache_hits, first.cache_misses) == (0, first.kernels)
    assert first.cache_reasons == {"not in the cache": first.kernels}
    assert (second.cache_hits, second.cache_misses) == (first.kernels, 0)
    off = evonnx.compile(mlp(), cache=False, threads=1).report()
    assert off.cache_reasons == {"cache is off": off.kernels}


def test_a_cached_model_needs_neither_numba_nor_passes(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(mlp(), model)
    script = (
        "import sys, numpy as np, evonnx\n"
        f"c = evonnx.compile({str(model)!r}, cache={str(tmp_path / 'c')!r}, threads=1)\n"
        "c(np.zeros((2, 8), 'f4'), np.zeros(6, 'f4'))\n"
        "heavy = {'numba', 'onnx', 'logging', 'evonnx.passes', 'evonnx.compiler.importer'}\n"
        "print(bool(heavy & set(sys.modules)), c.report().cache_misses)\n"
    )
    said = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        .stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert said[0][0] == "True" and said[0][1] != "0"
    assert said[1] == ["False", "0"]


def test_progress_names_the_stages(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evonnx.compile(mlp(), cache=tmp_path, threads=1, check=True,
                   progress=lambda *step: seen.append(step))  # fmt: skip
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    kept = [s for s in stages if not s.startswith("pass ")]
    assert kept[:2] == ["import", "passes"]
    assert kept.index("schedule") < kept.index("lower") < kept.index("kernels")
    assert kept[-1] == "check"
    assert "pass canon" in stages
    assert all(0 <= done <= total or total == 0 for _, done, total in seen)


def test_calls_from_many_threads(compiled: evonnx.Compiled) -> None:
    shared = evonnx.compile(mlp(), threads=2)
    work = [draw(rows) for rows in (1, 3, 17, 64)]
    wrong: list[str] = []
    start = threading.Barrier(len(work))

    def call(x: np.ndarray, s: np.ndarray) -> None:
        start.wait()
        for _ in range(100):
            y, z = shared(x, s)
            if not np.allclose(y, expected(x, s), rtol=1e-4, atol=1e-6) or not (z == y + y).all():
                wrong.append(f"{len(x)} rows")

    team = [threading.Thread(target=call, args=feeds) for feeds in work]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert not wrong
    assert shared.report().sizes["N"] in (1, 3, 17, 64)


# Control flow --------------------------------------------------------------------------------


def _info(name: str, kind: int, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def test_if_and_loop() -> None:
    """``c ? x @ w : -x``, then doubled ``n`` times by a Loop; the regions are kernels as well."""
    f, i, b = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

    def branch(op: str, *names: str) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node(op, names, ["r"])], op, [], [_info("r", f)])

    body = helper.make_graph(
        [helper.make_node("Add", ["v", "v"], ["v2"]), helper.make_node("Identity", ["k"], ["k2"])],
        "body",
        [_info("it", i, []), _info("k", b, []), _info("v", f, ["N", 4])],
        [_info("k2", b, []), _info("v2", f, ["N", 4])],
    )
    nodes = [
        helper.make_node("If", ["c"], ["p"], then_branch=branch("MatMul", "x", "w"),
                         else_branch=branch("Neg", "x")),
        helper.make_node("Loop", ["n", "c1", "p"], ["q"], body=body),
        helper.make_node("Relu", ["q"], ["y"]),
    ]  # fmt: skip
    w = RNG.standard_normal((4, 4)).astype(np.float32)
    graph = helper.make_graph(
        nodes, "flow",
        [_info("c", b, []), _info("x", f, ["N", 4]), _info("n", i, [])], [_info("y", f)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array(True), "c1")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    compiled = evonnx.compile(model, threads=1, check=True)
    for rows, flag, times in ((2, True, 3), (5, False, 0), (3, False, 2)):
        x = RNG.standard_normal((rows, 4)).astype(np.float32)
        got = compiled(np.array(flag), x, np.array(times))
        want = np.maximum((x @ w if flag else -x) * 2.0**times, 0)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert any("add" in g.ops or "control" in g.implementation for g in compiled.report().groups)


def test_a_compiled_program_is_not_taken_for_a_model(tmp_path: Path) -> None:
    path = tmp_path / "mlp.evonnx"
    evonnx.compile(mlp(), threads=1).save(path)
    with pytest.raises(evonnx.ModelError, match=r"is a compiled program, which evonnx\.load reads"):
        evonnx.compile(path)
