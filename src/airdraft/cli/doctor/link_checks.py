"""The checks of `airdraft doctor` that look at an edge and a link: does it answer, and what would `auto` do there."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from airdraft import local
from airdraft.cli.doctor import finding
from airdraft.cli.doctor.finding import (
    BAD,
    LOOK,
    OK,
    SKIPPED,
    VERIFIED,
    Finding,
    Known,
    Subject,
    Visit,
    finite,
    forward_s,
)
from airdraft.control import auto
from airdraft.control.facts import wire
from airdraft.control.predict import Prediction, server
from airdraft.core import schemes
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts
from airdraft.core.request import Request
from airdraft.device.client import EdgeConnection
from airdraft.device.probe import Probe
from airdraft.errors import AirdraftError, Code, ModelError, RefusedError, RemoteProtocolError
from airdraft.models.engines.nothing import NoDraft
from airdraft.models.text import Tokenizer

LEAST = 0.05
"""A lower acceptance is taken as this one where it divides."""
GAIN = 1.05
"""Predicted gain of drafting below which it is not worth while."""
RTTS_MS = (5.0, 20.0, 50.0, 100.0, 200.0)
UP_MBPS, DOWN_MBPS = 20.0, 100.0
"""Links that are looked at where the user tells of none."""


def visited(subject: Subject, known: Known, prompts: Sequence[list[int]]) -> Finding:
    """Whether the edge answers and takes the draft. Its link is measured; without a target here it writes texts."""
    try:
        known.visit = asyncio.run(_visit(subject, known.tokenizer, prompts if subject.target is None else ()))
    except (RefusedError, RemoteProtocolError) as error:
        if error.code == Code.VOCABULARY:
            known.fits = False
            remedy = "name a draft with that target's own tokenizer, or take none: --draft none --tokenizer MODEL"
            return Finding("edge", BAD, f"its target has another vocabulary than {subject.draft}", remedy)
        return _edge_failed(error)
    except AirdraftError as error:
        return _edge_failed(error)
    told, probe = known.visit.welcome, known.visit.probe
    says = (
        f"{told.model} at {subject.edge}, context {told.max_context:,}; {1e3 * probe.rtt_s:.1f} ms RTT, "
        f"{_mbps(probe)}; a forward takes {1e3 * probe.verify_s:.1f} ms there"
    )
    figures = {
        "model": told.model, "context": told.max_context, "rtt_ms": 1e3 * probe.rtt_s,
        "uplink_mbps": finite(probe.uplink_bps / 1e6), "downlink_mbps": finite(probe.downlink_bps / 1e6),
        "forward_ms": 1e3 * probe.verify_s,
    }  # fmt: skip
    return Finding("edge", OK, says, figures=figures)


def _edge_failed(error: AirdraftError) -> Finding:
    says, _, remedy = str(error).rpartition("; ")
    return Finding("edge", BAD, says or str(error), remedy if says else None)


def _mbps(probe: Probe) -> str:
    rates = {"up": probe.uplink_bps / 1e6, "down": probe.downlink_bps / 1e6}
    shown = [f"{rate:.3g} Mbit/s {way}" for way, rate in rates.items() if math.isfinite(rate)]
    return ", ".join(shown) or "rates beyond what can be measured"


async def _visit(subject: Subject, tokenizer: Tokenizer, prompts: Sequence[list[int]]) -> Visit:
    """Connect without a draft, measure, and let the edge write after `prompts`."""
    nobody = NoDraft(tokenizer.vocab_size)
    connecting = EdgeConnection.connect(
        subject.edge or "", nobody, tokenizer.digest, tokenizer.vocab_size, token=subject.token, ssl=subject.trust
    )
    async with await connecting as edge:
        probe = await edge.probe()
        texts: list[list[int]] = []
        until = time.monotonic() + finding.TEXTS_S
        for at, prompt in enumerate(prompts):
            if texts and time.monotonic() > until:
                break
            request = Request(prompt, SchemeSpec(schemes.SERVER), subject.params, subject.seed + at, finding.TOKENS)
            async with contextlib.aclosing(edge.write(request)) as events:
                texts.append(
                    [token async for event in events if isinstance(event, Committed) for token in event.tokens]
                )
        if edge.welcome is None:
            raise ModelError(f"the edge at {subject.edge} said no welcome; run the doctor again")
        return Visit(edge.welcome, probe, texts)


def ways(subject: Subject, known: Known) -> Iterator[Finding]:
    """What `auto` would do over the user's link, or over several, and whether a draft gains anything."""
    check = "auto"
    if not known.fits:
        says = "no draft fits, so the edge writes alone (`server`): a device still keeps texts alive over a bad link"
        yield Finding(check, SKIPPED, says)
        return
    missing = {"the draft's speed": known.draft_s, "the target's speed": known.one_s, "acceptance": known.acceptance}
    lacking = [name for name, value in missing.items() if value is None]
    if lacking or known.draft_s is None or known.one_s is None or known.verify_s is None or known.acceptance is None:
        yield Finding(check, SKIPPED, f"{' and '.join(lacking)} could not be measured, see above")
        return
    if subject.link is not None:
        links = [subject.link]
    elif known.visit is not None:
        probe = known.visit.probe
        links = [local.Link(probe.uplink_bps / 1e6, probe.downlink_bps / 1e6, probe.rtt_s * 1e3)]
    else:
        links = [local.Link(UP_MBPS, DOWN_MBPS, rtt_ms) for rtt_ms in RTTS_MS]
    for link in links:
        slow = Facts(
            known.draft_s, known.verify_s, link.rtt_ms / 1e3, link.uplink_mbps * 1e6, link.downlink_mbps * 1e6,
            known.acceptance,
        )  # fmt: skip
        yield _way(link, slow, known.one_s, known.tokenizer.vocab_size)
    if subject.edge is not None and known.target is not None:
        yield from _at_home(known, links[0])


