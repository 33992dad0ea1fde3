"""Schemes in words: names with options."""

from __future__ import annotations

import pytest

from airdraft.control.words import spec_of
from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.errors import BadParameterError

BASE = SchemeSpec("stream", k=9)


def test_a_name_is_what_it_was() -> None:
    assert spec_of("topk", BASE) == ("topk", SchemeSpec("topk", k=9))
    assert spec_of("auto", BASE) == ("auto", BASE)
    assert spec_of("morse", BASE)[0] == "morse"  # for others to refuse


def test_options_have_the_types_of_their_fields() -> None:
    name, found = spec_of("topk:bits=8,mass=0.9,cut=conformal,candidates=2", BASE)
    assert found == SchemeSpec(name, k=9, bits=8, mass=0.9, cut="conformal", candidates=2)


@pytest.mark.parametrize("name", schemes.SCHEMES)
def test_every_option_of_every_scheme_can_be_given(name: str) -> None:
    spec = SchemeSpec(name)
    for option in schemes.traits(name).options:
        assert spec_of(f"{name}:{option}={getattr(spec, option)}", spec) == (name, spec)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("morse:k=3", "scheme 'morse' is unknown"),
        ("topk:resolution=3", "topk has no option 'resolution': give one of k, bits"),
        ("coupled:k=3", "coupled has no option 'k': it has none"),
        ("topk:", "topk has no option ''"),
        ("topk:k=3,k=4", "k is given twice"),
        ("topk:k=many", "k is 'many'; give a whole number"),
        ("topk:k=1.5", "k is '1.5'; give a whole number"),
        ("topk:mass=most", "mass is 'most'; give a number"),
    ],
)
def test_mistakes_are_named(text: str, what: str) -> None:
    with pytest.raises(BadParameterError, match=what):
        spec_of(text, BASE)
