"""A target served by vLLM: `vllm serve MODEL`. Checked against vLLM 0.32.0 and ONNX Runtime's rows of the same model.

Each row is a prompt of its own: a request for r rows holds the r longest prefixes of the tokens, and asks for one token
after each with its top log-probabilities. vLLM always computes the last position of a prompt, however much of it lies
in the prefix cache, so a row is never stale, and the prefixes share what they have in common but for the last block
(16 tokens; 128 on a CPU). The other way, `prompt_logprobs` of one prompt, would either compute all of it again each
time, or, with `skip_reading_prefix_cache=false` on /inference/v1/generate, return memory that nobody wrote for cached
positions: seen as replies 400 and 500 as soon as these are no numbers or no tokens. Measured with 5 M parameters on two
cores, blocks of 32 and 500 tokens: 18 ms for 1 row and 43 ms for 8, where computing all again took 142 and 164 ms, and
replies of 0.7 MB. The price: to vLLM each row is a sequence, whose keys and values are read anew.

Where a guide allows few of the likeliest tokens, more of them are asked for, if `--max-logprobs` lets us. If not,
tokens are drawn under `allowed_token_ids`, each of which comes with its raw log-probability: the best that is allowed,
which with temperature 0 is all that is needed; each of a few by itself; else one after the other. `logprob_token_ids`
would name many at once. But in 0.32.0 a request with it takes their rows from all others of the same batch, and in a
grammar of token ids a second set of tokens gets the mask of the first.

The server must keep `--logprobs-mode raw_logprobs` and prefix caching, both its defaults, and for a `top_k` above 20
needs `--max-logprobs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

import msgspec
import numpy as np

from airdraft.errors import ModelError
from airdraft.models.engines.remote import Branching
from airdraft.models.engines.replicas import decode, line
from airdraft.models.engines.telling import Inquiry, Short, Top, shared

_PREFIX = "token_id:"
_DIGITS = 10
_ALONE = 32
"""Most tokens of a row that are drawn at once, each in a request of its own. To vLLM each is a sequence."""
_DRAWN = 20
"""Most tokens of a row that are drawn one after the other."""
_LIKELIEST = 4096
"""Most of the likeliest tokens of a row that are asked for; a reply has 45 bytes of each."""


class _Request(msgspec.Struct, omit_defaults=True):
    model: str
    prompt: list[list[int]]
    logprobs: int | None
    max_tokens: int
    temperature: float
    return_tokens_as_token_ids: bool
    """Tokens in the reply as `token_id:7`; as text, several may look the same."""
    allowed_token_ids: list[int] | None = None
    """Tokens among which one is drawn."""


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
    path = "/v1/completions"
    spare = 1  # for the token that is drawn
    advice = "vLLM must serve the model of this folder, with --max-logprobs {k} or more"

    @cached_property
    def _widest(self) -> int:
        """Most of the likeliest tokens that every replica lets one request ask for, as far as we would."""
        return min(self._allowed(replica) for replica in range(len(self._replicas.urls)))

    def _allowed(self, replica: int) -> int:
        most = min(_LIKELIEST, self.info.vocab_size)
        try:
            self._replicas.ask(replica, self.path, self._body([[most - 1]], most))
        except ModelError as refused:
            said = re.search(r"max allowed: (\d{1,9})\b", str(refused))
            return min(most, int(said[1])) if said else self._k
        return most

    def _prompts(self, prompts: list[list[int]], rows: int) -> bytes:
        return self._body(prompts, self._k if rows else None)

    def _body(self, prompts: list[list[int]], logprobs: int | None, allowed: list[int] | None = None) -> bytes:
        return msgspec.json.encode(_Request(self._model, prompts, logprobs, 1, 0.0, True, allowed))

    def _further(self, short: Sequence[Short]) -> Iterator[list[Inquiry]]:
        """See `RemoteTarget._further`."""
        yield [self._drawn(each) for each in short if each.lacks == 1]
        left = [each for each in short if each.lacks]
        if left and self._widest > self._k:
            yield [Inquiry(left, [self._body(_backwards(left), self._widest)], self._widest)]
        few = [each for each in left if each.lacks > 1 and len(each.ids) <= _ALONE]
        yield [
            Inquiry(group, [self._body(_backwards(group), 1, [token]) for token in ids], 2, every=True)
            for group, ids in shared(few, _ALONE)
        ]
        for more in range(_DRAWN, 0, -1):
            yield [self._drawn(each) for each in short if each.lacks == more]

    def _drawn(self, each: Short) -> Inquiry:
        """The best token that is allowed and not told: the one that temperature 0 draws."""
        ids = [token for token in each.ids if np.isneginf(each.row[token])]
        return Inquiry([each], [self._body([each.prompt], 1, ids)], 2)

    def _tops(self, reply: bytes) -> list[Top]:
        choices = sorted(decode(reply, _Reply, "vLLM").choices, key=lambda choice: -choice.index)
        if [choice.index for choice in choices] != list(range(len(choices)))[::-1]:
            raise ModelError("vLLM did not continue every prompt once; its version may not fit airdraft's")
        return [_top(choice.logprobs.top_logprobs) for choice in choices]


def _backwards(short: Sequence[Short]) -> list[list[int]]:
    """Prompts in the order of `Branching._request`."""
    return [each.prompt for each in short[::-1]]


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
