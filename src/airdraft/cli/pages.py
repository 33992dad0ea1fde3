"""Pages of Markdown with blocks that a command writes, each between <!-- name:begin --> and <!-- name:end -->."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from airdraft.errors import BadParameterError
from airdraft.files import read_utf8, replacing


def check_page(page: Path) -> None:
    """Raise `BadParameterError` if a page cannot be read, or has no marks at all."""
    if ":begin -->" not in _read(page):
        raise BadParameterError(f"{page} has no marks <!-- NAME:begin -->; put them where a block belongs")


def renew(page: Path, blocks: Mapping[str, str]) -> list[str]:
    """Write each of `blocks` for which `page` has marks into it; return their names.

    Raises: `BadParameterError` if the page cannot be read or written, or has marks for none of them.
    """
    text, renewed = _read(page), []
    for name, block in blocks.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if found and closed:
            text = f"{before}{begin}\n{block}\n{end}{after}"
            renewed.append(name)
    if not renewed:
        marks = " or ".join(f"<!-- {name}:begin --> and <!-- {name}:end -->" for name in blocks)
        raise BadParameterError(f"{page} lacks the marks {marks}; put them where a block belongs")
    try:
        with replacing(page) as file:
            file.write(text.encode())
    except OSError as error:
        raise _cannot(page, error) from error
    return renewed


def _read(page: Path) -> str:
    try:
        return read_utf8(page)
    except (OSError, UnicodeDecodeError) as error:
        raise _cannot(page, error) from error


def _cannot(page: Path, error: OSError | UnicodeDecodeError) -> BadParameterError:
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    return BadParameterError(f"the page {page} cannot be renewed ({reason}); give a page of Markdown")
