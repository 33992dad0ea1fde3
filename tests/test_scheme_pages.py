"""docs/schemes: a page for every scheme, which shows the code and the bits that there are."""

from __future__ import annotations

import re

import pytest

from airdraft.core.schemes import SCHEMES
from bench.schemes import CODE, FOLDER, SCREEN, blocks

HEADINGS = ("Over the air", "The rule", "Why it is exact", "What it costs", "Source", "The code")


@pytest.mark.parametrize("name", CODE)
def test_a_page_shows_what_the_code_does(name: str) -> None:
    page = (FOLDER / f"{name}.md").read_text("utf-8")
    for block, made in blocks(name).items():
        found = re.search(rf"<!-- {block}:begin -->\n(.*?)\n<!-- {block}:end -->", page, re.DOTALL)
        assert found, f"docs/schemes/{name}.md has no block {block}"
        assert found[1] == made, "run `python -m bench.schemes`"
    assert blocks(name)["code"].count("\n") <= SCREEN


@pytest.mark.parametrize("name", CODE)
def test_a_page_says_everything_about_its_subject(name: str) -> None:
    page = (FOLDER / f"{name}.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == list(HEADINGS)
    assert f"({name}.md)" in (FOLDER / "README.md").read_text("utf-8")


def test_every_scheme_has_a_page() -> None:
    assert set(SCHEMES) <= set(CODE)
    assert {path.stem for path in FOLDER.glob("*.md")} == {*CODE, "README"}
