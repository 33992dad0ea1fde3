"""`python -m bench.tools`: calls of functions through OpenAI's client against `airdraft device`, in docs/structured.md.

The functions are those of the Berkeley Function Calling Leaderboard, from its wheel on PyPI: its simple cases, not
streamed, and its parallel ones, streamed. Every answer must be calls: of functions that were given, with arguments that
keep to their schemas. Whether a call is wise is another question, and depends on the model.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import openai

from airdraft import local
from airdraft.cli.bench.paired import NAMED, SHIPPED, models_of
from airdraft.lab.wall.schemas import validator
from bench.pages import publish
from bench.schemas import FUNCTIONS, read, typed, wheel

PAGE = "docs/structured.md"
KINDS = {"simple": "simple_python", "parallel": "parallel"}
"""Kinds of cases, and what their files are called."""
TEMPLATE = """\
{% for tool in tools %}# tool: {{ tool.function.name }}: {{ tool.function.description }}\n{% endfor %}
{%- for message in messages %}# {{ message.role }}: {{ message.content }}\n{% endfor %}# <tool_call>
"""
"""For models whose own template reads no tools: Hermes' form."""


@dataclass(frozen=True)
class Case:
    """What is asked, and the functions that may be called."""

    kind: str
    question: str
    functions: dict[str, dict[str, Any]]
    """The schemas of their arguments, by name."""
    about: dict[str, str] = field(default_factory=dict)
    """What each is for."""

    def tools(self) -> list[dict[str, Any]]:
        """The functions as OpenAI's API has them."""
        return [
            {
                "type": "function",
                "function": {"name": name, "description": self.about.get(name, ""), "parameters": each},
            }
            for name, each in self.functions.items()
        ]


@dataclass
class Tally:
    """What came of the cases of a kind."""

    cases: int = 0
    refused: int = 0
    """Whose schemas the API does not take: it says so with 400."""
    cut: int = 0
    """Answers that were not whole after the most tokens; their last call is not looked at."""
    calls: int = 0
    parsed: int = 0
    """Calls of functions that were given, with arguments that are JSON."""
    kept: int = 0
    """Those whose arguments keep to the schema, too."""
    why: list[str] = field(default_factory=list)
    """What was refused, and what went wrong."""


def cases(archive: zipfile.ZipFile, kind: str) -> Iterator[Case]:
    """The leaderboard's cases of a kind."""
    for line in read(archive, f"bfcl_eval/data/BFCL_v4_{KINDS[kind]}.json").decode().splitlines():
        case = json.loads(line)
        named = {re.sub(r"\W", "_", each["name"]): each for each in case["function"]}
        yield Case(
            kind, case["question"][0][-1]["content"],
            {name: {**typed(each["parameters"]), "additionalProperties": False} for name, each in named.items()},
            {name: each["description"] for name, each in named.items()},
        )  # fmt: skip


