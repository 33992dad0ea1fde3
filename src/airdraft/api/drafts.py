"""The keys and values that an edge's own draft model has read, over HTTP, as a store of prompts for its devices."""

from __future__ import annotations

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from airdraft.edge.access import Tenant
from airdraft.edge.offering import Offering
from airdraft.prompts.store import UNLISTED

PATH = "/v1/drafts"


def drafts(offering: Offering, tenant_of: Callable[[Request], Tenant | None]) -> Route:
    """The route of an offering. tenant_of: whose device asks; raises for one that may not."""

    async def given(http: Request) -> Response:
        tenant, place = tenant_of(http), http.path_params["place"]
        if place.startswith(f"{offering.target}/") and place.endswith("/prompts"):
            return HTMLResponse(f'<a href="{UNLISTED}">{UNLISTED}</a>')
        found = None if tenant is None else await offering.object(tenant, place)
        if found is None:
            raise HTTPException(404, "no open text of yours has this; the device reads it by itself")
        return Response(found, media_type="application/octet-stream")

    return Route(f"{PATH}/{{place:path}}", given)
