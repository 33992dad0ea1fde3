"""`python -m bench.animation [OUT.svg]`: a race of `server` against `auto` as one animated picture; docs/race.svg
without OUT.

The text is the shipped target's, recorded; both ways write it with the real machines of the protocol in virtual time,
so that this computer's load is no part of it. The picture has no script: CSS shows each token when it came, in real
time, and shows all of them where motion is unwanted. Its colours are the page's.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from airdraft.control.auto import AUTO
from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.lab.record import record
from airdraft.lab.virtual import cell
from airdraft.lab.wall.schemes import PROMPTS
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer
from airdraft.page.replay import HERE
from airdraft.sim.virtual import VirtualText
from airdraft.telemetry.winners import legend, winners
from bench.pages import ROOT, parser

OUT = ROOT / "docs" / "race.svg"
WAYS = {schemes.SERVER: "the edge alone, streamed", AUTO: "drafted on the device, verified at the edge"}
PROMPT, TOKENS, TEMPERATURE, SEED = PROMPTS[1], 140, 0.7, 0
RTT_MS, UP_MBPS, DOWN_MBPS, DRAFT_MS, VERIFY_MS = 20.0, 20.0, 100.0, 15.0, 30.0
REST_S = 4.0
"""Seconds for which the last picture stands before the race begins again."""
WIDTH, LANE, COLUMNS, LETTER, LINE, TOP = 932, 450, 64, 6.65, 16, 102
LEFT, RIGHT, CHART, STEP_S = 60, WIDTH - 130, 110, 0.5
"""Sides and height of the chart of tokens over time, and the seconds between two pictures of a speed."""
_COLOURS = re.compile(r"^:root(?:\[data-theme=\"dark\"\])? \{(.*?)\}", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Token:
    """A token of a text: its words, who found it, and when it came in seconds after the text began."""

    text: str
    by: str
    t: float


def race() -> tuple[str, dict[str, list[Token]]]:
    """Write one text both ways. Returns: the prompt, and the tokens of each way."""
    draft, tokenizer = load("draft")
    target, _ = load("target")
    params, size = SamplingParams(TEMPERATURE), tokenizer.vocab_size
    recording = record(draft, target, [tokenizer.encode(PROMPT)], params, TOKENS, SEED, size, "pair")
    setting = cell.constant(RTT_MS, UP_MBPS, DRAFT_MS, VERIFY_MS, DOWN_MBPS)
    stream = SchemeSpec(schemes.STREAM)
    found = {}
    for name in WAYS:
        texts: list[VirtualText] = []
        policy = cell.auto(size, stream) if name == AUTO else None
        spec = stream if name == AUTO else SchemeSpec(name)
        cell.run(recording, setting, spec, policy=policy, on_text=texts.append)
        found[name] = _told(texts[0], tokenizer)
    return PROMPT, found


def _told(text: VirtualText, tokenizer: Tokenizer) -> list[Token]:
    spell = tokenizer.stream()
    return [
        Token(spell.push(token), by, at_s - text.began_s)
        for at_s, event in text.commits
        for token, by in zip(event.tokens, winners(event), strict=True)
    ]


def drawn(prompt: str, found: dict[str, list[Token]]) -> str:
    """The picture, as SVG."""
    whole = max(tokens[-1].t for tokens in found.values()) + REST_S
    lanes = [list(_laid(prompt, tokens)) for tokens in found.values()]
    height = TOP + LINE * (1 + max(line for lane in lanes for _, line, _ in lane))
    clock = _Clock(whole)
    body = [
        part
        for at, (name, lane) in enumerate(zip(found, lanes, strict=True))
        for part in _lane(8 + at * (WIDTH // 2), name, lane, found[name], clock)
    ]
    body += _chart(height + 24, found, clock)
    total = height + 24 + CHART + 58
    body += _legend(total - 18, found)
    speeds = {name: len(tokens) / tokens[-1].t for name, tokens in found.items()}
    said = "; ".join(f"{name} {speed:.1f} tokens/s" for name, speed in speeds.items())
    setting = (
        f"Simulated in virtual time: {UP_MBPS:g} Mbit/s up, {DOWN_MBPS:g} down, RTT {RTT_MS:g} ms; a draft "
        f"{DRAFT_MS:g} ms, a forward of the target {VERIFY_MS:g} ms; the shipped pair’s own tokens"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
            'role="img" aria-labelledby="title about">',
            f'<title id="title">The same text by two ways: {said}</title>',
            f'<desc id="about">{setting}. Made by python -m bench.animation.</desc>',
            f"<style>{_style()}{clock.rules()}</style>",
            f'<rect class="card" width="{WIDTH}" height="{total}" rx="10"/>',
            '<text class="head" x="16" y="27">One prompt, two ways, the same text to the token</text>',
            f'<text class="soft" x="16" y="45">{setting}.</text>',
            *body,
            "</svg>\n",
        ]
    )


class _Clock:
    """The times of a loop at which things appear, each of them once."""

    def __init__(self, whole_s: float) -> None:
        self._whole_s, self._names = whole_s, dict[tuple[float, float | None], str]()

    def shown(self, t: float, until: float | None = None) -> str:
        """The class of what is shown from `t` on, or up to another time."""
        name = self._names.setdefault((t, until), f"t{len(self._names)}")
        return name if until is None else f"{name} passing"

    def rules(self) -> str:
        """The rules of these classes."""
        whole, over = f"{self._whole_s:.3f}s", f"{100 - 100 * REST_S / self._whole_s:.3f}%"
        lines = ["@media (prefers-reduced-motion: no-preference){"]
        for (t, until), name in self._names.items():
            begin, end = (f"{100 * at / self._whole_s:.3f}%" for at in (t, until or self._whole_s))
            steps = f"0%{{opacity:0}}{begin}{{opacity:1}}" + ("" if until is None else f"{end}{{opacity:0}}")
            lines.append(f"@keyframes {name}{{{steps}}}.{name}{{animation:{name} {whole} step-end infinite}}")
        lines.append(f"@keyframes sweep{{0%{{width:0}}{over},100%{{width:{RIGHT - LEFT}px}}}}")
        return "\n".join([*lines, f".sweep{{animation:sweep {whole} linear infinite}}}}"])


def _style() -> str:
    """The page's colours, light and dark, and what is drawn with them."""
    light, dark = _COLOURS.findall((HERE / "page.css").read_text("utf-8"))
    names = [name for name in legend() if f"--{name}:" in light]
    return "\n".join(
        [
            f":root{{{' '.join(light.split())}}}",
            f"@media (prefers-color-scheme: dark){{:root{{{' '.join(dark.split())}}}}}",
            "text{font:11px var(--mono);fill:var(--ink);white-space:pre}",
            ".head{font:600 16px system-ui,sans-serif}.name{font:600 14px var(--mono)}",
            ".soft{font:11.5px system-ui,sans-serif;fill:var(--soft)}.soft.prompt{font:11px var(--mono)}",
            ".speed{font:600 14px system-ui,sans-serif;text-anchor:end}.passing{opacity:0}",
            ".card{fill:var(--bg)}.lane{fill:var(--card);stroke:var(--line)}.axis{stroke:var(--line)}",
            ".curve{fill:none;stroke-width:2.5;stroke-linejoin:round}",
            *(f"path.{name}{{fill:var(--{name});fill-opacity:.28}}" for name in names),
            "path.raced{fill-opacity:.1}",
            f".{schemes.SERVER}{{stroke:var(--raced)}}.{AUTO}{{stroke:var(--accent)}}",
        ]
    )


