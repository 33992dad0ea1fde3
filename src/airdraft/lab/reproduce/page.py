"""The findings as Markdown: a block for each paper, with what is printed, what is ours, and why they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from airdraft.lab.reproduce import dssd, payload, qs, tk_slt
from airdraft.lab.reproduce.billing import COMPUTE
from airdraft.lab.reproduce.closed_form import table as closed_form
from airdraft.lab.reproduce.dssd import DssdReport
from airdraft.lab.reproduce.everything import Found, texts_of
from airdraft.lab.reproduce.pairs import GREEDY, RESOLUTIONS, SAMPLED, RecordedPair
from airdraft.lab.reproduce.payload import PayloadReport
from airdraft.lab.reproduce.qs import QsReport
from airdraft.lab.reproduce.tk_slt import TkSltReport
from airdraft.lab.results import SIMULATED

UNKNOWN = "not known to us"


def blocks(found: Found, pairs: Sequence[RecordedPair], cpu_s: float) -> dict[str, str]:
    """A block for each paper that was run, by its name, and one about the pairs and the time that all took."""
    made: dict[str, Callable[..., str]] = {
        "tk-slt": _tk_slt, "dssd": _dssd, "qs": _qs, "tslt": _tslt, "sqs": _sqs,
    }  # fmt: skip
    return {"pairs": _pairs(pairs, cpu_s), **{paper: made[paper](reports) for paper, reports in found.items()}}


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """A table whose first `words` columns are words, and the others numbers; with an empty line after it."""
    marks = ["---"] * words + ["---:"] * (len(heads) - words)
    return [f"| {' | '.join(heads)} |", f"|{'|'.join(marks)}|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _compared(rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of what is printed and what is ours."""
    return _table(("figure", "published", "ours", "why"), rows, words=4)


def _pairs(pairs: Sequence[RecordedPair], cpu_s: float) -> str:
    rows = [
        (pair.name, sampling, str(of["texts"]), f"{of['tokens']:,}", f"{of['acceptance']:.3f}")
        for pair in pairs for sampling, of in texts_of(pair).items()
    ]  # fmt: skip
    draft_ms, verify_ms = 1e3 * COMPUTE.draft_s, 1e3 * COMPUTE.verify_s
    vocabularies = ", ".join(f"{pair.vocab_size:,} tokens in the vocabulary of {pair.name}" for pair in pairs)
    lines = [
        f"A forward of the draft takes {draft_ms:.1f} ms and one of the target {verify_ms:.0f} ms, {SIMULATED}; "
        f"{vocabularies}. The run took {cpu_s / 60:.1f} minutes of CPU time.",
        "",
        *_table(("pair", "sampling", "texts", "tokens", "acceptance"), rows, words=2),
    ]
    return "\n".join(lines).rstrip()


def _tk_slt(reports: Sequence[TkSltReport]) -> str:
    form, costs = closed_form(), tk_slt.costs()
    speedups = [row for row in form if row.printed_speedup is not None]
    bodies = "; ".join(f"{row.billed:.4f} at K = {row.k:,}" for row in costs)
    indexed = "; ".join(f"{row.with_indices:.4f}" for row in costs)
    lines = [
        *_compared([
            ("Table I, γ*", f"{len(form)} draft lengths", f"{sum(row.agrees for row in form)} of {len(form)} equal",
             "the same formula; a search in the same model finds the same lengths"),
            ("Table I, S(γ*)", f"{len(speedups)} of them known to us",
             f"{sum(row.speedup == row.printed_speedup for row in speedups)} equal to the printed digits", "likewise"),
            ("Table II, L by K", "; ".join(f"{row.printed:.4f}" for row in costs), bodies,
             f"the same if indices cost nothing; with them L is {indexed}"),
            *(_best_k(report, sampling) for report in reports for sampling in (GREEDY, SAMPLED)),
            ("speed-up of whole texts", UNKNOWN, _best_speedups(reports),
             "ours is the bill of the paper, and then everything billed, against server streaming"),
        ]),
        "The closed form (as printed, computed and found by search all agree where a row says yes):", "",
        *_table(("α", "L", "γ*", "S", "γ by search", "S by search", "agree?"), (
            (f"{row.alpha:g}", f"{row.cost:g}", str(row.gamma), f"{row.speedup:.2f}", str(row.found_gamma),
             f"{row.found_speedup:.2f}", "yes" if row.agrees else "NO") for row in form
        )),
    ]  # fmt: skip
    for report in reports:
        lines += _tk_slt_of(report)
    return "\n".join(lines).rstrip()


