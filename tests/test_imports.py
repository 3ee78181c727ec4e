"""The rooms and their arrows: which part of the package may import which.

Every ``import`` statement of every module is read from its syntax tree, so one inside a function,
behind a condition or under ``TYPE_CHECKING`` counts like any other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import evonnx

ROOT = Path(__file__).resolve().parent.parent

ARROWS = {
    "ir": set(),
    "passes": {"ir"},
    "search": {"ir"},
    "kernels": {"ir"},
    "runtime": {"ir", "kernels"},
    "compiler": {"", "ir", "passes", "search", "kernels", "runtime", "bench"},
    # Measures the product from outside, through its face and its data, and the search by itself.
    "bench": {"", "ir", "search", "compiler", "runtime"},
}
"""Room -> rooms it may import besides itself; "" is the package's face."""

HEAVY = {"numba", "llvmlite", "onnx", "networkx", "numpy", "ml_dtypes", "rich", "PIL", "matplotlib"}
PEERS = {"onnxruntime", "openvino", "torch", "transformers"}


def modules(room: str) -> Iterator[Path]:
    return iter(sorted((ROOT / room).rglob("*.py")))


def imported(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything a module imports."""
    package = ("evonnx", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            assert not node.level or above, f"{path}:{node.lineno} climbs out of the package"
            base = ".".join((*above, *filter(None, [node.module])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in ("import_module", "__import__") and node.args:
                first = node.args[0]
                if ast.unparse(first).startswith(("f'{__name__}.", 'f"{__name__}.')):
                    continue  # discovery inside its own package
                assert isinstance(first, ast.Constant), (
                    f"{path}:{node.lineno} imports a computed name: no reader can follow it"
                )
                name, level = first.value, len(first.value) - len(first.value.lstrip("."))
                above = ".".join(package[: len(package) - level + 1]) + "." if level else ""
                yield node.lineno, above + name.lstrip(".")


def room_of(name: str) -> str | None:
    """Room an absolute name lies in; "" for the face, None for anything not ours."""
    head, *rest = name.split(".")
    if head != "evonnx":
        return None
    return rest[0] if rest and rest[0] in ARROWS else ""


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_arrows(room: str) -> None:
    found = list(modules(room))
    assert found, f"no modules in {room}/"
    bad = []
    for path in found:
        for line, name in imported(path, ast.parse(path.read_text(encoding="utf-8"))):
            target = room_of(name)
            if target is None or target == room or target in ARROWS[room]:
                continue
            bad.append(f"{path.relative_to(ROOT)}:{line}: {room} may not import {name}")
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("room", sorted(set(ARROWS) - {"bench"}))
def test_imports_inside_are_relative_and_no_peer_is_used(room: str) -> None:
    bad = []
    for path in modules(room):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                head = name.split(".")[0]
                if head == "evonnx" or head in PEERS:
                    bad.append(f"{path.relative_to(ROOT)}:{node.lineno}: import of {name}")
    assert not bad, "\n".join(bad)


def test_the_checker_sees_every_kind_of_import() -> None:
    source = (
        "def f():\n    from ..search import cd\n"
        "if False:\n    import evonnx.runtime.plan\n"
        "from . import sibling\n"
        "importlib.import_module('...kernels.jit', __package__)\n"
    )
    seen = dict(imported(ROOT / "passes" / "rules" / "x.py", ast.parse(source)))
    assert seen == {
        2: "evonnx.passes.search.cd",
        4: "evonnx.runtime.plan",
        5: "evonnx.passes.rules.sibling",
        6: "evonnx.kernels.jit",
    }
    seen = dict(imported(ROOT / "passes" / "x.py", ast.parse("from ..search import cd")))
    assert room_of(seen[1]) == "search"


def test_the_face_is_only_a_face() -> None:
    """The root holds the names people use and defines nothing but how they are looked up."""
    assert {p.name for p in ROOT.glob("*.py")} <= {"__init__.py", "__main__.py", "backend.py"}
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        defined = getattr(node, "name", "")
        assert not isinstance(node, (ast.ClassDef, ast.AsyncFunctionDef)), defined
        if isinstance(node, ast.FunctionDef):
            assert defined in ("__getattr__", "__dir__"), f"{defined} belongs in a room"
    for line, name in imported(ROOT / "__init__.py", tree):
        head = name.split(".")[0]
        assert head not in HEAVY | PEERS, f"__init__.py:{line} imports {name}"


def test_the_face_is_light_and_complete() -> None:
    """``import evonnx`` loads nothing else; every promised name is there."""
    script = (
        "import sys, evonnx\n"
        "ours = {m for m in sys.modules if m.startswith('evonnx.')}\n"
        f"assert not ours and not {HEAVY!r} & set(sys.modules), ours\n"
        "for name in evonnx.__all__: getattr(evonnx, name)\n"
        "assert set(evonnx.__all__) == set(dir(evonnx))\n"
        "try: evonnx.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_face_shows_every_error() -> None:
    tree = ast.parse((ROOT / "ir" / "errors.py").read_text(encoding="utf-8"))
    raised = {n.name for n in tree.body if isinstance(n, ast.ClassDef) and n.name.endswith("Error")}
    assert raised <= set(evonnx.__all__)
    assert all(issubclass(getattr(evonnx, name), evonnx.EvonnxError) for name in raised)


def test_every_package_is_listed() -> None:
    """Packages are listed by hand in pyproject.toml; a new folder must not be forgotten."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    held = {"evonnx"}
    for room in ARROWS:
        held |= {
            ".".join(("evonnx", *init.parent.relative_to(ROOT).parts))
            for init in (ROOT / room).rglob("__init__.py")
        }
        folders = {path.parent for path in modules(room)}
        assert all((folder / "__init__.py").is_file() for folder in folders), folders
    assert listed == held
