"""`python -m bench.page [FOLDER]`: pictures of the page, of a real edge, device and race; docs/figures without FOLDER.

Needs the extra `page` and Debian's Chromium. The target's compute is imitated, as in `airdraft demo`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airdraft import local
from airdraft.errors import BadParameterError
from bench.pages import ROOT, parser

FIGURES = ROOT / "docs" / "figures"
MOST_BYTES = 300_000
PICTURES: dict[str, dict[str, Any]] = {
    "page": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "page-phone": {"viewport": {"width": 390, "height": 1180}, "color_scheme": "dark"},
}
"""The pictures by name, each with the browser that it is of."""


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """Debian's Chromium. Raises: `BadParameterError` if there is none."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - of the extra

    found = shutil.which("chromium")
    if found is None:
        raise BadParameterError("there is no chromium; install it, apt-get install chromium")
    async with async_playwright() as running:
        chromium = await running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        await chromium.close()


async def pictures(folder: Path) -> None:
    """Run a race for each picture, and draw what the page shows in the middle of it. Raises: as `browser`."""
    options = ("--propose", "lookup,salvage")
    async with (
        local.edge("target", "phone-8b", options=options) as edge,
        local.device(edge, ["--lookup", "--page"]) as device,
        browser() as chromium,
    ):
        for name, like in PICTURES.items():
            page = await chromium.new_page(**like)
            await page.goto(device["url"].removesuffix("v1"))
            await page.click("#racing .start")
            await page.wait_for_selector(".lane.won", timeout=120_000)
            await page.eval_on_selector(
                "#race-player input", "each => { each.value = 900; each.dispatchEvent(new Event('input')); }"
            )
            path = folder / f"{name}.png"
            await page.screenshot(path=str(path))
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
            if path.stat().st_size >= MOST_BYTES:
                raise BadParameterError(f"{path} has {MOST_BYTES} bytes or more; make the window smaller")


def main() -> int:
    """Make all pictures."""
    line = parser("page", "Draw the page as a browser shows it, of a real edge, device and race.")
    line.add_argument("folder", type=Path, nargs="?", default=FIGURES, help="where they go; without it: docs/figures")
    asyncio.run(pictures(line.parse_args().folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
