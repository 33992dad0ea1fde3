"""A target served by llama.cpp's own server: `llama-server -m MODEL.gguf`.

Checked against the server in xllamacpp 2026.10, with ONNX Runtime's rows of the same model in fp32.

Each row is a prompt of its own, as with vLLM: a request for r rows holds the r longest prefixes of the tokens. The
server puts each into a slot, computes what that slot lacks, and asks for one token after each; slots run together.
More prefixes than `--parallel` slots take turns. What `n_probs` tells without `post_sampling_probs` is the softmax of
the model's own logits, before temperature, bias and filters.

The token that is drawn is of no use, and one that begins a character of several bytes would leave the reply without
probabilities. So a bias, which changes no probability that is told, makes the server always draw the same letter.

Rows depend on the company of a batch by rounding, and on the server's flags: by default keys and values are kept in 16
bits, whatever the weights are.

Where a guide allows few of the likeliest tokens, more of them are asked for. A bias or a grammar of the server's would
change no probability that it tells, and with `post_sampling_probs` a bias is rounded in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from airdraft.errors import ModelError
from airdraft.models.engines.remote import Branching, Served
from airdraft.models.engines.replicas import decode
from airdraft.models.engines.telling import Inquiry, Short, Top

_LETTER = "a"
"""A token of every vocabulary."""
_BIAS = 1e6
_LEAST = -104.0
"""Logarithm of less than the smallest fp32. The server has a probability in fp32, and 0 where it is smaller."""
_COARSE = -87.0
"""Logarithm of the smallest normal fp32. Below it a probability has few bits."""
_MOST_POSITIONS = 2**31 - 1
_LIKELIEST = 16_384
"""Most of the likeliest tokens of a row that are asked for; a reply has 90 bytes of each."""


class _Request(msgspec.Struct):
    prompt: list[list[int]]
    n_probs: int
    n_predict: int = 1
    temperature: float = 0.0
    logit_bias: tuple[tuple[str, float]] = ((_LETTER, _BIAS),)
    cache_prompt: bool = True
    n_cache_reuse: int = 0
    """Keys and values moved from other positions would give other rows."""
    response_fields: tuple[str, ...] = ("index", "completion_probabilities")


class _Entry(msgspec.Struct):
    id: int
    logprob: float


class _Position(msgspec.Struct):
    top_logprobs: list[_Entry]


class _Result(msgspec.Struct):
    index: int
    """Of the prompt it continues."""
    completion_probabilities: list[_Position] = []


class _Settings(msgspec.Struct):
    n_ctx: Annotated[int, msgspec.Meta(ge=1, le=_MOST_POSITIONS)]
    """Of one slot."""


class _Props(msgspec.Struct):
    default_generation_settings: _Settings


class LlamaServerTarget(Branching):
    """A `TargetEngine` over /completion of llama-server."""

    engine = "llama-server"
    path = "/completion"
    spare = 1  # a prompt must be shorter than a slot's context
    advice = "llama-server must serve the model of this folder"

    def _length(self, replica: int, model: Served) -> int | None:
        """Of one slot: older versions tell it in /props only."""
        url, reply = self._replicas.urls[replica], self._replicas.ask(replica, "/props")
        return decode(reply, _Props, f"{url}/props").default_generation_settings.n_ctx

    def _prompts(self, prompts: list[list[int]], rows: int) -> bytes:
        return msgspec.json.encode(_Request(prompts, self._k if rows else 0))

    def _further(self, short: Sequence[Short]) -> Iterator[list[Inquiry]]:
        """See `RemoteTarget._further`."""
        most, prompts = min(_LIKELIEST, self.info.vocab_size), [each.prompt for each in short[::-1]]
        yield [Inquiry(short, [msgspec.json.encode(_Request(prompts, most))], most)]

    def _told(self, reply: bytes, rows: int) -> list[list[tuple[int, float]]]:
        """See `RemoteTarget._told`."""
        return [[entry for entry in top if entry[1] > _COARSE] for top in super()._told(reply, rows)]

    def _tops(self, reply: bytes) -> list[Top]:
        kind: Any = list[_Result] | _Result  # to one prompt it answers without a list
        found = decode(reply, kind, self.engine)
        results = [found] if isinstance(found, _Result) else found
        results = sorted(results, key=lambda result: -result.index)
        if [result.index for result in results] != list(range(len(results)))[::-1]:
            raise ModelError("llama-server did not continue every prompt once; its version may not fit airdraft's")
        return [_top(result.completion_probabilities) for result in results]


def _top(positions: list[_Position]) -> Top:
    if len(positions) != 1:
        raise ModelError(
            f"llama-server scored {len(positions)} positions of a prompt, not one; its version may not fit airdraft's"
        )
    return [(entry.id, max(entry.logprob, _LEAST)) for entry in positions[0].top_logprobs]
