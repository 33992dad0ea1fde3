"""A law chooses at a place: under a grammar, after a believed token and on a tree of drafts a text keeps its law.

Schemes are driven here by hand, without machines. Thresholds are those of `test_exactness.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import chdtrc

from airdraft.core import schemes
from airdraft.core.choosing import choose
from airdraft.core.law import Guide, Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams, distribution, draw
from airdraft.core.schemes import DEVICE, EDGE, SCHEMES, Context, Drafted, Drafts, Ruling, Scheme
from airdraft.core.schemes.coupled import Coupled
from airdraft.core.schemes.rejection import Rejection
from airdraft.core.schemes.split import Split
from airdraft.core.schemes.topk import TopK
from airdraft.errors import BadParameterError, LocalProtocolError, ModelError

from ..suites import mostly_slow
from .tables import OFTEN, SPECS, STREAMS, alike, table

THRESHOLD, BROKEN = 1e-4, 1e-6
TRIALS = 600
DRAFT, TARGET = table(1), table(2)
PROMPT, DEPTH, VOCAB = (0, 1), 3, 5
EVERY = {**SPECS, "stream": STREAMS["always"]}
TEXT = [name for name, spec in EVERY.items() if schemes.traits(spec.name).exact == "text"]
SPREAD = [name for name in EVERY if name not in TEXT]


class EvenAfterOdd:
    """A grammar: after an odd token comes an even one."""

    bent, within, needed = Guide.bent, Guide.within, Guide.needed

    def __init__(self, odd: bool = False) -> None:
        self._odd = odd
        self.forced: int | None = None

    def allowed(self) -> Any:
        return np.arange(VOCAB) % 2 == 0 if self._odd else None

    def after(self, token: int) -> Guide:
        return EvenAfterOdd(token % 2 == 1)


class Stuck(EvenAfterOdd):
    """Broken: ignores tokens."""

    def after(self, token: int) -> Guide:
        return self


class Anything(EvenAfterOdd):
    """Broken: allows every token."""

    def allowed(self) -> Any:
        return None


def place(guide: type[EvenAfterOdd] | None = EvenAfterOdd) -> Place:
    """Where texts begin: the prompt ends with an odd token."""
    return Place(len(PROMPT), guide(True) if guide else None)


# ---- A law -----------------------------------------------------------------------------------------------------------

PARAMS = [
    SamplingParams(1.0), SamplingParams(0.0), SamplingParams(1.3, top_k=2), SamplingParams(1.0, top_k=4),
    SamplingParams(0.8, top_p=0.6), SamplingParams(1.0, min_p=0.3),
]  # fmt: skip


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_without_a_guide_the_law_is_the_sampling_of_a_row(params: SamplingParams) -> None:
    for seed in range(20):
        row, law = TARGET.row((0, seed)), Law(params, seed, VOCAB)
        assert law.choose(row, Place(7)) == choose(row, params, seed, 7)
        assert np.array_equal(law.probs(row, Place(7)), distribution(row, params))


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_a_guide_acts_before_the_parameters(params: SamplingParams) -> None:
    """The allowed tokens are chosen as if the vocabulary had no others."""
    for seed in range(20):
        row, law = TARGET.row((0, seed)), Law(params, seed, VOCAB)
        probs, few = law.probs(row, place()), distribution(row[::2], params)
        assert np.allclose(probs[::2], few)
        assert not probs[1::2].any()
        assert law.choose(row, place()) % 2 == 0


def test_choices_under_a_guide_follow_its_distribution() -> None:
    row = TARGET.row(PROMPT)
    seen = np.bincount([Law(SamplingParams(), seed, VOCAB).choose(row, place()) for seed in range(4000)], minlength=5)
    probs = Law(SamplingParams(), 0, VOCAB).probs(row, place())
    assert seen[probs == 0].sum() == 0
    wanted = 4000 * probs[probs > 0]
    assert chdtrc(2, float(((seen[probs > 0] - wanted) ** 2 / wanted).sum())) > THRESHOLD


def test_a_guide_that_leaves_nothing_is_an_error_of_one_line() -> None:
    row = np.array([-np.inf, 1.0, -np.inf, 0.0, -np.inf], np.float32)  # an engine that knows two tokens
    for ask in (Law(SamplingParams(), 1, VOCAB).choose, Law(SamplingParams(), 1, VOCAB).probs):
        with pytest.raises(ModelError, match="allows no token that the engine tells at position 2"):
            ask(row, place())


def test_going_back_is_forgetting() -> None:
    begin = place()
    assert begin.then(1) != begin
    assert begin.then(2).guide.allowed() is None  # type: ignore[union-attr]
    assert begin.then(1).guide.allowed() is not None  # type: ignore[union-attr]
    assert begin.guide.allowed() is not None  # type: ignore[union-attr]
    assert [place(None).then(4), place().position] == [Place(len(PROMPT) + 1), 2]


def test_coins_fall_samefor_a_side_a_use_and_a_position() -> None:
    law = Law(SamplingParams(), 3, VOCAB)
    tosses = {key: law.coins(*key).random() for key in [(DEVICE, Place(4), 0), (EDGE, Place(4), 0)]}
    tosses |= {key: law.coins(*key).random() for key in [(DEVICE, Place(5), 0), (DEVICE, Place(4), 1)]}
    assert len(set(tosses.values())) == 4
    assert all(law.coins(*key).random() == toss for key, toss in tosses.items())


# ---- Schemes at places -----------------------------------------------------------------------------------------------

Guesses = Callable[[tuple[int, ...]], Any]


def write(
    spec: SchemeSpec,
    seed: int,
    guess: Guesses = DRAFT.row,
    edge_guide: type[EvenAfterOdd] | None = EvenAfterOdd,
    cls: type[Scheme] | None = None,
) -> tuple[int, ...]:
    """Write the first `DEPTH` tokens of a text in rounds of two. The device uses the grammar, the edge `edge_guide`.

    `guess` gives the row or the believed token after a prefix; `cls` replaces the scheme on both sides.
    """
    law = Law(SamplingParams(), seed, VOCAB)
    cls = cls or SCHEMES[spec.name]
    device, edge = cls(Context(spec, law, DEVICE)), cls(Context(spec, law, EDGE))
    text, here, there = PROMPT, place(EvenAfterOdd if edge_guide else None), place(edge_guide)
    while len(text) < len(PROMPT) + DEPTH:
        said: list[Drafted] = []
        at = here
        for _ in range(2 if cls.traits.drafts else 0):
            said.append(device.draw(guess((*text, *(draft.token for draft in said))), at))
            at = at.then(said[-1].token)
        chain = Drafts(tuple(said))
        got = edge.decode(len(said), device.encode(chain))
        assert got.tokens == chain.tokens
        rows = np.array([TARGET.row((*text, *got.tokens[:n])) for n in range(len(got) + 1)])
        ruling = edge.verify(got, rows, there)
        assert ruling.path == tuple(range(ruling.accepted))
        tokens = list(got.tokens[: ruling.accepted])
        if ruling.token is not None:
            tokens.append(ruling.token)
        for token in tokens:
            here, there = here.then(token), there.then(token)
        if ruling.token is None:
            extra = ruling.extra
            while (token := device.recover(said[ruling.accepted], extra, here)) is None:  # type: ignore[assignment]
                extra = edge.more()
            tokens.append(token)
            here, there = here.then(token), there.then(token)
        text = (*text, *tokens)
    return text[len(PROMPT) :][:DEPTH]


def alone(seed: int, at: Place) -> tuple[int, ...]:
    """Write the target's text, without any draft."""
    law, text = Law(SamplingParams(), seed, VOCAB), PROMPT
    for _ in range(DEPTH):
        text, at = (*text, law.choose(TARGET.row(text), at)), at.then(law.choose(TARGET.row(text), at))
    return text[len(PROMPT) :]


