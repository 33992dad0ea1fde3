"""Hostile guides: each is read or refused in bounded time and memory, and a panic in their reader ends one text."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airdraft.core.law import Guide
from airdraft.core.messages import MOST_GUIDE, GuideSpec
from airdraft.errors import BadParameterError, GuideError
from airdraft.guides import Guides, of_json, of_regex
from airdraft.guides.state import GrammarWalk
from airdraft.guides.trial import CPU_S, trial
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer

pytest.importorskip("llguidance")

TOKENIZER = Tokenizer(shipped("target"))
GUIDES = Guides(TOKENIZER)
EOS = (0,)
SOME_MB = 400
"""Memory that one guide may take here: what its limits say, and Python's own."""


def schema(**words: Any) -> GuideSpec:
    return GuideSpec("json", json.dumps(words))


def chain(length: int, link: Any) -> GuideSpec:
    """Definitions, each made from the name of the next."""
    defs = {f"a{at}": link({"$ref": f"#/$defs/a{at + 1}"}) for at in range(length)}
    return GuideSpec("json", json.dumps({"$defs": {**defs, f"a{length}": {"type": "integer"}}, "$ref": "#/$defs/a0"}))


def lark(*lines: str) -> GuideSpec:
    return GuideSpec("lark", "\n".join(lines))


def regex(pattern: str) -> GuideSpec:
    return GuideSpec("regex", pattern)


LETTERS = "abcdefghijkl"
HOSTILE = {
    # Time or memory by a number that is written in a few characters.
    "multiple": schema(type="integer", multipleOf=999_983),
    "multiple beyond": schema(type="integer", multipleOf=2**53 - 111),
    "multiple of parts": schema(type="number", multipleOf=1e-9, minimum=0, maximum=1e9),
    "multiples": schema(type="array", items=[{"type": "integer", "multipleOf": 99_991 + at} for at in range(20)]),
    "multiple in lark": lark('start: %json {"type": "integer", "multipleOf": 99999989}'),
    "items": schema(type="array", items={"type": "string"}, minItems=10**8, maxItems=10**9),
    "items of items": chain(40, lambda inner: {"type": "array", "items": inner, "minItems": 300}),
    "length": schema(type="string", minLength=10**8, maxLength=2 * 10**9),
    "lengths": schema(
        type="object", properties={f"s{at}": {"type": "string", "maxLength": 60_000} for at in range(200)}
    ),
    "range": schema(type="integer", minimum=-(10**300), maximum=10**300),
    "range of parts": schema(type="number", minimum=1e-300, maximum=1e300),
    "times": regex("a{4294967295}"),
    "times of times": regex("(((a{0,50}){0,50}){0,50}){0,50}"),
    "times in lark": lark('start: ((("a"{1,1000}){1,1000}){1,1000})'),
    # By what they name again and again.
    "references": chain(1200, lambda inner: inner),
    "both": chain(40, lambda inner: {"allOf": [inner, inner]}),
    "either": chain(40, lambda inner: {"anyOf": [inner, inner]}),
    "cases": schema(allOf=[{"anyOf": [{"required": [f"p{a}{b}"]} for b in range(4)]} for a in range(20)]),
    "itself": schema(**{"$ref": "#"}),
    "itself twice": schema(anyOf=[{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}]),
    "itself within": schema(type="object", additionalProperties={"$ref": "#"}, patternProperties={"a": {"$ref": "#"}}),
    "rules": lark("start: r0", *(f'r{at}: "a" r{at + 1}' for at in range(2500)), 'r2500: "b"'),
    "terminals": lark("start: T0", *(f'T{at}: "a" T{at + 1} | "c"' for at in range(2000)), 'T2000: "b"'),
    "rules doubled": lark("start: r0", *(f"r{at}: r{at + 1} r{at + 1}" for at in range(60)), 'r60: "b"'),
    "terminals doubled": lark("start: T0", *(f"T{at}: T{at + 1} T{at + 1}" for at in range(60)), 'T60: "b"'),
    "rule of itself": lark("start: start"),
    "many ways": lark('start: s\ns: s s s | "a" | "b" | '),
    # By states.
    "all of these": lark("start: T", "T: " + " & ".join(f"/(.*{each}.{{1,40}}){{1,4}}/" for each in LETTERS)),
    "not this": lark("start: T", "T: ~/(.*a.{1,400}){1,20}/"),
    "pattern": schema(type="string", pattern="^(a|aa|aaa)*b(.*a.{1,200}){1,9}$"),
    "whitespace": schema(type="object", **{"x-guidance": {"whitespace_pattern": "(.*a.{1,300}){1,20}"}}),
    "dots": regex(".*" * 3000),
    "options": regex("a?" * 20_000),
    # By their length.
    "alternatives": regex("|".join(f"w{at}" for at in range(9000))),
    "values": schema(enum=[f"{at}" + "x" * 50 for at in range(1000)]),
    "properties": schema(type="object", properties={f"p{at}": {"type": "integer"} for at in range(1500)}),
    "objects": lark("start: " + " ".join(['%json {"type": "object"}'] * 600)),
    "nested": GuideSpec("json", '{"items":' * 900 + "{}" + "}" * 900),
    "brackets": regex("(" * 240 + "a" + ")*" * 240),
    "options in lark": lark("start: " + "[" * 200 + '"a"' + "]" * 200),
    "too long": GuideSpec("lark", "a" * (MOST_GUIDE + 1)),
}


