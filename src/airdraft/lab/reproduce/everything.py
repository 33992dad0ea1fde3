"""The experiments by name, and all that is found of them in one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from airdraft.core.messages import SchemeSpec
from airdraft.errors import BadParameterError
from airdraft.lab.reproduce import dssd, payload, qs, tk_slt
from airdraft.lab.reproduce.closed_form import table
from airdraft.lab.reproduce.pairs import RecordedPair


class Paper(Protocol):
    """A paper's experiment: a module, or an object."""

    def steps(self, pair: RecordedPair) -> int:
        """The number of times that `reproduce` calls `on_step`."""
        ...

    def reproduce(self, pair: RecordedPair, on_step: Callable[[], None] = ...) -> Any:
        """Run the experiment on a pair."""
        ...


PAPERS: dict[str, Paper] = {
    "tk-slt": tk_slt, "dssd": dssd, "qs": qs, "tslt": payload.TSLT, "sqs": payload.SQS,
}  # fmt: skip
"""An experiment for each name."""

Found = dict[str, list[Any]]
"""For each paper, what was found on each pair."""


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The papers that names stand for, each once. Raises: `BadParameterError`."""
    for name in names:
        if name not in (*PAPERS, "all"):
            raise BadParameterError(f"there is no experiment {name!r}; choose among {', '.join(PAPERS)}, or all")
    return tuple(PAPERS) if "all" in names else tuple(dict.fromkeys(names))


def needed(papers: Sequence[str], vocab_size: int) -> list[SchemeSpec]:
    """The options whose luck must be found for these papers."""
    experiments = [PAPERS[paper] for paper in papers]
    return [spec for each in experiments if isinstance(each, payload.Experiment) for spec in each.needed(vocab_size)]


def reproduce(
    papers: Sequence[str], pairs: Sequence[RecordedPair], on_step: Callable[[int, int], None] = lambda done, of: None
) -> Found:
    """Run the experiments of these papers on every pair. `on_step` gets what is done, and of how many."""
    total = sum(PAPERS[paper].steps(pair) for paper in papers for pair in pairs)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        on_step(done, total)

    return {paper: [PAPERS[paper].reproduce(pair, step) for pair in pairs] for paper in papers}


def record_of(found: Found, pairs: Sequence[RecordedPair]) -> dict[str, Any]:
    """The record that `--json` writes."""
    record: dict[str, Any] = {
        "simulated": True,
        "pairs": [
            {"name": pair.name, "vocab_size": pair.vocab_size, "texts": texts_of(pair)} for pair in pairs
        ],
    }  # fmt: skip
    if "tk-slt" in found:
        record["closed_form"] = msgspec.to_builtins(table())
        record["costs"] = msgspec.to_builtins(tk_slt.costs())
    return record | {paper.replace("-", "_"): msgspec.to_builtins(reports) for paper, reports in found.items()}


def texts_of(pair: RecordedPair) -> Mapping[str, dict[str, float]]:
    """What was recorded of a pair, by sampling."""
    return {
        sampling: {"texts": len(recording.texts), "tokens": recording.length,
                   "acceptance": pair.acceptance(pair.whole, sampling)}
        for sampling, recording in pair.recordings.items()
    }  # fmt: skip
