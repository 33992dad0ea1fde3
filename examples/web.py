"""A web page into which texts stream, each for its own reader: `python web.py ws://127.0.0.1:8571 [PORT]`."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.routing import Route

import airdraft

PAGE = """<!doctype html><title>airdraft</title>
<form><input name=q size=60 value="def fibonacci(n):"><button>write</button></form><pre></pre>
<script>
document.forms[0].onsubmit = event => {
  event.preventDefault()
  const out = document.querySelector("pre"), q = document.forms[0].q.value
  out.textContent = q
  const events = new EventSource("/write?q=" + encodeURIComponent(q))
  events.onmessage = ({data}) => { out.textContent += JSON.parse(data) }
  events.onerror = () => events.close()
}
</script>"""


@asynccontextmanager
async def connected(app: Starlette) -> AsyncIterator[dict[str, airdraft.AsyncClient]]:
    """One client for all readers: their texts share a connection, and each has its own place at the edge."""
    async with airdraft.AsyncClient(sys.argv[1]) as client:
        yield {"client": client}


async def page(request: Request) -> HTMLResponse:
    return HTMLResponse(PAGE)


async def write(request: Request) -> StreamingResponse:
    """Server-sent events, one a piece. A reader who leaves gives the text up."""
    pieces = request.state.client.stream(request.query_params.get("q", ""), max_tokens=64)

    async def events() -> AsyncIterator[str]:
        async for piece in pieces:
            yield f"data: {json.dumps(piece)}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


app = Starlette(routes=[Route("/", page), Route("/write", write)], lifespan=connected)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000, log_level="warning")
