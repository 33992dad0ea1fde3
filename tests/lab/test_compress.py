"""What is measured of models in few bits, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.errors import BadParameterError
from airdraft.lab.compress import CHAT_DRAFT, DRAFT, PLANTED, TARGET, WHOLE, CompressRow, Measured, subjects
from airdraft.lab.compress_page import LINKS, PROFILE, held, orderings, points, table, worth
from airdraft.lab.points import TIE, SmallDraft, frontier, worth_most
from airdraft.models.imports.write import import_gguf
from airdraft.models.profile import profile
from airdraft.models.registry import load

TOKENS = [7, 260, 31, 31, 99, 5, 256, 200, 64, 11, 83, 2]
FAST, SLOW = LINKS.values()


def row(model: str, method: str, bits: str, **given: Any) -> CompressRow:
    usual = {"head": "W8", "perplexity": 5.0, "one_minus_tv": 0.7, "coupled": 0.7, "ms_per_token": 1.0, "time": 0.5,
             "mb": 1.5}  # fmt: skip
    return msgspec.convert({"model": model, "method": method, "bits": bits, **usual, **given}, CompressRow)


ROWS = [
    row(DRAFT, "gptq", "W4"),
    row(DRAFT, "outliertune", "W8A8"),
    row(DRAFT, "tensor", "W8A8", one_minus_tv=0.6),
    row(DRAFT, "outliertune", "W4A4"),
    row(DRAFT, "mergequant", "W4A4", one_minus_tv=0.8),
    row(DRAFT, "tensor", "W4A4", one_minus_tv=0.5),
    row(DRAFT, "qllm", "W4A4", one_minus_tv=0.6),
    row(DRAFT, WHOLE, "fp32", head="fp32", time=1.0, mb=6.0),
    row(PLANTED, "outliertune", "W6A6", perplexity=5.04),
    row(PLANTED, "tensor", "W8A8", perplexity=50.0),
    row(PLANTED, "outliertune", "W8A8"),
    row(PLANTED, WHOLE, "fp32", head="fp32", time=1.0, mb=6.0),
    row(TARGET, "gptq", "W4", coupled=0.95, mb=9.0),
    row(TARGET, WHOLE, "fp32", head="fp32", coupled=1.0, mb=36.0),
]


def changed(method: str, bits: str, **given: Any) -> list[CompressRow]:
    """The rows, those of one method and bits otherwise."""
    return [msgspec.structs.replace(r, **given) if (r.method, r.bits) == (method, bits) else r for r in ROWS]


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=1))
def test_nothing_beats_the_pareto_set(found: list[tuple[float, float]]) -> None:
    every = [SmallDraft("", mb, 0.5, 1.0, speed) for mb, speed in found]
    best = frontier(every)
    for each in every:
        assert any(one.mb <= each.mb and one.tokens_per_s >= each.tokens_per_s for one in best)
    assert [one.mb for one in best] == sorted({one.mb for one in best})
    chosen = worth_most(every)
    fastest = max(each.tokens_per_s for each in every)
    assert chosen.mb == min(each.mb for each in every if each.tokens_per_s >= (1 - TIE) * fastest)


@pytest.mark.parametrize("link", [FAST, SLOW])
def test_a_draft_is_worth_more_the_smaller_and_the_more_accepted_it_is(link: Any) -> None:
    whole, *others = (
        points(rows, DRAFT, link, profile(PROFILE), 1024)[0].tokens_per_s
        for rows in (ROWS, changed("gptq", "W4", mb=1.0), changed("gptq", "W4", coupled=0.8))
    )
    assert all(other > whole for other in others)


def test_the_target_itself_is_among_the_drafts() -> None:
    found = {each.name: each for each in points(ROWS, DRAFT, FAST, profile(PROFILE), 1024)}
    own = found["the target itself, gptq W4, scores W8"]
    assert own.draft_ms == pytest.approx(3 * 1e3 * profile(PROFILE).draft_s)  # 9 MB, and 3 are the draft in halves
    assert own.acceptance == 0.95
    assert len(found) == sum(each.model in (DRAFT, TARGET) for each in ROWS) - 1  # whole, it is the target
    assert worth(ROWS, {DRAFT: 1024}).count("chosen") == len(LINKS)


def test_bars_that_are_missed_are_said() -> None:
    assert held(ROWS)
    assert "kept." in table(ROWS)
    for wrong in ({"coupled": 0.67}, {"mb": 2.2}, {"time": 0.95}):
        rows = changed("gptq", "W4", **wrong)
        assert not held(rows)
        assert "MISSED." in table(rows)


@pytest.mark.parametrize(
    ("method", "bits", "wrong", "claim"),
    [
        ("outliertune", "W8A8", {"one_minus_tv": 0.5}, "a fixed step for each channel"),
        ("mergequant", "W4A4", {"one_minus_tv": 0.7}, "splitting"),
        ("qllm", "W4A4", {"one_minus_tv": 0.5}, "splitting"),
        ("outliertune", "W6A6", {"perplexity": 5.06}, "6 bits by channel"),
        ("tensor", "W8A8", {"perplexity": 5.01}, "6 bits by channel"),
        ("gptq", "W4", {"coupled": 0.6}, "the target in 4 bits"),
    ],
)
def test_what_does_not_hold_is_said(method: str, bits: str, wrong: dict[str, Any], claim: str) -> None:
    def lines(rows: list[CompressRow]) -> list[str]:
        return [line for line in orderings(rows).splitlines() if claim in line]

    assert all(line.endswith("| so |") for line in lines(ROWS))
    assert any(line.endswith("| NOT so |") for line in lines(changed(method, bits, **wrong)))


def test_a_run_goes_on_from_what_was_measured(tmp_path: Path) -> None:
    """A pair that is whole in a file is not measured again, and pages are made of it."""
    file, page = tmp_path / "q.json", tmp_path / "page.md"
    file.write_bytes(msgspec.json.encode({"rows": ROWS, "cpu_s": 1}))
    blocks = ("compress", "orderings", "papers", "worth")
    page.write_text("".join(f"<!-- {each}:begin -->\n<!-- {each}:end -->\n" for each in blocks))
    words = ["bench", "compress", "--pair", "shipped", "--measured", str(file)]
    made = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "out.json"), "--page", str(page)])
    assert made.exit_code == 0, made.output
    assert msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=Measured).rows == ROWS
    said = page.read_text()
    assert table(ROWS) in said
    assert orderings(ROWS) in said
    assert "| W8A8: 2.00 × as fast as single precision, 0.25 of its bytes, perplexity +0.0% |" in said
    assert "Measured: the shipped pair, not the chat pair." in said
    assert said.count("| chosen |") == len(LINKS)
    file.write_bytes(msgspec.json.encode({"rows": changed("gptq", "W4", mb=9.0)}))
    assert CliRunner().invoke(app, words).exit_code == 1
    for broken in (b"", b"[]", b'{"rows": [{"model": 1}]}'):
        file.write_bytes(broken)
        found = CliRunner().invoke(app, words)
        assert isinstance(found.exception, BadParameterError)
        assert "holds no rows" in str(found.exception)


@pytest.mark.slow
def test_the_figure_names_what_was_chosen(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures take matplotlib")
    from airdraft.lab.pareto import draw

    panels = {(DRAFT, name): points(ROWS, DRAFT, link, profile(PROFILE), 1024) for name, link in LINKS.items()}
    said = draw(panels, "setting", tmp_path / "small.svg").read_text("utf-8")
    for (_, link), every in panels.items():
        assert f"{DRAFT}; {link}" in said
        assert worth_most(every).name in said


def run(name: str) -> np.ndarray:
    model, _ = load(name)
    return model.forward(model.new_cache(), 0, TOKENS, len(TOKENS))


@pytest.mark.slow
def test_planted_outliers_change_no_row(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="writing the files takes the gguf package")
    source = {each.name: each.source for each in subjects("shipped", tmp_path)}
    import_gguf(source[PLANTED], tmp_path / "planted")
    assert np.abs(run(str(tmp_path / "planted")) - run("draft")).max() < 1e-3
    import_gguf(source[TARGET], tmp_path / "whole")
    assert np.abs(run(str(tmp_path / "whole")) - run("target")).max() < 1e-3


@pytest.mark.slow
def test_what_the_chat_drafts_codes_stand_for_is_the_chat_draft(tmp_path: Path) -> None:
    """Its rows are those of the graph that ships, whose activations are rounded to 8 bits."""
    pytest.importorskip("gguf", reason="writing the files takes the gguf package")
    pytest.importorskip("onnx", reason="reading the graph takes onnx")
    from airdraft.lab.expand import expand
    from airdraft.models.registry import resolve

    expand(resolve(CHAT_DRAFT), tmp_path / "whole.gguf")
    import_gguf(tmp_path / "whole.gguf", tmp_path / "whole")
    found, wanted = run(str(tmp_path / "whole")), run(CHAT_DRAFT)
    assert np.abs(found - wanted).mean() < 0.05 * wanted.std()
