"""The papers' own models say what the papers print, and the bills say what is in them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control.lengths import tk_slt_length, tk_slt_speedup
from airdraft.errors import BadParameterError
from airdraft.lab.record import synthetic
from airdraft.lab.reproduce import dssd, everything, pairs, payload, qs, tk_slt
from airdraft.lab.reproduce.billing import COMPUTE, Bill, walk
from airdraft.lab.reproduce.closed_form import PRINTED, searched, table
from airdraft.lab.reproduce.page import blocks
from airdraft.lab.reproduce.pairs import GREEDY, RESOLUTIONS, SAMPLED, RecordedPair, Sparse, cuts, recorded
from airdraft.lab.virtual.replay import Replay
from airdraft.models.base import FloatArray
from airdraft.sim.conformance import TableModel
from airdraft.sim.virtual import Compute

from ..suites import examples

VOCAB = 120

chances = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def models(alike: float = 0.8) -> tuple[TableModel, TableModel]:
    """A draft and a target that often agree."""

    def target(prefix: tuple[int, ...]) -> FloatArray:
        return np.random.default_rng([1, *prefix]).normal(0.0, 2.0, VOCAB).astype(np.float32)

    def draft(prefix: tuple[int, ...]) -> FloatArray:
        bent = np.random.default_rng([2, *prefix]).normal(0.0, alike, VOCAB)
        return (target(prefix) + bent).astype(np.float32)

    return TableModel(draft, VOCAB), TableModel(target, VOCAB)


@pytest.fixture(scope="module")
def pair() -> RecordedPair:
    """A pair of tables, recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "TEXTS", 2)
        patch.setattr(pairs, "TOKENS", 10)
        specs = everything.needed(everything.chosen(["all"]), VOCAB)
        return recorded("tables", *models(), [(1, 2), (3,), (4,)], VOCAB, specs)


def test_the_closed_form_is_the_printed_table() -> None:
    rows = table()
    assert len(rows) == sum(map(len, PRINTED.values())) == 15
    assert all(row.agrees for row in rows), [row for row in rows if not row.agrees]


@given(st.floats(0.01, 0.97), st.floats(0.005, 3))
def test_the_optimum_by_search_is_the_closed_forms(acceptance: float, cost: float) -> None:
    found, speedup = searched(acceptance, cost)
    length = tk_slt_length(acceptance, cost)
    assert tk_slt_speedup(acceptance, cost, length) == pytest.approx(speedup, rel=1e-12)
    assert found == length or tk_slt_speedup(acceptance, cost, found) == pytest.approx(speedup, rel=1e-12)


def test_table_two_is_printed_without_indices() -> None:
    for row in tk_slt.costs():
        assert row.billed == pytest.approx(row.printed, abs=5.1e-5)
        assert row.with_indices > row.billed + 15 * row.k / tk_slt.UPLINK_BPS / COMPUTE.verify_s


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 9))
def test_a_walk_counts_the_rounds_of_certain_drafts(matches: list[bool], length: int) -> None:
    recording = synthetic(0.5, 1, len(matches), 1, 300)
    recording.texts[0].matches[:] = matches
    assert walk([list(map(float, matches))], length).rounds == Replay(recording).rounds("coupled", length)


@given(st.lists(chances, min_size=1, max_size=3), st.integers(1, 9))
def test_a_walk_loses_no_token(texts: list[list[float]], length: int) -> None:
    walked = walk(texts, length)
    assert walked.tokens == sum(map(len, texts))
    assert walked.rejections <= walked.rounds + 1e-9 <= walked.tokens + 1e-6
    assert walked.drafts <= length * walked.rounds + 1e-9
    accepted = walked.tokens - walked.rounds  # each round adds one token of its own
    assert -1e-9 <= accepted <= walked.drafts + 1e-9


@examples(30)
@given(st.floats(0.1, 0.9), st.integers(1, 8), st.floats(0.01, 1))
def test_the_papers_bill_of_even_chances_is_its_closed_form(acceptance: float, length: int, cost: float) -> None:
    compute = Compute(0.5 * cost, 1.0)
    bill = Bill(16.0, 16 / (0.5 * cost), compute)
    assert bill.cost == pytest.approx(cost)
    speed = bill.tokens_per_s(walk([[acceptance] * 1000], length))
    assert speed == pytest.approx(tk_slt_speedup(acceptance, cost, length), rel=0.02)


