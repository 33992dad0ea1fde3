"""`airdraft bench trace --forecast`: what forecasts of a link are worth to a device, and how good they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown

from airdraft.cli.bench.results import progress, renew_pages, write_json
from airdraft.errors import BadParameterError

if TYPE_CHECKING:
    from airdraft.lab.virtual.forecasting import Weighed


def forecasts(
    console: Console, links: list[str], given: str, numbers: tuple[float, float, float, float], jobs: int,
    json_file: Path | None, pages: list[Path] | None,
) -> None:  # fmt: skip
    """Run, show and write the comparison. `numbers`: round trip, draft, target in ms, and seconds of each run."""
    import msgspec  # noqa: PLC0415

    from airdraft.lab.virtual import forecasting as lab  # noqa: PLC0415
    from airdraft.lab.virtual.tracing import recording  # noqa: PLC0415

    names = lab.names_of(given)
    if not names:
        raise BadParameterError(
            "--forecast names nothing to compare with none; give ewma, ridge, snr, guard, model, oracle or all",
            "forecast",
        )
    todo = lab.cases(links, *numbers)
    with progress(console, "links") as on_run:
        found = lab.weigh_all(recording(), todo, names, jobs, on_run)
    about = (
        f"`auto` at an edge without a draft of its own, draft {numbers[1]:g} ms, target {numbers[2]:g} ms, simulated "
        f"(virtual time): at most {numbers[3]:g} s of each run."
    )
    kinds = [each for each in found if each.outage is not None], [each for each in found if each.outage is None]
    blocks, verdicts = dict[str, str](), list[dict[str, Any]]()
    for name, runs in zip(("forecast", "forecast-named"), kinds, strict=True):
        if runs:
            these = lab.verdicts(runs)
            lines = [about, "", *_links(runs), "", *_scores(runs, names), "", *map(_said, these)]
            blocks[name] = "\n".join(lines)
            verdicts += [{"block": name, **each} for each in these]
    write_json(json_file, {"links": [msgspec.to_builtins(each) for each in found], "verdicts": verdicts})
    console.print(Markdown("\n\n".join(blocks.values())))
    renew_pages(pages, blocks)
    inexact = [f"{each.name}, {row.forecast}" for each in found for row in each.rows if not row.exact]
    if inexact:
        raise BadParameterError(f"texts differ from the recorded ones: {'; '.join(inexact)}")


def _groups(found: Sequence[Weighed]) -> Iterator[tuple[str, list[Weighed]]]:
    groups: dict[str, list[Weighed]] = {}
    for each in found:
        groups.setdefault(each.name.partition(", ")[0].rpartition("/")[0] or each.name, []).append(each)
    yield from groups.items()


def _links(found: Sequence[Weighed]) -> Iterator[str]:
    yield "| link | runs | down | forecast | tokens/s | p99 wait, ms | drafts in vain a token |"
    yield "|---|---:|---:|---|---:|---:|---:|"
    for name, runs in _groups(found):
        down = [each.outage for each in runs if each.outage is not None]
        for at, row in enumerate(runs[0].rows):
            rows = [each.rows[at] for each in runs]
            first = (f"`{name}`" if ":" in name else name, f"{len(runs)}", f"{median(down):.0%}" if down else "–")
            cells = [*(first if not at else ("", "", "")), row.forecast]
            cells += [
                f"{median(each.tokens_per_s for each in rows):.1f}",
                f"{median(each.wait_p99_ms for each in rows):.0f}",
                f"{median(each.in_vain for each in rows):.2f}",
            ]
            yield f"| {' | '.join(cells)} |"


def _scores(found: Sequence[Weighed], names: Sequence[str]) -> Iterator[str]:
    scores = [each for link in found for each in link.scores]
    if not scores:
        return
    yield "| forecast | ahead, ms | rate off by | rate within 10 to 90 % | outage, Brier | always the mean |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name in [name for name in names if any(each.forecast == name for each in scores)]:
        for horizon_s in sorted({each.horizon_s for each in scores}):
            chosen = [each for each in scores if (each.forecast, each.horizon_s) == (name, horizon_s)]
            means = [
                sum(values) / len(values) if (values := [getattr(each, field) for each in chosen
                                                         if getattr(each, field) == getattr(each, field)]) else 0.0
                for field in ("rate_off", "inside", "brier", "constant")
            ]  # fmt: skip
            off, inside, brier, constant = means
            yield f"| {name} | {1e3 * horizon_s:.0f} | {off - 1:.0%} | {inside:.0%} | {brier:.3f} | {constant:.3f} |"


def _said(verdict: dict[str, Any]) -> str:
    return (
        f"- {verdict['forecast']}, {verdict['links']} runs: at worst {verdict['worst_speed']:.3f} of the speed "
        f"without ({verdict['worst_link']}), "
        f"{verdict['mean_speed']:.3f} in the mean. On the {verdict['links_with_outages']} links with outages it saves "
        f"{verdict['saved']:.0%} of the drafts in vain (median) and {verdict['p99_sooner']:.0%} of the p99 wait. "
        f"The bar, no more than 1 % slower anywhere and 10 % saved: {'held' if verdict['held'] else 'missed'}."
    )