def _honest(at: int) -> Callable[[tk_slt.LengthRow | qs.QsRow], float]:
    """The speed with everything billed over the link number `at`."""
    return lambda row: row.honest[at]


def _best_k(report: TkSltReport, sampling: str) -> tuple[str, str, str, str]:
    billed, honest = report.best_k(sampling), report.best_honest_k(sampling)
    printed = f"{tk_slt.PRINTED_K} of {tk_slt.VOCAB:,} ({tk_slt.PRINTED_K / tk_slt.VOCAB:.1%})"
    ours = f"{billed.k:,} of {report.vocab_size:,} ({billed.k / report.vocab_size:.1%}); everything billed {honest.k:,}"
    why = (
        "a greedy draft has one token, so K changes nothing, and the smallest counts"
        if sampling == GREEDY
        else "it depends on how much of the draft's mass K tokens hold, and on what a whole row costs, which is "
        f"{report.vocab_size / tk_slt.VOCAB:.2g} × as long here"
    )
    return f"best K, {report.pair}, {sampling}", printed, ours, why


def _best_speedups(reports: Sequence[TkSltReport]) -> str:
    return "; ".join(
        f"{report.pair} {report.best_k(SAMPLED).billed_speedup:.2f}, "
        f"then {report.best_honest_k(SAMPLED).honest_speedup:.2f}"
        for report in reports
    )


