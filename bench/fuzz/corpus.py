"""Examples as text files, for people to read and for tests to replay.

A file is JSON: what the example once showed, the seed and the laws of its values, the sizes of its
symbols, the options it was compiled with, and the model in protobuf's own JSON with its constants
as lists of numbers, bit for bit. Nothing in it is binary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf import json_format
from onnx import numpy_helper

from .generate import Example
from .sketch import np_of


def to_text(given: Example) -> str:
    """The example as JSON."""
    model = onnx.ModelProto()
    model.CopyFrom(given.model)
    del model.graph.value_info[:]
    held = [_plain(t) for t in model.graph.initializer]
    del model.graph.initializer[:]
    content = {
        "what": given.note, "seed": given.seed, "laws": given.laws, "sizes": given.bindings,
        "options": given.options, "constants": held, "model": json_format.MessageToDict(model),
    }
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def from_text(text: str) -> Example:
    """The example of a text."""
    content = json.loads(text)
    model = json_format.ParseDict(content["model"], onnx.ModelProto())
    model.graph.initializer.extend(_tensor(t) for t in content["constants"])
    return Example(model, content["laws"], content["sizes"], content["seed"], content["what"],
                   options=content.get("options", {}))


def load(folder: Path) -> Iterator[tuple[str, Example]]:
    """(name, example) of all files of a folder."""
    for path in sorted(folder.glob("*.json")):
        yield path.stem, from_text(path.read_text("utf-8"))


def _plain(t: onnx.TensorProto) -> dict[str, Any]:
    array = numpy_helper.to_array(t)
    values = array.reshape(-1)
    if array.dtype.kind in "fV" or array.dtype.name == "bfloat16":
        items: list[Any] = [_number(v) for v in values]
    else:
        items = [int(v) for v in values]
    return {"name": t.name, "type": onnx.TensorProto.DataType.Name(t.data_type),
            "shape": list(array.shape), "values": items}


def _number(v: Any) -> Any:
    """A float as JSON: hexadecimal where decimals would lose bits or JSON has no word for it."""
    x = float(v)
    return x if np.isfinite(x) and float(repr(x)) == x and len(repr(x)) < 10 else x.hex()


def _tensor(entry: dict[str, Any]) -> onnx.TensorProto:
    dtype = onnx.TensorProto.DataType.Value(entry["type"])
    values = [float.fromhex(v) if isinstance(v, str) else v for v in entry["values"]]
    kind = np_of(dtype)
    wide = np.float64 if any(isinstance(v, float) for v in values) else (
        np.uint64 if kind == np.uint64 else np.int64)
    array = np.array(values, wide).astype(kind).reshape(entry["shape"])
    found = numpy_helper.from_array(array, entry["name"])
    assert found.data_type == dtype
    return found


__all__ = ["from_text", "load", "to_text"]
