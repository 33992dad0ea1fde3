"""Chaos: texts survive faults, and a machine that resumes wrongly is found out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from airdraft import cli
from airdraft.core import schemes
from airdraft.core.edge.session import EdgeSession
from airdraft.core.edge.stream import GUIDE
from airdraft.core.events import Committed, Finished
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.schemes import Ruling
from airdraft.device.resume import Resumable
from airdraft.errors import GuideError
from airdraft.guides import Bias, of_bias, of_json, of_regex
from airdraft.lab import chaos
from airdraft.lab.chaos import faults, forms
from airdraft.lab.chaos.faults import KINDS, Fault, Kind
from airdraft.lab.helps import PREDICTIONS
from airdraft.proposers import PROPOSERS
from airdraft.proposers.draft import NAME as DRAFT
from airdraft.sim.conformance import TableModel
from airdraft.sim.virtual import Virtual

from ..suites import mostly_slow

SESSIONS = 60
BROKEN = 30
"""Sessions that are enough to see what is broken."""


@pytest.fixture(autouse=True, scope="module")
def _remembered() -> Iterator[None]:
    """The same sessions are lived by test after test: their models' rows are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chaos, "table", cache(chaos.table))
        yield


def outcomes(
    change: Callable[[int], chaos.Case], resume: type[Resumable] = Resumable, sessions: int = SESSIONS
) -> list[chaos.Outcome]:
    return [chaos.live(number, change(number), resume) for number in range(sessions)]


def drawn(number: int) -> chaos.Case:
    return chaos.case(5, number)


def befallen(kind: Kind, number: int) -> chaos.Case:
    """A session whose only fault is of this kind, in the middle of its text."""
    case = drawn(number)
    middle_s = chaos.live(number, replace(case, faults=[Fault("drop", 1e6)])).seconds / 2
    lasting = {"restart": 1.0, "busy": 2.0, "stall": 0.5, "silence": 7.0, "delay": 9.0}
    strength = {"tear": 0.5, "delay": 0.1}.get(kind, 5.0)
    return replace(case, faults=[Fault(kind, middle_s, lasting.get(kind, 9.0), strength)])


@pytest.mark.slow
def test_texts_are_the_targets_own_through_every_fault() -> None:
    lived = outcomes(drawn)
    assert [outcome.number for outcome in lived if not outcome.identical] == []
    felt = Counter[str]()
    for outcome in lived:
        felt.update(outcome.faults)
    assert set(felt) == set(KINDS)
    assert {outcome.form for outcome in lived} == {"", *forms.KINDS}
    assert {outcome.way for outcome in lived} == {*chaos.WAYS, *chaos.GREEDY}
    assert {outcome.prediction for outcome in lived} == {"", *PREDICTIONS}
    assert {name for outcome in lived for name in outcome.taken} == {*PROPOSERS, DRAFT, GUIDE}
    assert chaos.held(chaos.record_of(lived, 5))


@pytest.mark.parametrize("kind", mostly_slow(KINDS, often=("handover",)))
def test_each_kind_of_fault_by_itself(kind: Kind) -> None:
    felt = 0
    for number in range(8):
        outcome = chaos.live(number, befallen(kind, number))
        assert outcome.identical, (number, outcome)
        assert set(outcome.faults) <= {kind}
        felt += bool(outcome.faults)
        if kind in faults.ENDING or kind == "silence":
            assert outcome.connections > 1 or not outcome.faults
    assert felt >= 6


def test_a_stream_goes_on_whose_packet_was_committed_before_it_came() -> None:
    # A bonus was the next draft, which was alone in its packet: nobody confirms that, and the edge waits.
    outcome = chaos.live(1157, replace(chaos.case(3, 1157), aid=chaos.Aid()))
    assert (outcome.way, outcome.identical) == ("stream/off", True)


def test_a_session_is_lived_the_same_way_again() -> None:
    first, again = chaos.session(5, 3), chaos.session(5, 3)
    assert first == again
    assert first.timeline


# ---- What is broken is found out -------------------------------------------------------------------------------------


class Forgets(Resumable):
    """Asks for what is left as if the last token had not been committed."""

    def next_request(self) -> Request:
        request = super().next_request()
        return replace(request, committed=request.committed[:-1])


class Late(Resumable):
    """Resumes one token late: as if one more had been committed."""

    def next_request(self) -> Request:
        request = super().next_request()
        return replace(request, committed=(*request.committed, 0)) if request.committed else request