def _tk_slt_of(report: TkSltReport) -> list[str]:
    rtts = [f"RTT {1e3 * rtt_s:.0f} ms" for rtt_s in tk_slt.RTTS_S]
    closed, rows = report.closed_gamma, report.by_length

    def marked(row: tk_slt.LengthRow, of: Callable[[tk_slt.LengthRow], float]) -> str:
        return f"**{of(row):.1f}**" if row.gamma == tk_slt.best_length(rows, of) else f"{of(row):.1f}"

    columns: list[Callable[[tk_slt.LengthRow], float]] = [
        lambda row: row.model, lambda row: row.billed, *map(_honest, range(len(rtts)))
    ]  # fmt: skip
    found = [tk_slt.best_length(rows, of) for of in columns]
    wrong = [row for row in report.switch if not row.right]
    return [
        f"**{report.pair}**: acceptance and speed-up by K, uplink {tk_slt.UPLINK_BPS / 1e6:.0f} Mbit/s. Billed: by the "
        f"paper, against the target alone. Honest: everything billed, RTT {1e3 * tk_slt.RTT_S:.0f} ms, against server "
        "streaming, at the better of γ* and the best length by everything billed.", "",
        *_table(("sampling", "K", "acceptance", "bits a draft, billed", "honest", "γ*", "speed-up, billed", "best γ",
                 "speed-up, honest"), (
            (row.sampling, f"{row.k:,}", f"{row.acceptance:.3f}", f"{row.billed_bits:,}", f"{row.honest_bits:,}",
             str(row.gamma), f"{row.billed_speedup:.2f}", str(row.best_gamma), f"{row.honest_speedup:.2f}")
            for row in report.by_k
        )),
        f"**{report.pair}**: tokens/s by draft length, K = {report.percent:,}; the best of each column in bold. The "
        f"closed form says γ* = {closed}; found: {found[0]} in the paper's model, {found[1]} by its bill along the "
        f"texts, {', '.join(map(str, found[2:]))} with everything billed at {', '.join(rtts)}.", "",
        *_table(("γ", "the paper's model", "its bill, along the texts", *(f"everything billed, {rtt}" for rtt in rtts)),
                ((str(row.gamma), *(marked(row, of) for of in columns)) for row in rows)),
        f"**{report.pair}**: the switch. It is right where drafting is faster than server streaming if it says so, and "
        f"only then: in {len(report.switch) - len(wrong)} of {len(report.switch)} places.", "",
        *_table(("RTT, ms", "uplink, Mbit/s", "γ*", "S(γ*)", "it says", "drafting, tokens/s", "server", "right?"), (
            (f"{row.rtt_ms:g}", f"{row.uplink_mbps:g}", str(row.gamma), f"{row.billed_speedup:.2f}",
             "draft" if row.speculates else "do not", f"{row.honest_tokens_per_s:.1f}",
             f"{row.server_tokens_per_s:.1f}", "yes" if row.right else "NO") for row in report.switch
        )),
        f"**{report.pair}**: rules that choose the length while a text is written, over an uplink of 2 or 6 Mbit/s, "
        f"RTT {1e3 * tk_slt.RTT_S:.0f} ms, everything billed.", "",
        *_table(("rule", "tokens/s"), ((row.rule, f"{row.tokens_per_s:.1f}") for row in report.online)),
    ]  # fmt: skip


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _dssd(reports: Sequence[DssdReport]) -> str:
    dense, *splits = (dssd.label(spec) for spec in (dssd.DENSE, *dssd.SPLITS))
    chance, share = dssd.printed_bounds()
    (least, most), (slow, fast) = dssd.PRINTED_ACCEPTANCE, dssd.PRINTED_BASELINE
    rows = []
    for rtt_ms, printed in dssd.PRINTED.items():
        for report in reports:
            at = (splits[0], rtt_ms, dssd.PRINTED_LENGTH)
            ours = (
                f"{report.pair}: {_range(report.least_and_most(*at, billed=True))} by the paper's bill, "
                f"{_range(report.least_and_most(*at, billed=False))} with everything billed"
            )
            rows.append((
                f"speed-up, {dssd.PRINTED_LENGTH} drafts, RTT {rtt_ms:g} ms", _range(printed), ours,
                f"other models (acceptance {least:g} to {most:g} there, {report.acceptance:.2f} here), and the "
                f"baseline there goes from {slow:g} to {fast:g} tokens/s between 20 and 50 ms; here it is the "
                "target alone, and then server streaming",
            ))  # fmt: skip
    rows += [
        (
            "speed-up before a larger target, OPT-13b",
            _range(dssd.LARGER),
            "no such pair here; the rows above are ours",
            "a slower target hides more of the draft and the link, and agrees less often with the same draft",
        ),
        (
            "speed-up before itself, on a CPU",
            _range(dssd.ITSELF),
            "1 at most",
            f"{dssd.PRINTED_LENGTH} drafts and a verification take as long as {dssd.PRINTED_LENGTH + 1} tokens without "
            "drafts, however often the two agree",
        ),
    ]
    lines = [
        *_compared([*rows, ("tokens a round", f"acceptance {least:g} to {most:g}",
                            f"at most {chance:.2f} or {share:.2f}",
                            "the first if the acceptance is the chance of a draft, the second if it is the share of "
                            "all drafts: no speed-up over the target alone can be larger")]),
    ]  # fmt: skip
    for report in reports:
        lines += [
            f"**{report.pair}**: tokens/s at the best of {', '.join(map(str, dssd.LENGTHS))} drafts, everything "
            "billed; in brackets that length, and the speed-up by the paper's bill against the target alone.", "",
            *_table(("RTT, ms", "Mbit/s", "server", dense, *splits), (
                (f"{rtt_ms:g}", f"{mbps:g}", *_dssd_cells(report, rtt_ms, mbps, (dense, *splits)))
                for rtt_ms in dssd.RTTS_MS for mbps in report.mbps
            )),
            f"**{report.pair}**: bits a token at {dssd.PRINTED_LENGTH} drafts, every header included, up / down: "
            + "; ".join(_dssd_bits(report, scheme) for scheme in (dense, *splits)) + ".", "",
        ]  # fmt: skip
    return "\n".join(lines).rstrip()


