"""Symbolic sizes never compile anything: hundreds of sizes through one program, all right.

Machine code is counted where it is made, in LLVM's emitter and Numba's front end, not by anything
that the runtime reports about itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import onnx
import pytest

import evonnx
from evonnx.bench import dynamic_models as models
from evonnx.compiler.checking import error_of
from evonnx.compiler.importer import import_model
from evonnx.ir.interp import run
from evonnx.kernels import jit, linker
from evonnx.runtime import objects

CALLS = 200
Draw = Callable[[np.random.Generator], dict[str, np.ndarray]]


class Count:
    """How often machine code was made."""

    def __init__(self) -> None:
        self.made = 0

    def wrap(self, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.made += 1
            return function(*args, **kwargs)

        return counted


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Count]:
    count = Count()
    for owner, name in (
        (llvm.TargetMachine, "emit_object"), (jit, "compile_source"), (jit, "compile_ir_text"),
        (linker, "load_objects"), (objects, "load_objects"), (objects, "build"),
        (objects, "_compile_all"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, count.wrap(getattr(owner, name)))
    return count


def size(rng: np.random.Generator, most: int, least: int = 0) -> int:
    """A size; the least possible one and 1 come often."""
    return int(rng.choice([least, 1, rng.integers(least, most + 1)], p=[0.06, 0.16, 0.78]))


def broadcast_sizes(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(a, b, c, d): ``[a, b]`` and ``[c, d]`` broadcast, each size to the other's or none."""
    pairs = []
    for _ in range(2):
        n = size(rng, 7)
        pairs.append([(n, n), (n, 1), (1, n)][rng.integers(3)])
    (a, c), (b, d) = pairs
    return a, b, c, d


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Draw]] = {
    "bert": (models.bert, lambda g: models.bert_feeds(g, size(g, 5), size(g, 40))),
    "cnn": (models.cnn, lambda g: models.cnn_feeds(g, size(g, 3), size(g, 25, 1), size(g, 25, 1))),
    "lstm": (models.lstm, lambda g: models.lstm_feeds(g, size(g, 6), size(g, 20))),
    "broadcasts": (models.broadcasts,
                   lambda g: models.broadcast_feeds(g, *broadcast_sizes(g))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_size_compiles_anything(name: str, compilations: Count) -> None:
    """Every draw of sizes is compared with the reference interpreter."""
    make, draw = CASES[name]
    model = make()
    compiled = evonnx.compile(model, threads=2, cache=False)
    graph = import_model(model)
    assert compilations.made > 1, "the hook sees compilation"
    compilations.made = 0
    rng = np.random.default_rng(11)
    seen = set()
    for _ in range(CALLS):
        feeds = draw(rng)
        sizes = {n: a.shape for n, a in feeds.items()}
        seen.add(tuple(sizes.values()))
        want = run(graph, feeds)
        for (output, expected), got in zip(
            want.items(), compiled.run(None, feeds), strict=True
        ):
            assert got.dtype == expected.dtype
            assert error_of(got, expected) < 2e-5, (output, sizes)
    assert compilations.made == 0
    kept = compiled.executable.bindings
    assert kept.made >= len(seen) > 60
    assert kept.count <= kept.most
    assert kept.nbytes <= kept.most_bytes


def test_the_hook_sees_a_compilation(compilations: Count) -> None:
    """A second model compiles, so the count of the test above can be other than 0."""
    evonnx.compile(models.broadcasts(3), threads=1, cache=False)
    assert compilations.made > 3


def test_sizes_that_do_not_go_together_are_refused() -> None:
    compiled = evonnx.compile(models.broadcasts(), threads=1)
    good = models.broadcast_feeds(np.random.default_rng(0), 2, 3, 1, 3)
    compiled.run(None, good)
    with pytest.raises(evonnx.FeedError, match="broadcast"):
        compiled.run(None, good | {"y": np.zeros((4, 3), np.float32)})
    with pytest.raises(evonnx.FeedError, match="axis 2 has size 7"):
        compiled.run(None, good | {"m": np.zeros((2, 3, 7), np.float32)})


def test_report_shows_the_bindings() -> None:
    compiled = evonnx.compile(models.lstm(), threads=1)
    for length in (3, 5, 3):
        compiled.run(None, models.lstm_feeds(np.random.default_rng(0), 2, length))
    report = compiled.report()
    assert report.bindings is not None
    assert (report.bindings.count, report.bindings.made) == (2, 2)
    assert "2 kept of at most 256" in str(report)
    assert report.to_dict()["bindings"]["made"] == 2