def _laid(prompt: str, tokens: Sequence[Token]) -> Iterator[tuple[Token | None, int, tuple[int, str]]]:
    """Yield the pieces of a text with their lines and columns; those of the prompt have no token."""
    line = column = 0
    for token, text in [(None, prompt), *((each, each.text) for each in tokens)]:
        for at, rest in enumerate(text.split("\n")):
            if at:
                line, column = line + 1, 0
            for piece in _cut(rest, column):
                if piece and column == COLUMNS:
                    line, column = line + 1, 0
                if piece.strip():
                    yield token, line, (column + len(piece) - len(piece.lstrip()), piece.strip())
                column += len(piece)


def _cut(text: str, column: int) -> list[str]:
    """A text that begins at a column, in pieces that fill a line or end with it."""
    first = COLUMNS - column if column < COLUMNS else COLUMNS
    return [text[:first], *(text[at : at + COLUMNS] for at in range(first, len(text), COLUMNS))]


def _lane(
    left: int, name: str, pieces: list[tuple[Token | None, int, tuple[int, str]]], tokens: list[Token], clock: _Clock
) -> Iterator[str]:
    bottom = TOP + LINE * max(line for _, line, _ in pieces) + 12
    yield f'<rect class="lane" x="{left}" y="56" width="{LANE}" height="{bottom - 56}" rx="8"/>'
    yield f'<text class="name" x="{left + 12}" y="76">{name}</text>'
    yield f'<text class="soft" x="{left + 12 + 9 * len(name) + 6}" y="76">{WAYS[name]}</text>'
    last = tokens[-1].t
    steps = [STEP_S * step for step in range(1, int(last / STEP_S) + 1)]
    for t, until in zip(steps, [*steps[1:], last], strict=True):
        count = sum(each.t <= t for each in tokens)
        yield _speed(left, f"{count / t:.0f} tokens/s", clock.shown(t, until))
    yield _speed(left, f"{len(tokens) / last:.1f} tokens/s", clock.shown(last))
    for token, line, (column, text) in pieces:
        x, y, wide = left + 12 + LETTER * column, TOP + LINE * line, LETTER * len(text)
        words = f'x="{x:.1f}" y="{y}" textLength="{wide:.1f}">{escape(text)}</text>'
        if token is None:
            yield f'<text class="soft prompt" {words}'
        else:
            mark = f'<path class="{token.by}" d="M{x:.1f} {y - 11}h{wide:.1f}v14h-{wide:.1f}z"/>'
            yield f'<g class="{clock.shown(token.t)}">{mark}<text {words}</g>'