def _dssd_cells(report: DssdReport, rtt_ms: float, mbps: float, schemes: Sequence[str]) -> list[str]:
    here = [row for row in report.rows if (row.rtt_ms, row.mbps) == (rtt_ms, mbps)]
    cells = [f"{here[0].server_tokens_per_s:.1f}"]
    for scheme in schemes:
        best = max((row for row in here if row.scheme == scheme), key=lambda row: row.tokens_per_s)
        cells.append(f"{best.tokens_per_s:.1f} ({best.gamma}; {best.billed_speedup:.2f})")
    return cells


def _dssd_bits(report: DssdReport, scheme: str) -> str:
    row = next(row for row in report.rows if (row.scheme, row.gamma) == (scheme, dssd.PRINTED_LENGTH))
    return f"`{scheme}` {row.uplink_bits_per_token:,.0f} / {row.downlink_bits_per_token:,.0f}"


def _qs(reports: Sequence[QsReport]) -> str:
    bits = [f"ℓ = {resolution}: {qs.billed_bits(resolution, qs.OPT_VOCAB):,}" for resolution in RESOLUTIONS]
    best = [
        f"{report.pair} {max(row.tokens_per_s for row in report.policies) * COMPUTE.verify_s:.2f} by the paper's bill, "
        f"{report.best_honest(1).honest[1] / report.server[1]:.2f} with everything billed at RTT 20 ms"
        for report in reports
    ]
    lines = [
        *_compared([
            ("bits of a draft", "the formula, whose value at its own V is not known to us",
             f"{'; '.join(bits)} at the paper's V of {qs.OPT_VOCAB:,}",
             "the same formula; ours sends the drafted token as its index among those with weights"),
            ("speed-up over the target alone", UNKNOWN, "; ".join(best),
             "its public code keeps the 10 likeliest tokens and bills the lattice of all, divides all bits of a text "
             "by the rate of its last round, and bills no round trip and no downlink"),
        ]),
    ]  # fmt: skip
    for report in reports:
        lines += _qs_of(report)
    return "\n".join(lines).rstrip()


def _action(action: tuple[int, int]) -> str:
    return f"γ {action[0]}, ℓ {action[1]}"


def _qs_of(report: QsReport) -> list[str]:
    sampled = [row for row in report.rows if row.honest]
    sent = ", ".join(sorted({f"ℓ {row.resolution}: K = {row.honest_k:,}" for row in sampled}))
    rtts = [f"everything billed, RTT {rtt_ms:g} ms" for rtt_ms in qs.LINKS]
    plain = ", ".join(f"{speed:.1f}" for speed in report.server)
    stream = ", ".join(f"{speed:.1f}" for speed in report.stream)

    def marked(row: qs.QsRow, of: Callable[[qs.QsRow], float]) -> str:
        top = max(of(each) for each in sampled)
        return f"**{of(row):.1f}**" if of(row) == top else f"{of(row):.1f}"

    columns: list[Callable[[qs.QsRow], float]] = [
        lambda row: row.low, lambda row: row.high, lambda row: row.mixed, *map(_honest, range(len(rtts)))
    ]  # fmt: skip
    return [
        f"**{report.pair}**: the best that a policy can do by the paper's bill. One that sees the rate is what the "
        "paper's learner tends to.", "",
        *_table(("sampling", "at 2 Mbit/s", "at 6 Mbit/s", "tokens/s", "one for both", "tokens/s", "target alone"), (
            (row.sampling, _action(row.low), _action(row.high), f"{row.tokens_per_s:.1f}", _action(row.fixed),
             f"{row.fixed_tokens_per_s:.1f}", f"{1 / COMPUTE.verify_s:.1f}") for row in report.policies
        ), words=3),
        f"**{report.pair}**, {SAMPLED}: tokens/s by draft length and lattice; the best of each column in bold. The "
        f"real machines send {sent}. Server streaming writes {plain} there, a raced stream {stream}.", "",
        *_table(("γ", "ℓ", "acceptance", "bits a draft, billed", "2 Mbit/s", "6 Mbit/s", "both", *rtts), (
            (str(row.gamma), str(row.resolution), f"{row.acceptance:.3f}", f"{row.billed_bits:,}",
             *(marked(row, of) for of in columns)) for row in sampled
        )),
    ]  # fmt: skip


