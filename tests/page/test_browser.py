"""The page in a browser: a race, every colour, flights, both models' chances, a chat, a replay, and no barrier."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..e2e.processes import airdraft, announced, started

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra page")
axe = pytest.importorskip("axe_playwright_python", reason="needs the extra page")

AXE = Path(axe.__file__).parent / "axe.min.js"
BROWSERS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
}
RACES = (("server", "auto"), ("topk", "coupled"), ("dense", "stream"))
PATIENCE_MS = 120_000


@dataclass
class Site:
    """A real edge and device with their pages."""

    device: str
    edge: str
    traces: Path
    edge_process: Any


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("traces")
    serving = ("--port", "0", "--page", "--json")
    there = ("--api-port", "0", "--profile", "phone-8b", "--propose", "lookup,salvage,predicted", "--draft", "draft")
    with started("edge", *serving, *there) as edge:
        at_edge = announced(edge)
        here = ("--lookup", "--offline", "draft", "--trace-dir", str(folder), "--trace-tokens")
        with started("device", "--edge", at_edge["url"], *serving, *here) as device:
            root = announced(device)["url"].removesuffix("v1")
            yield Site(root, at_edge["api"].removesuffix("v1"), folder, edge)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    found = shutil.which("chromium")
    assert found, "install Debian's chromium"
    with sync_api.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(chromium: Any, url: str, kind: str = "desktop") -> tuple[Any, list[str]]:
    """A page, and what its console and its scripts complain of."""
    page, faults = chromium.new_page(**BROWSERS[kind]), list[str]()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    page.goto(url)
    return page, faults


def barriers(page: Any) -> list[str]:
    """Serious faults that axe finds. A policy forbids scripts in the page, so the browser's own door is taken."""
    page.emulate_media(reduced_motion="reduce")  # what is still fading in has no contrast yet
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run()")
    return [
        f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def shown(page: Any, what: str, at: int = 0) -> None:
    """Wait for a token. It may be a line's end, or part of a character, and so have no extent."""
    page.locator(what).nth(at).wait_for(state="attached")


def colours(page: Any) -> set[str]:
    """The winners of all tokens that the page knows."""
    names = page.eval_on_selector_all("main .tok", "all => all.map(each => each.className.split(' ')[1])")
    return set(names)


def raced(page: Any, one: str, two: str) -> None:
    """Run a race to the end of its replay."""
    page.select_option("#one", one)
    page.select_option("#two", two)
    page.click("#racing .start")
    page.wait_for_selector("#race-player:not([hidden])", timeout=PATIENCE_MS)
    page.wait_for_selector(".lane.won")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", sorted(BROWSERS))
def test_a_race_has_every_colour_flights_chances_and_no_barrier(site: Site, chromium: Any, kind: str) -> None:
    page, faults = opened(chromium, site.device, kind)
    seen: set[str] = set()
    for one, two in RACES if kind == "desktop" else RACES[-1:]:
        raced(page, one, two)
        seen |= colours(page)
    assert kind == "phone" or {"model", "copy", "edge", "recovered", "bonus", "raced"} <= seen
    left, right = page.inner_text(".lane:nth-child(1) .words"), page.inner_text(".lane:nth-child(2) .words")
    assert "class Stack" in left
    assert len(right) > len("class Stack") + 40
    for at in (1, 2):
        canvas = page.locator(f".lane:nth-child({at}) canvas")
        assert int(canvas.get_attribute("aria-label").partition("verdicts")[0].split()[-1]) > 0
        pixels = canvas.evaluate(
            "each => new Set(new Uint32Array(each.getContext('2d').getImageData(0, 0, each.width, each.height)"
            ".data.buffer)).size"
        )
        assert pixels > 20
    words = page.locator(".lane:nth-child(2) .words")
    words.focus()
    for _ in range(60):
        page.keyboard.press("ArrowRight")
        told = page.inner_text("#tip")
        if "device’s model gave it" in told and "large model gave it" in told:
            break
    else:
        pytest.fail(f"no token has both chances: {told}")
    # A token may be part of a character or a line's end, which no pointer can reach.
    page.locator(".lane:nth-child(1) .tok:not(.later)", has_text=re.compile(r"\S")).last.hover()
    assert "large model gave it" in page.inner_text("#tip")
    assert page.evaluate("document.documentElement.scrollWidth") <= BROWSERS[kind]["viewport"]["width"]
    for tab in ("race", "live", "chat"):
        page.click(f"#tab-{tab}")
        page.wait_for_timeout(300)
        assert barriers(page) == []
    page.click("#theme")
    assert barriers(page) == []
    assert faults == []
    page.close()


@pytest.mark.timeout(600)
def test_a_chat_is_coloured_and_both_pages_show_it_live(site: Site, chromium: Any) -> None:
    page, faults = opened(chromium, site.device)
    at_edge, more = opened(chromium, site.edge)
    page.click("#tab-chat")
    page.fill("#words", "class Stack:\n    def push(self, item):\n        self._items")
    page.keyboard.press("Enter")
    shown(page, "#talk .tok", 10)
    page.click("#tab-live")
    shown(page, "#texts .tok", 10)
    page.locator("#tiles dd", has_text=" ms").wait_for()
    shown(at_edge, "#texts .tok", 10)
    # Who drafts for the chat is `auto`'s affair, and whether the edge's model is worth its time. A copy of what a
    # client predicts costs nothing, and is always right where that is what the target wrote before.
    asked = {"model": "target", "prompt": "def f(x):", "max_tokens": 60, "temperature": 0}
    answers = at_edge.request.post(f"{site.edge}v1/completions", data=asked)
    predicted = {"type": "content", "content": answers.json()["choices"][0]["text"]}
    assert at_edge.request.post(f"{site.edge}v1/completions", data=asked | {"prediction": predicted}).ok
    shown(at_edge, "#texts .tok.predicted")
    assert "waiting forwards" in at_edge.inner_text("#tiles")
    assert barriers(at_edge) == []
    assert faults == more == []
    page.close()
    at_edge.close()


@pytest.mark.timeout(600)
def test_a_trace_plays_again_in_one_file(site: Site, chromium: Any, tmp_path: Path) -> None:
    page, _ = opened(chromium, site.device)
    raced(page, "server", "coupled")
    page.close()
    last = sorted(site.traces.iterdir())[-2:]
    code, told, errors = airdraft("trace", "view", *map(str, last), "--out", str(tmp_path / "replay.html"))
    assert (code, errors) == (0, ""), told
    page, faults = opened(chromium, (tmp_path / "replay.html").as_uri())
    slider = page.locator("#replay-player input")
    counts = []
    for value in (0, 500, 1000):
        slider.evaluate("(each, value) => { each.value = value; each.dispatchEvent(new Event('input')); }", value)
        counts.append(page.locator(".tok:not(.later)").count() - page.locator("footer .tok").count())
    assert 0 == counts[0] < counts[1] < counts[2]
    assert "class Stack" in page.inner_text(".lane:nth-child(2) .words")
    assert barriers(page) == []
    assert faults == []
    page.close()
    code, told, errors = airdraft("trace", "view", str(last[1]), "--terminal")
    assert (code, errors) == (0, "")
    assert "class Stack" in told
    events = [json.loads(line) for line in last[1].read_text().splitlines()]
    written = "".join(piece for each in events if each["event"] == "committed" for piece in each["pieces"])
    assert written in told


@pytest.mark.timeout(600)
def test_what_no_edge_has_verified_looks_so(site: Site, chromium: Any) -> None:
    """The last test: it ends the edge."""
    page, _ = opened(chromium, site.device)
    site.edge_process.kill()
    site.edge_process.wait()
    page.click("#tab-chat")
    page.fill("#words", "def f(x):")
    page.keyboard.press("Enter")
    shown(page, "#talk .tok.unverified", 3)
    page.close()
