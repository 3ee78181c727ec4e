"""IR text with its constants beside it survives a trip through files."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from evonnx.compiler.irfile import is_ir_text, read_graph, write_graph
from evonnx.ir.builder import Builder
from evonnx.ir.errors import ParseError
from evonnx.ir.graph import Graph
from evonnx.ir.types import F32, TensorType


def weighted() -> Graph:
    """A graph that carries constants of every awkward type, large enough not to be inlined."""
    b = Builder()
    x = b.input("x", TensorType(F32, (5, 20)))
    w = b.const(np.random.default_rng(0).standard_normal((20, 3), dtype=np.float32))
    half = b.const(np.linspace(-1, 1, 60).reshape(20, 3).astype(ml_dtypes.bfloat16))
    empty = b.const(np.zeros((0, 7), np.int64))
    text = b.const(np.array([f's{i}\n"' for i in range(19)] + [b"\xff"], dtype=object))
    y = b.op("dot", x, w, ta=False, tb=False)
    return b.build([("y", y), ("half", half), ("empty", empty), ("text", text)])


def test_round_trip(tmp_path: Path) -> None:
    graph = weighted()
    path = tmp_path / "g.ir"
    write_graph(path, graph)
    assert is_ir_text(path)
    back = read_graph(path)
    assert back.digest == graph.digest
    for node in graph.nodes:
        if node.op == "const":
            digest = node.attrs["digest"]
            before, after = graph.constants.get(digest), back.constants.get(digest)
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
            assert before.tobytes() == after.tobytes() or before.tolist() == after.tolist()


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "g.ir"
    write_graph(path, weighted())
    archive = tmp_path / "g.ir.npz"
    whole = archive.read_bytes()
    archive.unlink()
    with pytest.raises(ParseError, match="is not in the table"):
        read_graph(path)
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ParseError, match="constants"):
        read_graph(path)
    np.savez(archive, **{"0" * 40 + ".f32.2": np.zeros(8, np.uint8)})
    with pytest.raises(ParseError, match="is not in the table"):
        read_graph(path)
    np.savez(archive, other=np.zeros(8, np.uint8))
    with pytest.raises(ParseError, match="unexpected member"):
        read_graph(path)


def test_told_apart_by_content(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_text("# a comment\n// another\n graph {\n  return\n}\n")
    assert is_ir_text(path)
    path.write_bytes(b"\x08\x07\x12\x05graph{")
    assert not is_ir_text(path)
    path.write_bytes(b"graph {\xff")
    with pytest.raises(ParseError, match="UTF-8"):
        read_graph(path)
