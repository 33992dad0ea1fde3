"""What the measurement of models in few bits says: a table, bars, what papers found and is found here, and points."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.policy import Facts
from airdraft.lab.compress import (
    CHAT_DRAFT,
    CHAT_TARGET,
    DRAFT,
    MODELS,
    OUTLIERS,
    PARAMS,
    PLANTED,
    QUICK,
    RAISED,
    TARGET,
    WHOLE,
    CompressRow,
)
from airdraft.lab.points import SmallDraft, frontier, point, worth_most
from airdraft.models.profile import Profile, profile

KEPT, SIZE, TIME = 0.97, 0.35, 0.9
"""Bars of 4 bits by the best method: acceptance at least, bytes and time at most, as shares of single precision's."""
SELF = {DRAFT: TARGET, CHAT_DRAFT: CHAT_TARGET}
"""Drafts, and the target of each, which in few bits is a draft of its own."""
SPLIT = (
    ("qllm", "tensor", "with one step for all"),
    ("mergequant", "outliertune", "with a step for each"),
)
"""Ways with split channels, each beside one without, and what steps both have; MergeQuant clips as well."""
SELF_DRAFT = "rtn"
"""The method of the target's row that stands for a draft of its own: QuantSpec's codes are the nearest."""
PAPERS = (
    ("OutlierTune", "outliertune", "W8A8", "1.48 × as fast as half precision, half its bytes",
     "its kernel for GPUs is not published; ONNX Runtime multiplies integers here, on a CPU, beside single precision"),
    ("OutlierTune", "outliertune", "W6A6", "6 bits as good as half precision, OPT-IML",
     "models of billions have more to spare; codes of 6 bits run in bytes"),
    ("MergeQuant", "mergequant", "W4A4", "1.77 × as fast as half precision in decoding, 2.06 × in all, Llama-2-7B",
     "its kernel for GPUs is not published, and its equations are reconstructed; codes of 4 bits run in bytes"),
    ("QuantSpec", SELF_DRAFT, "W4", "more than 90 % of drafts accepted",
     "it accepts by rejection, which is 1 - TV, and has its cache in 4 bits as well; its models are larger"),
)  # fmt: skip
"""Of each row its paper, the method and bits that stand for it here, what the paper reports, and why that differs."""
AS_FAST = 1.02
"""Of two times of which one is at most so many times the other, neither is called slower."""
INT6 = 0.01
"""Of full precision's perplexity: by how much 6 bits may exceed it, as in OutlierTune's paper."""
PROFILE = "phone-8b"
LINKS = {
    "20 ms, 20 Mbit/s up": Facts(1.0, 1.0, 0.02, 20e6, 100e6, 0.5),
    "100 ms, 1 Mbit/s up": Facts(1.0, 1.0, 0.1, 1e6, 20e6, 0.5),
}  # fmt: skip
"""Links that points are placed on; the models' facts in them are replaced."""


def _row(rows: Sequence[CompressRow], model: str, method: str, bits: str) -> CompressRow | None:
    return next((row for row in rows if (row.model, row.method, row.bits) == (model, method, bits)), None)


