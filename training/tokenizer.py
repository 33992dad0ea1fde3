"""Byte-level BPE of the pair, written so that transformers, vLLM and llama.cpp read the same ids from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from training.corpus import documents
from training.errors import UserError

END = "<|endoftext|>"  # id 0: separates documents, so it is at once BOS and EOS

# Small on purpose. The draft may cost at most a quarter of the target, and in a model of its width the output
# head (vocabulary x width) is the largest single matrix: at 32k entries the head alone would blow that budget.
VOCAB = 4096

# The pre-tokenizer of the GPT-4 / Llama-3 family, letter for letter, so that llama.cpp knows it as `llama-bpe`:
# runs of spaces merge (an indentation is one token), digits split into groups of at most three.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def blank() -> Tokenizer:
    """The tokenizer before its merges are learned."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(texts: Iterator[str], vocab: int = VOCAB) -> Tokenizer:
    """Learns the merges; the post-processor puts END in front of every encoded text."""
    tokenizer = blank()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, 0)]
    )
    return tokenizer


def sample(work: Path, every: int) -> Iterator[str]:
    """Every n-th training document: merges settle long before the whole corpus is read."""
    for index, document in enumerate(documents(work, "train")):
        if index % every == 0:
            yield document["text"]


def build(work: Path, vocab: int = VOCAB, every: int = 6) -> Path:
    """Trains on the corpus of `work` and writes `work/tokenizer.json`."""
    path = work / "tokenizer.json"
    train(sample(work, every), vocab).save(str(path))
    return path


def load(work: Path) -> Tokenizer:
    """The tokenizer of a work folder."""
    path = work / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"no tokenizer at {path}: run `python -m training.pair tokenizer` first")
    return Tokenizer.from_file(str(path))


def tokenizer_config(context: int) -> str:
    """tokenizer_config.json of a model folder."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "unk_token": None,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_max_length": context,
    }
    return json.dumps(config, indent=2) + "\n"
