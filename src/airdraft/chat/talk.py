"""A talk with a model: its questions become prompts that fit the context, and its answers a history."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from airdraft.api.template import ChatTemplate
from airdraft.chat.history import Exchange, History, SavedChat, load, save
from airdraft.control.auto import Auto
from airdraft.control.words import spec_of
from airdraft.core import schemes
from airdraft.core.events import Committed, Finished
from airdraft.core.messages import GuideSpec, SchemeSpec
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import SCHEMES
from airdraft.device.writer import Writer, Written
from airdraft.errors import BadParameterError, Code
from airdraft.guides import of_json
from airdraft.models.text import VEILS, Tokenizer, first_private

STOPPED = "stopped"
"""Why an answer ended that was not written to its end, besides the reasons of `Finished`."""


@dataclass(frozen=True)
class Settings:
    """How answers are written. Raises: `BadParameterError` for a scheme that is unknown."""

    params: SamplingParams
    seed: int = 0
    scheme: str = "auto"
    """With options, if any, as `control/words.py` reads them."""
    max_tokens: int = 512
    schema: tuple[str, GuideSpec] | None = None
    """What answers are JSON of: what it is called, and the guide. None: answers are free."""

    def __post_init__(self) -> None:
        if spec_of(self.scheme, SchemeSpec(schemes.STREAM))[0] not in (*SCHEMES, "auto"):
            known = ", ".join((*SCHEMES, "auto"))
            raise BadParameterError(f"scheme {self.scheme!r} is unknown; choose one of {known}")
        if not 0 <= self.seed < 1 << 63:
            raise BadParameterError(f"seed is {self.seed}; give a whole number of at least 0, below 2^63")
        if self.max_tokens < 1:
            raise BadParameterError(f"max-tokens is {self.max_tokens}; give at least 1")


@dataclass
class Reply:
    """An answer while it is written, and after."""

    question: str
    request: Request
    context: int | None
    """The target's context in tokens, if known."""
    tokens: list[int] = field(default_factory=list)
    reason: str = STOPPED

    @property
    def scheme(self) -> str:
        """The scheme by which it was written last."""
        policy = self.request.policy
        mode = policy.mode if isinstance(policy, Auto) else None
        return mode.scheme if mode is not None else self.request.scheme.name

    def cut(self) -> str | None:
        """Return why the answer is not whole; None if it is."""
        if self.reason == "stop":
            return None
        length = len(self.request.prompt) + len(self.tokens)
        if self.reason == "length" and self.context is not None and length >= self.context:
            return f"cut off at the end of the context of {self.context} tokens"
        if self.reason == "length":
            return f"cut off after {len(self.tokens)} tokens, the most that were asked for"
        return f"cut off after {len(self.tokens)} tokens"


class Talk:
    """Asks one model, turn by turn, over one writer."""

    def __init__(self, writer: Writer, tokenizer: Tokenizer, template: ChatTemplate, settings: Settings) -> None:
        self._writer, self._tokenizer, self._template = writer, tokenizer, template
        self.settings = settings
        self.history = History()

    def prepare(self, question: str, counts: Counts) -> Reply:
        """Return the answer to begin, with a prompt that leaves it room in the context.

        That is `max_tokens`, or a quarter of the context if that is less. Where the history leaves less, the oldest
        turns are left out from then on, until the prompt is no more than half of the context: so the next turns find
        room, and a beginning that is read already. Raises: `BadParameterError` if the question alone does not fit.
        """
        context, settings, history = self._writer.context, self.settings, self.history
        ids = prompt_of(self._template, question, history)
        if context is not None and len(ids) + min(settings.max_tokens, context // 4) > context:
            while history.left_out < len(history.turns) and len(ids) > context // 2:
                history.left_out += 1
                ids = prompt_of(self._template, question, history)
            if len(ids) >= context:
                what = f"the question is {len(ids)} tokens with what the system prompt and the chat template add"
                raise BadParameterError(f"{what}, and the context {context}; shorten it", code=Code.CONTEXT)
        automatic = settings.scheme == "auto"
        policy = Auto(self._tokenizer.vocab_size, races=("always",)) if automatic else None
        _, spec = spec_of(settings.scheme, SchemeSpec(schemes.STREAM))
        request = Request(
            ids, spec, settings.params, settings.seed, settings.max_tokens, policy=policy, counts=counts,
            private=private_of(ids, self._template, question, history),
            guide=None if settings.schema is None else settings.schema[1],
        )  # fmt: skip
        return Reply(question, request, context)

    async def write(self, answer: Reply) -> AsyncGenerator[Written, None]:
        """Yield the events of an answer, which takes what is committed. Raises: as `Writer.write`."""
        async for event in self._writer.write(answer.request):
            if isinstance(event, Committed):
                answer.tokens += event.tokens
            elif isinstance(event, Finished):
                answer.reason = event.reason
            yield event

    def keep(self, answer: Reply) -> str:
        """Put an answer into the history as far as it was committed, and return its text.

        A question that was cut off before the first token is forgotten.
        """
        text = self._tokenizer.decode(answer.tokens)
        if answer.tokens or answer.cut() is None:
            self.history.turns.append(Exchange(answer.question, text, answer.request.private is not None))
        return text

    def save(self, path: Path) -> None:
        """Write the chat and its settings to a file. Raises: `BadParameterError`, for a chat with private parts too."""
        settings = self.settings
        if self.history.has_private():
            raise BadParameterError("this chat has private parts, which go into no file; /clear forgets them")
        params = msgspec.structs.asdict(settings.params)
        schema = None if settings.schema is None else msgspec.json.decode(settings.schema[1].text)
        save(SavedChat(self.history.said(), settings.seed, settings.scheme, schema=schema, **params), path)

    def load(self, path: Path) -> None:
        """Go on with the chat in a file, under its settings. Raises: `BadParameterError`, and nothing has changed."""
        saved = load(path)
        given = {name: getattr(saved, name) for name in SamplingParams.__struct_fields__}
        given = {name: value for name, value in given.items() if value is not None}
        try:
            settings = replace(
                self.settings,
                params=msgspec.structs.replace(self.settings.params, **given),
                seed=self.settings.seed if saved.seed is None else saved.seed,
                scheme=saved.scheme or self.settings.scheme,
                schema=self.settings.schema if saved.schema is None else (str(path), of_json(saved.schema)),
            )
        except BadParameterError as problem:
            raise BadParameterError(f"{path}: {problem}") from problem
        self.history.take(saved.messages)
        self.settings = settings


def prompt_of(
    template: ChatTemplate, question: str, history: History | None = None, veil: str | None = None
) -> list[int]:
    """Return the prompt of a question after a history; see `History.messages`. Raises: `BadParameterError`."""
    messages = (history or History()).messages(question, veil)
    return template.encode(template.render(messages, {"add_generation_prompt": True}))


def private_of(
    ids: Sequence[int], template: ChatTemplate | None, question: str, history: History | None = None
) -> int | None:
    """Return the position of the first private token in a prompt that `prompt_of` gave; None: nothing is private."""
    if template is None or not (history or History()).has_private(question):
        return None
    try:
        return first_private(ids, [prompt_of(template, question, history, veil) for veil in VEILS])
    except BadParameterError:  # a template that does not take other words there
        return 0
