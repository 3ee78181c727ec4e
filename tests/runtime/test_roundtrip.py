"""A word goes to and fro between two threads."""

from __future__ import annotations

import os

import pytest

from evonnx.runtime.roundtrip import round_trip


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_a_word_goes_to_and_fro() -> None:
    assert 0 < round_trip(rounds=50, times=2) < float("inf")
