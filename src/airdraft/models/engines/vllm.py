"""A target served by vLLM: `vllm serve MODEL`. Checked against vLLM 0.32.0 and ONNX Runtime's rows of the same model.

Each row is a prompt of its own: a request for r rows holds the r longest prefixes of the tokens, and asks for one token
after each with its top log-probabilities. vLLM always computes the last position of a prompt, however much of it lies
in the prefix cache, so a row is never stale, and the prefixes share what they have in common but for the last block
(16 tokens; 128 on a CPU). The other way, `prompt_logprobs` of one prompt, would either compute all of it again each
time, or, with `skip_reading_prefix_cache=false` on /inference/v1/generate, return memory that nobody wrote for cached
positions: seen as replies 400 and 500 as soon as these are no numbers or no tokens. Measured with 5 M parameters on two
cores, blocks of 32 and 500 tokens: 18 ms for 1 row and 43 ms for 8, where computing all again took 142 and 164 ms, and
replies of 0.7 MB. The price: to vLLM each row is a sequence, whose keys and values are read anew.

The server must keep `--logprobs-mode raw_logprobs` and prefix caching, both its defaults, and for a `top_k` above 20
needs `--max-logprobs`.
"""

from __future__ import annotations

import msgspec

from airdraft.errors import ModelError
from airdraft.models.engines.remote import Branching, Top
from airdraft.models.engines.replicas import decode, line

_PREFIX = "token_id:"
_DIGITS = 10


class _Request(msgspec.Struct):
    model: str
    prompt: list[list[int]]
    logprobs: int | None
    max_tokens: int = 1
    temperature: float = 0.0
    return_tokens_as_token_ids: bool = True
    """Tokens in the reply as `token_id:7`; as text, several may look the same."""


class _Logprobs(msgspec.Struct):
    top_logprobs: list[dict[str, float]]
    """One entry for each token drawn: here one."""


class _Choice(msgspec.Struct):
    index: int
    """Of the prompt it continues."""
    logprobs: _Logprobs


class _Reply(msgspec.Struct):
    choices: list[_Choice]


class VllmTarget(Branching):
    """A `TargetEngine` over /v1/completions of vLLM."""

    engine = "vLLM"
    spare = 1  # for the token that is drawn
    advice = "vLLM must serve the model of this folder, with --max-logprobs {k} or more"

    def _prompts(self, prompts: list[list[int]], rows: int) -> tuple[str, bytes]:
        body = _Request(self._model, prompts, self._k if rows else None)
        return "/v1/completions", msgspec.json.encode(body)

    def _tops(self, reply: bytes) -> list[Top]:
        choices = sorted(decode(reply, _Reply, "vLLM").choices, key=lambda choice: -choice.index)
        if [choice.index for choice in choices] != list(range(len(choices)))[::-1]:
            raise ModelError("vLLM did not continue every prompt once; its version may not fit airdraft's")
        return [_top(choice.logprobs.top_logprobs) for choice in choices]


def _top(positions: list[dict[str, float]]) -> Top:
    if len(positions) != 1:
        raise ModelError(f"vLLM scored {len(positions)} positions of a prompt, not one; its version may not fit")
    top = []
    for key, logprob in positions[0].items():
        token = key.removeprefix(_PREFIX)
        if token == key or not (token.isascii() and token.isdecimal() and len(token) <= _DIGITS):
            raise ModelError(f"vLLM names a token {line(key)!r}, not {_PREFIX} and a number; its version may not fit")
        top.append((int(token), logprob))
    return top
