"""Texts that keep one beginning: the rows that they have without company, to the bit, and one copy in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models import sharing as module
from airdraft.models.base import Around, FloatArray, Part, Roomy, raised
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.fit import Fit
from airdraft.models.registry import load, load_target
from airdraft.models.sharing import SEGMENT, Beginning, Sharing, SharingCache

from .graphs import Shape, write_decoder

N = 3 * SEGMENT + 10
SPLICED, PLAIN = Fit(1, splice=True), Fit(1)


def _imported(folder: Path, fit: Fit, made: Any) -> Any:
    pytest.importorskip("gguf", reason="writing the file takes the gguf package")
    from .imports.made import Made

    return made(str(Made(kind="Q8_0", context=512).write(folder / "a.gguf")), fit=fit)[0]


def _hf(folder: Path, fit: Fit, made: Any) -> Any:
    torch = pytest.importorskip("torch", reason="needs the extra hf")
    torch.set_num_threads(1)
    return made("target", engine="hf", fit=fit)[0]


MAKERS: dict[str, Callable[[Path, Fit, Any], Any]] = {
    "shipped": lambda folder, fit, made: made("target", fit=fit)[0],
    "imported": _imported,
    "hf": _hf,
}
ENGINES = ["shipped", "imported", pytest.param("hf", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One that shares, with its rows steadied."""
    return MAKERS[request.param](tmp_path_factory.mktemp("model"), SPLICED, load_target)


@pytest.fixture(autouse=True)
def _little_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", SEGMENT)


def text_of(engine: Any, branch: int = 0, after: int = 0) -> list[int]:
    """A text that differs from the first one from token `after` on."""
    return [(at * 31 + (branch * 7 + 1) * (at >= after) * (branch > 0)) % engine.info.vocab_size for at in range(N)]


def run(engine: Any, cache: Any, keep: int, tokens: list[int], rows: int) -> FloatArray:
    return raised(engine.verify([Part(cache, keep, tokens, rows)])[0])


def sharing(cache: Any) -> SharingCache:
    while not isinstance(cache, SharingCache):
        assert isinstance(cache, Around)
        cache = cache.inner
    return cache


def own_room(cache: Any) -> int:
    """Positions for which a text has memory that no other shares."""
    inner = sharing(cache).inner
    return inner.room if isinstance(inner, Roomy) else inner.length


def same(engine: Any, rows: FloatArray, others: FloatArray) -> None:
    """To the bit, where the engine says that rows depend on nothing."""
    if set(engine.info.exactness.shares.values()) == {0.0}:
        np.testing.assert_array_equal(rows, others)
    else:
        np.testing.assert_allclose(rows, others, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ENGINES)
def test_rows_are_those_without_but_for_rounding(name: str, tmp_path: Path) -> None:
    models = [MAKERS[name](tmp_path, fit, load) for fit in (SPLICED, PLAIN)]
    text, quantised = text_of(models[0]), name == "imported"
    spliced, plain = (run(each, each.new_cache(), 0, text, N) for each in models)
    # Where activations have 8 bits, as in the imported file, rounding tips some of them over.
    np.testing.assert_allclose(spliced, plain, rtol=0, atol=(1e-2 if quantised else 1e-5) * np.ptp(plain))


def test_what_rows_depend_on(engine: Any, request: pytest.FixtureRequest) -> None:
    """On nothing at all, where attention has segments: not even on who shares a call."""
    shares = engine.info.exactness.told
    if "hf" not in request.node.name:
        assert shares == {"batch": "exact", "width": "exact", "company": "exact", "prompts": "exact"}


@pytest.mark.parametrize("seed", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 6))])
def test_sharing_changes_no_bit(engine: Any, seed: int) -> None:
    """Texts that begin anywhere in each other, are fed in calls of any company and width, and are rolled back."""
    random = np.random.default_rng(seed)
    texts = [text_of(engine, branch, after) for branch, after in enumerate((0, 70, 130, 150))]
    whole = [run(engine, engine.new_cache(), 0, text, N) for text in texts]
    caches = {0: engine.new_cache()}
    run(engine, caches[0], 0, texts[0][:170], 0)
    ends = {0: 170}
    for branch in range(1, len(texts)):
        source = int(random.choice(list(caches)))
        common = next(at for at, (a, b) in enumerate(zip(texts[branch], texts[source], strict=True)) if a != b)
        ends[branch] = min(common, ends[source])
        caches[branch] = engine.copy(caches[source], ends[branch])
    shared = {sharing(cache).beginning for cache in caches.values()}
    assert None not in shared
    assert len(shared) < len(caches)  # some have the same one
    while min(ends.values()) < N:
        parts, chosen = [], [each for each in ends if ends[each] < N and random.random() < 0.7]
        for branch in chosen:
            back = int(random.integers(0, 90)) if random.random() < 0.1 else 0
            start = max(0, ends[branch] - back)
            end = min(N, start + int(random.choice([1, 2, 5, 30])))
            parts.append(Part(caches[branch], start, texts[branch][start:end], end - start))
            ends[branch] = end
        for branch, part, rows in zip(chosen, parts, engine.verify(parts) if parts else [], strict=True):
            same(engine, rows, whole[branch][part.keep : part.keep + len(part.tokens)])


