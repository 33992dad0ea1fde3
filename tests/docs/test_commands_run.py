"""Every page: what stands in its blocks is run, in order, in a folder of its own.

A block marked `sh` is for a shell, one marked `python` a program; `py` marks a program that wants a library of others
which is not installed here, and it is read only. `airdraft edge`, `device` and `link` go on in the background until the
page ends, on ports that are free here. A command of airdraft that stands in a block without a mark, or that would not
come to its end here, is in `NOT_RUN`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from airdraft.sim import together
from bench import site

from ..e2e.processes import ENVIRONMENT, announced

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = ("sh", "python", "py")
COMMAND = re.compile(r"(?:.*\| )?(?:[A-Z_]+=\S+ )*airdraft ")
SERVER = re.compile(r"airdraft (?:edge|device|link (?!--list))[^&]*$")
USUAL_PORT = {"edge": "8571", "device": "8572", "link": "8572"}
PORT = re.compile(r"--(api-|metrics-|)port (\d+)")
OWN_TEST = {"docs/models.md": "tests/test_models_page.py"}
"""Pages whose commands are run by a test that has what they name."""
CODE = set((site.ROOT / "docs" / "schemes").glob("*.md")) - {site.ROOT / "docs" / "schemes" / "README.md"}
"""Pages that show code of this package; another test compares it."""
PAGES = [
    page
    for page in site.pages()
    if page not in CODE
    and str(page.relative_to(site.ROOT)) not in OWN_TEST
    and any(kind in KINDS for kind, _ in BLOCK.findall(page.read_text("utf-8")))
]
"""Pages with something to run."""

STANDS_FOR = {
    r"wss?://(SERVER|HOST|A|B):": "ws://127.0.0.1:",
    r"http://HOST:": "http://127.0.0.1:",
    r"s3://bucket/prompts": "prompts",
    r"\bMODEL\b": "target",
    r"\bDRAFT\b": "draft",
    r"\bFOLDER\b": "documents",
}
"""What a page leaves to its reader, and what it is here."""

NOT_RUN = {
    "an engine that is started elsewhere": [
        "airdraft edge * --engine vllm *",
        "airdraft conform * --engine vllm *",
        "airdraft edge * --engine llamaserver *",
        "airdraft edge * --engine sglang *",
        "airdraft run * --top-k 40",
    ],
    "a model of the hub": ["airdraft run * --draft org/*"],
    "another machine": [
        'AIRDRAFT_TOKEN=... airdraft run "def fibonacci(n):" --edge wss://edge.example.org:8571',
        "airdraft chat --edge wss://SERVER:8571",
    ],
    "a checkpoint": ["airdraft edge --target ./my-8b --engine hf"],
    "a chat template in the file": ["airdraft chat --target ./my-8b.gguf *"],
    "a clone, where all is set up": ["make *", "python -m training.channel *"],
    "somebody who types": ["airdraft chat"],
    "recordings": ["airdraft channel bench --csi *"],
    "half a minute of CPU, or hours": [
        "airdraft demo *",
        "airdraft channel bench",
        "airdraft channel bench --model *",
        "airdraft channel generate mix.npz *",
        "airdraft channel guard *",
        "airdraft chaos --sessions 2000 *",
        "airdraft fuzz *",
        "airdraft bench *",
        "airdraft reproduce *",
        "airdraft conform --all",
        "airdraft conform --broken",
        "airdraft conform --scheme topk --engine onnx",
        "airdraft doctor * chat-target *",
        "airdraft compress * --for device *",
        "airdraft run --chat *",
    ],
    "goes on until it is stopped": ["airdraft trace view traces/[*].jsonl"],
    "is measured by hand": [
        "airdraft edge --port 8599 * & edge=$!",
        "airdraft run * --edge ws://127.0.0.1:8599 *",
        "airdraft trace show traces/2*",
    ],
}
"""Commands that are not run here, by what they want. Each has tests of its own where it can."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def lines(block: str) -> Iterator[str]:
    """The lines of a block, each with those that go on from it."""
    yield from re.findall(r"(?:.*\\\n)*.*\n", block)


def bare(line: str) -> str:
    """A line as one command, without what is said about it."""
    return re.sub(r"\s+# .*$", "", re.sub(r"\s*\\\n\s*", " ", line).strip())


def is_command(line: str) -> bool:
    return COMMAND.match(line) is not None


def listed(line: str) -> list[str]:
    """The patterns of `NOT_RUN` that a line has."""
    return [each for some in NOT_RUN.values() for each in some if fnmatch.fnmatchcase(bare(line), each)]


