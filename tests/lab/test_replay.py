"""A replay writes the recorded text under every scheme, and a cell says what it cost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec import structs

from airdraft.control.estimate import Estimator
from airdraft.core.events import Forward
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts, Judged, Mode
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.lab.record import prompts, record, synthetic
from airdraft.lab.results import SCHEMES
from airdraft.lab.timeline import timeline
from airdraft.lab.virtual.branches import KeptBranches
from airdraft.lab.virtual.cell import Setting, auto, best_rounds, compute, constant, run
from airdraft.lab.virtual.grid import Cell, _facts, rows
from airdraft.lab.virtual.replay import Replay
from airdraft.link.markov2 import Markov2Link
from airdraft.models.registry import load
from airdraft.proposers import maker
from airdraft.sim.virtual import Compute, Side

RECORDING = synthetic(0.8, 5, 40, 3, 5000)
SPECS = [SchemeSpec(name) for name in ("server", "dense", "topk", "lattice", "split", "coupled")] + [
    SchemeSpec("stream", race=race) for race in ("off", "idle", "always")
]


@pytest.mark.parametrize("length", [None, 3, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 9))])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.name}-{spec.race}")
def test_every_scheme_writes_the_recorded_texts(spec: SchemeSpec, length: int | None) -> None:
    result = run(RECORDING, constant(30, 2, 10, 30), spec, length=length)
    assert result.identical
    assert result.counts.committed == RECORDING.length
    assert len(result.waits_s) == RECORDING.length
    assert sum(result.waits_s) == pytest.approx(result.seconds)


class Shared(Compute):
    """Cores that both sides share: a forward of the target takes twice as long while the device drafts."""

    drafting_s = -math.inf

    def takes_s(self, side: Side, forward: Forward, now: float) -> float:
        took_s = super().takes_s(side, forward, now)
        if side == "device":
            object.__setattr__(self, "drafting_s", now + took_s)
        return took_s * (2 if side == "edge" and now <= self.drafting_s + self.draft_s else 1)


@pytest.mark.parametrize("edge_draft_s", [0.0, 0.004])
def test_auto_is_no_slower_than_server_where_drafts_cost_the_target_its_cores(edge_draft_s: float) -> None:
    recording, race = synthetic(0.6, 30, 100, 3, 5000), SchemeSpec("stream")
    link = constant(1, 1000, 10, 30).link
    for compute_type, fastest in ((Shared, "server"), (Compute, "stream")):
        setting = Setting(link, compute_type(0.01, 0.03, edge_draft_s))
        took = [run(recording, setting, SchemeSpec(name)).seconds for name in ("server", "stream")]
        assert took.index(min(took)) == ["server", "stream"].index(fastest)
        assert run(recording, setting, race, policy=auto(5000, race)).seconds < 1.06 * min(took)


@pytest.mark.parametrize(
    ("scheme", "race", "timed"),
    [("server", "always", True), ("stream", "always", True), ("stream", "idle", True), ("stream", "off", False)],
)
def test_a_learner_is_told_how_long_tokens_took(
    scheme: str, race: str, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Judged] = []
    monkeypatch.setattr(Estimator, "judged", lambda _, verdict: heard.append(verdict))
    result = run(RECORDING, constant(10, 5, 10, 30), SchemeSpec(scheme, race=race))
    assert sum(verdict.written for verdict in heard) == RECORDING.length
    since = [verdict.seconds for verdict in heard if verdict.seconds is not None]
    assert len(since) == (len(heard) - len(RECORDING.texts) if timed else 0)  # before a text's first there is none
    waited = [wait for wait in result.waits_s if wait]
    assert not timed or sum(since) == pytest.approx(sum(waited) - _firsts(result.waits_s, heard))


def _firsts(waits_s: list[float], heard: list[Judged]) -> float:
    """The waits for texts' first tokens."""
    at, found = 0, 0.0
    for verdict in heard:
        found += waits_s[at] if verdict.seconds is None else 0.0
        at += verdict.written
    return found


def test_rejection_sampling_meets_the_recorded_chances() -> None:
    recording = synthetic(0.7, 20, 120, 5, 300)
    counts = run(recording, constant(0, math.inf, 1, 1), SchemeSpec("topk", k=8), length=4).counts
    rate = counts.acceptance_rate
    assert rate is not None
    assert abs(rate - 0.7) < 4 * math.sqrt(0.7 * 0.3 / (counts.accepted + counts.rejected))


