"""Golden files: IR text in, a pipeline spec, IR text out. ``BLESS=1 pytest`` rewrites the outputs.

# what the file shows
spec: fold,canon
--- in
graph { ... }
--- out
graph { ... }
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir.text import print_graph

FILES = sorted((Path(__file__).parent / "golden").glob("*.txt"))


def parts(text: str) -> tuple[str, str, str, str]:
    """(head, spec, text in, text out)."""
    head, rest = text.split("--- in\n")
    source, _, result = rest.partition("--- out\n")
    spec = next(line[5:].strip() for line in head.splitlines() if line.startswith("spec:"))
    return head, spec, source, result


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden(path: Path) -> None:
    from evonnx.ir.parser import parse_graph

    head, spec, source, expected = parts(path.read_text(encoding="utf-8"))
    graph = parse_graph(source)
    assert parse_graph(print_graph(graph)).digest == graph.digest
    result = print_graph(run_pipeline(graph, spec, verify=True))
    if os.environ.get("BLESS"):
        path.write_text(f"{head}--- in\n{source}--- out\n{result}", encoding="utf-8")
        return
    assert result == expected, f"{path.name}: {spec}\n{result}"


def test_there_are_golden_files() -> None:
    assert len(FILES) >= 8
