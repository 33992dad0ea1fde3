"""`python -m bench.site`: the documentation as a site. Lays its pages out, checks their links, and builds them.

The pages are the repository's own, README first, in the tree that they have there: a link that works on one works on
the other. Files that they link to, a module say, lie beside them. The page of commands is made from the commands.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from typer.main import get_command
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.cli.explained import FULL, FoldedCommand
from bench.pages import ROOT, parser

LAID_OUT = ROOT / "build" / "docs"
COMMANDS = LAID_OUT / "docs" / "commands.md"
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def pages() -> list[Path]:
    """Every page of the repository."""
    told = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return [ROOT / line for line in told.stdout.splitlines() if not line.startswith(("tests/", "."))]


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Each link of a page that stays here: as it is written, the file that it names, and the heading, which may be
    empty."""
    for found in LINK.finditer(CODE.sub("", page.read_text("utf-8"))):
        link = found[1] or found[2]
        if not re.match(r"[a-z]+:", link):
            name, _, heading = unquote(link).partition("#")
            yield link, (page.parent / name).resolve() if name else page, heading


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as browsers find them."""
    said = CODE.sub(lambda code: "" if code[0].startswith("```") else code[0].strip("`"), page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in HEADING.findall(said)}


def broken() -> list[str]:
    """A line for every link that leads nowhere."""
    found = []
    for page in pages():
        for link, target, heading in links(page):
            is_there = target.is_relative_to(ROOT) and target.exists()
            if not is_there or (heading and target.suffix == ".md" and heading not in anchors(target)):
                found.append(f"{page.relative_to(ROOT)}: {link} leads nowhere")
    return found


def commands() -> str:
    """The page of all commands: what each says with `--help`, or `--help-all` where there is that."""
    said = ["# Commands\n"]

    def add(command: Any, *words: str) -> None:
        asked = FULL if isinstance(command, FoldedCommand) and command.folded() else "--help"
        told = CliRunner().invoke(app, [*words, asked], prog_name="airdraft", env={"COLUMNS": "100", "NO_COLOR": "1"})
        lines = "\n".join(line.rstrip() for line in told.stdout.strip().splitlines())
        title = " ".join(["airdraft", *words])
        said.append(f"{'#' * (2 + (len(words) > 1))} {title}\n\n```text\n{lines}\n```\n")
        for name, inner in getattr(command, "commands", {}).items():
            add(inner, *words, name)

    add(get_command(app))
    return "\n".join(said)


def lay_out() -> None:
    """Write the pages, and the files they link to, to `LAID_OUT`."""
    shutil.rmtree(LAID_OUT, ignore_errors=True)
    linked = {target for page in pages() for _, target, _ in links(page) if target.is_file()}
    for path in {*pages(), *linked}:
        copy = LAID_OUT / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    COMMANDS.write_text(commands(), "utf-8")


def main() -> None:
    """Check, lay out and build. Ends with exit code 1 if a link or a page is wrong."""
    parser("site", "Check every link, and build the documentation as a site, in build/site.").parse_args()
    if wrong := broken():
        sys.exit("\n".join(wrong))
    lay_out()
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    sys.exit(subprocess.run(build, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
