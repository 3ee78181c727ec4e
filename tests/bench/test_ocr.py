"""The demo's text line: shrinking, showing and decoding."""

import numpy as np
import pytest

from evonnx.bench.ocr import braille, collapse, render, shrink


def test_collapse_merges_repeats_and_keeps_doubled_letters() -> None:
    alphabet = ["", "a", "b"]
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0], alphabet) == "aab"
    assert collapse([], alphabet) == ""


def test_shrink_averages_areas() -> None:
    picture = np.arange(16.0).reshape(4, 4)
    assert np.allclose(shrink(picture, 2, 2), [[2.5, 4.5], [10.5, 12.5]])
    constant = np.full((5, 7), 3.0)
    assert np.allclose(shrink(constant, 3, 4), 3.0)
    assert shrink(picture, 3, 3).mean() == pytest.approx(picture.mean())


def test_braille_shows_dark_dots() -> None:
    picture = np.full((4, 4), 255, np.uint8)
    picture[0, 0] = 0
    assert braille(picture, 2) == "\u2801\u2800"
    assert braille(np.zeros((4, 4), np.uint8), 2) == "\u28ff\u28ff"


def test_rendered_line_has_ink_and_margin() -> None:
    pytest.importorskip("PIL", reason="Pillow is in the demo extra")
    picture = render("Hello")
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 48
    assert picture.min() < 50
    assert (picture[:, :4] == 255).all()
