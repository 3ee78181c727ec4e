"""Idle processors are read off two looks at the system's counters."""

from __future__ import annotations

from pathlib import Path

import pytest

from evonnx.runtime import idle
from evonnx.runtime.idle import Idle


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "stat"
    monkeypatch.setattr(idle, "_STAT", file)
    monkeypatch.setattr(idle.os, "sched_getaffinity", lambda _: {0, 2, 3}, raising=False)
    return file


def text(*rests: int, each: int) -> str:
    """Processors that rested so long of ``each`` hundredths of a second."""
    lines = [f"cpu{i} {each - r} 0 0 {r - r // 4} {r // 4} 0 0 0 9 9" for i, r in enumerate(rests)]
    return "\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 5 6", "ctxt 7"])


def test_only_our_processors_and_only_since_then(stat: Path) -> None:
    stat.write_text(text(900, 900, 900, 900, each=1000))
    since = Idle()
    stat.write_text(text(900, 1000, 950, 1000, each=1100))
    assert since.processors() == 0.0 + 0.5 + 1.0


def test_too_soon_or_unknown(stat: Path) -> None:
    stat.write_text(text(900, 900, 900, 900, each=1000))
    since = Idle()
    stat.write_text(text(902, 902, 902, 902, each=1002))
    assert since.processors() is None
    stat.unlink()
    assert Idle().processors() is None


def test_this_system_says_something_sensible() -> None:
    since = Idle()
    found = since.processors()
    assert found is None or 0.0 <= found <= len(idle._times())
