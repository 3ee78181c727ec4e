"""Host values in ONNX: sequences, optionals, strings, labels and maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...ir.graph import Attrs, Node
from ...ir.types import I64, STR, LooseTensor, OptionalType, SequenceType, TensorType
from .context import ML, WRITERS, Exporter, onnx_dtype, tensor_proto, writes
from .model import type_proto

_Params = Mapping[str, Any]
_SAME = {
    "sequence_insert": "SequenceInsert",
    "sequence_erase": "SequenceErase", "sequence_at": "SequenceAt",
    "sequence_length": "SequenceLength",
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


def _construct(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    if xs:
        return str(e.emit("SequenceConstruct", *xs))
    t = node.types[0]
    assert isinstance(t, SequenceType)
    assert isinstance(t.elem, (TensorType, LooseTensor))
    return str(e.emit("SequenceEmpty", dtype=onnx_dtype(t.elem.dtype)))


def _optional(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    """An optional of nothing says of what."""
    t = node.types[0]
    assert isinstance(t, OptionalType)
    return str(e.emit("Optional", *xs, **({} if xs else {"type": type_proto(t.elem)})))


def _vectorize(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    keys = list(params["keys"])
    name = "string_vocabulary" if isinstance(keys[0], str) else "int64_vocabulary"
    attrs: dict[str, Any] = {name: keys}
    return str(e.emit("DictVectorizer", xs[0], domain=ML, **attrs))


def _cast_map(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    to = {"s": "TO_STRING", "f": "TO_FLOAT", "i": "TO_INT64"}[params["dtype"].kind]
    size = params["size"]
    form: dict[str, Any] = {} if size is None else {"map_form": "SPARSE", "max_map": size}
    return str(e.emit("CastMap", xs[0], domain=ML, cast_to=to, **form))


def _zipmap(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    labels = list(params["labels"])
    texts = all(isinstance(x, str) for x in labels)
    key = "classlabels_strings" if texts else "classlabels_int64s"
    attrs: dict[str, Any] = {key: labels}
    return str(e.emit("ZipMap", xs[0], domain=ML, **attrs))


def _join(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(
        e.emit("ConcatFromSequence", xs[0], axis=params["axis"], new_axis=int(params["new_axis"]))
    )


def _split(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(
        e.emit("SplitToSequence", *xs, axis=params["axis"], keepdims=int(params["keepdims"]))
    )


def _any_op(e: Exporter, node: Node, xs: list[str], params: _Params) -> str | list[str]:
    """The op that the step runs, written as it would be for numbers."""
    count = len(node.inputs) - bool(params["sizes"])
    own = Node(params["op"], node.inputs[:count], Attrs(params["attrs"]), node.types, node.origin)
    writer = WRITERS.get(own.op)
    if writer is None:
        return list(e.refuse(node, f"{own.op} of strings has no ONNX form"))
    result = writer(e, own, xs[:count])
    return result if isinstance(result, str) else list(result)


def _cast(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(e.emit("Cast", xs[0], to=onnx_dtype(params["dtype"])))


def _string_split(e: Exporter, node: Node, xs: list[str], params: _Params) -> list[str]:
    attrs: dict[str, Any] = {}
    if params["limit"] is not None:
        attrs["maxsplit"] = int(params["limit"])
    if params["delimiter"]:
        attrs["delimiter"] = params["delimiter"]
    return list(e.emit("StringSplit", xs[0], outputs=2, **attrs))


def _decode(e: Exporter, node: Node, xs: list[str], params: _Params) -> str:
    return str(e.emit("ImageDecoder", xs[0], pixel_format=params["pixel_format"]))


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
    "split_to_sequence": _split, "string_op": _any_op, "cast_string": _cast,
    "string_split": _string_split, "regex_full_match": _match, "string_normalizer": _normalize,
    "optional": _optional, "sequence_construct": _construct, "dict_vectorizer": _vectorize,
    "cast_map": _cast_map, "label_encoder": _encode, "decode_image": _decode,
}  # fmt: skip
