"""Targets: text, estimates, shipped files, what runs here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from evonnx.ir import target as module
from evonnx.ir.errors import ParseError
from evonnx.ir.target import Target

OLD = """target
  name = old  # a file of before there were more rates
  triple = x86_64-unknown-linux-gnu
  cpu = x86-64-v3
  cores = 3
  flops = 80e9
  l1_rate = 100e9
  l3_rate = 20e9
"""


def test_a_file_without_the_newer_rates_gets_estimates() -> None:
    old = Target.parse(OLD)
    assert (old.vector_rate, old.special_rate) == (20e9, 20e9)
    assert (old.load_rate, old.store_rate, old.l3_rate_all) == (100e9, 50e9, 60e9)
    assert old.latency_s == pytest.approx(4 / 3e9)
    assert Target.parse(str(old)) == old


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("flops = 0", "flops is more than 0"),
        ("l2_rate = -1", "l2_rate is more than 0"),
        ("l3_bytes = 0", "l3_bytes is more than 0"),
        ("sync_s = -1e-6", "sync_s is at least 0"),
        ("dram_rate = inf", "dram_rate is a finite number"),
        ("launch_s = nan", "launch_s is a finite number"),
        ("nonsense = 1", "unknown or malformed"),
        ("cores = many", "bad value 'many'"),
    ],
)
def test_numbers_that_no_machine_has_are_refused(line: str, message: str) -> None:
    with pytest.raises(ParseError, match=message) as error:
        Target.parse(OLD + line)
    assert "line 9" in str(error.value)


def test_shipped_machines() -> None:
    names = Target.shipped()
    assert {"zen5-2core", "avx2-laptop", "server-32core", "arm64-board", "h200"} <= set(names)
    for name in names:
        found = Target.named(name)
        assert found.name == name
        assert Target.parse(str(found)) == found
        # Memory further away is larger and slower, and all cores move more than one.
        assert found.l1_bytes <= found.l2_bytes <= found.l3_bytes
        assert found.l1_rate >= found.l2_rate >= found.l3_rate >= found.dram_rate
        assert found.l3_rate_all >= found.l3_rate and found.dram_rate_all >= found.dram_rate
        assert found.flops >= found.vector_rate >= found.special_rate
    assert not Target.named("h200").runs_here()
    with pytest.raises(KeyError, match="avx2-laptop"):
        Target.named("abacus")


def test_code_for_a_named_processor_runs_on_that_processor() -> None:
    host = dataclasses.replace(Target.detect(), features="")
    assert host.runs_here()
    assert not dataclasses.replace(host, cpu="some-other-core").runs_here()
    assert dataclasses.replace(host, cpu="generic").runs_here()


def test_speed_and_improvement_cover_every_constant() -> None:
    """A constant that is in neither table would be one no cost model may use."""
    costs = {f.name for f in dataclasses.fields(Target) if f.name.endswith(("_rate", "_s", "_all"))}
    known = {*module._RATES, *module._TIMES}
    assert costs | {"flops"} == known
    machine = Target.parse(OLD)
    fast = machine.sped_up(2.0)
    assert (fast.flops, fast.sync_s, fast.l2_bytes) == (
        2 * machine.flops, machine.sync_s / 2, machine.l2_bytes)  # fmt: skip
    improved = dict(machine.improved(2.0))
    assert improved.keys() == known | {"l1_bytes", "l2_bytes", "l3_bytes"}
    assert improved["l3_bytes"].l3_bytes == 2 * machine.l3_bytes
    assert improved["launch_s"].launch_s == machine.launch_s / 2
    assert all(other != machine for other in improved.values())
    assert all(module.unit_of(name) for name in improved)


def test_the_clock_of_a_virtual_machine_is_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "_SYS_CPU", tmp_path)
    monkeypatch.setattr(module, "_CPUINFO", told)
    assert module._clock() == 3.0e9
    told.write_text("flags\t\t: fpu avx\ncpu MHz\t\t: 2000.0\ncpu MHz\t\t: 2500.0\n")
    assert module._clock() == 2.5e9
    told.write_text("cpu MHz\t\t: 2500.0\nflags\t\t: fpu hypervisor avx\n")
    assert module._clock() == pytest.approx(3.5e9)
    (tmp_path / "cpu0" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0" / "cpufreq" / "cpuinfo_max_freq").write_text("4100000\n")
    assert module._clock() == 4.1e9
