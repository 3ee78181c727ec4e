"""If, Loop and Scan: regions, folding in place, sizes that change, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from evonnx.compiler.importer import import_model
from evonnx.ir.errors import UnsupportedError

RNG = np.random.default_rng(13)
F, INT, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _info(name: str, kind: int, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _graph(nodes: Any, inputs: Any, outputs: Any, **held: np.ndarray) -> Any:
    constants = [numpy_helper.from_array(a, n) for n, a in held.items()]
    return helper.make_graph(nodes, "g", inputs, outputs, constants)


def _branch(op: str, *names: str, **attrs: Any) -> Any:
    return _graph([helper.make_node(op, list(names), ["r"], **attrs)], [], [_info("r", F)])


def _ops(model: Any) -> set[str]:
    return {n.op for n in import_model(model).nodes}


@pytest.mark.parametrize("flag", [True, False])
def test_if_takes_one_branch(lab: Any, flag: bool) -> None:
    node = helper.make_node("If", ["c"], ["y"], then_branch=_branch("Add", "x", "z"),
                            else_branch=_branch("Mul", "x", "x"))  # fmt: skip
    feeds = {"c": np.array(flag), "x": _f(2, 3), "z": _f(3)}
    lab.check([node], feeds, ["y"])
    assert "if" in _ops(lab.model([node], feeds, ["y"]))


def test_if_with_a_known_condition_leaves_nothing_behind(lab: Any) -> None:
    node = helper.make_node("If", ["c"], ["y"], then_branch=_branch("Neg", "x"),
                            else_branch=_branch("Abs", "x"))  # fmt: skip
    model = lab.model([node], {"x": _f(3)}, ["y"], {"c": np.array(False)})
    assert _ops(model) == {"input", "abs"}


@pytest.mark.parametrize("flag", [True, False])
def test_branches_of_different_sizes(lab: Any, flag: bool) -> None:
    node = helper.make_node("If", ["c"], ["m"], then_branch=_branch("Concat", "x", "x", axis=0),
                            else_branch=_branch("Identity", "x"))  # fmt: skip
    tail = helper.make_node("ReduceSum", ["m"], ["y"], keepdims=0)
    lab.check([node, tail], {"c": np.array(flag), "x": _f(2, 3)}, ["m", "y"])


def test_branches_of_different_ranks_are_refused(lab: Any) -> None:
    node = helper.make_node("If", ["c"], ["y"], then_branch=_branch("Flatten", "x"),
                            else_branch=_branch("Identity", "x"))  # fmt: skip
    feeds = {"c": np.array(True), "x": _f(2, 3, 4)}
    with pytest.raises(UnsupportedError, match="different ranks"):
        import_model(lab.model([node], feeds, ["y"]))


def test_squeeze_of_a_symbolic_axis(lab: Any) -> None:
    """``x.squeeze(1)`` as exporters write it: the axis is taken as removed."""
    squeeze = _graph([helper.make_node("Squeeze", ["x", "one"], ["r"])], [], [_info("r", F)],
                     one=np.array([1], np.int64))  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "k"], ["d"]),
        helper.make_node("Equal", ["d", "k"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=squeeze,
                         else_branch=_branch("Identity", "x")),
    ]  # fmt: skip
    feeds = {"x": _f(4, 1, 3)}
    lab.check(nodes, feeds, ["y"], {"k": np.array(1, np.int64)}, shapes={"x": ("N", "D", 3)})


def test_nested_ifs_capture_through_both_levels(lab: Any) -> None:
    inner = _graph(
        [helper.make_node("If", ["d"], ["r"], then_branch=_branch("Add", "x", "z"),
                          else_branch=_branch("Sub", "x", "z"))], [], [_info("r", F)],
    )  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner,
                            else_branch=_branch("Identity", "z"))  # fmt: skip
    for c in (True, False):
        for d in (True, False):
            feeds = {"c": np.array(c), "d": np.array(d), "x": _f(3), "z": _f(3)}
            lab.check([node], feeds, ["y"])


# -- Loop --------------------------------------------------------------------------------------


def _loop_body(*nodes: Any, state: Any = (None,), items: int = 1, **held: np.ndarray) -> Any:
    inputs = [_info("i", INT, ()), _info("c", B, ()), _info("s", F, state)]
    outputs = [_info("co", B, ()), _info("so", F)] + [_info(f"o{k}", F) for k in range(items)]
    return _graph(list(nodes), inputs, outputs, **held)


def _accumulate() -> Any:
    return _loop_body(
        helper.make_node("Add", ["s", "x"], ["so"]),
        helper.make_node("Mul", ["so", "x"], ["o0"]),
        helper.make_node("Identity", ["c"], ["co"]),
        state=(3,),
    )


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_loop_with_a_count_that_depends_on_data(lab: Any, trips: int) -> None:
    node = helper.make_node("Loop", ["m", "", "s0"], ["s1", "o"], body=_accumulate())
    feeds = {"m": np.array(trips, np.int64), "s0": _f(3), "x": _f(3)}
    lab.check([node], feeds, ["s1", "o"])


def test_a_short_loop_is_unrolled(lab: Any) -> None:
    node = helper.make_node("Loop", ["m", "", "s0"], ["s1", "o"], body=_accumulate())
    feeds, held = {"s0": _f(3), "x": _f(3)}, {"m": np.array(4, np.int64)}
    lab.check([node], feeds, ["s1", "o"], held)
    assert "loop" not in _ops(lab.model([node], feeds, ["s1", "o"], held))


def test_loop_that_stops_by_its_condition(lab: Any) -> None:
    body = _loop_body(
        helper.make_node("Add", ["s", "x"], ["so"]),
        helper.make_node("Identity", ["so"], ["o0"]),
        helper.make_node("ReduceSum", ["so"], ["t"], keepdims=0),
        helper.make_node("Less", ["t", "top"], ["co"]),
        state=(3,), top=np.array(20.0, np.float32),
    )  # fmt: skip
    node = helper.make_node("Loop", ["", "go", "s0"], ["s1", "o"], body=body)
    feeds = {"go": np.array(True), "s0": np.zeros(3, np.float32), "x": np.ones(3, np.float32)}
    got = lab.check([node], feeds, ["s1", "o"])
    assert got["o"].shape == (7, 3)
    lab.check([node], feeds | {"go": np.array(False)}, ["s1", "o"])


def test_loop_state_that_grows(lab: Any) -> None:
    body = _loop_body(
        helper.make_node("Concat", ["s", "x"], ["so"], axis=0),
        helper.make_node("ReduceSum", ["so"], ["o0"], keepdims=0),
        helper.make_node("Identity", ["c"], ["co"]),
    )
    node = helper.make_node("Loop", ["m", "", "s0"], ["s1", "o"], body=body)
    feeds = {"m": np.array(4, np.int64), "s0": _f(2), "x": _f(3)}
    assert lab.check([node], feeds, ["s1", "o"])["s1"].shape == (14,)


# -- Scan --------------------------------------------------------------------------------------


def _scan_body() -> Any:
    return _graph(
        [helper.make_node("Add", ["s", "e"], ["so"]), helper.make_node("Mul", ["so", "k"], ["o"])],
        [_info("s", F, (3,)), _info("e", F, (3,))], [_info("so", F, (3,)), _info("o", F, (3,))],
    )  # fmt: skip


@pytest.mark.parametrize(
    "attrs",
    [{}, {"scan_input_directions": [1]}, {"scan_output_directions": [1]},
     {"scan_output_axes": [1]}],
)  # fmt: skip
def test_scan(lab: Any, attrs: dict[str, Any]) -> None:
    node = helper.make_node("Scan", ["s0", "x"], ["s1", "y"], body=_scan_body(),
                            num_scan_inputs=1, **attrs)  # fmt: skip
    feeds = {"s0": _f(3), "x": _f(5, 3), "k": _f(3)}
    lab.check([node], feeds, ["s1", "y"])


def test_scan_along_another_axis(lab: Any) -> None:
    node = helper.make_node("Scan", ["s0", "x"], ["s1", "y"], body=_scan_body(),
                            num_scan_inputs=1, scan_input_axes=[1])  # fmt: skip
    feeds = {"s0": _f(3), "x": _f(3, 5), "k": _f(3)}
    lab.check([node], feeds, ["s1", "y"], shapes={"x": (3, "T")})


# -- sequences ---------------------------------------------------------------------------------


def test_sequences_of_known_elements_vanish(lab: Any) -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x", "n"], ["s"], axis=1),
        helper.make_node("SequenceAt", ["s", "k"], ["a"]),
        helper.make_node("SequenceInsert", ["s", "a"], ["t"]),
        helper.make_node("ConcatFromSequence", ["t"], ["y"], axis=1),
    ]
    held = {"n": np.array([1, 2], np.int64), "k": np.array(-1, np.int64)}
    lab.check(nodes, {"x": _f(2, 3)}, ["y"], held)
    assert "host" not in _ops(lab.model(nodes, {"x": _f(2, 3)}, ["y"], held))


def test_sequences_in_a_loop(lab: Any) -> None:
    seq = helper.make_sequence_type_proto(helper.make_tensor_type_proto(F, None))
    body = helper.make_graph(
        [helper.make_node("SequenceInsert", ["s", "x"], ["so"]),
         helper.make_node("Identity", ["c"], ["co"])],
        "g", [_info("i", INT, ()), _info("c", B, ()), helper.make_value_info("s", seq)],
        [_info("co", B, ()), helper.make_value_info("so", seq)],
    )  # fmt: skip
    nodes = [
        helper.make_node("SequenceEmpty", [], ["s0"]),
        helper.make_node("Loop", ["m", "", "s0"], ["s1"], body=body),
        helper.make_node("ConcatFromSequence", ["s1"], ["y"], axis=0),
        helper.make_node("SequenceLength", ["s1"], ["n"]),
    ]
    lab.check(nodes, {"m": np.array(3, np.int64), "x": _f(2)}, ["y", "n"])
