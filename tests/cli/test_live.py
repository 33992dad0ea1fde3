"""`--live` in a real terminal, against a real edge: a board under the text, and the text as it would be without."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..e2e.processes import announced, started
from ..suites import mostly_slow

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
termios = pytest.importorskip("termios")

WIDTH, HEIGHT = 80, 24
PROMPT = "def parse(text):\n"
NAMES = ("won", "drafts", "link", "cost")
WORDS = ("run", PROMPT, "--max-tokens", "24", "--scheme", "stream", "--race", "off")
SLOWLY = ("--profile", "phone-8b")
"""A draft that takes its time, so that a text is drawn several times on any machine."""
PARTS = re.compile(r"\x1b\[(?P<args>[?\d;]*)(?P<what>[A-Za-z])|(?P<char>.)", re.DOTALL)


class Terminal:
    """What a terminal shows of the few codes that are sent to it."""

    def __init__(self) -> None:
        self.rows, self.row, self.column = [""], 0, 0
        self.colours = set[str]()

    def take(self, said: str) -> None:
        for part in PARTS.finditer(said):
            args, what, char = part["args"], part["what"], part["char"]
            if what == "m":
                self.colours |= {code for code in args.split(";") if code in {"32", "33", "34", "35", "36"}}
            elif what == "A":
                self.row -= int(args or 1)
            elif what == "K":
                assert args == "2"
                self.rows[self.row] = ""
            elif what is not None:
                assert what in "hl", f"an unknown code {part[0]!r}"
            elif char == "\r":
                self.column = 0
            elif char == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            else:
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[: self.column] + char + row[self.column + 1 :]
                self.column += 1


def in_terminal(
    words: tuple[str, ...],
    typed: str = "",
    watch: Callable[[str, subprocess.Popen[bytes]], None] = lambda said, process: None,
    **environment: str,
) -> tuple[Terminal, list[str], int]:
    """Run airdraft in a terminal of 80 columns. Returns: what is seen at the end, each picture, and the exit code.

    watch: is told all that was said so far, and the process, whenever there is more.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (HEIGHT, WIDTH))
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "airdraft", *words], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=plain | {"TERM": "xterm-256color"} | environment,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed.encode())
    terminal, pictures, end = Terminal(), list[str](), time.monotonic() + 100
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    try:
        said = b""
        while time.monotonic() < end:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                read = os.read(ours, 1 << 16)
            except OSError:  # Linux says so that the other side is closed
                break
            if not read:
                break
            said += read
            watch(said.decode(encoding, "replace"), process)
        terminal.take(said.decode(encoding))
        pictures = said.decode(encoding).split("\x1b[1A\x1b[2K" * 3)
        return terminal, pictures, process.wait(10)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def boxed(pictures: list[str]) -> list[str]:
    """The pictures that have a board."""
    return [picture for picture in pictures if any(corner in picture for corner in ("╰", "+-"))]


def widths(pictures: list[str]) -> list[int]:
    """Of all lines of boards in pictures."""
    plain = [PARTS.sub(lambda part: part["char"] or "", picture) for picture in pictures]
    return [len(line) for picture in plain for line in re.split(r"[\r\n]", picture) if line.startswith(tuple("╭│╰|+"))]


def alone(edge: str) -> str:
    """The text, as JSON tells it."""
    words = [sys.executable, "-m", "airdraft", *WORDS, "--edge", edge, "--json"]
    return PROMPT + str(json.loads(subprocess.run(words, capture_output=True, check=True, timeout=120).stdout)["text"])


