"""Traces played again: the page with their events inside, in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airdraft.telemetry.winners import legend

HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'"
)


def standalone(traces: Sequence[Sequence[dict[str, Any]]]) -> str:
    """The page as one HTML file that plays these traces from one start, as `telemetry.trace.read` returns them."""
    page, style, script = ((HERE / name).read_text("utf-8") for name in ("index.html", "page.css", "page.js"))
    about = {"side": traces[0][0].get("side", "device"), "legend": legend()}
    held = json.dumps({"about": about, "traces": traces}).replace("</", "<\\/")
    policy = _POLICY.format(script=_digest(script), style=_digest(style))
    changes = (
        ("<title>", f'<meta http-equiv="content-security-policy" content="{policy}">\n<title>'),
        ('<link rel="stylesheet" href="page.css">', f"<style>{style}</style>"),
        (
            '<script type="module" src="page.js"></script>',
            f'<script type="application/json" id="traces">{held}</script>\n<script type="module">{script}</script>',
        ),
    )
    for here, there in changes:
        page = page.replace(here, there, 1)
    return page


def _digest(source: str) -> str:
    """A source that the policy allows, by its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
