"""The target alone, at the edge: for clients that have no draft."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from airdraft.core.events import Committed, Finished, Forward
from airdraft.core.request import Request
from airdraft.core.sampling import choose
from airdraft.edge.access import Tenant
from airdraft.edge.server import EdgeServer
from airdraft.errors import BadParameterError, RefusedError
from airdraft.scheduler import Owner

SCHEMES = ("server", "coupled", "stream")
"""Those whose text is the one that a seed stands for, drafted or not."""


class TargetWriter:
    """Writes texts with the engine that verifies devices' drafts, a token a forward, within a tenant's quotas."""

    def __init__(self, server: EdgeServer, tenant: Tenant) -> None:
        self._server, self._tenant = server, tenant
        self._owner = Owner()

    async def write(self, request: Request) -> AsyncGenerator[Committed | Finished, None]:
        """See `Connection.write`: for a seed the same text as there.

        Raises: `BadParameterError` for what cannot be served, `RefusedError` if the edge is busy or a quota is used up,
        `ModelError` if the engine fails.
        """
        scheduler, target, tenant = self._server.scheduler, self._server.target, self._tenant
        prompt, context = tuple(request.prompt), min(target.max_context, tenant.quotas.context or target.max_context)
        target.check(request.params)
        if request.scheme.name not in SCHEMES:
            raise BadParameterError(f"scheme is {request.scheme.name}, which needs a draft; ask for auto, or a device")
        if not prompt or not all(0 <= token < target.vocab_size for token in prompt):
            raise BadParameterError("the prompt is empty or leaves the vocabulary; encode it with this model")
        if len(prompt) >= context:
            raise BadParameterError(
                f"the prompt is {len(prompt)} tokens, the context of {target.model} is {context}; shorten the prompt"
            )
        self._server.admit(tenant)
        text = scheduler.open(self._owner)
        tenant.sessions += 1
        try:
            length, end = len(prompt), min(len(prompt) + request.max_tokens, context)
            if length > 1:  # as for a device: rows of a forward differ, by rounding, from those of a longer one
                prefill = Forward(0, 0, prompt[:-1], 0)
                await scheduler.run(text, lambda: prefill)
            token = prompt[-1]
            while length < end:
                await tenant.pace()
                if tenant.revoked:
                    raise RefusedError("revoked", "this key is valid no more; ask whoever runs the edge")
                forward = Forward(0, length - 1, (token,), 1)
                rows = await scheduler.run(text, lambda forward=forward: forward)  # type: ignore[misc]
                token = choose(rows[0][: target.vocab_size], request.params, request.seed, length)
                length += 1
                tenant.bucket.take(1, asyncio.get_running_loop().time())
                self._server.metrics.committed.inc()
                request.counts.forwards += 1
                request.counts.committed += 1
                yield Committed(0, (token,), 0, "target")
                await asyncio.sleep(0)  # a short forward runs in this very thread: others want their turn, too
                if token in target.eos_ids:
                    yield Finished(0, "stop")
                    return
            yield Finished(0, "length")
        finally:
            tenant.sessions -= 1
            scheduler.drop(text)
