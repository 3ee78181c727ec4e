"""Model files as outline and contents: equal to what protobuf reads, for any bytes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

import evonnx
from evonnx.compiler.importer import import_model
from evonnx.compiler.modelfile import LARGE, ModelFile
from evonnx.ir.errors import EvonnxError, ModelError
from evonnx.ir.graph import Constants
from evonnx.ir.interp import run

RNG = np.random.default_rng(0)
WEIGHTS = [RNG.standard_normal(shape).astype(np.float32) for shape in ((160, 130), (130, 140))]


def model(weights: list[np.ndarray] = WEIGHTS) -> ModelProto:
    """y = x @ w0 @ w1 + 1, the constant one small and in the middle."""
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    tensors = [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w0"], ["h"]),
         helper.make_node("MatMul", ["h", "w1"], ["p"]),
         helper.make_node("Add", ["p", "one"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 160])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 140])],
        [tensors[0], one, tensors[1]],
    )  # fmt: skip
    made: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return made


DATA = model().SerializeToString()
X = RNG.standard_normal((3, 160)).astype(np.float32)


def whole(file: ModelFile) -> ModelProto:
    """The message with what the outline leaves out put back."""
    proto = ModelProto.FromString(file.outline)
    for contents in file.contents:
        tensor = proto.graph.initializer[contents.initializer]
        assert not tensor.HasField("raw_data")
        tensor.raw_data = file.read(contents).tobytes()
    return proto


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_outline_and_contents_are_the_model(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(DATA)
    file = ModelFile(DATA if kind == "bytes" else path)
    assert whole(file) == model()
    assert [c.initializer for c in file.contents] == [0, 2]
    assert len(file.outline) < 1000
    assert file.digest() == ModelFile(DATA).digest()
    graph = import_model(file)
    used = {n.attrs["digest"] for n in graph.nodes if n.op == "const"}
    assert {Constants.digest_of(w) for w in WEIGHTS} <= used
    assert not any(graph.constants.peek(Constants.digest_of(w)) is not None for w in WEIGHTS)
    want = run(import_model(model()), {"x": X})["y"]
    assert np.array_equal(run(graph, {"x": X})["y"], want)
    assert np.allclose(evonnx.compile(path, cache=False, threads=1)(X), want, atol=1e-3)


def test_every_byte_counts_for_the_digest() -> None:
    file = ModelFile(DATA)
    first, last = file.contents
    seen = {file.digest()}
    for at in (3, first.begin, first.begin + first.size - 1, last.begin + 77, len(DATA) - 3):
        changed = bytearray(DATA)
        changed[at] ^= 1
        seen.add(ModelFile(bytes(changed)).digest())
    seen.add(ModelFile(model(WEIGHTS[::-1]).SerializeToString()).digest())
    assert len(seen) == 7


def _same(data: bytes) -> None:
    """Protobuf reads the message as it reads the outline with contents put back."""
    try:
        want: ModelProto | None = ModelProto.FromString(data)
    except (DecodeError, RuntimeError, ValueError):
        want = None
    file = ModelFile(data)
    try:
        got: ModelProto | None = whole(file)
    except (DecodeError, RuntimeError, ValueError):
        got = None
    assert got == want
    with contextlib.suppress(EvonnxError):
        import_model(data)


FRAMES = sorted({at for c in ModelFile(DATA).contents for at in
                 (*range(c.begin - 40, c.begin), *range(c.begin + c.size, c.begin + c.size + 40))
                 if at < len(DATA)} | set(range(12)))  # fmt: skip
"""Bytes around the large contents: tags, lengths, names."""


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FRAMES), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_frames(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DATA)
    for at, byte in changes:
        data[at] = byte
    _same(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(DATA)), st.binary(max_size=12), st.integers(0, 12))
def test_cut_off_extended_and_spliced(at: int, inserted: bytes, left_out: int) -> None:
    _same(DATA[:at])
    _same(DATA[:at] + inserted + DATA[at + left_out :])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


BIG = b"\x3f" * (LARGE + 4)


@pytest.mark.parametrize("data", [
    DATA + DATA,  # two graphs are merged
    field(7, field(5, field(9, BIG) + field(9, BIG[:8]))),  # the last contents count
    field(7, field(5, b"\x4b" + BIG + b"\x4c")),  # groups
    field(7, b"\x28\x01" + BIG),  # an initializer that is a number
    b"\x38\x01" + BIG,  # a graph that is a number
    field(7, field(5, field(9, BIG) + b"\x70\x01")),  # data outside and inside
    field(7, field(5, field(9, BIG)))[:-1],
    field(7, field(5, field(9, BIG)) + b"\xff" * 12),
    field(7, field(5, field(9, BIG)) + b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    field(100, BIG) + field(7, field(5, field(9, BIG) + field(77, b"x"))),  # unknown fields
])  # fmt: skip
def test_unusual_messages(data: bytes) -> None:
    _same(data)


def test_millions_of_fields_are_left_to_protobuf() -> None:
    data = DATA + b"\x08\x01" * (3 << 20)
    file = ModelFile(data)
    assert file.outline == data
    assert not file.contents


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.STRING])
def test_contents_that_do_not_fit_the_declared_type(kind: int) -> None:
    broken = model()
    broken.graph.initializer[0].data_type = kind
    broken.graph.initializer[0].dims[0] = 161
    with pytest.raises(ModelError, match=r"'w0' is .* but holds"):
        import_model(broken.SerializeToString())


def test_packed_elements() -> None:
    proto = model()
    codes = np.arange(2 * (LARGE + 3), dtype=np.uint8) % 16
    packed = codes[::2] | codes[1::2] << 4
    proto.graph.initializer.append(TensorProto(
        name="q", data_type=TensorProto.UINT4, dims=[codes.size], raw_data=packed.tobytes()))
    proto.graph.node.append(helper.make_node("Cast", ["q"], ["z"], to=TensorProto.UINT8))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.UINT8, [codes.size]))
    proto.opset_import[0].version = 21
    assert np.array_equal(run(import_model(proto.SerializeToString()), {"x": X})["z"], codes)


def test_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(DATA)
    graph = import_model(path)
    first, last = (Constants.digest_of(w) for w in WEIGHTS)
    path.unlink()
    assert np.array_equal(graph.constants.get(first), WEIGHTS[0])  # it stays open
    path.write_bytes(DATA)
    graph = import_model(path)
    os.truncate(path, 1000)
    with pytest.raises(ModelError, match="was changed while it was in use"):
        graph.constants.get(last)
