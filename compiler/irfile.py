"""Graphs as files for people: IR text, with large constants in an archive beside it.

``model.ir`` is what ``ir.text`` prints. Constants that the text names only by digest lie in
``model.ir.npz``, one member per digest: raw bytes, with dtype and shape in the member's name, so
that types NumPy cannot store (bfloat16, float8) survive. Reading recomputes every digest, hence a
damaged or foreign archive is noticed as a missing constant, with the line that names it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.arrays import array_bytes, array_of_bytes
from ..ir.errors import OptionError, ParseError, quote
from ..ir.graph import Constants, Graph
from ..ir.parser import parse_graph
from ..ir.text import named_constants, print_graph
from ..ir.types import DType
from .importer import import_model
from .saved import is_saved, saved_graph

_MEMBER = re.compile(r"(?P<digest>[0-9a-f]{40})\.(?P<dtype>[a-z0-9]+)(?P<shape>(\.\d+)*)")


def is_ir_text(path: Path) -> bool:
    """Whether a file begins like IR text; an ONNX file begins with a protobuf field tag."""
    with path.open("rb") as stream:
        head = stream.read(4096).lstrip()
    while head.startswith((b"#", b"//")):
        head = head.partition(b"\n")[2].lstrip()
    return re.match(rb"graph\s*\{", head) is not None


def graph_or_file(path: Path) -> Graph | Path:
    """What ``compile`` takes of a file: the graph of IR text or of a saved model, and the path
    itself of anything else, which then is an ONNX model. Raises what ``read_graph`` raises."""
    if path.is_file() and (is_saved(path) or is_ir_text(path)):
        return read_graph(path)
    return path


def read_graph(
    path: Path,
    sizes: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> Graph:
    """The graph of an ONNX model, of a file of IR text or of a saved model (told apart by
    content); ``sizes`` and ``constants`` fix sizes and inputs of an ONNX model.

    Raises what ``import_model`` and ``parse_graph`` raise, and ``OptionError`` where IR text is to
    be fixed.
    """
    saved = is_saved(path)
    if not saved and not is_ir_text(path):
        return import_model(path, sizes=sizes, constants=constants)
    if sizes or constants:
        raise OptionError("sizes and constants are for ONNX models; this is a graph that was"
                          " imported already")
    if saved:
        return saved_graph(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ParseError(f"{quote(path)} is not UTF-8: {error}") from None
    table = Constants()
    archive = _archive(path)
    if archive.is_file():
        for array in _read_arrays(archive):
            table.add(array)
    return parse_graph(text, table)


def write_graph(path: Path, graph: Graph) -> None:
    """Writes ``graph`` as text to ``path``, and its large constants to ``path`` + ``.npz``."""
    text = print_graph(graph)
    wanted = [d for d in named_constants(text) if d in graph.constants]
    if wanted:
        with zipfile.ZipFile(_archive(path), "w") as archive:
            for digest in wanted:
                array = graph.constants.get(digest)
                shape = "".join(f".{size}" for size in array.shape)
                name = f"{digest}.{DType.of(array.dtype)}{shape}.npy"
                with archive.open(name, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array_bytes(array), allow_pickle=False)
    path.write_text(text, encoding="utf-8")


def _archive(path: Path) -> Path:
    return path.with_name(path.name + ".npz")


def _read_arrays(path: Path) -> Iterator[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                match = _MEMBER.fullmatch(name)
                if match is None:
                    raise ValueError(f"unexpected member {quote(name)}")
                shape = tuple(int(size) for size in match["shape"].split(".")[1:])
                raw = np.ascontiguousarray(archive[name]).view(np.uint8)
                yield array_of_bytes(raw, DType.named(match["dtype"]), shape)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ParseError(f"cannot read the constants in {quote(path)}: {error}") from None
