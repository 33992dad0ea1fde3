"""`python -m bench.block [--json FILE]`: how many more tokens a round commits if its drafts are judged as a block.

The shipped pair drafts after the beginnings of recorded texts, under each scheme that can judge both ways. For the
drafts of a round the mean number of accepted tokens is computed and not drawn, both ways, so few rounds tell a small
gain. The table goes to the terminal, and into the marked block of docs/benchmarks.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from airdraft.control.words import spec_of
from airdraft.core import schemes
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Drafts
from airdraft.core.schemes.block import prefixes
from airdraft.lab.record import prompts, record
from airdraft.models.base import LanguageModel
from airdraft.models.registry import load
from bench.pages import json_file, publish

TEMPERATURES, LENGTHS = (0.7, 1.0), (1, 2, 4, 6, 8)
TEXTS, TOKENS, EVERY, CHAINS = 12, 96, 12, 6
"""Recorded texts, most tokens of each, a round after every so many tokens, and draws of each round."""
CUT = "mass=0.95"
BAR, FROM = 1.02, 4
"""Mean gain that the rounds of `FROM` drafts and more must reach."""


def ways() -> list[str]:
    """The schemes that judge either way, and cuts of their distributions, as `--scheme` takes them."""
    names = [name for name in schemes.SCHEMES if "verify" in schemes.traits(name).options]
    return names + [f"{name}:{CUT}" for name in names if "mass" in schemes.traits(name).options]


def beginnings(draft: LanguageModel, target: LanguageModel, params: SamplingParams, vocab: int) -> list[list[int]]:
    """Where rounds begin: prompts, each with a part of the target's own text."""
    found = record(draft, target, prompts(TEXTS), params, TOKENS, 1, vocab, "").texts
    return [[*text.prompt, *text.tokens[:at]] for text in found for at in range(0, len(text.tokens), EVERY)]


def chains(
    draft: LanguageModel, target: LanguageModel, way: str, params: SamplingParams, text: list[int], vocab: int
) -> Iterator[tuple[Law, Drafts, np.ndarray]]:
    """Draw the longest rounds after a text, and run the target over them."""
    cache, target_cache = draft.new_cache(), target.new_cache()
    first = draft.forward(cache, 0, text, 1)[0, :vocab]
    target.forward(target_cache, 0, text, 1)
    for seed in range(CHAINS):
        law = Law(params, seed, vocab)
        _, spec = spec_of(way, SchemeSpec(schemes.TOPK))
        scheme, said, row = schemes.make(spec, law, schemes.DEVICE), [], first
        for at in range(max(LENGTHS)):
            said.append(scheme.draw(row, Place(len(text) + at)))
            if at + 1 < max(LENGTHS):
                row = draft.forward(cache, len(text) + at, [said[-1].token], 1)[0, :vocab]
        drafts = Drafts(tuple(said))
        fed = [text[-1], *drafts.tokens]
        yield law, drafts, target.forward(target_cache, len(text) - 1, fed, len(fed))[:, :vocab]


def by_token(law: Law, drafts: Drafts, rows: np.ndarray, at: Place) -> float:
    """Tokens that the round commits in the mean, judged one by one: the accepted and one more."""
    kept, tokens = 1.0, 1.0
    for draft, row in zip(drafts.said, rows, strict=False):
        kept *= min(1.0, float(law.probs(row, at)[draft.token]) / draft.prob())
        tokens, at = tokens + kept, at.then(draft.token)
    return tokens


def by_block(law: Law, drafts: Drafts, rows: np.ndarray, at: Place) -> float:
    """The same, judged as a block: a prefix is accepted, alone or in a longer one, unless it and all longer fail."""
    chances = [chance for chance, _ in prefixes(law, drafts, rows, at)]
    return sum(1 - math.prod(1 - chance for chance in chances[length:]) for length in range(1, len(chances))) + 1


def measure() -> list[dict[str, Any]]:
    """Every scheme, temperature and draft length."""
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    vocab, rows = tokenizer.vocab_size, []
    for temperature in TEMPERATURES:
        params = SamplingParams(temperature)
        texts = beginnings(draft, target, params, vocab)
        for way in ways():
            found: dict[int, list[tuple[float, float]]] = {length: [] for length in LENGTHS}
            for text in texts:
                for law, drafts, logits in chains(draft, target, way, params, text, vocab):
                    for length in LENGTHS:
                        some, at = Drafts(drafts.said[:length]), Place(len(text))
                        both = (by_token(law, some, logits, at), by_block(law, some, logits, at))
                        found[length].append(both)
            for length, pairs in found.items():
                token, block = np.array(pairs).T
                gains = (block - token).reshape(len(texts), CHAINS).mean(axis=1)  # texts are independent
                rows.append({
                    "scheme": way, "temperature": temperature, "length": length, "rounds": len(pairs),
                    "token": token.mean(), "block": block.mean(), "gain": block.mean() / token.mean(),
                    "error": gains.std(ddof=1) / math.sqrt(len(texts)) / token.mean(),
                })  # fmt: skip
    return rows


def mean_gain(rows: list[dict[str, Any]]) -> float:
    """The geometric mean over the cells of `FROM` drafts and more."""
    return math.exp(float(np.mean([math.log(row["gain"]) for row in rows if row["length"] >= FROM])))


def is_kept(rows: list[dict[str, Any]]) -> bool:
    """Whether no cell loses, and long rounds gain enough."""
    return all(row["gain"] >= 1 - 1e-9 for row in rows) and mean_gain(rows) >= BAR


def table(rows: list[dict[str, Any]]) -> str:
    """The result as Markdown."""
    lines = [
        f"The shipped pair, {rows[0]['rounds']} rounds or more in each cell, after recorded texts. Tokens a round: "
        "the accepted drafts and one more, computed for the drafts that were drawn; ± is one standard error of the "
        "gain.",
        "",
        "| scheme | temperature | drafts | token by token | as a block | gain |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| `{row['scheme']}` | {row['temperature']:g} | {row['length']} | {row['token']:.3f} | {row['block']:.3f} "
        f"| {100 * (row['gain'] - 1):+.1f} ± {100 * row['error']:.1f} % |"
        for row in rows
    ]
    verdict = "kept" if is_kept(rows) else "MISSED"
    lines += [
        "",
        f"Rounds of {FROM} drafts and more gain {100 * (mean_gain(rows) - 1):.1f} % in the mean. The bar is "
        f"{100 * (BAR - 1):.0f} %, and no cell with fewer tokens: {verdict}.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit code 1 if the bar is missed."""
    file = json_file("block", "Measure what judging drafts as a block gains.")
    rows = measure()
    publish("docs/benchmarks.md", {"block": table(rows)}, {"mean_gain": mean_gain(rows), "rows": rows}, file)
    return int(not is_kept(rows))


if __name__ == "__main__":
    sys.exit(main())