@pytest.mark.parametrize(
    "environment", mostly_slow([{}, {"NO_COLOR": "1"}, {"PYTHONIOENCODING": "cp1252"}, {"TERM": "dumb"}], often=({},))
)
def test_a_board_stands_under_the_text_and_leaves_it_whole(edge: str, environment: dict[str, str]) -> None:
    terminal, pictures, code = in_terminal((*WORDS, "--edge", edge, "--live", *SLOWLY), **environment)
    assert code == 0
    text = alone(edge)
    lines = [row.rstrip() for row in terminal.rows]
    assert lines[: text.count("\n") + 1] == [line.rstrip() for line in text.split("\n")]
    assert [row.split()[0] for row in lines[text.count("\n") + 2 :] if row.startswith(NAMES)] == [*NAMES]
    drawn = boxed(pictures)
    if environment.get("TERM") == "dumb":
        assert not drawn
        return
    assert len(drawn) >= 3
    assert any("tokens/s" in picture for picture in drawn)
    assert max(widths(drawn)) <= WIDTH
    assert bool(terminal.colours) == ("NO_COLOR" not in environment)
    assert ("╰" in "".join(drawn)) == ("PYTHONIOENCODING" not in environment)


def test_without_a_terminal_there_are_lines(edge: str) -> None:
    words = [sys.executable, "-m", "airdraft", *WORDS, "--edge", edge, "--live"]
    ended = subprocess.run(words, capture_output=True, check=True, timeout=120, env=os.environ | {"COLUMNS": "80"})
    said = ended.stdout.decode()
    assert (ended.stderr, "\x1b" in said) == (b"", False)
    text = alone(edge)
    assert said.startswith(text + "\n")
    heading, *rest = said.removeprefix(text + "\n").splitlines()
    told = re.fullmatch(r"[a-z]+ · [\d.]+ tokens/s · (?:[\d.]+ lately · )?(\d+) tokens in [\d.]+ s", heading)
    assert told
    assert [line.split()[0] for line in rest[:4]] == [*NAMES]
    won = dict(re.findall(r"(\w+) (\d+)", rest[0].removeprefix("won")))
    assert sum(map(int, won.values())) == int(told[1])


def test_it_is_not_for_programs(edge: str) -> None:
    words = [sys.executable, "-m", "airdraft", *WORDS, "--edge", edge, "--live", "--json"]
    ended = subprocess.run(words, capture_output=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.decode().startswith("airdraft: --live is for people and --json for programs; ")


@pytest.mark.slow
def test_everything_in_processes_of_its_own() -> None:
    _, pictures, code = in_terminal(
        (*WORDS, "--live", "--rtt-ms", "20", "--uplink-mbps", "20", "--profile", "phone-8b")
    )
    assert code == 0
    assert any("in flight" in each and "▸" in each for each in pictures)
    assert any("compute imitates phone-8b, link emulated" in each for each in pictures)
    assert max(widths(boxed(pictures))) <= WIDTH


@pytest.mark.slow
def test_a_chat_has_a_board_for_each_answer(edge: str, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for each in messages %}# {{ each.content }}\n{% endfor %}def ")
    words = (
        "chat",
        "--edge",
        edge,
        "--live",
        "--chat-template",
        str(template),
        "--max-tokens",
        "24",
        "--draft",
        "draft",
    )
    terminal, pictures, code = in_terminal(words, typed="one\ntwo\n/exit\n")
    assert code == 0
    shown = [row for row in terminal.rows if row.startswith("won ")]
    assert len(shown) == 2
    assert max(widths(boxed(pictures))) <= WIDTH
    assert any("tokens/s" in each for each in pictures)


@pytest.mark.slow
def test_an_edge_that_dies_is_told_above_the_board() -> None:
    with started("edge", "--port", "0", "--json", "--profile", "phone-70b") as edge:

        def watch(said: str, process: subprocess.Popen[bytes]) -> None:
            if "tokens/s" in said and edge.poll() is None:
                edge.kill()
            elif not stopped and "no edge answers" in said.partition("waiting up to 60 s")[2]:
                stopped.append(True)
                process.send_signal(signal.SIGINT)

        stopped: list[bool] = []
        url = announced(edge)["url"]
        terminal, _, code = in_terminal(("run", PROMPT, "--edge", url, "--max-tokens", "300", "--live"), watch=watch)
    assert code == 130
    text = [row.rstrip() for row in terminal.rows]
    assert len([row for row in text if "waiting up to 60 s" in row]) == 1
    assert not [row for row in text if row.startswith(("╭", "│", "╰"))]
    assert [row.split()[0] for row in text if row.startswith(NAMES)] == [*NAMES]
