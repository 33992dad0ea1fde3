"""A tree of drafts beyond the committed text, which grows where the draft model thinks the text may go.

Each step runs the draft model behind the likeliest drafts where it has not been run, and adds what may follow each. The
chance of a draft is the product of the chances along its branch. A commit moves the root, and drops other branches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from airdraft.core.drafting import Ask, Drafter, Grower
from airdraft.core.law import Place
from airdraft.core.messages import MOST_BACK, Tokens
from airdraft.core.policy import Facts
from airdraft.core.schemes import Guess, Scheme
from airdraft.core.text import Over, Prefix, agreeing
from airdraft.errors import Code, RemoteProtocolError

CHILDREN = 8
"""Most drafts behind one."""
KEEPS, GROWS, SENDS = math.log(0.001), math.log(0.01), math.log(0.03)
"""Logs of the least chances at which a draft is kept, has the draft model run behind it, and is sent. The likeliest
draft behind the text is sent in any case."""
BRANCHES, MOST_BRANCHES = 4, 16
"""Drafts behind which a step runs the draft model, if that is cheap, and at most."""


def shape(facts: Facts, branches: int | None, wide: bool, alone: bool) -> tuple[int, int]:
    """Return the number of drafts behind which a step runs the draft model, and the most drafts kept behind one.

    A device that takes long for several at once drafts branches one by one, and a slow one had better draft a chain.

    Args:
        branches: as in `Request`.
        wide: whether the draft model can run behind several drafts at once.
        alone: whether all drafts are the model's. Copies are not to be tried behind every branch.
    """
    if branches is not None:
        return (min(branches, MOST_BRANCHES) if wide else 1), CHILDREN
    costly = 1.5 if facts.draft_s <= facts.verify_s / 6 else 1.3
    if wide and (facts.widening is None or facts.widening <= costly):
        return BRANCHES, CHILDREN
    return 1, CHILDREN if alone and facts.draft_s < facts.verify_s / 2 else 1


@dataclass(eq=False)
class Twig:
    """A draft; the root of a tree is the last committed token."""

    token: int
    place: Place
    """The place of the token after it."""
    parent: Twig | None
    log: float
    """Log of the chance of its branch."""
    grown: bool = False
    """Whether nothing more comes behind it: the drafter has been asked, or it ends the text."""
    copied: bool = False
    """Whether it is no model's, but believed."""
    number: int | None = None
    """Its number among the drafts of the text's trees. None: it was not sent."""

    @property
    def end(self) -> int:
        """The position after it."""
        return self.place.position


