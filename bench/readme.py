"""The README's table, from a run of the demo.

.venv/bin/airdraft demo --json demo.json --svg docs/demo.svg
.venv/bin/python -m bench.readme demo.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from airdraft.cli.pages import renew
from bench.pages import ROOT

README = ROOT / "README.md"


def table(results: dict[str, Any]) -> str:
    """The block, in Markdown."""
    link, params = results["link"], results["params"]
    compute = "real" if results["profile"] == "none" else f"imitated, profile `{results['profile']}`"
    up, down = (number(link[way], "g") for way in ("uplink_mbps", "downlink_mbps"))
    emulated = f"{up} Mbit/s up, {down} down, {link['rtt_ms']:g} ms RTT"
    lines = [
        f"`airdraft demo`: {len(results['prompts'])} texts of at most {results['max_tokens']} tokens, temperature "
        f"{params['temperature']:g}, draft length {results['draft_length']} where there are rounds; emulated link, "
        f"{emulated}; compute {compute}.",
        "",
        "| scheme | tokens/s | acceptance | tokens/forward | up bits/token | down bits/token | "
        "device drafts/token | the target's text? |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in results["rows"]:
        cells = [
            number(row["tokens_per_s"], ".1f"),
            number(row["acceptance_rate"], ".2f"),
            number(row["mean_acceptance_length"], ".2f"),
            number(row["uplink_bits_per_token"] or None, ",.0f"),
            number(row["downlink_bits_per_token"] or None, ",.0f"),
            number(row["device_drafts_per_token"], ".1f"),
            exactness(row),
        ]
        lines.append(f"| `{row['scheme']}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {line}" for line in results["conclusions"])])


def number(value: float | None, form: str) -> str:
    """A cell."""
    return "–" if value is None else format(value, form)


def exactness(row: dict[str, Any]) -> str:
    """What was found, in words."""
    if row["scheme"] == "device":
        return "no, the draft's"
    if row["identical_texts"] == row["texts"]:
        return f"the same to the token, {row['texts']} of {row['texts']}"
    verdict = "in distribution" if row["exact"] else "**no**"
    return f"{verdict}, p = {row['p_value']:.2g} ({row['trials']} texts)"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="what `airdraft demo --json` wrote")
    results = json.loads(parser.parse_args().results.read_text())
    renew(README, {"demo": table(results)})
    print(f"wrote the table into {README.name}")


if __name__ == "__main__":
    main()
