"""Edits of code: tokens that a forward of the target commits when a function is to be written again, changed a little.

The functions are airdraft's own, so no model has been trained on them, and a script changes them: a parameter, or the
function, gets another name. The target writes at temperature 0 what it makes of that; the prediction is the function as
the script has changed it, whether the target writes it so or not. The shipped target is too small to write a stranger's
function again, so it is also given functions whose bodies it has written itself.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from statistics import median

import msgspec

from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import ModelError
from airdraft.models.base import LanguageModel
from airdraft.models.engines.nothing import NoDraft
from airdraft.models.text import Tokenizer
from airdraft.proposers import Lookup, Predicted, maker
from airdraft.sim import alone
from airdraft.sim.pair import Pair

EDITS, SEED = 40, 1
TARGETS = {"target": EDITS, "chat-target": 5}
"""The targets, and how many of the edits each is given: a forward of the second takes much longer."""
LINES = range(6, 25)
"""Lines of a function."""
MOST_TOKENS, BODY_TOKENS = 200, 96
"""Tokens of a function that is to be written, at most, and of a body that the target writes itself."""
NAMES = ("value", "item", "given", "wanted", "first", "entry")
"""New names; the first that the function does not use."""
AIRDRAFT, OWN = "airdraft's", "its own"
"""Whose functions are changed."""
PREDICTION, USUAL, LEAST = "prediction", "prediction, lookup", 3.0
"""Ways in which a prediction is given, and the bar of the second: tokens a forward."""
GREEDY = SamplingParams(0.0)


@dataclass(frozen=True)
class Edit:
    """A function, what is to be changed, and the changed function."""

    what: str
    """The change, in words that follow "Change this function so that"."""
    before: str
    old: str
    """What is called otherwise in the changed function."""
    new: str

    @property
    def after(self) -> str:
        """The changed function."""
        return re.sub(rf"(?<![\w.\"']){re.escape(self.old)}(?![\w\"'])", self.new, self.before)

    @property
    def head(self) -> str:
        """The first line of the changed function: what a model that only goes on with a text is given."""
        return self.after.partition("\n")[0] + "\n"


def functions(folder: Path | None = None) -> Iterator[str]:
    """Yield the source of every function of fitting length below a folder, airdraft's own without one."""
    root = folder or Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno and not node.decorator_list:
                lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
                if len(lines) in LINES and lines[0].rstrip().endswith(":"):
                    yield textwrap.dedent("\n".join(lines)) + "\n"


def edits(count: int = EDITS, seed: int = SEED) -> list[Edit]:
    """Draw functions, and change each: every other one a parameter's name, else its own."""
    found: list[Edit] = []
    drawn = list(functions())
    Random(seed).shuffle(drawn)  # noqa: S311
    for source in drawn:
        if len(found) == count:
            break
        edit = _edit(source, renames_itself=len(found) % 2 == 1)
        if edit is not None:
            found.append(edit)
    return found


def _edit(source: str, renames_itself: bool) -> Edit | None:
    """Change a function. None: it has nothing to change."""
    function = ast.parse(source).body[0]
    if not isinstance(function, ast.FunctionDef):
        return None
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    parameters = [each.arg for each in function.args.args if each.arg not in ("self", "cls")]
    new = next((name for name in NAMES if name not in used and name not in parameters), None)
    old = function.name if renames_itself else max(parameters, key=source.count, default=None)
    if old is None or new is None or old.startswith("__") or (not renames_itself and old not in used):
        return None
    new = f"{old}_{new}" if renames_itself else new
    what = f"it is called `{new}`" if renames_itself else f"its parameter `{old}` is called `{new}`"
    return Edit(what, source, old, new)


class EditsRow(msgspec.Struct, frozen=True):
    """One pair of models and one way to draft."""

    target: str
    functions: str
    """Whose they are."""
    way: str
    edits: int
    tokens_per_forward: float
    median_tokens_per_forward: float
    """Of single texts."""
    identical: int
    """Texts that are the target's own, to the token."""
    alike: float
    """How alike the target's texts and the changed functions are, in the mean (difflib's ratio, by tokens)."""


def own_words(edit: Edit, target: LanguageModel, tokenizer: Tokenizer) -> Edit:
    """The same change of a function with the same head, whose body the target writes."""
    head = edit.before.partition("\n")[0] + "\n"
    body = list(alone.write(target, tokenizer.encode(head), GREEDY, 0, BODY_TOKENS, tokenizer.vocab_size))
    return replace(edit, before=head + tokenizer.decode(body).rstrip() + "\n")


Ask = Callable[[Edit], tuple[list[int], list[int]]]
"""Makes the prompt of an edit, and what is expected to follow it."""


