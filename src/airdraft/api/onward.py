"""Texts that go on after an end-of-text token (`ignore_eos`)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import fields, replace

from airdraft.api.reading import TextWriter
from airdraft.core.events import Committed, Finished
from airdraft.core.request import Counts, Request
from airdraft.device.offline import Corrected, Unverified
from airdraft.errors import BadParameterError, Code, RefusedError
from airdraft.guides import onward


class OnwardWriter:
    """Writes over another writer, up to the length that is asked for.

    A text that ends early is the prompt of a further one. Tokens are drawn by seed and position, so together they are
    what the target alone would write if no token ended it.
    """

    def __init__(self, writer: TextWriter) -> None:
        self._writer = writer

    async def write(self, request: Request) -> AsyncGenerator[Committed | Unverified | Corrected | Finished, None]:
        """See `TextWriter.write`."""
        prompt, left = [*request.prompt], request.max_tokens
        finished: Finished | None = None
        while finished is None:
            written = len(prompt) - len(request.prompt)
            guide = onward(request.guide, written) if written else request.guide
            part = replace(request, prompt=prompt, max_tokens=left, counts=Counts(), guide=guide)
            try:
                async with contextlib.aclosing(self._writer.write(part)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            finished = None if event.reason == "stop" and left else event
                            break
                        if isinstance(event, Committed):
                            prompt, left = [*prompt, *event.tokens], left - len(event.tokens)
                        if isinstance(event, Unverified) and event.ended == "stop":
                            continue  # the draft model thinks so, but nothing ends here
                        yield event
            except (BadParameterError, RefusedError) as error:
                if not (written and error.code == Code.CONTEXT):
                    raise
                finished = Finished(0, "length")  # the token that ended it was the context's last
            finally:
                _add(request.counts, part.counts)
        yield replace(finished, reason="length") if finished.reason == "stop" else finished


def _add(whole: Counts, part: Counts) -> None:
    for each in fields(Counts):
        setattr(whole, each.name, getattr(whole, each.name) + getattr(part, each.name))
