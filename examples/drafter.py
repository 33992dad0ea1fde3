"""A drafter in one file: it proposes what followed the same two tokens before, without a model.

`python drafter.py ws://127.0.0.1:8571`. The edge decides, so a drafter can make a text faster and never wrong.
"""

import sys
from collections.abc import Sequence

import airdraft
from airdraft.core.drafting import Guess
from airdraft.core.law import Place

PROMPT = """class Point:
    def __init__(self, x, y, z):
        self.x = x
        self.y = y
"""


class Bigrams:
    """Looks for the last place where the two last tokens stood, and proposes what followed them there."""

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int, at: Place | None = None) -> Sequence[Guess]:
        whole = [*text, *drafts]
        for place in range(len(whole) - 2, 0, -1):
            if whole[place - 1 : place + 1] == whole[-2:]:
                return whole[place + 1 : place + 1 + most]
        return ()

    def told(self, row: object) -> Sequence[Guess]:
        """Nothing: no forward is asked for."""
        return ()

    def cut(self, at: int) -> None:
        """Nothing is kept, so nothing is forgotten."""


with airdraft.Client(sys.argv[1], draft=None, drafter=Bigrams) as client:
    text = client.complete(PROMPT, temperature=0, max_tokens=60, scheme="coupled", draft_length=4)
with airdraft.Client(sys.argv[1], draft=None) as client:
    alone = client.complete(PROMPT, temperature=0, max_tokens=60, scheme="server")
print(PROMPT + text.text)
print(f"{text.counts.accepted} of {text.counts.drafted} drafts accepted, {text.counts.forwards} forwards of the target")
print(f"alone, {alone.counts.forwards} forwards; the same text: {alone.text == text.text}")