def texts(prefix: tuple[int, ...], at: Place, depth: int = DEPTH) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield every text of `depth` tokens with its probability."""
    if not depth:
        yield (), 1.0
        return
    probs = Law(SamplingParams(), 0, VOCAB).probs(TARGET.row(prefix), at)
    for token in np.flatnonzero(probs).tolist():
        for rest, chance in texts((*prefix, token), at.then(token), depth - 1):
            yield (token, *rest), float(probs[token]) * chance


def p_value(written: list[tuple[int, ...]], at: Place) -> float:
    """Test by Pearson's χ² that these texts are the target's, with rare ones together; 0 if one is impossible."""
    expected, seen = dict(texts(PROMPT, at)), Counter(written)
    if any(text not in expected for text in seen):
        return 0.0
    common = [text for text, chance in expected.items() if chance * len(written) >= 5]
    wanted = np.array([expected[text] * len(written) for text in common])
    found = np.array([seen[text] for text in common])
    wanted, found = np.append(wanted, len(written) - wanted.sum()), np.append(found, len(written) - found.sum())
    return float(chdtrc(len(wanted) - 1, float(((found - wanted) ** 2 / wanted).sum())))


@pytest.mark.parametrize("name", TEXT)
def test_guided_texts_equal_the_targets_own(name: str) -> None:
    drafts = (DRAFT.row, alike(TARGET, 9).row)
    truth = [alone(seed, place()) for seed in range(150)]
    assert truth != [alone(seed, place(None)) for seed in range(150)]
    for guess in drafts:
        assert [write(EVERY[name], seed, guess) for seed in range(150)] == truth
    for broken in (Stuck, Anything):
        assert [write(EVERY[name], seed, edge_guide=broken) for seed in range(150)] != truth


@pytest.mark.parametrize("name", mostly_slow(SPREAD, OFTEN))
@pytest.mark.parametrize(
    ("edge_guide", "right"),
    [(EvenAfterOdd, True), *(pytest.param(guide, False, marks=pytest.mark.slow) for guide in (Stuck, Anything))],
)
def test_guided_texts_are_distributed_as_the_targets(name: str, edge_guide: type[EvenAfterOdd], right: bool) -> None:
    found = p_value([write(EVERY[name], seed, edge_guide=edge_guide) for seed in range(TRIALS)], place())
    assert found > THRESHOLD if right else found < BROKEN, found


# ---- A believed token ------------------------------------------------------------------------------------------------


def believed(prefix: tuple[int, ...]) -> int:
    """Believe the draft's likeliest token."""
    return int(np.argmax(alike(TARGET, 9).row(prefix)))


