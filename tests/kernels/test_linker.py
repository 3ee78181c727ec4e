"""Objects in this process: our own linker and LLVM's keep the same promises."""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evonnx.ir.errors import CompileError
from evonnx.ir.target import Target
from evonnx.kernels import linker
from evonnx.kernels.jit import compile_ir_text, compile_source
from evonnx.kernels.linker import load_objects

SOURCE = """def kernel(bufs, params, begin, end):
    o = ptr_i64(bufs, 0)
    ccall("mk_set", o, 42)
"""
SET = "define void @mk_set(ptr %p, i64 %v) { store i64 %v, ptr %p ret void }"
KIND = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
PLAIN = platform.machine() in ("x86_64", "AMD64")

DATA = """
@table = private constant [4 x i64] [i64 10, i64 20, i64 30, i64 40]
@names = private constant [2 x ptr] [ptr @table, ptr @count]
@count = internal global i64 5
@zeros = internal global [9 x i64] zeroinitializer
declare void @memset(ptr, i32, i64)

define void @k(ptr %bufs, i64 %p, i64 %i, i64 %e) {
  %out = load ptr, ptr %bufs
  %slot = getelementptr i64, ptr @table, i64 %i
  %a = load i64, ptr %slot
  %old = load volatile i64, ptr @count
  %new = add i64 %old, %a
  store volatile i64 %new, ptr @count
  %which = getelementptr ptr, ptr @names, i64 %p
  %name = load ptr, ptr %which
  %b = load i64, ptr %name
  %z = getelementptr i64, ptr @zeros, i64 %i
  %c = load volatile i64, ptr %z
  %d = add i64 %b, %c
  store i64 %d, ptr %out
  %rest = getelementptr i64, ptr %out, i64 1
  call void @memset(ptr %rest, i32 1, i64 %e)
  ret void
}
"""
"""Constants, data, zeros, an address inside a constant, and a call of the C library."""


@pytest.fixture(params=["own", "llvm"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with each linker."""
    if request.param == "llvm":
        monkeypatch.setattr(linker._Object, "is_plain", lambda self: False)
    elif not PLAIN:
        pytest.skip("our own linker is for x86-64")
    return str(request.param)


def test_calls_between_objects(either: str) -> None:
    target = Target.detect()
    loader = load_objects([compile_source(SOURCE, "k", target, ["mk_set"]),
                           compile_ir_text(SET, target)])  # fmt: skip
    assert isinstance(loader, linker._Placed) == (either == "own")
    assert {"k", "mk_set"} <= loader.symbols
    out = np.zeros(1, np.int64)
    address = np.array([out.ctypes.data])
    KIND(loader.address("k"))(address.ctypes.data, 0, 0, 1)
    assert out[0] == 42
    with pytest.raises(CompileError, match="nothing"):
        loader.address("nothing")


def test_data_of_all_kinds(either: str) -> None:
    loader = load_objects([compile_ir_text(DATA, Target.detect(), optimize=False)])
    run = KIND(loader.address("k"))
    out = np.zeros(6, np.int64)
    address = np.array([out.ctypes.data])
    run(address.ctypes.data, 0, 2, 40)
    assert out.tolist() == [10, *[0x0101010101010101] * 5]
    run(address.ctypes.data, 1, 3, 0)
    assert out[0] == 5 + 30 + 40


def test_no_page_is_writable_and_executable() -> None:
    loader = load_objects([compile_ir_text(DATA, Target.detect(), optimize=False)])
    address = loader.address("k")
    if not Path("/proc/self/maps").exists():
        pytest.skip("the system does not say")
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
        if int(low, 16) <= address < int(high, 16):
            assert rights.startswith("r-x")
            return
    raise AssertionError("the code is nowhere")


def test_undefined_symbols_are_refused() -> None:
    other = compile_source(SOURCE.replace("mk_set", "mk_missing"), "k", Target.detect())
    with pytest.raises(CompileError, match="mk_missing"):
        load_objects([other])


@pytest.mark.skipif(not PLAIN, reason="our own linker is for x86-64")
def test_a_symbol_that_two_objects_define() -> None:
    code = compile_ir_text(SET, Target.detect())
    with pytest.raises(CompileError, match="two objects define 'mk_set'"):
        load_objects([code, code])


@pytest.mark.parametrize("data", [b"", b"MZ", b"\x7fELF\x02\x01"])
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(CompileError):
        load_objects([data])


def test_truncated_and_altered_objects() -> None:
    """No cut and no altered table crashes: code is not called here."""
    data = compile_ir_text(DATA, Target.detect(), optimize=False)
    for cut in range(0, len(data), 7):
        with pytest.raises(CompileError):
            load_objects([data[:cut]])


@pytest.mark.skipif(not PLAIN, reason="our own linker is for x86-64")
def test_relocations_outside_of_their_section() -> None:
    data = compile_ir_text(DATA, Target.detect(), optimize=False)
    parsed = linker._Object.parse(data)
    _, table = parsed.relocations[0]
    place = data.index(table.tobytes())
    for change in ("offset", "symbol"):
        bad = table.copy()
        bad[change] = 1 << 30
        altered = data[:place] + bad.tobytes() + data[place + bad.nbytes :]
        with pytest.raises(CompileError, match="damaged"):
            load_objects([altered])


def _in_a_fresh_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not PLAIN, reason="elsewhere LLVM links")
def test_loading_imports_neither_numba_nor_llvm(tmp_path: Path) -> None:
    path = tmp_path / "k.o"
    path.write_bytes(compile_ir_text(DATA, Target.detect()))
    _in_a_fresh_process(
        "import sys; from evonnx.kernels.linker import load_objects;"
        f"assert load_objects([open({str(path)!r}, 'rb').read()]).address('k');"
        "assert not {'numba', 'llvmlite'} & set(sys.modules)"
    )
