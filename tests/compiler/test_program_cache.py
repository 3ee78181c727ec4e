"""Whole programs from the cache: found by content and options, loaded without the compiler."""

from __future__ import annotations

import itertools
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import evonnx
from evonnx.ir.errors import ModelError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(factor: float = 2.0) -> onnx.ModelProto:
    """``y = relu(x * factor) @ w``; the weights are worth a file of their own."""
    w = np.full((3, 20_000), 0.5, np.float32)
    nodes = [helper.make_node("Mul", ["x", "f"], ["m"]), helper.make_node("Relu", ["m"], ["r"]),
             helper.make_node("MatMul", ["r", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 20_000])],
        [numpy_helper.from_array(np.array(factor, np.float32), "f"),
         numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def found(compiled: Any) -> str:
    return str(compiled.report().program)


@pytest.mark.parametrize("form", ["path", "bytes", "proto"])
def test_hit(form: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    given: Any = {"path": path, "bytes": path.read_bytes(), "proto": model()}[form]
    first = evonnx.compile(given, cache=tmp_path / "c", threads=1)
    again = evonnx.compile(given, cache=tmp_path / "c", threads=1)
    want = first(X)
    assert np.array_equal(want, np.maximum(X * 2, 0) @ np.full((3, 20_000), 0.5, np.float32))
    assert np.array_equal(again(X), want)
    assert (found(first), found(again)) == ("not in the cache", "cached")
    assert again.graph.digest == first.graph.digest
    assert again.imported.digest == first.imported.digest
    assert again.schedule == first.schedule
    assert again.source == first.source
    assert again.explain(0) == first.explain(0)
    assert again.inputs == first.inputs
    assert str(again.program) == str(first.program)


@pytest.mark.parametrize("change", [
    {"sizes": {"n": 2}}, {"shapes": {"x": (2, 3)}}, {"constants": {"x": X}}, {"target": "generic"},
    {"pipeline": "fold"}, {"model": model(3.0)},
], ids=lambda c: next(iter(c)))  # fmt: skip
def test_every_option_is_in_the_key(change: dict[str, Any], tmp_path: Path) -> None:
    options = {"model": model(), **change}
    evonnx.compile(model(), cache=tmp_path, threads=1)
    changed = evonnx.compile(options.pop("model"), cache=tmp_path, threads=1, **options)
    assert found(changed) == "not in the cache"


def test_threads_share_an_entry(tmp_path: Path) -> None:
    one = evonnx.compile(model(), cache=tmp_path, threads=1)
    two = evonnx.compile(model(), cache=tmp_path, threads=2)
    assert found(two) == "cached"
    assert two.executable.threads == 2
    assert np.array_equal(one(X), two(X))


def test_a_schedule_is_in_the_key(tmp_path: Path) -> None:
    first = evonnx.compile(model(), cache=tmp_path, threads=1)
    replayed = evonnx.compile(model(), cache=tmp_path, threads=1, schedule=first.schedule)
    assert found(replayed) == "not in the cache"
    again = evonnx.compile(model(), cache=tmp_path, threads=1, schedule=str(first.schedule))
    assert found(again) == "cached"
    assert np.array_equal(again(X), first(X))


def test_off_and_check(tmp_path: Path) -> None:
    assert found(evonnx.compile(model(), cache=False)) == "cache is off"
    evonnx.compile(model(), cache=tmp_path)
    assert "check" in found(evonnx.compile(model(), cache=tmp_path, check=True))


def save_external(path: Path, factor: float) -> None:
    proto = model(factor)
    onnx.save_model(proto, str(path), save_as_external_data=True, location="w.bin",
                    size_threshold=1000)  # fmt: skip


def test_changed_data_files_are_noticed(tmp_path: Path) -> None:
    path, cache = tmp_path / "m.onnx", tmp_path / "c"
    save_external(path, 2.0)
    evonnx.compile(path, cache=cache)
    assert found(evonnx.compile(path, cache=cache)) == "cached"
    raw = bytearray((tmp_path / "w.bin").read_bytes())
    raw[:4] = np.float32(100).tobytes()
    (tmp_path / "w.bin").write_bytes(raw)
    changed = evonnx.compile(path, cache=cache)
    assert "w.bin" in found(changed)
    assert changed(X)[1, 0] == (3 * 100 + 4 * 0.5 + 5 * 0.5) * 2
    assert found(evonnx.compile(path, cache=cache)) == "cached"


def test_the_same_model_with_other_data(tmp_path: Path) -> None:
    """Equal model files in two folders, each with data of its own."""
    for name, value in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        save_external(tmp_path / name / "m.onnx", 2.0)
        (tmp_path / name / "w.bin").write_bytes(np.full(60_000, value, np.float32).tobytes())
    for name, value in (("a", 1.0), ("b", 3.0), ("a", 1.0)):
        compiled = evonnx.compile(tmp_path / name / "m.onnx", cache=tmp_path / "c")
        assert compiled(X)[1, 0] == 24 * value


def test_a_model_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    evonnx.compile(path, cache=tmp_path / "c")
    cached = evonnx.compile(path, cache=tmp_path / "c")
    path.write_bytes(model(3.0).SerializeToString())
    assert cached(X)[0, 1] == 3.0
    with pytest.raises(ModelError, match="changed"):
        _ = cached.graph
    path.unlink()
    with pytest.raises(ModelError, match="cannot read"):
        cached.report()


def test_a_damaged_entry_is_made_anew(tmp_path: Path) -> None:
    evonnx.compile(model(), cache=tmp_path, threads=1)
    (entry,) = [p for p in (tmp_path / "programs").rglob("*") if p.is_file()]
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-100])
    assert "damaged" in found(evonnx.compile(model(), cache=tmp_path, threads=1))
    assert found(evonnx.compile(model(), cache=tmp_path, threads=1)) == "cached"


