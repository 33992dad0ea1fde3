"""The measurements of `bench/` tell what they do when they are asked, and measure nothing then."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from airdraft.lab.wall.structured import schemas_of
from bench.schemas import fetch

NAMES = [
    path.stem for path in sorted((Path(__file__).parents[1] / "bench").glob("*.py"))
    if path.stem not in ("__init__", "pages")
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as done:
        importlib.import_module(f"bench.{name}").main()
    assert done.value.code == 0
    assert "usage:" in capsys.readouterr().out


SUBSETS = {"Github_easy": {"o10310": {"type": "object"}}, "Kubernetes": {"kb_1 / x": {"type": "string"}, "none": True}}
"""Of JSONSchemaBench, as its repository and the hub have them: subsets, names, schemas."""


def test_json_schema_bench_is_read_from_a_clone(tmp_path: Path) -> None:
    for subset, schemas in SUBSETS.items():
        (tmp_path / "clone" / "data" / subset).mkdir(parents=True)
        for name, schema in schemas.items():
            (tmp_path / "clone" / "data" / subset / f"{name.replace('/', '')}.json").write_text(json.dumps(schema))
    (tmp_path / "clone" / "package.json").write_text('{"type": "object"}')
    assert fetch(tmp_path / "found", source=tmp_path / "clone") == 2
    found = schemas_of(tmp_path / "found", 9)
    assert {name: schema for name, (_, schema) in found.items()} == {
        "Github_easy-o10310": {"type": "object"},
        "Kubernetes-kb_1--x": {"type": "string"},
    }


def test_json_schema_bench_is_read_from_the_hubs_tables(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for subset, schemas in SUBSETS.items():
        (tmp_path / "hub" / subset).mkdir(parents=True)
        rows = [{"json_schema": json.dumps(schema), "unique_id": name} for name, schema in schemas.items()]
        for split in ("train", "test"):  # a name of another split must not come
            named = [{**each, "unique_id": f"{each['unique_id']}{split}"} for each in rows]
            parquet.write_table(arrow.Table.from_pylist(named), tmp_path / "hub" / subset / f"{split}-0-of-1.parquet")
    assert fetch(tmp_path / "found", source=tmp_path / "hub") == 2
    assert {path.stem for path in (tmp_path / "found").iterdir()} == {
        "Github_easy-o10310test",
        "Kubernetes-kb_1---xtest",
    }


def test_a_folder_without_schemas_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"holds no schemas of JSONSchemaBench; give a clone of it"):
        fetch(tmp_path / "found", source=tmp_path)
