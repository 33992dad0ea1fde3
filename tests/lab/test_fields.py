"""Every field of sampling by every scheme: the texts keep to its law in plain words, and a wrong law is told apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.core import law, schemes
from airdraft.core.law import Guide, Place
from airdraft.core.messages import GuideSpec, SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.guides import Bias, of_bias
from airdraft.lab import fields
from airdraft.lab.conform import BAR, variants
from airdraft.lab.fields import EOS, FIELDS, PROMPT, RIGHT, VOCAB, LawFields, PlainLaw
from airdraft.sim.conformance import chi_squared

from ..suites import examples

TEXTS, SEED = 150, 1
SCHEMES = dict(each for name in schemes.SCHEMES for each in variants(name))
DIAGONAL = [(label, [*FIELDS][at % len(FIELDS)]) for at, label in enumerate(SCHEMES)]
"""Every scheme with one field, and every field at least once."""
TOKENS = st.integers(0, VOCAB - 1)
ASKED = st.builds(
    LawFields,
    st.builds(
        Bias,
        frequency_penalty=st.sampled_from([0.0, 1.5, -2.0]),
        presence_penalty=st.sampled_from([0.0, 2.0]),
        repetition_penalty=st.sampled_from([1.0, 1.7, 0.5]),
        logit_bias=st.dictionaries(TOKENS, st.sampled_from([-100.0, -1.0, 3.0]), max_size=3),
        bad_words=st.lists(st.lists(TOKENS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
        allowed_token_ids=st.sampled_from([(), (1, 2, 3, EOS)]),
        min_tokens=st.sampled_from([0, 3, 30]),
        stop_token_ids=st.sampled_from([(), (2,)]),
        ignore_eos=st.booleans(),
        typical_p=st.sampled_from([1.0, 0.6]),
    ),
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([1.0, 0.4, 3.0]),
        top_k=st.sampled_from([0, 2, 3]),
        top_p=st.sampled_from([1.0, 0.7]),
        min_p=st.sampled_from([0.0, 0.3]),
    ),
)


@given(asked=ASKED, text=st.lists(TOKENS, max_size=8).map(tuple), seed=st.integers(0, 99))
@examples(300)
def test_the_law_is_what_its_words_say(asked: LawFields, text: tuple[int, ...], seed: int) -> None:
    row = np.random.default_rng(seed).normal(size=VOCAB) * 2
    try:
        place = Place(len(PROMPT), fields.read(of_bias(asked.bias), (EOS,)).within(PROMPT))
    except BadParameterError:  # it leaves no token to begin with
        assume(False)
    for token in text:
        place = place.then(token)
    chances = PlainLaw(asked).chances(row, text)
    if not chances:  # where words forbid all that there is, they do not hold
        runs = tuple(word for word in asked.bias.bad_words if len(word) == 1)
        chances = PlainLaw(LawFields(structs.replace(asked.bias, bad_words=runs), asked.params)).chances(row, text)
    found = law.Law(asked.params, 0, VOCAB).probs(row, place)
    assert np.allclose(found, [chances.get(token, 0.0) for token in range(VOCAB)], atol=1e-6)


@pytest.mark.parametrize("name", FIELDS)
def test_texts_of_a_wrong_law_fail(name: str) -> None:
    rng, laws = np.random.default_rng(7), fields.expected(name, SEED)
    for what, chances in laws.items():
        drawn = rng.multinomial(TEXTS, [*chances.values()])
        counts = Counter({text: int(count) for text, count in zip(chances, drawn, strict=True) if count})
        p_value = chi_squared(counts, laws[RIGHT], TEXTS).p_value
        assert p_value > 1e-3 if what == RIGHT else p_value < BAR, what


@pytest.mark.parametrize(("label", "name"), DIAGONAL)
def test_a_field_acts_as_it_says_and_would_be_missed(label: str, name: str) -> None:
    cell = fields.tested(label, SCHEMES[label], name, TEXTS, SEED)
    assert cell.holds, cell


def test_the_few_that_run_often_are_every_scheme_and_every_field() -> None:
    assert {label for label, _ in DIAGONAL} == {*SCHEMES}
    assert {name for _, name in DIAGONAL} == {*FIELDS}
    assert {*FIELDS} >= {*Bias.__struct_fields__, *SamplingParams.__struct_fields__} - {"written", "guide"}


@pytest.mark.slow
@pytest.mark.parametrize("label", SCHEMES)
def test_every_field_acts_as_it_says_under_every_scheme(label: str) -> None:
    cells = [
        fields.tested(label, SCHEMES[label], name, TEXTS, SEED) for name in FIELDS if (label, name) not in DIAGONAL
    ]
    assert not [cell for cell in cells if not cell.holds]


@dataclass(frozen=True)
class Mistaken(Guide):
    """A guide that is the whole law, right or wrong: it bends every row to the logarithms of its probabilities."""

    law: PlainLaw
    text: tuple[int, ...] = ()

    @property
    def forced(self) -> None:
        """See `Guide.forced`."""
        return

    def allowed(self) -> None:
        """See `Guide.allowed`."""
        return

    def bent(self, row: np.ndarray) -> np.ndarray:
        """See `Guide.bent`."""
        found = np.full(VOCAB, -np.inf)
        for token, chance in self.law.chances(row, self.text).items():
            found[token] = np.log(chance)
        return found

    def after(self, token: int) -> Mistaken:
        """See `Guide.after`."""
        return replace(self, text=(*self.text, token))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["coupled", "topk/token", "always on trees"])
@pytest.mark.parametrize("name", FIELDS)
def test_an_implementation_that_is_wrong_about_a_field_fails(
    name: str, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unbent(prompt: tuple[int, ...], spec: SchemeSpec, params: SamplingParams, *rest: Any, **more: Any) -> Request:
        return Request(prompt, spec, SamplingParams(), *rest, **more)

    monkeypatch.setattr(fields, "Request", unbent)
    label = next(each for each in SCHEMES if each.endswith(label))
    for what, wrong in fields.laws(name).items():

        def read(spec: GuideSpec, eos_ids: Sequence[int], wrong: PlainLaw = wrong) -> Guide:
            return Mistaken(wrong)

        monkeypatch.setattr(fields, "read", read)
        assert fields.tested(label, SCHEMES[label], name, TEXTS, SEED).exact == (what == RIGHT), what


def test_the_command_shows_every_field_of_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "FIELDS", {name: FIELDS[name] for name in ("top_k", "min_tokens")})
    done = CliRunner().invoke(app, ["conform", "--scheme", "server", "--fields", "--texts", "200", "--json"])
    rows = json.loads(done.stdout)["rows"]
    assert [row["field"] for row in rows] == ["top_k", "min_tokens"]
    assert all(row["exact"] and row["holds"] and row["texts"] == 200 for row in rows)
    assert done.exit_code == 0
    words = CliRunner().invoke(app, ["conform", "--scheme", "server", "--fields", "--texts", "200", "--no-color"])
    assert "2 of 2" in words.stdout
    assert "5 of 5" in words.stdout
    assert words.stdout.rstrip().endswith("passes")


def test_a_scheme_that_cannot_write_is_shown_with_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "FIELDS", {"top_k": FIELDS["top_k"]})
    monkeypatch.setattr("airdraft.lab.conform.variants", lambda name: [(name, SchemeSpec(name, bits=99))])
    done = CliRunner().invoke(app, ["conform", "--scheme", "topk", "--fields", "--texts", "200", "--no-color"])
    assert done.exit_code == 1
    assert "bits is 99" in done.stdout


@pytest.mark.parametrize("words", [["--broken"], ["--example", "inverted"], ["--all", "--engine", "onnx"]])
def test_fields_go_with_schemes_on_tables(words: list[str]) -> None:
    found = CliRunner().invoke(app, ["conform", "--fields", *words]).exception
    assert isinstance(found, BadParameterError)
    assert "fields are tested on tables" in str(found)