def drafted(facts: Facts, one_s: float, vocab_size: int) -> Prediction:
    """Predict a raced stream where forwards for one token take `one_s`, and those for `VERIFIED` `facts.verify_s`.

    Most forwards of such a stream are for few tokens, or for one while no draft is there. Their mean time lies between
    the two, by the number of drafts that they verify in the mean, which depends on that time.
    """
    verify_s = one_s
    for _ in range(3):
        [found] = auto.predictions(replace(facts, verify_s=verify_s), [wire(schemes.STREAM, vocab_size)])
        drafts = (1 / found.target_forwards_per_token - 1) / max(facts.acceptance, LEAST)
        verify_s = one_s + (facts.verify_s - one_s) * min(1.0, drafts / (VERIFIED - 1))
    return found


def _way(link: local.Link, facts: Facts, one_s: float, vocab_size: int) -> Finding:
    """The finding about one link. `one_s`: a forward for one token, which is all that `server` runs."""
    plain = server(replace(facts, verify_s=one_s), wire(schemes.SERVER, vocab_size))
    best = auto.preferred([plain, drafted(facts, one_s, vocab_size)])
    gain = best.tokens_per_s / plain.tokens_per_s
    figures = {
        "rtt_ms": link.rtt_ms, "uplink_mbps": finite(link.uplink_mbps), "downlink_mbps": finite(link.downlink_mbps),
        "scheme": best.mode.scheme, "tokens_per_s": best.tokens_per_s, "server_tokens_per_s": plain.tokens_per_s,
        "gain": gain,
    }  # fmt: skip
    where = f"{link.rtt_ms:.3g} ms RTT, {link.uplink_mbps:.3g} Mbit/s up"
    speed = f"{plain.tokens_per_s:.1f} tokens/s"
    if gain < GAIN:
        says = f"{where}: drafting is predicted to gain nothing over server streaming, {speed}"
        remedy = "take no draft, --draft none: as fast, and it spares the device; it still keeps texts alive"
        return Finding("auto", LOOK, says, remedy, figures)
    fast = f"{best.mode.scheme}, {best.tokens_per_s:.1f} tokens/s predicted"
    says = f"{where}: {fast}, {gain:.2f} × server streaming ({speed})"
    return Finding("auto", OK, says, figures=figures)


def _at_home(known: Known, link: local.Link) -> Iterator[Finding]:
    """Whether the target itself, run on this machine without an edge, would be as good."""
    if known.target is None or known.visit is None:
        return
    own_s, away_s = forward_s(known.target), known.visit.probe.verify_s
    if own_s <= away_s:
        says = f"the target takes {1e3 * own_s:.1f} ms a token on this machine, {1e3 * away_s:.1f} ms at the edge"
        yield Finding("no edge", LOOK, says, "run it here: `airdraft edge` on this machine, and no link in between")
