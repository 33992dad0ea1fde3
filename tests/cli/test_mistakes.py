"""Every mistake ends in one line that names the thing and the remedy, and exit code 2.

In this process where that shows the same, since a start takes a second; through the command's own entry point.
"""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airdraft import cli
from airdraft.models.engines import llamacpp
from airdraft.models.registry import resolve
from airdraft.telemetry import logs

from ..e2e.processes import ENVIRONMENT, airdraft, command
from ..pairs import copied, renamed

Run = Callable[..., str]


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must fail, and gives the line it says."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # A command that comes far enough sends its logs to the standard error of this very test, which ends with it.
    monkeypatch.setattr(logs, "configure", lambda *_: None)

    def run(*words: str, stdin: bytes = b"") -> str:
        monkeypatch.setattr(sys, "argv", ["airdraft", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown, line = capfd.readouterr()
        assert ended.value.code == 2
        assert "Traceback" not in shown + line
        assert line.startswith("airdraft: ")
        assert line.endswith("\n")
        assert line.count("\n") == 1
        return line

    return run


@pytest.mark.parametrize(
    ("words", "thing", "remedy"),
    [
        (("run", "x", "--draft", "nope"), "no model 'nope'", "a folder, a .gguf file, a hub id"),
        (("run", "x", "--draft", "no-such-org/no-model"), "no-such-org/no-model", "check the path or the id"),
        (("run", "x", "--draft", ""), "no model ''", "hub id"),
        (("run", "x", "--lookup", "--scheme", "server"), "--lookup drafts", "leave one of them out"),
        *(
            (
                (*command, "--draft", "none", "--tokenizer", served, "--prompts", "x"),
                "--prompts is for a draft",
                "--draft",
            )
            for served, *command in (
                ("target", "run", "x"),
                ("chat-draft", "chat", "--target", "chat-draft"),
                ("target", "device", "--edge", "ws://127.0.0.1:1"),
            )
        ),
        (("plan", "--prompt-tokens", "512", "--prompts-codec", "zip"), "codec 'zip' is unknown", "choose one of exact"),
        (("edge", "--prompts", "x", "--documents", "y"), "--prompts and --documents", "give one of them"),
        (("edge", "--documents", "no/such/folder"), "--documents no/such/folder cannot be read", "give files of text"),
        (("edge", "--prompts-codec", "half"), "--prompts-codec is for published prompts", "give --prompts, too"),
        (("edge", "--prompts", "x", "--prompts-codec", "zip"), "codec 'zip' is unknown", "choose one of exact, packed"),
        (
            ("prompt", "publish", "/dev/null", "--to", "x", "--codec", "zip"),
            "codec 'zip'",
            "choose one of exact, packed",
        ),
        (("chat", "--lookup", "--scheme", "server"), "--lookup drafts", "leave one of them out"),
        (("run", "x", "--tree", "17"), "--tree is '17'", "a number from 1 to 16"),
        (("chat", "--tree", "bush"), "--tree is 'bush'", "auto, off"),
        (("device", "--edge", "ws://127.0.0.1:1", "--tree", "-1"), "--tree is '-1'", "auto, off"),
        (("run", "x", "--tree", "4", "--scheme", "coupled"), "--scheme coupled drafts none", "take stream"),
        (("bench", "crowd", "--engine", "/nowhere/engine.json"), "engine.json cannot be read", "a file of an engine"),
        (("run", "x", "--edge", "ws://127.0.0.1:1", "--threads", "2"), "--threads is for an edge", "give it there"),
        (("run", "x", "--edge", "ws://127.0.0.1:1", "--engine", "hf"), "--engine is for an edge", "give it there"),
        (("run", "x", "--draft-kv-type", "f16"), "kv-type is not for the engine onnx", "another engine (llamacpp)"),
        (("run", "x", "--kv-type", "f16"), "kv-type is not for the engine onnx", "another engine (llamacpp)"),
        (("edge", "--context", "9999"), "a context of 9999 positions", "give 1 to 1024"),
        (("device", "--edge", "ws://127.0.0.1:1", "--context", "9999"), "a context of 9999", "give 1 to 1024"),
        (("device", "--edge", "ws://127.0.0.1:1", "--trace-tokens"), "without --trace-dir", "say where traces go"),
        (("edge", "--engine-top-k", "5"), "a number of likely tokens is for the engines", "leave it out"),
        (("run", "x", "--offline", "draft"), "--offline draft is for an edge that may go away", "--edge URL"),
        (("edge", "--target", "nope"), "no model 'nope'", "hub id"),
        (("edge", "--profile", "nope"), "no profile 'nope'", "none, phone-8b"),
        (("edge", "--propose", "magic"), "no proposer 'magic'", "predicted, lookup, salvage, ngram, or none"),
        (("run", "x", "--predict", "gone.py"), "gone.py cannot be read", "name a file of text in UTF-8"),
        (("run", "x", "--predict", "/dev/zero"), "/dev/zero has more than", "cut it"),
        (("run", "x", "--predict", os.devnull), "holds no text", "give what the answer may be"),
        (("run", "x", "--predict", "x", "--scheme", "topk"), "--predict is of no use to --scheme topk", "take auto"),
        (("run", "x", "--profile", "nope"), "no profile 'nope'", "none, phone-8b"),
        (("demo", "--profile", "nope"), "no profile 'nope'", "none, phone-8b"),
        (("run", "x", "--temperature", "-1"), "temperature is -1.0", "give 0, which is greedy"),
        (("run", "x", "--temperature", "nan"), "temperature is nan", "give 0, which is greedy"),
        (("demo", "--max-tokens", "0"), "max-tokens is 0", "at least 1"),
        (("demo", "--draft-length", "-1"), "draft-length is -1", "at least 0"),
        (("demo", "--seed", "-1"), "seed is -1", "from 0 to 2^63 - 1"),
        (("demo", "--temperature", "-1"), "temperature is -1.0", "give 0, which is greedy"),
        (("run", "x", "--top-p", "0"), "top-p is 0.0", "above 0 and at most 1"),
        (("run", "x", "--top-k", "-1"), "top-k is -1", "at least 0"),
        (("run", "x", "--min-p", "2"), "min-p is 2.0", "from 0 to 1"),
        (("run", "x", "--top-k", "9" * 30), "top-k is 999", "below 2^63"),
        (("run", "x", "--draft", "~nobody-of-that-name/x"), "cannot be looked for", "check the path"),
        (("run", "x", "--draft", "x" * 300), "cannot be looked for", "check the path"),
        (("edge", "--host", "x" * 70), "the edge cannot listen on", "choose a free port"),
        (("link", "--to", "ws://127.0.0.1:1", "--host", "x" * 70), "the relay cannot listen on", "this machine"),
        (("device", "--edge", "ws://127.0.0.1:1", "--host", "x" * 70), "HTTP cannot be served on", "free port"),
        (("run", "x", "--uplink-mbps", "-1"), "uplink-mbps is -1", "above 0 in Mbit/s"),
        (("run", "x", "--downlink-mbps", "0"), "downlink-mbps is 0", "above 0 in Mbit/s"),
        (("run", "x", "--rtt-ms", "-1"), "rtt-ms is -1", "0 ms or more"),
        (("demo", "--uplink-mbps", "nan"), "uplink-mbps is nan", "above 0 in Mbit/s"),
        (("demo", "--rtt-ms", "inf"), "rtt-ms is inf", "finite"),
        (("link", "--uplink-mbps", "0"), "uplink-mbps is 0", "above 0 in Mbit/s"),
        (("link", "--downlink-mbps", "nan"), "downlink-mbps is nan", "above 0 in Mbit/s"),
        (("link", "--rtt-ms", "nan"), "rtt-ms is nan", "0 ms or more"),
        (("link", "--to", "nonsense"), "--to is 'nonsense'", "ws://HOST:PORT"),
        (("link", "--to", "ws://h:99999"), "--to is 'ws://h:99999'", "ws://HOST:PORT"),
        (("link", "--to", "ws://[::1"), "--to is", "ws://HOST:PORT"),
        (("run", "x", "--edge", "nonsense"), "'nonsense' is no address", "ws://HOST:PORT"),
        (("run", "x", "--edge", "ws://h:99999"), "'ws://h:99999' is no address", "ws://HOST:PORT"),
        (("run", "x", "--edge", "ws://a\n..b:1"), "is no address", "ws://HOST:PORT"),
        (("run", "x", "--edge", "http://127.0.0.1:1"), "is no address", "ws://HOST:PORT"),
        (("run", "x", "--edge", "ws://h:1", "--rtt-ms", "9"), "--edge and an emulated link", "airdraft link --to"),
        (("run", "x", "--scheme", "nope"), "scheme 'nope'", "split, coupled, stream, auto"),
        (("run", "x", "--draft-length", "3"), "--draft-length is given, and auto", "name a --scheme"),
        (
            ("run", "x", "--scheme", "stream", "--race", "off", "--draft-length", "0"),
            "nobody would write",
            "at least 1",
        ),
        (("run", "x", "--rule", "greedy"), "--rule takes the place of --draft-length", "--scheme dense"),
        (("run", "x", "--scheme", "coupled", "--rule", "nope"), "rule 'nope'", "tk-slt, optimum, greedy, specdec++"),
        (("plan", "--probe", "nonsense"), "'nonsense' is no address", "ws://HOST:PORT"),
        (("plan", "--probe", "ws://h:1", "--draft", "nope"), "no model 'nope'", "hub id"),
        (("edge", "--max-draft", "0"), "--max-draft", "at least 1"),
        (("edge", "--engine", "nope"), "no engine 'nope'", "onnx, hf, llamacpp, vllm, sglang, llamaserver"),
        (("run", "x", "--draft-engine", "nope"), "no engine 'nope'", "onnx, hf, llamacpp"),
        (("run", "x", "--draft-engine", "vllm"), "vllm serves targets", "onnx, hf, llamacpp"),
        (("edge", "--engine", "vllm"), "name where it is", "--url http://HOST:PORT"),
        (
            ("edge", "--url", "http://h:1"),
            "for the engines vllm, sglang, llamaserver",
            "name one with --engine",
        ),
        (
            ("edge", "--engine", "sglang", "--url", "http://127.0.0.1:9"),
            "127.0.0.1:9 cannot be reached",
            "start SGLang",
        ),
        (("edge", "--engine", "vllm", "--url", "nonsense"), "nonsense", "http://"),
        (("gguf", "nope", "x.gguf"), "no folder 'nope'", "the folder of a checkpoint"),
        *(
            ((*words, "."), ". cannot be written (Is a directory)", "give another file")
            for words in (
                ("demo", "--json"),
                ("demo", "--svg"),
                ("bench", "grid", "--json"),
                ("channel", "bench", "--json"),
                ("channel", "generate"),
                ("channel", "guard"),
                ("chaos", "--json"),
                ("reproduce", "all", "--json"),
                ("fuzz", "--json"),
            )
        ),
        (("run", "x", "--edge", "ws://h:1", "--target", "target"), "--edge and --target", "leave one of them out"),
        (("bench", "grid", "--keep", "."), ". cannot be written (Is a directory)", "give another file"),
        (("run", "x", "--target", ""), "no model ''", "hub id"),
        (("chat", "--target", ""), "no model ''", "hub id"),
        *(
            ((*words, "/dev/zero"), "/dev/zero cannot be read (it has more than", remedy)
            for *words, remedy in (
                ("trace", "show", "name a file of --trace-dir"),
                ("trace", "view", "name a file of --trace-dir"),
                ("run", "x", "--ca", "give a PEM file"),
                ("run", "--chat", "x", "--target", "target", "--chat-template", "name a Jinja file"),
                ("edge", "--tls-key", "/dev/zero", "--tls-cert", "give a PEM file"),
                ("edge", "--tokens", "give a text file"),
                ("bench", "report", "give a grid's JSON"),
            )
        ),
        (("edge", "--tokens", "gone"), "the tokens in gone cannot be read (No such file or directory)", "a text file"),
        (("demo", "--json", "no/such/folder.json"), "no/such/folder.json cannot be written", "make it"),
        (("demo", "--svg", "no/such/folder.svg"), "no/such/folder.svg cannot be written", "make it"),
    ],
)
def test_a_mistake_found_here(mistake: Run, words: tuple[str, ...], thing: str, remedy: str) -> None:
    line = mistake(*words)
    assert thing in line
    assert remedy in line


@pytest.mark.parametrize(
    ("words", "thing", "remedy"),
    [
        (("--seed", "-1"), "seed is -1", "from 0 to 2^63 - 1"),
        (("--seed", str(1 << 63)), f"seed is {1 << 63}", "from 0 to 2^63 - 1"),
        (("--max-tokens", "0"), "max-tokens", "at least 1"),
        (("--scheme", "stream", "--draft-length", "-1"), "draft-length", "at least 0"),
        (("--scheme", "coupled", "--draft-length", "-1"), "draft-length", "at least 0"),
        (("--race", "nope"), "race is 'nope'", "off, idle, always"),
        (("--scheme", "stream", "--race", "nope"), "race is 'nope'", "off, idle, always"),
        (("--k", "0"), "k is 0", "at least 1"),
        (("--scheme", "topk", "--k", "-1"), "k is -1", "at least 1"),
        (("--scheme", "split", "--bits", "25"), "bits is 25", "1 to 24"),
        (("--scheme", "split", "--downlink", "nope"), "downlink is 'nope'", "row or candidates"),
    ],
)
def test_a_request_that_cannot_be_served(
    mistake: Run, edge: str, words: tuple[str, ...], thing: str, remedy: str
) -> None:
    line = mistake("run", "x", "--edge", edge, *words)
    assert thing in line
    assert remedy in line


def test_a_prompt_longer_than_the_context(mistake: Run, edge: str) -> None:
    assert "shorten the prompt" in mistake("run", "-", "--edge", edge, stdin=b"word = other\n" * 5000)


def test_standard_input_that_is_no_text(mistake: Run, edge: str) -> None:
    assert "not UTF-8 text" in mistake("run", "-", "--edge", edge, stdin=b"\xff\xfe\x00")


def test_a_folder_without_a_model(mistake: Run, tmp_path: Path) -> None:
    line = mistake("run", "x", "--draft", str(tmp_path))
    assert str(tmp_path) in line
    assert "it needs a model.onnx" in line


@pytest.mark.parametrize(("engine", "module"), [("hf", "torch"), ("llamacpp", "llama_cpp")])
def test_an_engine_whose_extra_is_not_installed(
    mistake: Run, monkeypatch: pytest.MonkeyPatch, engine: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    # The library is loaded once a process, and another test may have done it.
    monkeypatch.setattr(llamacpp, "_library", llamacpp._library.__wrapped__)
    assert f"install airdraft[{engine}]" in mistake("run", "x", "--draft-engine", engine)


def test_a_checkpoint_of_an_unknown_architecture(mistake: Run, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    folder = copied("draft", tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "odd"}), "utf-8")
    assert "odd" in mistake("edge", "--target", str(folder), "--engine", "hf")


def test_a_broken_model(mistake: Run, tmp_path: Path) -> None:
    folder = copied("draft", tmp_path / "broken")
    (folder / "model.onnx").write_bytes(b"no graph\nat all")
    line = mistake("edge", "--target", str(folder))
    assert str(folder) in line
    assert "again" in line


@pytest.mark.parametrize("name", ["target", "weights.gguf"])
def test_a_tokenizer_is_missed_before_the_weights_are_read(name: str, mistake: Run, tmp_path: Path) -> None:
    if name == "target":
        folder = copied("target", tmp_path / name)
        (folder / "tokenizer.json").unlink()
    else:
        folder = tmp_path
    (tmp_path / name if name.endswith("gguf") else folder / "model.onnx").write_bytes(b"not read")
    line = mistake("edge", "--target", str(tmp_path / name))
    if name == "target":
        assert f"{folder} has no tokenizer.json; copy it there from the original model" in line
    else:
        assert "weights.gguf is no GGUF file" in line
    assert "graph" not in line


def test_vocabularies_are_compared_before_any_weight_is_read(mistake: Run, tmp_path: Path) -> None:
    target, draft = renamed("target", tmp_path / "target"), copied("draft", tmp_path / "draft")
    for folder in (target, draft):
        (folder / "model.onnx").write_bytes(b"not read")
    line = mistake("run", "x", "--target", str(target), "--draft", str(draft))
    assert f"{draft} and the target {target} do not share one vocabulary" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scheme", "coupled"), "scheme coupled drafts, and there is no draft model; choose server or auto"),
        (("--scheme", "stream"), "scheme stream drafts, and there is no draft model"),
        (("--offline", "draft"), "offline is 'draft', and there is no draft model to write meanwhile; choose stall"),
        (("--draft-engine", "hf"), "no draft runs on hf; name a draft, or leave the engine out"),
        (("--tokenizer", "nothing"), "no model 'nothing'"),
        (
            ("--tokenizer", "chat-draft"),
            "another vocabulary than the tokenizer here; name the target's own, --tokenizer",
        ),
    ],
)
def test_what_takes_a_draft(mistake: Run, edge: str, options: tuple[str, ...], words: str) -> None:
    assert words in mistake("run", "x", "--edge", edge, "--draft", "none", *options)


