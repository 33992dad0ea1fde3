"""The policy of a request without one."""

from __future__ import annotations

from airdraft.control.auto import Steady
from airdraft.control.facts import wire
from airdraft.core import schemes
from airdraft.core.policy import Given, Mode, Policy
from airdraft.core.request import Request


def plan(request: Request, vocab_size: int, max_draft: int) -> Policy:
    """Keep the request's scheme, with its draft length or else the best of at most `max_draft`.

    It keeps an unknown scheme too, for `schemes.make` to refuse. Raises: `BadParameterError` for a bad option.
    """
    spec = request.scheme
    if request.draft_length is not None or spec.name not in schemes.SCHEMES:
        return Given(Mode(spec.name, request.draft_length or 0, spec.race))
    sent = wire(spec.name, vocab_size, spec.k, spec.bits, resolution=spec.resolution)
    return Steady(Mode(spec.name, 0, spec.race), sent, max(1, max_draft))
