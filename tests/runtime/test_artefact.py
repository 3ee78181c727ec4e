"""Artefacts: what is written is read back, and damage is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from evonnx.ir.dims import sym
from evonnx.ir.errors import ArtefactError
from evonnx.ir.graph import Constants
from evonnx.ir.types import F32, I64, TensorType
from evonnx.runtime import store
from evonnx.runtime.artefact import read_artefact, write_artefact
from evonnx.runtime.executable import Executable, Parts
from evonnx.runtime.objects import link
from evonnx.runtime.program import (
    Buffer,
    ConstSpec,
    ControlStep,
    HostStep,
    KernelStep,
    Program,
    SizeCheck,
    print_program,
)
from evonnx.runtime.store import ProgramCache

NOTES = {"stamps": [["w.bin", 3, 4]]}
W = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def exe(maker: Any, cache: Any) -> Executable:
    """``y = x + w.T`` on a batch of N."""
    n = sym("N")
    x = maker.input("x", (4, 3))
    maker.input("s", ("N",))
    c = maker.const(W, ("chain", ("transpose", (1, 0)), ("reshape", (4, 3))), (4, 3))
    y = maker.buffer((4, 3))
    maker.checks.append(SizeCheck("equal", n, n * 2 // 2, "same"))
    maker.add(x, c, y)
    maker.output("y", y)
    return Executable(maker.program(), maker.constants, threads=1, cache=cache)


def write(path: Path, exe: Executable, key: str = "key") -> Path:
    with path.open("wb") as file:
        count = write_artefact(file, key, NOTES, exe.program, exe.parts.code.objects,
                               exe.parts.constants)  # fmt: skip
    assert path.stat().st_size == count
    return path


def read(path: Path, key: str | None = "key") -> Any:
    with path.open("rb") as file:
        return read_artefact(file, key)


def test_round_trip(exe: Executable, cache: Any, tmp_path: Path) -> None:
    found = read(write(tmp_path / "a", exe))
    assert found.key == "key"
    assert found.notes == NOTES
    assert found.program == exe.program
    assert print_program(found.program) == print_program(exe.program)
    assert found.objects == exe.parts.code.objects
    (array,) = found.constants.values()
    assert found.constants.keys() == exe.parts.constants.keys()
    assert not array.flags.writeable
    assert array.ctypes.data % 64 == 0
    code = link(found.objects, [])
    again = Executable(found.program, Constants(), threads=1, cache=cache,
                       parts=Parts(code, found.constants, {}))  # fmt: skip
    x = {"x": np.ones((4, 3), np.float32), "s": np.zeros(5, np.float32)}
    assert np.array_equal(again.run(x)["y"], exe.run(x)["y"])
    assert np.array_equal(exe.run(x)["y"], 1 + W.T)


def test_every_kind_of_step_and_attribute(maker: Any, make: Any, tmp_path: Path) -> None:
    body = make()
    a = body.input("a", ("M",))
    body.output("a", a)
    attrs = {"symbols": (("M", sym("N") + 1),), "none": None, "on": True, "x": 1.5, "inf": -np.inf,
             "text": 'q"\n\udcff', "raw": b"\0\xff", "to": F32, "deep": ((1, ("a",)), ())}
    maker.input("x", ("N",))
    maker.buffers.append(Buffer("v", TensorType(I64, ()), "arena", None, sym("N") * 8))
    maker.steps += [
        ControlStep("loop", attrs, (None, 0), (1,), (body.program(),)),
        HostStep("lower", attrs, (0, None), (1,)),
        KernelStep("k", (0, 1), (sym("N"), 3), 4, n_outputs=1, group=2, rounds=sym("N") + 1),
    ]
    program = maker.program()
    with (tmp_path / "a").open("wb") as file:
        write_artefact(file, "k", {}, program, {}, {})
    assert read(tmp_path / "a", None).program == program


@pytest.mark.parametrize("array", [
    np.array(["a", b"\0b", "\udcff"], object), np.zeros((0, 3), np.float32), np.array(7, np.int8),
    np.arange(5).astype(ml_dtypes.bfloat16), np.array([np.nan, -0.0], np.float16),
    np.arange(3, dtype=np.complex64), np.arange(9, dtype=np.uint8),
], ids=lambda a: str(a.dtype))  # fmt: skip
def test_constants_of_every_kind(array: np.ndarray, tmp_path: Path) -> None:
    program = Program((), (), (), (), {}, {0: ConstSpec("d", None)})
    with (tmp_path / "a").open("wb") as file:
        write_artefact(file, "k", {}, program, {}, {("d", None): array})
    back = read(tmp_path / "a", "k").constants["d", None]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    if array.dtype == object:
        assert back.tolist() == array.tolist()
    else:
        assert back.tobytes() == array.tobytes()


def test_every_flipped_byte_is_noticed(exe: Executable, tmp_path: Path) -> None:
    """Of header, head, machine code and constants; padding alone may change."""
    data = write(tmp_path / "a", exe).read_bytes()
    found = read(tmp_path / "a")
    lone = bytes(found.constants.popitem()[1])
    places = [0, 20, 40, len(data) // 2, data.index(b'"key"'), data.index(lone), data.index(b"ELF")]
    places += [data.index(lone) + len(lone) - 1]
    for at in places:
        if data[at : at + 64].strip(b"\0") == b"":
            continue
        broken = bytearray(data)
        broken[at] ^= 0x10
        (tmp_path / "b").write_bytes(broken)
        with pytest.raises(ArtefactError, match="damaged"):
            read(tmp_path / "b")
    for cut in (b"", data[:10], data[:60], data[:-1], data + b"x"):
        (tmp_path / "b").write_bytes(cut)
        with pytest.raises(ArtefactError, match="damaged"):
            read(tmp_path / "b")
    with pytest.raises(ArtefactError, match="another key"):
        read(tmp_path / "a", "other")


def test_the_cache_says_why(exe: Executable, tmp_path: Path, monkeypatch: Any) -> None:
    cache = ProgramCache(tmp_path)
    parts = (exe.program, exe.parts.code.objects, exe.parts.constants)
    assert cache.get("k") == (None, "not in the cache")
    assert cache.put("k", NOTES, *parts) == ""
    found, why = cache.get("k")
    assert (found.program, why) == (exe.program, "cached")  # type: ignore[union-attr]
    (entry,) = [p for p in cache.folder.rglob("*") if p.is_file()]
    assert entry.stat().st_mode & 0o077 == 0
    entry.write_bytes(entry.read_bytes()[:-1])
    assert cache.get("k") == (None, "the entry is unusable: damaged (cut off)")
    monkeypatch.setattr(store, "MAX_ENTRY", 10)
    assert "more than" in cache.put("k", NOTES, *parts)
    monkeypatch.undo()
    monkeypatch.setattr(store, "_FREE", 1 << 60)
    assert "free" in cache.put("k", NOTES, *parts)


def test_the_oldest_programs_go_first(exe: Executable, tmp_path: Path) -> None:
    import os

    parts = (exe.program, exe.parts.code.objects, exe.parts.constants)
    one = ProgramCache(tmp_path / "one")
    assert one.put("k", NOTES, *parts) == ""
    (entry,) = [p for p in one.folder.rglob("*") if p.is_file()]
    cache = ProgramCache(tmp_path, max_bytes=8 * entry.stat().st_size)
    for k in range(12):
        assert cache.put(f"k{k}", NOTES, *parts) == ""
        for path in cache.folder.rglob("*"):  # make order of use visible to coarse clocks
            if path.is_file():
                os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    kept = [k for k in range(12) if cache.get(f"k{k}")[0] is not None]
    assert kept and kept == list(range(kept[0], 12))
    assert len(kept) < 12
