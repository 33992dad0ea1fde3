"""Tokens in the terminal: what was shown before it was verified is neither lost nor printed twice."""

from __future__ import annotations

import io

from rich.console import Console

from airdraft.core.events import Committed
from airdraft.demo.show import STYLES, TokenPrinter, legend
from airdraft.device.offline import Corrected, Unverified
from airdraft.models.registry import load
from airdraft.telemetry.winners import winner


def test_what_is_confirmed_is_printed_once_and_what_is_taken_back_is_named() -> None:
    tokenizer = load("draft")[1]
    tokens = tuple(tokenizer.encode("def parse(text):\n    return text.split('é')\n"))
    wrong = tuple(tokenizer.encode(" nothing at all"))
    out = io.StringIO()
    printer = TokenPrinter(Console(file=out, no_color=True, highlight=False, width=200), tokenizer)
    begin = 7
    printer.committed(Committed(1, tokens[:2], 2, "target"))
    for at, token in enumerate((*tokens[2:5], *wrong), begin + 2):
        printer.unverified(Unverified(at, (token,)))
    printer.committed(Committed(2, tokens[2:4], 0, "target"))
    printer.corrected(Corrected(begin + 5, wrong))
    printer.committed(Committed(2, tokens[4:7], 0, "target"))
    printer.committed(Committed(2, tokens[7:], 0, "target"))
    printer.end()
    shown, rest = out.getvalue().split("\n⟲ ")
    named, rest = rest.split(", and goes on:\n")
    wrongly = tokenizer.decode([*tokens[:5], *wrong])
    assert shown == wrongly
    assert named == f"the edge takes back {tokenizer.decode(wrong)!r}"
    assert wrongly[: len(tokenizer.decode(tokens[:5]))] + rest == tokenizer.decode(tokens) + "\n"


def test_each_token_has_the_colour_of_who_found_it() -> None:
    found = [
        (Committed(1, (1, 2, 3, 4), 3, "bonus", copied=frozenset({1})), ["accepted", "copied", "accepted", "bonus"]),
        (Committed(1, (1, 2), 1, "recovered"), ["accepted", "recovered"]),
        (Committed(1, (1, 2, 3), 0, "target"), ["proposed", "proposed", "target"]),
        (Committed(1, (1, 2, 3), 1, "recovered"), ["accepted", "proposed", "recovered"]),
        (Committed(1, (1, 2), 2, "bonus"), ["accepted", "accepted"]),
        (Committed(1, (1,), 0, "target"), ["target"]),
    ]
    for event, names in found:
        assert [winner(event, at) for at in range(len(event.tokens))] == names
        assert set(names) <= set(STYLES)
    assert len(str(legend()).splitlines()) == len(STYLES)
