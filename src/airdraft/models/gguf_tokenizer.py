"""The tokenizer of a model's folder in the words of GGUF: a byte-level BPE, or one of SentencePiece's kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tokenizers

from airdraft.errors import ModelError, first_line
from airdraft.models.files.config import ModelConfig, read_json, shown
from airdraft.models.imports.tokenizer import pre_tokenizer_of
from airdraft.models.llama import CONVERT
from airdraft.models.text import tokenizer_file

_SPACE, _BYTE = "▁", re.compile(r"<0x[0-9A-F]{2}>")
_UNKNOWN, _CONTROL, _USER, _UNUSED, _OF_A_BYTE = range(2, 7)
"""Kinds of tokens, as gguf.TokenType counts them; a plain one is 1."""


def add_tokenizer(writer: Any, folder: Path, facts: ModelConfig, bos: int | None) -> None:
    """Add the tokenizer of the model in `folder`, its special tokens and its chat template to a `gguf.GGUFWriter`.

    bos: the token that config.json says a text begins with. Raises: `ModelError` for what GGUF has no words for.
    """
    path = tokenizer_file(folder)
    content = read_json(path) if path.is_file() else {}
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise _unknown(path)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as problem:  # the library raises bare Exception
        raise ModelError(f"{path} is no tokenizer ({first_line(problem)}); fetch it again") from problem
    name, prefix = pre_tokenizer_of(content), _space_before(content)
    if name is None and prefix is None:
        raise _unknown(path)
    # Tokens that the model has no row for are left out, as by llama.cpp's converter.
    known = {token: i for token, i in tokenizer.get_vocab(with_added_tokens=True).items() if i < facts.vocab_size}
    tokens: list[str | None] = [None] * facts.vocab_size
    for token, i in known.items():
        tokens[i] = token
    types = [_UNUSED if token is None else 1 for token in tokens]
    for i, each in tokenizer.get_added_tokens_decoder().items():
        if i < len(types):
            types[i] = _CONTROL if each.special else _USER
    writer.add_token_list([f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)])
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    if name is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name)
        writer.add_token_merges(merges)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_add_space_prefix(prefix)
        writer.add_token_scores(_scores(merges, known, len(tokens), path))
        for token, i in known.items():
            types[i] = _OF_A_BYTE if _BYTE.fullmatch(token) else types[i]
        unknown = known.get(str(model.get("unk_token")))
        if unknown is not None:
            types[unknown] = _UNKNOWN
            writer.add_unk_token_id(unknown)
    writer.add_token_types(types)
    _add_ends(writer, folder, facts, tokenizer.encode("").ids, bos)
    template = _template(folder)
    if template is not None:
        writer.add_chat_template(template)


def _unknown(path: Path) -> ModelError:
    return ModelError(f"{path} is no byte-level BPE with a pre-tokenizer known here; {CONVERT}")


def _add_ends(writer: Any, folder: Path, facts: ModelConfig, before: list[int], bos: int | None) -> None:
    """Add what begins and ends a text. before: what the tokenizer puts before it, whichever of its ways it has."""
    if len(before) > 1:
        raise ModelError(
            f"{tokenizer_file(folder)} puts {len(before)} tokens around a text, and GGUF knows one; {CONVERT}"
        )
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(False)
    for token in before or [each for each in [bos] if each is not None]:
        writer.add_bos_token_id(token)
    ends = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    if len(facts.eos_ids) > len(ends):
        raise ModelError(f"{folder} has {len(facts.eos_ids)} tokens that end a text, and GGUF knows 3; {CONVERT}")
    if not facts.eos_ids:
        raise ModelError(f"{folder} has no token that ends a text, and GGUF takes 11 then; add eos_token_id")
    for add, token in zip(ends, facts.eos_ids, strict=False):
        add(token)


def _space_before(content: dict[str, Any]) -> bool | None:
    """Whether a tokenizer of SentencePiece's kind puts a space before a text; None if it is of another kind."""
    if not content.get("model", {}).get("byte_fallback"):
        return None
    cut, normalizer = content.get("pre_tokenizer"), content.get("normalizer")
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    steps = (normalizer or {}).get("normalizers", [normalizer])
    if cut is None and steps[-1:] == [replaced]:
        before = steps[:-1]
        return bool(before) if before in ([], [{"type": "Prepend", "prepend": _SPACE}]) else None
    if normalizer is None and cut and (cut.get("type"), cut.get("replacement")) == ("Metaspace", _SPACE):
        return None if cut.get("split", True) else cut.get("prepend_scheme", "always") != "never"
    return None


def _scores(merges: list[str], known: dict[str, int], count: int, path: Path) -> list[float]:
    """What ranks the merges in SentencePiece's way: a score for each token. Raises: `ModelError` if none do so."""
    scores, last = [-1e6] * count, ""
    ranked: dict[str, int] = {}
    for merge in merges:
        token = merge.replace(" ", "")
        if token != last and token in ranked:
            raise ModelError(f"{path} merges {shown(token)} in two places, which no scores of tokens tell; {CONVERT}")
        ranked.setdefault(token, len(ranked))
        last = token
    for token, rank in ranked.items():
        if token in known:
            scores[known[token]] = -float(rank)
    return scores


def _template(folder: Path) -> Any:
    """The chat template: of chat_template.jinja, or of tokenizer_config.json, there maybe several by name."""
    alone, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        if alone.is_file():
            return alone.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ModelError(f"{alone} cannot be read ({first_line(problem)}); fetch it again") from problem
    found = read_json(path).get("chat_template") if path.is_file() else None
    several = found if isinstance(found, list) else []
    named = all(isinstance(each, dict) and {*map(type, each.values())} == {str} for each in several)
    if (
        not isinstance(found, str | list | None)
        or not named
        or any({*each} != {"name", "template"} for each in several)
    ):
        raise ModelError(f"{path} says chat_template = {shown(found)}; it must be a text, or texts by name")
    return found
