"""One line of text: rendering, showing it in a terminal, and reading a recognizer's answer.

The recognizers end in connectionist temporal classification (Graves et al., 2006): per step one
class or the blank; greedy decoding takes the best class of each step, merges repeats and drops the
blanks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .models import extra_path, get

BLANK = 0
"""Class of the blank in both recognizers."""

_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Dot bits of a braille cell, rows by columns (Unicode block 2800)."""


def render(text: str, height: int = 48) -> np.ndarray:
    """Black text on white, uint8 [height, width]; the font ships inside Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(height * 2 // 3)
    width = int(font.getlength(text)) + height // 2
    page = Image.new("L", (width, height), 255)
    ImageDraw.Draw(page).text((height // 4, height // 2), text, font=font, fill=0, anchor="lm")
    return np.asarray(page)


def shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area-averaged picture of the given size, float64 in the picture's range.

    Averages over the exact (fractional) source rectangle of each pixel, as two matrix products.
    """

    def weights(source: int, target: int) -> np.ndarray:
        edges = np.arange(target + 1) * source / target
        low, high = edges[:-1, None], edges[1:, None]
        cell = np.arange(source)
        overlap = np.minimum(high, cell + 1) - np.maximum(low, cell)
        return np.clip(overlap, 0, None) * target / source

    rows, columns = picture.shape
    return weights(rows, height) @ picture.astype(np.float64) @ weights(columns, width).T


def braille(picture: np.ndarray, columns: int = 100) -> str:
    """A dark-on-light uint8 picture as lines of braille characters, 2x4 pixels each."""
    rows, width = picture.shape
    columns = min(columns, -(-width // 2))
    height = max(4, round(rows * 2 * columns / width / 4) * 4)
    dark = shrink(picture, height, 2 * columns) < 150
    lines = []
    for top in range(0, height, 4):
        cells = []
        for left in range(0, 2 * columns, 2):
            code = 0x2800
            for dy, bits in enumerate(_BRAILLE):
                for dx, bit in enumerate(bits):
                    code |= bit * int(dark[top + dy, left + dx])
            cells.append(chr(code))
        lines.append("".join(cells))
    return "\n".join(lines)


def collapse(classes: Sequence[int], alphabet: Sequence[str]) -> str:
    """Greedy CTC decoding: merge repeats, drop blanks; ``alphabet[i]`` spells class ``i``."""
    letters = []
    previous = BLANK
    for index in map(int, classes):
        if index != previous and index != BLANK:
            letters.append(alphabet[index])
        previous = index
    return "".join(letters)


@dataclass(frozen=True)
class Recognizer:
    """How to feed one recognizer and to read its outputs."""

    model: str
    """Name in the catalog."""
    prepare: Callable[[np.ndarray], dict[str, np.ndarray]]
    """Picture of one line, uint8 [48, width] -> feeds."""
    read: Callable[[list[Any]], str]
    """Outputs -> text."""


def _ppocr_feeds(picture: np.ndarray) -> dict[str, np.ndarray]:
    scaled = picture.astype(np.float32) / 127.5 - 1
    return {"x": np.ascontiguousarray(np.broadcast_to(scaled, (1, 3, *picture.shape)))}


def _ppocr_text(outputs: list[Any]) -> str:
    keys = extra_path(get("ppocr_rec"), "ppocr_keys_v5.txt").read_text(encoding="utf-8")
    return collapse(np.argmax(outputs[0][0], axis=-1), keys.split("\n"))


def _lite_feeds(picture: np.ndarray) -> dict[str, np.ndarray]:
    height, width = 32, round(picture.shape[1] * 32 / picture.shape[0])
    line = (shrink(picture, height, width) / 255).astype(np.float32)
    return {"x": line[None, None], "widths": np.array([width], np.int64)}


def _lite_text(outputs: list[Any]) -> str:
    meta = json.loads(extra_path(get("lite_rec"), "meta.json").read_text(encoding="utf-8"))
    alphabet = ["", *json.loads(meta["vocab"])["chars"]]
    classes, _, lengths = outputs
    return collapse(classes[0][: int(lengths[0])], alphabet)


RECOGNIZERS = {
    "ppocr_rec": Recognizer("ppocr_rec", _ppocr_feeds, _ppocr_text),
    "lite_rec": Recognizer("lite_rec", _lite_feeds, _lite_text),
}
"""By name in the catalog."""