@pytest.fixture(scope="module")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: `airdraft` as a command, models in files, a certificate and tokens, texts, a recording."""
    folder = tmp_path_factory.mktemp("supplies")
    command = folder / "bin" / "airdraft"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m airdraft "$@"\n')
    command.chmod(0o755)
    secure = BLOCK.findall((site.ROOT / "docs" / "howto" / "secure.md").read_text("utf-8"))
    for said in (
        "mkdir big small; airdraft gguf target big/my-8b.gguf; airdraft gguf draft small/my-small.gguf",
        "mv */*.gguf .; rm -r big small; airdraft import my-8b.gguf ./my-8b-onnx; cp -r my-8b-onnx my-8b",
        "cp my-8b.gguf my-8b.Q4_K_M.gguf; cp my-small.gguf my-small.Q8_0.gguf",
        *(block for _, block in secure[:2]),
    ):
        run(["bash", "-ec", said], folder, folder)
    (folder / "documents").mkdir()
    for name in ("code.txt", "more.txt", "manual.txt", "mine.txt", "documents/one.txt"):
        (folder / name).write_text(inspect.getsource(together))
    (folder / "code.txt").write_text(inspect.getsource(together) * 4)
    taf = np.random.default_rng(1).standard_normal((60, 4, 32, 2), np.float32).view(np.complex64)[..., 0]
    np.save(folder / "csi.npy", taf)
    return folder


def run(words: list[str], folder: Path, supplies: Path) -> None:
    """Run a command to its end. It must not fail."""
    environment = ENVIRONMENT | {"PATH": f"{supplies / 'bin'}:{ENVIRONMENT['PATH']}"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


class Reader:
    """Somebody who does what a page says, from its first line to its last."""

    def __init__(self, folder: Path, supplies: Path, background: contextlib.ExitStack) -> None:
        self._folder, self._supplies, self._background = folder, supplies, background
        self._here: dict[str, str] = {}
        """Ports of the page, and the free ones that are taken for them."""

    def _meant(self, said: str) -> str:
        for what, here in STANDS_FOR.items():
            said = re.sub(what, here, said)
        return re.sub(r"\b\d{4}\b", lambda port: self._here.get(port[0], port[0]), said)

    def does(self, kind: str, block: str) -> None:
        if kind == "py":
            compile(block, "block", "exec")
            return
        if kind == "python":
            run([sys.executable, "-c", self._meant(block)], self._folder, self._supplies)
            return
        waiting = ""
        for line in lines(block):
            if listed(line):
                continue
            if re.search(r"\b(SERVER|HOST|A):8571", line) and "8571" not in self._here:
                self._serves("airdraft edge")
            if SERVER.match(bare(line)):
                self._shell(waiting)
                self._serves(bare(line))
                waiting = ""
            else:
                waiting += line
        self._shell(waiting)

    def _shell(self, said: str) -> None:
        if said.strip():
            run(["bash", "-ec", self._meant(said)], self._folder, self._supplies)

    def _serves(self, said: str) -> None:
        """Start what goes on in the background, on free ports."""
        asked = {f"{part}port": port for part, port in PORT.findall(said)}
        asked.setdefault("port", USUAL_PORT[said.split()[1]])
        said = PORT.sub(r"--\1port 0", said)
        words = shlex.split(self._meant(said)) + ([] if "--port" in said else ["--port", "0"])
        process = self._background.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", *words, "--json"], cwd=self._folder, env=ENVIRONMENT, stdout=subprocess.PIPE
            )
        )
        self._background.callback(process.kill)
        record = announced(process)
        for part, key in (("port", "url"), ("api-port", "api"), ("metrics-port", "metrics")):
            if part in asked:
                self._here[asked[part]] = str(urlsplit(record[key]).port)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(site.ROOT)))
def test_what_stands_on_a_page_works(page: Path, supplies: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(supplies, folder)
    with contextlib.ExitStack() as background:
        reader = Reader(folder, supplies, background)
        for kind, block in BLOCK.findall(page.read_text("utf-8")):
            if kind in KINDS:
                reader.does(kind, block)


def test_every_command_is_run_or_listed() -> None:
    used, lacking = set(), []
    for page in site.pages():
        for kind, block in BLOCK.findall(page.read_text("utf-8")):
            used |= {each for line in lines(block) for each in listed(line)}
            for line in filter(is_command, lines(block) if kind in ("", "sh") else ()):
                is_run = (kind == "sh" and page in PAGES) or str(page.relative_to(site.ROOT)) in OWN_TEST
                if not is_run and not listed(line):
                    lacking.append(f"{page}: {bare(line)}")
    assert not lacking, "mark these blocks `sh`, or list what cannot run here"
    unused = {each for some in NOT_RUN.values() for each in some} - used
    assert not unused, "no page has such a command"
    for name, test in OWN_TEST.items():
        assert Path(name).name in (site.ROOT / test).read_text("utf-8")