class Deaf(Resumable):
    """Loses what a session committed last."""

    def take(self, event: Committed | Finished) -> None:
        if isinstance(event, Finished) or len(self.tokens) != 5:
            super().take(event)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [Forgets, Late, Deaf])
def test_a_wrong_way_to_resume_is_found_out(broken: type[Resumable]) -> None:
    wrong = [outcome for outcome in outcomes(drawn, broken, BROKEN) if not outcome.identical]
    assert len(wrong) > BROKEN / 3
    assert not any(outcome.unhandled for outcome in wrong)


class Foreign(chaos.Case):
    """The second edge serves another target."""

    def target(self, site: int) -> TableModel:
        return chaos.table(self.target_seed + site, max_context=self.context, eos_ids=self.eos_ids)


def test_another_target_behind_a_handover_is_found_out() -> None:
    for number in range(8):
        case = befallen("handover", number)
        foreign = Foreign(**vars(case))
        outcome = chaos.live(number, foreign)
        assert outcome.faults
        assert not outcome.identical, number


@pytest.mark.slow
def test_another_seed_after_a_resumption_is_found_out() -> None:
    class Reseeded(Resumable):
        def next_request(self) -> Request:
            request = super().next_request()
            return replace(request, seed=request.seed + bool(request.committed))

    lived = [
        outcome for outcome in outcomes(drawn, Reseeded, BROKEN)
        if drawn(outcome.number).request.params.temperature and outcome.connections > 1
    ]  # fmt: skip
    assert sum(not outcome.identical for outcome in lived) > len(lived) / 2


def guided(number: int) -> chaos.Case:
    """A session with a guide, whose only faults are two handovers in its text."""
    spec = (of_json({"type": "array", "items": {"type": "integer"}, "minItems": 20}), of_regex("(ab|ba|[012])*c"))
    case = drawn(number)
    bias = of_bias(
        Bias(frequency_penalty=0.5, presence_penalty=0.3, bad_words=((9,), (12, 13)), guide=spec[number % 2])
    )
    case = replace(
        case, form="json", request=replace(case.request, guide=bias, max_tokens=60), eos_ids=(forms.END,), faults=[],
        context=4096, read_s=0.05, lookup=True, draft_context=4096,
    )  # fmt: skip
    seconds = chaos.live(number, replace(case, faults=[Fault("drop", 1e6)])).seconds
    return replace(case, faults=[Fault("handover", part * seconds) for part in (0.4, 0.7)])


def test_a_guide_goes_along_through_handovers() -> None:
    lived = [chaos.live(number, guided(number)) for number in range(8)]
    assert all(outcome.identical for outcome in lived), lived
    assert sum(outcome.faults.get("handover", 0) for outcome in lived) > 12


def test_a_guide_that_is_lost_on_the_way_is_found_out() -> None:
    class Unguided(Resumable):
        def next_request(self) -> Request:
            request = super().next_request()
            return replace(request, guide=None) if request.committed else request

    class Anew(Resumable):
        """Begins the guide again behind what is committed, as if that were prompt."""

        def next_request(self) -> Request:
            request = super().next_request()
            if not request.committed or request.max_tokens <= len(request.committed):
                return request
            prompt = [*request.prompt, *request.committed]
            return replace(request, prompt=prompt, committed=(), max_tokens=request.max_tokens - len(request.committed))

    for broken in (Unguided, Anew):
        lived = [chaos.live(number, guided(number), broken) for number in range(8)]
        assert sum(not outcome.identical for outcome in lived) > 4, broken


AIDS = {
    DRAFT: chaos.Aid(draft_noise=0.5, draft_context=4096, draft_share=0.1),
    "ngram": chaos.Aid(ngram=True, seed=1),
    "predicted": chaos.Aid(prediction="half true", seed=1),
}


def helped(number: int, proposer: str) -> chaos.Case:
    """A stream without a guide, whose edges draft by this, and whose only fault is a drop after its middle."""
    case = drawn(number)
    spec = SchemeSpec(schemes.STREAM, race="always")
    asked = replace(case.request, scheme=spec, guide=None, policy=None, max_tokens=60, branches=0)
    case = replace(
        case, request=asked, form=None, eos_ids=(), context=4096, draft_context=4096, aid=AIDS[proposer], trees=False,
        lookup=False, draft_noise=2.5, limits=replace(case.limits, max_draft=8), faults=[Fault("drop", 1e6)],
    )  # fmt: skip
    return replace(case, faults=[Fault("drop", 0.6 * chaos.live(number, case).seconds)])


