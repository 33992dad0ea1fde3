"""Log-probabilities in the two forms that OpenAI's API has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airdraft.api.reading import Placed
from airdraft.models.text import Tokenizer


def in_completion(logprobs: Sequence[Placed], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return `logprobs` for a choice of `/v1/completions`: four lists with an entry for each token."""
    of_text = _of_text(logprobs, tokenizer)
    return {
        "tokens": [_name(tokenizer.token_bytes(each.logprob.token)) for each in of_text],
        "token_logprobs": [each.logprob.logprob for each in of_text],
        "top_logprobs": [
            {_name(tokenizer.token_bytes(token)): logprob for token, logprob in each.logprob.top} for each in of_text
        ],
        "text_offset": [each.start for each in of_text],
    }


def in_chat(logprobs: Sequence[Placed], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return `logprobs` for a choice of `/v1/chat/completions`: an object for each token."""

    def said(token: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.token_bytes(token)
        return {"token": _name(data), "logprob": logprob, "bytes": list(data)}

    content = [
        {
            **said(each.logprob.token, each.logprob.logprob),
            "top_logprobs": [said(token, logprob) for token, logprob in each.logprob.top],
        }
        for each in _of_text(logprobs, tokenizer)
    ]
    return {"content": content, "refusal": None}


def _of_text(logprobs: Sequence[Placed], tokenizer: Tokenizer) -> list[Placed]:
    """Leave out special tokens, which are not part of the text."""
    return [each for each in logprobs if not tokenizer.is_special(each.logprob.token)]


def _name(data: bytes) -> str:
    """Return a token's text. Parts of characters are spelt in bytes, as OpenAI does, so that no two look alike."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
