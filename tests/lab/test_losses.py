"""What codecs and joined documents lose: more in fewer bits, less when more is computed."""

from __future__ import annotations

from typing import Any

import pytest

from airdraft.lab import losses
from airdraft.models.registry import load_target


@pytest.mark.slow
def test_losses_are_in_the_order_that_they_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BLOCKS", 2), ("FOLLOWING", 24), ("SHARES", (0.0, 0.5)), ("FIRSTS", (2, 32))):
        monkeypatch.setattr(losses, name, value)
    monkeypatch.setattr(losses, "_CODE", ("textwrap", "heapq"))
    engine, tokenizer = load_target("target")
    texts = losses.passages(engine, tokenizer, code=True)
    found: dict[str, Any] = {row.codec: row for row in losses.codecs("target", engine, texts)}
    assert (found["exact"].overlap, found["exact"].perplexity_ratio) == (1.0, 1.0)
    assert found["exact"].bytes_per_token == 8192
    assert found["half"].bytes_per_token == 4096
    assert [name for name, row in found.items() if not row.lossy] == ["exact", "packed"]
    assert found["packed"].overlap == 1.0
    assert found["packed"].bytes_per_token < 0.87 * 8192
    for kind in ("kivi", "gear", "rotate"):
        assert 0.5 < found[f"{kind}2"].overlap < found[f"{kind}4"].overlap < found["half"].overlap < 1
        assert found[f"{kind}2"].bytes_per_token < found[f"{kind}4"].bytes_per_token < 4096
    rows = list(losses.documents("target", engine, texts))
    none, half, few, all_ = rows
    assert [row.computed for row in rows] == [0, 0.5, 2 * 3 / 128, 0.75]
    assert none.overlap < half.overlap
    assert none.overlap < all_.overlap
    assert all_.overlap > 0.999  # every document but the first, which stands where it was computed
    assert few.overlap < 1
    assert "| `target` | `kivi2` |" in losses.codec_table(list(found.values()))
    assert "| `target` | the first 32 of each | 75.0% |" in losses.joined_table(rows)
