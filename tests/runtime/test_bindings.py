"""The table of bindings: bounded in number and bytes, oldest use first out, safe for threads."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from evonnx.runtime.bindings import Bindings
from evonnx.runtime.tables import Binding, Table

from .test_executable import symbolic


def binding(nbytes: int = 0, parent: Binding | None = None) -> Binding:
    """A binding of about ``nbytes``."""
    words = np.zeros(nbytes // 8, np.int64)
    table = Table(words, 0, 0, False, 0, 0, None)  # type: ignore[arg-type]
    return Binding((), (), [table], 0, 0, [], {}, {}, [], parent, 0, 0, False)


def test_the_least_recently_used_goes_first() -> None:
    table = Bindings(most=3)
    made = {k: table.put(k, binding()) for k in "abc"}
    assert table.get("a") is made["a"]
    table.put("d", binding())
    assert [table.get(k) is not None for k in "abcd"] == [True, False, True, True]
    kept = table.kept()
    assert (kept.count, kept.made, kept.dropped, kept.most) == (3, 4, 1, 3)


def test_bytes_are_bounded_and_the_latest_is_kept() -> None:
    table = Bindings(most=100, most_bytes=10_000)
    for k in range(20):
        table.put(k, binding(3000))
        assert table.kept().nbytes <= 10_000
    assert len(table) == 2
    table.put("large", binding(1 << 20))
    assert len(table) == 1
    assert table.get("large") is not None
    table.clear()
    assert table.kept().nbytes == len(table) == 0


def test_two_makers_agree() -> None:
    table = Bindings()
    first = table.put("a", binding())
    assert table.put("a", binding()) is first
    assert table.kept().count == 1


def test_a_chain_is_that_of_the_latest_call() -> None:
    table = Bindings()
    assert table.chain() == []
    outer = table.put("a", binding())
    inner = table.put((outer, 3), binding(parent=outer))
    assert table.chain() == [outer, inner]
    assert table.get("a") is outer
    assert table.chain() == [outer]


@pytest.mark.parametrize("most", [2, 7])
def test_many_threads_and_sizes(maker: Any, cache: Any, sources: Any, most: int) -> None:
    """Concurrent calls of many sizes on a table that is always full: every result is right."""
    from evonnx.runtime.executable import Executable

    exe = Executable(symbolic(maker, sources).program(), maker.constants, threads=2, cache=cache)
    exe._runner._bindings = Bindings(most=most, most_bytes=1 << 20)
    wrong: list[tuple[int, int]] = []

    def call(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(150):
            n, k = (int(v) for v in rng.integers(0, 9, 2))
            x = rng.integers(-99, 99, (n, k)).astype(np.float32)
            out = exe.run({"x": x, "b": np.zeros(k, np.float32)})
            if not np.array_equal(out["y"], (x * 3 + 1)[:, ::-1]):
                wrong.append((n, k))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    kept = exe.bindings
    assert kept.count <= most
    assert kept.made > kept.count
    assert kept.dropped > 0