def test_a_bill_charges_each_thing_once() -> None:
    walked = walk([[0.5] * 50], 3)
    bare = Bill(0.0, 1.0).seconds(walked)
    assert bare == pytest.approx(walked.drafts * COMPUTE.draft_s + walked.rounds * COMPUTE.verify_s)
    assert Bill(20.0, 1e3).seconds(walked) - bare == pytest.approx(walked.drafts * 0.02)
    assert Bill(0.0, 1.0, rtt_s=0.1).seconds(walked) - bare == pytest.approx(walked.rounds * 0.1)
    down = Bill(0.0, 1.0, reject_bits=1e3, downlink_bps=1e5).seconds(walked)
    assert down - bare == pytest.approx(walked.rejections * 0.01)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("vocab", [2, 120, 4096])
def test_a_lattice_is_billed_by_its_formula(resolution: int, vocab: int) -> None:
    points = math.comb(resolution + vocab - 1, vocab - 1)
    bits = qs.billed_bits(resolution, vocab) - qs.TOKEN_BITS
    assert 2 ** (bits - 1) < points <= 2**bits


def test_a_cut_keeps_a_distribution() -> None:
    ordered = np.array([0.5, 0.3, 0.2])
    assert Sparse(2)(ordered) == pytest.approx([0.625, 0.375])
    assert Sparse(3, 10)(ordered) == pytest.approx([0.5, 0.3, 0.2])
    assert Sparse(3, 3)(ordered).sum() == pytest.approx(1)


def test_a_pairs_chances_are_those_of_its_recording(pair: RecordedPair) -> None:
    for sampling in pairs.SAMPLINGS:
        recording = pair.recordings[sampling]
        for cut in cuts(VOCAB):
            assert [len(text) for text in pair.chances[sampling, cut]] == [len(text.tokens) for text in recording.texts]
        whole = [text.accept for text in recording.texts]
        assert np.allclose(np.concatenate(pair.chances[sampling, pair.whole]), np.concatenate(whole), atol=1e-6)
        sparse = [text.accept_topk for text in recording.texts]
        assert np.allclose(np.concatenate(pair.chances[sampling, Sparse(64)]), np.concatenate(sparse), atol=1e-6)
    for at in (SAMPLED, pairs.FILTERED):
        assert pair.acceptance(Sparse(1), at) < pair.acceptance(Sparse(8), at) <= pair.acceptance(pair.whole, at) + 0.05
    assert pair.acceptance(Sparse(1), GREEDY) == pair.acceptance(pair.whole, GREEDY)


