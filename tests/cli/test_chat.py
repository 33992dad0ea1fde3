"""`airdraft chat`: processes of its own, an edge of its own, scripts, a terminal, files and mistakes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airdraft import cli
from airdraft.api.template import ChatTemplate
from airdraft.chat.history import Exchange, History, SavedChat, load, save
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.models.registry import load as load_model
from airdraft.sim import alone

from ..e2e.processes import ENVIRONMENT, airdraft, command
from ..pairs import copied

TEMPLATE = (
    "{% for m in messages %}{{ '# ' + m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'def ' }}{% endif %}"
)
Chat = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The shipped target and draft, each in a folder with a chat template, and one with an opinion on sampling."""
    base = tmp_path_factory.mktemp("chat")
    for which in ("target", "draft"):
        (copied(which, base / which) / "chat_template.jinja").write_text(TEMPLATE)  # type: ignore[arg-type]
    path = base / "draft" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": 0.4, "top_k": 7}))
    return str(base / "target"), str(base / "draft")


@pytest.fixture
def chat(
    edge: str, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Chat:
    """Exit code, standard output and standard error of a scripted chat over an edge, in this process."""

    def run(stdin: str | bytes, *words: str) -> tuple[int | str | None, str, str]:
        given = ["airdraft", "chat", "--edge", edge, "--draft", folders[1], "--max-tokens", "12", *words]
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "argv", given)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return run


