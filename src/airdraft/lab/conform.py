"""Are the texts of a scheme distributed as the target's own? The conformance test for every scheme, plug-ins too.

A plug-in is a class with the members of `core.schemes.base.Scheme`, found by the entry point group `airdraft.schemes`;
the entry point's name is the scheme's. Four rules that are known to be wrong show what a failure looks like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from airdraft.core import schemes
from airdraft.core.law import Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray
from airdraft.core.sampling import SamplingParams, draw
from airdraft.core.schemes import Drafted, Guess, Ruling, Traits
from airdraft.errors import AirdraftError, BadParameterError
from airdraft.lab import cutting
from airdraft.lab.record import prompts
from airdraft.models.base import Part, TargetEngine
from airdraft.models.registry import REMOTE, load, load_target
from airdraft.sim.conformance import TableModel, conformance, remembered
from airdraft.sim.pair import Pair

GROUP = "airdraft.schemes"
"""The entry point group of plug-ins."""
BAR = 1e-6
"""A smaller p-value is no chance: the scheme is not exact."""
DEPTH, DRAFT_LENGTH = 4, 3
VOCAB = 5
TOP_K = 4
"""Tokens that real models may choose from, so that no text is too rare to be counted."""


class Inverted:
    """Accept with min(1, draft/target), upside down, as DSSD's published code does (`verify_DSSD`)."""

    def accepts(self: Any, target_probs: FloatArray, draft: Drafted) -> bool:
        """See `Rejection.accepts`."""
        return bool(self._rng.random() * target_probs[draft.token] < draft.prob())


class RawSample:
    """Sample before quantising: draw from the distribution as it was, and send the rounded one."""

    def draw(self: Any, guess: Guess, at: Place) -> Drafted:
        """See `Scheme.draw`. Tokens rounded to nothing stay out: the edge would refuse them at once."""
        probs = self._law.probs(guess, at)
        ids, weights = self.quantise(probs, at)
        token = int(ids[draw(probs[ids] * (weights > 0), self._coins(at))])
        return Drafted(token, ids, weights, float(weights.sum()))


class NoResidual:
    """Replace a rejected token by a draw from the target, and not from max(0, target - draft)."""

    def replace(self: Any, path: tuple[int, ...], target_probs: FloatArray, draft: Drafted) -> Ruling:
        """See `Rejection.replace`."""
        return Ruling(path, draw(target_probs, self._rng))


TREES = " on trees"
"""The end of the choices that are tested where models run trees: a further candidate has a row of its own there, and
a stream has branches."""
CHOICES: dict[str, dict[str, Any]] = {
    **{verify: {"verify": verify} for verify in schemes.VERIFY},
    **{downlink: {"downlink": downlink} for downlink in schemes.DOWNLINKS},
    **{race: {"race": race} for race in schemes.RACES},
    "mass": {"mass": 0.7, "cut": "mass"},
    "conformal": {"mass": cutting.MASS, "cut": "conformal", "k": cutting.WIDE},
    "several": {"candidates": 3},
    f"several{TREES}": {"candidates": 3},
    f"always{TREES}": {"race": "always"},
}
"""What to test of a scheme that has these options, by a word for each."""

EXAMPLES: dict[str, tuple[type, SchemeSpec]] = {
    "inverted": (Inverted, SchemeSpec(schemes.SPLIT)),
    "raw-sample": (RawSample, SchemeSpec(schemes.LATTICE, k=VOCAB, resolution=3)),
    "no-residual": (NoResidual, SchemeSpec(schemes.DENSE)),
    "dead-drafts": (
        cutting.DeadDrafts, SchemeSpec(schemes.LATTICE, k=cutting.WIDE, mass=cutting.MASS, cut="conformal")
    ),
}  # fmt: skip
"""Rules that are not exact, each with a scheme that it spoils."""


