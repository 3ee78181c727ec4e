"""ImageDecoder: image files as pixels, and what happens without Pillow or without an image."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import evonnx
from evonnx.ir.errors import ModelError, UnsupportedError

image = pytest.importorskip("PIL.Image")
PIXELS = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def _model(**attrs: Any) -> Any:
    graph = helper.make_graph(
        [helper.make_node("ImageDecoder", ["data"], ["pixels"], **attrs)], "g",
        [helper.make_tensor_value_info("data", TensorProto.UINT8, ["bytes"])],
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["H", "W", "C"])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _file(pixels: np.ndarray, kind: str, **options: Any) -> np.ndarray:
    stream = io.BytesIO()
    image.fromarray(pixels).save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("BMP", {}), ("PNG", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True}),
     ("JPEG2000", {})],
)  # fmt: skip
def test_lossless_formats(kind: str, options: dict[str, Any]) -> None:
    data = _file(PIXELS, kind, **options)
    compiled = evonnx.compile(_model())
    np.testing.assert_array_equal(compiled(data), PIXELS)
    np.testing.assert_array_equal(evonnx.compile(_model(pixel_format="BGR"))(data),
                                  PIXELS[:, :, ::-1])  # fmt: skip
    assert compiled.report().host == ["decode_image"]


def test_grayscale() -> None:
    gray = evonnx.compile(_model(pixel_format="Grayscale"))(_file(PIXELS, "PNG"))
    assert gray.shape == (5, 7, 1)
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(gray[:, :, 0], luma, atol=1)


def test_other_pixels_become_rgb() -> None:
    """Gray, palette, with alpha, 16 bits: all are three channels of 8 bits."""
    compiled = evonnx.compile(_model())
    gray = PIXELS[:, :, 0].copy()
    np.testing.assert_array_equal(compiled(_file(gray, "PNG")), np.stack([gray] * 3, axis=2))
    alpha = np.concatenate([PIXELS, PIXELS[:, :, :1]], axis=2)
    np.testing.assert_array_equal(compiled(_file(alpha, "PNG")), PIXELS)
    wide = gray.astype(np.uint16) << 8 | 0x34
    np.testing.assert_array_equal(compiled(_file(wide, "PNG"))[:, :, 1], gray)


def test_what_is_no_image_is_empty() -> None:
    """As ONNX says: an empty matrix, whatever the reason."""
    compiled = evonnx.compile(_model())
    whole = _file(PIXELS, "PNG")
    for data in (whole[:60].copy(), np.zeros(0, np.uint8), np.frombuffer(b"%!PS-Adobe", np.uint8)):
        assert compiled(data).shape == (0, 0, 3)


def test_wrong_attributes_and_a_missing_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="pixel_format"):
        evonnx.compile(_model(pixel_format="CMYK"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnsupportedError, match=r"evonnx\[images\]"):
        evonnx.compile(_model(), cache=False)