RUN = """
import os, resource, signal, sys
import numpy as np
import evonnx
from evonnx.runtime import store
{before}
compiled = evonnx.compile(sys.argv[1], cache=sys.argv[2], threads=1)
y = compiled(np.arange(6, dtype=np.float32).reshape(2, 3))
assert y.shape == (2, 20000) and (y[0] == 3).all() and (y[1] == 12).all(), y
print(compiled.report().program)
"""


def in_a_process(tmp_path: Path, before: str = "", cache: str = "c") -> subprocess.Popen[str]:
    """Compiles ``model()`` with a cache below ``tmp_path`` and runs it."""
    path = tmp_path / "m.onnx"
    if not path.exists():
        path.write_bytes(model().SerializeToString())
    command = [sys.executable, "-c", RUN.format(before=before), str(path), str(tmp_path / cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.strip()


def entries(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.parent.parent == folder]


def test_two_processes_at_once(tmp_path: Path) -> None:
    both = [in_a_process(tmp_path) for _ in range(2)]
    assert {said(p) for p in both} <= {"not in the cache", "cached"}
    (entry,) = entries(tmp_path / "c" / "programs")
    assert not entry.name.startswith(".new-")
    assert said(in_a_process(tmp_path)) == "cached"


def test_a_process_that_is_killed_while_it_writes(tmp_path: Path) -> None:
    """What it leaves is nobody's entry."""
    killed = in_a_process(tmp_path, """
def half(file, *arguments):
    file.write(bytes(5000))
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
store.write_artefact = half
""")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = entries(tmp_path / "c" / "programs")
    assert (left.name[:5], left.stat().st_size) == (".new-", 5000)
    assert [said(in_a_process(tmp_path)) for _ in range(2)] == ["not in the cache", "cached"]


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The system refuses to write more than some bytes into a file: half an entry is removed."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))"
    folder = tmp_path / "c" / "programs"
    answer = said(in_a_process(tmp_path, limit))
    assert answer == f"not in the cache; not kept: cannot write to {folder}: File too large"
    assert entries(folder) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file in the way")
    why = f"cannot use {tmp_path / 'c' / 'below' / 'programs'}: Not a directory"
    assert said(in_a_process(tmp_path, cache="c/below")) == f"{why}; not kept: {why}"


def test_a_hit_imports_no_compiler(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    compile_it = (f"import evonnx, sys; c = evonnx.compile({str(path)!r}, "
                  f"cache={str(tmp_path / 'c')!r})\n")  # fmt: skip
    subprocess.run([sys.executable, "-c", compile_it], check=True)
    compilers = ("llvmlite",) if platform.machine() == "x86_64" else ()  # elsewhere LLVM links
    script = (
        f"{compile_it}"
        "import numpy as np\n"
        "assert c(np.ones((2, 3), np.float32)).shape == (2, 20000)\n"
        f"heavy = {{'onnx', 'numba', 'networkx', *{compilers}}}\n"
        "assert not heavy & set(sys.modules), sorted(sys.modules)\n"
        "assert c.report().program == 'cached'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cosines(first: str, last: str, count: int = 70) -> list[onnx.NodeProto]:
    """A chain of operations, enough for workers, in few kernels."""
    names = [first, *(f"{last}_{k}" for k in range(1, count)), last]
    return [helper.make_node("Cos", [a], [b]) for a, b in itertools.pairwise(names)]


def long_model() -> onnx.ModelProto:
    """Enough operations for workers."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [8]) for n in ("x", "y")]
    graph = helper.make_graph(cosines("x", "y"), "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def nested_model() -> onnx.ModelProto:
    """The same chain in a branch: two operations outside, of which one decides."""
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [8]) for n in "xyz")
    branch = helper.make_graph(cosines("x", "y"), "long", [], [y])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "short", [], [z])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "hundred"], ["small"]),
        helper.make_node("If", ["small"], ["r"], then_branch=branch, else_branch=other),
    ]
    out = helper.make_tensor_value_info("r", TensorProto.FLOAT, [8])
    hundred = helper.make_tensor("hundred", TensorProto.FLOAT, [], [100.0])
    graph = helper.make_graph(nodes, "g", [x], [out], [hundred])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("model", [long_model, nested_model])
def test_a_cold_compilation_leaves_the_compiler_to_others(
    model: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    """From a script without a guard, which nobody may run twice; nothing of it is left over."""
    path, script = tmp_path / "m.onnx", tmp_path / "script.py"
    path.write_bytes(model().SerializeToString())
    script.write_text(
        "import sys, evonnx, numpy as np\n"
        "print('begin')\n"
        "told = []\n"
        f"c = evonnx.compile({str(path)!r}, cache={str(tmp_path / 'c')!r}, "
        "progress=lambda *a: told.append(a))\n"
        "print(c(np.zeros(8, np.float32))[3], told[-1][0], c.report().program)\n"
        "print({'numba', 'llvmlite.binding'} & set(sys.modules))\n"
        "print(open(f'/proc/self/task/{__import__(\"os\").getpid()}/children').read().split())\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    value = np.float32(0)
    for _ in range(70):
        value = np.cos(value)
    lines = done.stdout.splitlines()
    assert lines[0] == "begin" and len(lines) == 4, done.stderr
    assert abs(float(lines[1].split()[0]) - value) < 1e-5
    assert lines[1].split()[1:] == ["keep", "not", "in", "the", "cache"]
    if platform.machine() == "x86_64":  # elsewhere LLVM links
        assert lines[2] == "set()"
    assert lines[3] == "[]"