def _models(rows: Sequence[CompressRow]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def best(rows: Sequence[CompressRow], model: str, bits: str) -> CompressRow:
    """The row of a model with so many bits in its layers that is accepted most."""
    return max((row for row in rows if row.bits == bits and row.model == model), key=lambda row: row.coupled)


def shares(rows: Sequence[CompressRow], model: str) -> tuple[float, float, float]:
    """Acceptance, bytes and time of a draft's best row with 4 bits, as shares of single precision's."""
    whole, small = next(row for row in rows if (row.model, row.method) == (model, WHOLE)), best(rows, model, "W4")
    return small.coupled / whole.coupled, small.mb / whole.mb, small.time


def _kept(found: tuple[float, float, float]) -> bool:
    accepted, size, taken = found
    return accepted >= KEPT and size <= SIZE and taken <= TIME


def _drafts(rows: Sequence[CompressRow]) -> list[str]:
    return [model for model in _models(rows) if model in SELF]


def held(rows: Sequence[CompressRow]) -> bool:
    """Whether every draft keeps the bars."""
    return all(_kept(shares(rows, model)) for model in _drafts(rows))


def table(rows: Sequence[CompressRow]) -> str:
    """The rows as Markdown, and whether each draft keeps the bars."""
    lines = [
        "| model | bits | method | scores of tokens | perplexity | 1 - TV | coupled acceptance | time | MB |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.model} | {row.bits} | {row.method} | {row.head} | {row.perplexity:.3f} | {row.one_minus_tv:.3f} "
        f"| {row.coupled:.3f} | {row.time:.2f} | {row.mb:.2f} |"
        for row in rows
    ]
    run = {name: any(row.model in models for row in rows) for name, models in MODELS.items()}
    said = sorted((f"the {name} pair" if run[name] else f"not the {name} pair" for name in run), reverse=True)
    lines += [
        "", f"Measured: {', '.join(said)}. Temperature {PARAMS.temperature:g}, beside the pair's target along its own "
        f"texts; outliers: {OUTLIERS} channels of every norm, raised {RAISED:g} times. Times are shares of the whole "
        f"model's, whose method is `{WHOLE}`, on one thread and in turns: of each model what {1 - QUICK:.0%} of its "
        "turns exceed, so that they hold beside other work.",
    ]  # fmt: skip
    for model in _drafts(rows):
        found = accepted, size, taken = shares(rows, model)
        lines.append(
            f"The best of {model}'s rows with W4 is accepted {accepted:.3f} times as often as single precision, has "
            f"{size:.2f} of its bytes, and takes {taken:.2f} of its time. Bars: at least {KEPT:g}, at most {SIZE:g} "
            f"and {TIME:g}: {'kept' if _kept(found) else 'MISSED'}."
        )
    return "\n".join(lines)


def orderings(rows: Sequence[CompressRow]) -> str:
    """What the papers found, and whether it is so here, model by model, as Markdown."""
    lines = ["| found by the papers | model | here | |", "|---|---|---|---|"]

    def say(claim: str, model: str, found: str, so: bool) -> None:
        lines.append(f"| {claim} | {model} | {found} | {'so' if so else 'NOT so'} |")

    for model in _models(rows):
        for bits in ("W8A8", "W6A6", "W4A4"):
            channel, whole = (_row(rows, model, method, bits) for method in ("outliertune", "tensor"))
            if channel and whole:
                say(f"{bits}: a fixed step for each channel agrees as often as one for all", model,
                    f"1 - TV {channel.one_minus_tv:.3f} and {whole.one_minus_tv:.3f}",
                    channel.one_minus_tv >= whole.one_minus_tv)  # fmt: skip
        for method, without, steps in SPLIT:
            split, plain = (_row(rows, model, each, "W4A4") for each in (method, without))
            if split and plain:
                say(f"W4A4: splitting channels helps, {steps}", model,
                    f"1 - TV {split.one_minus_tv:.3f} by {method}, {plain.one_minus_tv:.3f} by {without}",
                    split.one_minus_tv > plain.one_minus_tv)  # fmt: skip
        fixed, each = (_row(rows, model, method, "W8A8") for method in ("outliertune", "token"))
        if fixed and each:
            say("W8A8: fixed steps are as fast as one for each token", model,
                f"{fixed.time:.2f} and {each.time:.2f} of the whole one's time",
                fixed.time <= AS_FAST * each.time)  # fmt: skip
    for draft, target in SELF.items():
        if target in _models(rows) and draft in _models(rows):
            own, small = best(rows, target, "W4"), _row(rows, draft, WHOLE, "fp32")
            if small:
                say("the target in 4 bits agrees with itself more than a small draft does", target,
                    f"coupled acceptance {own.coupled:.3f}, and {small.coupled:.3f} of {draft} in single precision",
                    own.coupled > small.coupled)  # fmt: skip
    six, eight, full = (_row(rows, *what) for what in (
        (PLANTED, "outliertune", "W6A6"), (PLANTED, "tensor", "W8A8"), (DRAFT, WHOLE, "fp32"),
    ))  # fmt: skip
    if six and eight and full:
        near = [each.perplexity / full.perplexity - 1 for each in (six, eight)]
        say(f"6 bits by channel are within {INT6:.0%} of full precision's perplexity, where 8 bits by tensor are not",
            PLANTED, f"{near[0]:+.1%} and {near[1]:+.1%}", near[0] <= INT6 < near[1])  # fmt: skip
    return "\n".join(lines)


def papers(rows: Sequence[CompressRow]) -> str:
    """What the papers report, beside what the draft with outliers gives, and why the two differ, as Markdown."""
    lines = ["| of | they report | here | why it differs |", "|---|---|---|---|"]
    every = {(row.model, row.method, row.bits): row for row in rows}
    full = every.get((PLANTED, WHOLE, "fp32"))  # whose graph was written as those in codes were
    for source, method, bits, theirs, reason in PAPERS:
        row = every.get((TARGET if method == SELF_DRAFT else PLANTED, method, bits))
        if row is None or full is None:
            continue
        if method == SELF_DRAFT:
            ours = f"coupled acceptance {row.coupled:.3f}, 1 - TV {row.one_minus_tv:.3f}"
        else:
            ours = (
                f"{bits}: {1 / row.time:.2f} × as fast as single precision, {row.mb / full.mb:.2f} of its bytes, "
                f"perplexity {row.perplexity / full.perplexity - 1:+.1%}"
            )
        lines.append(f"| {source} | {theirs} | {ours} | {reason} |")
    return "\n".join(lines)


def points(rows: Sequence[CompressRow], model: str, link: Facts, on: Profile, vocab: int) -> list[SmallDraft]:
    """The rows of a draft on a device, and those of its target in few bits, each with its name."""
    half_mb = next(row.mb for row in rows if (row.model, row.method) == (model, WHOLE)) / 2
    every = [("", row) for row in rows if row.model == model]
    every += [("the target itself, ", row) for row in rows if row.model == SELF[model] and row.method != WHOLE]
    return [
        point(f"{what}{row.method} {row.bits}, scores {row.head}", row.mb, half_mb, row.coupled, on, link, vocab)
        for what, row in every
    ]


def worth(rows: Sequence[CompressRow], vocabs: dict[str, int]) -> str:
    """The Pareto set of each draft on each link, and the point worth most, as Markdown. vocabs: tokens, by draft."""
    lines = [
        f"| draft | link | on the Pareto set, `{PROFILE}` | MB | coupled acceptance | ms a token | tokens/s | |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for model in _drafts(rows):
        for name, link in LINKS.items():
            every = points(rows, model, link, profile(PROFILE), vocabs[model])
            chosen = worth_most(every)
            lines += [
                f"| {model} | {name} | {each.name} | {each.mb:.2f} | {each.acceptance:.3f} | {each.draft_ms:.1f} "
                f"| {each.tokens_per_s:.1f} | {'chosen' if each is chosen else ''} |"
                for each in frontier(every)
            ]
    return "\n".join(lines)
