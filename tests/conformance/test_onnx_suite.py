"""ONNX's own backend suite, whole, in parallel processes; and through its own runner, unchanged."""

from __future__ import annotations

import unittest

import numpy as np
import pytest

import evonnx.backend
from evonnx.bench.conformance import Outcome, data_sets, load_cases, run_suite
from evonnx.compiler.operators import PAGE, STATUSES, known_operators, markdown, read_table

_DRAWN = "the suite's: expects numbers drawn from NumPy's global generator, which it does not seed"
_NOISE = "the suite's: expects a float32 FFT's rounding (1.9e-7 where 0 is right) within 1e-7"
FAILURES = {
    **{f"test_bernoulli{kind}{form}": _DRAWN
       for kind in ("", "_double", "_seed") for form in ("", "_expanded")},
    "test_dft_inverse": _NOISE,
    "test_dft_inverse_opset19": _NOISE,
    "test_loop16_seq_none": "the suite's: its comparison asks for the length of scalars",
}  # fmt: skip
"""Case -> why it fails, and whose fault that is. Nothing else may fail, and these must."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """All cases, run once."""
    return run_suite()


def test_every_case(outcomes: list[Outcome]) -> None:
    failed = {c.name: f"{c.status}: {c.message}" for c in outcomes if not c.passed}
    surprises = {name: why for name, why in failed.items() if name not in FAILURES}
    assert not surprises, "\n".join(f"{name}: {why}" for name, why in surprises.items())
    assert failed.keys() == FAILURES.keys(), "these pass by now: take them off the list"
    assert len(outcomes) == 2024


def test_the_recorded_table_is_true(outcomes: list[Outcome]) -> None:
    """``evonnx ops`` says what the suite says; ``bench.conformance --record`` rewrites it."""
    table = read_table()
    assert table["cases"] == len(outcomes)
    assert table["passed"] == sum(c.passed for c in outcomes)
    assert table["native"] == sum(c.passed and not c.host for c in outcomes)
    assert {(e["domain"], e["op"]) for e in table["operators"]} == known_operators().keys()
    assert {e["status"] for e in table["operators"]} <= set(STATUSES)
    assert PAGE.read_text(encoding="utf-8") == markdown(table)


def test_numeric_operators_are_native() -> None:
    """Only strings, sequences, optionals and images may need the host."""
    table = read_table()
    words = ("string", "sequence", "optional", "image", "map", "regex", "label")
    kinds = {h for e in table["operators"] for h in e["host"]}
    assert all(any(w in k for w in words) for k in kinds), sorted(kinds)


def test_a_sequence_of_scalars_is_right() -> None:
    """What the suite's own comparison cannot compare, ``test_loop16_seq_none``."""
    ((kind, case),) = load_cases("test_loop16_seq_none$")
    assert kind == "node"
    (inputs, (want,)), = data_sets(case, case.model)
    (found,) = evonnx.backend.prepare(case.model).run(inputs)
    assert len(found) == len(want) > 1
    for ours, theirs in zip(found, want, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert np.array_equal(ours, theirs)


def test_the_suites_own_runner() -> None:
    """``onnx.backend.test.BackendTest`` runs on the module as it is."""
    from onnx.backend.test import BackendTest

    suite = BackendTest(evonnx.backend, __name__)
    suite.include(r"^test_(relu|add|softmax_axis_1|sequence_insert_at_back|split_to_sequence_1)_cpu")
    result = unittest.TestResult()
    suite.test_suite.run(result)
    assert result.wasSuccessful(), (result.errors, result.failures)
    assert result.testsRun - len(result.skipped) == 5
