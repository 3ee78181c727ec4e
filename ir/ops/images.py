"""Image files as pixels, decoded by Pillow (an optional dependency, the extra ``images``).

ONNX's ImageDecoder answers an empty image for data it cannot decode, and so does this. Only the
formats that ONNX lists are tried: others run code (PostScript) or are none of its business.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from .host import host

FORMATS = ("BMP", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats of ImageDecoder; PPM stands for all portable images."""
CHANNELS = {"RGB": 3, "BGR": 3, "Grayscale": 1}
"""Channels of each pixel format."""
NEEDS_PILLOW = "ImageDecoder needs the package Pillow: pip install 'evonnx[images]'"


@host("decode_image")
def _decode(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """u8 [height, width, channels]; [0, 0, channels] for what is no image."""
    try:
        from PIL import Image
    except ImportError:
        raise UnsupportedError(NEEDS_PILLOW) from None
    layout = params["pixel_format"]
    try:
        with Image.open(io.BytesIO(args[0].tobytes()), formats=FORMATS) as image:
            pixels = _pixels(image, layout)
    except MemoryError:
        raise
    except Exception:  # "if it can't decode for any reason", and Pillow has many kinds of errors
        pixels = np.zeros((0, 0, CHANNELS[layout]), np.uint8)
    return [np.ascontiguousarray(pixels)]


def _pixels(image: Any, layout: str) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith("I;16"):  # Pillow would clip these to 255 instead of scaling them
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits have no 8-bit form")
    if layout == "Grayscale":
        return np.asarray(image.convert("L"))[:, :, None]
    pixels = np.asarray(image.convert("RGB"))
    return pixels[:, :, ::-1] if layout == "BGR" else pixels
