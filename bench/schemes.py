"""`python -m bench.schemes`: writes the bits and the code on the pages of docs/schemes, from the code itself.

Nothing is measured: bits follow from the options, and the code is copied out of the package. A test fails while a page
says something else.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from airdraft.cli.pages import renew
from airdraft.control.facts import wire_of
from airdraft.control.ladder import Ladder
from airdraft.control.words import spec_of
from airdraft.core import counting
from airdraft.core.law import Law
from airdraft.core.messages import SchemeSpec
from airdraft.core.schemes import candidates, cuts
from airdraft.core.schemes.block import prefixes
from airdraft.core.schemes.coupled import Coupled, Server, Stream
from airdraft.core.schemes.dense import Dense
from airdraft.core.schemes.lattice import Lattice
from airdraft.core.schemes.rejection import Rejection
from airdraft.core.schemes.split import Split
from airdraft.core.schemes.topk import TopK
from airdraft.errors import BadParameterError
from bench.pages import ROOT, parser

FOLDER = ROOT / "docs" / "schemes"
VOCABULARIES = (4096, 32_000, 152_064)
SCREEN = 64
"""Most lines of code on a page."""

CODE: dict[str, list[Callable[..., Any] | type]] = {
    "dense": [Dense.quantise, Rejection.draw, Rejection.accepts, Rejection.replace, candidates._residual],
    "topk": [TopK.quantise, cuts.ByMass.size, cuts.top, candidates.replaced],
    "lattice": [cuts.Conformal.size, Lattice.pack, counting.rank, counting.rank_weights],
    "split": [Split.quantise, Rejection.accepts, Split.replace, Split.recover],
    "coupled": [Coupled.draw, Coupled.verify, Law.choose],
    "stream": [Stream],
    "server": [Server],
    "block": [prefixes, Rejection._verify_block],
    "ladder": [Ladder.choose],
}
"""What is shown of each page's subject."""

SPECS: dict[str, list[str]] = {
    "dense": ["dense"],
    "topk": ["topk", "topk:k=320", "topk:k=8,bits=8", "topk:candidates=3", "topk:mass=0.95"],
    "lattice": [
        "lattice", "lattice:k=1000000,resolution=240", "lattice:k=1000000,resolution=720", "lattice:k=8,resolution=100",
        "lattice:k=32,resolution=100", "lattice:mass=0.95,cut=conformal",
    ],
    "split": ["split", "split:bits=8", "split:downlink=candidates"],
    "coupled": ["coupled"],
    "stream": ["stream"],
    "server": ["server"],
}  # fmt: skip
"""The options whose bits are listed, as `airdraft run --scheme` takes them."""


def code_block(name: str) -> str:
    """The functions of a page."""
    parts = [textwrap.dedent(inspect.getsource(each)).rstrip() for each in CODE[name]]
    return "```python\n" + "\n\n\n".join(parts) + "\n```"


def bits_block(name: str) -> str:
    """Bits of a draft, and bytes of the answer to a round, without headers of the layers below."""
    sizes = " | ".join(f"V = {vocab:,}" for vocab in VOCABULARIES)
    lines = [f"| bits up for a draft | {sizes} |", "|---|" + "---:|" * len(VOCABULARIES)]
    for words in SPECS[name]:
        _, spec = spec_of(words, SchemeSpec(name))
        at_most = "at most " if spec.mass < 1 else ""
        cells = []
        for vocab in VOCABULARIES:
            try:
                cells.append(f"{at_most}{wire_of(spec, vocab, 0).draft_bits:,}")
            except BadParameterError:
                cells.append("refused")
        lines.append(f"| `{words}` | {' | '.join(cells)} |")
    answers = [wire_of(SchemeSpec(name), vocab, 0) for vocab in VOCABULARIES]
    lines.append(f"| bytes down, an answer | {' | '.join(str(each.answer_bytes) for each in answers)} |")
    if any(each.reject_bytes for each in answers):
        lines.append(f"| and with a rejection | {' | '.join(f'{each.reject_bytes:,}' for each in answers)} |")
    return "\n".join(lines)


def blocks(name: str) -> dict[str, str]:
    """The marked blocks of a page."""
    return {"code": code_block(name)} | ({"bits": bits_block(name)} if name in SPECS else {})


def main() -> int:
    """Renew all pages."""
    parser("schemes", "Write the bits and the code on the pages of docs/schemes.").parse_args()
    for name in CODE:
        renew(FOLDER / f"{name}.md", blocks(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