def answers(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def truth(folder: str, messages: list[tuple[str, str]], params: SamplingParams, seed: int, most: int) -> list[int]:
    """What the target alone answers."""
    template = ChatTemplate.of(Path(folder))
    assert template is not None
    said = [{"role": role, "content": content} for role, content in messages]
    prompt = template.encode(template.render(said, {"add_generation_prompt": True}))
    target, tokenizer = load_model("target")
    return list(alone.write(target, prompt, params, seed, most, vocab_size=tokenizer.vocab_size))


def test_turns_are_the_targets_own_and_the_history_is_kept(chat: Chat, folders: tuple[str, str]) -> None:
    script = 'one\n"""two\nlines"""\n\nthree\\\nand\n'
    code, out, notes = chat(script, "--json", "--system", "be brief", "--seed", "3")
    assert (code, notes) == (0, "")
    first, second, third = answers(out)
    said = [("system", "be brief")]
    for each, question in ((first, "one"), (second, "two\nlines"), (third, "three\nand")):
        said.append(("user", question))
        # The folder's own opinion on sampling holds where no option is given.
        assert each["ids"] == truth(folders[1], said, SamplingParams(0.4, 7), 3, 12)
        assert (each["question"], each["seed"], each["temperature"]) == (question, 3, 0.4)
        assert each["prompt_tokens"] > 0
        said.append(("assistant", each["text"]))


def test_settings_change_in_between(chat: Chat, folders: tuple[str, str]) -> None:
    script = "/seed 5\n/temperature 0\n/scheme server\n/system x y\none\n/stats\n/clear\n/system -\n//two\n"
    code, out, notes = chat(script, "--json", "--top-k", "0")
    assert (code, notes) == (0, "")
    first, stats, second = answers(out)
    assert (first["scheme"], first["seed"], first["temperature"]) == ("server", 5, 0)
    assert first["ids"] == truth(folders[1], [("system", "x y"), ("user", "one")], SamplingParams(0.0), 5, 12)
    assert second["ids"] == truth(folders[1], [("user", "/two")], SamplingParams(0.0), 5, 12)
    assert (stats["event"], stats["turns"], stats["tokens"]) == ("stats", 1, len(first["ids"]))
    assert stats["filled"] == first["prompt_tokens"] + len(first["ids"])


SCHEMA = '{"enum": ["yes", "no"]}'
TYPES = """
from typing import Literal

import msgspec


class Town(msgspec.Struct):
    class River(msgspec.Struct):
        length_km: Literal[1, 2]

    name: Literal["Bonn", "Ulm"]
"""


def test_answers_are_json_by_a_schema_or_a_type(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answer.json").write_text(SCHEMA)
    (tmp_path / "towns_of_a_chat.py").write_text(TYPES)
    script = (
        "one\ntwo\n/schema towns_of_a_chat:Town\nthree\n/schema towns_of_a_chat:Town.River\nfour\n/save saved.json\n"
        "/schema -\nfive\n"
    )
    code, out, notes = chat(script, "--json", "--schema", "answer.json", "--max-tokens", "40")
    assert (code, notes) == (0, "")
    *held, free = answers(out)
    assert [each["reason"] for each in held] == ["stop"] * 4
    one, two, three, four = (json.loads(each["text"]) for each in held)
    assert {one, two} <= {"yes", "no"}
    assert three["name"] in ("Bonn", "Ulm")
    assert four["length_km"] in (1, 2)
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(free["text"])
    code, out, notes = chat("/load saved.json\nsix\n/stats\n", "--json", "--max-tokens", "40")
    assert (code, notes) == (0, "")
    six, stats = answers(out)
    assert json.loads(six["text"]).keys() == {"length_km"}
    assert stats["schema"] == "saved.json"


def test_plain_answers_and_what_is_said_of_them(chat: Chat) -> None:
    code, out, notes = chat("one\n/exit\ntwo\n", "--max-tokens", "5")
    assert code == 0
    assert out.endswith("\n\n")
    cut, status = notes.splitlines()
    assert cut == "[cut off after 5 tokens, the most that were asked for: the chat goes on from there]"
    assert status.startswith("5 tokens in ")
    assert " tokens/s, " in status
    assert " ms, " in status
    assert status.endswith(" (auto)")


def test_private_parts_are_sent_as_such_and_saved_nowhere(chat: Chat, folders: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    code, out, notes = chat(
        f"hello\nmy word is <private>quokka</private>!\nand now?\n/save {path}\n", "--json", "--seed", "3"
    )
    assert code == 2
    assert "private parts, which go into no file" in notes
    assert not path.exists()
    first, second, third = answers(out)
    assert first["private"] is None
    assert 0 < first["prompt_tokens"] < second["private"] == third["private"] < second["prompt_tokens"]
    said = [("user", "hello"), ("assistant", first["text"]), ("user", "my word is quokka!")]
    assert second["ids"] == truth(folders[1], said, SamplingParams(0.4, 7), 3, 12)
    code, _, notes = chat("my word is <private>quokka\n", "--json")
    assert (code, "</private>" in notes) == (2, True)


def test_a_chat_goes_on_where_it_was_saved(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    code, out, _ = chat(f"/seed 9\none\n/save {path}\ntwo\n", "--json", "--system", "s")
    first, second = answers(out)
    assert code == 0
    assert load(path).messages[-1].content == first["text"]
    code, out, _ = chat(f"/load {path}\ntwo\n/save {path}\n", "--json", "--temperature", "1")
    assert code == 0
    (again,) = answers(out)
    assert (again["ids"], again["seed"], again["temperature"]) == (second["ids"], 9, 0.4)
    assert len(load(path).messages) == 5


def test_the_oldest_turns_are_left_out_when_the_context_ends(chat: Chat, tmp_path: Path) -> None:
    context = json.loads((Path(__file__).parents[2] / "pair/target/config.json").read_text())["max_position_embeddings"]
    path = tmp_path / "long.json"
    history = History(None, [Exchange("q" + " a" * (context // 8), "b" * 8) for _ in range(9)])
    save(SavedChat(history.said()), path)
    code, out, notes = chat(f"/load {path}\none\ntwo\n/save {tmp_path / 'all'}\n", "--json")
    assert (code, notes) == (0, "")
    first, second = answers(out)
    assert 0 < first["left_out"] < 9
    assert first["prompt_tokens"] <= context // 2
    assert second["left_out"] == 0
    assert len(load(tmp_path / "all").messages) == 2 * 11
    code, _, notes = chat("x " * context + "\n")
    assert code == 2
    assert "shorten it" in notes


@pytest.mark.parametrize(
    ("stdin", "words", "thing"),
    [
        ("/nope\n", (), "there is no command /nope"),
        ("/temperature hot\n", (), "/temperature takes a number, not 'hot'"),
        ("/temperature -1\n", (), "temperature is -1.0"),
        ("/seed 1.5\n", (), "/seed takes a number"),
        ("/seed -1\n", (), "seed is -1"),
        ("/scheme nope\n", (), "scheme 'nope' is unknown"),
        ("/schema /no/such\n", (), "cannot be read"),
        ("/schema no_such_module:X\n", (), "cannot be imported"),
        ("/schema a\0b\n", (), "NUL"),
        ("/schema json:JSONDecoder\n", (), "no JSON schema"),
        ("/save\n", (), "name one, /save FILE"),
        ("/save /no/such/folder/x\n", (), "cannot be written"),
        ("/load /no/such\n", (), "is no file"),
        ("/stats now\n", (), "/stats takes nothing"),
        ('"""never\nended\n', (), "in the midst of a message"),
        ("never ended\\\n", (), "in the midst of a message"),
        (b"\xff\xfe\n", (), "not UTF-8"),
        ("", ("--max-tokens", "0"), "max-tokens is 0"),
        ("", ("--scheme", "nope"), "scheme 'nope' is unknown"),
        ("", ("--schema", "json:Nope"), "json has no Nope"),
        ("", ("--schema", "/no/such"), "cannot be read"),
        ("", ("--draft", "draft"), "draft has no chat template"),
        ("", ("--target", "target"), "leave one of them out"),
        ("", ("--chat-template", "/no/such"), "name a Jinja file"),
    ],
)
def test_mistakes(chat: Chat, stdin: str | bytes, words: tuple[str, ...], thing: str) -> None:
    code, _, line = chat(stdin, *words)
    assert code == 2
    assert line.startswith("airdraft: ")
    assert line.count("\n") == 1
    assert thing in line


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"messages": 3}', '{"messages": [{"role": "user", "content": "x"}]}', "\xff",
        '{"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}]}',
        '{"messages": [{"role": "tool", "content": "x"}]}', '{"messages": [], "more": 1}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_chat_is_neither_loaded_nor_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadParameterError, match="holds no chat"):
        load(path)
    with pytest.raises(BadParameterError, match="name another file"):
        save(SavedChat([]), path)
    assert path.read_bytes() == text.encode("latin-1")
    assert list(tmp_path.iterdir()) == [path]


def test_advice_out_of_range_is_refused_and_a_penalty_is_told(
    chat: Chat, folders: tuple[str, str], tmp_path: Path
) -> None:
    (copied("draft", tmp_path / "d") / "chat_template.jinja").write_text(TEMPLATE)
    path = tmp_path / "d" / "generation_config.json"
    path.write_text('{"top_p": 7, "repetition_penalty": 1.2}')
    code, _, line = chat("", "--draft", str(tmp_path / "d"))
    assert code == 2
    assert "top_p = 7" in line
    code, _, line = chat("", "--draft", str(tmp_path / "d"), "--top-p", "1")
    assert code == 0
    assert "repetition_penalty 1.2, which is not applied" in line


def test_a_chat_without_a_draft(chat: Chat, folders: tuple[str, str]) -> None:
    code, out, notes = chat("one\n", "--json", "--draft", "none", "--tokenizer", folders[0])
    assert (code, notes) == (0, "")
    (answer,) = answers(out)
    assert answer["ids"] == truth(folders[0], [("user", "one")], SamplingParams(0.7), 0, 12)
    assert (answer["scheme"], answer["drafted"]) == ("server", 0)


def test_one_question(edge: str, folders: tuple[str, str]) -> None:
    words = ("--edge", edge, "--draft", folders[1], "--max-tokens", "8", "--json")
    code, out, _ = airdraft("run", "--chat", "one", *words)
    assert code == 0
    assert json.loads(out)["ids"] == truth(folders[1], [("user", "one")], SamplingParams(0.4, 7), 0, 8)


class Terminal:
    """A chat in a terminal of its own, with an edge of its own."""

    def __init__(self, *words: str) -> None:
        self._ours, self._theirs = pty.openpty()
        name = os.ttyname(self._theirs)
        # A new session takes the first terminal that it opens, and gets its Ctrl-C.
        code = "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); [os.dup2(f, i) for i in range(3)]; "
        code += "os.execv(sys.argv[2], sys.argv[2:])"
        begin = [sys.executable, "-c", code, name]
        self.process = subprocess.Popen(
            [*begin, *command("chat", *words)], env={**ENVIRONMENT, "TERM": "xterm"}, start_new_session=True
        )
        self.seen = ""

    def until(self, words: str, seconds: float = 60) -> str:
        """Everything since the last call up to `words`."""
        deadline = time.monotonic() + seconds
        while words not in self.seen:
            assert select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0], self.seen
            self.seen += os.read(self._ours, 4096).decode(errors="replace")
        found, _, self.seen = self.seen.partition(words)
        return found

    def until_coloured(self) -> None:
        """Until a token is shown: those of an answer have the colours of how they were won."""
        deadline = time.monotonic() + 60
        while not (found := re.search(r"\x1b\[(1;)?3[2-7]m", self.seen)):
            assert select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0], self.seen
            self.seen += os.read(self._ours, 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]

    def until_edited(self) -> None:
        """Until the line editor has taken the terminal, some time after it has shown its prompt."""
        deadline = time.monotonic() + 60
        while termios.tcgetattr(self._theirs)[3] & termios.ICANON:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal(folders: tuple[str, str]) -> Iterator[Terminal]:
    target, draft = folders
    terminal = Terminal("--target", target, "--draft", draft, "--max-tokens", "800", "--rtt-ms", "300",
                        "--scheme", "coupled", "--temperature", "1.5")  # fmt: skip
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal: Terminal, tmp_path: Path) -> None:
    assert "drafted by the device's model" in terminal.until(">>> ")
    terminal.type("one\r")
    terminal.until_coloured()
    terminal.type("\x03")
    terminal.until("the chat goes on from there")
    terminal.until(">>> ")
    terminal.type("/nope\r")
    terminal.until("there is no command /nope")
    terminal.type(f"/save {tmp_path / 'x'}\r")
    terminal.until("1 turns are in")
    kept = load(tmp_path / "x").messages
    assert kept[1].content
    # The edge is there still.
    terminal.type("two\r")
    terminal.until("two")
    terminal.until_coloured()
    terminal.type("\x03")
    terminal.until("RTT")
    terminal.until(">>> ")
    terminal.until_edited()
    terminal.type("\x03")
    terminal.until("Ctrl-C again")
    terminal.until(">>> ")
    terminal.until_edited()
    terminal.type("\x03")
    assert terminal.process.wait(60) == 0


@pytest.mark.slow
def test_the_end_of_input_ends_the_chat(terminal: Terminal) -> None:
    terminal.until(">>> ")
    terminal.until_edited()
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
