"""LLVM's answer about this machine is kept, and asked for anew where it may be another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from evonnx.ir import target
from evonnx.ir.target import Processor, Target
from evonnx.runtime import machine
from evonnx.runtime.machine import KnownMachine, version_of


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A process that has not asked LLVM yet; counts the processes' questions."""
    asked: list[int] = []
    known = target.processor()

    def ask() -> Processor:
        if not target._PROCESSOR:
            asked.append(1)
            target._PROCESSOR.append(known)
        return target._PROCESSOR[0]

    monkeypatch.setattr(target, "_PROCESSOR", [])
    monkeypatch.setattr(machine, "_RECALLED", set())
    monkeypatch.setattr(target, "processor", ask)
    return asked


def forget() -> None:
    target._PROCESSOR.clear()
    machine._RECALLED.clear()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the system does not say")
def test_asked_once(unknown: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KnownMachine(tmp_path).recall()
    first = target._PROCESSOR[0]
    assert len(unknown) == 1
    forget()
    KnownMachine(tmp_path).recall()
    assert [first] == target._PROCESSOR and len(unknown) == 1
    forget()
    (entry,) = (p for p in (tmp_path / "machine").rglob("*") if p.is_file())
    entry.write_bytes(entry.read_bytes().replace(b"+", b"-", 1))
    KnownMachine(tmp_path).recall()
    assert [first] == target._PROCESSOR and len(unknown) == 2
    forget()
    other = tmp_path / "cpuinfo"
    other.write_text(Path("/proc/cpuinfo").read_text().replace("flags\t", "flags\tnew ", 1))
    monkeypatch.setattr(machine, "_CPUINFO", other)
    KnownMachine(tmp_path).recall()
    assert len(unknown) == 3


def test_asked_every_time_where_the_system_is_silent(
    unknown: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "absent")
    KnownMachine(tmp_path).recall()
    assert not unknown
    assert not list(tmp_path.iterdir())


def test_clock_and_number_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "processor\t: 0\nmodel name\t: x\ncpu MHz\t\t: 2000.1\nflags\t\t: fpu\n\nprocessor\t: 1"
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPUINFO", file)
    file.write_text(told)
    key = machine._key()
    file.write_text(told.replace("2000.1", "3100.9").replace(": 0", ": 7"))
    assert machine._key() == key != b""
    file.write_text(told.replace("fpu", "fpu avx2"))
    assert machine._key() != key


def test_the_answer_is_the_targets() -> None:
    here = Target.detect()
    assert (here.triple, here.cpu, here.features) == target.processor()[:3]


def test_versions_are_those_of_the_packages() -> None:
    from importlib import metadata

    for package in ("numpy", "numba", "llvmlite", "onnx", "ml_dtypes"):
        assert version_of(package) == metadata.version(package)
    with pytest.raises(metadata.PackageNotFoundError):
        version_of("no_such_package")