def continuing(tokenizer: Tokenizer) -> Ask:
    """Ask a model that goes on with a text: the function, the change as a comment, and the first line of the answer."""

    def ask(edit: Edit) -> tuple[list[int], list[int]]:
        prompt = f"{edit.before}\n\n# The same function, changed so that {edit.what}:\n\n{edit.head}"
        return tokenizer.encode(prompt), tokenizer.encode(edit.after[len(edit.head) :], special=False)

    return ask


def asking(tokenizer: Tokenizer, render: Callable[[str], list[int]]) -> Ask:
    """Ask a chat model. `render`: makes the prompt of a message."""

    def ask(edit: Edit) -> tuple[list[int], list[int]]:
        asked = f"Change this function so that {edit.what}. Answer with the function only."
        return render(f"{asked}\n\n```python\n{edit.before}```"), tokenizer.encode(
            f"```python\n{edit.after}```", special=False
        )

    return ask


WAYS: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "server+lookup": ((Lookup.name,), False, False),
    PREDICTION: ((Predicted.name,), True, False),
    USUAL: ((Predicted.name, Lookup.name), True, False),
    "device copies": ((), False, True),
}
"""Ways that gain something; without any a forward commits one token. The edge's proposers, whether the client gives the
prediction, and whether a device without a model copies."""


def measured(
    target: LanguageModel,
    tokenizer: Tokenizer,
    ask: Ask,
    todo: Sequence[Edit],
    whose: str = AIRDRAFT,
    on_text: Callable[[int, int], None] = lambda done, of: None,
) -> list[EditsRow]:
    """Write every edit in every way. Raises: `ModelError` if none fits the target's context."""
    width, texts = tokenizer.vocab_size, []
    for edit in todo:
        prompt, expected = ask(edit)
        if len(prompt) + MOST_TOKENS < target.max_context:
            own = list(alone.write(target, prompt, GREEDY, 0, min(len(expected), MOST_TOKENS), width))
            texts.append((prompt, expected, own))
        on_text(len(texts), len(todo) * (1 + len(WAYS)))
    if not texts:
        raise ModelError(f"no function fits the context of {target.name}; take a target with a longer one")
    alike = sum(SequenceMatcher(None, own, expected, False).ratio() for _, expected, own in texts) / len(texts)
    found = list[EditsRow]()
    for way, (names, predicts, copies) in WAYS.items():
        pair = Pair(NoDraft(width), target, propose=maker(names), lookup=copies)
        each, forwards, committed, identical = [], 0, 0, 0
        for prompt, expected, own in texts:
            spec = SchemeSpec(schemes.COUPLED if copies else schemes.SERVER)
            request = Request(
                prompt, spec, GREEDY, 0, min(len(expected), MOST_TOKENS), 16 if copies else None,
                prediction=expected if predicts else (),
            )  # fmt: skip
            written = pair.write(request)
            identical += written.tokens == own
            forwards, committed = forwards + written.counts.forwards, committed + len(written.tokens)
            each.append(len(written.tokens) / written.counts.forwards)
            on_text(len(texts) * (1 + len(found)) + len(each), len(todo) * (1 + len(WAYS)))
        found.append(EditsRow(
            target.name, whose, way, len(texts), committed / forwards, median(each), identical, alike,
        ))  # fmt: skip
    return found


def missed(rows: Sequence[EditsRow]) -> list[str]:
    """What is not as it must be: a text that is not the target's own, or too little gained where a prediction is given.

    The bar is for an edge as people have it, which copies as well. What the prediction gains by itself depends on
    whether the target writes it.
    """
    found = [f"{row.target}, {row.way}: {row.edits - row.identical} other texts" for row in rows
             if row.identical < row.edits]  # fmt: skip
    return found + [
        f"{row.target}, {row.functions} functions: {row.tokens_per_forward:.2f} tokens a forward, below {LEAST:g}"
        for row in rows
        if row.way == USUAL and row.tokens_per_forward < LEAST
    ]


def says(rows: Sequence[EditsRow]) -> str:
    """The bar, and whether it is kept, in Markdown."""
    usual, alone = (sorted(row.tokens_per_forward for row in rows if row.way == way) for way in (USUAL, PREDICTION))
    verdict = "MISSED" if missed(rows) else "kept"
    return (
        f"Where a prediction is given, an edge as it is usually started (`{USUAL}`) commits {usual[0]:.2f} to "
        f"{usual[-1]:.2f} tokens a forward. The bar is {LEAST:g}: {verdict}. The prediction by itself brings "
        f"{alone[0]:.2f} to {alone[-1]:.2f}: nothing where the target writes something else."
    )


def table(rows: Sequence[EditsRow]) -> str:
    """The results as Markdown."""
    lines = [
        "| target | functions | drafts | tokens a forward | in the median text | alike | the target's own text |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.target} | {row.functions} | {row.way} | {row.tokens_per_forward:.2f} | "
        f"{row.median_tokens_per_forward:.2f} | {row.alike:.2f} | {row.identical} of {row.edits} |"
        for row in rows
    ]
    return "\n".join([*lines, "", says(rows)])
