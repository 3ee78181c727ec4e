"""Host values in ONNX: sequences, optionals, strings, labels and maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ...ir.graph import Node
from ...ir.types import I64, STR
from .context import ML, Exporter, onnx_dtype, tensor_proto, writes

_Params = Mapping[str, Any]
_SAME = {
    "sequence_construct": "SequenceConstruct", "sequence_insert": "SequenceInsert",
    "sequence_erase": "SequenceErase", "sequence_at": "SequenceAt",
    "sequence_length": "SequenceLength", "optional": "Optional",
    "optional_has": "OptionalHasElement", "optional_get": "OptionalGetElement",
    "string_concat": "StringConcat", "string_equal": "Equal",
}  # fmt: skip


@writes("host")
def _host(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    kind, params = node.attrs["kind"], dict(node.attrs["params"])
    if kind in _SAME:
        return [e.emit(_SAME[kind], *xs)]
    writer = _WRITERS.get(kind)
    if writer is None:
        return list(e.refuse(node, f"kind {kind} has no ONNX form"))
    result = writer(e, node, xs, params)
    return [result] if isinstance(result, str) else list(result)


def _labels(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    table = np.empty(len(params["labels"]), dtype=object)
    table[:] = params["labels"]
    name = e.fresh("labels")
    e.initializers[name] = tensor_proto(name, table)
    return str(e.emit("Gather", name, xs[0], axis=0))


def _zipmap(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    labels = list(params["labels"])
    texts = all(isinstance(x, str) for x in labels)
    key = "classlabels_strings" if texts else "classlabels_int64s"
    attrs: dict[str, Any] = {key: labels}
    name = str(e.emit("ZipMap", xs[0], domain=ML, **attrs))
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    kind = TensorProto.STRING if texts else TensorProto.INT64
    e.declared[name] = helper.make_sequence_type_proto(helper.make_map_type_proto(kind, value))
    return name


def _join(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(
        e.emit("ConcatFromSequence", xs[0], axis=params["axis"], new_axis=int(params["new_axis"]))
    )


def _split(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(
        e.emit("SplitToSequence", *xs, axis=params["axis"], keepdims=int(params["keepdims"]))
    )


def _move(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    if params["move"] == "reshape":
        return str(e.emit("Reshape", *xs, allowzero=1))
    if params["move"] in ("concat", "gather"):
        return str(e.emit(params["move"].capitalize(), *xs, axis=params["axis"]))
    return str(e.emit("Identity", xs[0]))


def _cast(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(e.emit("Cast", xs[0], to=onnx_dtype(params["dtype"])))


def _string_split(e: Exporter, node: Node, xs: list[str], params: _Params) -> list[str]:
    attrs: dict[str, Any] = {}
    if params["limit"] is not None:
        attrs["maxsplit"] = int(params["limit"])
    if params["delimiter"]:
        attrs["delimiter"] = params["delimiter"]
    return list(e.emit("StringSplit", xs[0], outputs=2, **attrs))


def _match(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(e.emit("RegexFullMatch", xs[0], pattern=params["pattern"]))


def _normalize(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(
        e.emit("StringNormalizer", xs[0], case_change_action=params["case"],
               is_case_sensitive=int(params["sensitive"]), stopwords=list(params["stopwords"]))
    )  # fmt: skip


def _encode(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    """Tables of texts and of int64 or float32 numbers are attributes of ``LabelEncoder``."""

    def kind(items: Any) -> str:
        if all(isinstance(x, str) for x in items):
            return "string"
        return "float" if any(isinstance(x, float) for x in items) else "int64"

    keys, values = list(params["keys"]), list(params["values"])
    out = "string" if params["dtype"] == STR else "int64" if params["dtype"] == I64 else "float"
    plural = {"string": "strings", "int64": "int64s", "float": "floats"}
    attrs = {f"keys_{plural[kind(keys)]}": keys, f"values_{plural[out]}": values,
             f"default_{out}": params["default"]}  # fmt: skip
    return str(e.emit("LabelEncoder", xs[0], domain=ML, **attrs))


_WRITERS: dict[str, Callable[[Exporter, Node, list[str], _Params], str | list[str]]] = {
    "labels": _labels, "zipmap": _zipmap, "concat_from_sequence": _join,
    "split_to_sequence": _split, "move_strings": _move, "cast_string": _cast,
    "string_split": _string_split, "regex_full_match": _match, "string_normalizer": _normalize,
    "label_encoder": _encode,
}  # fmt: skip
