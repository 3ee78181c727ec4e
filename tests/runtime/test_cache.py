"""The object cache: hits, damage, foreign entries, disks that do not cooperate, its bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from evonnx.ir.errors import CompileError
from evonnx.ir.target import Target
from evonnx.runtime import disk as module
from evonnx.runtime.cache import ObjectCache, key_text
from evonnx.runtime.crew import Crew, _Queue
from evonnx.runtime.disk import default_folder
from evonnx.runtime.driver import SYMBOL, driver_ir, driver_object, futex_number
from evonnx.runtime.executable import Executable
from evonnx.runtime.objects import Built, Early, begin_driver, build, collect
from evonnx.runtime.program import KernelCode, Program
from evonnx.runtime.worker import Job
from evonnx.runtime.workers import Workers

TARGET = Target.named("generic")


def entry(cache: ObjectCache) -> Path:
    (found,) = [p for p in cache.folder.rglob("*") if p.is_file()]
    return found


def test_hit_and_miss(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    assert cache.get("k", "text", TARGET) == (None, "not in the cache")
    assert cache.put("k", "text", TARGET, b"object") == ""
    assert ObjectCache(tmp_path).get("k", "text", TARGET) == (b"object", "cached")
    for symbol, text, target in (
        ("l", "text", TARGET), ("k", "texts", TARGET), ("k", "text", Target.named("avx2")),
    ):  # fmt: skip
        assert cache.get(symbol, text, target)[0] is None
    assert entry(cache).stat().st_mode & 0o077 == 0


def test_the_key_names_everything(monkeypatch: Any) -> None:
    text = key_text("k", "source", TARGET)
    for part in ("symbol k", f"isa {TARGET.isa}", "llvmlite ", "llvm ", "kernels ", "cpython 3.",
                 "\n\nsource"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: b"", "bad header"),
        (lambda d: d[:10], "bad header"),
        (lambda d: b"x" + d[1:], "bad header"),
        (lambda d: d[:-1], "cut off"),
        (lambda d: d + b"more", "cut off"),
        (lambda d: d[:-1] + b"X", "digest differs"),
        (lambda d: d.replace(b"symbol k", b"symbol j"), "another key"),
    ],
)
def test_damaged_entries_are_written_anew(tmp_path: Path, damage: Any, reason: str) -> None:
    cache = ObjectCache(tmp_path)
    cache.put("k", "text", TARGET, b"object")
    path = entry(cache)
    path.write_bytes(damage(path.read_bytes()))
    data, why = cache.get("k", "text", TARGET)
    assert data is None
    assert reason in why
    records: list[Any] = []
    assert cache.fetch("k", "text", TARGET, lambda: b"object", records) == b"object"
    assert not records[0].hit
    assert reason in records[0].reason
    assert cache.get("k", "text", TARGET) == (b"object", "cached")


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.put("k", "text", TARGET, b"object")
    path = entry(cache)
    path.unlink()
    path.mkdir()
    data, why = cache.get("k", "text", TARGET)
    assert data is None
    assert "cannot read" in why
    assert "cannot write" in cache.put("k", "text", TARGET, b"object")
    blocked = tmp_path / "file"
    blocked.write_text("")
    other = ObjectCache(blocked / "below")
    assert other.fetch("k", "text", TARGET, lambda: b"object") == b"object"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(30, "ro")]
)
def test_disks_that_refuse(tmp_path: Path, monkeypatch: Any, error: OSError) -> None:
    """Full and read-only disks (the superuser of a test machine may write everywhere)."""
    cache = ObjectCache(tmp_path)

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(module.os, "replace", refuse)
    records: list[Any] = []
    assert cache.fetch("k", "text", TARGET, lambda: b"object", records) == b"object"
    assert str(error.strerror) in records[0].reason
    assert not [p for p in cache.folder.rglob("*") if p.is_file()]
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert cache.fetch("k", "text", TARGET, lambda: b"object") == b"object"


def test_a_folder_everybody_may_write_is_not_trusted(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.put("k", "text", TARGET, b"object")
    cache.folder.chmod(0o777)
    other = ObjectCache(tmp_path)
    assert other.get("k", "text", TARGET) == (
        None, f"{other.folder} may be written by everybody",
    )  # fmt: skip
    assert "everybody" in other.put("k", "text", TARGET, b"object")


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, max_bytes=50_000)
    for k in range(20):
        cache.put(f"k{k}", "text", TARGET, bytes(4000))
        path = max((p for p in cache.folder.rglob("*") if p.is_file()), key=os.path.getctime)
        os.utime(path, (k + 1e9, k + 1e9))
    left = cache.folder / "00"
    left.mkdir(exist_ok=True)
    (left / ".new-abc").write_bytes(b"half")
    os.utime(left / ".new-abc", (1e9, 1e9))
    assert cache.get("k0", "text", TARGET)[0] is not None  # used now: no longer the oldest
    assert cache.clean() > 5
    assert not (left / ".new-abc").exists()
    kept = [k for k in range(20) if cache.get(f"k{k}", "text", TARGET)[0] is not None]
    assert kept[0] == 0
    assert kept[1:] == list(range(21 - len(kept), 20))
    assert sum(p.stat().st_size for p in cache.folder.rglob("*") if p.is_file()) <= 50_000


def test_the_folder_is_looked_through_now_and_then(tmp_path: Path, monkeypatch: Any) -> None:
    """Not at every compilation, and by whoever crosses the line."""
    cleaned = []
    monkeypatch.setattr(module.DiskCache, "clean", lambda self: cleaned.append(1) or 0)
    for k in range(40):
        cache = ObjectCache(tmp_path, max_bytes=160_000)  # a part is 10,000 bytes
        cache.put(f"k{k}", "text", TARGET, bytes(1000))
        cache.clean_if_grown()
        cache.clean_if_grown()
    assert 4 <= len(cleaned) <= 9
    (tmp_path / "objects.grown").write_text("garbage")
    cache.put("more", "text", TARGET, b"x")
    before = len(cleaned)
    cache.clean_if_grown()
    assert len(cleaned) == before + 1


def test_where_it_lies(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("EVONNX_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("EVONNX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "evonnx"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder() == Path.home() / ".cache" / "evonnx"


def test_many_writers(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    wrong: list[Any] = []

    def work() -> None:
        for k in range(60):
            data = bytes([k % 5]) * 5000
            cache.put(f"k{k % 5}", "text", TARGET, data)
            got, _ = cache.get(f"k{k % 5}", "text", TARGET)
            if got != data:
                wrong.append(k)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_executables_use_it(make: Any, tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)

    def model() -> Executable:
        m = make()
        x, y = m.input("x", (8,)), m.buffer((8,))
        m.affine(x, y, 2, 1)
        m.output("y", y)
        return Executable(m.program(), m.constants, threads=1, cache=cache)

    (first,), (second,) = model().cache_records, model().cache_records
    assert (first.hit, first.reason) == (False, "not in the cache")
    assert (second.hit, second.reason) == (True, "cached")
    uncached = Executable(model().program, make().constants, cache=None)
    assert uncached.cache_records[0].reason == "cache is off"


WARM = """
import sys
sys.path[:] = {path!r}
from evonnx.ir.target import Target
from evonnx.runtime.cache import ObjectCache
from evonnx.runtime.objects import build
from evonnx.runtime.program import KernelCode, Program
program = Program((), (), (), (), {{"k": KernelCode({source!r}, "k")}})
built = build([program], Target.detect(), ObjectCache({folder!r}))
print(built.records[0].hit, "evonnx.kernels.frontend" in sys.modules)
"""


def test_the_compiler_is_not_imported_for_what_is_cached(sources: Any, tmp_path: Path) -> None:
    text = WARM.format(path=sys.path, source=sources["affine"], folder=str(tmp_path))
    said = [
        subprocess.run(
            [sys.executable, "-c", text], text=True, capture_output=True, check=True, timeout=60
        ).stdout
        for _ in range(2)
    ]
    assert said == ["False True\n", "True False\n"]


def kernels(source: str, count: int) -> Program:
    codes = {
        f"k{i}": KernelCode(source.replace("f32(b)", f"f32(b) + f32({i})"), f"k{i}")
        for i in range(count)
    }
    return Program((), (), (), (), codes)


def built(program: Program, workers: int, progress: Any = None) -> Built:
    target = Target.detect()
    with Crew(target, workers) as crew:
        return build([program], target, None, progress, crew)


def test_workers_make_the_same_objects(sources: Any) -> None:
    program = kernels(sources["affine"], 6)
    seen: list[tuple[str, int, int]] = []
    alone = built(program, 0)
    helped = built(program, 2, lambda *a: seen.append(a))
    assert [r.symbol for r in alone.records] == [r.symbol for r in helped.records]
    assert [r.nbytes for r in alone.records] == [r.nbytes for r in helped.records]
    assert set(helped.addresses) == set(program.kernels)
    assert seen[-1] == ("compile kernels", 6, 6)


def test_workers_that_do_not_start(sources: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    found = built(kernels(sources["affine"], 3), 2)
    assert len(found.addresses) == 3
    assert found.compiled_by == (
        "this process; workers could not be started: No such file or directory")


def test_workers_that_die(sources: Any, monkeypatch: Any) -> None:
    class Mortal(Workers):
        def __init__(self, target: Target, count: int) -> None:
            super().__init__(target, count)
            self.process.kill()
            self.process.wait()

    monkeypatch.setattr("evonnx.runtime.crew.Workers", Mortal)
    found = built(kernels(sources["affine"], 4), 1)
    assert len(found.addresses) == 4
    assert found.compiled_by == "this process; 1 worker ended early"


def test_a_worker_that_is_ready_ahead_and_one_that_nobody_needs(sources: Any) -> None:
    target = Target.detect()
    with Crew(target, 1) as crew:
        (worker,) = crew._workers
        while not worker.ready:
            assert worker.is_alive()
            time.sleep(0.01)
        done = crew.compile(collect([kernels(sources["affine"], 4)], target))
        assert len(done) == 4
        again = crew.compile(collect([kernels(sources["add"], 2)], target))
        assert len(again) == 2
    assert [p.process.poll() for p in crew._processes] == [0]
    with Crew(target, 1) as idle:
        pass
    idle._workers[0].join(30)
    assert not idle._workers[0].is_alive()


@pytest.mark.parametrize("mortal", [False, True])
def test_workers_that_do_everything(sources: Any, monkeypatch: Any, mortal: bool) -> None:
    """This thread compiles nothing, unless they are all dead."""
    here: list[Job] = []
    monkeypatch.setattr(
        "evonnx.runtime.crew._compile_one",
        lambda job, target: here.append(job) or (job, job.compile(target), 0.0),
    )
    target = Target.detect()
    with Crew(target, 2) as crew:
        crew.apart = True
        if mortal:
            os.killpg(crew._processes[0].process.pid, signal.SIGKILL)
        done = crew.compile(collect([kernels(sources["affine"], 5)], target))
        driver = crew.compile_ir(*driver_text(target), target)
    assert sorted(job.symbol for job, _, _ in done) == [f"k{i}" for i in range(5)]
    assert len(here) == (6 if mortal else 0)
    assert driver == Job.of_ir(*driver_text(target)).compile(target)
    code = {job.symbol: data for job, data, _ in done}
    assert code == {s: Job(s, k.source).compile(target)
                    for s, k in kernels(sources["affine"], 5).kernels.items()}


def test_jobs_that_are_begun_early(sources: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """They are done once, whatever is asked for first; what the cache has is not begun."""
    monkeypatch.setattr("evonnx.runtime.objects.loaded", lambda: False)
    target, cache = Target.detect(), ObjectCache(tmp_path)
    program = kernels(sources["affine"], 3)
    with Crew(target, 1) as crew:
        crew.apart = True
        begin_driver(cache, crew)
        early = Early(target, cache, crew)
        for code in program.kernels.values():
            early(code)
        begun = set(crew._open)
        assert {job.symbol for job in begun} == {"k0", "k1", "k2", SYMBOL}
        made = build([program], target, cache, crew=crew)
        driver_object(target, cache, crew.compile_ir)
        assert not crew._open and not crew._early
        assert crew._elsewhere == 4
        assert made.compiled_by == "1 worker"
        early = Early(target, cache, crew)
        for code in program.kernels.values():
            early(code)
        begin_driver(cache, crew)
        assert not crew._open
        again = crew.compile(collect([program], target))
        assert {job.symbol: data for job, data, _ in again} == made.objects


def test_long_jobs_are_begun_first() -> None:
    todo = _Queue()
    jobs = [Job("short", "x" * 500), Job("mk_pack_f32", ""), Job("long", "x" * 9000),
            Job.of_ir("driver", "x" * 9000)]  # fmt: skip
    todo.put(None)
    for job in jobs:
        todo.put(job)
    order = [todo.get() for _ in range(5)]
    assert [None if j is None else j.symbol for j in order] == [
        "long", "mk_pack_f32", "driver", "short", None]


def driver_text(target: Target) -> tuple[str, str]:
    return SYMBOL, driver_ir(target, futex_number())


def test_an_interruption_ends_the_workers(sources: Any) -> None:
    target = Target.detect()

    def interrupt() -> None:
        raise KeyboardInterrupt

    crew = Crew(target, 2)
    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt), crew:
        crew.compile(collect([kernels(sources["affine"], 5)], target), None, interrupt)
    assert [p.process.poll() for p in crew._processes] == [-signal.SIGKILL]
    for worker in crew._workers:
        worker.join(30)
        assert not worker.is_alive()
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize("workers", [0, 1])
def test_kernels_that_do_not_compile(sources: Any, workers: int) -> None:
    program = kernels(sources["affine"], 4)
    program.kernels["k2"] = KernelCode("def kernel(bufs, params, begin, end):\n    nope(1)\n", "k2")
    with pytest.raises(CompileError):
        built(program, workers)


def test_symbols_are_not_used_twice(sources: Any) -> None:
    two = Program((), (), (), (), {
        "a": KernelCode(sources["affine"], "k"), "b": KernelCode(sources["add"], "k"),
    })  # fmt: skip
    with pytest.raises(CompileError, match="two kernels are called 'k'"):
        build([two], Target.detect(), None)


def test_micro_kernels_by_name() -> None:
    """Their IR is no part of the job: whoever compiles it writes it."""
    def calling(symbol: str) -> Program:
        return Program((), (), (), (), {"k": KernelCode("", "k", (symbol,))})

    for symbol in ("mk_igemm_f32_4x2", "mk_igemm_f64_1x2", "mk_depthwise_f32_3", "mk_pack_f32"):
        _, job = collect([calling(symbol)], TARGET)
        assert job.is_micro and symbol.encode() in job.compile(TARGET)
    for symbol in ("mk_none_f32", "system", "mk_igemm_f32_04x2"):
        with pytest.raises(CompileError):
            collect([calling(symbol)], TARGET)
