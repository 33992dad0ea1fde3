"""A scheme in words, `topk:k=8,mass=0.9`: its name and, after a colon, the options that differ from their defaults."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.errors import BadParameterError


def spec_of(text: str, base: SchemeSpec) -> tuple[str, SchemeSpec]:
    """Read a scheme's name, and its options on top of those of `base`. `auto` begins as `base` does.

    Raises: `BadParameterError` for an unknown name with options, an option that the scheme does not have, or a value
    that is no number where one is due. A name alone is for others to refuse.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        return name, base if name == "auto" else structs.replace(base, name=name)
    options = schemes.traits(name).options
    found: dict[str, Any] = {}
    for word in rest.split(","):
        option, _, value = word.partition("=")
        if option not in options:
            known = f"give one of {', '.join(options)}" if options else "it has none"
            raise BadParameterError(f"{name} has no option {option!r}: {known}, as NAME=VALUE", field="scheme")
        if option in found:
            raise BadParameterError(f"{option} is given twice in {text!r}; give it once", field="scheme")
        default = getattr(base, option)
        try:
            found[option] = type(default)(value)
        except ValueError:
            what = "a whole number" if isinstance(default, int) else "a number"
            raise BadParameterError(f"{option} is {value!r}; give {what}", field=option) from None
    return name, structs.replace(base, name=name, **found)
