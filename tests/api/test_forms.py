"""Texts with a form: every spelling of it, on both endpoints, is the target's own text under that form."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from airdraft.api.errors import ApiError
from airdraft.api.schema import CompletionBody, parse
from airdraft.core.messages import GuideSpec
from airdraft.core.sampling import SamplingParams
from airdraft.guides import JSON_OBJECT, Guides, of_choices, of_grammar, of_json, of_regex
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.text import Tokenizer
from airdraft.sim import alone

from .conftest import END, PROMPT, Served
from .test_requests import post

pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GBNF = 'root ::= "is " ("hot" | "cold") " today"'
FORMS: list[tuple[dict[str, Any], GuideSpec]] = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON}}},
     of_json(PERSON)),
    ({"response_format": {"type": "json_object"}}, of_json(JSON_OBJECT)),
    ({"guided_json": json.dumps(PERSON)}, of_json(PERSON)),
    ({"structured_outputs": {"json": PERSON}}, of_json(PERSON)),
    ({"structured_outputs": {"json_object": True}}, of_json(JSON_OBJECT)),
    ({"json_schema": PERSON}, of_json(PERSON)),
    ({"format": PERSON}, of_json(PERSON)),
    ({"format": "json"}, of_json(JSON_OBJECT)),
    ({"guided_regex": "[0-9]{3}"}, of_regex("[0-9]{3}")),
    ({"regex": "[0-9]{3}"}, of_regex("[0-9]{3}")),
    ({"structured_outputs": {"regex": "[0-9]{3}"}}, of_regex("[0-9]{3}")),
    ({"guided_choice": ["red", "green"]}, of_choices(["red", "green"])),
    ({"structured_outputs": {"choice": ["red", "green"]}}, of_choices(["red", "green"])),
    ({"grammar": GBNF}, of_grammar(GBNF)),
    ({"guided_grammar": 'start: "a" | "b"'}, of_grammar('start: "a" | "b"')),
    ({"ebnf": GBNF}, of_grammar(GBNF)),
]  # fmt: skip


def body(**fields: Any) -> CompletionBody:
    return parse(CompletionBody, json.dumps({"prompt": "x", **fields}).encode())


@pytest.mark.parametrize(("fields", "spec"), FORMS)
def test_every_spelling_says_the_same(fields: dict[str, Any], spec: GuideSpec) -> None:
    form = body(**fields).form()
    assert form is not None
    assert form[1] == spec


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"response_format": {}},
        {"response_format": {"type": None}},
        {"structured_outputs": {}},
        {"structured_outputs": {"json": None, "json_object": False}},
        {"format": "", "grammar": "", "regex": "", "guided_choice": [], "json_schema": {}},
        {"guided_json": None},
    ],
)
def test_what_asks_for_no_form_has_none(fields: dict[str, Any]) -> None:
    assert body(**fields).form() is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "odd"}}}},
         "response_format.json_schema"),
        ({"response_format": "json"}, "response_format.type"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"enum": []}}, "guided_json"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_choice": "red"}, "guided_choice"),
        ({"guided_choice": ["red", 5]}, "guided_choice"),
        ({"guided_grammar": "start: missing"}, "guided_grammar"),
        ({"grammar": 'start: start "a"'}, "grammar"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"format": "xml"}, "format"),
        ({"json_schema": {"enum": ["x" * 70_000]}}, "json_schema"),
        ({"json_schema": {"type": "integer", "multipleOf": 99_999_989}}, "json_schema"),
        ({"json_schema": {"type": "object", "properties": {f"p{at}": {"const": at} for at in range(1500)}}},
         "json_schema"),
        ({"json_schema": {"$ref": "#"}}, "json_schema"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_kept_is_refused_by_its_name(served: Served, fields: dict[str, Any], param: str) -> None:
    for url in (served.device, served.edge):
        status, answer = post(url, {"model": "target", "prompt": "x", "max_tokens": 8, **fields})
        assert (status, answer["error"]["param"]) == (400, param), answer
        assert "\n" not in answer["error"]["message"]


def _schema(**more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, **more}}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"type": "text", "schema": PERSON}, "schema"),
        ({"type": "json_object", "json_schema": {"schema": PERSON}}, "json_schema"),
        ({"type": "json_object", "strict": True}, "strict"),
        ({**_schema(), "schema": PERSON}, "schema"),
        (_schema(required=["name"]), "json_schema.required"),
        (_schema(strict="yes"), "json_schema.strict"),
    ],
)
def test_no_part_of_a_response_format_is_ignored(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        body(response_format=asked)
    assert (caught.value.status, caught.value.param) == (400, f"response_format.{param}")


def test_what_says_nothing_of_the_form_may_stand_beside_a_schema() -> None:
    form = body(response_format=_schema(description="a person", strict=False, required=None)).form()
    assert form == ("response_format.json_schema", of_json(PERSON))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("at", [0, 8, 11, 13])
def test_the_text_is_the_targets_own_under_the_form(
    client: openai.OpenAI, target: OnnxModel, tokenizer: Tokenizer, at: int, temperature: float
) -> None:
    fields, spec = FORMS[at]
    ids, params = tokenizer.encode(PROMPT), SamplingParams(temperature)
    guide = Guides(tokenizer).make(spec, (END,))
    wanted = list(alone.write(target, ids, params, 5, 40, tokenizer.vocab_size, guide))
    for stream in (False, True):
        asked = {"model": "target", "prompt": PROMPT, "temperature": temperature, "seed": 5, "max_tokens": 40}
        got: Any = client.completions.create(**asked, stream=stream, extra_body=fields)
        choices = [got.choices[0]] if not stream else [each.choices[0] for each in got if each.choices]
        text = "".join(choice.text for choice in choices)
        assert text == tokenizer.decode(wanted)
        assert choices[-1].finish_reason == ("stop" if wanted[-1] == END else "length")
    if at == 0 and wanted[-1] == END:
        assert set(json.loads(text)) == {"name", "age"}
    if at == 8:
        assert re.fullmatch("[0-9]{3}", text)


def test_two_forms_and_a_cut_text_say_so(served: Served) -> None:
    for url in (served.device, served.edge):
        status, answer = post(url, {"prompt": PROMPT, "max_tokens": 3, "guided_json": PERSON, "temperature": 0})
        assert (status, answer["choices"][0]["finish_reason"]) == (200, "length")
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer["choices"][0]["text"])


def test_bodies_that_are_checked_alone_name_the_field() -> None:
    with pytest.raises(ApiError, match="both give the text a form") as caught:
        body(regex="a", format="json")
    assert caught.value.param == "format"
