"""Pages of Markdown with blocks that a command writes, each between <!-- name:begin --> and <!-- name:end -->."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from airdraft.errors import BadParameterError


def renew(page: Path, blocks: Mapping[str, str]) -> list[str]:
    """Write each of `blocks` for which `page` has marks into it; return their names.

    Raises: `BadParameterError` if the page cannot be read or written, or has marks for none of them.
    """
    try:
        text = page.read_text(encoding="utf-8")
        renewed = []
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
        page.write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BadParameterError(f"the page {page} cannot be renewed ({reason}); give a page of Markdown") from error
    return renewed