@pytest.fixture(scope="module")
def found(pair: RecordedPair) -> everything.Found:
    """All experiments on the tables, at few lengths."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (tk_slt, qs, payload):
            patch.setattr(module, "LENGTHS", (1, 4))
        patch.setattr(tk_slt, "ks", lambda vocab_size: [1, vocab_size])
        patch.setattr(tk_slt, "UPLINKS_MBPS", (0.01, 5.0))
        patch.setattr(dssd, "MBPS", (1.0,))
        steps: list[tuple[int, int]] = []
        done = everything.reproduce(everything.chosen(["all"]), [pair], lambda *at: steps.append(at))
        assert steps == [(at, len(steps)) for at in range(1, len(steps) + 1)]
        return done


def test_tk_slt_is_run_as_billed_and_honestly(found: everything.Found) -> None:
    report: tk_slt.TkSltReport = found["tk-slt"][0]
    for row in report.by_length:
        assert row.honest == sorted(row.honest, reverse=True)  # a round trip only costs
        assert row.honest[0] < 1.3 * row.billed
    by_k = {(row.sampling, row.k): row for row in report.by_k}
    assert report.best_k(GREEDY).k == 1
    assert by_k[SAMPLED, VOCAB].honest_bits == 7 + VOCAB * (7 + 16)
    assert by_k[SAMPLED, VOCAB].billed_bits == VOCAB * 16
    assert {row.rtt_ms for row in report.switch} == {0, 20, 50}
    slow = next(row for row in report.switch if row.uplink_mbps == 0.01)
    assert slow.right == (slow.speculates == (slow.honest_tokens_per_s > slow.server_tokens_per_s))
    assert [row.rule for row in report.online] == ["server", *tk_slt.ONLINE]


def test_dssd_is_run_with_both_downlinks(found: everything.Found) -> None:
    report: dssd.DssdReport = found["dssd"][0]
    assert len(report.rows) == 3 * 1 * 3 * 3
    at = {(row.rtt_ms, row.gamma, row.scheme): row for row in report.rows}
    for length in dssd.LENGTHS:
        assert at[0.0, length, "split/row"].tokens_per_s > at[50.0, length, "split/row"].tokens_per_s
        assert at[0.0, length, "dense"].uplink_bits_per_token > 2 * at[0.0, length, "split/row"].uplink_bits_per_token
        both = (at[0.0, length, f"split/{form}"].downlink_bits_per_token for form in ("row", "candidates"))
        assert next(both) > next(both)


def test_qs_finds_the_best_policy(found: everything.Found) -> None:
    report: qs.QsReport = found["qs"][0]
    for policy in report.policies:
        rows = [row for row in report.rows if row.sampling == policy.sampling]
        assert policy.fixed_tokens_per_s == pytest.approx(max(row.mixed for row in rows))
        assert policy.tokens_per_s >= policy.fixed_tokens_per_s
        assert all(row.low <= row.mixed <= row.high for row in rows)
    honest = [row for row in report.rows if row.honest]
    assert len(honest) == 2 * 2
    assert all(row.honest_k == VOCAB and row.sampling == SAMPLED for row in honest)


def test_payloads_are_compared_way_by_way(found: everything.Found) -> None:
    tslt, sqs = found["tslt"][0], found["sqs"][0]
    for report in (tslt, sqs):
        assert all(len(row.speeds) == len(payload.LINKS) for row in report.rows)
        assert all(speed.gamma in (1, 4) for row in report.rows for speed in row.speeds)
    masses = [row.tokens for row in tslt.rows if row.kind == payload.BY_MASS]
    assert masses == sorted(masses)
    several = [row.other for row in tslt.rows if row.kind == payload.SEVERAL]
    assert 0 < several[0] < several[1] < 1
    assert {row.other for row in tslt.rows if row.kind != payload.SEVERAL} == {0}
    fixed = [row.bits for row in sqs.rows if row.kind == payload.FIXED]
    assert fixed == sorted(fixed, reverse=True)
    assert [row.kind for row in sqs.rows][-1] == payload.LADDER
    assert sqs.gain(payload.LADDER, 0) > 0.5


def test_the_record_and_the_page_hold_everything(found: everything.Found, pair: RecordedPair, tmp_path: Path) -> None:
    record = json.loads(json.dumps(everything.record_of(found, [pair])))
    assert {"closed_form", "costs", "tk_slt", "dssd", "qs", "tslt", "sqs", "pairs"} <= set(record)
    first = record["closed_form"][0]
    assert (first["alpha"], first["L"], first["gamma"], first["speedup"]) == (0.8, 0.01, 14, 4.23)
    made = blocks(found, [pair], 90.0)
    assert "took 1.5 minutes of CPU time" in made["pairs"]
    assert set(made) == {"pairs", "tk-slt", "dssd", "qs", "tslt", "sqs"}
    for block in made.values():
        assert "nan" not in block
        for line in block.splitlines():  # every row of a table is as long as its head
            assert not line.startswith("|") or line.endswith("|")


@pytest.mark.slow
def test_figures_are_drawn(found: everything.Found, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from airdraft.lab.reproduce.drawing import draw

    paths = draw(found, tmp_path / "figures")
    assert [path.name for path in paths] == [f"reproduce-{paper}.svg" for paper in everything.PAPERS]
    assert all("draft length" in path.read_text() or "RTT" in path.read_text() for path in paths)


def test_an_experiment_must_exist() -> None:
    assert everything.chosen(["sqs", "qs", "sqs"]) == ("sqs", "qs")
    assert everything.chosen(["qs", "all"]) == tuple(everything.PAPERS)
    with pytest.raises(BadParameterError, match="qs, tslt, sqs, or all"):
        everything.chosen(["qs", "sled"])


def test_a_pair_needs_a_vocabulary() -> None:
    with pytest.raises(BadParameterError, match="100 or more"):
        recorded("small", *models(), [(1,)], 99)
