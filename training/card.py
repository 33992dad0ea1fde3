"""Measures the pair and writes its model card: every figure in `pair/README.md` and `pair/card.json` is computed."""

from __future__ import annotations

import datetime
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from tokenizers import Tokenizer

from training import data, evaluate, runtime
from training.card_text import markdown
from training.errors import UserError
from training.export import LIMIT_BYTES, bytes_of
from training.model import Config, describe, load

BARS = {  # name -> (limit, True where larger is better)
    "bits_per_byte_held_files": (1.0, False),
    "accept_07": (0.65, True),
    "accept_1": (0.58, True),
    "parse_share": (0.45, True),
    "cost_ratio": (0.25, False),
}


def hardware() -> dict[str, Any]:
    """The machine as it describes itself."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if info.is_file():
        for line in info.read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "bf16": bool(flags & {"avx512_bf16", "amx_bf16"}),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def summary(log: Path, points: int = 60) -> dict[str, Any]:
    """A training log thinned to a curve that fits in the card."""
    rows = runtime.Log(log).rows()
    if not rows:
        raise UserError(f"no training log at {log}")
    steps = [row for row in rows if "loss" in row]
    every = max(1, len(steps) // points)
    keys = ("step", "tokens", "seconds", "loss", "accept_1", "accept_07")
    curve = [{key: row[key] for key in keys if key in row} for row in steps[::every]]
    last = rows[-1]
    return {"steps": last["step"], "tokens": last["tokens"], "minutes": round(last["seconds"] / 60, 1), "curve": curve}


def costs(out: Path, target: Config, draft: Config) -> dict[str, Any]:
    """Draft against target per token: by the weights each token meets, and by measured time."""
    times: dict[str, dict[str, float]] = {}
    for name, config in (("target", target), ("draft", draft)):
        times[name] = {str(n): round(evaluate.milliseconds(out / name, config, n), 3) for n in (1, 2, 4, 6, 8)}
    return {
        "cost_ratio": draft.matmul_parameters / target.matmul_parameters,
        "milliseconds": times,
        "time_ratio": times["draft"]["1"] / times["target"]["1"],
        "verify6_over_verify1": times["target"]["6"] / times["target"]["1"],
    }


def measure(out: Path, work: Path, previous: dict[str, Any]) -> dict[str, Any]:
    """All figures. What needs the corpus is taken from the card before (`previous`) where the corpus is absent."""
    target, draft = load(out / "target"), load(out / "draft")
    tok = Tokenizer.from_file(str(out / "target" / "tokenizer.json"))
    heads = evaluate.read_prompts(out / "prompts.json")
    prompts = [tok.encode(head).ids for head in heads]
    card: dict[str, Any] = {"target": describe(target.config), "draft": describe(draft.config)}
    card["hardware"] = hardware()
    if (work / "tokens" / "held_files.bin").is_file():
        models = {"target": target, "draft": draft}
        card["held_out"] = {
            split: {name: evaluate.bits_per_byte(model, tok, work, split) for name, model in models.items()}
            for split in ("held_files", "held_packages")
        }
        card["corpus"] = json.loads((work / "corpus" / "stats.json").read_text("utf-8"))
        card["corpus"]["train_tokens"] = len(data.tokens(work, "train"))
        card["training"] = {name: summary(work / f"{name}.jsonl") for name in ("target", "draft")}
        own = work / "tokens" / "own.bin"
        card["training"]["own_text_tokens"] = own.stat().st_size // 2 if own.is_file() else 0
        card["training"]["hardware"] = card["hardware"]
        notes = work / "notes.txt"  # what went on during the run that no log tells, in the words of who ran it
        card["training"]["notes"] = notes.read_text("utf-8").strip() if notes.is_file() else ""
    elif previous:
        card |= {key: previous[key] for key in ("held_out", "corpus", "training")}
    else:
        raise UserError(f"no corpus at {work} and no earlier card to take its figures from")
    rates = {name: evaluate.acceptance(target, draft, prompts, t) for name, t in (("1", 1.0), ("07", 0.7), ("0", 0.0))}
    card["acceptance"] = rates
    share, texts = evaluate.parse_share(target, tok, heads)
    card["parse"] = {"share": share, "prompts": len(heads), "token_budget": evaluate.COMPLETION}
    (work / "completions.txt").write_text("\n\n#####\n\n".join(texts), "utf-8")
    card["cost"] = costs(out, target.config, draft.config)
    probe = prompts[0] + tok.encode("".join(heads[:4])).ids[:64]
    card["onnx_error"] = {n: evaluate.onnx_error(out / n, m, probe) for n, m in (("target", target), ("draft", draft))}
    card["bytes"] = bytes_of(out)
    card["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    card["bars"] = bars(card)
    return card


def bars(card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each requirement with its figure and whether it is met."""
    values = {
        "bits_per_byte_held_files": card["held_out"]["held_files"]["target"]["bits_per_byte"],
        "accept_07": card["acceptance"]["07"]["value"],
        "accept_1": card["acceptance"]["1"]["value"],
        "parse_share": card["parse"]["share"],
        "cost_ratio": card["cost"]["cost_ratio"],
    }
    result = {}
    for name, (limit, larger) in BARS.items():
        met = values[name] >= limit if larger else values[name] <= limit
        result[name] = {"value": round(values[name], 4), "limit": limit, "larger_is_better": larger, "met": met}
    return result


def write(out: Path, work: Path) -> dict[str, Any]:
    """Measures and writes card.json and README.md into `out`."""
    path = out / "card.json"
    previous = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    work.mkdir(parents=True, exist_ok=True)
    card = measure(out, work, previous)
    if card["bytes"] > LIMIT_BYTES:
        print(f"note: {card['bytes'] / 1e6:.1f} MB is more than the {LIMIT_BYTES / 1e6:.0f} MB kept in the repository")
    path.write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    (out / "README.md").write_text(markdown(card), "utf-8")
    return card


def scratch() -> Path:
    """The default work folder: outside the repository, as corpora and checkpoints are never committed."""
    return Path(os.environ.get("AIRDRAFT_TRAINING", tempfile.gettempdir() + "/airdraft-training"))
