"""The tokenizer, chat template and end tokens that a GGUF file holds, in the files that a model's folder has.

Two kinds: byte-level BPE (`gpt2`), whose metadata name a pre-tokenizer, and SentencePiece's BPE (`llama`), whose scores
rank the merges. Names, defaults and the tokens that end a text by their name are those of llama.cpp (llama-vocab.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from airdraft.errors import ModelError
from airdraft.models.imports.read import GgufFile

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
_PADDING = re.compile(r"\[PAD\d+\]|<pad_\d+>|<\|?unused_?\d+\|?>|\[UNUSED_?\d+\]")
"""What converters call ids that the model scores and the tokenizer does not know."""
_ENDS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>",
    "<|end_of_text|>", "<end_of_utterance>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "<|fim_repo|>",
    "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
}  # fmt: skip
"""Tokens that end a text whatever the metadata say."""
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_ALSO_ENDS = ("fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3, _QWEN2 = _WORDS % "{1,3}", _WORDS % ""
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_OLD = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_CUTS: dict[str, tuple[str, ...]] = (
    dict.fromkeys(("gpt-2", "phi-2", "olmo", "jais", "trillion", "granite-docling"), (_GPT2,))
    | dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (r"\p{N}", _GPT2))
    | dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), (_LLAMA3,))
    | dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), (_QWEN2,))
    | {"tekken": (_TEKKEN,), "default": _OLD}
)
"""Expressions that cut a text, one after the other, by the name of a pre-tokenizer."""
_WHOLE = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2", "tekken"}
"""Pre-tokenizers whose pieces are taken whole where the vocabulary has them, and put a BOS before a text."""
_COMPOSED = {"qwen2", "deepseek-r1-qwen"}
"""Pre-tokenizers before which original files compose characters (NFC); the metadata have no word for it."""
_MOST_TEMPLATE = 1 << 20


def padded_from(tokens: Sequence[str], types: Sequence[int]) -> int:
    """The first of the ids at the end that stand for nothing: a model scores them, and no text has them."""
    end = len(tokens)
    while end and types[end - 1] in (_UNUSED, _USER) and _PADDING.fullmatch(tokens[end - 1]):
        end -= 1
    return end


def kind_of(file: GgufFile) -> tuple[str, str]:
    """The kind of a file's tokenizer, and what its pre-tokenizer is called, if it has one.

    Raises: `ModelError` if either is not known.
    """
    kind = _said(file, "model", str, "none")
    if kind not in ("gpt2", "llama"):
        raise _unknown(file, f"has a tokenizer of kind {kind[:80]!r}; known are gpt2 and llama")
    pre = _said(file, "pre", str, "default") if kind == "gpt2" else ""
    if kind == "gpt2" and pre not in _CUTS:
        raise _unknown(file, f"cuts its texts by {pre[:80]!r}; known are {', '.join(sorted(_CUTS))}")
    return kind, pre


def pre_tokenizer_of(content: dict[str, Any]) -> str | None:
    """What GGUF files call the way in which the contents of a tokenizer.json cut a text; None if they have no name."""
    said = content.get("pre_tokenizer") or {}
    *steps, level = said.get("pretokenizers") or [said]
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space"):
        return None
    cuts = [_cut(step) for step in steps] + ([_GPT2] if level.get("use_regex", True) else [])
    whole, before = bool(content.get("model", {}).get("ignore_merges")), content.get("normalizer")
    for name, known in _CUTS.items():
        composed = {"type": "NFC"} if name in _COMPOSED else None
        if known == tuple(cuts) and (name in _WHOLE) == whole and before == composed:
            return name
    return None


def _cut(step: dict[str, Any]) -> str | None:
    """The expression by which a step cuts a text; None if it does something else."""
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return r"\p{N}"
    if step.get("type") != "Split" or step.get("behavior") != "Isolated" or step.get("invert"):
        return None
    expression: str | None = step.get("pattern", {}).get("Regex")
    return expression


def _said(file: GgufFile, key: str, kind: type, default: Any) -> Any:
    """What a file says of its tokenizer. Raises: `ModelError` if that is of another kind."""
    value = file.metadata.get(_PREFIX + key, default)
    if value is not default and type(value) is not kind:
        raise ModelError(f"{file.path} says {_PREFIX}{key} = {str(value)[:40]!r}; fetch it again")
    return value


def _unknown(file: GgufFile, what: str) -> ModelError:
    remedy = "put the original tokenizer.json beside the file, and use --engine llamacpp"
    return ModelError(f"{file.path} {what}; {remedy}")


class GgufTokenizer:
    """The contents of tokenizer.json and its companions for one GGUF file."""

    def __init__(self, file: GgufFile) -> None:
        """Raises: `ModelError` if the file has no tokenizer, or one of a kind that is not known."""
        self._file = file
        self.tokens = self._list("tokens", str)
        if not self.tokens:
            raise self._broken("has no tokenizer")
        self._kind, self._pre = kind_of(file)
        self._types = self._list("token_type", int) or [_NORMAL] * len(self.tokens)
        if len(self._types) != len(self.tokens):
            raise self._broken(f"has {len(self._types)} types for {len(self.tokens)} tokens")
        padding = padded_from(self.tokens, self._types)
        self._vocab = {token: i for i, token in enumerate(self.tokens) if i < padding}
        if len(self._vocab) != padding:
            raise self._broken("has a token twice")

    def ends(self) -> list[int]:
        """Tokens that end a text."""
        told = [self._id(key) for key in (*_END_KEYS, *_ALSO_ENDS)]
        named = [self._vocab[token] for token in _ENDS if token in self._vocab]
        first = [i for i in told[:1] if i is not None]  # the one that a template writes
        return first + sorted({i for i in (*told, *named) if i is not None} - set(first))

    def tokenizer(self) -> dict[str, Any]:
        """What tokenizer.json holds."""
        return {
            "version": "1.0",
            "added_tokens": self._added(),
            **(self._byte_level() if self._kind == "gpt2" else self._sentences()),
            "post_processor": self._post_processor(),
        }

    def config(self) -> dict[str, Any]:
        """What tokenizer_config.json holds: special tokens by name, and the chat template."""
        found: dict[str, Any] = {}
        names = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
                 "pad_token": "padding_token_id"}  # fmt: skip
        for name, key in names.items():
            token = self._id(key)
            if token is not None:
                found[name] = self.tokens[token]
        template = self._file.metadata.get("tokenizer.chat_template")
        if template is not None:
            if not isinstance(template, str) or len(template) > _MOST_TEMPLATE:
                raise self._broken(f"has a chat template that is no text of at most {_MOST_TEMPLATE} characters")
            found["chat_template"] = template
        return found

    def _byte_level(self) -> dict[str, Any]:
        merges = [tuple(merge.split(" ", 1)) for merge in self._list("merges", str)]
        if any(len(merge) != 2 for merge in merges):
            raise self._broken("has a merge that is no pair")
        composed = {"type": "NFC"} if self._pre in _COMPOSED else None
        cuts = [
            {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False}
            for cut in _CUTS[self._pre]
        ]
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        return {
            "normalizer": composed,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, level]},
            "decoder": level,
            "model": self._model(merges, whole=self._pre in _WHOLE),
        }

    def _sentences(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        before = []
        if self._value("add_space_prefix", bool, True):
            before = [{"type": "Prepend", "prepend": "▁"}]
            steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return {
            "normalizer": {"type": "Sequence", "normalizers": [*before, space]},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": steps},
            "model": self._model(self._ranked(), bytes_left=True),
        }

    def _ranked(self) -> list[tuple[str, str]]:
        """Merges for a vocabulary with scores: of every token all pairs that make it, tokens of high scores first."""
        scores = self._list("scores", float)
        if len(scores) != len(self.tokens):
            raise self._broken(f"has {len(scores)} scores for {len(self.tokens)} tokens")
        made = []
        for token, i in self._vocab.items():
            if self._types[i] not in (_NORMAL, _USER, _UNUSED):
                continue
            pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
            known = [(self._vocab[a], self._vocab[b], a, b) for a, b in pairs if a in self._vocab and b in self._vocab]
            made += [(-scores[i], i, *pair) for pair in known]
        made.sort()
        return [(left, right) for *_, left, right in made]

    def _model(
        self, merges: Sequence[tuple[str, ...]], whole: bool = False, bytes_left: bool = False
    ) -> dict[str, Any]:
        unknown = self._id("unknown_token_id") if bytes_left else None
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else self.tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": bytes_left,
            "byte_fallback": bytes_left,
            "ignore_merges": whole,
            "vocab": self._vocab,
            "merges": [list(merge) for merge in merges],
        }

    def _added(self) -> list[dict[str, Any]]:
        kinds = {_CONTROL: True, _UNKNOWN: True, _USER: False}
        return [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": kinds[self._types[i]]}
            for token, i in self._vocab.items() if self._types[i] in kinds and token
        ]  # fmt: skip

    def _post_processor(self) -> dict[str, Any] | None:
        bos, eos = self._id("bos_token_id"), self._id("eos_token_id")
        first = self._value("add_bos_token", bool, self._kind == "llama" or self._pre in _WHOLE)
        last = self._value("add_eos_token", bool, False)
        text: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
        used = {}
        for wanted, token, at in ((first, bos, 0), (last, eos, len(text) + 1)):
            if wanted and token is not None:
                name = self.tokens[token]
                used[name] = {"id": name, "ids": [token], "tokens": [name]}
                text.insert(at, {"SpecialToken": {"id": name, "type_id": 0}})
        if not used:
            return None
        return {"type": "TemplateProcessing", "single": text, "pair": text, "special_tokens": used}

    def _id(self, key: str) -> int | None:
        value: int | None = self._value(key, int, None)
        if value is not None and not 0 <= value < len(self.tokens):
            raise self._broken(f"says {_PREFIX}{key} = {value} of {len(self.tokens)} tokens")
        return value

    def _value(self, key: str, kind: type, default: Any) -> Any:
        return _said(self._file, key, kind, default)

    def _list(self, key: str, kind: type) -> list[Any]:
        value = self._file.metadata.get(_PREFIX + key, [])
        if not isinstance(value, list) or (value and type(value[0]) is not kind):
            raise self._broken(f"has no list at {_PREFIX}{key}")
        return value

    def _broken(self, what: str) -> ModelError:
        return ModelError(f"{self._file.path} {what}; fetch it again")
