"""The target alone, at the edge: for clients that have no draft."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from airdraft.core.edge import Target
from airdraft.core.events import Committed, Finished, Forward
from airdraft.core.request import Request
from airdraft.core.sampling import choose
from airdraft.errors import BadParameterError
from airdraft.scheduler import Owner, Scheduler

SCHEMES = ("server", "coupled", "stream")
"""Those whose text is the one that a seed stands for, drafted or not."""


class TargetWriter:
    """Writes texts with the engine that devices' drafts are verified by, a token a forward."""

    def __init__(self, scheduler: Scheduler, target: Target) -> None:
        self._scheduler, self._target = scheduler, target

    async def write(self, request: Request) -> AsyncGenerator[Committed | Finished, None]:
        """See `Client.write`: for a seed the same text as there.

        Raises: `BadParameterError` for what cannot be served, `RefusedError` if the edge is busy, `ModelError` if the
        engine fails.
        """
        target, prompt = self._target, tuple(request.prompt)
        target.check(request.params)
        if request.scheme.name not in SCHEMES:
            raise BadParameterError(f"scheme is {request.scheme.name}, which needs a draft; ask for auto, or a device")
        if not prompt or not all(0 <= token < target.vocab_size for token in prompt):
            raise BadParameterError("the prompt is empty or leaves the vocabulary; encode it with this model")
        if len(prompt) >= target.max_context:
            raise BadParameterError(
                f"the prompt is {len(prompt)} tokens, the context of {target.model} is {target.max_context}; "
                "shorten the prompt"
            )
        text = self._scheduler.open(Owner())
        try:
            length, end = len(prompt), min(len(prompt) + request.max_tokens, target.max_context)
            if length > 1:  # as for a device: rows of a forward differ, by rounding, from those of a longer one
                prefill = Forward(0, 0, prompt[:-1], 0)
                await self._scheduler.run(text, lambda: prefill)
            token = prompt[-1]
            while length < end:
                forward = Forward(0, length - 1, (token,), 1)
                rows = await self._scheduler.run(text, lambda forward=forward: forward)  # type: ignore[misc]
                token = choose(rows[0][: target.vocab_size], request.params, request.seed, length)
                length += 1
                request.counts.forwards += 1
                request.counts.committed += 1
                yield Committed(0, (token,), 0, "target")
                if token in target.eos_ids:
                    yield Finished(0, "stop")
                    return
            yield Finished(0, "length")
        finally:
            self._scheduler.drop(text)
