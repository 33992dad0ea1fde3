"""`python -m bench.salvage [--json FILE]`: what trying dead drafts again is worth, alone and beside copies.

The shipped pair's recorded texts in virtual time, over a link of 5 Mbit/s; the device's drafts off the texts are its
model's own. Two minutes of CPU time. The table goes to the terminal, and into the marked block of docs/benchmarks.md.
"""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import STREAM
from airdraft.errors import AirdraftError
from airdraft.lab.record import Recording, prompts, record
from airdraft.lab.virtual.branches import KeptBranches
from airdraft.lab.virtual.cell import Result, constant, run
from airdraft.models.registry import load
from airdraft.proposers import Lookup, Salvage, maker
from bench.pages import json_file, publish

TEMPERATURES, TEXTS, TRIED, TOKENS, SEED = (0.7, 1.0), 12, 48, 128, 1
PLACES = ((20.0, 5.0, 30.0), (20.0, 10.0, 60.0), (20.0, 15.0, 30.0))
"""Round trip, a forward of the draft, a forward of the target; ms."""
BESIDE: dict[str, tuple[str, ...]] = {"nothing": (), f"`{Lookup.name}`": (Lookup.name,)}
"""What else the edge proposes."""


def recorded(temperature: float) -> Recording:
    """The longest of some texts of the shipped pair."""
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    params, name = SamplingParams(temperature), f"pair T={temperature:g}"
    found = record(draft, target, prompts(TRIED), params, TOKENS, SEED, tokenizer.vocab_size, name)
    return found.longest(TEXTS)


def measured() -> list[dict[str, Any]]:
    """A row for each temperature and place. Raises: `AirdraftError` if a text is not the target's own."""
    rows = []
    for temperature in TEMPERATURES:
        texts = recorded(temperature)
        branches = KeptBranches(texts, "draft")

        def one(place: tuple[float, float, float], names: tuple[str, ...]) -> Result:
            rtt_ms, draft_ms, verify_ms = place
            setting, propose = constant(rtt_ms, 5.0, draft_ms, verify_ms), maker(names)
            found = run(texts, setting, SchemeSpec(STREAM), propose=propose, branches=branches)  # noqa: B023
            if not found.identical:
                raise AirdraftError(f"a text with {names} is not the target's own; that is a fault of airdraft")
            return found

        for place in PLACES:
            row: dict[str, Any] = {"temperature": temperature, "place": place}
            for beside, names in BESIDE.items():
                without, with_it = one(place, names), one(place, (*names, Salvage.name))
                row[beside] = {
                    "tokens_per_s": [without.tokens_per_s, with_it.tokens_per_s],
                    "tokens_per_forward": [each.counts.committed / each.counts.forwards for each in (without, with_it)],
                }
            rows.append(row)
        branches.keep()
    return rows


def gain(rows: list[dict[str, Any]], beside: str, what: str = "tokens_per_s") -> float:
    """By how much more the mean grows; 0.01 is 1 %."""
    return geometric_mean(row[beside][what][1] / row[beside][what][0] for row in rows) - 1


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "Tokens a forward of the target commits, without and with `salvage`; simulated (virtual time), "
        f"{TEXTS} texts at each temperature, devices that draft trees.",
        "",
        "| temperature | RTT | draft, target | alone | gain in speed | beside `lookup` | gain in speed |",
        "|---:|---:|---|---|---:|---|---:|",
    ]
    for row in rows:
        rtt_ms, draft_ms, verify_ms = row["place"]
        cells = [f"{row['temperature']:g}", f"{rtt_ms:g} ms", f"{draft_ms:g} ms, {verify_ms:g} ms"]
        for beside in BESIDE:
            without, with_it = row[beside]["tokens_per_forward"]
            cells += [f"{without:.2f} and {with_it:.2f}", f"{gain([row], beside):+.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    means = [f"{gain(rows, beside):+.1%} beside {beside}" for beside in BESIDE]
    return "\n".join([*lines, "", f"Geometric mean of the gains in speed: {', '.join(means)}."])


def main() -> None:
    """Measure and publish."""
    file = json_file("salvage", "What trying dead drafts again is worth.")
    rows = measured()
    publish("docs/benchmarks.md", {"salvage": table(rows)}, rows, file)


if __name__ == "__main__":
    main()
