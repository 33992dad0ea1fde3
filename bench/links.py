"""`python -m bench.links [--json FILE]`: one-way uplink delays of small packets over the links, in virtual time.

The `nr-oai` preset is set beside what EDAF measured in the cell it imitates. The tables go to the terminal, and into
the marked blocks of docs/links.md. Takes some ten seconds; every figure follows from the seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.link.base import LinkModel
from airdraft.link.nr import NrPipe
from airdraft.link.presets import preset
from bench.pages import json_file, publish

PERCENTILES = (5, 50, 95, 99, 99.9)
EDAF_MS = (10.0, 13.4, 25.5, 43.0, 93.0)
"""Mostafavi et al., EDAF (2024): one-way uplink delay of 128-byte packets in an OpenAirInterface cell."""
EDAF_RETRANSMITTED = 0.15
"""The same: share of first segments that need a HARQ retransmission."""
PACKET = 128
SEEDS = 10
PACKETS = 20_000
"""Packets for each seed."""
GAP_S = (0.05, 0.15)
"""Gap between packets, uniform: so long that none waits for another except behind a stall."""
SHOWN = (
    "const:rtt=20,up=10",
    "markov2:rtt=20",
    "rayleigh",
    "nr",
    "nr:grant=configured",
    "nr:tdd=DDDDDDDSUU",
    "nr:tdd=DDDDDDDSUU,grant=configured",
    "nr:tdd=FDD,grant=configured",
    "nr-oai",
)


def delays_ms(link: LinkModel, nbytes: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """The delay of each packet, and for `nr` the share of transport blocks that needed a retransmission, else NaN."""
    pipe = link.uplink()
    sent_s = np.cumsum(rng.uniform(*GAP_S, PACKETS))
    arrivals_s = np.array([pipe.send(now, nbytes) for now in sent_s.tolist()])
    failed = pipe.mac.failed_first_transmissions / pipe.mac.first_transmissions if isinstance(pipe, NrPipe) else np.nan
    return 1e3 * (arrivals_s - sent_s), failed


def measure(name: str) -> dict[str, Any]:
    """Percentiles over all seeds, with the least and greatest of any seed."""
    runs = []
    for seed in range(SEEDS):
        spec = name if name.startswith("const") else f"{name}{',' if ':' in name else ':'}seed={seed}"
        runs.append(delays_ms(preset(spec), PACKET, np.random.default_rng([7, seed])))
    each = np.array([np.percentile(found, PERCENTILES) for found, _ in runs])
    return {
        "link": name,
        "percentiles_ms": np.percentile(np.concatenate([found for found, _ in runs]), PERCENTILES).tolist(),
        "least_ms": each.min(axis=0).tolist(),
        "most_ms": each.max(axis=0).tolist(),
        "retransmitted": float(np.mean([failed for _, failed in runs])),
    }


def edaf_table(row: dict[str, Any]) -> str:
    """The imitation beside the original."""
    lines = [
        f"`python -m bench.links`: {SEEDS} seeds of {PACKETS:,} packets of {PACKET} bytes, "
        f"{GAP_S[0] * 1e3:g} to {GAP_S[1] * 1e3:g} ms apart.",
        "",
        "| one-way uplink delay, ms | EDAF, measured | `nr-oai` | ten seeds, least to most | difference |",
        "|---|---:|---:|---:|---:|",
    ]
    columns = zip(PERCENTILES, EDAF_MS, row["percentiles_ms"], row["least_ms"], row["most_ms"], strict=True)
    for percentile, theirs, ours, least, most in columns:
        difference = 100 * (ours / theirs - 1)
        lines.append(
            f"| {percentile:g} % | {theirs:.1f} | {ours:.1f} | {least:.1f} – {most:.1f} | {difference:+.0f} % |"
        )
    lines.append(
        f"| share of blocks that need a retransmission | {EDAF_RETRANSMITTED:.2f} | {row['retransmitted']:.2f} | | |"
    )
    return "\n".join(lines)


def links_table(rows: list[dict[str, Any]]) -> str:
    """Every link's percentiles."""
    heads = " | ".join(f"{percentile:g} %" for percentile in PERCENTILES)
    lines = [
        f"| {PACKET}-byte packets, one-way uplink delay in ms | {heads} |",
        "|---|" + "---:|" * len(PERCENTILES),
    ]
    for row in rows:
        lines.append(f"| `{row['link']}` | " + " | ".join(f"{value:.1f}" for value in row["percentiles_ms"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, show, write."""
    file = json_file("links", "Measure delays over the links.")
    rows = [measure(name) for name in SHOWN]
    publish("docs/links.md", {"edaf": edaf_table(rows[-1]), "delays": links_table(rows)}, rows, file)


if __name__ == "__main__":
    main()
