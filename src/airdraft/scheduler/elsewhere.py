"""What the scheduler needs of keys and values that come from elsewhere: a store of prompts, say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from airdraft.scheduler.turns import Step

LEAST = 128
"""Tokens that are left of a prompt, at least, before anybody is asked for them."""


class Coming(Protocol):
    """The keys and values of one text's tokens, on their way."""

    def step(self, at: int) -> Step:
        """What the text does next, of which `at` positions are held."""
        ...

    def close(self) -> None:
        """Nothing more is needed."""
        ...


class Elsewhere(Protocol):
    """From where they come."""

    def ask(self, tokens: Sequence[int], at: int, wake: Callable[[], None]) -> Coming | None:
        """Begin to fetch what comes after the first `at` of `tokens`; None: there is nothing worth it.

        wake: to be called when a text that waits may go on.
        """
        ...
