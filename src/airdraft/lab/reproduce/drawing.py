"""A figure for each paper, with a row of panels for each pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from airdraft.lab.figures import save
from airdraft.lab.reproduce import dssd, payload, qs, tk_slt
from airdraft.lab.reproduce.dssd import DssdReport
from airdraft.lab.reproduce.everything import Found
from airdraft.lab.reproduce.pairs import RESOLUTIONS, SAMPLED
from airdraft.lab.reproduce.payload import PayloadReport
from airdraft.lab.reproduce.qs import QsReport, QsRow
from airdraft.lab.reproduce.tk_slt import TkSltReport
from airdraft.lab.virtual.curves import Curve, Panel, curves


def draw(found: Found, folder: Path) -> list[Path]:
    """Draw `reproduce-NAME.svg` into `folder` for each paper that was run. Raises: `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Callable[..., Figure]] = {
        "tk-slt": _tk_slt, "dssd": _dssd, "qs": _qs,
        "tslt": partial(_payload, "TSLT: cuts by mass, and several candidates"),
        "sqs": partial(_payload, "C-SQS and the ladder: how much of a distribution to send"),
    }  # fmt: skip
    return [save(drawn[paper](reports), folder / f"reproduce-{paper}.svg") for paper, reports in found.items()]


def _tk_slt(reports: Sequence[TkSltReport]) -> Figure:
    rows = []
    for report in reports:
        by_k, gamma = [row for row in report.by_k if row.sampling == SAMPLED], report.closed_gamma
        lengths = [
            Curve("the paper's model", [(row.gamma, row.model) for row in report.by_length], best=True, dashed=True),
            Curve("its bill, along the texts", [(row.gamma, row.billed) for row in report.by_length], best=True),
            *(
                Curve(
                    f"everything billed, RTT {1e3 * rtt_s:.0f} ms",
                    [(row.gamma, row.honest[at]) for row in report.by_length],
                    best=True,
                )
                for at, rtt_s in enumerate(tk_slt.RTTS_S)
            ),
        ]
        speedups = [
            Curve("speed-up, billed by the paper", [(row.k, row.billed_speedup) for row in by_k], best=True),
            Curve("speed-up, everything billed", [(row.k, row.honest_speedup) for row in by_k], best=True),
        ]
        acceptance = [Curve("acceptance", [(row.k, row.acceptance) for row in by_k])]
        rows.append([
            Panel(f"{report.pair}: γ* = {gamma}", "draft length γ", "tokens/s", lengths, mark=gamma),
            Panel(f"{report.pair}: speed-up", "K", "×", speedups, logarithmic=True),
            Panel(f"{report.pair}: acceptance", "K", "α", acceptance, logarithmic=True),
        ])  # fmt: skip
    setting = f"{SAMPLED}, uplink {tk_slt.UPLINK_BPS / 1e6:.0f} Mbit/s; a ring: the best found; dotted: γ*"
    return curves(rows, "TK-SLT: draft length and K", setting)


def _dssd(reports: Sequence[DssdReport]) -> Figure:
    labels = [dssd.label(spec) for spec in (dssd.DENSE, *dssd.SPLITS)]
    rows = []
    for report in reports:
        panels = []
        for mbps in report.mbps:
            here = [row for row in report.rows if row.mbps == mbps]
            plain = {row.rtt_ms: row.server_tokens_per_s for row in here}
            found = [Curve("server", list(plain.items()), dashed=True)]
            for label in labels:
                best = {
                    rtt_ms: max(row.tokens_per_s for row in here if (row.scheme, row.rtt_ms) == (label, rtt_ms))
                    for rtt_ms in dssd.RTTS_MS
                }
                found.append(Curve(label, list(best.items())))
            panels.append(Panel(f"{report.pair}: {mbps:g} Mbit/s", "RTT, ms", "tokens/s", found))
        rows.append(panels)
    lengths = ", ".join(map(str, dssd.LENGTHS))
    return curves(rows, "DSSD: speed over the round trip, everything billed", f"at the best of {lengths} drafts")


def _lines(rows: Sequence[tuple[QsRow, float]]) -> list[Curve]:
    """A curve for each lattice."""
    return [
        Curve(f"ℓ = {resolution}", [(row.gamma, y) for row, y in rows if row.resolution == resolution], best=True)
        for resolution in RESOLUTIONS
    ]


def _qs(reports: Sequence[QsReport]) -> Figure:
    rows = []
    for report in reports:
        sampled = [row for row in report.rows if row.honest]
        billed = _lines([(row, row.mixed) for row in sampled])
        panels = [Panel(f"{report.pair}: the paper's bill", "draft length γ", "tokens/s", billed)]
        for at, rtt_ms in enumerate(qs.LINKS):
            flat = [
                Curve(label, [(qs.LENGTHS[0], speeds[at]), (qs.LENGTHS[-1], speeds[at])], dashed=True)
                for label, speeds in (("server", report.server), ("raced stream", report.stream))
            ]
            found = [*_lines([(row, row.honest[at]) for row in sampled]), *flat]
            panels.append(
                Panel(f"{report.pair}: everything billed, RTT {rtt_ms:g} ms", "draft length γ", "tokens/s", found)
            )
        rows.append(panels)
    return curves(rows, "QS: draft length and lattice, uplink 2 or 6 Mbit/s", "a ring: the best found")


def _payload(title: str, reports: Sequence[PayloadReport]) -> Figure:
    rows = []
    for report in reports:
        ways = [row.way for row in report.rows]
        panels = []
        for at, link in enumerate(payload.LINKS):
            points = [(n, row.speeds[at].tokens_per_s) for n, row in enumerate(report.rows)]
            curve = Curve("tokens/s", points, best=True)
            panels.append(Panel(f"{report.pair}: {link}", "", "tokens/s", [curve], ticks=ways))
        rows.append(panels)
    lengths = ", ".join(map(str, payload.LENGTHS))
    return curves(rows, title, f"everything billed, RTT 20 ms, at the best of {lengths} drafts; a ring: the best found")
