"""Edits of code by a script, and how many tokens a forward of the target then commits."""

from __future__ import annotations

import ast
import re

import pytest
from msgspec import structs

from airdraft.errors import ModelError
from airdraft.lab import edits as lab
from airdraft.models.registry import load
from airdraft.sim.conformance import TableModel


@pytest.mark.slow
def test_every_edit_is_a_function_that_differs_by_a_name() -> None:
    found = lab.edits()
    assert len(found) == lab.EDITS
    assert found != lab.edits(seed=2)
    assert len({edit.before for edit in found}) == lab.EDITS
    for edit in found:
        before, after = (ast.parse(source).body[0] for source in (edit.before, edit.after))
        assert isinstance(after, ast.FunctionDef)
        assert ast.dump(before) != ast.dump(after)
        old, new = re.findall("`(\\w+)`", edit.what)[-2:] if "parameter" in edit.what else (before.name, after.name)  # type: ignore[attr-defined]
        assert not re.search(rf"(?<![.\\w])\\b{old}\\b(?![\\w\"'])", edit.after.replace(f'"{old}', ""))
        assert new in edit.after
        assert edit.after.startswith(edit.head)
        assert edit.head.rstrip().endswith(":")


@pytest.mark.slow
def test_copies_and_predictions_gain_and_the_text_stays() -> None:
    model, tokenizer = load("target", steady=True)
    own = [lab.own_words(edit, model, tokenizer) for edit in lab.edits(3)]
    assert [edit.head for edit in own] == [edit.head for edit in lab.edits(3)]
    rows = {row.way: row for row in lab.measured(model, tokenizer, lab.continuing(tokenizer), own, lab.OWN)}
    assert set(rows) == set(lab.WAYS)
    assert all(row.identical == row.edits == 3 for row in rows.values())
    assert min(row.tokens_per_forward for row in rows.values()) > 1.5
    assert all(row.functions == lab.OWN for row in rows.values())


def test_what_is_missed_is_said() -> None:
    low = lab.EditsRow("t", lab.OWN, lab.USUAL, 2, 2.0, 2.0, 1, 0.9)
    alone = structs.replace(low, way=lab.PREDICTION, tokens_per_forward=1.1, identical=2)
    good = structs.replace(low, tokens_per_forward=3.5, identical=2)
    assert len(lab.missed([low, alone])) == 2
    assert lab.missed([good, alone]) == []
    assert "| t | its own | prediction, lookup | 2.00 |" in lab.table([low, alone])
    assert "The bar is 3: MISSED. The prediction by itself brings 1.10" in lab.says([low, alone])
    assert "The bar is 3: kept." in lab.says([good, alone])


@pytest.mark.slow
def test_a_target_without_room_is_named() -> None:
    _, tokenizer = load("target", steady=True)
    small = TableModel(lambda prefix: None, tokenizer.vocab_size, 16)  # type: ignore[arg-type, return-value]
    with pytest.raises(ModelError, match="no function fits the context"):
        lab.measured(small, tokenizer, lab.continuing(tokenizer), lab.edits(2))
