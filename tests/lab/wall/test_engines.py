"""`airdraft bench engines`: what is measured, how peers' output is read, and what stands in the tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airdraft import cli
from airdraft.errors import BadParameterError, ModelError
from airdraft.lab.record import prompts
from airdraft.lab.wall import engines, exactness, peers
from airdraft.lab.wall.engines import EngineRow, Models
from airdraft.lab.wall.exactness import Depends, depends
from airdraft.lab.wall.peers import Compared, PeerRow, Written
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load
from airdraft.sim import alone

from ...models.http_engine import like_vllm, serve

PAIR = Models("draft", "target")
HEAD = "def f(x):\n"
SAID = f"\n\n<|endoftext|>{HEAD}    return x\n\n"
LOG = """\
0.00.150.589 I encoded    8 tokens in    0.004 seconds, speed: 2000.000 t/s
0.00.150.590 I decoded   70 tokens in    0.092 seconds, speed:  700.000 t/s
0.00.150.591 I n_draft   = 5
"""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little as can be measured."""
    for module, name, value in (
        (engines, "TURNS", 1), (engines, "BURST", 4), (engines, "HERE", ("onnx",)),
        (peers, "TOKENS", 12), (peers, "TEXTS", 2), (engines, "TEXTS", 5), (exactness, "TEXTS", 5),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.mark.slow
@pytest.mark.alone
def test_a_row_of_each_engine(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WIDTHS", (1, 6))
    monkeypatch.setattr(engines, "TURNS", 7)  # a median heeds a turn or two that waited for a core no more
    steps: list[tuple[int, int]] = []
    with serve(like_vllm(OnnxModel(shipped("target")))) as vllm:
        onnx, remote = engines.engines({"onnx": PAIR}, vllm.url, lambda done, of: steps.append((done, of)))
    assert (onnx.engine, remote.engine) == ("onnx", "vllm")
    assert set(onnx.verify_ms) == set(remote.verify_ms) == {1, 6}
    assert onnx.draft_ms is not None
    assert 0 < onnx.draft_ms < onnx.verify_ms[6]  # the draft is a quarter of the target
    assert onnx.verify_ratio_6 == onnx.verify_ms[6] / onnx.verify_ms[1]
    assert remote.verify_ms[1] > onnx.verify_ms[1]  # without a prefix cache: 200 positions each time, over HTTP
    assert (remote.draft_ms, remote.memory_bytes) == (None, None)
    assert steps[:35] == [*((done, 7) for done in range(1, 8)), *((done, 28) for done in range(1, 29))]
    # What is in a server's memory is not tried.
    assert steps[35:] == [(done, 40) for done in range(1, 36)]
    assert onnx.exactness is not None
    # Rounding in a batch or, on some CPUs, by width, which changes none of these texts.
    assert {onnx.exactness.batch, onnx.exactness.width} <= {0.0, "exact"}
    assert onnx.exactness.company == "exact"
    assert remote.exactness is not None
    assert remote.exactness.company is None
    if sys.platform == "linux":
        weights = sum(file.stat().st_size for file in shipped("target").parent.glob("*/model.onnx"))
        assert onnx.memory_bytes is not None
        assert weights < onnx.memory_bytes < 1e9


def test_an_engine_that_fails_in_a_process_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"memory of onnx failed .*no tokenizer.json.*mend that engine"):
        engines._memory_bytes("onnx", Models(str(tmp_path), "target"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it may be the most so far")
def test_resident_memory_grows_with_what_is_touched() -> None:
    """In a process of its own: this one frees memory when it likes, and hands out what it holds already."""
    code = (
        "from airdraft.lab.wall.memory import resident_bytes as weigh; "
        "before = weigh(); held = bytearray(b'x' * 64_000_000); print(weigh() - before)"
    )
    grown = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert grown > 64_000_000 * 0.9


def test_installed_engines_load(tmp_path: Path) -> None:
    for library in ("llama_cpp", "gguf", "safetensors"):
        pytest.importorskip(library)
    found = engines.installed(tmp_path)
    assert found["onnx"] == PAIR
    models = found["llamacpp"]
    for name, like in ((models.draft, "draft"), (models.target, "target")):
        assert load(name, engine="llamacpp")[0].vocab_size == load(like)[0].vocab_size


def test_an_engine_without_its_libraries_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "_NEEDS", {"onnx": ("numpy",), "hf": ("airdraft_none",), "llamacpp": ("no_such",)})
    assert engines.installed(tmp_path) == {"onnx": PAIR}


def test_the_table_of_engines() -> None:
    rows = [
        EngineRow("onnx", 0.4, {1: 1.0, 6: 1.5, 16: 2.25}, 1.5, 112_000_000),
        EngineRow("llamacpp", 0.2, {1: 1.0, 6: 2.0, 16: 3.0}, 2.0, None),
        EngineRow("vllm", None, {1: 9.0, 6: 9.0, 16: 9.0}, 1.0, None),
    ]
    table = engines.table(rows)
    assert "| onnx | 0.40 | 1.00 | 1.50 | 2.25 | 1.50 | 112 |" in table
    assert "| vllm |  | 9.00 | 9.00 | 9.00 | 1.00 |  |" in table
    assert table.endswith("onnx, the default, takes 2.00 × the time of llamacpp for a draft's token.")
    assert engines.table(rows[:1]).endswith("onnx, the default, is the quickest.")


def test_weights_in_fewer_bits_are_named(few: None) -> None:
    row = EngineRow("llamacpp", 0.2, {1: 1.0, 6: 2.0, 16: 3.0}, 2.0, None, Depends("exact", 0.25, None), "q8_0")
    assert "| llamacpp, q8_0 | 0.20 |" in engines.table([EngineRow("onnx", 0.4, row.verify_ms, 1.5, None), row])
    assert exactness.table([(row.name, row.exactness or Depends(0.0, 0.0, 0.0))]).endswith(
        "| llamacpp, q8_0 | exact | 0.250 |  |"
    )


@pytest.mark.slow
def test_texts_that_depend_on_something_are_counted(few: None) -> None:
    class Turned(OnnxModel):
        """Rows that forwards of several tokens turn round, after a prompt."""

        turns = False

        def verify(self, batch: Any) -> Any:
            turned = [self.turns and part.keep > 0 and len(part.tokens) > 1 for part in batch]
            return [-rows if turn else rows for rows, turn in zip(super().verify(batch), turned, strict=True)]

    engine = Turned(shipped("target"))
    assert depends(engine).width in (0.0, "exact")  # one token is fed alone here: other bits, the same texts
    engine.turns = True
    turned = depends(engine)
    assert turned.batch in (0.0, "exact")
    assert (turned.width, turned.company) == (1.0, "exact")


def test_our_loop_writes_the_targets_text(few: None) -> None:
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    for prompt in peers.full_texts(target, tokenizer.vocab_size):
        expected = list(alone.write(target, prompt, peers.GREEDY, 0, 12))
        written = peers.ours(draft, target, tokenizer)(prompt)
        assert (written.text, written.tokens) == (tokenizer.decode(expected), 12)
        assert written.seconds > 0


def test_texts_that_end_early_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "TEXTS", 3)
    monkeypatch.setattr(peers, "TOKENS", 4)
    tried = prompts(12)

    def write(target: object, prompt: list[int], *_: object) -> list[int]:
        return [1] * (2 if tried.index(prompt) in (0, 2, 3) else 4)

    monkeypatch.setattr(alone, "write", write)
    target, tokenizer = load("target")
    assert peers.full_texts(target, tokenizer.vocab_size) == [tried[at] for at in (1, 4, 5)]


def test_speeds_are_held_against_each_other_text_by_text() -> None:
    turns = {"ours": iter([9.0, 1.0, 2.0, 4.0, 1.0]), "theirs": iter([9.0, 2.0, 2.0, 2.0, 4.0])}
    order: list[tuple[str, int]] = []

    def writer(name: str, text: str, tokens: int) -> peers.Writer:
        def write(prompt: list[int]) -> Written:
            order.append((name, prompt[0]))
            return Written(text if prompt[0] == 1 else f"{text}!", tokens, next(turns[name]))

        return write

    [row] = peers.compare(
        "theirs", writer("theirs", "half, and more", 12), {"onnx": writer("ours", "half\ufffd", 6)}, [[1], [2]],
        lambda done, of: None,
    )  # fmt: skip
    # What is not timed first; then every other turn the other way round.
    first, second = [("ours", 1), ("theirs", 1)], [("ours", 2), ("theirs", 2)]
    assert order == [*first, *first, *second, *first[::-1], *second[::-1]]
    # The ratios are 1, 1/2, 1/4 and 2.
    assert row == PeerRow("theirs", "onnx", 24 / 8, 48 / 10, 0.75, 2, 4)


def test_transformers_writes_the_same(few: None) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    compared = peers.peers({"onnx": PAIR, "hf": PAIR})
    assert [row.ours_engine for row in compared.peers] == ["hf", "onnx"] * 2
    assert [row.identical for row in compared.peers] == [4] * 4
    assert {row.peer.rpartition(", ")[2] for row in compared.peers} == {"draft length 5", "its own draft length"}
    assert min(row.peer_tokens_per_s for row in compared.peers) > 0
    assert compared.notes == ["llama.cpp's own loop is left out: --llama-speculative names no program."]


def test_what_llama_cpp_prints() -> None:
    text, tokens, seconds = peers.read(SAID, LOG, HEAD, "p")
    assert text.startswith("    return x\n")
    assert tokens == 70
    assert seconds == pytest.approx(8 / 2000 + 70 / 700)


@pytest.mark.parametrize(
    ("said", "log", "problem"),
    [
        ("", LOG, "printed no text"),
        (SAID, LOG.replace("decoded", "wrote"), "give llama-speculative-simple"),
        (SAID, LOG.replace("t/s", "tokens per second"), "give llama-speculative-simple"),
        (SAID, "", "give llama-speculative-simple"),
        (SAID, LOG.replace("700.000", "0.000"), "a speed of 0; run it again"),
    ],
)
def test_what_llama_cpp_does_not_print(said: str, log: str, problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        peers.read(said, log, HEAD, "p")


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
def test_a_program_that_is_run(tmp_path: Path) -> None:
    """A script in its place, which writes the prompt and the draft length that it was given."""
    program = tmp_path / "program"
    tokenizer = load("target")[1]
    script = f"#!{sys.executable}\nimport sys\n"
    program.write_text(f"{script}sys.stdout.write(sys.argv[-1] + sys.argv[8])\nsys.stderr.write({LOG!r})\n")
    program.chmod(0o755)
    write = peers.llama_speculative(program, Models("d.gguf", "t.gguf"), tokenizer)
    assert write(tokenizer.encode(HEAD)) == (str(peers.LENGTH), 70, pytest.approx(0.104))
    tried = tmp_path / "tried"
    program.write_text(
        f"{script}import os\nsys.stdout.write(sys.argv[-1])\n"
        f"if os.path.exists({str(tried)!r}): sys.stderr.write({LOG!r})\nopen({str(tried)!r}, 'w').close()\n"
    )
    assert write(tokenizer.encode(HEAD)).tokens == 70  # the second time
    program.write_text(f"{script}sys.exit('no option --spec-type')\n")
    with pytest.raises(ModelError, match=r"ended with code 1 \(no option --spec-type\); build"):
        write(tokenizer.encode(HEAD))
    program.chmod(0o644)
    with pytest.raises(ModelError, match=r"does not run .*Permission denied.*; give a llama-speculative-simple"):
        write(tokenizer.encode(HEAD))


def test_peers_that_are_left_out(few: None, tmp_path: Path) -> None:
    assert peers.peers({"onnx": PAIR}, Path(sys.executable)).notes == [
        "Transformers is left out: it is not installed (airdraft[hf]).",
        "llama.cpp's own loop is left out: its files cannot be written (airdraft[llamacpp]).",
    ]
    with pytest.raises(BadParameterError, match=r"no program .*gone; give the path of llama-speculative-simple"):
        peers.peers({"onnx": PAIR}, tmp_path / "gone")


def test_the_table_of_peers() -> None:
    rows = [PeerRow("other", "onnx", 900.0, 600.0, 1.5, 23, 24), PeerRow("other", "hf", 300.0, 600.0, 0.5, 24, 24)]
    table = peers.table(Compared(rows, ["Nobody else."]))
    assert "| other | onnx | 900 | 600 | 1.50 | 23 of 24 |" in table
    assert table.endswith("Slower: hf than other.\nNobody else.")
    assert "Slower: nowhere." in peers.table(Compared(rows[:1], []))
    assert "Slower" not in peers.table(Compared([], ["Nobody."]))


@pytest.mark.slow
def test_the_command(
    few: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results, page = tmp_path / "e.json", tmp_path / "page.md"
    page.write_text("<!-- engines:begin --><!-- engines:end -->\n<!-- peers:begin --><!-- peers:end -->\n")
    monkeypatch.setattr(sys, "argv", ["airdraft", "bench", "engines", "--json", str(results), "--page", str(page)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert f"wrote engines, peers into {page}" in shown
    assert "onnx, the default, is the quickest." in shown
    assert "Transformers is left out" in shown
    assert "cores" in shown
    record: dict[str, Any] = json.loads(results.read_text())
    [row] = record["engines"]
    assert list(row["verify_ms"]) == [str(width) for width in range(1, 17)]
    assert (record["threads"], record["draft_length"], record["peers"], len(record["notes"])) == (1, 5, [], 2)
    assert f"| {row['verify_ratio_6']:.2f} |" in page.read_text()
