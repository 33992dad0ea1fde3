"""Values that callers give, made plain or refused by name.

Python lets a caller pass 6.5 for a number of tokens, and numpy's numbers where ours are meant. What goes on the wire
must be exact, or the peer ends the connection, and all texts on it, for a mistake in one.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Sequence
from numbers import Integral, Real
from typing import Any

from airdraft.errors import BadParameterError


def whole(field: str, value: Any) -> int:
    """Return a whole number, numpy's or ours, as an int. A bool is none, and neither is 6.0.

    Raises: `BadParameterError`, as all of these do.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _wrong(field, value, "a whole number")
    return int(value)


def number(field: str, value: Any) -> float:
    """Return a number, numpy's or ours, as a float. A bool is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _wrong(field, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise _wrong(field, value, "a number that a float can hold") from None


def words(field: str, value: Any) -> str:
    """Return a string that can be written in UTF-8."""
    if not isinstance(value, str):
        raise _wrong(field, value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(field, value, "a string without lone surrogates") from None
    return str(value)


def ids(field: str, value: Any) -> tuple[int, ...]:
    """Return token ids: a sequence of whole numbers, or an array of them with one dimension. Bytes are none."""
    if not isinstance(value, Sequence) and hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray | memoryview):
        raise _wrong(field, value, "text, or token ids in a list")
    if all(type(token) is int for token in value):
        return tuple(value)
    try:
        return tuple(whole(field, token) for token in value)
    except BadParameterError as error:
        raise BadParameterError(f"token ids are whole numbers: {error}", field=field) from None


def optional(plain: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Let None pass."""
    return lambda field, value: None if value is None else plain(field, value)


def instance(kind: type) -> Callable[[str, Any], Any]:
    """Let only values of one class pass."""
    return lambda field, value: _let(isinstance(value, kind), field, value, f"a {kind.__name__}")


def having(*methods: str) -> Callable[[str, Any], Any]:
    """Let only values with these methods pass."""
    what = f"an object with {' and '.join(methods)}"
    return lambda field, value: _let(all(callable(getattr(value, each, None)) for each in methods), field, value, what)


def one_of(field: str, value: Any, choices: Collection[str]) -> str:
    """Return one of the strings in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise BadParameterError(f"{field} is {reprlib.repr(value)}; choose one of {', '.join(choices)}", field=field)
    return value


def _let(right: bool, field: str, value: Any, what: str) -> Any:
    if not right:
        raise _wrong(field, value, what)
    return value


def _wrong(field: str, value: Any, what: str) -> BadParameterError:
    return BadParameterError(f"{field} is {reprlib.repr(value)}; give {what}", field=field)