def test_a_tokenizer_beside_a_draft(mistake: Run, edge: str) -> None:
    for words in (("run", "x"), ("device",)):
        line = mistake(*words, "--edge", edge, "--draft", "draft", "--tokenizer", "target")
        assert "--tokenizer names target, and the draft draft has its own" in line


def test_a_draft_of_another_vocabulary(mistake: Run, edge: str, tmp_path: Path) -> None:
    folder = renamed("draft", tmp_path / "other")
    line = mistake("run", "x", "--edge", edge, "--draft", str(folder))
    assert "do not share one vocabulary" in line
    assert "pick a draft with the target's own tokenizer" in line


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is taken, by something that never answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize("server", ["edge", "link"])
def test_a_port_in_use(mistake: Run, port: int, server: str) -> None:
    line = mistake(server, "--port", str(port))
    assert f"127.0.0.1:{port}" in line
    assert "free port" in line


def test_an_edge_that_is_not_there(mistake: Run) -> None:
    with socket.socket() as bound:  # but does not listen
        bound.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{bound.getsockname()[1]}"
        line = mistake("run", "x", "--edge", url)
    assert f"no edge answers at {url}" in line
    assert "`airdraft edge`" in line


def test_a_plain_http_server(mistake: Run) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            line = mistake("run", "x", "--edge", f"ws://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
    assert "no edge answers" in line
    assert "200" in line


@pytest.mark.slow
def test_the_last_words_of_an_edge_that_does_not_start_are_passed_on() -> None:
    code, out, line = airdraft("run", "x", "--target", "nope")
    assert (code, out) == (2, "")
    assert line.startswith("airdraft: no model 'nope'; name 'target'")
    assert line.count("\n") == 1


@pytest.mark.parametrize("words", [("nope",), ("run",), ("edge", "--port", "70000"), ("run", "x", "--seed", "one")])
def test_usage_errors_are_typers(words: tuple[str, ...], capfd: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["airdraft", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "Usage: " in capfd.readouterr().err


@pytest.mark.parametrize("words", [(), ("demo",), ("run",), ("edge",), ("link",), ("plan",)])
def test_help_fits_80_columns(words: tuple[str, ...], capfd: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["airdraft", *words, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown, errors = capfd.readouterr()
    assert (ended.value.code, errors) == (0, "")
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "Usage: " in shown
    assert "--until-eof" not in shown
    assert "…" not in shown.replace("[OPTIONS] COMMAND [ARGS]…", "")  # nothing is cut off


def test_help_says_of_each_command_what_it_says_of_itself() -> None:
    commands = cli._Commands()
    for name, (_, says) in cli.COMMANDS.items():
        assert " ".join(commands[name].help.split()).startswith(says), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("--help",), ("run", "x = 1\ny =", "--max-tokens", "40"), ("run", "x", "--json", "--max-tokens", "8")]
)
@pytest.mark.parametrize("lines", [0, 1])
def test_output_that_nobody_reads_any_more(edge: str, words: tuple[str, ...], lines: int) -> None:
    more = ("--edge", edge) if words[0] == "run" else ()
    pipe = subprocess.PIPE
    with subprocess.Popen(command(*words, *more), stdout=pipe, stderr=pipe, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) in (0, 1)


_LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
_GROWS = "{% set s = namespace(x='x' * 99) %}{% for a in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}{{ s.x }}"
_FAT = "{{ 'x' * (1 << 40) }}"


@pytest.mark.parametrize("template", [_LOOP, _GROWS, _FAT, "{% for %}", "{{ " + "(" * 3000 + ")" * 3000 + " }}"])
@pytest.mark.parametrize("words", [("run", "--chat", "hi"), pytest.param(("chat",), marks=pytest.mark.slow)])
def test_a_template_that_never_ends_or_is_none(
    mistake: Run, template: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("gguf", reason="writing the file takes the gguf package")
    from ..models.imports.made import Made

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = Made(kind="Q4_0", facts={"tokenizer.chat_template": template}).write(tmp_path / "m.gguf")
    resolve(str(file))
    capfd.readouterr()  # that it was imported
    capture: dict[str, bytes] = {"stdin": b"hi\n"} if words == ("chat",) else {}
    line = mistake(*words, "--target", str(file), "--draft", "none", **capture)
    assert line.startswith("airdraft: the chat template ")
    assert line.endswith("--chat-template FILE\n")


def test_a_store_without_the_model(mistake: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    line = mistake("edge", "--target", "ollama:llama3.2")
    assert f"Ollama has no model 'llama3.2' in {tmp_path / 'models'}, which does not exist or" in line
    assert "`ollama pull llama3.2`" in line
