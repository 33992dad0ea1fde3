"""`python -m bench.masks ENGINE URL`: what a form costs over an engine that tells its likeliest tokens only.

The engine serves the target that ships: `vllm serve pair/target --served-model-name target --dtype float32 …`, say, or
a llama-server with its GGUF file. Texts are written through an edge, with a device's drafts, under forms whose tokens
the engine would not tell by itself. Each is compared with the target alone, and in turns with it one without a form is
written, at the same temperature: seconds of a token are relative to those. The table goes to the terminal, and into the
marked block of docs/structured.md. Exit code 1 if a text differs or is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from airdraft.core.messages import GuideSpec, SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import AirdraftError
from airdraft.guides import Guides, of_choices, of_json, of_regex
from airdraft.models.base import TargetEngine
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.engines.vllm import VllmTarget
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load_target
from airdraft.models.text import Tokenizer
from airdraft.sim import alone
from bench.pages import machine, parser, publish

PROMPT = "def parse(line):\n    return "
TOKENS = 24
ENGINES = {"vllm": "vLLM", "llamaserver": "llama-server", "sglang": "SGLang"}
FORMS: dict[str, GuideSpec] = {
    "a JSON object with an integer": of_json(
        {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    ),
    "a JSON object with a short string": of_json(
        {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}, "required": ["name"],
         "additionalProperties": False}
    ),
    "no digits": of_regex("[^0-9]{40,400}"),
    "rare letters": of_regex("[qxzQXZ]{8,12}"),
    "one of three words": of_choices(["zebra", "quartz", "Xylophone 7"]),
}  # fmt: skip
LAWS = {"0": SamplingParams(0.0), "0.7": SamplingParams(0.7, top_k=20), "1": SamplingParams(1.0, top_k=20)}


class Drawing(VllmTarget):
    """A vLLM that is asked for no more of a row than its likeliest tokens, as if `--max-logprobs` were the default."""

    @property
    def _widest(self) -> int:
        return self._k


class Bench:
    """One engine's texts beside the target's own."""

    def __init__(self, target: TargetEngine) -> None:
        self._target, self._own, self._draft = target, OnnxModel(shipped("target")), OnnxModel(shipped("draft"))
        self._tokenizer = Tokenizer(shipped("target"))
        self._guides, self._prompt = Guides(self._tokenizer), self._tokenizer.encode(PROMPT)

    def truth(self, form: GuideSpec, params: SamplingParams, seed: int) -> list[int]:
        """What the target alone writes, which has whole rows."""
        guide = self._guides.make(form, self._own.eos_ids)
        vocab = self._tokenizer.vocab_size
        return list(alone.write(self._own, self._prompt, params, seed, TOKENS, vocab, guide))

    async def run(self, seeds: int) -> list[dict[str, Any]]:
        """A row for each form and temperature."""
        rows = []
        digest, vocab = self._tokenizer.digest, self._tokenizer.vocab_size
        async with EdgeServer(self._target, digest, vocab, service=Service(reader=self._guides)) as server:
            await server.start("127.0.0.1", 0)
            url = f"ws://127.0.0.1:{server.port}"
            async with Writer([url], self._draft, digest, vocab, reader=self._guides, offline="error") as writer:
                await self._write(writer, None, LAWS["0.7"], 0)
                for name, form in FORMS.items():
                    for law, params in LAWS.items():
                        rows.append({"form": name, "law": law, **await self._beside(writer, form, params, seeds)})
        return rows

    async def _beside(self, writer: Writer, form: GuideSpec, params: SamplingParams, seeds: int) -> dict[str, Any]:
        """Texts with the form and without, in turns."""
        took_s, tokens, same = defaultdict[bool, float](float), defaultdict[bool, int](int), 0
        for seed in range(seeds):
            for formed in (True, False):
                began = time.perf_counter()
                try:
                    text = await self._write(writer, form if formed else None, params, seed)
                except AirdraftError as error:
                    print(f"refused: {error}")
                    continue
                took_s[formed] += time.perf_counter() - began
                tokens[formed] += len(text)
                same += formed and text == self.truth(form, params, seed)
        cost = (took_s[True] / max(1, tokens[True])) / (took_s[False] / max(1, tokens[False]))
        return {"texts": seeds, "same": same, "tokens": tokens[True], "cost": cost}

    async def _write(self, writer: Writer, form: GuideSpec | None, params: SamplingParams, seed: int) -> list[int]:
        asked = Request(self._prompt, SchemeSpec("stream"), params, seed, TOKENS, guide=form)
        return [token async for event in writer.write(asked) for token in getattr(event, "tokens", ())]


def table(engine: str, ways: dict[str, list[dict[str, Any]]]) -> str:
    """The ways of one engine as Markdown."""
    rows = [row for found in ways.values() for row in found]
    same, texts = sum(row["same"] for row in rows), sum(row["texts"] for row in rows)
    lines = [
        f"{engine} with the target that ships, a vocabulary of 4,096, `stream`: seconds of a token with a form, "
        f"relative to one without. {same} of {texts} texts are the target's own.",
        "",
        "| | " + " | ".join(f"temperature {law}" for law in LAWS) + " |",
        "|---|" + "---:|" * len(LAWS),
    ]
    for way, found in ways.items():
        for form in FORMS:
            costs = [f"{row['cost']:.2f}" for row in found if row["form"] == form]
            lines.append(f"| {form}{f', {way}' if way else ''} | " + " | ".join(costs) + " |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    line = parser("masks", "What a form costs over an engine that tells its likeliest tokens only.")
    line.add_argument("engine", choices=ENGINES, help="what serves the shipped target")
    line.add_argument("url", help="where")
    line.add_argument("--seeds", type=int, default=2, metavar="N", help="texts of each form and temperature")
    line.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    asked = line.parse_args()
    targets: dict[str, TargetEngine] = {"": load_target("target", engine=asked.engine, urls=[asked.url])[0]}
    if asked.engine == "vllm":
        targets = {"more asked for": targets[""], "drawn": Drawing(shipped("target"), [asked.url])}
    ways = {way: asyncio.run(Bench(target).run(asked.seeds)) for way, target in targets.items()}
    record = {"engine": asked.engine, "ways": ways, **machine()}
    publish("docs/structured.md", {f"masks-{asked.engine}": table(ENGINES[asked.engine], ways)}, record, asked.json)
    return 0 if all(row["same"] == row["texts"] for found in ways.values() for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
