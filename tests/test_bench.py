"""The measurements of `bench/` tell what they do when they are asked, and measure nothing then."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

NAMES = [
    path.stem for path in sorted((Path(__file__).parents[1] / "bench").glob("*.py"))
    if path.stem not in ("__init__", "pages")
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as done:
        importlib.import_module(f"bench.{name}").main()
    assert done.value.code == 0
    assert "usage:" in capsys.readouterr().out
