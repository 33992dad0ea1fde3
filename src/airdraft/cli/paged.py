"""The page of `airdraft device --page` and `airdraft edge --page`: what each shows, to whom, and what it is told of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette

from airdraft.api.http import has_key
from airdraft.api.template import ChatTemplate
from airdraft.device.dial import LOOPBACK
from airdraft.device.watch import MeteredWriter
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer
from airdraft.lab.energy import EnergyModel, device_joules
from airdraft.models.profile import Profile
from airdraft.models.text import Tokenizer
from airdraft.page.app import Page
from airdraft.page.race import WAYS, Race
from airdraft.telemetry.feed import Feed
from airdraft.telemetry.hosts import OwnNames
from airdraft.telemetry.trace import Traces
from airdraft.telemetry.winners import legend


def told(traces: Traces | None, tokenizer: Tokenizer, words: bool = True) -> None:
    """Let traces spell tokens, in files that hold their ids and, if `words`, on a page."""
    if traces is not None:
        traces.spell = tokenizer.stream
        if words and traces.feed is not None:
            traces.feed.spell = tokenizer.stream


def on_device(
    app: Starlette,
    feed: Feed | None,
    writer: Writer,
    watch: MeteredWriter,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    name: str,
    key: str | None,
    names: Sequence[str],
) -> None:
    """Add the page to a device's API, if there is a feed for it."""
    if feed is None:
        return

    def admit(authorization: str) -> str | None:
        return "" if has_key(authorization, key) else None

    def encode(words: str) -> Sequence[int]:
        if template is None:
            return tokenizer.encode(words)
        asked = [{"role": "user", "content": words}]
        return tokenizer.encode(template.render(asked, {"add_generation_prompt": True}), special=False)

    race = Race(writer.dial, lambda: writer.edge, encode, tokenizer.vocab_size, feed)

    def readings() -> Mapping[str, Any]:
        spent, facts = race.spent, writer.facts()
        drafted_s = (watch.counts.draft_rows + spent.counts.draft_rows) * (facts.draft_s if facts else 0.0)
        sent, received = writer.bytes_out + spent.uplink_bytes, writer.bytes_in + spent.downlink_bytes
        joules = device_joules(drafted_s, sent, received)
        return asdict(watch.metrics.read()) | {"device_joules": joules}

    feed.readings = readings
    energy = asdict(EnergyModel()) | {"words": str(EnergyModel())}
    about = {
        "side": "device", "model": name, "chat": template is not None, "ways": WAYS, "energy": energy,
        "legend": legend(),
    }  # fmt: skip
    app.router.routes.extend(Page(feed, admit, about, OwnNames(names), race).routes())


def on_edge(
    app: Starlette,
    traces: Traces | None,
    server: EdgeServer,
    template: ChatTemplate | None,
    names: Sequence[str],
    pace: Profile,
) -> Starlette:
    """Add the page to an edge's API, if its traces have a feed. A reader sees the texts of its own token only."""
    if traces is None or (feed := traces.feed) is None:
        return app

    def admit(authorization: str) -> str | None:
        tenant = server.tenant_of(authorization)
        return tenant.name if tenant else None

    feed.readings, feed.shared = lambda: asdict(server.metrics.read()), server.service.access is not None
    about = {
        "side": "edge",
        "model": server.target.model,
        "chat": template is not None,
        "imitated": pace.description if pace.target_s else None,
        "legend": legend(),
    }
    app.router.routes.extend(Page(feed, admit, about, OwnNames(names)).routes())
    return app


def readable(host: str, tokens: object) -> bool:
    """Whether an edge's page may show words: where everybody may read it, they would be other people's."""
    return host in LOOPBACK or tokens is not None
