"""External tensor data: read lazily, and only from plain files inside the model's folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from evonnx.compiler.importer import import_model
from evonnx.ir.errors import EvonnxError, ExternalDataError
from evonnx.ir.interp import run

ROWS, COLUMNS = 300, 200
WEIGHTS = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)


def save(folder: Path, dims: tuple[int, ...] = (ROWS, COLUMNS), kind: int = TensorProto.FLOAT,
         **entries: Any) -> Path:  # fmt: skip
    """A model y = x @ w whose w lies outside, as ``entries`` say."""
    w = TensorProto(name="w", data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, item in entries.items():
        w.external_data.add(key=key, value=str(item))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", dims[0]])],
        [onnx.ValueInfoProto(name="y")], [w],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(b"\0" * 64 + WEIGHTS.tobytes())
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64 + WEIGHTS.tobytes())
    return inside


def product(path: Path) -> np.ndarray:
    x = np.ones((2, ROWS), np.float32)
    result: np.ndarray = run(import_model(path), {"x": x})["y"]
    return result


def test_data_is_found_and_lazy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(folder, location="w.bin", offset=64, length=WEIGHTS.nbytes)
    graph = import_model(path)
    const = next(n for n in graph.nodes if n.op == "const")
    assert const.attrs["digest"] not in graph.constants._arrays
    array = graph.constants.get(const.attrs["digest"])
    np.testing.assert_array_equal(array, WEIGHTS)
    assert not array.flags.writeable
    np.testing.assert_allclose(product(path), np.ones((2, ROWS)) @ WEIGHTS, rtol=1e-4, atol=1e-4)
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(product(Path("model.onnx")), product(path))


def test_offset_and_length_are_optional_and_folders_nest(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "w.bin").write_bytes(WEIGHTS.tobytes())
    product(save(folder, location="data/w.bin"))
    product(save(folder, location="./data//w.bin"))


def test_checksum(folder: Path) -> None:
    good = hashlib.sha1((folder / "w.bin").read_bytes()).hexdigest()
    product(save(folder, location="w.bin", offset=64, checksum=good))
    with pytest.raises(ExternalDataError, match="checksum"):
        import_model(save(folder, location="w.bin", offset=64, checksum="0" * 40))


def test_digest_changes_with_the_data(folder: Path) -> None:
    path = save(folder, location="w.bin", offset=64)
    before = import_model(path).digest
    assert import_model(path).digest == before
    (folder / "w.bin").write_bytes(b"\0" * 64 + (WEIGHTS * 2).tobytes())
    os.utime(folder / "w.bin", ns=(1, 1))
    assert import_model(path).digest != before


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "parent": ({"location": "../secret.bin"}, "leaves"),
    "parent inside": ({"location": "sub/../../secret.bin"}, "leaves"),
    "absolute": ({"location": "/etc/passwd"}, "absolute"),
    "backslash": ({"location": "..\\secret.bin"}, "plain path"),
    "nul": ({"location": "w.bin\0x"}, "plain path"),
    "empty": ({"location": ""}, "no location"),
    "dot": ({"location": "."}, "does not name"),
    "absent": ({"location": "gone.bin"}, "cannot open"),
    "folder": ({"location": "sub"}, "not a regular file|cannot open"),
    "unknown key": ({"location": "w.bin", "basepath": "/"}, "unknown key 'basepath'"),
    "no location": ({"offset": 0}, "no location"),
    "negative offset": ({"location": "w.bin", "offset": -64}, "offset '-64'"),
    "huge offset": ({"location": "w.bin", "offset": 2**63 - 1}, "outside|offset"),
    "overflowing offset": ({"location": "w.bin", "offset": 2**64 + 64}, "offset"),
    "offset beyond": ({"location": "w.bin", "offset": 65}, "outside the file"),
    "negative length": ({"location": "w.bin", "length": -1}, "length '-1'"),
    "wrong length": ({"location": "w.bin", "length": 12}, "length 12"),
    "overflowing length": ({"location": "w.bin", "length": 2**64 + 240000}, "length"),
    "text offset": ({"location": "w.bin", "offset": "0x40"}, "offset '0x40'"),
    "unicode digits": ({"location": "w.bin", "offset": "٦٤"}, "offset"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(folder: Path, name: str) -> None:
    entries, text = REFUSED[name]
    (folder / "sub").mkdir()
    path = save(folder, **entries)
    with pytest.raises(ExternalDataError, match=text) as caught:
        import_model(path)
    assert "'w'" in str(caught.value)


def test_links_are_refused(folder: Path) -> None:
    secret = folder.parent / "secret.bin"
    (folder / "soft.bin").symlink_to(secret)
    (folder / "own.bin").symlink_to(folder / "w.bin")
    (folder / "door").symlink_to(folder.parent)
    os.link(secret, folder / "hard.bin")
    for location in ("soft.bin", "own.bin", "door/secret.bin"):
        with pytest.raises(ExternalDataError, match="symbolic link"):
            import_model(save(folder, location=location, offset=64))
    with pytest.raises(ExternalDataError, match="hard link"):
        import_model(save(folder, location="hard.bin", offset=64))


def test_a_pipe_does_not_hang(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(ExternalDataError, match="not a regular file"):
        import_model(save(folder, location="pipe"))


def test_the_model_itself_may_be_reached_through_a_link(folder: Path, tmp_path: Path) -> None:
    save(folder, location="w.bin", offset=64)
    (tmp_path / "alias").symlink_to(folder)
    product(tmp_path / "alias" / "model.onnx")


def test_bytes_have_no_folder(folder: Path) -> None:
    path = save(folder, location="w.bin", offset=64)
    with pytest.raises(ExternalDataError, match="without a file path"):
        import_model(path.read_bytes())
    with pytest.raises(ExternalDataError, match="without a file path"):
        import_model(onnx.load(str(path), load_external_data=False))


def test_repeated_keys_and_shapes_that_do_not_match(folder: Path) -> None:
    path = save(folder, location="w.bin", offset=64)
    model = onnx.load(str(path), load_external_data=False)
    model.graph.initializer[0].external_data.add(key="offset", value="0")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EvonnxError, match="repeated key 'offset'"):
        import_model(path)
    with pytest.raises(ExternalDataError, match="outside the file"):
        import_model(save(folder, dims=(ROWS, COLUMNS + 1), location="w.bin", offset=64))


def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """A sparse file stands for 3 GB of weights: nothing is read but what is used."""
    rows, columns = 3, (1 << 28)
    data = tmp_path / "big.bin"
    with data.open("wb") as f:
        f.truncate(rows * columns * 4)
        f.seek(4 * (2 * columns + 5))
        f.write(np.float32(7.5).tobytes())
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(rows, columns),
                    data_location=TensorProto.EXTERNAL)  # fmt: skip
    w.external_data.add(key="location", value="big.bin")
    index = helper.make_tensor("i", TensorProto.INT64, [1, 2], [2, 5])
    graph = helper.make_graph(
        [helper.make_node("GatherND", ["w", "i"], ["y"])], "g", [],
        [onnx.ValueInfoProto(name="y")], [w, index],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    imported = import_model(path)
    np.testing.assert_array_equal(run(imported, {})["y"], [7.5])
