"""Schemes rule on what PyTorch answers as they do on the rows themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core import schemes
from airdraft.core.connection import known_rows
from airdraft.core.events import Forward
from airdraft.core.law import Law, Needs, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Drafts
from airdraft.models.base import Part
from airdraft.models.engines import hf_choice
from airdraft.scheduler.choices import answers, choice_of

from ..core.test_guides import VOCAB, Steps
from ..suites import examples

torch = pytest.importorskip("torch", reason="the hf engine takes airdraft[hf]")

pytestmark = pytest.mark.usefixtures("one_thread")
SPECS = [
    *(SchemeSpec(name, k=3, bits=8, resolution=12) for name in schemes.SCHEMES), SchemeSpec("dense", candidates=3),
    SchemeSpec("dense", verify="block"), SchemeSpec("split", downlink="candidates"),
]  # fmt: skip
PARAMS = st.builds(
    SamplingParams,
    st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.sampled_from([0, 1, 3]), st.sampled_from([1.0, 0.8]),
    st.sampled_from([0.0, 0.1]),
)  # fmt: skip


def both(data: st.DataObject, spec: SchemeSpec) -> tuple[Any, Any, list[Any] | None]:
    """What the edge's scheme says of the rows, and of the engine's answers to what it asks, and those answers."""
    law = Law(data.draw(PARAMS), data.draw(st.integers(0, (1 << 63) - 1)), VOCAB)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    rows = (2 * rng.standard_normal((5, VOCAB))).astype(np.float32)
    at = start = Place(7, Steps(9, 0) if data.draw(st.booleans()) else None)
    device, edge = (schemes.make(spec, law, side) for side in (schemes.DEVICE, schemes.EDGE))
    said = []
    for row in rows[: data.draw(st.integers(0, 4))] if device.traits.drafts else ():
        said.append(device.draw((row + rng.standard_normal(VOCAB)).astype(np.float32), at))
        at = at.then(said[-1].token)
    drafts = edge.decode(len(said), device.encode(Drafts(tuple(said))))
    rows = rows[: len(drafts) + 1]
    asked = edge.needs(drafts, start)
    fresh = schemes.make(spec, law, schemes.EDGE)
    plain = fresh.verify(drafts, rows, start)
    if asked is None:
        return plain, plain, None
    forward = Forward(1, 6, (0, *drafts.tokens), len(rows), needs=asked)
    part = Part(None, 6, forward.tokens, len(rows), choice=choice_of(forward))
    [found] = hf_choice.chosen([part], [torch.from_numpy(rows)])
    assert isinstance(found, list)
    return plain, edge.verify(drafts, known_rows(answers(found), len(rows), VOCAB), start), found


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.name}-{spec.downlink}-{spec.verify}-{spec.candidates}")
@given(data=st.data())
@examples(60)
def test_the_ruling_is_that_on_the_rows(spec: SchemeSpec, data: st.DataObject) -> None:
    plain, found, answered = both(data, spec)
    assert found == plain
    if answered is None:
        assert spec.verify == "block"
        return
    moved = sum(isinstance(each, np.ndarray) for each in answered)
    if schemes.traits(spec.name).exact == "distribution":
        assert isinstance(answered[len(plain.path)], np.ndarray)
        assert moved <= len(plain.path) + 1
    else:
        assert all(isinstance(each, int) for each in answered[: len(plain.path)])


def test_of_many_rounds_one_row_each_is_moved() -> None:
    """Rounding decides nowhere here, and every draft but the last accepted one is answered with its token."""
    law, rows = Law(SamplingParams(), 5, VOCAB), np.zeros((4, VOCAB), np.float32)
    device, edge = (schemes.make(SchemeSpec("split"), law, side) for side in (schemes.DEVICE, schemes.EDGE))
    accepted = 0
    for position in range(20):
        at = start = Place(10 * position)
        said = []
        for row in rows[:3]:
            said.append(device.draw(np.linspace(0, 2, VOCAB, dtype=np.float32) + row, at))
            at = at.then(said[-1].token)
        drafts = edge.decode(3, device.encode(Drafts(tuple(said))))
        forward = Forward(1, 6, (0, *drafts.tokens), 4, needs=edge.needs(drafts, start))
        [found] = hf_choice.chosen(
            [Part(None, 6, forward.tokens, 4, choice=choice_of(forward))], [torch.from_numpy(rows)]
        )
        assert sum(isinstance(each, np.ndarray) for each in found) == 1
        accepted += edge.verify(drafts, answers(list(found)), start).accepted
    assert 20 < accepted < 60


def test_the_comparison_sees_a_wrong_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = schemes.SCHEMES["dense"]

    def halved(self: Any, drafts: Drafts, at: Place) -> Needs:
        asked = needs(self, drafts, at)
        return replace(asked, bars=lambda i: 0.5 * asked.bars(i))

    needs: Any = dense.needs
    monkeypatch.setattr(dense, "needs", halved)

    differ = 0

    @given(data=st.data())
    @settings(max_examples=200, derandomize=True, database=None)  # the same examples every time
    def compared(data: st.DataObject) -> None:
        nonlocal differ
        plain, found, _ = both(data, SchemeSpec("dense"))
        differ += found != plain

    compared()
    assert differ > 0
