"""Models of the hub: which files are fetched, from a hub on loopback by its own client, and what its cache gives."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from airdraft.models.files.hub import HubName

pytest.importorskip("gguf", reason="writing the files takes the gguf package")
onnx = pytest.importorskip("onnx", reason="writing ONNX files takes the onnx package")

from . import stores  # noqa: E402
from .graphs import Shape, write_decoder  # noqa: E402
from .hub_server import Hub, ask, hub_server  # noqa: E402
from .imports.made import Made  # noqa: E402
from .imports.packed import Packed  # noqa: E402

pytestmark = pytest.mark.timeout(300)
MOST_TRIES = 3
NAMES = ("README.md", "config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Made(kind="Q4_0").write(tmp_path_factory.mktemp("made") / "m.gguf").read_bytes()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository as `optimum` exports one: two graphs, of which one keeps its weights beside it."""
    folder = write_decoder(tmp_path_factory.mktemp("graph"), Shape(), hub_layout=True)
    model = onnx.load(folder / "onnx" / "model.onnx")
    onnx.save_model(model, folder / "onnx" / "model_q4.onnx", save_as_external_data=True, size_threshold=0,
                    location="weights.bin")  # fmt: skip
    (folder / "tokenizer.json").write_text("{}")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as found:
        yield found


@contextlib.contextmanager
def refusing() -> Iterator[tuple[str, list[object]]]:
    """A server that hangs up on everybody: its URL, and those who came."""
    tries: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # the server is closed
                while True:
                    connection, address = server.accept()
                    tries.append(address)
                    connection.close()

        hanging = threading.Thread(target=hang_up)
        hanging.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", tries
        server.shutdown(socket.SHUT_RDWR)
        hanging.join()


def sent(hub: Hub) -> set[str]:
    found = {name for name, _ in hub.fetched}
    hub.fetched.clear()
    return found


@pytest.mark.slow
def test_one_quantisation_of_many(hub: Hub, gguf: bytes, tmp_path: Path) -> None:
    hub.repos["org/M-GGUF"] = {
        "README.md": b"#",
        "M-Q4_0.gguf": gguf,
        "M-Q8_0.gguf": b"x" * 99,
        "mmproj-f16.gguf": b"y",
    }
    [(kind, path)], shown = ask(tmp_path, hub.url, ("org/M-GGUF:q4_0", None))
    assert kind == "found", path
    assert Path(path).parent == tmp_path / "cache" / "airdraft" / "gguf"
    assert sent(hub) == {"M-Q4_0.gguf"}
    assert "%" in shown  # a progress bar
    # From now on neither is the network asked, nor need it be there.
    for url in (hub.url, None):
        assert ask(tmp_path, url, ("org/M-GGUF:Q4_0", None), ("org/M-GGUF/M-Q4_0.gguf", "text"))[0][0] == (kind, path)
    assert sent(hub) == set()
    (_, several), (_, none), (_, other) = ask(
        tmp_path, hub.url, ("org/M-GGUF", None), ("org/M-GGUF:Q2_K", None), ("org/M-GGUF/N.gguf", None)
    )[0]
    assert several == "org/M-GGUF has several .gguf files; name one: org/M-GGUF:Q4_0, org/M-GGUF:Q8_0"
    assert none.endswith("of the quantisation 'Q2_K'; it has Q4_0, Q8_0")
    assert other.endswith("has no file 'N.gguf'; it has M-Q4_0.gguf, M-Q8_0.gguf")
    assert sent(hub) == set()


@pytest.mark.slow
def test_one_graph_of_many(hub: Hub, graph: dict[str, bytes], tmp_path: Path) -> None:
    hub.repos["org/graphs"] = {**graph, "model.safetensors": b"x" * 50, "onnx/model_fp16.onnx": b"z"}
    [(kind, path)], _ = ask(tmp_path, hub.url, ("org/graphs/onnx/model_q4.onnx", None))
    assert kind == "found", path
    assert path.endswith("/onnx/model_q4.onnx")
    small = {"config.json", "tokenizer.json"}
    assert sent(hub) == {"onnx/model_q4.onnx", "onnx/weights.bin", *small}
    assert ask(tmp_path, None, ("org/graphs/onnx/model_q4.onnx", None))[0] == [(kind, path)]
    assert ask(tmp_path, None, ("org/graphs/onnx/model_fp16.onnx", None))[0][0][0] == "refused"
    [(_, whole)], _ = ask(tmp_path, hub.url, ("org/graphs", None))
    assert whole.endswith("/onnx/model.onnx")
    assert sent(hub) == {"onnx/model.onnx"}


