"""What a user asks of an engine: kept, or refused by name before any weight is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from airdraft.errors import ModelError
from airdraft.models.engines.nothing import NONE
from airdraft.models.fit import Fit, context_of, cores, memory_bytes
from airdraft.models.registry import ENGINES, load, load_draft, load_target

from ..pairs import copied

ASKED: dict[str, Any] = {"threads": 2, "kv_type": "f16", "gpu_layers": 1, "splice": True}
NOWHERE = ["http://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("engine", "option"),
    [(name, option) for name, entry in ENGINES.items() for option in ASKED if option not in entry.options],
)
def test_what_an_engine_has_no_use_for_is_refused_by_name(engine: str, option: str) -> None:
    takers = ", ".join(name for name, entry in ENGINES.items() if option in entry.options)
    urls = NOWHERE if ENGINES[engine].remote else []
    with pytest.raises(ModelError) as caught:
        load_target("target", engine=engine, urls=urls, fit=Fit(**{option: ASKED[option]}))
    said = str(caught.value)
    assert said.startswith(f"{option.replace('_', '-')} is not for the engine {engine}; ")
    assert said.endswith(f"or take another engine ({takers})")


def test_without_a_draft_there_is_nothing_to_fit() -> None:
    for option, value in {**ASKED, "context": 100}.items():
        with pytest.raises(ModelError, match=f"^{option}: there is no draft to run so; name a draft"):
            load_draft(NONE, tokenizer="target", fit=Fit(**{option: value}))


def test_likely_tokens_are_asked_for_elsewhere_only() -> None:
    with pytest.raises(ModelError, match=r"^a number of likely tokens is for the engines vllm"):
        load_target("target", top_k=20)


def test_a_context_bounds_every_text() -> None:
    for model in (load("draft", fit=Fit(context=100))[0], load_target("target", fit=Fit(context=100))[0]):
        info = model.info  # type: ignore[union-attr]
        assert info.max_context == 100
    draft, _ = load("draft", fit=Fit(context=100))
    draft.forward(draft.new_cache(), 0, [1] * 100, 1)
    with pytest.raises(ModelError, match="101 positions exceed the 100"):
        draft.forward(draft.new_cache(), 0, [1] * 101, 1)


@pytest.mark.parametrize("asked", [1025, 1 << 30, 0, -1])
def test_a_context_beyond_the_models_own_is_refused(asked: int) -> None:
    for loaded in (load, load_target):
        with pytest.raises(ModelError, match=rf"^a context of {asked} positions .* up to 1024; give 1 to 1024$"):
            loaded("target", fit=Fit(context=asked))


def test_a_context_beyond_the_memory_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    folder = copied("target", tmp_path / "long")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2_000_000_000}))
    (folder / "model.onnx").write_bytes(b"\x08\x08")  # no graph at all: whoever loads it says so
    with pytest.raises(ModelError, match=r"takes \d+\.\d GB with the weights .* has \d+\.\d GB; give at most \d+$"):
        load(str(folder), fit=Fit(context=2_000_000_000))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(folder), fit=Fit(context=2))


def test_the_figure_that_fits_does_fit() -> None:
    with pytest.raises(ModelError, match=r"a context of 90 positions takes 0\.0 GB .*; give at most 70$"):
        context_of("it", 90, 100, 10, 300, memory=1000)
    assert context_of("it", 70, 100, 10, 300, memory=1000) == 70
    assert context_of("it", None, 100, 10, 300, memory=1) == 100  # nobody asks for room
    with pytest.raises(ModelError, match="choose a smaller model"):
        context_of("it", 1, 100, 10, 1001, memory=1000)


def test_what_this_machine_has() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    memory = memory_bytes()
    assert memory is None or memory > 100_000_000


def test_the_options_of_a_command() -> None:
    assert Fit().words() == []
    assert Fit(splice=True).words() == ["--splice"]
    assert Fit(2, 100, "f16", 0).words() == [
        "--threads",
        "2",
        "--context",
        "100",
        "--kv-type",
        "f16",
        "--gpu-layers",
        "0",
    ]
