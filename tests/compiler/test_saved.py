"""Saved models: they run without the compiler, tell what they are, and damage never goes unseen."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import evonnx
from evonnx.compiler.options import check_schedule, fitted
from evonnx.compiler.saved import saved_graph
from evonnx.ir.interp import run
from evonnx.ir.target import Target
from evonnx.runtime.artefact import Archive, open_artefact, write_artefact
from evonnx.runtime.machine import KnownMachine

X = np.arange(6, dtype=np.float32).reshape(2, 3)
W = np.random.default_rng(0).standard_normal((3, 700)).astype(np.float32)


def model() -> onnx.ModelProto:
    """``y = softmax(relu(x * 2) @ w)`` with a symbolic number of rows."""
    nodes = [helper.make_node("Mul", ["x", "f"], ["m"], name="scale"),
             helper.make_node("Relu", ["m"], ["r"]),
             helper.make_node("MatMul", ["r", "w"], ["p"]),
             helper.make_node("Softmax", ["p"], ["y"], axis=1, name="last")]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 700])],
        [numpy_helper.from_array(np.array(2, np.float32), "f"), numpy_helper.from_array(W, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def compiled() -> evonnx.Compiled:
    return evonnx.compile(model(), threads=1)


@pytest.fixture(scope="module")
def want(compiled: evonnx.Compiled) -> np.ndarray:
    return np.asarray(compiled(X))


@pytest.fixture(scope="module")
def file(compiled: evonnx.Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "m.evonnx"
    compiled.save(path)
    return path


def test_a_loaded_model_runs_and_tells(
    compiled: evonnx.Compiled, file: Path, want: np.ndarray
) -> None:
    loaded = evonnx.load(file, threads=1)
    assert np.array_equal(loaded(X), want)
    assert np.array_equal(loaded.run(["y"], {"x": X[:1]})[0], compiled(X[:1]))
    assert loaded.inputs == compiled.inputs and loaded.outputs == compiled.outputs
    assert loaded.schedule == compiled.schedule
    assert loaded.graph.digest == compiled.graph.digest
    assert loaded.imported is loaded.graph
    assert loaded.source == compiled.source
    assert str(loaded.program) == str(compiled.program)
    assert np.array_equal(run(loaded.graph, {"x": X})["y"], run(compiled.graph, {"x": X})["y"])
    assert "softmax" in loaded.explain("last")
    check_schedule(loaded.schedule, loaded.graph)
    assert loaded.profile(X, rounds=1).groups and str(loaded.gantt(X))


def test_the_report_remembers_the_compilation(compiled: evonnx.Compiled, file: Path) -> None:
    loaded = evonnx.load(file)
    loaded(X)
    compiled(X)
    old, new = compiled.report().to_dict(), loaded.report().to_dict()
    same = ("passes", "rules", "nodes", "groups", "cost", "sizes", "dtypes", "search", "target")
    assert {k: new[k] for k in same} == {k: old[k] for k in same}
    assert new["cache"]["program"] == "loaded"
    assert "loaded from an artefact" in str(loaded.report())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_are_chosen_when_loading(file: Path, want: np.ndarray, threads: int) -> None:
    loaded = evonnx.load(file, threads=threads)
    assert loaded.executable.threads == threads
    assert np.array_equal(loaded(X), want)
    with pytest.raises(evonnx.OptionError, match="threads: 1 to"):
        evonnx.load(file, threads=0)


COMPILERS = ("llvmlite",) if platform.machine() == "x86_64" else ()
"""Elsewhere LLVM links."""


def test_loading_compiles_nothing_and_imports_no_compiler(file: Path, want: np.ndarray) -> None:
    KnownMachine().recall()
    script = f"""if True:
        import sys
        import numpy as np
        import evonnx
        loaded = evonnx.load({str(file)!r}, threads=2)
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        y = loaded(x)
        loaded.graph, loaded.schedule, loaded.source
        heavy = {{"numba", "onnx", "rich", "click", *{COMPILERS}}} & set(sys.modules)
        assert not heavy, heavy
        sys.stdout.buffer.write(y.tobytes())
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == want.tobytes()


def test_a_loaded_model_can_be_saved(file: Path, tmp_path: Path, want: np.ndarray) -> None:
    evonnx.load(file, threads=1).save(tmp_path / "again.evonnx")
    assert (tmp_path / "again.evonnx").read_bytes() == file.read_bytes()
    assert np.array_equal(evonnx.load(tmp_path / "again.evonnx", threads=1)(X), want)


def rewritten(file: Path, path: Path, key: str | None = None, **notes: Any) -> Path:
    """The artefact with other notes."""
    with file.open("rb") as old, path.open("wb") as new:
        archive = open_artefact(old)
        constants = {k: archive.constant(k) for k in archive._constants}
        write_artefact(new, key or archive.key, {**archive.notes, **notes}, archive.program,
                       archive.objects(), constants)
    return path