@pytest.mark.parametrize("proposer", AIDS)
def test_what_the_edge_proposes_is_verified(monkeypatch: pytest.MonkeyPatch, proposer: str) -> None:
    cases = [helped(number, proposer) for number in range(6)]
    lived = [chaos.live(number, case) for number, case in enumerate(cases)]
    assert all(outcome.identical for outcome in lived), lived
    assert sum(outcome.taken.get(proposer, 0) for outcome in lived) > 20
    sound = EdgeSession.judge

    def trusting(self: EdgeSession, logits: np.ndarray) -> Ruling | None:
        ruling, load = sound(self, logits), self._load
        trusts = ruling is not None and load.proposer == proposer and ruling.accepted >= load.device
        return replace(ruling, path=tuple(range(len(load.drafts)))) if ruling is not None and trusts else ruling

    monkeypatch.setattr(EdgeSession, "judge", trusting)
    lived = [chaos.live(number, case) for number, case in enumerate(cases)]
    assert sum(not outcome.identical for outcome in lived) > 3


def test_an_edge_goes_on_whose_own_draft_model_fails() -> None:
    case = helped(1, DRAFT)
    assert chaos.live(1, case).taken[DRAFT]
    outcome = chaos.live(1, replace(case, aid=replace(case.aid, draft_fails=True)))
    assert outcome.identical
    assert DRAFT not in outcome.taken


def test_an_exception_of_no_error_of_ours_is_unhandled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Virtual, *given: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(Virtual, "write", broken)
    lived = [chaos.session(5, 0)]
    assert "IndexError" in lived[0].unhandled
    record = chaos.record_of(lived, 5)
    assert (record["unhandled"], record["identical"]) == (1, 0)
    assert not chaos.held(record)


def test_a_text_that_the_target_alone_cannot_write_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(case: chaos.Case) -> list[int]:
        raise GuideError("it gave up")

    monkeypatch.setattr(chaos, "expected", broken)
    lived = [chaos.session(5, 0)]
    assert "GuideError: it gave up" in lived[0].error
    assert not chaos.held(chaos.record_of(lived, 5))


def test_a_text_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "PATIENCE_S", 60.0)
    case = befallen("busy", 0)
    endless = replace(case, limits=replace(case.limits, max_sessions=0))
    assert "60 s after the last fault the text was not done" in chaos.live(0, endless).error


def test_a_run_without_faults_is_not_held() -> None:
    lived = [chaos.live(number, replace(drawn(number), faults=[Fault("drop", 1e6)])) for number in range(4)]
    record = chaos.record_of(lived, 5)
    assert record["identical"] == 4
    assert not chaos.held(record)


# ---- The command -----------------------------------------------------------------------------------------------------


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, int]:
    monkeypatch.setattr(sys, "argv", ["airdraft", "chaos", *words])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown, error = capsys.readouterr()
    return shown, error, int(ended.value.code or 0)


@pytest.mark.slow
def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "c.json"
    page.write_text("<!-- chaos:begin -->\nold\n<!-- chaos:end -->\n")
    shown, error, code = say(
        monkeypatch,
        capsys,
        "--sessions",
        "24",
        "--seed",
        "5",
        "--json",
        str(results),
        "--page",
        str(page),
        "--jobs",
        "2",
    )
    assert code == 0, (shown, error)
    record = json.loads(results.read_text())
    assert (record["sessions"], record["identical"], record["unhandled"], record["wrong"]) == (24, 24, 0, [])
    assert sum(record["faults"].values()) >= 24
    assert "24 of 24 texts were the target's own" in page.read_text()


def test_the_command_lives_one_session_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, _, code = say(monkeypatch, capsys, "--session", "3", "--seed", "5")
    assert code == 0
    assert "connects to edge 0 with 0 tokens" in shown
    assert "session 3, seed 5" in shown
    assert "the target's own text" in shown
    _, error, code = say(monkeypatch, capsys, "--session", "3", "--json", "c.json")
    assert code == 2
    assert "leave --json and --page out" in error


def test_the_command_fails_where_a_text_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chaos, "expected", lambda case: [0])
    shown, _, code = say(monkeypatch, capsys, "--sessions", "2", "--seed", "5", "--jobs", "1")
    assert code == 1
    assert "airdraft chaos --seed 5 --session 1" in shown
    assert "another text than the target's" in shown


def test_greedy_schemes_are_named() -> None:
    assert {SchemeSpec(way.partition("/")[0]).name for way in chaos.GREEDY} == {"dense", "topk", "lattice", "split"}