@dataclass(frozen=True)
class Tested:
    """The outcome for one scheme with one set of options."""

    scheme: str
    """With its options, where there are several to test."""
    texts: int
    statistic: float
    freedom: int
    p_value: float
    fault: str = ""
    """Why no text could be written, if so."""

    @property
    def exact(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.fault and self.p_value >= BAR

    @property
    def is_wrong(self) -> bool:
        """Whether its texts were written, and are not the target's."""
        return not self.fault and self.p_value < BAR


def plug_in() -> list[str]:
    """Add the plug-ins to the schemes. Returns their names.

    Raises: `BadParameterError` for one that cannot be imported, is no scheme, or has the name of another.
    """
    found = []
    for point in entry_points(group=GROUP):
        try:
            scheme = point.load()
        except Exception as error:  # a stranger's module may raise anything
            raise BadParameterError(
                f"the scheme {point.name} of {point.value} cannot be imported ({error!r}); mend or uninstall it"
            ) from error
        if not isinstance(getattr(scheme, "traits", None), Traits):
            raise BadParameterError(
                f"{point.value} is no scheme: it has no `traits`; see CONTRIBUTING.md, Add a scheme"
            )
        if schemes.SCHEMES.setdefault(point.name, scheme) is not scheme:
            raise BadParameterError(f"{point.value} is called {point.name}, as another scheme is; give it another name")
        found.append(point.name)
    return found


def on_trees(label: str) -> bool:
    """Whether a choice is tested where models run trees."""
    return label.endswith(TREES)


def variants(name: str) -> Iterator[tuple[str, SchemeSpec]]:
    """Yield a scheme with all choices that its options leave, and with numbers that make rounding coarse."""
    traits = schemes.traits(name)
    spec = SchemeSpec(name, k=3, bits=5, resolution=12)
    several = {label: values for label, values in CHOICES.items() if set(values) <= set(traits.options)}
    if not several:
        yield name, spec
    for label, values in several.items():
        yield f"{name}/{label}", structs.replace(spec, **values)


def tables(seed: int, spec: SchemeSpec) -> tuple[TableModel, TableModel, tuple[int, ...], SamplingParams]:
    """A draft and a target that are tables, so that every probability is known; a prompt, and parameters.

    They are random, or such as move a conformal cut.
    """
    if spec.cut == "conformal":
        return *cutting.tables(seed), (0,), SamplingParams()

    def model(which: int) -> TableModel:
        def row(prefix: tuple[int, ...]) -> NDArray[np.float32]:
            return np.random.default_rng([seed, which, *prefix]).normal(0.0, 1.2, VOCAB).astype(np.float32)

        return TableModel(row, VOCAB)

    return model(1), model(2), (0,), SamplingParams()


def models(
    draft: str, target: str, engine: str, urls: Sequence[str] = ()
) -> tuple[TableModel, TableModel, tuple[int, ...], SamplingParams]:
    """The same of real models: the target on `engine`, each row computed once. Raises: `ModelError`.

    urls: of an engine that runs elsewhere, see `load_target`.
    """
    if engine in REMOTE or urls:
        served, tokenizer = load_target(target, engine=engine, urls=urls)
        rows = TableModel(partial(_asked, served), served.info.vocab_size, served.info.max_context)
    else:
        here, tokenizer = load(target, engine=engine)
        rows = remembered(here)
    draft_model, _ = load(draft)
    width = tokenizer.vocab_size
    if draft_model.vocab_size < width:
        raise BadParameterError(
            f"{draft} scores {draft_model.vocab_size} tokens of {width}; name a pair that shares one"
        )

    def cut(rows: TableModel) -> TableModel:  # without padding
        return TableModel(lambda prefix: rows.row(prefix)[:width], width, rows.max_context)

    prompt = tuple(tokenizer.encode("The")) or tuple(prompts(1)[0][:1])
    return cut(remembered(draft_model)), cut(rows), prompt, SamplingParams(1.0, top_k=TOP_K)


def _asked(engine: TargetEngine, prefix: tuple[int, ...]) -> NDArray[np.float32]:
    """The row after a prefix. Raises: what the engine answers instead."""
    [rows] = engine.verify([Part(engine.new_cache(), 0, prefix, 1)])
    if isinstance(rows, AirdraftError):
        raise rows
    return np.asarray(rows[0], np.float32)


def caveat(engine: str | None) -> str:
    """What a test on this engine leaves open; empty: nothing."""
    if engine not in REMOTE:
        return ""
    return (
        f"each row of {engine} was asked once. The scheme is exact for such rows; whether {engine} gives the same ones "
        "in calls of other texts and lengths is not tested, and it does not promise it"
    )


def tested(
    given: tuple[TableModel, TableModel, tuple[int, ...], SamplingParams],
    label: str,
    spec: SchemeSpec,
    texts: int,
    seed: int,
) -> Tested:
    """Write `texts` texts under a scheme, and compare."""
    draft, target, prompt, params = given
    pair = partial(Pair, trees=on_trees(label))
    try:
        found = conformance(
            draft,
            target,
            spec,
            params,
            prompt=prompt,
            depth=DEPTH,
            draft_length=DRAFT_LENGTH,
            trials=texts,
            seed=seed,
            pair=pair,
        )
    except AirdraftError as error:  # its own edge refuses what its device sends
        return Tested(label, 0, float("nan"), 0, 0.0, str(error))
    return Tested(label, texts, found.statistic, found.freedom, found.p_value)


def example(name: str) -> tuple[str, SchemeSpec]:
    """Add a scheme with a broken rule, by the rule's name. Raises: `BadParameterError` for an unknown one."""
    if name not in EXAMPLES:
        raise BadParameterError(f"there is no example {name!r}; choose one of {', '.join(EXAMPLES)}")
    rule, spec = EXAMPLES[name]
    schemes.SCHEMES[name] = type("Broken", (rule, schemes.SCHEMES[spec.name]), {})
    return f"{spec.name}, {name}", structs.replace(spec, name=name)
