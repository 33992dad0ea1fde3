"""Assembles the folders that ship: weights, graph, tokenizer and the small files other engines look for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from training import export_onnx, tokenizer
from training.errors import UserError
from training.model import load, save

LIMIT_BYTES = 40_000_000  # of the whole pair in the repository


SHARED = "../target/tokenizer.json"
"""The tokenizer of the draft, which is the target's, seen from the draft's folder."""


def folder(source: Path, out: Path, more: Mapping[str, str] | None = None) -> None:
    """Writes one model folder `out` from a trained one, without a tokenizer.json; config.json gets `more` as well."""
    model = load(source)
    save(model, out)
    if more:
        config = json.loads((out / "config.json").read_text("utf-8"))
        (out / "config.json").write_text(json.dumps(config | more, indent=2) + "\n", "utf-8")
    (out / "model.safetensors").chmod(0o644)  # the library writes 0600; other users serve these files
    export_onnx.export(out)
    (out / "tokenizer_config.json").write_text(tokenizer.tokenizer_config(model.config.context), "utf-8")
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    (out / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n", "utf-8")


def pair(target: Path, draft: Path, tokenizer_json: Path, out: Path) -> int:
    """Writes `out/target`, which any engine loads, and `out/draft`, which uses the target's tokenizer.

    Returns their size in bytes.
    """
    folder(target, out / "target")
    shutil.copyfile(tokenizer_json, out / "target" / "tokenizer.json")
    folder(draft, out / "draft", {"tokenizer_file": SHARED})
    (out / "draft" / "tokenizer.json").unlink(missing_ok=True)  # of a pair made before the tokenizer was shared
    size = bytes_of(out)
    if size > LIMIT_BYTES:
        print(f"note: the pair takes {size / 1e6:.1f} MB; the repository keeps at most {LIMIT_BYTES / 1e6:.0f} MB")
    if load(target).config.vocab != load(draft).config.vocab:
        raise UserError("target and draft have different vocabularies")
    return size


def bytes_of(out: Path) -> int:
    """The size of the pair in `out`; other models may lie beside it."""
    return sum(path.stat().st_size for half in ("target", "draft") for path in (out / half).iterdir() if path.is_file())