@asynccontextmanager
async def device(pair: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client of a device at an edge, both processes of their own."""
    draft, target = models_of(pair)
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "tools.jinja"
        template.write_text(TEMPLATE, "utf-8")
        options = ("--draft", draft, "--chat-template", str(template))
        async with (
            local.serving(target, "none") as edge,
            local.device(edge["url"], options) as served,
            openai.AsyncOpenAI(base_url=served["url"], api_key="none", max_retries=0, timeout=120) as client,
        ):
            yield client


async def answer(client: openai.AsyncOpenAI, case: Case, most: int, seed: int) -> tuple[str, list[tuple[str, str]]]:
    """Why an answer ended, and its calls: names, and arguments as JSON text."""
    create: Any = client.chat.completions.create
    asked = {
        "model": "target", "messages": [{"role": "user", "content": case.question}], "tools": case.tools(),
        "tool_choice": "required", "max_tokens": most, "seed": seed, "parallel_tool_calls": case.kind == "parallel",
    }  # fmt: skip
    if case.kind != "parallel":
        choice = (await create(**asked)).choices[0]
        return choice.finish_reason, [
            (call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()
        ]
    calls, reason = list[list[str]](), ""
    async for chunk in await create(**asked, stream=True):
        for part in chunk.choices[0].delta.tool_calls or ():
            if part.id:
                calls.append([part.function.name, ""])
            calls[part.index][1] += part.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    return reason, [(name, arguments) for name, arguments in calls]


async def ask(client: openai.AsyncOpenAI, case: Case, most: int, seed: int, tally: Tally) -> None:
    """Ask one case, and count what comes of it."""
    tally.cases += 1
    try:
        reason, calls = await answer(client, case, most, seed)
    except openai.BadRequestError as error:
        tally.refused += 1
        tally.why.append(f"refused: {error.message[:200]}")
        return
    if reason == "length":
        tally.cut += 1
        calls = calls[:-1]
    elif not calls or reason != "tool_calls":
        tally.why.append(f"{case.question[:60]}: it ended with {reason!r} and {len(calls)} calls")
    for name, arguments in calls:
        parsed, wrong = checked(case, name, arguments)
        tally.calls += 1
        tally.parsed += parsed
        tally.kept += not wrong
        tally.why += [f"{case.question[:60]}: {wrong}"] if wrong else []


def checked(case: Case, name: str, arguments: str) -> tuple[bool, str]:
    """Whether a call parses, and what is wrong with it."""
    if name not in case.functions:
        return False, f"{name!r} is no function"
    try:
        found = json.loads(arguments)
    except ValueError:
        return False, f"{arguments[:80]!r} is no JSON"
    error = next(validator(case.functions[name]).iter_errors(found), None)
    return True, "" if error is None else str(error.message)[:120]


async def run(pair: str, found: list[Case], most: int) -> dict[str, Tally]:
    """Ask all cases, one after the other."""
    tallies = {kind: Tally() for kind in KINDS}
    async with device(pair) as client:
        for seed, case in enumerate(found):
            await ask(client, case, most, seed, tallies[case.kind])
            if seed % 50 == 49:
                print(f"{seed + 1} of {len(found)} cases", file=sys.stderr)
    return tallies


def table(tallies: dict[str, Tally], pair: str) -> str:
    """The counts as Markdown."""
    draft, target = models_of(pair)
    lines = [
        f"`{draft}` at `{target}`.",
        "",
        "| cases | asked | refused | cut off | calls | parse | keep to their schema |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, each in tallies.items():
        counts = (each.cases, each.refused, each.cut, each.calls, each.parsed, each.kept)
        lines.append(f"| {kind} | {' | '.join(f'{count:,}' for count in counts)} |")
    return "\n".join(lines)


def held(tallies: dict[str, Tally]) -> bool:
    """Whether there are calls of every kind, all keep to their schemas, and no answer ended otherwise."""
    return all(
        each.calls > 0 and each.kept == each.calls and len(each.why) == each.refused for each in tallies.values()
    )


def main() -> None:
    """Ask, print, write."""
    line = argparse.ArgumentParser(prog="python -m bench.tools", description=__doc__.partition("\n\n")[0])
    line.add_argument("--pair", default=SHIPPED, choices=[*NAMED], help="the models")
    line.add_argument("--most", type=int, default=100, help="most cases of each kind")
    line.add_argument("--max-tokens", type=int, default=160, help="most tokens of an answer")
    line.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    line.add_argument("--no-page", action="store_true", help=f"leave {PAGE} alone")
    given = line.parse_args()
    with tempfile.TemporaryDirectory() as scratch, wheel(FUNCTIONS, Path(scratch)) as archive:
        found = [case for kind in KINDS for case in itertools.islice(cases(archive, kind), given.most)]
    tallies = asyncio.run(run(given.pair, found, given.max_tokens))
    record = {kind: asdict(each) for kind, each in tallies.items()}
    block = table(tallies, given.pair)
    if given.no_page:
        print(block)
        if given.json:
            given.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    else:
        publish(PAGE, {"tools": block}, record, given.json)
    for what in itertools.islice((why for each in tallies.values() for why in each.why), 10):
        print(what, file=sys.stderr)
    if not held(tallies):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
