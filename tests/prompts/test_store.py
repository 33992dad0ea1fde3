"""The store: what is written comes back, what is damaged is found, and what was used longest ago makes room."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import numpy as np
import pytest

from airdraft.errors import BadParameterError, LinkError
from airdraft.prompts import store as module
from airdraft.prompts.blocks import BLOCK, BlockError, Layout, chain
from airdraft.prompts.store import PromptStore, shown

LAYOUT = Layout([np.zeros((2, 0, 3), np.float32), np.zeros((2, 0, 4), np.float16)] * 2)
FOLDER = "ab/cd"


def _block(seed: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(each.shape[0], BLOCK, each.shape[2])).astype(each.dtype) for each in LAYOUT.tensors]


def _names(first: int, blocks: int = 2) -> list[bytes]:
    return chain([first] * BLOCK * blocks)


def _filled(url: str, *prompts: int) -> PromptStore:
    store = PromptStore(url, FOLDER, LAYOUT)
    for each in prompts:
        for at, name in enumerate(_names(each)):
            store.put_block(name, _block(10 * each + at))
        store.put_prompt(_names(each))
    return store


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "new" / "store") if request.param == "folder" else f"memory://{tmp_path.name}"


def test_what_is_written_comes_back(url: str) -> None:
    assert PromptStore(url, FOLDER, LAYOUT).prompts() == []
    _filled(url, 1, 2)
    store = PromptStore(url, FOLDER, LAYOUT)
    assert {prompt.blocks for prompt in store.prompts()} == {tuple(_names(each)) for each in (1, 2)}
    for at, name in enumerate(_names(2)):
        assert all(np.array_equal(a, b) for a, b in zip(store.block(name), _block(20 + at), strict=True))
    assert PromptStore(url, "ab/ef", LAYOUT).prompts() == []
    assert PromptStore(url, "ab/ef", LAYOUT).others() == 1


def test_what_is_damaged_or_gone_is_found(url: str) -> None:
    store = _filled(url, 1)
    system, root = fsspec.core.url_to_fs(url)
    [first, second] = _names(1)
    place = f"{root}/{FOLDER}/blocks/{first.hex()}/1"
    good = system.cat_file(place)
    for bad in (good[:-1], good + b"\0", bytes([*good[:100], good[100] ^ 1, *good[101:]]), b""):
        system.pipe_file(place, bad)
        with pytest.raises(BlockError):
            store.block(first)
        assert not store.has(first)
    system.rm(place)
    with pytest.raises(BlockError, match="is not there"):
        store.block(first)
    assert store.has(second)


def test_a_list_that_is_damaged_names_no_prompt(url: str) -> None:
    store = _filled(url, 1, 2)
    system, root = fsspec.core.url_to_fs(url)
    place = f"{root}/{FOLDER}/prompts/{_names(1)[-1].hex()}"
    good = system.cat_file(place)
    system.pipe_file(f"{root}/{FOLDER}/prompts/notes.txt", b"not ours")
    for bad in (good[:-1], good[:60] + bytes([good[60] ^ 1]) + good[61:], b""):
        system.pipe_file(place, bad)
        assert [prompt.blocks for prompt in store.prompts()] == [tuple(_names(2))]


def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    store = _filled(str(tmp_path), 1, 2, 3)
    place = tmp_path / FOLDER / "prompts" / _names(1)[-1].hex()
    os.mkfifo(place.with_name("0" * 64))  # nobody will ever write to it
    place.with_name("1" * 64).symlink_to("/dev/zero")
    place.with_name("2" * 64).mkdir()
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")  # as mounted folders have it
    assert {prompt.blocks for prompt in store.prompts()} == {tuple(_names(each)) for each in (1, 2, 3)}
    [first, second] = [tmp_path / FOLDER / "blocks" / _names(each)[0].hex() / "0" for each in (1, 2)]
    for each in (first, second):
        each.unlink()
    os.mkfifo(first)
    second.symlink_to("/dev/zero")
    assert [store.has(_names(each)[0]) for each in (1, 2, 3)] == [False, False, True]


def test_a_list_is_bounded_and_read_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = _filled(url, 1, 2, 3), []
    plain = store._read
    monkeypatch.setattr(store, "_read", lambda places, sizes: read.extend(places) or plain(places, sizes))
    assert len(store.prompts()) == len(store.prompts()) == len(read) == 3
    _filled(url, 4)
    assert len(store.prompts()) == len(read) == 4
    monkeypatch.setattr(module, "MOST_BLOCKS", 5)
    assert len(store.prompts()) == len(PromptStore(url, FOLDER, LAYOUT).prompts()) == 2


def test_a_reader_never_sees_half_an_object(tmp_path: Path) -> None:
    store = _filled(str(tmp_path), 1)
    before = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    _filled(str(tmp_path), 1)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == before  # nothing is left beside
    assert store.has(_names(1)[0])


def test_prompts_that_were_used_longest_ago_make_room(tmp_path: Path) -> None:
    store = _filled(str(tmp_path), 1, 2, 3)
    by_first = {prompt.blocks[0]: prompt for prompt in store.prompts()}
    for at, each in enumerate((1, 2, 3)):
        os.utime(tmp_path / by_first[_names(each)[0]].place, (100 + at, 100 + at))
    store.touch(by_first[_names(1)[0]])
    gone = store.evict(4 * LAYOUT.block_bytes)
    assert [prompt.blocks for prompt in gone] == [tuple(_names(2))]
    assert {prompt.blocks for prompt in store.prompts()} == {tuple(_names(1)), tuple(_names(3))}
    assert [store.has(name) for name in _names(2)] == [False, False]
    assert all(store.has(name) for each in (1, 3) for name in _names(each))
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*/blocks/*/*")) == 4 * LAYOUT.block_bytes


def test_blocks_that_another_prompt_needs_stay(tmp_path: Path) -> None:
    store = _filled(str(tmp_path), 1)
    longer = _names(1, 3)
    store.put_block(longer[2], _block(12))
    store.put_prompt(longer)
    [short] = [prompt for prompt in store.prompts() if len(prompt.blocks) == 2]
    os.utime(tmp_path / short.place, (100, 100))
    assert store.evict(3 * LAYOUT.block_bytes) == []  # both share two blocks
    os.utime(tmp_path / short.place, (2e9, 2e9))
    assert [len(prompt.blocks) for prompt in store.evict(2 * LAYOUT.block_bytes)] == [3]
    assert [store.has(name) for name in longer] == [True, True, False]


def test_a_place_that_is_none_is_refused_and_no_password_is_shown() -> None:
    with pytest.raises(BadParameterError, match="name a folder"):
        PromptStore("nonsense://x", FOLDER, LAYOUT)
    assert shown("https://me:secret@host/path") == "https://host/path"
    assert shown("/a/b@c") == "/a/b@c"


def test_a_store_that_does_not_answer_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LinkError, match="takes no object"):
        _filled(str(tmp_path / "file"), 1)
