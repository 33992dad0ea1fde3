"""Files of text that commands take."""

from __future__ import annotations

from pathlib import Path

from airdraft.errors import BadParameterError, why


def read_text(file: Path, most: int, field: str | None = None) -> str:
    """The text of a file of at most `most` bytes, in UTF-8. Raises: `BadParameterError` about `field`."""
    try:
        with file.open("rb") as opened:
            found = opened.read(most + 1)  # of a pipe or a device nobody knows the size before
        if len(found) > most:
            raise BadParameterError(f"{file} has more than {most} bytes, the most that are read; cut it", field=field)
        return found.decode("utf-8")
    except (OSError, UnicodeError) as problem:
        raise BadParameterError(
            f"{file} cannot be read ({why(problem)}); name a file of text in UTF-8", field=field
        ) from problem
