"""The policy of a request without one."""

from __future__ import annotations

from airdraft.control.auto import Steady
from airdraft.control.facts import wire_of
from airdraft.control.ladder import Ladder, usual
from airdraft.core import schemes
from airdraft.core.policy import Given, Mode, Policy
from airdraft.core.request import Request


def plan(request: Request, vocab_size: int, max_draft: int) -> Policy:
    """Keep the request's scheme, with its draft length or else the best of at most `max_draft`.

    With k 0 the uplink decides how much of a distribution travels, by the `Ladder` of a scheme that has this option.
    It keeps an unknown scheme too, for `schemes.make` to refuse. Raises: `BadParameterError` for a bad option.
    """
    spec = request.scheme
    if spec.k == 0 and spec.name in schemes.SCHEMES and "k" in schemes.traits(spec.name).options:
        return Ladder(usual(spec, vocab_size), vocab_size, request.draft_length or 0, max(1, max_draft))
    if request.draft_length is not None or spec.name not in schemes.SCHEMES:
        return Given(Mode(spec.name, request.draft_length or 0, spec.race))
    sent = wire_of(spec, vocab_size)
    return Steady(Mode(spec.name, 0, spec.race), sent, max(1, max_draft))
