"""The places that texts take of a tenant's quota, and who gives them back."""

from __future__ import annotations

from dataclasses import fields
from time import perf_counter

from airdraft.core.events import Begun, Event, Failed, Finished
from airdraft.edge.access import Tenant, anybody
from airdraft.edge.watch import Watch
from airdraft.telemetry.metrics import Metrics, Readings


def watching(tenant: Tenant, *events: Event, places: int) -> Watch:
    """A watch of one connection, after so many texts were admitted and these events came."""
    metrics = Metrics(lambda: Readings(*[0] * len(fields(Readings))))
    watch = Watch(lambda _: (), "peer", tenant, metrics, None, perf_counter)
    tenant.sessions += places
    watch.reserved += places
    for event in events:
        watch.event(event)
    return watch


def test_a_text_gives_its_place_back_when_it_ends() -> None:
    for end in (Finished(1, "stop"), Failed(1, "engine", "no", ours=True)):
        tenant = anybody(0.0)
        watch = watching(tenant, Begun(1, 2, 2, 8, "stream"), end, places=1)
        assert (tenant.sessions, watch.reserved) == (0, 0)


def test_a_connection_that_ends_gives_all_places_back_also_those_of_texts_that_never_began() -> None:
    tenant = anybody(0.0)
    watch = watching(tenant, Begun(1, 2, 2, 8, "stream"), places=3)
    assert (tenant.sessions, watch.reserved) == (3, 2)
    watch.close()
    assert (tenant.sessions, watch.reserved) == (0, 0)
    watch.close()
    assert tenant.sessions == 0
