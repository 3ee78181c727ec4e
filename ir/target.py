"""The machine a program is compiled for: instruction set, memory sizes, rates.

A ``Target`` is plain frozen data and a small text file of ``key = value`` lines; its rates may be
measured or imagined. The code generator reads only the instruction-set half (``triple``, ``cpu``,
``features``, ``vector_bits``, ``registers``), whose joined text ``isa`` is part of every object-
code cache key; the cost models read the rest. ``Target.detect()`` describes the running machine:
LLVM names the processor and its features, sysfs the caches, and the processor affinity and the
cgroup CPU quota (v2 ``cpu.max``, v1 ``cfs_quota_us``) bound the core count. Rates that were not
measured are estimated from the clock with the peak formula ``lanes * 2 (multiply and add) * pipes
* clock``, the caches in bytes per cycle and vector as the machines measured so far have them on
average; where vectors are worked on in halves, the half counts. ``evonnx calibrate`` measures them
and writes a file. ``targets/`` holds files of usual machines, to compile for where they run and to
imagine for the cost models everywhere.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ParseError

_X86_LEVELS = {
    "x86-64": (),
    "x86-64-v3": ("sse4.1", "avx2", "fma", "bmi2", "f16c", "movbe"),
    "x86-64-v4": (
        "sse4.1", "avx2", "fma", "bmi2", "f16c", "movbe",
        "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl",
    ),
}  # fmt: skip
"""What a generic processor name demands of a machine that is to run its code."""

_SHIPPED = Path(__file__).with_name("targets")
_SYS_CPU = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_DEFAULT_CLOCK = 3.0e9
_BOOST = 1.4
"""Clock under load over base clock, of server processors: 1.2 to 1.5; 1.39 where measured."""
_UNIT_BITS = {"znver4": 256}
"""Width of the arithmetic units where it is not that of the vectors, by LLVM's processor name."""