CHECKPOINT = {
    "config.json": b"{}", "tokenizer.json": b"{ }", "consolidated.safetensors": b"y", "model.safetensors": b"x" * 50,
}  # fmt: skip


def test_only_a_checkpoint(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra hf")
    pytest.importorskip("transformers", reason="needs the extra hf")
    hub.repos["org/plain"] = CHECKPOINT
    [(kind, _), (_, text)], _ = ask(tmp_path, hub.url, ("org/plain", None), ("org/plain", "text"))
    assert kind == "found"
    assert sent(hub) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (Path(text) / "tokenizer.json").is_file()


@pytest.mark.skipif(find_spec("torch") is not None, reason="needs a machine without the extra hf")
def test_only_a_checkpoint_that_nothing_here_runs(hub: Hub, tmp_path: Path) -> None:
    """The extra that runs it is named before anything is fetched."""
    hub.repos["org/plain"] = CHECKPOINT
    [(_, said), (_, text)], _ = ask(tmp_path, hub.url, ("org/plain", None), ("org/plain", "text"))
    assert said.startswith("org/plain would be run from its checkpoint files, and the hf engine needs torch")
    assert said.endswith("; pip install 'airdraft[hf]'")
    assert sent(hub) == {"config.json", "tokenizer.json"}  # for the text alone
    assert (Path(text) / "tokenizer.json").is_file()


def test_a_checkpoint_in_codes(hub: Hub, tmp_path: Path) -> None:
    """Its config tells, which is had first; one in codes that nothing here knows costs no more than that."""
    source = Packed("awq").write(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    hub.repos["org/M-AWQ"] = files
    hub.repos["org/M-3"] = files | {"config.json": files["config.json"].replace(b'"bits": 4', b'"bits": 3')}
    [(_, said)], _ = ask(tmp_path, hub.url, ("org/M-3", None))
    assert "bits = 3 of its codes, and read here are 4" in said
    assert sent(hub) == {"config.json", "tokenizer.json"}
    found = ask(tmp_path, hub.url, ("org/M-AWQ", None), ("org/M-AWQ", "onnx"))[0]
    kind, path = found[0]
    assert kind == "found", path
    assert Path(path).parent == tmp_path / "cache" / "airdraft" / "checkpoint"
    assert sent(hub) == set(files)
    assert found[1:] == ask(tmp_path, None, ("org/M-AWQ", None))[0] == [(kind, path)]


def test_a_download_that_was_cut_off_goes_on(hub: Hub, gguf: bytes, tmp_path: Path) -> None:
    """Within one command, from the last 10 MB on, which the hub's client takes at once."""
    hub.repos["org/M-GGUF"] = {"M-Q4_0.gguf": gguf + bytes(25 << 20)}
    hub.cut = 15 << 20
    [(kind, said)], _ = ask(tmp_path, hub.url, ("org/M-GGUF:Q4_0", "onnx"))
    assert kind == "found", said
    assert hub.fetched == [("M-Q4_0.gguf", ""), ("M-Q4_0.gguf", f"bytes={10 << 20}-")]


def test_a_large_file_is_refused_before_it_is_fetched(hub: Hub, tmp_path: Path) -> None:
    """By the 16 MB at its beginning, for any engine that needs to understand it."""
    large: dict[str, tuple[dict[str, Any], str]] = {
        "a": ({"family": "gemma3"}, "is a 'gemma3' model, which the onnx engine does not run; use"),
        "b": ({"facts": {"tokenizer.ggml.pre": "new-one"}}, "cuts its texts by 'new-one'; known are"),
        "c": ({"facts": {".rope.scaling.type": "yarn"}}, "scales positions by 'yarn'"),
        "d": ({}, ""),
    }
    for name, (made, _) in large.items():
        raw = Made(kind="Q4_0", **made).write(tmp_path / "m.gguf").read_bytes()
        hub.repos[f"org/{name}"] = {f"{name}-Q4_0.gguf": raw + bytes(1 << 27)}
    every, _ = ask(tmp_path, hub.url, *((f"org/{name}:Q4_0", None) for name in large))
    for (name, (_, said)), (kind, found) in zip(large.items(), every, strict=True):
        fetched = [part for file, part in hub.fetched if file == f"{name}-Q4_0.gguf"]
        assert fetched[0] == f"bytes=0-{(1 << 24) - 1}"
        assert (kind == "refused") == bool(said)
        if said:
            assert found.startswith(f"org/{name}/{name}-Q4_0.gguf {said}")
            assert len(fetched) == 1


def test_what_the_hub_refuses(hub: Hub, tmp_path: Path) -> None:
    refused = {
        "org/a": ((401, "RepoNotFound"), "the hub has no model org/a, or it is private; check the path or the id, or"),
        "org/b": ((403, "GatedRepo"), "org/b is gated; accept its terms at http://127.0.0.1:"),
        "org/c": ((403, ""), "the hub answered 403 for org/c; sign in with `hf auth login`, or set HF_TOKEN"),
        "org/d": ((401, ""), "sign in with `hf auth login`, or set HF_TOKEN"),
    }
    hub.repos = {name: {} for name in refused}
    hub.refuse = {name: refusal for name, (refusal, _) in refused.items()}
    asked = [
        (each, engine) for name in refused for each, engine in ((f"{name}:Q4_0", None), (name, None), (name, "text"))
    ]
    found, _ = ask(tmp_path, hub.url, *asked)
    for (name, _), (kind, problem) in zip(asked, found, strict=True):
        assert kind == "refused"
        assert refused[name.partition(":")[0]][1] in problem
        assert "\n" not in problem


def test_no_hub_at_all(tmp_path: Path) -> None:
    [(_, offline)], _ = ask(tmp_path, None, ("org/m:Q4_0", None))
    assert offline == (
        f"org/m is not, or not whole, in the hub's cache {tmp_path / 'hf' / 'hub'}, and the hub cannot be reached "
        "(HF_HUB_OFFLINE is set); unset it, or check the path or the id"
    )
    with refusing() as (url, tries):
        [(_, down)], shown = ask(tmp_path, url, ("org/m", None))
    assert 1 <= len(tries) <= MOST_TRIES  # the hub's client by itself would try some requests for half a minute
    assert shown == ""
    assert "the hub cannot be reached (" in down
    assert down.endswith("); check the network, or check the path or the id")


def test_what_the_cache_holds_is_used_offline(gguf: bytes, graph: dict[str, bytes], tmp_path: Path) -> None:
    place = tmp_path / "hf" / "hub"
    one = stores.cached(place, "org/one", {"one-Q4_0.gguf": gguf})
    stores.cached(place, "org/two", {"two-Q4_0.gguf": gguf, "two-Q8_0.gguf": gguf})
    whole = stores.cached(place, "org/graphs", graph)
    partly = stores.cached(place, "org/part", {name: raw for name, raw in graph.items() if name != "onnx/weights.bin"})
    named = [("org/one", "text"), ("org/two", None), ("org/graphs", None), ("org/graphs/onnx/model_q4.onnx", None),
             ("org/part/onnx/model_q4.onnx", None), ("org/part", None)]  # fmt: skip
    found, _ = ask(tmp_path, None, *named)
    assert [kind for kind, _ in found] == ["found", "refused", "found", "found", "refused", "found"]
    assert found[1][1] == "org/two has several .gguf files; name one: org/two:Q4_0, org/two:Q8_0"
    assert found[2][1] == str(whole / "onnx" / "model.onnx")
    assert "is not, or not whole, in the hub's cache" in found[4][1]
    assert found[5][1] == str(partly / "onnx" / "model.onnx")
    assert one.is_dir()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("org/repo", HubName("org/repo")),
        ("org/repo:Q4_K_M", HubName("org/repo", "Q4_K_M")),
        ("org/repo/onnx/model_q4.onnx", HubName("org/repo", None, "onnx/model_q4.onnx")),
        ("org/Repo-1.5B-GGUF/x y.gguf", HubName("org/Repo-1.5B-GGUF", None, "x y.gguf")),
        ("org", None), ("org/", None), ("a/b/c", None), ("org/repo:", None), ("org/repo:a/b", None),
        ("org/repo/../x.gguf", None), ("org/repo//x.gguf", None), ("../repo/x.gguf", None), ("org/..", None),
        ("org/repo/x\n.gguf", None), ("org/repo/a\\b.gguf", None), ("org/repo:Q4:Q5", None),
    ],
)  # fmt: skip
def test_names(name: str, found: HubName | None) -> None:
    assert HubName.of(name) == found
