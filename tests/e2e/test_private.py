"""Private parts, over real processes: every socket, every file and every place that is written to is tapped."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.core.bits import pack
from airdraft.models.base import Part
from airdraft.models.registry import load_target
from airdraft.prompts.blocks import BLOCK, Layout, chain, folder_of
from airdraft.prompts.publishing import publish

from .processes import ENVIRONMENT, announced, started
from .test_processes import truth

pytestmark = pytest.mark.timeout(300)  # several processes each, and much to look through

PUBLIC = "".join(f"def area{at}(width, height):\n    return width * height\n\n\n" for at in range(14))
SECRET = "".join(f"def quokka{at}(zeppelin):\n    return zeppelin - {at * 7919}\n\n\n" for at in range(7))
TEMPLATE = "{% for message in messages %}{{ message.content + '\\n' }}{% endfor %}"
SITE = """
import json, os, socket, sys

_to = os.open(f"{os.environ['TAP']}-{os.getpid()}", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)


def _note(kind, place, data=b""):
    os.write(_to, json.dumps([kind, str(place), bytes(data).hex()]).encode() + b"\\n")


def _sends(name, of):
    plain = getattr(socket.socket, name)

    def send(self, data, *rest):
        try:
            ends = [*self.getsockname()[1:2], *self.getpeername()[1:2]]
        except OSError:
            ends = [rest[-1]] if rest else []
        _note("send", ends, of(data))
        return plain(self, data, *rest)

    setattr(socket.socket, name, send)


for _name in ("send", "sendall", "sendto"):
    _sends(_name, bytes)
_sends("sendmsg", b"".join)

def _opens(event, what):
    if event == "open" and isinstance(what[0], str):
        _note("write" if what[2] & (os.O_WRONLY | os.O_RDWR) else "open", what[0])


sys.addaudithook(_opens)
from websockets.asyncio import connection

_message = connection.Connection.send


async def _say(self, data, *rest, **more):  # before it is masked
    _note("message", self.remote_address[1], data)
    await _message(self, data, *rest, **more)


connection.Connection.send = _say
from airdraft.telemetry import trace

trace.HELD = 1  # so that who is killed has written what there was

if os.environ.get("TAP_IGNORES"):  # as if nobody kept to what is asked for
    from airdraft.core.request import Request

    _post = Request.__post_init__

    def _forget(self):
        object.__setattr__(self, "private", None)
        _post(self)

    Request.__post_init__ = _forget

if os.environ.get("TAP_KEEPS"):  # as if the engine overwrote nothing
    from dataclasses import replace
    from airdraft.models.engines import onnx

    _init = onnx.OnnxModel.__init__

    def _keep(self, *rest, **more):
        _init(self, *rest, **more)
        self.info = replace(self.info, erases=False)

    onnx.OnnxModel.__init__ = _keep
"""
LONG = 120


@pytest.fixture(scope="module")
def engine() -> Any:
    return load_target("target")


@pytest.fixture
def needles(engine: Any) -> dict[str, list[bytes]]:
    """What may be found nowhere: pieces of the private text, of its ids in every form, and of its keys."""
    model, tokenizer = engine
    ids, start = tokenizer.encode(PUBLIC + SECRET), len(tokenizer.encode(PUBLIC))
    private = ids[start + 1 :]  # the token at the seam may hang on both
    runs = [private[at : at + 6] for at in range(len(private) - 5)]
    runs = [run for run in runs if len(set(run) - set(ids[:start])) > 1]
    return {
        "text": [
            SECRET[at : at + 12].encode() for at in range(0, len(SECRET) - 12) if "quokka" in SECRET[at : at + 12]
        ],
        "ids": [sep.join(map(str, run)).encode() for run, sep in product(runs, (",", ", ", " "))],
        "packed": [
            *(np.array(run, kind).tobytes() for run, kind in product(runs, ("<u2", "<u4", "<i8", ">u4"))),
            # As on the wire: a run of ids may begin anywhere in a byte, so its whole bytes inside are looked for.
            *(pack([0] * shift + run, tokenizer.vocab_size)[-5:-1] for run, shift in product(runs, (0, 1))),
        ],
        "keys": _keys(model, ids, start + 4),
        "drafts": _keys(load_target("draft")[0], ids, start + 4),
    }


def _keys(model: Any, ids: list[int], start: int) -> list[bytes]:
    """Some 400 rows of keys and values from a position on, not of the first layer, whose values tell a token alone."""
    cache = model.new_cache()
    model.verify([Part(cache, 0, ids, 0)])
    rows = [row for each in cache.take(0, len(ids))[2:] for row in each[:, start:].reshape(-1, each.shape[2])]
    return [row.astype(kind).tobytes() for row in rows[:: max(1, len(rows) // 200)] for kind in ("<f4", "<f2")]


def _posted(url: str, path: str, **body: Any) -> Any:
    data = json.dumps({"model": "target", "temperature": 0, "max_tokens": 12, "seed": 1, **body}).encode()
    asked = urllib.request.Request(f"{url}{path}", data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(asked, timeout=60) as reply:  # noqa: S310
        return json.load(reply)


def _scraped(url: str) -> bytes:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:  # noqa: S310
        return bytes(reply.read())


def _found(needles: dict[str, list[bytes]], places: dict[str, bytes]) -> set[tuple[str, str]]:
    """The kinds of needles that are in any place, with the place."""
    return {(kind, place) for kind, each in needles.items() for place, data in places.items()
            if any(needle in data for needle in each)}  # fmt: skip


def _taps(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    for file in folder.glob("tap-*"):
        for line in file.read_text().splitlines():
            kind, place, data = json.loads(line)
            yield kind, place, bytes.fromhex(data)


def _held(pid: int, needles: list[bytes]) -> bool | None:
    """Whether any needle is in the memory of a process; None: it may not be read."""
    try:
        with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
            for line in maps:
                span, rights = line.split()[:2]
                if rights.startswith("rw"):
                    start, end = (int(each, 16) for each in span.split("-"))
                    memory.seek(start)
                    data = memory.read(end - start)
                    if any(needle in data for needle in needles):
                        return True
    except OSError:
        return None
    return False


@pytest.fixture(params=[True, False], ids=["kept to", "not kept to"])
def kept_to(request: pytest.FixtureRequest) -> bool:
    """False: the marks are dropped on arrival, and then the taps must find what they look for."""
    return bool(request.param)


@pytest.fixture
def home(kept_to: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that processes may write to. What they send and open is written down in `taps` beside it."""
    for name in ("site", "home", "taps"):
        (tmp_path / name).mkdir()
    home = tmp_path / "home"
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    (home / "chat.jinja").write_text(TEMPLATE)
    for name, value in {
        "PYTHONPATH": f"{tmp_path / 'site'}:{ENVIRONMENT['PYTHONPATH']}", "TAP": str(tmp_path / "taps" / "tap"),
        "HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home), "TAP_IGNORES": "" if kept_to else "1",
    }.items():  # fmt: skip
        monkeypatch.setitem(ENVIRONMENT, name, value)
    return home


