"""ONNX Runtime reports nothing of those who use airdraft."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_nothing_is_kept_of_who_runs_it(tmp_path: Path) -> None:
    places = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | places
    code = "from airdraft.models.registry import load; load('draft')"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=100)
    assert {each.name for each in tmp_path.iterdir()} <= {"airdraft"}
