"""How many tiles a group is cut into: even, and enough for a few threads."""

from __future__ import annotations

import math

import pytest

from evonnx.ir.contraction import SPLITS, least_rows, panels_together, row_blocks, rows_of_block
from evonnx.ir.dims import sym
from evonnx.ir.tiles import TILES, tile_rows


@pytest.mark.parametrize("rows", [0, 1, 3, 16, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("most", [1, 5, 40, 4096])
def test_tiles_of_a_loop_nest(rows: int, most: int) -> None:
    each = tile_rows(rows, most)
    assert 1 <= each <= max(most, 1)
    count = math.ceil(rows / each)
    assert count >= min(rows, TILES) / 2
    if count > 1:  # the last tile is not much smaller than the others
        assert each * count - rows <= count


@pytest.mark.parametrize("panels", [1, 3, 18, 40])
@pytest.mark.parametrize("tiles", [1, 2, 7, 40])
def test_panels_of_a_tile(panels: int, tiles: int) -> None:
    each = panels_together(panels, tiles, dear=False)
    assert 1 <= each <= panels
    assert math.ceil(panels / each) * tiles >= min(SPLITS, panels * tiles) or each == 1
    assert panels_together(panels, tiles, dear=True) >= each


def test_blocks_of_rows() -> None:
    assert row_blocks(196, 1000, 14, 3) == 3  # three panels: nine tiles
    assert row_blocks(196, 1000, 14, 40) == 1
    assert row_blocks(196, 50, 14, 40) == 4
    assert row_blocks(20, 1000, 14, 1) == 1  # not below two micro-tiles
    assert row_blocks(196, 1000, 14, 0) == 14  # a block is a tile
    assert row_blocks(0, 14, 14, 1) == 1


def test_rows_of_a_batch_of_unknown_size() -> None:
    n = sym("N")
    assert least_rows(n * 196) == 196
    assert least_rows(n - 5) == 0
    assert least_rows(n // (n - 1)) == 0
    assert rows_of_block(n * 196, 224, 14, 4) == 98  # as for one image
    assert rows_of_block(n, 224, 14, 4) is None  # a sequence may be long
    assert rows_of_block(196, 224, 14, 40) == 196