def wander(guide: Guide, rng: random.Random, most: int = 40) -> None:
    for _ in range(most):
        allowed = guide.allowed()
        if allowed is None:  # the end
            return
        guide = guide.after(rng.choice(np.flatnonzero(allowed).tolist()))


def tried(spec: GuideSpec) -> str:
    """What is said of a guide that is read and followed as far as may be; empty if it goes on."""
    said = ""
    try:
        wander(GUIDES.make(spec, EOS), random.Random(0))  # noqa: S311
    except (BadParameterError, GuideError) as error:
        said = str(error)
        if not said.startswith("the guide ") or "\n" in said or len(said) > 600:
            raise
    return said


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_guide_is_read_or_refused_in_bounded_time_and_memory(name: str) -> None:
    before_kb, began_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    tried(HOSTILE[name])
    assert time.process_time() - began_s < 10 * CPU_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < SOME_MB << 10


@pytest.mark.parametrize("name", ["multiple", "multiple in lark"])
def test_what_takes_too_long_says_so_and_the_next_guide_is_read(name: str) -> None:
    assert "more than 0.5 s or 512 MB" in tried(HOSTILE[name])
    assert tried(of_regex("(yes|no)")) == ""


def test_a_reader_that_has_died_is_begun_again() -> None:
    reader = trial()
    assert reader.read("regex", "a") is None
    assert reader._apart.process is not None
    reader._apart.process.kill()
    reader._apart.process.wait()
    assert reader.read("regex", "a") is None
    assert "look-around" in (reader.read("regex", "(?=a)") or "")


IN_SCHEMAS = """type object array string integer number properties required items anyOf allOf $ref # #/$defs/a $defs a
enum const pattern ^a+$ (a|b)* minLength maxItems multipleOf format date additionalProperties minimum x-guidance"""
IN_LARK = r"""start : | "a" /b+/ ( ) * + ? {1,9} {2,99999} T T:/x/ s s:s_s| %json {} %ignore ~ & [lazy] [capture] %regex
[ ] . <|endoftext|> <[0-9]>"""
IN_REGEX = r"a b . \d \p{L} [a-z] [^ ] ( ) (?i: | * + ? {3} {1,500} {99999} ^ $ \b \ é (?P<x> (?! & ~"
WORDS = st.sampled_from(IN_SCHEMAS.split())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)
PIECES, PARTS = st.sampled_from([*IN_LARK.split(), "\n"]), st.sampled_from(IN_REGEX.split())
ANY = (
    st.dictionaries(WORDS, VALUES, max_size=6).map(lambda found: GuideSpec("json", json.dumps(found)))
    | st.lists(PIECES, max_size=25).map(lambda found: GuideSpec("lark", "start: " + " ".join(found)))
    | st.lists(PARTS, max_size=25).map(lambda found: GuideSpec("regex", "".join(found)))
)


@given(spec=ANY)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_guide_is_read_or_refused_in_one_line(spec: GuideSpec) -> None:
    tried(spec)


# ---- Panics ----------------------------------------------------------------------------------------------------------


class PanicException(BaseException):
    """A panic in Rust, as Python sees it."""


class Panicking:
    """A matcher that panics in one of its methods, from the second call of it or its copies on."""

    def __init__(self, matcher: Any, name: str, calls: Iterator[int] | None = None) -> None:
        self._matcher, self._name, self._calls = matcher, name, calls or count(1)

    def deep_copy(self) -> Panicking:
        return Panicking(self._matcher.deep_copy(), self._name, self._calls)

    def __getattr__(self, name: str) -> Any:
        if name == self._name and next(self._calls) > 1:
            raise PanicException("index out of bounds:\n the len is 5")
        return getattr(self._matcher, name)


@pytest.mark.parametrize("name", ["compute_bitmask", "try_consume_tokens", "is_accepting", "compute_ff_tokens"])
def test_a_panic_on_the_way_is_an_error_of_that_text_alone(name: str) -> None:
    spec = of_json({"type": "array", "items": {"type": "integer"}})
    good = GUIDES.make(spec, EOS)
    grammar: Any = Panicking(GUIDES._grammars[spec, EOS], name)
    with pytest.raises(
        GuideError, match=r"the guide breaks its reader \(index out of bounds: the len is 5\); ask"
    ) as caught:
        wander(GrammarWalk(grammar, TOKENIZER.vocab_size, EOS).begin, random.Random(1))  # noqa: S311
    assert "\n" not in str(caught.value)
    wander(good, random.Random(1))  # noqa: S311
    wander(GUIDES.make(spec, EOS), random.Random(1))  # noqa: S311
