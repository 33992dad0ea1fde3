"""Speculative decoding in one process writes the target's own text, whatever the draft proposes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.sampling import SamplingParams
from airdraft.models.base import EngineInfo, FloatArray, Part, check
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.sim import alone, together
from airdraft.sim.conformance import TableModel

VOCAB = 6


class Tokens(list[int]):
    """A cache as `check` wants it."""

    @property
    def length(self) -> int:
        return len(self)


class Strict(TableModel):
    """A model that refuses what every engine refuses, and counts forwards."""

    fed = forwards = 0

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        info = EngineInfo(self.name, self.vocab_size, self.max_context)
        check(info, Part(Tokens(cache), keep, tokens, rows))
        self.fed += len(tokens)
        self.forwards += 1
        return super().forward(cache, keep, tokens, rows)


def table(seed: int, likeness: float = 0.0, max_context: int = 64, eos_ids: tuple[int, ...] = ()) -> Strict:
    """Make a random model. `likeness` is the share of its rows common to every seed."""

    def row(prefix: tuple[int, ...]) -> FloatArray:
        common, own = (np.random.default_rng([at, *prefix]).normal(size=VOCAB + 1) for at in (0, seed))
        rows: FloatArray = (3 * (likeness * common + (1 - likeness) * own)).astype(np.float32)
        rows[VOCAB] = 99  # padding, which is no token
        return rows

    return Strict(row, VOCAB + 1, max_context, eos_ids)


@given(
    seed=st.integers(0, 2**64 - 1),
    likeness=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
    max_tokens=st.integers(0, 24),
    length=st.integers(0, 5),
    contexts=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    eos_ids=st.sampled_from([(), (0,), (1, 2)]),
    draft_eos_ids=st.sampled_from([(), (0,), (3,)]),
)
def test_the_text_is_the_targets(
    seed: int,
    likeness: float,
    temperature: float,
    prompt: list[int],
    max_tokens: int,
    length: int,
    contexts: tuple[int, int],
    eos_ids: tuple[int, ...],
    draft_eos_ids: tuple[int, ...],
) -> None:
    draft, target = table(1, likeness, contexts[0], draft_eos_ids), table(2, likeness, contexts[1], eos_ids)
    params = SamplingParams(temperature)
    rounds = list(together.write(draft, target, prompt, params, seed, max_tokens, length, VOCAB))
    assert list(chain(*rounds)) == list(alone.write(target, prompt, params, seed, max_tokens, VOCAB))
    assert all(1 <= len(tokens) <= length + 1 for tokens in rounds)


@pytest.mark.parametrize(("length", "rounds"), [(0, [1] * 12), (3, [4, 4, 4]), (4, [5, 5, 2])])
def test_a_draft_that_is_always_right_fills_its_rounds(length: int, rounds: list[int]) -> None:
    model = table(1)
    written = together.write(model, model, [1, 2], SamplingParams(0.7), 5, 12, length, VOCAB)
    assert [len(tokens) for tokens in written] == rounds


def test_each_position_is_fed_once_and_what_was_refused_again() -> None:
    draft, target = table(1), table(2)
    rounds = list(together.write(draft, target, [1, 2, 3], SamplingParams(0), 0, 20, 4, VOCAB))
    drafted = [min(4, 20 - 1 - sum(map(len, rounds[:at]))) for at in range(len(rounds))]
    assert target.fed == 2 + sum(n + 1 for n in drafted)
    assert draft.fed <= 2 + sum(n + 1 for n in drafted)


def test_nothing_is_drafted_after_an_end() -> None:
    ends = np.array([0, 9, 0, 0, 0, 0, 0], np.float32)
    draft, target = Strict(lambda _: ends, VOCAB + 1, eos_ids=(1,)), table(2)
    rounds = list(together.write(draft, target, [2], SamplingParams(0), 0, 12, 4, VOCAB))
    assert draft.forwards == len([at for at in range(len(rounds)) if sum(map(len, rounds[:at])) < 11])


def test_the_shipped_pair() -> None:
    draft, target = OnnxModel(shipped("draft")), OnnxModel(shipped("target"))
    prompt = [0, 317, 369, 700]
    rounds = list(together.write(draft, target, prompt, SamplingParams(0), 0, 40, 5))
    assert list(chain(*rounds)) == list(alone.write(target, prompt, SamplingParams(0), 0, 40))
    assert len(rounds) < 40
