"""`airdraft bench chat`: what is measured, what a bar is, and what is left when it is interrupted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airdraft import cli
from airdraft.lab.wall import chat
from airdraft.lab.wall.chat import DEVICE, DEVICE_AUTO, EDGE, LLAMA, OURS, WAYS, ChatReport, missed, table
from airdraft.lab.wall.chat_prompts import PROMPTS

from ...pairs import copied

TEMPLATE = (
    "{% for m in messages %}{{ '# ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}def {% endif %}"
)
Bench = Callable[..., tuple[int | str | None, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Exit code and standard output of the bench with the pair that ships and few, short texts."""
    for which, name in (("target", "TARGET"), ("draft", "DRAFT")):
        folder = copied(which, tmp_path / which)  # type: ignore[arg-type]
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        monkeypatch.setattr(chat, name, str(folder))
    for name, value in (
        ("PROMPTS", PROMPTS[::14]),
        ("TOKENS", 16),
        ("LONG", 20),
        ("FEWEST", 1),
        ("HISTORIES", 1),
        ("HISTORY", 200),
    ):
        monkeypatch.setattr(chat, name, value)
    monkeypatch.setattr(chat, "find_spec", lambda _: None)

    def run(*words: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", ["airdraft", "bench", "chat", "--threads", "1", "--no-color", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().out

    return run


def test_prompts_are_of_several_kinds() -> None:
    assert len(PROMPTS) == len({words for _, words in PROMPTS}) == 40
    assert len({kind for kind, _ in PROMPTS}) == 6


@pytest.mark.slow
@pytest.mark.alone
def test_everything_is_measured(bench: Bench, tmp_path: Path) -> None:
    path, page = tmp_path / "c.json", tmp_path / "page.md"
    page.write_text("<!-- chat:begin -->\n<!-- chat:end -->\n")
    code, out = bench("--json", str(path), "--page", str(page))
    record = json.loads(path.read_text())
    assert record["complete"]
    assert record["threads"] == 1
    assert record["texts"] == 3
    assert record["identical"] == {EDGE: 3, DEVICE: 3, DEVICE_AUTO: 3}
    assert list(record["ms_per_token"]) == list(WAYS) == list(record["first_piece_ms"])
    assert record["ms_per_token"].pop(LLAMA) is None
    assert all(0 < value < 1000 for value in record["ms_per_token"].values())
    # Over HTTP it takes longer than here; not of one text, when the machine does something else meanwhile.
    assert record["ms_per_token"][EDGE] > record["ms_per_token"][OURS] / 5
    assert set(record["acceptance"]) == {"0.7", "1.0"}
    assert all(0 < share < 1 for share in record["acceptance"].values())
    assert record["second_turn_ttft_ratio"] > 0
    if sys.platform == "linux":
        assert all(20 < value < 1000 for value in record["memory_mb"].values())
    assert "airdraft[llamacpp]" in "".join(record["notes"])
    assert (code or 0) == (1 if record["missed"] else 0)
    assert "llama-cpp-python is not installed" in " ".join(out.split())
    assert "| edge, over HTTP |" in page.read_text()


@pytest.mark.slow
def test_what_is_there_is_written_when_it_is_interrupted(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.json"

    def stop(*_: object) -> None:
        assert json.loads(path.read_text())["texts"] >= 2  # written all the time
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "_turns", stop)
    code, _ = bench("--json", str(path))
    record = json.loads(path.read_text())
    assert code == 130
    assert not record["complete"]
    assert record["texts"] == 3
    assert record["missed"][-1] == "the run did not come to its end"


@pytest.mark.slow
def test_a_text_that_is_not_the_targets_fails(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = chat._Api.ask
    monkeypatch.setattr(
        chat._Api, "ask", lambda self, messages, seed, *rest, **more: ask(self, messages, seed + 1, *rest, **more)
    )
    path = tmp_path / "c.json"
    code, _ = bench("--json", str(path))
    assert code == 1
    assert "texts of edge_api are not the target's own" in " ".join(json.loads(path.read_text())["missed"])


def kept() -> ChatReport:
    report = ChatReport(2, texts=40, complete=True, second_turn_ttft_ratio=0.1, acceptance={"0.7": 0.63, "1.0": 0.5})
    report.accepted_of = {"0.7": 2000, "1.0": 1000}
    report.ms_per_token = {LLAMA: 10.0, OURS: 10.0, EDGE: 11.5, DEVICE: 12.0, DEVICE_AUTO: 9.0}
    report.identical = {EDGE: 40, DEVICE: 40, DEVICE_AUTO: 40}
    report.memory_mb = {"edge": 450.0, "device": 250.0}
    return report


def test_every_bar() -> None:
    assert missed(kept()) == []
    assert "Bars: kept." in table(kept())
    report = kept()
    report.ms_per_token[LLAMA] = None
    assert missed(report) == []
    for change, words in (
        ({"ms_per_token": {**kept().ms_per_token, EDGE: 11.6}}, "1.16 × llama.cpp's"),
        ({"second_turn_ttft_ratio": 0.11}, "second turn waits 0.11 ×"),
        ({"acceptance": {"0.7": 0.629}}, "is 0.629, bar 0.63"),
        ({"memory_mb": {"edge": 451.0, "device": 1.0}}, "idle edge takes 451 MB"),
        ({"memory_mb": {"edge": 1.0, "device": 251.0}}, "idle device takes 251 MB"),
        ({"identical": {EDGE: 40, DEVICE: 39, DEVICE_AUTO: 40}}, "1 of 40 texts of device_server"),
        ({"complete": False}, "did not come to its end"),
    ):
        report = kept()
        for name, value in change.items():  # type: ignore[attr-defined]
            setattr(report, name, value)
        [said] = missed(report)
        assert words in said
        assert f"MISSED: {said}" in table(report)
