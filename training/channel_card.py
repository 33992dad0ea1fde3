"""`python -m training.channel_card`: puts a trained channel model where it ships, with its card; no figure is typed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from airdraft.channel.learned import SHIPPED
from airdraft.channel.nets import LEARNED
from training import channel_masks, runtime
from training.card import hardware
from training.channel import HELD_OUT, SEED, about, optimisers
from training.channel_export import export
from training.channel_model import ChannelModel, Shape
from training.errors import UserError
from training.steps import main as finished

MOST_BYTES = 8_000_000

TEXT = """\
---
license: apache-2.0
library_name: onnx
tags: [wireless, channel-estimation, channel-prediction]
---

# airdraft channel model

A small transformer that fills in what is not observed of a wireless channel: from pilots, from the past, or from
patches. Trained from scratch by masked channel modelling; no weight and no data come from elsewhere. Written by
`python -m training.channel_card`, and `card.json` has the figures in full.

| | |
|---|---|
| parameters | {parameters:,} |
| window | {shape[slots]} slots, {shape[subcarriers]} subcarriers, {shape[antennas]} antennas |
| patch | {patch} |
| width, layers, heads | {shape[width]}, {shape[layers]}, {shape[heads]} |
| data | simulated only, by `airdraft.channel`: {profiles}; {recipe} |
| channels seen | {seen:,}, each once, numbered from 0 with seed {seed} |
| training | `{command}`, {minutes:.1f} minutes of CPU time on one core of: {machine[cpu]}, torch {machine[torch]} |
| held-out error, of what is unknown | {unknown_db:.1f} dB |
| held-out error, of what is known but noisy | {known_db:.1f} dB |

{scores}
The training is short, and the model is far from what its size could do: the same command with more `--minutes` goes on.
It may have gone on like that before: the rate falls to 0 by the end of each budget, as `curve` in `card.json` shows.

`channel.onnx` takes `observed` [batch, slots, subcarriers, 3, antennas] (real, imaginary, 1 where known) and `snr_db`
[batch], and gives `values` [batch, slots, subcarriers, 2, antennas] and `embedding` [batch, 2 · width].

`nets` holds two networks for one task each, mixtures of linear filters by `python -m training.channel_nets`. Their
graphs say in their metadata what they are.

Not for: other windows, measured channels (it has seen none), carrier frequencies and subcarrier spacings other than
those above.
"""


def scored(path: Path | None) -> tuple[list[dict[str, Any]], str]:
    """The learned model's rows of `airdraft channel bench --json`, and a table of some beside the others'."""
    if path is None:
        return [], ""
    rows = json.loads(path.read_text("utf-8"))["rows"]
    kept = [row for row in rows if row["method"] == LEARNED]
    if not kept:
        raise UserError(f"{path} has no row of a learned model; give the --json of `airdraft channel bench`")
    shown = [
        row for row in rows
        if (row["task"] == "estimate" and row["snr_db"] == 10.0) or (row["task"] == "predict" and row["horizon"] == 5)
    ]  # fmt: skip
    lines = [
        "NMSE in dB, as `airdraft channel bench` measures it:",
        "",
        "| task | km/h | method | dB |",
        "|---|---:|---|---:|",
    ]
    names = {"estimate": "pilots at 10 dB", "predict": "5 slots ahead at 20 dB"}
    lines += [f"| {names[r['task']]} | {r['speed_kmh']:g} | {r['method']} | {r['nmse_db']:.1f} |" for r in shown]
    return kept, "\n".join([*lines, ""])


def main() -> None:
    """Read the options and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m training.channel_card", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of `python -m training.channel`")
    parser.add_argument("--scores", type=Path, help="--json of `airdraft channel bench` with this model")
    parser.add_argument("--to", type=Path, default=SHIPPED.parent)
    given = parser.parse_args()
    sys.exit(finished(lambda: write(given.work, given.scores, given.to), (UserError, OSError, ValueError)))


def write(work: Path, scores: Path | None, to: Path) -> None:
    """Write graph and card."""
    shape = Shape()
    model = ChannelModel(shape)
    facts = runtime.load_state(work / "channel.state", model, optimisers(model, 0.0))  # type: ignore[arg-type]
    if not facts:
        raise UserError(f"no training in {work}; run `python -m training.channel --work {work}`")
    if facts.get("recorded"):
        raise UserError(f"{work} has learned from recorded channels too, and the card is of simulated ones alone")
    to.mkdir(parents=True, exist_ok=True)
    said = about(model, facts)
    export(model, to / SHIPPED.name, said)
    size = (to / SHIPPED.name).stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"the graph has {size} bytes, and at most {MOST_BYTES} ship")
    kept, table = scored(scores)
    recipe, log = channel_masks.recipe(shape), runtime.Log(work / "channel.jsonl").rows()
    drawn = (
        f"{recipe.speed_kmh[0]:g} to {recipe.speed_kmh[1]:g} km/h, {recipe.delay_spread_s[0] * 1e9:g} to "
        f"{recipe.delay_spread_s[1] * 1e9:g} ns, {recipe.snr_db[0]:g} to {recipe.snr_db[1]:g} dB, "
        f"{recipe.carrier_hz / 1e9:g} GHz, slots of {recipe.slot_s * 1e3:g} ms, {recipe.spacing_hz / 1e3:g} kHz apart"
    )
    card = {
        "parameters": said.parameters, "bytes": size, "shape": vars(shape),
        "profiles": recipe.profiles, "recipe": drawn, "seed": SEED, "held_out_from": HELD_OUT,
        "seen": said.channels, "steps": int(facts["step"]), "minutes": said.minutes,
        "command": f"python -m training.channel --work FOLDER --minutes {said.minutes:.3g}", "machine": hardware(),
        "unknown_db": log[-1]["unknown_db"], "known_db": log[-1]["known_db"], "curve": log, "scores": kept,
    }  # fmt: skip
    (to / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    fields = card | {
        "scores": table,
        "patch": " × ".join(map(str, shape.patch)),
        "profiles": ", ".join(recipe.profiles),
    }
    (to / "README.md").write_text(TEXT.format(**fields), encoding="utf-8")


if __name__ == "__main__":
    main()
