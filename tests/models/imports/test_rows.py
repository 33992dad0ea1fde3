"""An imported GGUF scores tokens as a forward in NumPy does, for every family and every format of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.imports import matrices
from airdraft.models.imports.write import import_gguf

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from ...cpu import needs_avx2
from ...suites import mostly_slow
from .made import FLOATS, TYPES, Made

OFTEN = ("Q4_0", "Q4_K")
TOKENS = [7, 260, 31, 31, 99, 5, 256, 200, 64, 11, 83, 2]


VARIANTS: list[dict[str, Any]] = [
    {"tied": False},
    {"tied": False, "kind": "Q4_K", "embeddings": "Q6_K"},
    {"kind": "Q4_0", "embeddings": "Q4_0"},
    {"kind": "Q4_1", "embeddings": "Q8_0"},
    {"kind": "Q4_K", "value": "Q6_K"},
    {"kind": "Q4_0", "value": "F16"},
    {"kind": "Q8_0", "biased": True},
    {"kind": "F32", "factors": True},
    {"kind": "F32", "heads": 2, "kv_heads": 2},
    {"kind": "F32", "heads": 6, "kv_heads": 2},
]
MINIMA = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")
"""Formats whose minima meet activations that are not rounded, here and not in the forward in NumPy."""


def compare(made: Made, tmp_path: Path, *, rounded: bool) -> tuple[float, float]:
    """How far rows are from those of the forward in NumPy, in standard deviations: the median and the most."""
    folder = tmp_path / "model"
    import_gguf(made.write(tmp_path / "model.gguf"), folder)
    model = OnnxModel(folder)
    cache = model.new_cache()
    first = model.forward(cache, 0, TOKENS[:8], 8)
    rows = np.concatenate([first, model.forward(cache, 8, TOKENS[8:], 4)])
    wanted = made.rows(TOKENS, rounded=rounded)
    apart = np.abs(rows - wanted) / wanted.std()
    return float(np.median(apart)), float(apart.max())


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that are written keep activations as they are."""
    monkeypatch.setattr(matrices, "_INT8", 1)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(family, kind, marks=() if family == "llama" or kind in OFTEN else pytest.mark.slow)
        for family in ("llama", "qwen2", "qwen3") for kind in TYPES
    ],
)  # fmt: skip
def test_every_family_and_format_is_the_same_to_rounding(family: str, kind: str, tmp_path: Path) -> None:
    _, most = compare(Made(family, kind, biased=family == "qwen2"), tmp_path, rounded=False)
    assert most < 1e-4


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_the_same_to_rounding(variant: dict[str, Any], tmp_path: Path) -> None:
    _, most = compare(Made(**variant), tmp_path, rounded=False)
    assert most < 1e-4


@needs_avx2  # whose products take activations as they are
@pytest.mark.parametrize("kind", mostly_slow([kind for kind in TYPES if kind not in FLOATS], OFTEN))
def test_activations_are_rounded_to_8_bits_block_by_block(kind: str, tmp_path: Path) -> None:
    median, most = compare(Made(kind=kind), tmp_path, rounded=True)
    assert median < (0.05 if kind in MINIMA else 0.006)  # one amid two 8-bit numbers may fall to either
    assert most < (0.3 if kind in MINIMA else 0.1)
