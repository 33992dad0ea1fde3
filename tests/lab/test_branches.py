"""The draft model off the recorded texts: run when it is first asked, and then kept."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from airdraft.core.law import Law, Place
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.lab.record import Recording, prompts, record, synthetic
from airdraft.lab.virtual.branches import MOST, Branches, Numbered
from airdraft.models.base import Part
from airdraft.models.registry import load

PARAMS = SamplingParams(0.7)


@pytest.fixture(scope="module")
def recording() -> Recording:
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    return record(draft, target, prompts(2), PARAMS, 24, 5, tokenizer.vocab_size, "two")


def test_it_says_what_the_draft_model_does(recording: Recording, tmp_path: Path) -> None:
    branches, model = Branches(recording, partial(_draft, tmp_path)), load("draft")[0]
    for number, text in enumerate(recording.texts):
        law = Law(PARAMS, text.seed or 0, recording.vocab_size)
        for at in (0, 3, len(text.tokens) - 1):
            found = branches.likely(number, text.tokens[:at], MOST)
            assert (found[0][0] == text.tokens[at]) == text.matches[at]
            for other in ([], [7], [7, 300]):
                before = [*text.prompt, *text.tokens[:at], *other]
                row = model.forward(model.new_cache(), 0, before, 1)[0]
                wanted = law.likely(row, Place(len(before)), MOST)
                found = branches.likely(number, [*text.tokens[:at], *other], MOST)
                assert [token for token, _ in found] == [token for token, _ in wanted]
                np.testing.assert_allclose([log for _, log in found], [log for _, log in wanted], atol=1e-3)
                assert branches.likely(number, [*text.tokens[:at], *other], 2) == found[:2]


def _draft(folder: Path) -> object:
    """The draft; every load leaves a file."""
    (folder / f"{len(list(folder.iterdir()))}.loaded").touch()
    return load("draft")[0]


def test_a_row_is_run_once_and_travels(recording: Recording, tmp_path: Path) -> None:
    (tmp_path / "loads").mkdir()
    branches = Branches(recording, partial(_draft, tmp_path / "loads"))  # type: ignore[arg-type]
    asked = [(0, recording.texts[0].tokens[:at] + [9] * more) for at in range(4) for more in range(3)]
    first = [branches.likely(number, tokens, MOST) for number, tokens in asked]
    assert branches.run == len(branches) == len(asked)
    branches.save(tmp_path / "kept")
    again = Branches(recording, partial(_draft, tmp_path / "loads"))  # type: ignore[arg-type]
    again.load(tmp_path / "kept")
    copy = pickle.loads(pickle.dumps(branches))  # noqa: S301  # as to another process
    for other in (branches, again, copy):
        ran = other.run
        assert [other.likely(number, tokens, MOST) for number, tokens in asked] == first
        assert other.run == ran
    assert len(list((tmp_path / "loads").iterdir())) == 1
    (tmp_path / "kept").write_bytes(b"no branches")
    with pytest.raises(BadParameterError, match="holds no branches"):
        again.load(tmp_path / "kept")


def test_made_up_texts_have_no_branches() -> None:
    with pytest.raises(BadParameterError, match="no prompts and seeds"):
        Branches(synthetic(0.5, 1, 9, 0, 50), lambda: load("draft")[0])


def test_a_row_names_what_was_fed() -> None:
    nodes, cache = Numbered(10), []
    nodes.forward(cache, 0, [1, 2, 3], 1)
    rows = nodes.branch(Part(cache, 3, [4, 5, 6], 3, (-1, -1, 0)))
    assert [nodes.tokens(row) for row in rows] == [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4, 6]]
    rows = nodes.branch(Part(cache, 3, [7, 8], 2, (-1, -2), (0, 2)))
    assert [nodes.tokens(row) for row in rows] == [[1, 2, 3, 4, 6, 7], [1, 2, 3, 4, 8]]
    assert len(cache) == 7
    assert nodes.tokens(nodes.forward(cache, 2, [9], 1)[0]) == [1, 2, 9]
