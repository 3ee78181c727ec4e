"""Files that were read before are recognized, and nothing else is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from evonnx.runtime import seen as module
from evonnx.runtime.seen import SeenFiles


class Reader:
    """Counts how often a file is read."""

    def __init__(self, path: Path, cache: SeenFiles) -> None:
        self.path, self.cache, self.reads = path, cache, 0

    def __call__(self) -> str:
        self.reads += 1
        return self.path.read_bytes().hex()

    def digest(self) -> str:
        return self.cache.digest("hex", [self.path.stat()], self)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(module, "_SETTLED_NS", 0)
    path = tmp_path / "model"
    path.write_bytes(b"one")
    return Reader(path, SeenFiles(tmp_path / "cache"))


def test_an_unchanged_file_is_read_once(reader: Reader) -> None:
    assert [reader.digest() for _ in range(3)] == [b"one".hex()] * 3
    assert reader.reads == 1


def test_a_change_of_the_same_size_and_time_is_seen(reader: Reader) -> None:
    before = reader.path.stat()
    reader.digest()
    time.sleep(0.01)  # longer than a tick of the file system's clock
    reader.path.write_bytes(b"two")
    os.utime(reader.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reader.digest() == b"two".hex()


def test_another_file_in_its_place_is_seen(reader: Reader) -> None:
    before = reader.path.stat()
    reader.digest()
    other = reader.path.with_suffix(".new")
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(reader.path)
    assert reader.digest() == b"two".hex()


def test_what_changed_a_moment_ago_is_not_remembered(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SETTLED_NS", 10**12)
    assert reader.digest() == reader.digest()
    assert reader.reads == 2


@pytest.mark.parametrize("damage", [b"", b"zz", b"abcd 00", b"\xff" * 300])
def test_a_damaged_entry_is_read_anew(reader: Reader, damage: bytes) -> None:
    want = reader.digest()
    (entry,) = [f for f in reader.cache.folder.rglob("*") if f.is_file()]
    entry.write_bytes(damage)
    assert reader.digest() == want
    assert reader.reads == 2


def test_what_is_computed_is_part_of_the_key(reader: Reader) -> None:
    reader.digest()
    assert reader.cache.digest("other", [reader.path.stat()], lambda: "ab") == "ab"