class Trusting:
    """Broken: accepts every believed token."""

    def accepts(self: Any, target_probs: Any, draft: Drafted) -> bool:
        return True


class AsIfDrawn:
    """Broken: judges a believed token as if it had been drawn with half that probability."""

    def accepts(self: Any, target_probs: Any, draft: Drafted) -> bool:
        return bool(self._rng.random() * draft.prob() / 2 < target_probs[draft.token])


class NoResidual:
    """Broken: replaces a rejected token by a draw from the whole target."""

    def replace(self: Any, path: tuple[int, ...], target_probs: Any, draft: Drafted) -> Ruling:
        return Ruling(path, draw(target_probs, self._rng))


@pytest.mark.parametrize("name", mostly_slow(SPREAD, often=("topk-3x8",)))
def test_believed_tokens_change_no_law(name: str) -> None:
    found = p_value([write(EVERY[name], seed, believed, None) for seed in range(TRIALS)], place(None))
    assert found > THRESHOLD, found


@pytest.mark.parametrize("name", TEXT)
def test_believed_tokens_change_no_text(name: str) -> None:
    for seed in range(100):
        assert write(EVERY[name], seed, believed) == alone(seed, place())


@pytest.mark.parametrize(
    ("mutation", "scheme"),
    [
        (Trusting, TopK),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((Trusting, Split), (AsIfDrawn, TopK), (AsIfDrawn, Split), (NoResidual, TopK))
        ),
    ],
)
def test_a_scheme_that_judges_believed_tokens_otherwise_is_caught(mutation: type, scheme: type[Rejection]) -> None:
    name = {TopK: "topk-3x8", Split: "split-row-16"}[scheme]  # type: ignore[type-abstract]
    cls = type("Broken", (mutation, scheme), {})
    found = p_value([write(EVERY[name], seed, believed, None, cls) for seed in range(TRIALS)], place(None))
    assert found < BROKEN, found


@pytest.mark.parametrize("name", [name for name, spec in EVERY.items() if name != "server" and spec.mass == 1])
def test_a_believed_token_costs_as_little_as_its_scheme_says(name: str) -> None:
    spec, vocab = EVERY[name], 1000
    device = schemes.make(spec, Law(SamplingParams(), 1, vocab), DEVICE)
    drafted = device.draw(7, Place(4))
    assert drafted.token == 7
    assert (8 * len(device.encode(Drafts((drafted,)))) <= 10 + 24) == device.traits.takes_ids


@pytest.mark.parametrize("name", [name for name, spec in EVERY.items() if spec.mass < 1])
def test_a_cut_leaves_one_token_of_a_believed_one(name: str) -> None:
    device = schemes.make(EVERY[name], Law(SamplingParams(), 1, 1000), DEVICE)
    assert device.draw(7, Place(4)).row()[0].tolist() == [7]


# ---- Trees -----------------------------------------------------------------------------------------------------------

LEFT, RIGHT = (0, 2, 4), (1, 3, 5)
"""Two branches of three drafts, one draft of each after another."""
PARENTS = (-1, -1, 0, 1, 2, 3)


def ruled(cls: type[Coupled], seed: int, parents: tuple[int, ...] | None, tokens: tuple[int, ...]) -> tuple[Any, ...]:
    """Rule on drafts with these `parents`. Returns the nodes of the path, and the committed tokens."""
    scheme = cls(Context(SPECS["coupled"], Law(SamplingParams(), seed, VOCAB), EDGE))
    prefixes = [PROMPT]
    for node, token in enumerate(tokens):
        prefixes.append((*prefixes[(node - 1 if parents is None else parents[node]) + 1], token))
    rows = np.array([TARGET.row(prefix) for prefix in prefixes])
    ruling = scheme.verify(Drafts(Drafts.of_tokens(tokens).said, parents), rows, place())
    return ruling.path, (*(tokens[node] for node in ruling.path), ruling.token)


