"""A target served by SGLang: `python -m sglang.launch_server --model-path MODEL`.

Checked against a recorded exchange of the documented format only, written by hand, not against a running SGLang.

`logprob_start_len` s keeps the radix cache: positions before s are read from it, those from s on are computed and
scored. `input_top_logprobs` then has an entry for each token from s on, which says what was expected in its place; the
first is null. So the row after position i is the entry of token i + 1, and the row after the last token is
`output_top_logprobs[0]`, what was expected in place of the token drawn. That is one prompt for all rows of a chain. Of
a tree each row is a prompt of its own, in one request; what they have in common the radix cache has once.

Where a guide allows few of the likeliest tokens, `token_ids_logprob` names those that it allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from airdraft.errors import ModelError
from airdraft.models.engines.remote import RemoteTarget, leading
from airdraft.models.engines.replicas import decode
from airdraft.models.engines.telling import Inquiry, Short, Top
from airdraft.models.lineage import Lineage

_MOST = 4096
"""Most tokens that are named for a row, and most of the likeliest that are asked for where a guide allows more."""


class _Sampling(msgspec.Struct):
    max_new_tokens: int = 1
    temperature: float = 0.0


class _Request(msgspec.Struct, omit_defaults=True):
    input_ids: list[int] | list[list[int]]
    """A prompt, or several, whose replies come as a list in the same order."""
    sampling_params: _Sampling
    return_logprob: bool = False
    logprob_start_len: int | list[int] = -1
    top_logprobs_num: int = 0
    token_ids_logprob: list[list[int]] | None = None
    """Of each prompt, tokens to tell besides the likeliest."""


class _Entry(msgspec.Struct, array_like=True):
    logprob: float
    token: int
    text: str | None = None


class _Meta(msgspec.Struct):
    input_top_logprobs: list[list[_Entry] | None] | None
    output_top_logprobs: list[list[_Entry] | None]
    output_token_ids_logprobs: list[list[_Entry] | None] | None = None


class _Reply(msgspec.Struct):
    meta_info: _Meta


class SglangTarget(RemoteTarget):
    """A `TargetEngine` over /generate of SGLang."""

    engine = "SGLang"
    path = "/generate"
    spare = 7  # a prompt must be shorter than the context less 6
    advice = "SGLang must serve the model of this folder"
    trees = True

    def _request(self, tokens: list[int], rows: int, lineage: Lineage) -> bytes:
        n = len(tokens)
        prompt: list[Any] = tokens
        start: int | list[int] = n - rows
        if lineage.trunk < n:
            prompt = [leading(tokens, lineage, end) for end in range(n - max(rows, 1), n)]
            start = [len(each) - 1 for each in prompt]
        body = _Request(prompt, _Sampling())
        if rows:
            body.return_logprob, body.logprob_start_len, body.top_logprobs_num = True, start, self._k
        return msgspec.json.encode(body)

    def _further(self, short: Sequence[Short]) -> Iterator[list[Inquiry]]:
        """See `RemoteTarget._further`."""
        few = [each for each in short if len(each.ids) <= _MOST]
        many, most = [each for each in short if len(each.ids) > _MOST], min(_MOST, self.info.vocab_size)
        yield [
            *(
                [Inquiry(few, [_named(few, self._k, [each.ids for each in few])], _MOST + self._k, every=True)]
                if few
                else ()
            ),
            *([Inquiry(many, [_named(many, most, None)], most)] if many else ()),
        ]

    def _tops(self, reply: bytes) -> list[Top]:
        kind: Any = list[_Reply] | _Reply
        found = decode(reply, kind, self.engine)
        if not isinstance(found, list):
            return _scored(found.meta_info)
        rows = [_scored(each.meta_info) for each in found]
        if any(len(each) != 1 for each in rows):
            raise ModelError("SGLang scored more of a prompt than its end; its version may not fit airdraft's")
        return [row for each in rows for row in each]


def _named(short: Sequence[Short], k: int, ids: list[list[int]] | None) -> bytes:
    """A request for the last row of each prompt: its `k` likeliest tokens, and those that are named."""
    prompts = [each.prompt for each in short]
    starts = [len(each) - 1 for each in prompts]
    return msgspec.json.encode(_Request(prompts, _Sampling(), True, starts, k, ids))


def _scored(meta: _Meta) -> list[Top]:
    """The rows of one prompt, first to last."""
    first, *inner = meta.input_top_logprobs or [None]
    if first is not None or len(meta.output_top_logprobs) != 1:
        raise ModelError("SGLang did not score the tokens it was asked to; its version may not fit airdraft's")
    tops = list[list[tuple[int, float]]]()
    for entries in inner + meta.output_top_logprobs:
        if entries is None:
            raise ModelError("SGLang left a token without scores; its version may not fit airdraft's")
        tops.append([(entry.token, entry.logprob) for entry in entries])
    for named in meta.output_token_ids_logprobs or ():
        tops[-1] += [(entry.token, entry.logprob) for entry in named or ()]
    return list(tops)