def test_a_foreign_machine_is_refused_or_compiled_for(
    file: Path, tmp_path: Path, want: np.ndarray
) -> None:
    foreign = replace(Target.detect(), name="far", triple="aarch64-unknown-linux-gnu", cpu="apple")
    path = rewritten(file, tmp_path / "far.evonnx", target=str(foreign))
    with pytest.raises(evonnx.ArtefactError, match=r"far.evonnx.*'far' \(aarch64-.*recompile=True"):
        evonnx.load(path)
    again = evonnx.load(path, threads=1, recompile=True)
    assert again.schedule == evonnx.load(file).schedule
    assert again.executable.target.runs_here()
    assert np.array_equal(again(X), want)


def test_settings_of_other_vectors_are_left_to_this_machine(tmp_path: Path, want: np.ndarray
                                                            ) -> None:
    """A micro-tile of the narrow vectors that the file was compiled for."""
    narrow = Target.named("generic")
    plain = evonnx.compile(model(), target=narrow, threads=1, search="none")
    groups = tuple(replace(g, variant=(("columns", 4), ("rows", 2)))
                   if g.implementation == "contract" else g for g in plain.schedule.groups)
    compiled = evonnx.compile(model(), target=narrow, threads=1,
                              schedule=replace(plain.schedule, groups=groups))
    compiled.save(tmp_path / "narrow.evonnx")
    again = evonnx.load(tmp_path / "narrow.evonnx", threads=1, recompile=True)
    assert np.allclose(again(X), want, rtol=1e-5)
    wide = fitted(compiled.schedule, compiled.graph, Target.named("zen5-2core"))
    settings = [dict(g.variant) for g in wide.groups if g.implementation == "contract"]
    assert settings == [{"rows": 2}]
    assert fitted(compiled.schedule, compiled.graph, narrow) == compiled.schedule


def test_the_weights_of_the_ir_may_stay_behind(
    compiled: evonnx.Compiled, file: Path, tmp_path: Path, want: np.ndarray
) -> None:
    small = tmp_path / "small.evonnx"
    compiled.save(small, recompilable=False)
    assert small.stat().st_size < file.stat().st_size - W.nbytes // 2
    loaded = evonnx.load(small, threads=1)
    assert np.array_equal(loaded(X), want)
    assert loaded.graph.digest == compiled.graph.digest
    with pytest.raises(evonnx.ArtefactError, match="without the weights"):
        evonnx.load(small, recompile=True)
    with pytest.raises(evonnx.ArtefactError, match="without the weights"):
        run(loaded.graph, {"x": X})


def test_damage_of_any_kind_is_seen(file: Path, tmp_path: Path, want: np.ndarray) -> None:
    """Flipped bits, zeroed and moved pieces, cuts: the file is refused, or what changed was
    padding and every answer is right."""
    data = file.read_bytes()
    weights = run(saved_graph(file), {"x": X})["y"]
    rng = np.random.default_rng(0)
    path = tmp_path / "broken.evonnx"
    refused = 0
    for _ in range(400):
        path.write_bytes(damaged(data, rng))
        try:
            loaded = evonnx.load(path, threads=1)
            assert np.array_equal(loaded(X), want)
            assert np.array_equal(run(loaded.graph, {"x": X})["y"], weights)
        except evonnx.ArtefactError:
            refused += 1
    assert refused > 200


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    broken = bytearray(data)
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 200))
    if rng.random() < 0.3:
        at = int(rng.integers(200))  # the beginning decides about everything else
    match rng.integers(6):
        case 0:
            broken[at] ^= 1 << int(rng.integers(8))
        case 1:
            broken[at : at + size] = bytes(len(broken[at : at + size]))
        case 2:
            broken[at : at + size] = rng.bytes(len(broken[at : at + size]))
        case 3:
            del broken[at:]
        case 4:
            del broken[at : at + size]
        case _:
            broken[at:at] = rng.bytes(size)
    return bytes(broken)