@pytest.mark.parametrize(
    ("name", "bits"), [("coupled", 13), ("topk", 13 + 64 * 29), ("lattice", 716), ("split", 29), ("dense", 80013)]
)
def test_messages_have_their_real_sizes(name: str, bits: int) -> None:
    spec = SchemeSpec(name)
    result = run(RECORDING, constant(0, math.inf, 1, 1), spec, length=1)
    assert result.counts.uplink_payload_bytes == result.counts.drafted * -(-bits // 8)
    assert (result.counts.downlink_payload_bytes > 0) == (name == "split")


@pytest.mark.parametrize("acceptance", [0.5, 0.9])
def test_candidates_come_in_batches_until_one_passes(acceptance: float) -> None:
    """A draw replaces a rejected draft with chance TV; batches of 8 and 64 draws, then the row, which is shorter."""
    recording = synthetic(acceptance, 8, 100, 4, 500)
    spec = SchemeSpec("split", downlink="candidates")
    result = run(recording, constant(20, 5, 10, 30), spec, length=4)
    assert result.identical
    sizes = [-(-(34 + draws * (32 + 9)) // 8) for draws in (8, 64)] + [-(-(2 + 32 * 500) // 8)]
    misses = [1.0, acceptance**8, acceptance**72]
    mean = sum(size * miss for size, miss in zip(sizes, misses, strict=True))
    assert result.counts.downlink_payload_bytes == pytest.approx(result.counts.rejected * mean, rel=0.2)
    row = run(recording, constant(20, 5, 10, 30), SchemeSpec("split"), length=4)
    assert row.counts.downlink_payload_bytes == row.counts.rejected * sizes[-1]
    assert row.counts.rejected == result.counts.rejected


def test_what_a_verdict_brings_along_is_no_round_trip() -> None:
    """`split` sends a row with a rejection: on this downlink 10 kB take 40 ms of their own."""
    seen: list[Facts] = []

    class Splitting:
        def choose(self, facts: Facts, now: float) -> Mode:
            seen.append(facts)
            return Mode("split", 3)

        def why(self) -> str:
            return ""

    run(RECORDING, constant(20, 5, 10, 30, downlink_mbps=2), SchemeSpec("split"), policy=Splitting)
    assert seen[-1].rtt_s == pytest.approx(0.02, rel=0.1)
    assert seen[-1].downlink_bps == pytest.approx(2e6, rel=0.1)


def test_an_oracle_has_nothing_refused() -> None:
    setting = constant(30, 2, 10, 30)
    oracle = run(RECORDING, setting, SchemeSpec("stream"), oracle=True)
    assert oracle.counts.rejected == 0
    assert oracle.tokens_per_s > run(RECORDING, setting, SchemeSpec("stream")).tokens_per_s


@pytest.mark.parametrize(
    ("setting", "scheme", "bottleneck"),
    [
        (constant(0, 50, 1, 80), "stream", "target"),
        (constant(400, 50, 10, 20), "coupled", "round trip"),
        (constant(5, 0.01, 5, 5), "dense", "uplink"),
        (constant(0, 50, 80, 1), "coupled", "draft"),
    ],
)
def test_a_cell_names_what_limits_it(setting: object, scheme: str, bottleneck: str) -> None:
    assert run(RECORDING, setting, SchemeSpec(scheme), length=3).bottleneck == bottleneck  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_best_draft_length_is_found() -> None:
    for rtt_ms, name in ((40, "coupled"), (5, "topk"), (100, "split")):
        cell, setting, spec = Cell(rtt_ms, 5, 5, 30, RECORDING.name), constant(rtt_ms, 5, 5, 30), SchemeSpec(name)
        found = best_rounds(RECORDING, setting, spec, _facts(cell, RECORDING, name))
        every = {length: run(RECORDING, setting, spec, length=length) for length in range(1, 16)}
        assert found.tokens_per_s >= 0.99 * max(result.tokens_per_s for result in every.values())
        assert every[found.length or 0].tokens_per_s == found.tokens_per_s
        replay = Replay(RECORDING)
        assert [replay.rounds(name, length) for length in every] == [each.counts.rounds for each in every.values()]


def test_a_replay_may_go_on_for_a_time() -> None:
    setting, spec = constant(10, 5, 10, 30), SchemeSpec("stream")
    once, long = run(RECORDING, setting, spec), run(RECORDING, setting, spec, until_s=30.0)
    assert 30 <= long.seconds < 33
    assert long.counts.committed > 2 * once.counts.committed


@pytest.mark.slow
def test_auto_keeps_the_text_and_the_pace() -> None:
    for setting in (constant(5, 0.05, 5, 30), constant(200, 5, 5, 30), constant(5, 5, 30, 30)):
        chosen = run(RECORDING, setting, SchemeSpec("stream"), policy=auto(RECORDING.vocab_size, SchemeSpec("stream")))
        others = [run(RECORDING, setting, spec) for spec in SPECS]
        assert chosen.identical
        assert chosen.tokens_per_s > 0.95 * max(other.tokens_per_s for other in others)


def test_with_one_device_idle_is_the_same_as_always() -> None:
    setting = constant(20, 5, 10, 30)
    idle, always = (run(RECORDING, setting, SchemeSpec("stream", race=race), label="") for race in ("idle", "always"))
    assert idle.counts == always.counts
    assert idle.seconds == pytest.approx(always.seconds, rel=1e-4)  # the word is shorter by two bytes


def test_an_edge_that_drafts_writes_the_recorded_texts_sooner() -> None:
    setting = constant(30, 2, 10, 30)
    plain, helped = (run(RECORDING, setting, SchemeSpec("server"), drafts=drafts) for drafts in (False, True))
    every = run(RECORDING, setting, SchemeSpec("stream"), drafts=True)
    assert helped.identical
    assert every.identical
    assert helped.tokens_per_s > 1.3 * plain.tokens_per_s
    assert every.tokens_per_s > 0.97 * helped.tokens_per_s
    assert helped.counts.draft_rows == 0 < every.counts.draft_rows


def test_a_recording_says_nothing_of_blocks() -> None:
    with pytest.raises(BadParameterError, match="give verify token"):
        run(RECORDING, constant(20, 5, 10, 30), SchemeSpec("topk", verify="block"), length=2)


def test_a_cell_has_a_row_for_every_scheme() -> None:
    found = {row.scheme: row for row in rows(Cell(20, 5, 15, 30, RECORDING.name), RECORDING)}
    assert set(found) == set(SCHEMES)
    assert [name for name, row in found.items() if not row.exact] == ["oracle", "device"]
    assert found["server"].target_forwards_per_token == 1
    assert found["topk"].uplink_bits_per_token > 5 * found["coupled"].uplink_bits_per_token


@pytest.mark.parametrize("scheme", ["server", "stream"])
def test_copies_at_the_edge_write_the_recorded_texts_sooner(scheme: str) -> None:
    texts = [structs.replace(text, tokens=(text.tokens[:8] * 5)[: len(text.tokens)]) for text in RECORDING.texts]
    turning, setting = structs.replace(RECORDING, texts=texts), constant(30, 2, 10, 30)
    for recording, least in ((turning, 1.5), (RECORDING, 0.99)):
        plain = run(recording, setting, SchemeSpec(scheme))
        copied = run(recording, setting, SchemeSpec(scheme), propose=maker(("lookup",)))
        assert copied.identical
        assert copied.tokens_per_s > least * plain.tokens_per_s


def test_a_copy_of_the_prompt_is_found_there() -> None:
    texts = [structs.replace(text, prompt=text.tokens[:32]) for text in RECORDING.texts]
    assert all(len(text.prompt) == text.prompt_length for text in texts)
    quoting, setting = structs.replace(RECORDING, texts=texts), constant(30, 2, 10, 30)
    copied = run(quoting, setting, SchemeSpec("server"), propose=maker(("lookup",)))
    assert copied.counts.forwards < 0.6 * copied.counts.committed
    with pytest.raises(BadParameterError, match="another length"):
        structs.replace(RECORDING.texts[0], prompt=[1])


def test_a_timeline_tells_drafts_in_vain_from_others() -> None:
    told = timeline(RECORDING).spans
    kinds = {span.kind for span in told}
    assert kinds == {"prefill", "draft", "dead", "verify", "race", "send", "answer", "mismatch"}
    assert all(0 <= span.start_s <= span.end_s for span in told)


@pytest.mark.slow
def test_trees_write_the_recorded_texts_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is fast and near, and texts that its draft often misses; what it says elsewhere is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    recorded = record(draft, target, prompts(3), SamplingParams(1.0), 40, 3, tokenizer.vocab_size, "three")
    setting, spec = constant(10, 5, 5, 30), SchemeSpec("stream")
    branches = KeptBranches(recorded, "draft")
    chains, trees = (run(recorded, setting, spec, branches=each) for each in (None, branches))
    assert chains.identical
    assert trees.identical
    assert trees.tokens_per_s > 1.05 * chains.tokens_per_s
    slow = constant(10, 0.03, 5, 30)  # drafts of a tree come faster than packets of a chain's size can leave
    assert run(recorded, slow, spec, branches=branches).tokens_per_s > run(recorded, slow, spec).tokens_per_s
    assert branches.run > len(recorded.texts)
    branches.keep()
    again = KeptBranches(recorded, "draft")
    assert run(recorded, setting, spec, branches=again).seconds == trees.seconds
    assert again.run == 0


def test_a_text_does_not_wait_behind_the_drafts_of_the_one_before() -> None:
    """An uplink that falls to a fifth of its rate carries one packet in two forwards of the target."""
    recording = synthetic(0.3, 6, 48, 1, 4096)
    setting = Setting(Markov2Link(12e3, 60e3, 0.15, 0.2, rtt_s=0.006, seed=5), compute(12, 30))
    server, stream = (run(recording, setting, SchemeSpec(name)) for name in ("server", "stream"))
    assert stream.tokens_per_s >= 0.98 * server.tokens_per_s