@dataclass(frozen=True, slots=True)
class Target:
    """One processor: what code may use, how large its memories are, how fast it is."""

    name: str
    """Free label, e.g. ``cpu`` or ``avx2``."""
    triple: str
    """LLVM target triple, e.g. ``x86_64-unknown-linux-gnu``."""
    cpu: str
    """LLVM processor name, e.g. ``znver5`` or ``x86-64-v3``."""
    features: str = ""
    """LLVM feature string ``+a,-b``; empty where the processor name says everything."""
    vector_bits: int = 128
    """Widest vector register generated code uses, in bits."""
    registers: int = 16
    """Architectural vector registers."""
    cores: int = 1
    """Cores this process may use (affinity and cgroup quota counted)."""
    l1_bytes: int = 32 << 10
    """Level-1 data cache of one core, bytes."""
    l2_bytes: int = 1 << 20
    """Level-2 cache of one core, bytes."""
    l3_bytes: int = 16 << 20
    """Last-level cache the cores share, bytes."""
    flops: float = 50e9
    """Peak float32 operations per second of one core; a fused multiply-add counts two."""
    l1_rate: float = 200e9
    """Bytes per second one core reads and writes in its level-1 cache."""
    l2_rate: float = 100e9
    """Bytes per second one core reads and writes in its level-2 cache."""
    l3_rate: float = 40e9
    """Bytes per second one core reads and writes in the last-level cache."""
    dram_rate: float = 15e9
    """Bytes per second one core reads and writes in main memory while the others rest."""
    dram_rate_all: float = 30e9
    """Bytes per second all cores together read and write in main memory."""
    launch_s: float = 0.3e-6
    """Seconds to start one kernel on one thread."""
    sync_s: float = 0.5e-6
    """Seconds for the threads of the team to meet at one barrier."""
    vector_rate: float = 0.0
    """Float32 operations per second of one core in emitted loops; 0: a quarter of ``flops``."""
    special_rate: float = 0.0
    """Operations of special functions (as the op table counts them) per second of one core; 0: a
    quarter of ``flops``."""
    load_rate: float = 0.0
    """Bytes per second one core loads into registers, at most; 0: ``l1_rate``."""
    store_rate: float = 0.0
    """Bytes per second one core stores from registers, at most; 0: half of ``l1_rate``."""
    l3_rate_all: float = 0.0
    """Bytes per second all cores together move in the last-level cache; 0: ``l3_rate`` each."""
    latency_s: float = 0.0
    """Seconds until the next operation can use the result of one; 0: 4 cycles at 3 GHz."""

    def __post_init__(self) -> None:
        """Puts estimates where nothing was given, so that readers see no zeros."""
        estimates = {
            "vector_rate": self.flops / 4, "special_rate": self.flops / 4,
            "load_rate": self.l1_rate, "store_rate": self.l1_rate / 2,
            "l3_rate_all": self.l3_rate * self.cores, "latency_s": 4 / _DEFAULT_CLOCK,
        }  # fmt: skip
        for name, estimate in estimates.items():
            if not getattr(self, name):
                object.__setattr__(self, name, estimate)

    @property
    def isa(self) -> str:
        """All that object code depends on, as one line; targets of equal ``isa`` share code."""
        return f"{self.triple}/{self.cpu}/{self.vector_bits}/{self.registers}/{self.features}"

    @property
    def arch(self) -> str:
        """Architecture, the first part of the triple: ``x86_64``, ``aarch64``, ..."""
        return self.triple.split("-", 1)[0]

    def lanes(self, bits: int) -> int:
        """Elements of ``bits`` bits in one vector register."""
        return max(1, self.vector_bits // bits)

    def has(self, feature: str) -> bool:
        """Whether generated code may use an LLVM feature such as ``fma`` or ``avx512vnni``."""
        named = _feature_set(self.features)
        if named:
            return feature in named
        if self.arch == "aarch64":
            return feature in ("neon", "fma")
        return feature in _X86_LEVELS.get(self.cpu, ())

    def runs_here(self) -> bool:
        """Whether this machine can execute code compiled for the target."""
        host = _host()
        if self.arch != host.arch:
            return False
        if self.isa == host.isa:
            return True
        named = _feature_set(self.features)
        if not named and self.cpu not in (*_X86_LEVELS, "generic"):
            return self.cpu == host.cpu  # what another processor needs is not known here
        return (named or set(_X86_LEVELS.get(self.cpu, ()))) <= _feature_set(host.features)

    def sped_up(self, factor: float) -> Target:
        """A machine that does everything ``factor`` times as fast; memory sizes stay."""
        changed: dict[str, Any] = {k: getattr(self, k) * factor for k in _RATES}
        changed |= {k: getattr(self, k) / factor for k in _TIMES}
        return dataclasses.replace(self, **changed)

    def improved(self, factor: float) -> Iterator[tuple[str, Target]]:
        """For each constant of the cost models, its name and a machine ``factor`` times as good
        there: a higher rate, a larger cache, a shorter time."""
        for name in (*_RATES, *_TIMES, *_SIZES):
            value = getattr(self, name)
            better = value / factor if name in _TIMES else value * factor
            changed: dict[str, Any] = {name: int(better) if name in _SIZES else better}
            yield name, dataclasses.replace(self, **changed)

    @classmethod
    def detect(cls) -> Target:
        """The running machine, as target ``cpu``."""
        return dataclasses.replace(_host(), cores=_usable_cores())

    @classmethod
    def named(cls, name: str) -> Target:
        """Preset ``cpu`` (this machine), ``avx512``, ``avx2`` or ``generic`` (baseline), or a
        machine whose file is shipped (``shipped()``).

        The presets keep this machine's memory sizes and lower the rates of arithmetic to what their
        vectors can reach. Raises ``KeyError`` for any other name.
        """
        if name == "cpu":
            return cls.detect()
        host = cls.detect()
        if name == "generic":
            if host.arch in ("aarch64", "arm64"):
                return _preset(host, "generic", "generic", 128, 32, 2)
            if host.arch != "x86_64":
                return dataclasses.replace(host, name="generic")
            return _preset(host, "generic", "x86-64", 128, 16, 1)
        if name == "avx2":
            return _preset(host, "avx2", "x86-64-v3", 256, 16, 2)
        if name == "avx512":
            return _preset(host, "avx512", "x86-64-v4", 512, 32, 2)
        if name in cls.shipped():
            return cls.parse((_SHIPPED / f"{name}.target").read_text("utf-8"))
        known = ", ".join(("cpu", "avx512", "avx2", "generic", *cls.shipped()))
        raise KeyError(f"unknown target {name!r}: known are {known}")

    @classmethod
    def shipped(cls) -> tuple[str, ...]:
        """Names of the machines whose files are shipped."""
        files = (entry.name for entry in _SHIPPED.iterdir())
        return tuple(sorted(f.removesuffix(".target") for f in files if f.endswith(".target")))

    def __str__(self) -> str:
        """The target as text that ``parse`` reads back."""
        return "".join(_lines(self))

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read the text of ``str(target)``; ``#`` starts a comment.

        Keys that are absent keep their defaults. Raises ``ParseError`` naming the line for an
        unknown key, a bad number, or a rate or size that is not positive, and for a missing name,
        triple or cpu.
        """
        kinds = {f.name: f.type for f in dataclasses.fields(cls)}
        values: dict[str, object] = {}
        for number, line in enumerate(text.splitlines(), 1):
            line = line.split("#", 1)[0].strip()
            if not line or line == "target":
                continue
            key, equals, value = (part.strip() for part in line.partition("="))
            if not equals or key not in kinds:
                raise ParseError(f"target, line {number}: unknown or malformed entry {line!r}")
            try:
                values[key] = {"str": str, "int": int, "float": float}[str(kinds[key])](value)
            except ValueError:
                raise ParseError(f"target, line {number}: bad value {value!r} for {key}") from None
            if problem := _misfit(key, values[key]):
                raise ParseError(f"target, line {number}: {key} is {problem}, got {value}")
        if missing := {"name", "triple", "cpu"} - values.keys():
            raise ParseError(f"target: missing {', '.join(sorted(missing))}")
        return cls(**values)  # type: ignore[arg-type]


_UNITS = {
    "vector_bits": "bits", "l1_bytes": "bytes", "l2_bytes": "bytes", "l3_bytes": "bytes",
    "flops": "float32 operations/s, one core", "l1_rate": "bytes/s, one core",
    "l2_rate": "bytes/s, one core", "l3_rate": "bytes/s, one core",
    "dram_rate": "bytes/s, one core", "dram_rate_all": "bytes/s, all cores",
    "launch_s": "s per kernel", "sync_s": "s per barrier",
    "vector_rate": "float32 operations/s, one core", "load_rate": "bytes/s, one core",
    "special_rate": "weighted operations/s, one core", "store_rate": "bytes/s, one core",
    "l3_rate_all": "bytes/s, all cores", "latency_s": "s per operation",
}  # fmt: skip
_RATES = ("flops", "vector_rate", "special_rate", "load_rate", "store_rate", "l1_rate", "l2_rate",
          "l3_rate", "l3_rate_all", "dram_rate", "dram_rate_all")  # fmt: skip
_TIMES = ("launch_s", "sync_s", "latency_s")
_SIZES = ("l1_bytes", "l2_bytes", "l3_bytes")


def unit_of(field: str) -> str:
    """Unit of a field of ``Target``; "" for text and plain counts."""
    return _UNITS.get(field, "")


def _misfit(key: str, value: object) -> str:
    """Why ``value`` cannot be the value of ``key``; "" if it can."""
    if isinstance(value, str):
        return ""
    assert isinstance(value, (int, float))
    if not math.isfinite(value):
        return "a finite number"
    if key in _TIMES:
        return "at least 0" if value < 0 else ""
    return "" if value > 0 else "more than 0"


def _lines(target: Target) -> Iterator[str]:
    yield "target\n"
    for field in dataclasses.fields(target):
        value = getattr(target, field.name)
        text = repr(value) if isinstance(value, float) else str(value)
        unit = f"  # {_UNITS[field.name]}" if field.name in _UNITS else ""
        yield f"  {field.name} = {text}{unit}\n"


def _feature_set(features: str) -> set[str]:
    return {f[1:] for f in features.split(",") if f.startswith("+")}


def _preset(host: Target, name: str, cpu: str, bits: int, registers: int, pipes: int) -> Target:
    """``host`` with another instruction set; ``pipes`` multiply-add units per core."""
    clock = host.flops / _peak_per_cycle(_unit_bits(host.cpu, host.vector_bits), 2)
    flops = min(host.flops, clock * _peak_per_cycle(_unit_bits(host.cpu, bits), pipes))
    part = flops / host.flops
    triple = host.triple
    if name in ("avx2", "avx512") and host.arch != "x86_64":
        triple = "x86_64-unknown-linux-gnu"
    return dataclasses.replace(
        host, name=name, triple=triple, cpu=cpu, features="", vector_bits=bits,
        registers=registers, flops=flops, vector_rate=host.vector_rate * part,
        special_rate=host.special_rate * part,
    )  # fmt: skip


def _unit_bits(cpu: str, bits: int) -> int:
    """Bits that an arithmetic unit of the processor works on at once, of vectors of so many."""
    return min(bits, _UNIT_BITS.get(cpu, bits))


def _peak_per_cycle(bits: int, pipes: int) -> float:
    return bits / 32 * 2 * pipes


class Processor(NamedTuple):
    """What LLVM says of the running machine, and which LLVM that is."""

    triple: str
    cpu: str
    features: str
    """``+a,-b``; empty where LLVM cannot tell on this operating system."""
    llvm: str
    """LLVM's version."""


_PROCESSOR: list[Processor] = []
_HOST: list[Target] = []


def processor() -> Processor:
    """LLVM's answer; asked once, since the machine does not change under a process."""
    if not _PROCESSOR:
        import llvmlite.binding as llvm

        try:
            flags = llvm.get_host_cpu_features()
            features = ",".join(("+" if on else "-") + f for f, on in sorted(flags.items()))
        except RuntimeError:
            features = ""
        version = ".".join(map(str, llvm.llvm_version_info))
        _PROCESSOR.append(
            Processor(llvm.get_process_triple(), llvm.get_host_cpu_name(), features, version)
        )
    return _PROCESSOR[0]


def assume(answer: Processor) -> None:
    """Takes an answer that LLVM gave in another process, unless it was asked in this one."""
    if not _PROCESSOR:
        _PROCESSOR.append(answer)


def _host() -> Target:
    """This machine with every installed core."""
    if not _HOST:
        triple, cpu, features, _ = processor()
        named = _feature_set(features)
        bits, registers = 128, 16
        if "avx512f" in named and "avx512vl" in named:
            bits, registers = 512, 32
        elif "avx2" in named:
            bits, registers = 256, 16
        elif triple.startswith(("aarch64", "arm64")):
            registers = 32
        l1, l2, l3 = _caches()
        clock = _clock()
        pipes = 2 if bits > 128 or registers == 32 else 1
        unit = _unit_bits(cpu, bits)
        vector_rate = clock * _peak_per_cycle(unit, pipes) * (3 if unit == bits else 4) / 8
        _HOST.append(
            Target(
                name="cpu", triple=triple, cpu=cpu, features=features,
                vector_bits=bits, registers=registers, cores=os.cpu_count() or 1,
                l1_bytes=l1, l2_bytes=l2, l3_bytes=l3,
                flops=clock * _peak_per_cycle(unit, pipes),
                vector_rate=vector_rate, special_rate=vector_rate,  # weights count instructions
                l1_rate=clock * unit / 4, l2_rate=clock * unit * 15 / 128, l3_rate=clock * 27,
                dram_rate=25e9, dram_rate_all=34e9, launch_s=0.05e-6, latency_s=2.4 / clock,
            )
        )  # fmt: skip
    return _HOST[0]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _caches() -> tuple[int, int, int]:
    """Bytes of data cache at level 1, 2 and 3 as core 0 sees them; defaults where unknown."""
    sizes = {1: 32 << 10, 2: 1 << 20, 3: 0}
    for index in sorted((_SYS_CPU / "cpu0/cache").glob("index*")):
        level, kind, size = (_read(index / f) for f in ("level", "type", "size"))
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and level in ("1", "2", "3") and match:
            sizes[int(level)] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return sizes[1], sizes[2], sizes[3] or sizes[2]


def _clock() -> float:
    """Highest clock in Hz that the system admits to, else a usual one. A virtual machine is told
    the base clock, above which servers run."""
    kilohertz = _read(_SYS_CPU / "cpu0/cpufreq/cpuinfo_max_freq")
    if kilohertz.isdigit():
        return int(kilohertz) * 1e3
    told = _read(_CPUINFO)
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", told, re.MULTILINE)
    above = _BOOST if re.search(r"^flags\s*:.*\bhypervisor\b", told, re.MULTILINE) else 1.0
    return max((float(mhz) * 1e6 * above for mhz in found), default=_DEFAULT_CLOCK)


def _usable_cores() -> int:
    """Cores this process may use at once: affinity mask, then the cgroup quota rounded up."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    if platform.system() == "Linux" and (quota := _cgroup_quota()) is not None:
        cores = min(cores, max(1, math.ceil(quota)))
    return max(1, cores)


def _cgroup_quota() -> float | None:
    """Cores the cgroup's CPU quota allows, the tightest along the path to the root; else None."""
    tightest: float | None = None
    own = ["/"]
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "cpu", "cpu,cpuacct"):
            own += [str(p) for p in (Path(path), *Path(path).parents)]
    for path in dict.fromkeys(own):
        for base in (_CGROUP, _CGROUP / "cpu"):
            folder = base / path.lstrip("/")
            quota, period = (_read(folder / "cpu.max").split() + ["", ""])[:2]
            if not quota:
                quota = _read(folder / "cpu.cfs_quota_us")
                period = _read(folder / "cpu.cfs_period_us")
            if quota.isdigit() and period.isdigit() and int(period) > 0:
                share = int(quota) / int(period)
                tightest = share if tightest is None else min(tightest, share)
    return tightest
