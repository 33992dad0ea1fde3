"""The model card's words around the figures of card.json."""

from __future__ import annotations

from typing import Any

_BAR_NAMES = {
    "bits_per_byte_held_files": "target, bits per byte on held-out files",
    "accept_07": "acceptance 1 − TV at temperature 0.7",
    "accept_1": "acceptance 1 − TV at temperature 1",
    "parse_share": "greedy completions that end and parse",
    "cost_ratio": "draft / target cost per token, by weights",
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def markdown(card: dict[str, Any]) -> str:
    """README.md of the pair."""
    parts = (_head, _bars, _shape, _quality, _speed, _data, _training)
    return "\n\n".join(text.strip() for text in [*(part(card) for part in parts), _LIMITS]) + "\n"


def _head(card: dict[str, Any]) -> str:
    return f"""
---
license: apache-2.0
language: [en, code]
library_name: transformers
pipeline_tag: text-generation
tags: [speculative-decoding, python, llama, onnx]
---

# airdraft pair

Two small language models of Python that share one tokenizer: a **target** and a **draft** distilled from it, made
to show and test speculative decoding that is split between a device and an edge. They were trained from scratch;
no weight comes from another model. Each folder (`target/`, `draft/`) loads in transformers, vLLM and llama.cpp as
a Llama model, and in onnxruntime through `model.onnx`, whose weights are byte ranges of `model.safetensors`. The
tokenizer lies in `target/`; `tokenizer_file` in the draft's `config.json` says so to airdraft, and any other program
is given `target/` as the tokenizer.

Written by `python -m training.pair card` on {card["date"]}; all figures are measured, `card.json` has them in full."""


def _bars(card: dict[str, Any]) -> str:
    rows = []
    for name, bar in card["bars"].items():
        sign = "≥" if bar["larger_is_better"] else "≤"
        met = "yes" if bar["met"] else "**no**"
        rows.append([_BAR_NAMES[name], f"{bar['value']:.3f}", f"{sign} {bar['limit']:g}", met])
    return "## Required and measured\n\n" + table(["figure", "measured", "required", "met"], rows)


def _shape(card: dict[str, Any]) -> str:
    keys = {
        "layers": "layers", "width": "width", "heads": "heads", "ffn": "feed-forward width", "vocab": "vocabulary",
        "context": "longest context, tokens", "parameters": "parameters",
        "matmul_parameters": "weights met by each token (layers + head)",
    }  # fmt: skip
    rows = [[text, f"{card['target'][key]:,}", f"{card['draft'][key]:,}"] for key, text in keys.items()]
    return f"""## Architecture

Llama: RMSNorm, rotary positions (theta {card["target"]["rope_theta"]:g}), SwiGLU, no biases, untied head, fp32 weights.
Byte-level BPE with the Llama-3 pre-tokenizer; `<|endoftext|>` (id 0) opens and ends every document.

{table(["", "target", "draft"], rows)}

Size of both folders: {card["bytes"] / 1e6:.1f} MB."""


def _quality(card: dict[str, Any]) -> str:
    held, splits = card["held_out"], card["corpus"]["splits"]
    share = splits["held_files"]["files"] / (splits["held_files"]["files"] + splits["train"]["files"])
    rows = [
        [
            split.replace("_", "-out "),
            model,
            f"{v['bits_per_byte']:.3f}",
            f"{v['nats_per_token']:.3f}",
            f"{v['tokens']:,}",
        ]
        for split, models in held.items()
        for model, v in models.items()
    ]
    rates = card["acceptance"]
    accept = [
        ["temperature 1", "mean 1 − TV", f"{rates['1']['value']:.3f}", f"{rates['1']['tokens']:.0f}"],
        ["temperature 0.7", "mean 1 − TV", f"{rates['07']['value']:.3f}", f"{rates['07']['tokens']:.0f}"],
        ["greedy", "same first choice", f"{rates['0']['value']:.3f}", f"{rates['0']['tokens']:.0f}"],
    ]
    parse = card["parse"]
    return f"""## Quality

Held-out files are {share:.1%} of the files of the training packages; held-out packages were never trained on.

{table(["text", "model", "bits per byte", "nats per token", "tokens"], rows)}

Acceptance of the draft along the text that the target itself writes after {rates["1"]["prompts"]:.0f} held-out function
heads (`prompts.json`). 1 − TV is the chance that one drafted token is kept by exact speculative sampling.

{table(["decoding", "measure", "value", "tokens"], accept)}

Of {parse["prompts"]} greedy completions of those heads, {parse["share"]:.0%} end within {parse["token_budget"]} tokens
and parse as Python. Parsing says nothing of being right."""


def _speed(card: dict[str, Any]) -> str:
    cost, hardware = card["cost"], card["hardware"]
    rows = [[name, *(f"{t:.2f}" for t in times.values())] for name, times in cost["milliseconds"].items()]
    error = max(card["onnx_error"].values())
    return f"""## Speed

Milliseconds of one onnxruntime call of n tokens after 128 tokens, one thread of {hardware["cpu"]}, median:

{table(["", *(f"n = {n}" for n in cost["milliseconds"]["target"])], rows)}

The draft takes {cost["cost_ratio"]:.3f} of the target's weights per token and {cost["time_ratio"]:.3f} of its time;
verifying six tokens takes {cost["verify6_over_verify1"]:.2f} of the time of one. `model.onnx` differs from torch by at
most {error:.1e} in a logit."""


def _data(card: dict[str, Any]) -> str:
    splits = card["corpus"]["splits"]
    rows = [[name, f"{s['files']:,}", f"{s['documents']:,}", f"{s['bytes'] / 1e6:.1f}"] for name, s in splits.items()]
    packages = [
        [p["name"], p["version"], p["licence"], f"{p['bytes'] / 1e6:.2f}", "held out" if p["held_out"] else ""]
        for p in card["corpus"]["packages"]
    ]
    return f"""## Data

Python source of the standard library (without its tests) and of pinned wheels under permissive licences
(`training/corpus.toml`), without tests, generated files, data tables, vendored copies and near-duplicates.
About a third of the files are cut into standalone functions. {card["corpus"]["train_tokens"]:,} training tokens.

{table(["split", "files", "documents", "MB"], rows)}

{table(["package", "version", "licence", "MB used", ""], packages)}"""


def _training(card: dict[str, Any]) -> str:
    training = card["training"]
    hardware = training["hardware"]
    gpu = hardware["gpu"] or "no GPU"
    rows = []
    for name in ("target", "draft"):
        run = training[name]
        first, last = run["curve"][0], run["curve"][-1]
        rows.append(
            [name, f"{run['minutes']:g}", f"{run['steps']:,}", f"{run['tokens'] / 1e6:.1f} M",
             f"{first['loss']:.3f} → {last['loss']:.3f}"]
        )  # fmt: skip
    return f"""## Training

Trained on {hardware["cpu"]}, {hardware["cores"]} cores, {hardware["memory_gib"]:g} GiB, {gpu}, shared with other work;
torch {hardware["torch"]}, bf16 products, Muon for the matrices and AdamW for the rest, learning rate set by wall time.
The draft learned from the target's distributions (KL, then total variation, at temperatures 1 and 0.7) on the corpus
and on {training["own_text_tokens"] / 1e6:.2f} M tokens that the target wrote. Its loss is that mixture.

{table(["model", "minutes", "updates", "tokens", "loss, first → last logged"], rows)}

{training["notes"]}

To make the pair again, or a bigger one: `python -m training.pair --help`."""


_LIMITS = """## Use and limits

For demonstrations, tests and measurements of speculative decoding: how acceptance, link and load interact. The
models are tiny. They write Python that looks right and usually is not; they know no facts, follow no instructions
and must not be used to write code that anyone runs. Text beyond the longest context is not supported. They can
repeat short passages of their training data, whose licences are listed above. Acceptance is specific to this pair
and to Python; expect other values for other models and texts."""
