"""Programs as data: the checker, the text, and the profile of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evonnx.ir.dims import sym
from evonnx.ir.errors import VerifyError
from evonnx.ir.target import Target
from evonnx.ir.types import F32, I64, SequenceType, TensorType
from evonnx.runtime.driver import driver_ir
from evonnx.runtime.executable import Executable
from evonnx.runtime.profile import profile
from evonnx.runtime.program import (
    BindStep,
    Buffer,
    ControlStep,
    KernelStep,
    Program,
    check_program,
    print_program,
    step_line,
)  # fmt: skip

T = TensorType(F32, (4,))


def program(*buffers: Buffer, **more: Any) -> Program:
    return Program(tuple(buffers), more.pop("steps", ()), more.pop("inputs", ()), (), **more)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (program(Buffer("a", T, "stack")), "role 'stack'"),
        (program(Buffer("a", T, "const")), "has no ConstSpec"),
        (program(Buffer("a", T, "arena", view_of=0)), "a cycle"),
        (program(Buffer("a", T, "arena", view_of=7)), "no such buffer"),
        (program(Buffer("a", T, "arena"), Buffer("b", T, "arena", 0, 4)), "4 bytes behind 0"),
        (
            program(Buffer("a", SequenceType(T), "arena"), Buffer("b", T, "arena", 0)),
            "views a host value",
        ),
        (program(Buffer("a", T, "input")), "belongs to no input"),
        (program(Buffer("a", T, "input"), inputs=(("a", 0), ("b", 3))), "input refers to buffer 3"),
        (
            program(Buffer("a", T, "arena"), steps=(KernelStep("k", (5,), (), 1),)),
            "no such buffer",
        ),
    ],
)
def test_what_is_refused(bad: Program, reason: str) -> None:
    with pytest.raises(VerifyError, match=reason):
        check_program(bad)


def test_inputs_and_constants_are_not_written(make: Any) -> None:
    for kind in ("input", "const"):
        m = make()
        x = m.input("x", (4,))
        target = x if kind == "input" else m.const(np.zeros(4, np.float32))
        m.affine(x, target, 1, 1)
        with pytest.raises(VerifyError, match=f"is {kind} memory and must not be written"):
            check_program(m.program())


def test_the_lines_around_a_fault(make: Any) -> None:
    m = make()
    at = m.input("x", (4,))
    for _ in range(5):
        y = m.buffer((4,))
        m.affine(at, y, 1, 1)
        at = y
    m.steps[3] = replace(m.steps[3], params=(sym("Q"),), label="conv 'one'")
    with pytest.raises(VerifyError) as caught:
        check_program(m.program())
    lines = str(caught.value).splitlines()
    assert "size Q is not known yet" in lines[0]
    assert lines[4].startswith(" ->    3  run ")
    assert len(lines) == 6


def test_lines() -> None:
    assert step_line(BindStep("N", 3)) == "bind N = %3"
    unknown = KernelStep("k", (1, 2), (sym("N"),), sym("N") * 2)
    assert step_line(unknown) == "run k( -> %1, %2) params=(N) tiles=2*N"
    known = KernelStep("k", (1, 2), (), 1, 64, label="a\nb", n_outputs=1)
    assert step_line(known) == r"run k(%1 -> %2) params=() tiles=1 scratch=64  # 'a\nb'"
    step = ControlStep("if", {"split": 0}, (0, None), (1,), ())
    assert step_line(step) == "if(%0, -) -> %1 {split=0}"


def test_bodies_are_printed_and_checked(make: Any) -> None:
    body = make()
    x, y = body.input("x", (4,)), body.buffer((4,))
    body.affine(x, y, 1, 1)
    body.output("y", y)
    m = make()
    c, x = m.input("c", (), I64), m.input("x", (4,))
    z = m.buffer((4,))
    m.steps.append(ControlStep("if", {}, (c, x), (z,), (body.program(),)))
    whole = m.program()
    check_program(whole)
    assert "\n    program\n      %0 = input f32[4]" in print_program(whole)
    assert list(whole.walk()) == [whole, whole.steps[0].bodies[0]]
    broken = replace(body.program(), kernels={})
    m.steps[0] = replace(m.steps[0], bodies=(broken,))
    with pytest.raises(VerifyError, match="there is no kernel"):
        check_program(m.program())


@pytest.mark.parametrize("name", ["cpu", "avx2", "generic"])
def test_the_driver_is_complete(name: str) -> None:
    """Every placeholder of the LLVM text is filled in, on every machine."""
    for target in (Target.named(name), replace(Target.named(name), triple="riscv64-linux-gnu")):
        assert "$" not in driver_ir(target, 202)


@pytest.mark.parametrize("threads", [1, 2])
def test_profile(maker: Any, cache: Any, sources: Any, threads: int) -> None:
    x = maker.input("x", ("N",))
    count, y, z = maker.buffer((), dtype=I64), maker.buffer(("N",)), maker.buffer(("C",))
    maker.run(sources["affine"], (x, y), (1, 1, 1), sym("N"), flops=sym("N") * 2, label="first")
    maker.run(sources["count"], (y, count), (sym("N"),), 1)
    maker.steps.append(BindStep("C", count))
    maker.run(sources["affine"], (y, z), (1, 2, 0), sym("C"), flops=10**9, label="last")
    maker.output("z", z)
    exe = Executable(maker.program(), maker.constants, threads=threads, cache=cache)
    times = profile(exe, {"x": np.ones(50, np.float32)}, rounds=3)
    assert [t.label for t in times][::2] == ["first", "last"]
    assert [t.tiles for t in times] == [50, 1, 50]
    assert [t.parallel for t in times] == [False, False, threads > 1]
    assert times[0].flops == 100
    assert all(t.seconds > 0 and t.runs == 1 for t in times)
    assert "first" in str(times[0])
    again = profile(exe, {"x": np.ones(50, np.float32)}, rounds=1, warm=True)
    assert [(t.label, t.runs) for t in again] == [(t.label, t.runs) for t in times]
