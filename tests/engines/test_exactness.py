"""What every engine says its rows depend on, held against its rows; and that the trial would have said otherwise.

The last is of llama.cpp in Q8_0, where a text differs as soon as one token is fed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from airdraft.edge.server import EdgeServer
from airdraft.errors import AirdraftError
from airdraft.models import steady
from airdraft.models.base import Part, TargetEngine
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load_target

from ..cpu import needs_avx2

pytestmark = pytest.mark.timeout(600)

N = 160
TEXT = np.random.default_rng(11).integers(0, 4096, N).tolist()
Rows = NDArray[np.float32]


def rows_of(engine: TargetEngine, *parts: Part) -> list[Rows]:
    found = engine.verify(parts)
    assert not any(isinstance(each, AirdraftError) for each in found)
    return found  # type: ignore[return-value]


def fed(engine: TargetEngine, widths: Sequence[int], text: Sequence[int] = TEXT) -> Rows:
    """All rows of a text, so many tokens at a time, in turn."""
    cache, found, start = engine.new_cache(), [], 0
    while start < len(text):
        tokens = text[start : start + widths[len(found) % len(widths)]]
        found += rows_of(engine, Part(cache, start, tokens, len(tokens)))
        start += len(tokens)
    return np.concatenate(found)


def side_by_side(engine: TargetEngine, widths: Sequence[int], count: int) -> tuple[Rows, Rows]:
    """The rows of texts that share calls, and those of the same forwards one by one. Their lengths differ."""
    both = []
    for together in (True, False):
        caches, ends, found = [engine.new_cache() for _ in range(count)], [i * 30 for i in range(count)], []
        for cache, end in zip(caches, ends, strict=True):
            if end:
                rows_of(engine, Part(cache, 0, TEXT[:end], 0))
        for at in range(16):
            parts = []
            for i, cache in enumerate(caches):
                width = widths[(at + i) % len(widths)]
                parts.append(Part(cache, ends[i], TEXT[ends[i] : ends[i] + width], width))
                ends[i] += width
            found += rows_of(engine, *parts) if together else [rows_of(engine, part)[0] for part in parts]
        both.append(np.concatenate(found))
    return both[0], both[1]


def test_rows_do_not_depend_on_what_the_engine_says_they_do_not(engine: TargetEngine) -> None:
    exactness, info = engine.info.exactness, engine.info
    if info.max_calls > 1:  # a server, whose engine nobody here can try
        assert exactness.told == {"batch": None, "width": None, "company": None, "prompts": "exact"}
        return
    whole = fed(engine, (N,))
    if exactness.width == 0:
        for widths in ((1,), (2, 1, 7), (5, 16, 1, 33)):
            np.testing.assert_array_equal(fed(engine, widths), whole)
    if exactness.company == 0:
        others = [engine.new_cache() for _ in range(2)]
        for cache, n in zip(others, (33, 7), strict=True):
            rows_of(engine, Part(cache, 0, TEXT[:n], 0))
        np.testing.assert_array_equal(fed(engine, (1, 4)), fed(engine, (1, 4)))
        np.testing.assert_array_equal(fed(engine, (1, 4)), whole if exactness.width == 0 else fed(engine, (1, 4)))
    if exactness.batch == 0 and info.max_batch > 1:
        np.testing.assert_array_equal(*side_by_side(engine, (1, 6, 2), 3))


def test_a_text_keeps_its_bits_whatever_trees_it_was_fed_in(engine: TargetEngine) -> None:
    """Where the width of a forward does not matter: the branch that stays is now the first of its tree, now another."""
    info, whole = engine.info, fed(engine, (N,))
    if not info.trees or info.exactness.width != 0:
        return
    cache, at, picks, random = engine.new_cache(), 60, tuple[int, ...](), np.random.default_rng(2)
    rows_of(engine, Part(cache, 0, TEXT[:at], 0))
    while at < N - 8:
        width = int(random.integers(1, 4))
        right, wrong = TEXT[at : at + width], [(token + 1) % 4096 for token in TEXT[at : at + width]]
        comes_first = bool(random.random() < 0.5)
        tokens = [*right, *wrong] if comes_first else [*wrong, *right]
        parents = (-1, *range(width - 1), -1, *range(width, 2 * width - 1))
        [found] = rows_of(engine, Part(cache, at - len(picks), tokens, 2 * width, parents, picks))
        own = found[:width] if comes_first else found[width:]
        if comes_first:  # its rows have a chain's bits at once
            np.testing.assert_array_equal(own, whole[at : at + width])
        np.testing.assert_allclose(own, whole[at : at + width], rtol=0, atol=info.doubt)
        picks, at = tuple(range(width) if comes_first else range(width, 2 * width)), at + width
    [found] = rows_of(engine, Part(cache, at - len(picks), TEXT[at:], N - at, None, picks))
    np.testing.assert_array_equal(found, whole[at:])


@needs_avx2
def test_what_each_engine_keeps(engine: TargetEngine, request: pytest.FixtureRequest) -> None:
    """As the documentation says. hf differs from machine to machine: PyTorch chooses its products by their sizes."""
    [name] = [
        each for each in ("onnx", "hf", "llamacpp", "vllm", "llamaserver", "splice") if f"[{each}]" in request.node.name
    ]
    shares = engine.info.exactness.shares
    assert engine.info.trees == (name != "llamacpp")
    if name in ("onnx", "llamacpp"):
        assert (shares["width"], shares["company"]) == (0, 0)
        assert 0 <= (shares["batch"] or 0) <= (steady.ROUNDING if name == "onnx" else 0)
        assert (engine.info.doubt > 0) == engine.info.trees == (name == "onnx")
        assert engine.info.doubt < 1e-2
        assert EdgeServer(engine, bytes(16), 4096).target.doubt == engine.info.doubt
    elif name == "splice":
        assert set(shares.values()) == {0}
    elif name == "hf":
        assert all(share is not None and share < 1e-5 for share in shares.values())


@pytest.fixture(scope="module")
def q8_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for library in ("llama_cpp", "gguf", "safetensors"):
        pytest.importorskip(library, reason="needs the extra llamacpp")
    from airdraft.models.gguf import write_gguf

    file: Path = tmp_path_factory.mktemp("q8_0") / "model.gguf"
    write_gguf(shipped("target"), file, "q8_0")
    return file


def greedy(engine: Any, prompt: Sequence[int], drafts: int) -> list[int]:
    """A text that the engine writes with so many right drafts of its own in every forward, as a good draft would."""
    plain: list[int] = []
    cache = engine.new_cache()
    row = engine.forward(cache, 0, prompt, 1)[0]
    while len(plain) < 60:
        plain.append(int(row.argmax()))
        row = engine.forward(cache, len(prompt) + len(plain) - 1, plain[-1:], 1)[0]
    if drafts == 0:
        return plain
    cache, text = engine.new_cache(), []
    engine.forward(cache, 0, prompt, 0)
    text.append(int(engine.forward(cache, len(prompt) - 1, prompt[-1:], 1)[0].argmax()))
    while len(text) < 60:
        start = len(prompt) + len(text) - 1
        follows = plain[len(text) : len(text) + drafts] if text == plain[: len(text)] else []
        rows = engine.forward(cache, start, [text[-1], *follows], len(follows) + 1)
        for at, row in enumerate(rows):
            text.append(int(row.argmax()))
            if at < len(follows) and text[-1] != follows[at]:
                break
    return text[:60]


def test_a_quantised_target_writes_the_same_text_with_and_without_drafts(q8_0: Path) -> None:
    found = load_target(str(q8_0), engine="llamacpp")[0]
    assert found.info.exactness.told == {"batch": "exact", "width": "exact", "company": "exact", "prompts": "exact"}
    assert found.info.max_batch > 1
    for seed in range(4):
        prompt = np.random.default_rng(seed).integers(0, 4096, 20).tolist()
        assert greedy(found, prompt, 5) == greedy(found, prompt, 0)


def test_the_other_verdict_about_width_changes_its_rows(q8_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "BANDS", ((1, None),))  # one token alone is as good as several
    forced = load_target(str(q8_0), engine="llamacpp")[0]
    assert isinstance(forced, steady.Banded)
    texts = np.random.default_rng(1).integers(0, 4096, (8, 200)).tolist()
    # A model this small seldom tips over, about once in some hundred tokens.
    assert any((fed(forced, (1,), text) != fed(forced, (200,), text)).any() for text in texts)
    monkeypatch.undo()
    found = load_target(str(q8_0), engine="llamacpp")[0]
    for text in texts:
        np.testing.assert_array_equal(fed(found, (1,), text), fed(found, (200,), text))


def test_a_pool_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, q8_0: Path) -> None:
    """One memory for all sequences, llama.cpp's own default: rows depend on where positions lie in it."""
    from llama_cpp import llama_cpp as api

    from airdraft.models.engines import llamacpp_rooms
    from airdraft.models.engines.llamacpp import LlamaCppModel
    from airdraft.models.gguf import write_gguf

    write_gguf(shipped("target"), tmp_path / "model.gguf")
    plain = api.llama_init_from_model

    def pooled(model: Any, params: Any) -> Any:
        params.kv_unified = True
        return plain(model, params)

    monkeypatch.setattr(llamacpp_rooms, "_FIRST", (4, 512))  # no growth, which would look for rooms
    apart = steady.steadied(LlamaCppModel(tmp_path, sequences=4))
    monkeypatch.setattr(api, "llama_init_from_model", pooled)
    pool = steady.steadied(LlamaCppModel(tmp_path, sequences=4))
    assert apart.info.exactness.company == 0
    assert pool.info.exactness.company
    assert "with company" in pool.info.exactness.words
