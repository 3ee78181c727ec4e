"""The wheel, installed into an environment of its own: complete, and one top-level name only."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ir", "passes", "search", "kernels", "runtime", "compiler", "bench")

pytestmark = pytest.mark.slow

NETWORKS = ("evonnx.bench.architectures", "evonnx.bench.wired")
"""The modules that cannot do without an extra: their classes are networks of PyTorch."""
IMPORT_ALL = """
import importlib, json, pathlib, sys
import evonnx
root = pathlib.Path(evonnx.__file__).parent
assert root.is_relative_to(sys.prefix), f"imported from {root}, not from the wheel"
names = []
for path in sorted(root.rglob("*.py")):
    parts = ("evonnx", *path.relative_to(root).with_suffix("").parts)
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    if parts[-1] != "__main__" and name not in sys.argv[1:]:
        importlib.import_module(name)
    names.append(name)
print(json.dumps(names))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive as a release would be."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment that holds the wheel and its core dependencies."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=home)
    return python


def test_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"evonnx"}
    held = {name for name in names if name.startswith("evonnx/")}
    face = ("__init__.py", "__main__.py", "backend.py", "py.typed", "compiler/operators.json",
            "compiler/importer/declarations.jsonl")
    sources = {f"evonnx/{name}" for name in face} | {
        f"evonnx/{path.relative_to(ROOT)}"
        for room in ROOMS
        for suffix in ("py", "ll", "target")  # LLVM text of the driver and machines are read
        for path in (ROOT / room).rglob(f"*.{suffix}")
    }
    assert held == sources
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_every_module_imports(clean: Path, tmp_path: Path) -> None:
    """Without the extras, so a module that needs one imports it where it is used."""
    assert '"evonnx.compiler.cli"' in run(clean, "-c", IMPORT_ALL, *NETWORKS, cwd=tmp_path)


def test_only_one_top_level_name(clean: Path, tmp_path: Path) -> None:
    script = (
        "from importlib.metadata import distribution as d;"
        "print({str(f).split('/')[0] for f in d('evonnx').files or ()})"
    )
    tops = eval(run(clean, "-c", script, cwd=tmp_path))
    assert {t for t in tops if not t.endswith(".dist-info") and t != ".."} == {"evonnx"}


def test_the_command_runs(clean: Path, tmp_path: Path) -> None:
    assert "compile" in run(clean.with_name("evonnx"), "--help", cwd=tmp_path)
    assert "0." in run(clean, "-m", "evonnx", "--version", cwd=tmp_path)
