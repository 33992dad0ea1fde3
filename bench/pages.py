"""Shared parts of the measurements: their command line, this machine, and the pages that their tables go to."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airdraft.cli.pages import renew

ROOT = Path(__file__).parents[1]


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The command line of `python -m bench.NAME`, which takes no options yet."""
    return argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description)


def json_file(name: str, description: str) -> Path | None:
    """The FILE of `python -m bench.NAME --json FILE`, if one is given."""
    line = parser(name, description)
    line.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    found: Path | None = line.parse_args().json
    return found


def machine() -> dict[str, Any]:
    """The processor, its cores, and the load on them: figures in wall clock mean little without."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return {
        "cpu": found[1] if found else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    }


def publish(page: str, blocks: Mapping[str, str], record: Any, file: Path | None) -> None:
    """Print the blocks, write them into `page` (relative to the repository), and the record as JSON to `file`."""
    print("\n\n".join(blocks.values()))
    if file:
        file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    for name, block in blocks.items():
        renew(ROOT / page, {name: block})