def _tslt(reports: Sequence[PayloadReport]) -> str:
    cuts = [
        f"{report.pair}: {row.tokens:,.0f} of {report.vocab_size:,} ({row.tokens / report.vocab_size:.1%}), {row.way}"
        for report in reports for row in report.rows if row.kind == payload.BY_MASS
    ]  # fmt: skip
    lines = _compared([
        ("tokens that hold most of the mass", "some 10 % of V", "; ".join(cuts),
         "how flat the draft's distribution is depends on models and text; ours are means over all drafts"),
        ("speed, cut by mass, against fixed K", UNKNOWN, _gains(reports, payload.BY_MASS),
         "a cut follows each distribution; but where much of the mass lies far out, a share of it takes more tokens "
         "than a small K, which loses little acceptance"),
        ("speed, several candidates, against one of the same K", UNKNOWN, _gains(reports, payload.SEVERAL),
         "here each is a row of the same forward, and one that is accepted brings the token behind it"),
    ])  # fmt: skip
    return "\n".join([*lines, *(line for report in reports for line in _payload(report))]).rstrip()


def _sqs(reports: Sequence[PayloadReport]) -> str:
    lines = _compared([
        ("speed, conformal K, against the best fixed K", UNKNOWN, _gains(reports, payload.CONFORMAL),
         "the best fixed K is known only afterwards, and differs from link to link; C-SQS keeps the same share on "
         "every link, here in no more than the usual K"),
        ("speed, the ladder, against its best fixed rung", "ours, not published",
         _gains(reports, payload.LADDER),
         "likewise; the ladder learns that an uplink is slow from a draft that took long, and otherwise takes the "
         "finest rung that costs next to no time, though a coarser one may be accepted as often"),
    ])  # fmt: skip
    return "\n".join([*lines, *(line for report in reports for line in _payload(report))]).rstrip()


def _gains(reports: Sequence[PayloadReport], kind: str) -> str:
    """The gain of a kind, for every pair and link."""
    return "; ".join(
        f"{report.pair} {', '.join(f'{report.gain(kind, at):.2f}' for at in range(len(payload.LINKS)))}"
        for report in reports
    )


def _payload(report: PayloadReport) -> list[str]:
    links = list(payload.LINKS)
    top = [max(row.speeds[at].tokens_per_s for row in report.rows) for at in range(len(links))]

    def cell(speed: payload.Reached, most: float) -> str:
        mark = "**" if speed.tokens_per_s == most else ""
        return f"{mark}{speed.tokens_per_s:.1f}{mark} ({speed.gamma}; {speed.uplink_bits_per_token:,.0f})"

    def number(value: float, form: str) -> str:
        return format(value, form) if value else "–"

    return [
        f"**{report.pair}**, {SAMPLED}: tokens/s with everything billed, RTT 20 ms, at the best of "
        f"{', '.join(map(str, payload.LENGTHS))} drafts; in brackets that length, and bits a token on the uplink. The "
        "best of each column in bold. Of a draft: the tokens of its distribution that are sent and its bits, in the "
        "mean; the chance that it is accepted; and that a further candidate is, if it is not.", "",
        *_table(("way", "tokens", "bits", "accepted", "further", *links), (
            (row.way, number(row.tokens, ",.1f"), number(row.bits, ",.0f"), number(row.acceptance, ".3f"),
             number(row.other, ".3f"), *map(cell, row.speeds, top)) for row in report.rows
        )),
    ]  # fmt: skip
