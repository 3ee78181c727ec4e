"""The machine a program is compiled for: instruction set, memory sizes, rates.

A ``Target`` is plain frozen data and a small text file of ``key = value`` lines; its rates may be
measured or imagined. The code generator reads only the instruction-set half (``triple``, ``cpu``,
``features``, ``vector_bits``, ``registers``), whose joined text ``isa`` is part of every object-
code cache key; the cost models read the rest. ``Target.detect()`` describes the running machine:
LLVM names the processor and its features, sysfs the caches, and the processor affinity and the
cgroup CPU quota (v2 ``cpu.max``, v1 ``cfs_quota_us``) bound the core count. Rates that were not
measured are estimated from the clock with the peak formula ``lanes * 2 (multiply and add) * pipes
* clock``.
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

_SYS_CPU = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_DEFAULT_CLOCK = 3.0e9


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
    """Bytes per second one core reads from its level-1 cache."""
    l2_rate: float = 100e9
    """Bytes per second one core reads from its level-2 cache."""
    l3_rate: float = 40e9
    """Bytes per second one core reads from the last-level cache."""
    dram_rate: float = 15e9
    """Bytes per second one core reads from main memory while the others rest."""
    dram_rate_all: float = 30e9
    """Bytes per second all cores together read from main memory."""
    launch_s: float = 0.3e-6
    """Seconds to start one kernel on one thread."""
    sync_s: float = 0.5e-6
    """Seconds for the threads of the team to meet at one barrier."""

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
        needed = _feature_set(self.features) or set(_X86_LEVELS.get(self.cpu, ()))
        return needed <= _feature_set(host.features) or self.isa == host.isa

    @classmethod
    def detect(cls) -> Target:
        """The running machine, as target ``cpu``."""
        return dataclasses.replace(_host(), cores=_usable_cores())

    @classmethod
    def named(cls, name: str) -> Target:
        """Preset ``cpu`` (this machine), ``avx512``, ``avx2`` or ``generic`` (baseline).

        The presets keep this machine's memory sizes and lower ``flops`` to what their vectors
        can reach. Raises ``KeyError`` for any other name.
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
        raise KeyError(f"unknown target {name!r}: known are cpu, avx512, avx2, generic")

    def __str__(self) -> str:
        """The target as text that ``parse`` reads back."""
        return "".join(_lines(self))

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read the text of ``str(target)``; ``#`` starts a comment.

        Raises ``ParseError`` naming the line for an unknown key, a bad number or a missing key.
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
        if missing := {"name", "triple", "cpu"} - values.keys():
            raise ParseError(f"target: missing {', '.join(sorted(missing))}")
        return cls(**values)  # type: ignore[arg-type]


_UNITS = {
    "vector_bits": "bits", "l1_bytes": "bytes", "l2_bytes": "bytes", "l3_bytes": "bytes",
    "flops": "float32 operations/s, one core", "l1_rate": "bytes/s, one core",
    "l2_rate": "bytes/s, one core", "l3_rate": "bytes/s, one core",
    "dram_rate": "bytes/s, one core", "dram_rate_all": "bytes/s, all cores",
    "launch_s": "s per kernel", "sync_s": "s per barrier",
}  # fmt: skip


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
    clock = host.flops / _peak_per_cycle(host.vector_bits, 2)
    flops = min(host.flops, clock * _peak_per_cycle(bits, pipes))
    triple = host.triple
    if name in ("avx2", "avx512") and host.arch != "x86_64":
        triple = "x86_64-unknown-linux-gnu"
    return dataclasses.replace(
        host, name=name, triple=triple, cpu=cpu, features="", vector_bits=bits,
        registers=registers, flops=flops,
    )  # fmt: skip


def _peak_per_cycle(bits: int, pipes: int) -> float:
    return bits / 32 * 2 * pipes


_HOST: list[Target] = []


def _host() -> Target:
    """This machine with every installed core; asked once, since neither changes under a process."""
    if not _HOST:
        import llvmlite.binding as llvm

        triple = llvm.get_process_triple()
        try:
            flags = llvm.get_host_cpu_features()
            features = ",".join(("+" if on else "-") + f for f, on in sorted(flags.items()))
        except RuntimeError:  # LLVM cannot tell on this operating system
            features = ""
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
        _HOST.append(
            Target(
                name="cpu", triple=triple, cpu=llvm.get_host_cpu_name(), features=features,
                vector_bits=bits, registers=registers, cores=os.cpu_count() or 1,
                l1_bytes=l1, l2_bytes=l2, l3_bytes=l3,
                flops=clock * _peak_per_cycle(bits, pipes), l1_rate=clock * bits / 4,
                l2_rate=clock * 32, l3_rate=clock * 16, dram_rate=20e9, dram_rate_all=34e9,
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
    """Highest clock in Hz that the system admits to, else a usual one."""
    kilohertz = _read(_SYS_CPU / "cpu0/cpufreq/cpuinfo_max_freq")
    if kilohertz.isdigit():
        return int(kilohertz) * 1e3
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return max((float(mhz) * 1e6 for mhz in found), default=_DEFAULT_CLOCK)


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
