"""Penalties, biases and forbidden tokens: a text keeps to them as the target alone does, under every scheme."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.law import Guide, Law, Place
from airdraft.core.messages import GuideSpec, SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.guides import Bias, Guides, of_bias, of_regex, onward
from airdraft.guides.bias import MOST_BIASED, Biased, bias_of
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer
from airdraft.proposers import maker
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel, chi_squared
from airdraft.sim.pair import Pair

from ..core.tables import SPECS, STREAMS, Fickle, alike, table
from ..core.test_stream import MODES, Anyhow
from ..suites import examples

VOCAB, EOS, PROMPT = 6, 5, (0, 1, 2)
EVERY = {**SPECS, **STREAMS}
TOKENS = st.integers(0, VOCAB - 1)
BIASES = st.builds(
    Bias,
    frequency_penalty=st.sampled_from([0.0, 1.5, -2.0]),
    presence_penalty=st.sampled_from([0.0, 2.0]),
    repetition_penalty=st.sampled_from([1.0, 1.7, 0.5]),
    logit_bias=st.dictionaries(TOKENS, st.sampled_from([-100.0, -1.0, 3.0]), max_size=3),
    bad_words=st.lists(st.lists(TOKENS, min_size=2, max_size=3).map(tuple), max_size=3).map(tuple),
    allowed_token_ids=st.sampled_from([(), (1, 2, 3, 5)]),
    min_tokens=st.sampled_from([0, 3, 30]),
    typical_p=st.sampled_from([1.0, 0.6]),
)
FULL = Bias(
    frequency_penalty=1.0, presence_penalty=0.5, repetition_penalty=1.3, logit_bias={2: 1.0, 4: -1.0},
    bad_words=((0,), (1, 2)), allowed_token_ids=(0, 1, 2, 4, EOS), min_tokens=2, stop_token_ids=(4,), typical_p=0.9,
)  # fmt: skip
ONE = {
    "frequency_penalty": (Bias(frequency_penalty=2.0), {}),
    "presence_penalty": (Bias(presence_penalty=2.0), {}),
    "repetition_penalty": (Bias(repetition_penalty=4.0), {}),
    "logit_bias": (Bias(logit_bias={2: 2.0, 4: -2.0}), {}),
    "bad_words": (Bias(bad_words=((3,), (1, 2), (2, 4))), {}),
    "allowed_token_ids": (Bias(allowed_token_ids=(1, 2, 4, EOS)), {}),
    "min_tokens": (Bias(min_tokens=2), {}),
    "stop_token_ids": (Bias(min_tokens=2, stop_token_ids=(1,)), {}),
    "ignore_eos": (Bias(min_tokens=2, stop_token_ids=(1,), ignore_eos=True), {}),
    "typical_p": (Bias(typical_p=0.6), {}),
    "min_p": (Bias(), {"min_p": 0.3}),
}
"""Each field alone, as a bias or as a parameter; what it changes is large enough to be seen in a few hundred texts."""
ALL = {"all": (FULL, {"min_p": 0.05}), **ONE}


def model(seed: int = 2) -> TableModel:
    return table(seed, vocab=VOCAB, scale=2.0, eos_ids=(EOS,))


def made(spec: GuideSpec, eos_ids: Any = (EOS,)) -> Guide:
    """As `Guides.make` reads it, without a tokenizer."""
    return Biased.begin(bias_of(spec, VOCAB), None, VOCAB, tuple(eos_ids))


@given(data=st.data(), bias=BIASES)
@examples(60)
def test_a_biased_text_is_the_targets_own_however_events_fall(data: st.DataObject, bias: Bias) -> None:
    target = model(data.draw(st.integers(0, 50)))
    draft = alike(target, 9, data.draw(st.sampled_from([0.0, 0.4, 5.0])), data.draw(st.sampled_from([4096, 12])))
    params = data.draw(st.sampled_from([SamplingParams(1.0), SamplingParams(0.0), SamplingParams(0.7, top_k=2)]))
    seed, length, spec = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 16)), of_bias(bias)
    truth = list(alone.write(target, PROMPT, params, seed, length, guide=made(spec)))
    trees = data.draw(st.booleans())
    world = Anyhow(draft, target, data.draw(st.integers(1, 8)), trees=trees, guide=made(spec))
    committed = data.draw(st.integers(0, max(0, len(truth) - 1)))  # as after a lost connection
    modes = data.draw(st.lists(st.sampled_from(MODES), min_size=1, max_size=4))
    asked = Request(
        PROMPT,
        SchemeSpec("stream"),
        params,
        seed,
        length,
        policy=Fickle(modes),
        committed=truth[:committed],
        guide=spec,
    )  # fmt: skip
    world.write(asked, data)
    assert world.tokens == truth[committed:]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("field", ALL)
def test_at_temperature_0_every_scheme_writes_the_targets_own(field: str, name: str) -> None:
    target, (bias, more) = model(), ALL[field]
    spec = of_bias(bias)
    pair = Pair(alike(target, 4), target, read=made, propose=maker(("lookup", "salvage")), trees=name == "always")
    for params in (SamplingParams(0.0, **more), SamplingParams(1.0, top_k=1, **more)):
        text = pair.write(Request(PROMPT, EVERY[name], params, 3, 24, 4, guide=spec)).tokens
        assert text == list(alone.write(target, PROMPT, params, 3, 24, guide=made(spec)))


@pytest.mark.parametrize("name", [*STREAMS, "coupled", "server"])
@pytest.mark.parametrize("field", ONE)
def test_under_shared_noise_every_scheme_writes_the_targets_own(field: str, name: str) -> None:
    target, (bias, more) = model(), ONE[field]
    spec, params = of_bias(bias), SamplingParams(1.0, **more)
    pair = Pair(alike(target, 4), target, read=made, propose=maker(("lookup", "salvage")), trees=name == "always")
    for seed in range(8):
        text = pair.write(Request(PROMPT, EVERY[name], params, seed, 24, 4, guide=spec)).tokens
        assert text == list(alone.write(target, PROMPT, params, seed, 24, guide=made(spec)))


TRIALS, LENGTH = 400, 3


def distribution(bias: Bias, params: SamplingParams) -> dict[tuple[int, ...], float]:
    """The probability of every text of the target alone, by its own law."""
    target, law = model(), Law(params, 0, VOCAB)

    def texts(before: tuple[int, ...], at: Place) -> dict[tuple[int, ...], float]:
        probs, found = law.probs(target.row(before), at), dict[tuple[int, ...], float]()
        for token in np.flatnonzero(probs).tolist():
            over = token == EOS or at.position == len(PROMPT) + LENGTH - 1
            rest = {(): 1.0} if over else texts((*before, token), at.then(token))
            found |= {(token, *tail): float(probs[token]) * chance for tail, chance in rest.items()}
        return found

    return texts(PROMPT, Place(3, made(of_bias(bias)).within(PROMPT)))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_text_with_every_bias_is_distributed_as_the_targets_own(name: str) -> None:
    target, (bias, more) = model(), ALL["all"]
    spec, params = of_bias(bias), SamplingParams(**more)
    pair, seen = Pair(alike(target, 4), target, read=made), Counter[tuple[int, ...]]()
    for seed in range(TRIALS):
        seen[tuple(pair.write(Request(PROMPT, EVERY[name], params, seed, LENGTH, 4, guide=spec)).tokens)] += 1
    expected = distribution(bias, params)
    assert seen.keys() <= expected.keys()
    assert chi_squared(seen, expected, TRIALS).p_value > 1e-4


def test_a_text_that_goes_on_as_a_prompt_has_the_bias_that_it_had() -> None:
    spec = of_bias(FULL)
    whole = made(spec).within(PROMPT)
    for token in (4, 1):
        whole = whole.after(token)
    further = onward(spec, 2)
    assert further is not None
    assert whole.allowed().tolist() == made(further).within((*PROMPT, 4, 1)).allowed().tolist()  # type: ignore[union-attr]
    row = np.linspace(-1, 1, VOCAB)
    assert whole.bent(row).tolist() == made(further).within((*PROMPT, 4, 1)).bent(row).tolist()
    assert onward(of_regex("a"), 3) == of_regex("a")


def test_a_grammar_is_stronger_than_what_is_forbidden() -> None:
    tokenizer = Tokenizer(shipped("target"))
    [yes] = tokenizer.encode("yes", special=False)[:1]
    spec = of_bias(Bias(bad_words=((yes,),), min_tokens=50, guide=of_regex("yes")))
    guide = Guides(tokenizer).make(spec, (0,))
    text = list[int]()
    while not text or text[-1] != 0:
        allowed = guide.allowed()
        assert allowed is not None
        text.append(int(np.flatnonzero(allowed)[0]) if guide.forced is None else guide.forced)
        guide = guide.after(text[-1])
    assert tokenizer.decode(text[:-1]) == "yes"


@pytest.mark.parametrize(
    ("bias", "field"),
    [
        (Bias(frequency_penalty=2.1), "frequency_penalty"), (Bias(presence_penalty=-3), "presence_penalty"),
        (Bias(repetition_penalty=0), "repetition_penalty"), (Bias(repetition_penalty=11), "repetition_penalty"),
        (Bias(repetition_penalty=1e-300), "repetition_penalty"),
        (Bias(typical_p=0), "typical_p"), (Bias(typical_p=1.1), "typical_p"), (Bias(logit_bias={1: 101}), "logit_bias"),
        (Bias(logit_bias={VOCAB: 1}), "logit_bias"), (Bias(logit_bias={-1: 1}), "logit_bias"),
        (Bias(logit_bias=dict.fromkeys(range(MOST_BIASED + 1), 1.0)), "logit_bias"),
        (Bias(bad_words=((),)), "bad_words"),
        (Bias(bad_words=((1, VOCAB),)), "bad_words"), (Bias(bad_words=((1,),) * 300), "bad_words"),
        (Bias(allowed_token_ids=(VOCAB,)), "allowed_token_ids"), (Bias(stop_token_ids=(-1,)), "stop_token_ids"),
        (Bias(min_tokens=-1), "min_tokens"), (Bias(allowed_token_ids=(EOS,), min_tokens=1), "allowed_token_ids"),
        (Bias(allowed_token_ids=(1,), bad_words=((1,),)), "allowed_token_ids"),
        (Bias(guide=of_bias(Bias())), "guide"), (Bias(guide=of_regex("a"), written=1), "guide"),
    ],
)  # fmt: skip
def test_a_bias_out_of_range_is_refused_by_its_field(bias: Bias, field: str) -> None:
    with pytest.raises(BadParameterError) as caught:
        made(of_bias(bias))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1}', '{"min_tokens": "x"}', '{"logit_bias": {"a": 1}}', "[" * 9000]
)
def test_what_is_no_bias_is_refused(text: str) -> None:
    with pytest.raises(BadParameterError, match="cannot be read"):
        made(GuideSpec("biased", text))
