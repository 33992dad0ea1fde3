"""`airdraft bench schema`: our schemas are read, forcing changes no text, and what is missed is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from airdraft import cli
from airdraft.errors import BadParameterError
from airdraft.guides import Guides, of_json
from airdraft.lab.wall.schemas import SCHEMAS, validator
from airdraft.lab.wall.structured import SchemaReport, SchemaRow, Unforced, missed, schemas_of, table
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer

TOKENIZER = Tokenizer(shipped("target"))
GUIDES = Guides(TOKENIZER)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_random_way_through_each_of_our_schemas_is_valid(name: str) -> None:
    check = pytest.importorskip("jsonschema") and validator(SCHEMAS[name][1])
    rng = np.random.default_rng(1)
    for _ in range(3):
        guide = GUIDES.make(of_json(SCHEMAS[name][1]), (0,))
        plain, tokens = Unforced(guide), list[int]()
        while not tokens or tokens[-1] != 0:
            allowed, same = guide.allowed(), plain.allowed()
            assert allowed is not None
            assert np.array_equal(allowed, same)
            assert plain.forced is None
            tokens.append(int(rng.choice(np.flatnonzero(allowed))) if guide.forced is None else guide.forced)
            guide, plain = guide.after(tokens[-1]), plain.after(tokens[-1])
            assert len(tokens) < 3000
        check.validate(json.loads(TOKENIZER.decode(tokens)))


def test_schemas_of_a_folder_are_spread_over_all_of_it(tmp_path: Path) -> None:
    assert schemas_of(None, 3) == dict(list(SCHEMAS.items())[:3])
    for at in range(10):
        (tmp_path / f"{at}.json").write_text(json.dumps({"title": "A lamp"} if at else {}))
    assert sorted(schemas_of(tmp_path, 5)) == ["0", "2", "4", "6", "8"]
    assert len(schemas_of(tmp_path, 50)) == 10
    assert schemas_of(tmp_path, 2)["5"] == ("Give a short example as JSON: A lamp", {"title": "A lamp"})
    for nothing in (tmp_path / "none", tmp_path / "0.json"):
        with pytest.raises(BadParameterError, match=r"python -m bench\.schemas"):
            schemas_of(nothing, 5)


def test_what_is_missed_is_said() -> None:
    row = SchemaRow(
        "a", 2, True, alone=True, tokens=10, finished=True, valid=True, forced=5, forwards=4, unforced_forwards=8,
        seconds=1.0, unforced_seconds=1.4, walk_us=9.0, alone_us=5.0,
    )  # fmt: skip
    report = SchemaReport("d", "t", 1, 7, [row, SchemaRow("b", 2, why="no")], 10.0, 9.0, 12, 12)
    assert missed(report) == []
    shown = table(report)
    for words in ("1 (50%)", "2.50", "1.25", "1.40", "1 of these keep", "costs 10.0%"):
        assert words in shown
    row.valid, row.same, row.unforced_seconds = False, False, 1.2
    report.masked_tokens_per_s, report.masked_same = 8.0, 11
    said = " ".join(missed(report))
    for words in ("not valid", "another text", "cost 20%", "gain 1.20", "allows everything is another"):
        assert words in said


@pytest.mark.slow
def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jsonschema")
    folder, results = tmp_path / "schemas", tmp_path / "s.json"
    folder.mkdir()
    (folder / "bad.json").write_text('{"type": "blah"}')
    (folder / "good.json").write_text(json.dumps(SCHEMAS["points"][1]))
    words = [
        "airdraft",
        "bench",
        "schema",
        "--schemas",
        str(folder),
        "--json",
        str(results),
        "--max-tokens",
        "160",
        "--threads",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        cli.main()
    capsys.readouterr()
    record = json.loads(results.read_text())
    bad, good = sorted(record["rows"], key=lambda row: str(row["name"]))
    assert (bad["compiled"], bad["tokens"], good["compiled"], good["same"]) == (False, 0, True, True)
    assert "blah" in bad["why"]
    assert good["finished"]
    assert good["valid"]
    assert 0 < good["forced"] < good["tokens"]
    assert good["forwards"] < good["unforced_forwards"] <= good["tokens"]
    assert record["masked_same"] == record["masked_texts"] == len(SCHEMAS)
    assert not [what for what in record["missed"] if "%" not in what and "×" not in what]