def _speed(left: int, words: str, kind: str) -> str:
    return f'<text class="speed {kind}" x="{left + LANE - 12}" y="76">{words}</text>'


def _chart(top: int, found: dict[str, list[Token]], clock: _Clock) -> Iterator[str]:
    """Tokens over time, drawn as time passes."""
    bottom, most = top + CHART, max(map(len, found.values()))
    seconds = max(each[-1].t for each in found.values())
    wide = (RIGHT - LEFT) / seconds
    yield f'<path class="axis" fill="none" d="M{LEFT} {top}V{bottom}H{RIGHT}"/>'
    yield f'<text class="soft" x="{LEFT - 46}" y="{top + 8}">tokens</text>'
    for second in range(int(seconds) + 1):
        yield f'<text class="soft" x="{LEFT + second * wide:.1f}" y="{bottom + 16}">{second} s</text>'
    past = f'x="{LEFT}" y="{top - 8}" width="{RIGHT - LEFT}" height="{CHART + 16}"'
    yield f'<clipPath id="past"><rect class="sweep" {past}/></clipPath>'
    for name, tokens in found.items():
        path = f"M{LEFT} {bottom}"
        for count, token in enumerate(tokens, 1):
            path += f"H{LEFT + token.t * wide:.1f}V{bottom - (bottom - top) * count / most:.1f}"
        yield f'<path class="curve {name}" clip-path="url(#past)" d="{path}"/>'
        x, shown = LEFT + tokens[-1].t * wide, clock.shown(tokens[-1].t)
        yield f'<text class="name {shown}" x="{x + 8:.1f}" y="{top + 2}">{name} {tokens[-1].t:.2f} s</text>'


def _legend(y: int, found: dict[str, list[Token]]) -> Iterator[str]:
    """Who found how many of the tokens of `auto`."""
    won, x = Counter(token.by for token in found[AUTO]), 16.0
    yield f'<text class="soft" x="{x}" y="{y}">auto’s tokens, by who found them:</text>'
    x += 216
    for name, meaning in legend().items():
        if won[name]:
            words = f"{name} {won[name]}"
            wide = 8.6 * len(words) + 10
            yield f'<path class="{name}" d="M{x - 5} {y - 14}h{wide:.1f}v20h-{wide:.1f}z"/>'
            yield f'<text class="name" x="{x}" y="{y}">{words}<title>{meaning}</title></text>'
            x = round(x + wide + 16, 1)


def main() -> int:
    """Draw it."""
    line = parser("animation", "Draw a race of server against auto, as it was run, as one animated SVG.")
    line.add_argument("out", type=Path, nargs="?", default=OUT, help="where it goes; without it: docs/race.svg")
    out: Path = line.parse_args().out
    picture = drawn(*race())
    out.write_text(picture, "utf-8")
    print(f"{out}: {len(picture.encode()) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
