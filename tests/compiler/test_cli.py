"""The command line: what it prints, which exit code it leaves, and what model text cannot do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from evonnx.compiler import cli, console
from evonnx.compiler.feeds import random_feeds, read_feeds, write_arrays
from evonnx.ir.dims import sym
from evonnx.ir.errors import CheckError, FeedError
from evonnx.ir.types import BOOL, F32, I64, STR, TensorType

EVIL = "[red]x[/red]\x1b[2J'\"; import os"


def save(path: Path, nodes: list[onnx.NodeProto], inputs: dict, outputs: list[str]) -> Path:
    """A float32 model at ``path``; ``inputs`` maps names to shapes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """``z = relu(x @ y) + 1`` with a symbolic number of rows."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    nodes = [
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("MatMul", ["x", "y"], ["m"], name="product"),
        helper.make_node("Relu", ["m"], ["r"], name="clamp"),
        helper.make_node("Add", ["r", "one"], ["z"], name="shift"),
    ]
    return save(tmp_path / "model.onnx", nodes, {"x": ["N", 8], "y": [8, 4]}, ["z"])


@pytest.fixture
def unsupported(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name=EVIL, domain="not.there"),
        helper.make_node("Defrobnicate", ["a"], ["z"], name="second", domain="not.there"),
    ]
    path = save(tmp_path / "odd.onnx", nodes, {"x": [2]}, ["z"])
    loaded = onnx.load(path)
    loaded.opset_import.append(helper.make_opsetid("not.there", 1))
    onnx.save(loaded, path)
    return path


class Cli:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        with pytest.raises(SystemExit) as done:
            cli.main([str(a) for a in arguments])
        captured = self._capsys.readouterr()
        return int(done.value.code or 0), captured.out, captured.err


@pytest.fixture
def evonnx(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_a_saved_model_is_run(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    saved, small = tmp_path / "m.evonnx", tmp_path / "small.evonnx"
    assert evonnx("compile", model, "-o", saved, "--threads", "1")[0] == 0
    assert evonnx("compile", model, "-o", small, "--not-recompilable")[0] == 0
    inputs = ("-i", "random", "--dim", "N=3", "--threads", "1", "--json")
    want = json.loads(evonnx("run", model, *inputs)[1])["outputs"]
    for path, *more in ((saved,), (saved, "--check"), (saved, "--recompile"), (small,)):
        code, out, err = evonnx("run", path, *inputs, *more)
        assert code == 0, err
        assert json.loads(out)["outputs"] == want
    assert evonnx("profile", saved, "--dim", "N=3", "--rounds", "1")[0] == 0
    assert "dot" in evonnx("dump", saved)[1]
    assert "everything is supported" in evonnx("check", saved)[1]
    assert "g0 = contract" in evonnx("dump", saved, "--what", "schedule")[1]
    code, _, err = evonnx("run", saved, *inputs, "--fix", "N=3")
    assert code == cli.EXIT_USAGE and "m.evonnx is compiled already: --fix comes" in err
    code, _, err = evonnx("run", model, *inputs, "--recompile")
    assert code == cli.EXIT_USAGE and "--recompile is for saved models" in err
    saved.write_bytes(saved.read_bytes()[:-1])
    code, _, err = evonnx("run", saved, "-i", "random", "--dim", "N=3")
    assert code == cli.EXIT_ERROR and "ArtefactError: " in err and "damaged (cut off)" in err


def test_profile(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    arguments = ("profile", model, "--dim", "N=3", "--rounds", "1", "--threads", "1")
    code, out, _ = evonnx(*arguments, "--trace", trace)
    assert code == 0 and "GFLOP/s" in out and "g0" in out
    assert json.loads(trace.read_text())["traceEvents"]
    data = json.loads(evonnx(*arguments, "--json")[1])
    assert data["groups"][0]["origin"][0] == "product"
    assert evonnx("profile", model)[0] == cli.EXIT_ERROR  # no size for N


def test_gantt(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    arguments = ("dump", model, "--what", "gantt", "--dim", "N=3", "--threads", "1")
    code, out, _ = evonnx(*arguments)
    assert code == 0 and "predicted" in out and "g0" in out
    assert json.loads(evonnx(*arguments, "--json")[1])["bars"][0]["name"] == "g0"
    assert evonnx(*arguments, "-o", tmp_path / "chart.svg")[0] == 0
    assert (tmp_path / "chart.svg").read_text().startswith("<svg")
    assert evonnx("dump", model, "--raw", "--what", "gantt")[0] == cli.EXIT_USAGE


# Starting up ---------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from evonnx.compiler.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'numba', 'llvmlite', 'onnx', 'numpy', 'networkx', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("compile", "run", "opt", "dump", "check", "bench", "calibrate"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    "command", ["compile", "run", "opt", "dump", "check", "bench", "calibrate"]
)
def test_every_command_has_help_and_json(evonnx: Cli, command: str) -> None:
    code, out, _ = evonnx(command, "--help")
    assert code == 0
    assert "--json" in out


# The commands --------------------------------------------------------------------------------


def test_compile_reports(evonnx: Cli, model: Path) -> None:
    code, out, err = evonnx("compile", model, "--json", "--no-cache")
    assert code == 0, err
    assert isinstance(json.loads(out), dict)
    code, out, _ = evonnx("compile", model, "--no-cache")
    assert code == 0
    assert out.strip()


def test_run_computes(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    out_file = tmp_path / "out.npz"
    code, out, err = evonnx(
        "run", model, "--json", "-i", f"x={tmp_path / 'x.npy'}", "-i", "y=0.5", "-o", out_file
    )
    assert code == 0, err
    (row,) = json.loads(out)["outputs"]
    assert (row["name"], row["dtype"], row["shape"]) == ("z", "float32", "[3, 4]")
    expected = np.maximum(x @ np.full((8, 4), 0.5, np.float32), 0) + 1
    np.testing.assert_allclose(np.load(out_file)["z"], expected, rtol=1e-5)
    assert row["max"] == pytest.approx(float(expected.max()), rel=1e-5)


def test_run_with_made_up_inputs_is_repeatable(evonnx: Cli, model: Path) -> None:
    arguments = ("run", model, "-i", "random", "--dim", "N=2", "--json", "--check")
    first, second = evonnx(*arguments), evonnx(*arguments)
    assert first[0] == second[0] == 0, first[2]
    assert json.loads(first[1])["outputs"] == json.loads(second[1])["outputs"]
    other = json.loads(evonnx(*arguments, "--seed", 7)[1])["outputs"]
    assert other != json.loads(first[1])["outputs"]
    code, out, _ = evonnx(*arguments[:6])  # without --json: a table
    assert code == 0
    assert "float32" in out
    assert "[2, 4]" in out


def test_a_size_can_be_fixed(evonnx: Cli, model: Path) -> None:
    code, out, err = evonnx("run", model, "-i", "random", "--fix", "N=3", "--json")
    assert code == 0, err
    assert json.loads(out)["outputs"][0]["shape"] == "[3, 4]"


def test_opt_prints_ir_that_it_reads_back(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    code, text, err = evonnx("opt", model, "-p", "fold,canon")
    assert code == 0, err
    assert "dot" in text
    saved = tmp_path / "saved.ir"
    saved.write_text(text)
    assert evonnx("opt", saved, "-p", "fold,canon")[:2] == (0, text)
    code, out, _ = evonnx("opt", model, "-p", "fold", "--json")
    assert code == 0
    assert {"nodes_before", "nodes_after", "passes", "ir"} <= json.loads(out).keys()
    code, out, err = evonnx("opt", model, "-p", "fold,canon", "--stats", "-o", saved)
    assert (code, out, saved.read_text()) == (0, "", text)
    assert "fold" in err


def test_opt_names_an_unknown_pass(evonnx: Cli, model: Path) -> None:
    code, out, err = evonnx("opt", model, "-p", "fold,nonsense")
    assert code in (cli.EXIT_ERROR, cli.EXIT_USAGE)
    assert not out
    assert "nonsense" in err


@pytest.mark.parametrize("what", ["ir", "dot", "svg", "source", "schedule"])
def test_dump_views(evonnx: Cli, model: Path, what: str, tmp_path: Path) -> None:
    code, out, err = evonnx("dump", model, "--what", what)
    assert code == 0, err
    assert out.strip()
    shown = {"dot": "digraph", "svg": "<svg", "source": "def "}
    assert shown.get(what, "") in out
    file = tmp_path / "out"
    assert evonnx("dump", model, "--what", what, "-o", file)[:2] == (0, "")
    assert file.read_text().strip() == out.strip()
    code, grouped, _ = evonnx("dump", model, "--what", what, "--groups")
    if what in ("dot", "svg"):
        assert code == 0
        assert "g0 " in grouped
    else:
        assert code == cli.EXIT_USAGE


def test_dumped_schedule_replays(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    schedule = tmp_path / "s.txt"
    assert evonnx("dump", model, "--what", "schedule", "-o", schedule)[0] == 0
    code, out, err = evonnx("dump", model, "--what", "schedule", "--schedule", schedule)
    assert code == 0, err
    assert out.strip() == schedule.read_text().strip()
    again = tmp_path / "again.txt"
    assert evonnx("compile", model, "--save-schedule", again)[0] == 0
    assert again.read_text().strip() == out.strip()


def test_dump_exports_onnx(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    assert evonnx("dump", model, "--what", "onnx")[0] == cli.EXIT_USAGE
    out = tmp_path / "optimized.onnx"
    code, _, err = evonnx("dump", model, "--what", "onnx", "-o", out)
    assert code == 0, err
    onnx.checker.check_model(onnx.load(out), full_check=True)
    x = ("-i", "random", "--dim", "N=2", "--json")
    before, after = (json.loads(evonnx("run", m, *x)[1])["outputs"] for m in (model, out))
    assert before[0]["mean"] == pytest.approx(after[0]["mean"], rel=1e-5)


def test_explain_names_a_reason(evonnx: Cli, model: Path) -> None:
    code, out, err = evonnx("dump", model, "--explain", "product")
    assert code == 0, err
    assert out.strip()


def test_check(evonnx: Cli, model: Path, unsupported: Path) -> None:
    assert evonnx("check", model)[0] == 0
    assert json.loads(evonnx("check", model, "--json")[1]) == {"supported": True, "gaps": []}
    code, out, _ = evonnx("check", unsupported, "--json")
    assert code == cli.EXIT_UNSUPPORTED
    gaps = json.loads(out)["gaps"]
    assert [g["node"].strip("'\"") for g in gaps][1] == "second"
    assert "Frobnicate" in gaps[0]["op"]


@pytest.mark.slow
def test_bench_compares(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    code, out, err = evonnx(
        "bench", model, "--dim", "N=4", "--rounds", 1, "--block", 0.01, "--no-cold", "--threads", 1,
        "--engines", "evonnx,onnxruntime", "--json", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    engines = {e["name"]: e for e in result["engines"].values()}
    assert engines["evonnx"]["median"] > 0
    assert engines["onnxruntime"]["median"] > 0
    assert {p.suffix for p in tmp_path.iterdir()} >= {".json", ".md"}


# What goes wrong -----------------------------------------------------------------------------


def test_model_text_drives_neither_markup_nor_terminal(evonnx: Cli, unsupported: Path) -> None:
    for arguments in (("check", unsupported), ("compile", unsupported)):
        code, out, err = evonnx(*arguments)
        assert code == cli.EXIT_UNSUPPORTED
        shown = out + err
        assert "\x1b" not in shown
        assert "[red]x[/red]" in shown


def test_errors_have_codes(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.read_bytes()[:-40])
    code, out, err = evonnx("compile", broken)
    assert (code, out) == (cli.EXIT_ERROR, "")
    assert err.startswith("ModelError: ")
    code, out, _ = evonnx("opt", broken, "--json")
    assert code == cli.EXIT_ERROR
    assert json.loads(out)["error"]["type"] == "ModelError"
    assert evonnx("run", model, "-i", "nobody=1")[0] == cli.EXIT_ERROR
    assert evonnx("run", model, "-i", "x=random", "--dim", "N=2")[0] == cli.EXIT_ERROR
    code, _, err = evonnx("run", model, "-i", "random")
    assert code == cli.EXIT_ERROR
    assert "'N'" in err


def test_usage_errors(evonnx: Cli, model: Path, tmp_path: Path) -> None:
    assert evonnx("compile", tmp_path / "absent.onnx")[0] == cli.EXIT_USAGE
    assert evonnx("compile", model, "--target", "abacus")[0] == cli.EXIT_USAGE
    assert evonnx("run", model, "--dim", "N")[0] == cli.EXIT_USAGE
    assert evonnx("run", model, "--fix", "N=x")[0] == cli.EXIT_USAGE
    assert evonnx("frobnicate")[0] == cli.EXIT_USAGE
    assert evonnx("dump", model, "--raw", "--what", "source")[0] == cli.EXIT_USAGE


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile", "--save-schedule", "absent/s.txt"),
        ("run", "-i", "random", "--dim", "N=2", "-o", "absent/y.npz"),
        ("opt", "-o", "absent/e.ir"),
        ("dump", "--what", "svg", "-o", "absent/e.svg"),
        ("dump", "--what", "onnx", "-o", "absent/e.onnx"),
        ("profile", "--dim", "N=2", "--rounds", "1", "--trace", "absent/t.json"),
        ("study", "--strategy", "exact", "-o", "model.onnx/absent"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(
    evonnx: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(model.parent)
    command, *more = arguments
    code, _, err = evonnx(command, model, *more)
    assert code == cli.EXIT_ERROR
    assert "absent" in err and "Traceback" not in err


def test_more_memory_than_there_is(evonnx: Cli, model: Path) -> None:
    for size in (1 << 44, 1 << 99):  # more than is there; more than NumPy can count
        code, _, err = evonnx("run", model, "-i", "random", "--dim", f"N={size}")
        assert code == cli.EXIT_ERROR and "Traceback" not in err and str(size) in err


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (CheckError("differs"), cli.EXIT_MISMATCH),
        (KeyboardInterrupt(), cli.EXIT_INTERRUPT),
        (ZeroDivisionError("a defect"), cli.EXIT_DEFECT),
    ],
)
def test_other_exit_codes(
    evonnx: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("evonnx.compiler.api.compile", fail)
    assert evonnx("compile", model)[0] == code


# Feeds and output ----------------------------------------------------------------------------


def test_made_up_feeds() -> None:
    types = {
        "x": TensorType(F32, (sym("N"), 3)),
        "ids": TensorType(I64, (sym("N"),)),
        "length": TensorType(I64, (1,)),
        "flag": TensorType(BOOL, ()),
        "text": TensorType(STR, (2,)),
    }
    feeds = random_feeds(types, {"N": 50})
    assert feeds["x"].shape == (50, 3)
    assert feeds["x"].dtype == np.float32
    assert set(feeds["ids"].tolist()) == {0, 1}
    assert feeds["length"].tolist() == [1]
    assert feeds["flag"].shape == ()
    assert feeds["text"].tolist() == ["a", "a"]
    # A feed depends on its own name only.
    alone = random_feeds({"x": types["x"]}, {"N": 50})
    np.testing.assert_array_equal(alone["x"], feeds["x"])
    with pytest.raises(FeedError, match="'N'"):
        random_feeds(types)
    assert random_feeds(types, others=4)["x"].shape == (4, 3)


def test_feeds_from_text(tmp_path: Path) -> None:
    types = {"a": TensorType(F32, (sym("N"),)), "a=b": TensorType(I64, (sym("N"),))}
    np.save(tmp_path / "a.npy", np.zeros(5, np.float32))
    feeds = read_feeds([f"a={tmp_path / 'a.npy'}", "a=b=7"], types, {}, 0)
    assert feeds["a=b"].tolist() == [7] * 5  # N was measured on the array of "a"
    write_arrays(tmp_path / "all.npz", {"a": np.ones(2, np.float32), "file": np.ones(1)})
    assert read_feeds([str(tmp_path / "all.npz")], types, {}, 0)["file"].shape == (1,)
    text = np.array(["a", "bc"], dtype=object)
    write_arrays(tmp_path / "text.npy", {"t": text})
    assert np.load(tmp_path / "text.npy").tolist() == ["a", "bc"]
    for path, arrays in (("a.txt", {}), ("a.npy", {"a": text, "b": text}), ("a.npz", {"a": [1]})):
        with pytest.raises(FeedError):
            write_arrays(tmp_path / path, arrays)
    for bad in ("c=1", "a=word", "a=absent.npy", "absent.npz"):
        with pytest.raises(FeedError):
            read_feeds([bad], types, {"N": 1}, 0)
    objects = tmp_path / "o.npy"
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FeedError, match="cannot read"):  # a pickle is never loaded
        read_feeds([f"a={objects}"], types, {}, 0)


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(
        {"a": np.float32(2), "b": [float("nan"), float("inf")], "c": np.arange(2), 3: Path("x")}
    )
    assert json.loads(capsys.readouterr().out) == {
        "a": 2.0,
        "b": ["nan", "inf"],
        "c": [0, 1],
        "3": "x",
    }


def test_progress_appears_only_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.Progress("quick") as progress:
        progress("stage", 0, 1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(console, "PROGRESS_AFTER", 0.05)
    with console.Progress("slow") as progress:
        progress("first [b]", 0, 2)
        time.sleep(0.3)
        progress("second\x1b", 1, 2)
    err = capsys.readouterr().err
    assert "slow: first [b]" in err
    assert "slow: second\\x1b" in err