def test_nonsense_under_a_right_checksum_is_refused(
    file: Path, tmp_path: Path, want: np.ndarray
) -> None:
    """Another writer's head: it is read as it is meant, or refused, never an error of ours."""
    data = file.read_bytes()
    size, start = int.from_bytes(data[18:26], "little"), 58
    head = json.loads(data[start : start + size])
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        text = json.dumps(mutated(head, rng), separators=(",", ":")).encode().ljust(size)[:size]
        digest = hashlib.sha256(text).digest()
        path = tmp_path / "odd.evonnx"
        path.write_bytes(data[:26] + digest + text + data[start + size :])
        try:
            saved_graph(path)
            with path.open("rb") as stream:
                archive = open_artefact(stream)
            archive.objects(), archive.constants()
        except evonnx.ArtefactError:
            refused += 1
    assert refused > 100


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """The JSON value with one of its parts, anywhere, replaced by another value."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        chosen = list(keys)[rng.integers(len(value))]
        if isinstance(value, dict):
            return {k: mutated(v, rng) if k == chosen else v for k, v in value.items()}
        return [mutated(v, rng) if k == chosen else v for k, v in enumerate(value)]
    return [None, -1, 1 << 40, 0.5, "", "x", [], {}, [[0]], True][rng.integers(10)]


def test_what_is_no_saved_model_is_refused(
    file: Path, tmp_path: Path, compiled: evonnx.Compiled
) -> None:
    def refuse(path: Path, reason: str) -> None:
        for recompile in (False, True):
            with pytest.raises(evonnx.ArtefactError, match=reason) as caught:
                evonnx.load(path, recompile=recompile)
            assert path.name in str(caught.value)

    refuse(tmp_path / "absent", "No such file")
    refuse(tmp_path, "Is a directory")
    onnx.save(model(), tmp_path / "m.onnx")
    refuse(tmp_path / "m.onnx", "not an EvoNNX artefact")
    (tmp_path / "empty").write_bytes(b"")
    refuse(tmp_path / "empty", "not an EvoNNX artefact")
    other = file.read_bytes().replace(b"evonnx artefact 5\n", b"evonnx artefact 9\n", 1)
    (tmp_path / "newer").write_bytes(other)
    refuse(tmp_path / "newer", "format 9 of artefacts; this version reads format 5")
    refuse(rewritten(file, tmp_path / "entry", "some key"), "an entry of the compile cache")
    refuse(rewritten(file, tmp_path / "odd", target="fast"), "target")
    with file.open("rb") as stream:
        assert isinstance(open_artefact(stream), Archive)


def test_unreadable_ir_is_seen_when_it_is_read(
    file: Path, tmp_path: Path, want: np.ndarray
) -> None:
    path = rewritten(file, tmp_path / "ir", ir="graph {", past={})
    loaded = evonnx.load(path, threads=1)
    assert np.array_equal(loaded(X), want)
    with pytest.raises(evonnx.ArtefactError, match="not readable by this version"):
        _ = loaded.graph


def test_a_file_is_written_whole_or_not_at_all(
    compiled: evonnx.Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(evonnx.ArtefactError, match=r"cannot write .*absent.*No such file"):
        compiled.save(tmp_path / "absent" / "m.evonnx")

    def fail(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evonnx.compiler.saved.write_artefact", fail)
    (tmp_path / "m.evonnx").write_text("old")
    with pytest.raises(evonnx.ArtefactError, match="No space left"):
        compiled.save(tmp_path / "m.evonnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.evonnx"]
    assert (tmp_path / "m.evonnx").read_text() == "old"


def test_a_model_of_several_programs_saves_one(tmp_path: Path) -> None:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
                      helper.make_tensor_value_info("axes", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    several = evonnx.compile(proto, threads=1)
    feeds = {"x": X, "axes": np.array([1])}
    with pytest.raises(evonnx.ArtefactError, match=r"save version_for\(feeds\)"):
        several.save(tmp_path / "m.evonnx")
    one = several.version_for(feeds)
    one.save(tmp_path / "m.evonnx")
    loaded = evonnx.load(tmp_path / "m.evonnx", threads=1)
    assert np.array_equal(loaded.run(None, {"x": X})[0], X.sum(1, keepdims=True))


def test_control_flow_strings_and_late_sizes_survive(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "s"], ["t"]), helper.make_node("Identity", ["c"], ["d"])],
        "body", [helper.make_tensor_value_info("i", TensorProto.INT64, []),
                 helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                 helper.make_tensor_value_info("s", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []),
         helper.make_tensor_value_info("t", TensorProto.FLOAT, [3])],
    )  # fmt: skip
    nodes = [helper.make_node("Loop", ["n", "", "v"], ["y"], body=body),
             helper.make_node("NonZero", ["y"], ["z"]),
             helper.make_node("StringConcat", ["a", "b"], ["w"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("n", TensorProto.INT64, []),
                     helper.make_tensor_value_info("v", TensorProto.FLOAT, [3]),
                     helper.make_tensor_value_info("a", TensorProto.STRING, ["k"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3]),
         helper.make_tensor_value_info("z", TensorProto.INT64, None),
         helper.make_tensor_value_info("w", TensorProto.STRING, ["k"])],
        [helper.make_tensor("b", TensorProto.STRING, [1], [b"!"])],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    compiled = evonnx.compile(proto, threads=1)
    compiled.save(tmp_path / "m.evonnx")
    feeds = {"n": np.array(3), "v": np.array([0, 1, 2], np.float32),
             "a": np.array(["u", "v"], object)}  # fmt: skip
    for loaded in (evonnx.load(tmp_path / "m.evonnx"),
                   evonnx.load(tmp_path / "m.evonnx", recompile=True)):  # fmt: skip
        for got, wanted in zip(loaded.run(None, feeds), compiled.run(None, feeds), strict=True):
            assert np.array_equal(got, wanted)