def test_a_beginning_is_in_memory_once(engine: Any) -> None:
    text, source = text_of(engine), engine.new_cache()
    run(engine, source, 0, text, 0)
    copies = [engine.copy(source, 2 * SEGMENT + 9) for _ in range(8)]
    found = {id(sharing(cache).beginning) for cache in (source, *copies)}
    assert len(found) == 1
    assert sharing(source).start == 2 * SEGMENT
    for cache in copies:
        assert cache.length == 2 * SEGMENT + 9
        assert own_room(cache) <= SEGMENT
    own = sum(map(own_room, (source, *copies)))
    assert own + 2 * SEGMENT - 9 <= sum(cache.room for cache in (source, *copies)) <= own + 2 * SEGMENT


def test_a_short_beginning_is_copied(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a few tokens in common would put texts into calls of their own."""
    monkeypatch.setattr(module, "LEAST", 2 * SEGMENT)
    text, source = text_of(engine), engine.new_cache()
    run(engine, source, 0, text[:150], 0)
    short, long = engine.copy(source, 2 * SEGMENT - 1), engine.copy(source, 2 * SEGMENT)
    assert [sharing(cache).start for cache in (short, long, source)] == [0, 2 * SEGMENT, 2 * SEGMENT]
    assert sharing(engine.copy(source, 2 * SEGMENT - 1)).start == 0  # not of one that is there, either
    same(engine, run(engine, short, 100, text[100:150], 4), run(engine, long, 100, text[100:150], 4))


def test_what_is_shared_is_used(engine: Any) -> None:
    """Else the tests above would hold for an engine that forgets the beginning."""
    text, source = text_of(engine), engine.new_cache()
    run(engine, source, 0, text[:-3], 0)
    copy = engine.copy(source, N - 10)
    rows = run(engine, copy, N - 10, text[-10:], 3)
    beginning = sharing(copy).beginning
    assert beginning is not None
    sharing(copy).begin(Beginning([np.roll(each, 1, -1) for each in beginning.tensors]))
    assert np.abs(run(engine, copy, N - 10, text[-10:], 3) - rows).max() > 1e-2


def test_what_is_taken_out_is_what_was_there(engine: Any) -> None:
    text, source = text_of(engine), engine.new_cache()
    run(engine, source, 0, text, 0)
    before = source.take(10, 180)
    copy = engine.copy(source, 2 * SEGMENT + 30)
    for found, expected in zip(source.take(10, 180), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(copy.take(10, 150), before, strict=True):
        np.testing.assert_array_equal(found, expected[:, :140])
    rows = run(engine, source, 180, text[180:], 5)
    copy.put(100, [each[:, 90:170] for each in before])  # behind a beginning that is shorter now
    assert copy.length == 180
    assert sharing(copy).start == SEGMENT
    same(engine, run(engine, copy, 180, text[180:], 5), rows)


def test_trees_grow_behind_a_beginning(engine: Any) -> None:
    assert engine.info.trees
    text, source = text_of(engine), engine.new_cache()
    at = 2 * SEGMENT + 5
    run(engine, source, 0, text[:at], 0)
    rows, picked = [], []
    for cache in (engine.copy(source, at), source, engine.new_cache()):
        if cache.length == 0:
            run(engine, cache, 0, text[:at], 0)
        part = Part(cache, at, [5, 6, *text[at : at + 2]], 4, (-1, 0, -1, 2))
        rows.append(raised(engine.verify([part])[0]))
        part = Part(cache, at, text[at + 2 : at + 6], 4, None, (2, 3))
        picked.append(raised(engine.verify([part])[0]))
    for found in (rows, picked):
        same(engine, found[0], found[2])
        same(engine, found[1], found[2])
    same(engine, picked[0], run(engine, engine.new_cache(), 0, text[: at + 6], 4))


def test_weights_behind_links_are_found(tmp_path: Path) -> None:
    """As in the hub's cache, where names are links to files that are called otherwise."""
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    for at, file in enumerate(shipped("chat-draft").iterdir()):
        shutil.copyfile(file, blobs / str(at))
        (folder / file.name).symlink_to(blobs / str(at))
    OnnxModel(folder, threads=1, splice=True)


def test_a_graph_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be spliced .*leave --splice out"):
        OnnxModel(write_decoder(tmp_path, Shape()), splice=True)


def test_an_engine_that_overlooks_the_beginning_is_refused() -> None:
    class Overlooking(OnnxModel):
        def verify(self, batch: Any, beginning: Any = None) -> Any:
            return super().verify(batch)

    with pytest.raises(ModelError, match=r"attends in ways that cannot be spliced; leave --splice out"):
        Sharing(Overlooking(shipped("target"), threads=1, splice=True))