class Tree:
    """The drafts that follow one text, in place of a `Branch` where the edge takes trees."""

    def __init__(self, text: Prefix, drafter: Drafter, live: int, context: int, grower: Grower | None = None) -> None:
        """
        Args:
            live: most drafts that are sent and not judged.
            context: most positions that the draft model holds.
            grower: the drafter, if it and its engine can go on at several drafts at once.
        """
        self.asking = False
        """Whether the drafter is waiting for rows."""
        self.twigs: list[Twig] = []
        """All drafts, parents first."""
        self._text, self._drafter, self._live = text, drafter, live
        self._context, self._grower = context, grower
        self._numbered = 0  # drafts that were sent
        self._asked: list[Twig] = []
        self._fed: Sequence[int] = ()  # the branch that the drafter was asked behind
        self._root = self._planted()

    def _planted(self) -> Twig:
        return Twig(self._text.tokens[-1], self._text.place, None, 0.0)

    @property
    def depth(self) -> int:
        """Number of positions beyond the text for which there is a draft."""
        return max((twig.end for twig in self.twigs), default=self._root.end) - self._root.end

    @property
    def unsent(self) -> int:
        """Number of drafts to send."""
        return len(self._due())

    @property
    def flying(self) -> bool:
        """Whether the edge may have drafts that follow the text."""
        return any(twig.number is not None for twig in self.twigs)

    @property
    def fresh(self) -> bool:
        """Whether nothing of it was sent yet."""
        return not self.flying

    def want(self, end: int, width: int) -> Ask | Sequence[Guess] | None:
        """Ask the drafter behind the likeliest `width` drafts, or one if it knows no better. No draft may reach `end`.

        Returns: as `Drafter.want`; None if the tree cannot grow.
        """
        text, twigs = self._text.tokens, self.open(end)
        if not twigs:
            return None
        for twig in twigs:
            if forced := twig.place.run(end - twig.end):
                self._asked = [twig]
                return forced
        twigs = twigs[:width]
        paths = [[each.token for each in self._branch(twig)] for twig in twigs]
        wanted: Ask | Sequence[Guess]
        if self._grower is not None:
            wanted = self._grower.grow(text, paths, self._context)
            twigs = twigs[: wanted.rows]
        else:
            common = agreeing(self._fed, paths[0])
            if common < len(self._fed):
                self._drafter.cut(len(text) + common)
            self._fed, twigs = paths[0], twigs[:1]
            wanted = self._drafter.want(text, paths[0], end - twigs[0].end, twigs[0].place)
        self._asked, self.asking = twigs, isinstance(wanted, Ask)
        return wanted

    def told(self, rows: np.ndarray, scheme: Scheme, end: int, children: int) -> None:
        """Take the rows [n, vocab] that `want` asked for, and grow below `end`. `children`: most behind one draft."""
        self.asking = False
        guesses = [self._drafter.told(rows[0])] if self._grower is None else [(row,) for row in rows]
        for twig, found in zip(self._asked, guesses, strict=True):
            if twig is self._root or twig in self.twigs:
                self._grow(twig, found, scheme, end, children)

    def take(self, guesses: Sequence[Guess], scheme: Scheme, end: int, children: int) -> bool:
        """Grow by what `want` has brought. Returns False if there is nothing to say behind the text itself."""
        (twig,) = self._asked
        self._grow(twig, guesses, scheme, end, children)
        if not guesses:
            twig.grown = twig is not self._root
        return bool(guesses) or twig.grown

    def _grow(self, twig: Twig, guesses: Sequence[Guess], scheme: Scheme, end: int, children: int) -> None:
        """Add what each guess says behind the likeliest draft of the one before it."""
        for guess in guesses:
            if twig.end >= end or (twig is not self._root and twig.token in self._text.eos_ids):
                return
            twig.grown, place, above, copied = True, twig.place, twig, isinstance(guess, int)
            chance = above.log - self._root.log
            for at, (token, log) in enumerate(scheme.likely(guess, place, children)):
                if at == 0 or chance + log >= KEEPS:
                    ends = token in self._text.eos_ids
                    self.twigs.append(Twig(token, place.then(token), above, above.log + log, ends, copied))
                    twig = self.twigs[-1] if at == 0 else twig

    def open(self, end: int) -> list[Twig]:
        """Find where the tree may grow, likeliest first: at its root if nothing stands on that, whatever was said."""
        if not (self._root.grown and self.twigs):
            return [self._root] if self._root.end < end else []
        if sum(twig.number is not None for twig in self.twigs) >= self._live:
            return []
        top = self._root.log
        found = [twig for twig in self.twigs if not twig.grown and twig.log - top >= GROWS and twig.end < end]
        return sorted(found, key=lambda twig: -twig.log)

    def send(self) -> tuple[int, int, list[int], bytes]:
        """Mark what is due as sent. Returns where the text ends, its digest, the tokens and their `Draft.parents`."""
        due, parents = self._due(), bytearray()
        for twig in due:
            parents.append(self._back(twig, 0))
            twig.number, self._numbered = self._numbered, self._numbered + 1
        return self._text.length, self._text.digest, [twig.token for twig in due], bytes(parents)

    def path(self, message: Tokens) -> list[int]:
        """Return the drafts that `message` accepts. Raises: `RemoteProtocolError` if they were never sent."""
        if message.node is None and not message.accepted:
            return []
        found = [twig for twig in self.twigs if twig.number is not None and twig.number == message.node]
        path = [twig.token for twig in self._branch(found[0])] if found else []
        if not path or len(path) != message.accepted:
            raise RemoteProtocolError(Code.STATE, "the edge accepted drafts that were never made")
        return path

    def compared(self, tokens: Sequence[int]) -> tuple[int, int, int]:
        """Count the leading `tokens` of a commit that agree with the likeliest draft there or one that was sent; those
        and the next, if there was a draft for it; and those that agree with a less likely one."""
        first = {twig.parent: twig for twig in reversed(self.twigs)}
        along = self._along(tokens)
        passed = list(takewhile(lambda twig: twig is first[twig.parent] or twig.number is not None, along))
        missed = len(passed) < len(tokens) and (passed[-1] if passed else self._root) in first
        return len(passed), len(passed) + missed, sum(twig is not first[twig.parent] for twig in passed)

    def copies(self, tokens: Sequence[int]) -> frozenset[int]:
        """Return which of the drafts that `tokens` pass through are no model's, but believed, counted from 0."""
        return frozenset(at for at, twig in enumerate(self._along(tokens)) if twig.copied)

    def commit(self, tokens: Sequence[int]) -> Over | None:
        """Append `tokens` to the text, and keep the drafts that still follow. Returns `Prefix.over`."""
        passed, common = self._along(tokens), agreeing(self._fed, tokens)
        if common < min(len(self._fed), len(tokens)):
            self._drafter.cut(self._text.length + common)
            self._fed = ()
        self._fed = self._fed[len(tokens) :]
        over = self._text.append(tokens)
        if len(passed) < len(tokens):
            self.twigs, self._root = [], self._planted()
            return over
        self._root = passed[-1]
        self._root.parent = None
        above, alive = {self._root}, list[Twig]()
        for twig in self.twigs:
            if twig.parent in above:
                above.add(twig)
                alive.append(twig)
        self.twigs = alive
        return over

    def clear(self) -> None:
        """Drop all drafts."""
        self._drafter.cut(self._text.length)
        self._fed, self.twigs, self._root = (), [], self._planted()

    def _along(self, tokens: Sequence[int]) -> list[Twig]:
        """Find the drafts that `tokens` pass through."""
        passed, last = list[Twig](), self._root
        for token in tokens:
            found = [twig for twig in self.twigs if twig.parent is last and twig.token == token]
            if not found:
                break
            last = found[0]
            passed.append(last)
        return passed

    def _branch(self, twig: Twig) -> list[Twig]:
        """Find the drafts from the text on to one, that one included."""
        found = list[Twig]()
        while twig is not self._root and twig.parent is not None:
            found.append(twig)
            twig = twig.parent
        return found[::-1]

    def _due(self) -> list[Twig]:
        """Find the drafts to send, parents first."""
        room = self._live - sum(twig.number is not None for twig in self.twigs)
        first = next((twig for twig in self.twigs if twig.parent is self._root), None)
        above, due, top = {self._root}, list[Twig](), self._root.log
        known = [twig for twig in self.twigs if twig.number is not None or twig is first or twig.log - top >= SENDS]
        for twig in sorted(known, key=lambda twig: -twig.log):  # equals stay in order
            if twig.parent not in above:
                continue
            if twig.number is None:
                if len(due) >= room or self._back(twig, len(due)) > MOST_BACK:
                    continue
                due.append(twig)
            above.add(twig)
        return due

    def _back(self, twig: Twig, before: int) -> int:
        """How many drafts before a draft its parent was sent, if so many more are sent between; 0: it is the text."""
        parent = twig.parent
        if parent is None or parent is self._root or parent.number is None:
            return 0
        return self._numbered + before - parent.number
