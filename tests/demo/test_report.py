"""What the demo says, whoever wins."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from airdraft.core.events import Committed
from airdraft.core.request import Counts
from airdraft.demo.report import SCHEMES, conclusions
from airdraft.demo.show import STYLES, TokenPrinter, legend
from airdraft.device.cost import CostMeter
from airdraft.lab.wall.schemes import DRAFTING, SchemeRow
from airdraft.models.registry import load


def rows(**speeds: float) -> list[SchemeRow]:
    """Every scheme: 20 tokens/s unless told otherwise, exact but for the device alone."""
    made = []
    for scheme in SCHEMES:
        counts = Counts(forwards=50, committed=100, uplink_payload_bytes=100)
        row = SchemeRow(
            scheme, CostMeter(counts, 100 / speeds.get(scheme, 20.0)), [[1]], identical=int(scheme != "device")
        )
        row.why = "stream, as it happens" if scheme == "auto" else None
        made.append(row)
    return made


def test_a_stream_that_wins_is_compared_with_the_server_and_the_best_published_scheme() -> None:
    said = conclusions(rows(server=30, stream=45, auto=36, topk=25, split=24, dense=10))
    assert said[0] == (
        "stream wins here: 45.0 tokens/s, 1.50 times plain server streaming (30.0) and 1.80 times topk, the best "
        "published scheme (25.0)."
    )
    assert said[1] == "auto writes 36.0 tokens/s, 1.20 times plain server streaming."
    assert said[2].startswith("Every round of the published schemes waits for a round trip")
    assert said[3] == "What auto chose last: stream, as it happens."
    assert said[-1] == "Every scheme but the device alone is exact."


def test_a_server_that_wins_is_said_to() -> None:
    said = conclusions(rows(server=50, stream=45, auto=46, coupled=48, split=24))
    assert said[0] == (
        "Plain server streaming wins here: 50.0 tokens/s against coupled, the fastest of those that draft (48.0) and "
        "split, the best published scheme (24.0)."
    )
    assert said[1:3] == [
        "stream writes 45.0 tokens/s, 0.90 times plain server streaming.",
        "auto writes 46.0 tokens/s, 0.92 times plain server streaming.",
    ]


def test_a_published_scheme_that_wins_is_not_compared_with_itself() -> None:
    said = conclusions(rows(server=30, dense=60, stream=45, auto=58))
    assert said[0] == "dense wins here: 60.0 tokens/s, 2.00 times plain server streaming (30.0)."
    assert not any("round trip" in line for line in said)


@pytest.mark.parametrize("scheme", ["server", *DRAFTING])
def test_a_text_that_is_not_the_targets_is_named(scheme: str) -> None:
    made = rows()
    next(row for row in made if row.scheme == scheme).identical = 0
    assert conclusions(made)[-1] == f"NOT EXACT: {scheme}."


def test_every_way_to_win_a_token_has_a_colour_and_a_line() -> None:
    shown = str(legend())
    assert [line.split()[0] for line in shown.splitlines()] == ["model", "copy", "edge", "recovered", "bonus", "raced"]
    assert len(set(STYLES.values())) == len(STYLES)


def test_tokens_appear_in_the_colour_of_how_they_were_won() -> None:
    tokenizer = load("draft")[1]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", no_color=False, highlight=False, width=80)
    printer = TokenPrinter(console, tokenizer)
    one, two, three = (tokenizer.encode(word)[-1] for word in ("a", "b", "c"))
    printer.committed(Committed(1, (one, two), 1, "recovered"))
    printer.committed(Committed(1, (three,), 0, "target"))
    printer.end()
    assert out.getvalue() == "\x1b[32ma\x1b[0m\x1b[1;33mb\x1b[0m\x1b[39mc\x1b[0m\n"
