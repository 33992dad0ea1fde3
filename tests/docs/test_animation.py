"""The animated race of the README: whole without motion, timed with it, and nothing but a picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from bench import animation

SVG = "{http://www.w3.org/2000/svg}"
MOST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def found() -> tuple[str, dict[str, list[animation.Token]]]:
    return animation.race()


def test_both_ways_write_the_same_text_and_auto_is_no_slower(
    found: tuple[str, dict[str, list[animation.Token]]],
) -> None:
    server, auto = (found[1][name] for name in animation.WAYS)
    assert [each.text for each in server] == [each.text for each in auto]
    assert len(auto) == animation.TOKENS
    assert auto[-1].t <= server[-1].t
    assert {each.by for each in server} == {"raced"}
    assert {"model", "recovered"} < {each.by for each in auto}


def test_every_token_is_drawn_at_its_time_and_stays(found: tuple[str, dict[str, list[animation.Token]]]) -> None:
    picture = animation.drawn(*found)
    root = ET.fromstring(picture)  # noqa: S314 - our own
    whole = max(tokens[-1].t for tokens in found[1].values()) + animation.REST_S
    begins = dict(re.findall(r"@keyframes (t\d+)\{0%\{opacity:0\}([\d.]+)%\{opacity:1\}\}", picture))
    marked = [each for each in root.iter(f"{SVG}g") if each.get("class", "").startswith("t")]
    drawn = [
        (char, float(begins[each.get("class", "")]) * whole / 100)
        for each in marked
        for char in "".join((each.findtext(f"{SVG}text") or "").split())
    ]
    wanted = [
        (char, token.t) for tokens in found[1].values() for token in tokens for char in "".join(token.text.split())
    ]
    assert [char for char, _ in drawn] == [char for char, _ in wanted]
    assert [t for _, t in drawn] == pytest.approx([t for _, t in wanted], abs=1e-3)
    assert re.findall(r"\.passing\{opacity:0\}", picture)  # only what is passing is unseen where nothing moves


@pytest.mark.parametrize("picture", [animation.OUT.read_text("utf-8")])
def test_what_is_shown_is_a_picture_alone(picture: str) -> None:
    root = ET.fromstring(picture)  # noqa: S314 - our own
    assert len(picture.encode()) < MOST_BYTES
    assert not [
        each for each in root.iter() if each.tag.removeprefix(SVG) in ("script", "image", "foreignObject", "use")
    ]
    assert not [name for each in root.iter() for name in each.attrib if name.startswith("on") or "href" in name]
    assert "@import" not in picture
    assert set(re.findall(r"url\(([^)]*)\)", picture)) == {"#past"}
    for wish in ("prefers-reduced-motion: no-preference", "prefers-color-scheme: dark"):
        assert f"@media ({wish})" in picture
    assert "Simulated in virtual time" in picture
