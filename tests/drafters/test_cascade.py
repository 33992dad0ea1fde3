"""The cascade of copies and a model: exact under every scheme, by cost and success, and silent without an idea."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core import schemes
from airdraft.core.drafting import Ask
from airdraft.core.edge import Limits
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.drafters import ENDLESS, Cascade, drafting
from airdraft.drafters.cascade import MODEL
from airdraft.models.base import FloatArray
from airdraft.models.engines.nothing import NoDraft
from airdraft.proposers.lookup import CHANCES
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel, conformance
from airdraft.sim.pair import Pair, PairText

from ..core.tables import SPECS, STREAMS, alike, table
from ..suites import examples

ONCE = [5, 6, 7, 8, 9]
REPEATED = [*ONCE, 1, *ONCE]
"""What came after these was 1."""
ROW = np.zeros(16, np.float32)


def facts(draft_s: float = 0.005, verify_s: float = 0.03, rtt_s: float = 0.02) -> Facts:
    return Facts(draft_s, verify_s, rtt_s, 1e9, 1e9, 0.7)


def wants(drafter: Cascade, text: Sequence[int], drafts: Sequence[int] = (), most: int = 8) -> Ask | list[int]:
    wanted = drafter.want(list(text), list(drafts), most)
    return wanted if isinstance(wanted, Ask) else [int(token) for token in wanted]  # type: ignore[arg-type]


def test_without_a_model_it_copies_what_is_likely_and_else_says_nothing() -> None:
    drafter = Cascade(0, facts)
    assert wants(drafter, ONCE) == []
    copied = wants(drafter, REPEATED)
    assert isinstance(copied, list)
    assert copied[:4] == [1, 5, 6, 7]
    assert len(wants(drafter, REPEATED, most=3)) == 3  # type: ignore[arg-type]
    assert wants(drafter, [*REPEATED, 2]) == []


def test_drafts_in_flight_count_and_a_chain_of_doubtful_copies_ends() -> None:
    drafter = Cascade(0, facts)
    first = wants(drafter, REPEATED, most=2)
    assert first == [1, 5]
    more = wants(drafter, REPEATED, first)
    assert isinstance(more, list)
    assert more[:2] == [6, 7]
    drafted = [*first, *more]
    while more := wants(drafter, REPEATED, drafted):
        assert isinstance(more, list)
        drafted += more
    assert len(drafted) < 99  # a chance is a product


def test_a_copy_is_taken_where_it_is_better_than_the_model_by_cost() -> None:
    slow = Cascade(ENDLESS, partial(facts, draft_s=0.05))
    assert isinstance(wants(slow, REPEATED), list)  # the model's token takes as long as a miss
    quick = Cascade(ENDLESS, partial(facts, draft_s=1e-6))
    assert CHANCES[3] < MODEL[4]
    assert isinstance(wants(quick, REPEATED), Ask)
    assert isinstance(wants(Cascade(ENDLESS, facts), ONCE), Ask)


def test_it_learns_which_of_the_two_is_right() -> None:
    """The text goes round; the model is always wrong, so copies take its place though they cost no less."""
    drafter, around = Cascade(ENDLESS, partial(facts, draft_s=1e-6)), [*ONCE, 1] * 40
    copies = []
    for length in range(12, len(around)):
        text = around[:length]
        wanted = wants(drafter, text, most=1)
        copies.append(not isinstance(wanted, Ask))
        if isinstance(wanted, Ask):
            assert len(drafter.told(ROW)) == 1
            assert wants(drafter, text, [2], most=1) is not None  # its token is known; the next row is not told
            drafter.cut(length)  # and wrong
    assert not copies[0]
    assert all(copies[-20:])


def test_wrong_copies_leave_the_word_to_the_model() -> None:
    """Runs come back, and another token follows each time, which the model knows."""
    rng, drafter = np.random.default_rng(1), Cascade(ENDLESS, partial(facts, draft_s=0.02))
    text, asked = [5, 6], []
    for _ in range(60):
        for token in (5, 6):
            text.append(token)
        wanted = wants(drafter, text, most=1)
        asked.append(isinstance(wanted, Ask))
        if isinstance(wanted, Ask):
            drafter.told(ROW)  # and what it says is right
        else:
            drafter.cut(len(text))
        text.append(int(rng.integers(8, 16)))
    assert not all(asked[:10])
    assert all(asked[-10:])


def test_a_model_is_asked_only_for_positions_that_it_holds() -> None:
    drafter = Cascade(8, facts)
    assert isinstance(wants(drafter, [1, 2, 3, 4]), Ask)
    assert wants(Cascade(8, facts), range(8)) == []
    assert isinstance(wants(Cascade(8, facts), REPEATED), list)


def test_what_a_device_drafts_with() -> None:
    reach, make = drafting(4096, False, facts)
    assert (reach, type(make()).__name__) == (4096, "ModelDrafter")
    reach, make = drafting(0, True, facts)
    assert (reach, type(make()).__name__) == (ENDLESS, "Cascade")


EXACT = {name: spec for name, spec in SPECS.items() if schemes.traits(spec.name).exact == "text"}


@examples(30)
@given(
    name=st.sampled_from(sorted({*EXACT, *STREAMS} - {"server"})),
    seed=st.integers(0, 1 << 30),
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=24),
    params=st.sampled_from([SamplingParams(0.0), SamplingParams(0.7), SamplingParams(1.3, top_k=3)]),
    context=st.sampled_from([0, 12, 4096]),
    length=st.sampled_from([None, 1, 4, 9]),
    chunk=st.sampled_from([1, 7, 1 << 30]),
    most=st.sampled_from([2, 8]),
    trees=st.booleans(),
)
def test_the_text_is_the_targets_own(
    name: str, seed: int, prompt: list[int], params: SamplingParams, context: int, length: int | None, chunk: int,
    most: int, trees: bool,
) -> None:  # fmt: skip
    target = table(seed, scale=3.0)
    draft = alike(target, seed + 1, context=context) if context else NoDraft(target.vocab_size)
    spec = EXACT.get(name) or STREAMS[name]
    written = Pair(draft, target, limits=Limits(max_draft=most), chunk=chunk, lookup=True, trees=trees).write(
        Request(prompt, spec, params, seed, 24, length)
    )
    assert written.tokens == list(alone.write(target, prompt, params, seed, 24))


LOSSY = {name: spec for name, spec in SPECS.items() if schemes.traits(spec.name).exact == "distribution"}
AGAIN = (0, 1, 2, 3, 0, 1, 2, 3, 0, 1)
QUICK = (("dense", 0), ("topk-3x8-block", 4096))


def around(prefix: tuple[int, ...]) -> FloatArray:
    """The row of a target that likes to go round."""
    return table(2).row(prefix) + np.where(np.arange(5) == (prefix[-1] + 1) % 4, 5.0, 0.0).astype(np.float32)


@pytest.mark.parametrize(("name", "context"), [
    pytest.param(name, context, marks=() if (name, context) in QUICK else pytest.mark.slow)
    for name in LOSSY for context in (0, 4096)
])  # fmt: skip
def test_a_copy_is_a_point_mass_where_chances_are_sent(name: str, context: int) -> None:
    copied = 0

    class Watched(Pair):
        def write(self, request: Request) -> PairText:
            nonlocal copied
            written = super().write(request)
            copied += sum(len(event.copied) for event in written.commits)
            return written

    found = conformance(
        table(1, context=context), TableModel(around, 5), LOSSY[name], SamplingParams(1.0), prompt=AGAIN, depth=3,
        draft_length=2, trials=350, pair=partial(Watched, lookup=True),
    )  # fmt: skip
    assert copied > 100
    assert found.p_value > 1e-4, found


class Sure(TableModel):
    """A target that goes round and round."""

    def __init__(self) -> None:
        super().__init__(lambda prefix: np.where(np.arange(6) == (prefix[-1] + 1) % 6, 9.0, 0.0).astype(np.float32), 6)


@pytest.mark.parametrize("spec", [SchemeSpec("coupled"), STREAMS["off"]], ids=["coupled", "stream"])
def test_a_device_without_a_model_saves_forwards_where_the_text_repeats_itself(spec: SchemeSpec) -> None:
    request = Request((0, 1), spec, SamplingParams(0.0), 1, 60, 8)
    written = Pair(NoDraft(6), Sure(), lookup=True).write(request)
    assert written.tokens == [(2 + at) % 6 for at in range(60)]
    assert written.counts.forwards < 30
    assert sum(len(event.copied) for event in written.commits) == written.counts.accepted > 30
