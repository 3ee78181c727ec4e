"""The pages of docs/tutorial are programs: their Python blocks run in order and print what the text
block behind them says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "tutorial"
PAGES = sorted(p for p in FOLDER.glob("*.md") if p.name != "README.md")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": page.stem}
    printed = ""
    ran = 0
    for block in _BLOCK.finditer(text):
        line = text[: block.start()].count("\n") + 1
        if block[1] == "python":
            assert not printed, f"{page.name}:{line}: nothing says what was printed before"
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile("\n" * line + block[2], str(page), "exec"), names)
            printed, ran = said.getvalue(), ran + 1
        elif block[1] == "text":
            assert printed == block[2], f"{page.name}:{line} is not what is printed:\n{printed}"
            printed = ""
    assert not printed, f"{page.name}: nothing says what the last block prints:\n{printed}"
    assert ran >= 3


def test_every_page_is_listed_and_short() -> None:
    listed = re.findall(r"\]\((\w[\w-]*\.md)\)", (FOLDER / "README.md").read_text("utf-8"))
    assert sorted(listed) == [p.name for p in PAGES]
    for page in PAGES:
        lines = page.read_text("utf-8").splitlines()
        assert len(lines) <= 160
        assert max(map(len, lines)) <= 130
