"""A recording holds what a run of the machines would have met."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core import schemes
from airdraft.core.choosing import choose
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams, distribution
from airdraft.errors import BadParameterError, ModelError
from airdraft.lab.record import MAX_PROMPT, TOP_K, RecordedText, Recording, prompts, record, synthetic
from airdraft.models.base import FloatArray
from airdraft.models.fit import Fit
from airdraft.models.registry import load
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel
from airdraft.sim.pair import Pair

VOCAB = 150
PROMPTS = [(1, 2, 3), (4,), (5, 6)]
PARAMS = [SamplingParams(0.0), SamplingParams(0.7), SamplingParams(1.0, top_k=5), SamplingParams(1.3)]


def models(eos_ids: tuple[int, ...] = (), alike: float = 0.7) -> tuple[TableModel, TableModel]:
    """A draft and a target that often agree. The target scores ten tokens more than there are, and likes them."""

    def target(prefix: tuple[int, ...]) -> FloatArray:
        row = np.random.default_rng([1, *prefix]).normal(0.0, 2.0, VOCAB + 10)
        row[VOCAB:] += 20
        return row.astype(np.float32)

    def draft(prefix: tuple[int, ...]) -> FloatArray:
        bent = np.random.default_rng([2, *prefix]).normal(0.0, alike, VOCAB)
        return (target(prefix)[:VOCAB] + bent).astype(np.float32)

    return TableModel(draft, VOCAB), TableModel(target, VOCAB + 10, eos_ids=eos_ids)


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_every_list_says_what_its_name_says(params: SamplingParams) -> None:
    draft, target = models()
    recording = record(draft, target, PROMPTS, params, 12, 40, VOCAB, "made up")
    assert (recording.name, recording.params, recording.vocab_size) == ("made up", params, VOCAB)
    assert recording.near_ties == 0
    for at, (prompt, text) in enumerate(zip(PROMPTS, recording.texts, strict=True)):
        assert text.prompt_length == len(prompt)
        assert text.tokens == list(alone.write(target, prompt, params, 40 + at, 12, VOCAB))
        for i, token in enumerate(text.tokens):
            prefix = (*prompt, *text.tokens[:i])
            choice = choose(draft.row(prefix), params, 40 + at, len(prefix))
            target_probs = distribution(target.row(prefix)[:VOCAB], params)
            draft_probs = distribution(draft.row(prefix), params)
            cut = np.where(draft_probs >= np.sort(draft_probs)[-TOP_K], draft_probs, 0)
            assert text.matches[i] == (choice == token)
            assert text.accept[i] == pytest.approx(1 - np.abs(target_probs - draft_probs).sum() / 2, abs=1e-6)
            overlap = 1 - np.abs(target_probs - cut / cut.sum()).sum() / 2
            assert text.accept_topk[i] == pytest.approx(overlap, abs=1e-6)
            sent = schemes.make(SchemeSpec("lattice"), Law(params, 0, VOCAB), schemes.DEVICE)
            drafted = sent.draw(draft.row(prefix), Place(len(prefix)))
            overlap = np.minimum(target_probs[drafted.ids], drafted.probs()).sum()
            assert text.accept_lattice[i] == pytest.approx(overlap, abs=1e-6)
            assert text.draft_prob[i] == pytest.approx(draft_probs[choice], abs=1e-6)
            some = draft_probs[draft_probs > 0]
            assert text.entropy[i] == pytest.approx(float(some @ -np.log(some)), abs=1e-6)
            assert text.support[i] == (target_probs > 0).sum()


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_the_matches_foretell_every_round_of_the_machines(params: SamplingParams) -> None:
    """Coupled rounds of three drafts, replayed from the matches alone, are the rounds that were run."""
    draft, wide = models()
    target = TableModel(lambda prefix: wide.row(prefix)[:VOCAB], VOCAB)
    text = record(draft, target, PROMPTS[:1], params, 40, 9, VOCAB, "").texts[0]
    foretold, at = [], 0
    while at < len(text.tokens):
        drafts = text.matches[at : at + min(3, len(text.tokens) - at - 1)]  # the last token is the target's own
        accepted = [*drafts, False].index(False)
        foretold.append(accepted)
        at += accepted + 1
    request = Request(PROMPTS[0], SchemeSpec("coupled"), params, 9, 40, 3)
    assert [commit.accepted for commit in Pair(draft, target).write(request).commits] == foretold
    assert 0 < sum(foretold) < len(text.tokens)


def test_acceptance_is_the_share_of_matches() -> None:
    def text(matches: list[bool]) -> RecordedText:
        size = len(matches)
        return RecordedText(1, [0] * size, matches, *[[0.5] * size] * 5, [1] * size)

    recording = Recording("", SamplingParams(), 2, [text([True, False]), text([True] * 6)])
    assert (recording.length, recording.acceptance) == (8, 7 / 8)


def test_where_rounding_decides_the_written_token_stands() -> None:
    """A long forward that rounds otherwise than the short ones changes no token, and is counted."""
    draft, target = models()
    params = SamplingParams(1.0)
    truth = list(alone.write(target, PROMPTS[0], params, 5, 12, VOCAB))

    class Wide:
        """The target, whose forwards of many rows prefer another token at the fifth."""

        name, vocab_size, max_context, eos_ids = "wide", target.vocab_size, target.max_context, ()

        def new_cache(self) -> list[int]:
            return target.new_cache()

        def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
            logits = target.forward(cache, keep, tokens, rows)
            if rows > 1:
                logits[4, (truth[4] + 1) % VOCAB] += 100
            return logits

    recording = record(draft, Wide(), PROMPTS[:1], params, 12, 5, VOCAB, "")
    assert recording.texts[0].tokens == truth
    assert recording.near_ties == 1


def test_short_texts_are_dropped() -> None:
    eos = next(iter(alone.write(models()[1], PROMPTS[1], SamplingParams(0.0), 0, 1, VOCAB)))
    draft, target = models(eos_ids=(eos,))
    recording = record(draft, target, PROMPTS, SamplingParams(0.0), 12, 0, VOCAB, "")
    assert 1 not in [text.prompt_length for text in recording.texts]
    assert len(recording.texts) == 2
    with pytest.raises(BadParameterError, match="none of 1 texts reaches 8 tokens"):
        record(draft, target, PROMPTS[1:2], SamplingParams(0.0), 12, 0, VOCAB, "")


def test_a_model_of_another_vocabulary_is_refused() -> None:
    draft, target = models()
    with pytest.raises(BadParameterError, match="table scores 150 tokens of 151"):
        record(draft, target, PROMPTS, SamplingParams(), 12, 0, VOCAB + 1, "")


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=4), st.sampled_from(PARAMS))
def test_a_file_gives_back_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[bool]], params: SamplingParams
) -> None:
    texts = [
        RecordedText(3, [7] * len(row), row, *[[0.123456] * len(row)] * 5, [9] * len(row), near_ties=at)
        for at, row in enumerate(rows)
    ]
    recording = Recording("some", params, 11, texts)
    path = tmp_path_factory.getbasetemp() / "recording.json"
    recording.save(path)
    assert Recording.load(path) == recording


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no recording"),
        (b"\xff\x00", "is no recording"),
        (b"[1, 2]", "is no recording"),
        (b"{}", "is no recording"),
        (b'{"texts": [1]}', "is no recording"),
        (b'{"name": "", "params": [], "vocab_size": 4, "texts": [{"tokens": [1]}]}', "required field `prompt_length`"),
        (b'{"name": "", "params": [], "vocab_size": 4, "texts": []}', "holds no text"),
        (b'{"name": "", "params": [-1.0], "vocab_size": 4, "texts": []}', "temperature is -1"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(BadParameterError, match=said) as problem:
        Recording.load(path)
    assert str(path) in str(problem.value)
    assert "\n" not in str(problem.value)


def test_lists_of_unequal_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    synthetic(0.5, 1, 4, 0, 9).save(path)
    Recording.load(path)
    plain = msgspec.json.decode(path.read_bytes())
    plain["texts"][0]["tokens"].pop()
    path.write_bytes(msgspec.json.encode(plain))
    with pytest.raises(BadParameterError, match="lists differ in length"):
        Recording.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadParameterError, match=r"cannot read the recording .*nowhere\.json: No such file"):
        Recording.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("acceptance", [0.0, 0.6, 0.9, 1.0])
def test_synthetic_drafts_match_as_often_as_asked(acceptance: float) -> None:
    made = synthetic(acceptance, 20, 500, 3, 32000)
    assert made.name == f"synthetic {acceptance:g}"
    assert made.acceptance == pytest.approx(acceptance, abs=0.015)
    assert made == synthetic(acceptance, 20, 500, 3, 32000)
    assert acceptance in {0.0, 1.0} or made.texts[0].matches != made.texts[1].matches
    text = made.texts[0]
    assert set(text.accept) == set(text.accept_topk) == set(text.accept_lattice) == {acceptance}
    assert set(text.support) == {32000}
    assert max(text.tokens) < 32000


@pytest.mark.parametrize(
    ("acceptance", "texts", "length"), [(1.1, 1, 1), (-0.1, 1, 1), (float("nan"), 1, 1), (0.5, 0, 1), (0.5, 1, 0)]
)
def test_impossible_synthetic_texts_are_refused(acceptance: float, texts: int, length: int) -> None:
    with pytest.raises(BadParameterError, match=r"give (a number|numbers)"):
        synthetic(acceptance, texts, length, 0, 4096)


def test_the_shipped_pair_is_recorded() -> None:
    """Along the target's own texts the coupled choice agrees nearly as often as any scheme could."""
    try:
        (target, tokenizer), (draft, _) = load("target", fit=Fit(1)), load("draft", fit=Fit(1))
    except ModelError as problem:
        pytest.skip(str(problem))
    asked = prompts(8)
    assert asked[0] == tokenizer.encode(tokenizer.decode(asked[0]))[:MAX_PROMPT]
    recording = record(draft, target, asked, SamplingParams(0.7), 48, 1, tokenizer.vocab_size, "pair T=0.7")
    best = sum(sum(text.accept) for text in recording.texts) / recording.length
    cut = sum(sum(text.accept_topk) for text in recording.texts) / recording.length
    assert recording.length > 200
    coarse = sum(sum(text.accept_lattice) for text in recording.texts) / recording.length
    assert 0.6 < coarse <= cut <= best < 0.9
    assert recording.acceptance == pytest.approx(best, abs=0.1)
    assert recording.near_ties <= 1, "more near-ties than rounding explains"


def test_prompts_are_cut_and_counted() -> None:
    some = prompts(100)
    assert len(some) == 100
    assert some[:3] == prompts(3)
    assert max(map(len, some)) <= MAX_PROMPT
    for count in (0, 101):
        with pytest.raises(BadParameterError, match="the pair ships with 100"):
            prompts(count)
