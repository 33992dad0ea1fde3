"""Blocks of Markdown files that commands write: what lies between <!-- name:begin --> and <!-- name:end -->."""

from __future__ import annotations

import sys
from pathlib import Path


def replace_block(path: Path, name: str, text: str) -> None:
    """Put `text` between the marks of `name` in `path`. Ends the program if the marks are not there."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"{path.name} lacks the marks {begin} and {end}; put them where the block belongs")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