@pytest.fixture
def store(engine: Any, home: Path) -> Path:
    """A store in which somebody has published the same words, of which the private blocks are listed alone."""
    model, tokenizer = engine
    folder, ids = home / "store", tokenizer.encode(PUBLIC + SECRET)
    publish(model, ids, str(folder))
    blocks, names = folder / folder_of(model, Layout.of(model)) / "blocks", chain(ids)
    public = len(tokenizer.encode(PUBLIC)) // BLOCK
    assert 3 <= public <= len(names) - 2
    for layer in [layer for name in names[public:] for layer in (blocks / name.hex()).iterdir()]:
        layer.unlink()
    return folder


def _stopped(process: subprocess.Popen[bytes]) -> bytes:
    """What a process has written, once it has ended."""
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors[-2000:]
    return out + errors


@pytest.mark.slow
def test_nothing_private_leaves_but_to_the_edge(
    kept_to: bool, engine: Any, needles: dict[str, list[bytes]], home: Path, store: Path
) -> None:
    _, tokenizer = engine
    told = ["--json", "--port", "0", "--metrics-port", "0", "--log-level", "debug", "--log-json", "--trace-tokens",
            "--chat-template", str(home / "chat.jinja")]  # fmt: skip
    asked = {"prompt": PUBLIC + SECRET, "airdraft": {"private": len(PUBLIC)}}
    message = {"role": "user", "content": SECRET, "airdraft": {"private": True}}
    chat = {"messages": [{"role": "system", "content": PUBLIC}, message]}
    with ExitStack() as stack:
        edge = stack.enter_context(started(
            "edge", *told, "--api-port", "0", "--prompts", str(store), "--trace-dir", str(home / "edge"),
            "--draft", "draft", "--propose", "predicted,lookup,salvage,ngram", "--profile", "phone-70b", cwd=home,
        ))  # fmt: skip
        at = announced(edge)
        device = stack.enter_context(
            started("device", *told, "--edge", at["url"], "--trace-dir", str(home / "device"), cwd=home)
        )
        here = announced(device)
        written = [_posted(url, "/completions", **asked)["choices"][0]["text"]
                   for url in (here["url"], here["url"], at["api"])]  # fmt: skip
        for url in (here["url"], at["api"]):
            _posted(url, "/chat/completions", **chat)
        assert written == [tokenizer.decode(truth(0.0, 1, 12, PUBLIC + SECRET))] * 3
        for url in (at["api"], here["url"]):  # what an engine computes with is another text's by now
            _posted(url, "/completions", prompt="\n" + PUBLIC + "\n" + PUBLIC[:400])
        memory = {
            _held(edge.pid, needles["keys"][::100]), _held(device.pid, needles["drafts"][::100])
        } - {None}  # fmt: skip
        places = {f"metrics at {url}": _scraped(url) for url in (at["metrics"], here["metrics"])}
        places |= {"output of the device": _stopped(device), "output of the edge": _stopped(edge)}
    places |= {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file()}
    traces = b"".join(data for place, data in places.items() if place.endswith(".jsonl"))
    assert traces.count(b'"ids"') > 2  # of the public texts
    users = {int(url.rpartition(":")[2].split("/")[0]) for url in (at["url"], at["api"], here["url"])}
    taps = list(_taps(home.parent / "taps"))
    assert not [place for place in _written(taps) if not Path(place).is_relative_to(home)]
    opened = [place for kind, place, _ in taps if kind == "open"]
    for kind, place, data in taps:
        if kind == "send" and not users & {int(each) for each in json.loads(place) if isinstance(each, int)}:
            places[place] = places.get(place, b"") + data
    found = _found(needles, places)
    names, public = chain(tokenizer.encode(PUBLIC + SECRET)), len(tokenizer.encode(PUBLIC)) // BLOCK
    opened.append(places["output of the edge"].decode())  # which names a block that was asked for and is not there
    asked_for = [at for at, name in enumerate(names) if any(f"blocks/{name.hex()}" in place for place in opened)]
    assert asked_for
    if kept_to:
        assert found == set()
        assert max(asked_for) < public
        assert memory <= {False}
    else:
        assert "ids" in {kind for kind, _ in found}
        assert max(asked_for) >= public
        assert memory <= {True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept_to", "allowed"), [(True, True), (True, False), (False, True)], indirect=["kept_to"],
    ids=["goes on", "ends", "not kept to"],
)  # fmt: skip
def test_an_edge_that_is_killed_amid_a_private_text_leaves_nothing_of_it(
    kept_to: bool, allowed: bool, engine: Any, needles: dict[str, list[bytes]], home: Path, store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The text goes on at the next edge where that one keeps to the marks, and else ends there, unsent."""
    _, tokenizer = engine
    told = ["--json", "--port", "0", "--log-level", "debug", "--log-json", "--trace-tokens"]
    serves = [*told, "--prompts", str(store), "--draft", "draft", "--profile", "phone-70b"]
    true = tokenizer.decode(truth(0.0, 1, LONG, PUBLIC + SECRET))
    with ExitStack() as stack:
        one = stack.enter_context(started("edge", *serves, "--trace-dir", str(home / "one"), cwd=home))
        monkeypatch.setitem(ENVIRONMENT, "TAP_KEEPS", "" if allowed else "1")
        other = stack.enter_context(started("edge", *serves, "--trace-dir", str(home / "other"), cwd=home))
        monkeypatch.setitem(ENVIRONMENT, "TAP_KEEPS", "")
        at_one, at_other = announced(one)["url"], announced(other)["url"]
        edges = ["--edge", f"{at_one},{at_other}", "--give-up", "20"]
        device = stack.enter_context(started("device", *told, *edges, "--trace-dir", str(home / "device"), cwd=home))
        pieces = []
        for piece in _streamed(announced(device)["url"]):
            one.kill()  # once it has written something
            pieces.append(piece)
        assert one.wait(30) == -signal.SIGKILL
        places = {"output of the killed": b"".join(one.communicate(timeout=60))}
        places |= {"output of the device": _stopped(device), "output of the other": _stopped(other)}
    written = "".join(choice["text"] for piece in pieces for choice in piece.get("choices", ()))
    places |= {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file()}
    taps = list(_taps(home.parent / "taps"))
    assert not [place for place in _written(taps) if not Path(place).is_relative_to(home)]
    sent = {port: b"".join(data for kind, place, data in taps if (kind, place) == ("message", port))
            for port in (at.rpartition(":")[2] for at in (at_one, at_other))}  # fmt: skip
    told_to = {port for _, port in _found({"packed": needles["packed"]}, sent)}
    found = _found(needles, places)
    if allowed:
        assert (written, len(told_to)) == (true, 2)
    else:
        assert (true.startswith(written), 0 < len(written) < len(true)) == (True, True)
        assert "error" in pieces[-1]
        assert told_to == {at_one.rpartition(":")[2]}
    if kept_to:
        assert found == set()
    else:
        assert {Path(place).parent.name for kind, place in found if kind == "ids"} >= {"one", "other", "device"}


def _streamed(url: str) -> Iterator[Any]:
    """The pieces of a text with a private part, as they come."""
    body = {"model": "target", "temperature": 0, "max_tokens": LONG, "seed": 1, "stream": True,
            "prompt": PUBLIC + SECRET, "airdraft": {"private": len(PUBLIC)}}  # fmt: skip
    data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/completions", data, kind), timeout=90) as reply:  # noqa: S310
        for line in reply:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[6:])


def _written(taps: list[tuple[str, str, bytes]]) -> set[str]:
    """The places that were opened to be written to, but for compiled Python and what keeps nothing."""
    return {place for kind, place, _ in taps
            if kind == "write" and not place.startswith("/dev/") and "__pycache__" not in place}  # fmt: skip
