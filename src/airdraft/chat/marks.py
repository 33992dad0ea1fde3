"""Private parts of what a person types, between `<private>` and `</private>`."""

from __future__ import annotations

from airdraft.errors import BadParameterError

OPEN, CLOSE = "<private>", "</private>"


def parts(typed: str) -> list[str]:
    """Cut what was typed at the marks: every second part is private. Raises: `BadParameterError` for half a pair."""
    found, rest = list[str](), typed
    while OPEN in rest or CLOSE in rest:
        mark = CLOSE if len(found) % 2 else OPEN
        before, found_mark, after = rest.partition(mark)
        other = OPEN if mark == CLOSE else CLOSE
        if not found_mark or other in before:
            raise BadParameterError(f"{OPEN} and {CLOSE} do not go in pairs; write them around what is private")
        found.append(before)
        rest = after
    if len(found) % 2:
        raise BadParameterError(f"a {OPEN} has no {CLOSE} behind it; write it where the private part ends")
    return [*found, rest]


def is_private(typed: str) -> bool:
    """Whether any part of what was typed is private. Raises: as `parts`."""
    return any(parts(typed)[1::2])


def plain(typed: str, veil: str | None = None) -> str:
    """What was typed without the marks. `veil`: what stands in place of each private part; None: the part itself.

    Raises: as `parts`.
    """
    return "".join(veil if at % 2 and veil is not None else part for at, part in enumerate(parts(typed)))
