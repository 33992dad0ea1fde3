"""Files of text that commands take."""

from __future__ import annotations

from pathlib import Path

from airdraft.errors import BadParameterError, why


def read_text(file: Path, most: int, field: str | None = None) -> str:
    """The text of a file of at most `most` bytes, in UTF-8. Raises: `BadParameterError` about `field`."""
    try:
        size = file.stat().st_size
        if size > most:
            raise BadParameterError(f"{file} is {size} bytes, and at most {most} are read; cut it", field=field)
        return file.read_text("utf-8")
    except (OSError, UnicodeError) as problem:
        raise BadParameterError(
            f"{file} cannot be read ({why(problem)}); name a file of text in UTF-8", field=field
        ) from problem
