"""Schedules as text, and what makes an order, a stage or a share illegal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evonnx.ir.builder import Builder
from evonnx.ir.errors import ParseError, ScheduleError
from evonnx.ir.graph import Graph
from evonnx.ir.schedule import IMPLEMENTATIONS, Group, Schedule, check_order, parse_schedule
from evonnx.ir.types import F32, TensorType

count = st.one_of(st.none(), st.integers(0, 99))
groups = st.builds(
    Group,
    st.lists(st.integers(0, 999), max_size=5).map(tuple),
    st.sampled_from(IMPLEMENTATIONS),
    st.dictionaries(st.sampled_from(["mr", "nr", "block"]), st.integers(0, 512)).map(
        lambda d: tuple(d.items())
    ),
    count,
    count,
)


@given(st.lists(groups, max_size=8))
def test_what_is_printed_is_read_back(drawn: list[Group]) -> None:
    schedule = Schedule("abc", tuple(drawn))
    assert parse_schedule(str(schedule)) == schedule


def test_the_text_without_stages_is_bare() -> None:
    plain = Schedule("abc", (Group((4, 5), "loops"), Group((6,), "contract", (("mr", 8),))))
    assert str(plain) == "schedule abc\n  g0 = loops [4, 5]\n  g1 = contract [6] {mr=8}\n"
    staged = Schedule("abc", (Group((4,), "loops", (("mr", 8),), 2, 1), Group((5,), "view")))
    assert str(staged) == (
        "schedule abc\n  g0 = loops [4] {stage=2, threads=1, mr=8}\n  g1 = view [5]\n")


@pytest.mark.parametrize("setting", ["stage=x", "threads=-1", "stage=\u00b2", "stage", "=3"])
def test_bad_settings_are_refused(setting: str) -> None:
    with pytest.raises(ParseError, match="schedule line 2"):
        parse_schedule(f"schedule abc\n  g0 = loops [4] {{{setting}}}\n")


def test_a_setting_is_given_once() -> None:
    with pytest.raises(ParseError, match="line 2: stage is given twice"):
        parse_schedule("schedule abc\n  g0 = loops [4] {stage=1, stage=1}\n")


@pytest.fixture(scope="module")
def fork() -> Graph:
    """exp and neg of x; a view of exp, read by abs; their sum."""
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 3)))
    left, right = b.op("exp", x), b.op("neg", x)
    flat = b.op("abs", b.op("reshape", left, shape=(3, 2)))
    return b.build({"y": b.op("add", left, right), "z": flat})


def schedule(graph: Graph, *order: tuple[str, dict[str, int]]) -> Schedule:
    """One group per node, by op, in the order given."""
    number = {n.op: k for k, n in enumerate(graph.nodes)}
    return Schedule(graph.digest, tuple(
        Group((number[op],), "view" if op == "reshape" else "loops", **settings)
        for op, settings in order
    ))  # fmt: skip


def test_independent_groups_may_share_a_stage(fork: Graph) -> None:
    found = schedule(fork, ("exp", {"stage": 0, "threads": 1}), ("reshape", {}),
                     ("neg", {"stage": 0, "threads": 2}), ("add", {"stage": 4}),
                     ("abs", {"stage": 4}))  # fmt: skip
    check_order(found, fork)
    assert found.stages() == [(0, 2), (3, 4)]
    assert schedule(fork, ("exp", {}), ("neg", {})).stages() == [(0,), (1,)]


def test_what_is_illegal_names_the_groups(fork: Graph) -> None:
    def refuse(reason: str, *order: tuple[str, dict[str, int]]) -> None:
        with pytest.raises(ScheduleError, match=reason):
            check_order(schedule(fork, *order), fork)

    one = {"stage": 1}
    rest = (("neg", {}), ("add", {}))
    refuse("g2 needs what g0 computes: they cannot run side by side in stage 1",
           ("exp", one), ("reshape", {}), ("abs", one), *rest)  # fmt: skip
    refuse("group g2 needs what g1 computes",
           ("neg", {}), ("exp", one), ("add", one), ("reshape", {}), ("abs", {}))  # fmt: skip
    refuse("groups g0 and g3 are of stage 1, but not what is between them",
           ("exp", one), ("reshape", {}), ("neg", {}), ("abs", one), ("add", {}))  # fmt: skip
    refuse("g0: its share is 0 threads",
           ("exp", {"threads": 0}), ("reshape", {}), ("abs", {}), *rest)  # fmt: skip
    refuse("g1: stage is for groups that run as kernels .*, not for view",
           ("exp", {}), ("reshape", one), ("abs", {}), *rest)  # fmt: skip
