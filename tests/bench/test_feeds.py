"""Sample inputs: right shape, type and range, the same every time."""

import hashlib

import numpy as np
import pytest

from evonnx.bench.catalog import MODELS, SIZES
from evonnx.bench.feeds import (
    Feed,
    full,
    generate,
    generate_all,
    ids,
    image,
    normal,
    ramp,
    text,
    uniform,
    wave,
)


@pytest.mark.parametrize(
    ("feed", "low", "high"),
    [
        (image("a", (1, 3, 20, 24), -1, 1), -1, 1),
        (image("a", (1, 20, 24, 3), 0, 255), 0, 255),
        (text("a", (1, 1, 32, 100)), 0, 1),
        (text("a", (1, 3, 200, 180), -2, 2), -2, 2),
        (wave("a", (2, 400), 0.5), -0.5, 0.5),
        (uniform("a", (5, 7), -3, 4, "float64"), -3, 4),
        (ids("a", (1, 50), 11, 2), 2, 10),
        (full("a", (3,), 1, "bool"), 1, 1),
        (ramp("a", (2, 3)), 0, 1),
    ],
    ids=lambda value: value.kind if isinstance(value, Feed) else "",
)
def test_values_keep_shape_type_and_range(feed: Feed, low: float, high: float) -> None:
    array = generate(feed)
    assert array.shape == feed.shape
    assert array.dtype == np.dtype(feed.dtype)
    assert array.flags.c_contiguous
    assert low <= array.min()
    assert array.max() <= high


def test_same_seed_same_bytes_and_other_seed_other_bytes() -> None:
    feed = normal("x", (4, 5))
    assert generate(feed, 3).tobytes() == generate(feed, 3).tobytes()
    assert generate(feed, 3).tobytes() != generate(feed, 4).tobytes()


def test_values_do_not_depend_on_the_order_of_inputs() -> None:
    one, two = normal("one", (3,)), normal("two", (3,))
    forward, backward = generate_all([one, two]), generate_all([two, one])
    assert all(np.array_equal(forward[name], backward[name]) for name in ("one", "two"))
    assert not np.array_equal(forward["one"], forward["two"])


def test_values_are_the_recorded_ones() -> None:
    """Stored reference outputs and published figures rest on these exact inputs."""
    digest = hashlib.sha256(generate(ids("x", (16,), 1000)).tobytes()).hexdigest()
    assert digest[:16] == "a9766e8b0cf90ac9"


def test_empty_and_scalar_shapes() -> None:
    assert generate(normal("past", (1, 6, 0, 64))).shape == (1, 6, 0, 64)
    rate = generate(full("rate", (), 16000))
    assert rate.shape == ()
    assert rate.item() == 16000


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'noise'"):
        Feed("x", (1,), kind="noise")


def test_catalog_is_consistent() -> None:
    assert {model.size for model in MODELS.values()} == set(SIZES)
    for name, model in MODELS.items():
        assert name == model.name
        names = [feed.name for feed in model.feeds]
        assert len(set(names)) == len(names), name
        if model.package.source != "export":
            assert model.sha256 is not None, f"no hash recorded for {name}"
            assert len(model.sha256) == 64


def test_every_feed_of_the_catalog_can_be_made() -> None:
    small = [feed for model in MODELS.values() for feed in model.feeds if np.prod(feed.shape) < 2e5]
    for feed in small:
        assert np.isfinite(generate(feed).astype(np.float64)).all(), feed.name
