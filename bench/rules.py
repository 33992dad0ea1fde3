"""`python -m bench.rules [--json FILE]`: every rule for the draft length beside the best fixed length, in virtual time.

The recorded pair writes its texts under `coupled`, in rounds. `holobeam` is one rule for all texts of a link, and its
rounds of trying are in its speed; the others learn nothing from text to text. The table goes to the terminal, and into
the marked block of docs/benchmarks.md. Takes a minute or two; every figure follows from the seeds.
"""

from __future__ import annotations

from typing import Any

from airdraft.control.facts import wire_of
from airdraft.control.lengths import LENGTHS, ROUNDS, RULES, Fixed, HoloBeam
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Length
from airdraft.lab.record import Recording
from airdraft.lab.virtual.cell import Setting, compute, run
from airdraft.lab.virtual.tracing import recording
from airdraft.link.presets import preset
from bench.pages import json_file, publish

LINKS = (
    "const:up=5",
    "const:up=5,rtt=20",
    "const:up=5,rtt=50",
    "const:up=5,rtt=150",
    "nr",
    "nr:distance=260,outages=5",
)
DRAFT_MS, VERIFY_MS = 5.0, 30.0
SPEC = SchemeSpec("coupled")


def speed(recorded: Recording, link: str, rule: Length) -> float:
    """Tokens per second of a rule over a link. Raises: `ValueError` if a text is not the recorded one."""
    result = run(recorded, Setting(preset(link), compute(DRAFT_MS, VERIFY_MS)), SPEC, rule=rule)
    if not result.identical:
        raise ValueError(f"{type(rule).__name__} wrote another text over {link}")
    return result.tokens_per_s


def measure(recorded: Recording, link: str) -> dict[str, Any]:
    """Speeds of all rules over one link, and the lengths that are best and that the bandit kept to."""
    fixed = {length: speed(recorded, link, Fixed(length)) for length in LENGTHS}
    rules = {name: make(wire_of(SPEC, recorded.vocab_size)) for name, make in RULES.items()}
    speeds = {name: speed(recorded, link, rule) for name, rule in rules.items()}
    kept = next(rule.length for rule in rules.values() if isinstance(rule, HoloBeam))
    best = max(fixed, key=lambda length: fixed[length])
    return {"link": link, "best": best, "kept": kept, "fixed": fixed, "rules": speeds}


def table(rows: list[dict[str, Any]], tokens: int) -> str:
    """The rows as Markdown: the best fixed length, which nobody knows beforehand, and each rule as a share of it."""
    lines = [
        f"Pair, `coupled`, draft {DRAFT_MS:g} ms, target {VERIFY_MS:g} ms, {tokens} tokens a link, simulated (virtual "
        f"time). Rules: their speed as a share of the best fixed length's. `holobeam` tries for {ROUNDS} rounds.",
        "",
        f"| link | best length, tokens/s | {' | '.join(f'`{name}`' for name in RULES)} | `holobeam` kept to |",
        f"|---|{'---:|' * (2 + len(RULES))}",
    ]
    for row in rows:
        best = row["fixed"][row["best"]]
        shares = " | ".join(f"{row['rules'][name] / best:.2f}" for name in RULES)
        kept = f"{row['kept']} ({row['fixed'][row['kept']] / best:.2f})"
        lines.append(f"| `{row['link']}` | {row['best']}, {best:.1f} | {shares} | {kept} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, show, write."""
    file = json_file("rules", "Measure rules for the draft length over links.")
    recorded = recording()
    rows = [measure(recorded, link) for link in LINKS]
    publish("docs/benchmarks.md", {"rules": table(rows, recorded.length)}, rows, file)


if __name__ == "__main__":
    main()
