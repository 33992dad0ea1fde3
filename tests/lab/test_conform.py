"""`airdraft conform`: what is exact passes, what is known to be wrong fails, and plug-ins are found and named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.core import schemes
from airdraft.core.law import Place
from airdraft.core.schemes.cuts import Conformal
from airdraft.errors import BadParameterError, ModelError
from airdraft.lab import conform, cutting
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped

from ..models.http_engine import like_sglang, like_vllm, serve
from ..models.test_llamaserver import like_llama_server

EXACT = '''
from dataclasses import replace

from airdraft.core.schemes.topk import TopK
from airdraft.lab.conform import Inverted

class Few(TopK):
    """As `topk`, with fewer options."""

    traits = replace(TopK.traits, options=("k", "bits", "verify"))

class Mine(Few):
    """As `topk`."""

class Wrong(Inverted, Few):
    """Upside down."""

class Mute(Few):
    """Sends what its own edge refuses."""

    def pack(self, drafts):
        return b""

class Nothing:
    """No scheme."""
'''


@pytest.fixture(autouse=True)
def _schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "SCHEMES", dict(schemes.SCHEMES))


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, points: str) -> None:
    """Install a package of plug-ins, as pip leaves it."""
    (folder / "plug_in_of_a_test.py").write_text(EXACT)
    metadata = folder / "plug_in_of_a_test-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in-of-a-test\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[airdraft.schemes]\n{points}\n")
    monkeypatch.syspath_prepend(str(folder))


def command(*words: str, texts: int = 400) -> tuple[int, dict[str, dict[str, object]]]:
    done = CliRunner().invoke(app, ["conform", "--json", "--texts", str(texts), *words])
    return done.exit_code, {row["scheme"]: row for row in json.loads(done.stdout)["rows"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", conform.EXAMPLES)
def test_an_example_fails_and_the_scheme_that_it_spoils_does_not(name: str) -> None:
    code, rows = command("--example", name, texts=1000)
    ((label, row),) = rows.items()
    assert code == 1
    assert name in label
    assert float(str(row["p_value"])) < conform.BAR
    assert not row["exact"]
    spoilt = conform.EXAMPLES[name][1]
    assert conform.tested(conform.tables(1, spoilt), "", spoilt, 400, 1).p_value > 1e-4


@pytest.mark.slow
def test_all_schemes_pass() -> None:
    code, rows = command("--all", texts=200)
    assert code == 0
    assert set(rows) == {label for name in schemes.SCHEMES for label, _ in conform.variants(name)}
    assert all(row["exact"] and row["texts"] == 200 for row in rows.values())


LIKE = {"vllm": like_vllm, "sglang": like_sglang, "llamaserver": like_llama_server}


@pytest.mark.slow
@pytest.mark.parametrize("engine", LIKE)
def test_a_target_that_runs_elsewhere(engine: str) -> None:
    with serve(LIKE[engine](OnnxModel(shipped("target")))) as server:
        words = ["conform", "--scheme", "coupled", "--engine", engine, "--url", server.url, "--texts", "200"]
        done = CliRunner().invoke(app, [*words, "--json"])
        asked = len(server.asked)
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    (row,) = found["rows"]
    assert (row["exact"], row["texts"], found["engine"]) == (True, 200, engine)
    assert row["freedom"] > 5
    assert f"each row of {engine} was asked once" in found["caveat"]
    assert asked > 20


@pytest.mark.slow
def test_an_engine_elsewhere_that_answers_no_rows_fails() -> None:
    sound = like_vllm(OnnxModel(shipped("target")))
    asked = list[str]()

    def failing(path: str, body: Any) -> tuple[int, Any]:
        asked.append(path)
        return sound(path, body) if len(asked) < 20 else (500, {"error": {"message": "out of memory"}})

    with serve(failing) as server:
        words = ["conform", "--scheme", "coupled", "--engine", "vllm", "--url", server.url, "--texts", "200", "--json"]
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "the engine of target failed" in json.loads(done.stdout)["rows"][0]["fault"]


@pytest.mark.slow
@pytest.mark.parametrize("verify", schemes.VERIFY)
@pytest.mark.parametrize("name", ["topk", "lattice"])
def test_a_conformal_cut_moves_in_its_tables_and_knows_no_dead_drafts(
    monkeypatch: pytest.MonkeyPatch, name: str, verify: str
) -> None:
    sizes, sound = Counter[int](), Conformal.size

    def size(self: Conformal, probs: np.ndarray, at: Place) -> int:
        found = sound(self, probs, at)
        sizes[found] += 1
        return found

    monkeypatch.setattr(Conformal, "size", size)
    spec = structs.replace(dict(conform.variants(name))[f"{name}/conformal"], verify=verify)
    given = conform.tables(1, spec)
    assert conform.tested(given, "", spec, 1000, 1).p_value > 1e-4
    assert min(sizes[1], sizes[cutting.WIDE]) > 500
    if verify == "block":  # its random numbers belong to the round, so dead drafts say nothing of them
        return
    schemes.SCHEMES["twin"] = type("Twin", (cutting.DeadDrafts, schemes.SCHEMES[name]), {})
    assert conform.tested(given, "", structs.replace(spec, name="twin"), 1000, 1).p_value < conform.BAR


@pytest.mark.slow
def test_all_that_is_known_to_be_wrong_fails_by_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    code, rows = command("--broken", texts=1000)
    assert code == 0
    assert len(rows) == len(conform.EXAMPLES)
    assert all(float(str(row["p_value"])) < conform.BAR for row in rows.values())
    monkeypatch.setattr(conform, "EXAMPLES", {"none": (type("Sound", (), {}), conform.EXAMPLES["inverted"][1])})
    assert command("--broken")[0] == 1


@pytest.mark.slow
def test_a_plug_in_is_tested_as_our_own_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "mine = plug_in_of_a_test:Mine\nwrong = plug_in_of_a_test:Wrong\n"
            "mute = plug_in_of_a_test:Mute")  # fmt: skip
    code, rows = command("--scheme", "mine")
    assert code == 0
    assert set(rows) == {"mine/token", "mine/block"}
    assert all(row["exact"] and row["freedom"] and row["texts"] == 400 for row in rows.values())
    code, rows = command("--scheme", "wrong")
    assert code == 1
    assert not rows["wrong/token"]["exact"]
    code, rows = command("--scheme", "mute")
    assert code == 1
    assert "a body ends after" in str(rows["mute/token"]["fault"])


@pytest.mark.parametrize(
    ("points", "what"),
    [
        ("mine = no_such_module:Mine", "no_such_module:Mine cannot be imported"),
        ("mine = plug_in_of_a_test:Nothing", "is no scheme"),
        ("topk = plug_in_of_a_test:Mine", "is called topk, as another scheme is"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, points: str, what: str
) -> None:
    install(monkeypatch, tmp_path, points)
    with pytest.raises(BadParameterError, match=what):
        conform.plug_in()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "say what to test"),
        (("--all", "--scheme", "topk"), "one of them"),
        (("--scheme", "telepathy"), "scheme 'telepathy' is unknown"),
        (("--example", "nothing"), "choose one of inverted, raw-sample, no-residual, dead-drafts"),
        (("--all", "--texts", "10"), "give at least 200"),
        (("--all", "--url", "http://127.0.0.1:9"), "say which, --engine vllm for one"),
        (("--all", "--engine", "onnx", "--url", "http://127.0.0.1:9"), "a URL is for the engines vllm"),
        (("--all", "--engine", "vllm"), "vllm runs elsewhere; name where it is, --url"),
    ],
)
def test_mistakes_are_named(words: tuple[str, ...], what: str) -> None:
    found = CliRunner().invoke(app, ["conform", *words]).exception
    assert isinstance(found, BadParameterError | ModelError)
    assert what in str(found)


def test_every_choice_of_every_scheme_is_tested() -> None:
    labels = [label for name in schemes.SCHEMES for label, _ in conform.variants(name)]
    some = "server", "dense/token", "topk/block", "topk/several", "lattice/conformal", "split/candidates", "stream/idle"
    assert set(some) <= set(labels)
    assert {label.partition("/")[0] for label in labels} == set(schemes.SCHEMES)
