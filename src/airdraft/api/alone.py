"""The target alone, at the edge: for clients that have no draft."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

from airdraft.core import schemes
from airdraft.core.edge.proposing import Pace
from airdraft.core.edge.session import EdgeSession, opened
from airdraft.core.edge.stream import EdgeStream
from airdraft.core.events import Committed, Failed, Finished, Forward, Out, Progress
from airdraft.core.logprobs import Logprob, check_logprobs, decode_logprobs
from airdraft.core.messages import Logprobs, Message, SchemeSpec
from airdraft.core.request import Request
from airdraft.core.text import Prefix
from airdraft.edge.access import Tenant
from airdraft.edge.guides import fitting
from airdraft.edge.server import EdgeServer
from airdraft.edge.watch import Watch
from airdraft.errors import AirdraftError, BadParameterError, Code, RefusedError, ending, too_long
from airdraft.scheduler import Helped, Owner
from airdraft.transport import judged, paid

SCHEMES = schemes.named(exact="text")
"""The schemes whose text is the one that a seed stands for, drafted or not."""
_NUMBER = 0
"""The session's number, where there is but one."""


class TargetWriter:
    """Writes texts with the engine that verifies devices' drafts, within a tenant's quotas."""

    def __init__(self, server: EdgeServer, tenant: Tenant) -> None:
        self._server, self._tenant = server, tenant
        self._owner, self._pace = Owner(tenant.owner), Pace(tenant.verify_s)

    async def write(self, request: Request) -> AsyncGenerator[Committed | Finished, None]:
        """See `EdgeConnection.write`: for a seed the same text as there.

        It is the edge's own session, in this process, of a device that keeps silent.
        Raises: `BadParameterError` for what cannot be served, `RefusedError` if the edge is busy or a quota is used up,
        `ModelError` if the engine fails.
        """
        server, target, tenant = self._server, self._server.target, self._tenant
        session = await self._guided(self._session(request), request)
        text = session.text
        if text.over:
            yield Finished(_NUMBER, text.over)
            return
        clock, helped = asyncio.get_running_loop().time, Helped(server.service.helping, self._owner)
        sequenced, reason = server.scheduler.open(self._owner, request.private), "cancelled"
        watch = server.watch(lambda _: text.tokens, "the API", tenant)
        try:
            server.admit(tenant, watch)
        except RefusedError:
            server.scheduler.drop(sequenced)
            raise
        try:
            outs = _shown(watch, session.begin(len(request.prompt), private=request.private))
            sequenced.on_call = partial(watch.call, _NUMBER)
            while forward := next((out for out in outs if isinstance(out, Forward)), None):
                asked_s = clock()
                if forward.draft:
                    row = await helped.row(forward, request.private)
                    self._pace.took(forward, clock() - asked_s)
                    outs = _shown(watch, session.unhelped() if row is None else session.forwarded(row))
                    continue
                rows = await paid(server.scheduler, tenant, sequenced, forward, partial(watch.latest, forward))
                if tenant.revoked:
                    raise RefusedError(Code.REVOKED, "this key is no longer valid; ask whoever runs the edge")
                watch.rows(forward, rows)
                self._pace.took(forward, clock() - asked_s)
                if not forward.rows:
                    request.counts.cached = sequenced.reused
                outs = _shown(watch, session.forwarded(rows, await judged(server.scheduler, session.judge, rows)))
                tenant.spend(sum(out.taken for out in outs if isinstance(out, Progress)))
                if committed := _committed(outs, request, text, target.vocab_size):
                    yield committed
                    await asyncio.sleep(0)  # a short forward runs in this very thread: others want their turn, too
            reason = text.over or reason
        except AirdraftError as error:
            watch.event(Failed(_NUMBER, ending(error), str(error), ours=True))
            raise
        finally:
            server.scheduler.drop(sequenced)
            helped.drop()
            watch.event(Finished(_NUMBER, reason))  # without effect on a text that has failed
        yield Finished(_NUMBER, reason)

    async def _guided(self, session: EdgeSession, request: Request) -> EdgeSession:
        """Let the text keep to a grammar, if it has one."""
        target, reader, spec = self._server.target, self._server.service.reader, request.guide
        if spec is None:
            return session
        if reader is None or not target.guides:
            raise BadParameterError(f"the target {target.model} takes no guides here; give none", "guide")
        session.guided(await fitting(reader, target.top_k is None, spec, target.eos_ids, request.params))
        return session

    def _session(self, request: Request) -> EdgeSession:
        server, target, service = self._server, self._server.target, self._server.service
        context = min(target.max_context, self._tenant.quotas.context or target.max_context)
        self._check(request, context)
        text = Prefix(request.prompt, min(len(request.prompt) + request.max_tokens, context), target.eos_ids)
        proposers = service.proposing(self._tenant)(request.prediction, request.private is not None)
        stream = EdgeStream(text, server.limits.max_draft, proposers, target.trees)
        return opened(
            _NUMBER, text, request.params, request.seed, SchemeSpec(schemes.SERVER), target, stream, request.logprobs,
            service.help, self._pace,
        )  # fmt: skip

    def _check(self, request: Request, context: int) -> None:
        target, prompt, prediction = self._server.target, request.prompt, request.prediction
        if request.scheme.name not in SCHEMES:
            raise BadParameterError(
                f"scheme is {request.scheme.name}, which needs a draft; ask for auto, or a device", field="scheme"
            )
        check_logprobs(request.logprobs, request.scheme.name)
        self._server.scheduler.caches.check(request.private)
        target.check(request.params, request.logprobs)
        if not prompt or not all(0 <= token < target.vocab_size for token in prompt):
            raise BadParameterError(
                "the prompt is empty or leaves the vocabulary; encode it with this model", field="prompt"
            )
        for name, ids in (("prompt", prompt), ("prediction", prediction)):
            if len(ids) >= context:
                what = too_long(len(ids), context, target.model, name)
                raise BadParameterError(what, field=name, code=Code.CONTEXT)
        if not all(0 <= token < target.vocab_size for token in prediction):
            raise BadParameterError("the prediction leaves the vocabulary; encode it with this model", "prediction")


def _shown(watch: Watch, outs: list[Out]) -> list[Out]:
    """The same, after the watch has seen the events."""
    for out in outs:
        if not isinstance(out, Message | Forward):
            watch.event(out)
    return outs


def _committed(outs: list[Out], request: Request, text: Prefix, vocab_size: int) -> Committed | None:
    """What a forward committed, as a device would say it."""
    progress = next((out for out in outs if isinstance(out, Progress)), None)
    if progress is None:
        return None
    tokens = tuple(text.tokens[progress.start :])
    request.counts.forwards += 1
    request.counts.committed += len(tokens)
    known: tuple[Logprob, ...] = ()
    for out in outs:
        if isinstance(out, Logprobs):
            known = decode_logprobs(out.body, tokens, request.logprobs or 0, vocab_size)
    return Committed(_NUMBER, tokens, 0, "target", known)
