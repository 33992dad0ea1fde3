"""The page's side of a server: its files, one stream of events, and a race."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from airdraft.api.errors import ApiError
from airdraft.api.http import UntilGone, body_of, whole
from airdraft.page.race import Asked, Race
from airdraft.telemetry.feed import Feed
from airdraft.telemetry.hosts import OwnNames, foreign_page

HERE = Path(__file__).parent
KINDS = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
"""The page's files, and what each is."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}


@dataclass
class Page:
    """What a server shows on its page."""

    feed: Feed
    admit: Callable[[str], str | None]
    """Return whose texts a reader that sends this `Authorization` may see; None for an unknown one."""
    about: Mapping[str, Any]
    """What is served here: `side`, `model`, and whether there is a `chat`."""
    names: OwnNames = field(default_factory=OwnNames)
    race: Race | None = None

    def routes(self) -> list[BaseRoute]:
        """The paths of the page, for an app that serves other things besides."""
        files = [Route("/" if name == "index.html" else f"/{name}", self._file(name)) for name in KINDS]
        return [
            *files,
            Route("/page/about", self._about),
            Route("/page/events", self._events),
            Route("/page/race", self._race, methods=["POST"]),
        ]

    def _file(self, name: str) -> Callable[[HttpRequest], Awaitable[Response]]:
        content = (HERE / name).read_bytes()

        async def answer(http: HttpRequest) -> Response:
            self._own(http)
            return Response(content, media_type=KINDS[name], headers=HEADERS)

        return answer

    async def _about(self, http: HttpRequest) -> Response:
        """What a page must know first. Whoever shows no key learns only that there is one."""
        self._own(http)
        if self.admit(http.headers.get("authorization", "")) is None:
            return JSONResponse({"key": True}, headers=HEADERS)
        return JSONResponse({"key": False, "race": self.race is not None, **self.about}, headers=HEADERS)

    async def _events(self, http: HttpRequest) -> Response:
        return UntilGone(partial(_send, self.feed.read(self._reader(http))))

    async def _race(self, http: HttpRequest) -> Response:
        self._reader(http)
        if self.race is None:
            raise ApiError(404, "races are run on a device; open the page of `airdraft device --page`")
        try:
            asked = msgspec.json.decode(await body_of(http), type=Asked)
        except msgspec.MsgspecError as error:
            raise ApiError(400, f"this is no race ({error}); start it on the page") from error
        return whole(partial(self.race.run, asked))

    def _reader(self, http: HttpRequest) -> str:
        """Whose texts may be read. Raises: `ApiError` for somebody unknown."""
        self._own(http)
        owner = self.admit(http.headers.get("authorization", ""))
        if owner is None:
            remedy = "give it to the page, which sends it as Authorization: Bearer KEY"
            raise ApiError(401, f"the key is missing or wrong; {remedy}", None, "invalid_api_key")
        return owner

    def _own(self, http: HttpRequest) -> None:
        """Turn away other servers' pages, as the API does, and what a browser says comes from one."""
        why = foreign_page(http)
        if why is None and http.headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
            why = "another server's page asks; pages may not use this server" if http.url.path != "/" else None
        if why is None and self.admit("") is not None:
            why = self.names.refusal(http)
        if why:
            raise ApiError(403, why, None, "foreign_origin")


async def _send(parts: AsyncGenerator[bytes, None], scope: Scope, receive: Receive, send: Send) -> None:
    first = await anext(parts)  # before anything is sent, so that a refusal gets its own status
    try:
        headers = [(name.encode(), value.encode()) for name, value in _STREAM.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    finally:
        await parts.aclose()
