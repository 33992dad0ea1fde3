"""The target alone, at the edge: for clients that have no draft."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

from airdraft.core import schemes
from airdraft.core.connection import known_rows
from airdraft.core.events import Committed, Failed, Finished, Forward
from airdraft.core.law import Law, Place
from airdraft.core.logprobs import Logprob, check_logprobs, logprob_of
from airdraft.core.messages import Close, Error, Open, Opened, SchemeSpec, Tokens
from airdraft.core.request import Request
from airdraft.edge.access import Tenant
from airdraft.edge.server import EdgeServer
from airdraft.edge.watch import Watch
from airdraft.errors import AirdraftError, BadParameterError, Code, RefusedError, too_long
from airdraft.models.base import FloatArray
from airdraft.scheduler import Owner

SCHEMES = schemes.named(exact="text")
"""Those whose text is the one that a seed stands for, drafted or not."""


class TargetWriter:
    """Writes texts with the engine that verifies devices' drafts, a token a forward, within a tenant's quotas."""

    def __init__(self, server: EdgeServer, tenant: Tenant) -> None:
        self._server, self._tenant = server, tenant
        self._owner = Owner()

    async def write(self, request: Request) -> AsyncGenerator[Committed | Finished, None]:
        """See `EdgeConnection.write`: for a seed the same text as there.

        Raises: `BadParameterError` for what cannot be served, `RefusedError` if the edge is busy or a quota is used up,
        `ModelError` if the engine fails.
        """
        law = Law(request.params, request.seed, self._server.target.vocab_size)
        scheduler, target, tenant = self._server.scheduler, self._server.target, self._tenant
        prompt, context = tuple(request.prompt), min(target.max_context, tenant.quotas.context or target.max_context)
        self._check(request, context)
        self._server.admit(tenant)
        text = scheduler.open(self._owner)
        tokens, end, reason = list(prompt), min(len(prompt) + request.max_tokens, context), "cancelled"
        watch = self._server.watch(lambda _: tokens, "the API", tenant)
        text.on_call = partial(watch.call, 0)
        try:
            self._opened(watch, request)
            if len(prompt) > 1:  # as for a device: rows of a forward differ, by rounding, from those of a longer one
                prefill = Forward(0, 0, prompt[:-1], 0)
                await scheduler.run(text, lambda: prefill)
            while len(tokens) < end:
                await tenant.pace()
                if tenant.revoked:
                    raise RefusedError("revoked", "this key is valid no more; ask whoever runs the edge")
                start = len(tokens)
                forward = Forward(0, start - 1, (tokens[-1],), 1)
                rows = await scheduler.run(text, lambda forward=forward: forward)  # type: ignore[misc]
                row = known_rows(rows, 1, target.vocab_size)[0]
                token = law.choose(row, Place(start))
                tokens.append(token)
                watch.message(Tokens(0, start, (token,), 0), sent=True)
                request.counts.forwards += 1
                request.counts.committed += 1
                yield Committed(0, (token,), 0, "target", self._logprobs(request, row, token))
                await asyncio.sleep(0)  # a short forward runs in this very thread: others want their turn, too
                if token in target.eos_ids:
                    reason = "stop"
                    break
            else:
                reason = "length"
        except AirdraftError as error:
            code = error.code if isinstance(error, RefusedError) else "engine"
            watch.message(Error(0, code, str(error)), sent=True)
            watch.event(Failed(0, code, str(error), ours=True))
            raise
        finally:
            scheduler.drop(text)
            watch.message(Close(0, reason), sent=True)  # without effect on a text that has failed
            watch.event(Finished(0, reason))
        yield Finished(0, reason)

    def _check(self, request: Request, context: int) -> None:
        target, prompt = self._server.target, request.prompt
        if request.scheme.name not in SCHEMES:
            raise BadParameterError(
                f"scheme is {request.scheme.name}, which needs a draft; ask for auto, or a device", field="scheme"
            )
        check_logprobs(request.logprobs, request.scheme.name)
        target.check(request.params, request.logprobs)
        if not prompt or not all(0 <= token < target.vocab_size for token in prompt):
            raise BadParameterError(
                "the prompt is empty or leaves the vocabulary; encode it with this model", field="prompt"
            )
        if len(prompt) >= context:
            raise BadParameterError(too_long(len(prompt), context, target.model), field="prompt", code=Code.CONTEXT)

    def _logprobs(self, request: Request, row: FloatArray, token: int) -> tuple[Logprob, ...]:
        if request.logprobs is None:
            return ()
        normalised = self._server.target.top_k is not None
        return (logprob_of(row, token, request.logprobs, normalised=normalised),)

    def _opened(self, watch: Watch, request: Request) -> None:
        """Watch the text as one of a device that keeps silent."""
        length = len(request.prompt)
        spec = SchemeSpec("server")
        asked = Open(0, spec, request.params, request.seed, request.max_tokens, length, length, b"", 0)
        watch.message(asked, sent=False)
        watch.message(Opened(0, length, 0), sent=True)