class Flat(Coupled):
    """Broken: takes a tree for a chain."""

    def verify(self, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        return super().verify(replace(drafts, parents=None), rows, at)


class FirstBranch(Coupled):
    """Broken: knows only the first draft after each."""

    def verify(self, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        parents = drafts.parents or ()
        first = [parents.index(parent) == node for node, parent in enumerate(parents)]
        said = (draft if is_first else Drafted(-1) for draft, is_first in zip(drafts.said, first, strict=True))
        return super().verify(Drafts(tuple(said), parents), rows, at)


@pytest.mark.parametrize(("cls", "right"), [(Coupled, True), (Flat, False), (FirstBranch, False)])
def test_a_tree_is_ruled_as_the_chain_of_its_right_branch(cls: type[Coupled], right: bool) -> None:
    rng, same, lengths = np.random.default_rng(5), True, Counter[int]()
    for seed in range(300):
        truth = alone(seed, place())
        tokens = rng.integers(0, VOCAB, 6)
        tokens[list((LEFT, RIGHT)[seed % 2][: seed % 4])] = truth[: seed % 4]  # some of a branch is right
        if tokens[0] == tokens[1]:
            continue
        drafts = tuple(tokens.tolist())
        chains = {nodes: ruled(Coupled, seed, None, tuple(drafts[node] for node in nodes)) for nodes in (LEFT, RIGHT)}
        nodes, (path, committed) = max(chains.items(), key=lambda item: len(item[1][0]))
        lengths[len(path)] += 1
        same &= ruled(cls, seed, PARENTS, drafts) == (tuple(nodes[at] for at in path), committed)
    assert same == right
    assert min(lengths[length] for length in range(4)) > 20


@pytest.mark.parametrize("name", mostly_slow([name for name in SPREAD if EVERY[name].candidates == 1], OFTEN))
def test_other_schemes_verify_chains_only(name: str) -> None:
    law = Law(SamplingParams(), 1, VOCAB)
    device, edge = (schemes.make(EVERY[name], law, side) for side in (DEVICE, EDGE))
    tree = Drafts(tuple(device.draw(DRAFT.row(PROMPT), place()) for _ in range(2)), (-1, -1))
    with pytest.raises(LocalProtocolError, match="chains only"):
        edge.verify(tree, np.zeros((3, VOCAB)), place())


@pytest.mark.parametrize("parents", [(-1,), (-1, 1), (-2, 0), (0, -1), (-1, 0, 1)])
def test_parents_stand_before_their_children(parents: tuple[int, ...]) -> None:
    with pytest.raises(LocalProtocolError, match="parents"):
        Drafts(Drafts.of_tokens([3, 4]).said, parents)


# ---- What a scheme declares ------------------------------------------------------------------------------------------


def test_schemes_are_found_by_what_they_declare() -> None:
    assert schemes.named() == ("server", "dense", "topk", "lattice", "split", "coupled", "stream")
    assert schemes.named(rounds=True) == ("dense", "topk", "lattice", "split", "coupled")
    assert schemes.named(exact="text") == ("server", "coupled", "stream")
    assert schemes.named(exact="distribution", recovers_on=EDGE) == ("dense", "topk", "lattice")
    assert schemes.named(recovers_on=DEVICE) == ("split",)
    assert schemes.named(published=True) == ("dense", "topk", "lattice", "split")
    assert schemes.named(drafts=False) == (schemes.SERVER,)
    assert schemes.named(races=True) == (schemes.STREAM,)
    with pytest.raises(BadParameterError, match="scheme 'morse' is unknown; choose one of server, dense"):
        schemes.traits("morse")


WRONG = {
    "k": 0, "bits": 25, "downlink": "nope", "race": "nope", "resolution": 0, "verify": "nope", "mass": 0.0,
    "cut": "nope", "candidates": 9,
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_a_scheme_checks_its_own_options_and_make_those_of_all(field: str) -> None:
    """A policy may change to any scheme later, so a text is refused at once."""
    spec = SchemeSpec("coupled", **{field: WRONG[field]})  # type: ignore[arg-type]
    for scheme in SCHEMES.values():
        if field in scheme.traits.options:
            with pytest.raises(BadParameterError, match=f"{field} is"):
                scheme.check(spec)
        else:
            scheme.check(spec)
    with pytest.raises(BadParameterError, match=f"{field} is"):
        schemes.make(spec, Law(SamplingParams(), 1, VOCAB), DEVICE)
