"""Keys and values out of every engine that gives them away, and back in: the rows are those of the same forwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.models.base import Part
from airdraft.models.engines.hf import HfModel
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load_target
from airdraft.prompts.blocks import BLOCK, Layout, folder_of

from .models import steady


def _hf(dtype: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        pytest.importorskip("torch", reason="needs the extra hf")
        pytest.importorskip("transformers", reason="needs the extra hf")
        model = HfModel(shipped("target"), dtype=dtype)
        model.info = replace(model.info, digest=b"h" * 16)
        return model

    return make


def _imported(folder: Path) -> Any:
    pytest.importorskip("gguf", reason="writing the file takes the gguf package")
    from ..models.imports.made import Made

    return load_target(str(Made(kind="Q8_0", context=256).write(folder / "a.gguf")))[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: steady(),
        _imported,
        *(pytest.param(_hf(dtype), marks=pytest.mark.slow) for dtype in ("float32", "bfloat16", "float16")),
    ],
    ids=["shipped", "imported", "hf", "hf in bfloat16", "hf in float16"],
)
def test_rows_after_what_was_put_are_those_after_what_was_computed(make: Callable[[Path], Any], tmp_path: Path) -> None:
    engine = make(tmp_path)
    layout = Layout.of(engine)
    assert folder_of(engine, layout) == folder_of(engine, layout)
    text = [at * 7 % engine.info.vocab_size for at in range(2 * BLOCK + 9)]

    def fed(cache: Any, keep: int, end: int, rows: int) -> Any:
        [found] = engine.verify([Part(cache, keep, text[keep:end], rows)])
        return found

    own = engine.new_cache()
    fed(own, 0, 2 * BLOCK, 0)
    blocks = [
        layout.read([layout.written(own.take(at, at + BLOCK), layer) for layer in range(layout.layers)])
        for at in (0, BLOCK)
    ]
    expected = fed(own, 2 * BLOCK, len(text), 2)
    other = engine.new_cache()
    fed(other, 0, 40, 0)
    other.put(0, [np.concatenate(each, 1) for each in zip(*blocks, strict=True)])
    assert other.length == 2 * BLOCK
    assert np.array_equal(fed(other, 2 * BLOCK, len(text), 2), expected)
    # Half computed, half put; then rolled back into what was put, and fed again.
    half = engine.new_cache()
    fed(half, 0, 2 * BLOCK, 0)
    half.put(BLOCK, blocks[1])
    assert np.array_equal(fed(half, 2 * BLOCK, len(text), 2), expected)
    fed(half, BLOCK + 5, 2 * BLOCK, 0)
    assert half.length == 2 * BLOCK
    # What is put is used: another block gives other rows.
    half.put(BLOCK, [each + 1 if each.dtype.kind == "f" else each ^ 64 for each in blocks[1]])
    assert not np.array_equal(fed(half, 2 * BLOCK, len(text), 2), expected)
