"""Same inputs, same schedule: the same bits, however often and on however many threads.

Steps are made to be shared among threads, however small (a target whose synchronization costs
nothing), so that odd sizes are cut at odd places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

import evonnx
from evonnx.bench import dynamic_models as models
from evonnx.ir.target import Target

THREADS = (1, 2, 3, 5)
REPEATS = 10
Feeds = dict[str, np.ndarray]


def mixed() -> onnx.ModelProto:
    """Sums of odd sizes, top-k, duplicates in a scatter, running sums, half and byte products."""
    w = models.Writer()
    total = [w.op("ReduceSum", "x", w.const(axes, np.int64), keepdims=1)
             for axes in ([0], [1], [2], [0, 1], [1, 2], [0, 2], [0, 1, 2])]  # fmt: skip
    norm = w.op("ReduceL2", "x", axes=[1], keepdims=1)
    soft = [w.op("Softmax", "x", axis=axis) for axis in (0, 1, 2)]
    best = w.op("TopK", "x", w.const([7], np.int64), count=2, axis=1)
    flat = w.op("Reshape", "x", w.const([-1], np.int64))
    added = w.op("ScatterElements", w.const(np.zeros(13)), "at", flat, reduction="none")
    many = w.op("ScatterElements", w.const(np.zeros(13)), "at", flat, reduction="add")
    blocks = w.op("ScatterND", w.const(np.zeros((5, 31))),
                  w.op("Unsqueeze", "rows", w.const([2], np.int64)), "x", reduction="add")
    running = w.op("CumSum", "x", w.const(1, np.int64))
    half = w.op("Cast", "x", to=onnx.TensorProto.FLOAT16)
    product = w.op("MatMul", half, w.op("Cast", w.weight(31, 19), to=onnx.TensorProto.FLOAT16))
    small, scale, zero = w.op("DynamicQuantizeLinear", "x", count=3)
    weight = w.const(w.rng.integers(-128, 128, (31, 23)), np.int8)
    exact = w.op("MatMulInteger", small, weight, zero)
    mean = w.op("GlobalAveragePool", w.op("Unsqueeze", "x", w.const([0], np.int64)))
    outputs = [*total, norm, *soft, *best, added, many, blocks, running, product, scale, exact,
               mean]  # fmt: skip
    return w.model([("x", np.float32, (17, 29, 31)), ("at", np.int64, (17 * 29 * 31,)),
                    ("rows", np.int64, (17, 29))], outputs)  # fmt: skip


def mixed_feeds(rng: np.random.Generator) -> Feeds:
    x = rng.standard_normal((17, 29, 31)).astype(np.float32)
    x[3, 5] = x[3, 7]  # equal elements for top-k
    return {"x": x, "at": rng.integers(0, 13, x.size), "rows": rng.integers(0, 5, (17, 29))}


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Callable[[np.random.Generator], Feeds]]] = {
    "bert": (lambda: models.bert(48, 3), lambda g: models.bert_feeds(g, 3, 37)),
    "cnn": (lambda: models.cnn(24), lambda g: models.cnn_feeds(g, 3, 45, 37)),
    "lstm": (lambda: models.lstm(24), lambda g: models.lstm_feeds(g, 7, 23)),
    "mixed": (mixed, mixed_feeds),
}


@pytest.mark.parametrize("name", CASES)
def test_bits_do_not_depend_on_threads(name: str) -> None:
    make, draw = CASES[name]
    model, feeds = make(), draw(np.random.default_rng(9))
    target = replace(Target.detect(), sync_s=0.0)
    schedule = evonnx.compile(model, target=target, threads=THREADS[0]).schedule
    again = evonnx.compile(model, target=target, threads=THREADS[-1]).schedule
    assert str(again) == str(schedule), "the schedule depends on threads"
    first: list[bytes] = []
    for threads in THREADS:
        compiled = evonnx.compile(model, target=target, threads=threads, schedule=schedule)
        for _ in range(REPEATS):
            bits = [y.tobytes() for y in compiled.run(None, feeds)]
            first = first or bits
            assert bits == first, f"{threads} threads"
        binding = compiled.executable.binding({n: a.shape for n, a in feeds.items()})
        shared = any(t is not None and t.parallel for t in binding.tables)
        assert shared == (threads > 1), "nothing was shared among the threads"


def test_bits_do_not_depend_on_company() -> None:
    """Calls from several threads at once, where one has the team and others run alone."""
    from concurrent.futures import ThreadPoolExecutor

    make, draw = CASES["bert"]
    feeds = draw(np.random.default_rng(9))
    target = replace(Target.detect(), sync_s=0.0)
    compiled = evonnx.compile(make(), target=target, threads=2)

    def bits(_: int) -> list[bytes]:
        return [y.tobytes() for y in compiled.run(None, feeds)]

    want = bits(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(got == want for got in pool.map(bits, range(60)))
