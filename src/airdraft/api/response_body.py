"""The body of a request for a response, which is a conversation in other words than a chat's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airdraft.api.errors import ApiError, invalid, shown
from airdraft.api.fields import Endpoint
from airdraft.api.items import messages_of
from airdraft.api.schema import TalkBody

LIKELY = "message.output_text.logprobs"
"""What `include` calls log-probabilities."""
_INCLUDED = (LIKELY, "reasoning.encrypted_content")
"""What `include` may name. Of the second there is nothing."""


class ResponseBody(TalkBody, kw_only=True):
    """`POST /v1/responses`."""

    endpoint, talk_field, flat = Endpoint.RESPONSES, "input", True

    before: Sequence[Any] = ()
    """Items of the answer that is gone on from, and of those before it. No field of a request."""
    messages: Sequence[dict[str, Any]] = ()
    """The conversation, as `check` and `follow` make it of the items. No field of a request."""
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    text: Any = None

    def items(self) -> list[dict[str, Any]]:
        """Return what is new in the conversation."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return self.input

    def talk(self) -> list[dict[str, Any]]:
        """Return the messages of the conversation."""
        return list(self.messages)

    def follow(self, before: Sequence[Any]) -> None:
        """Go on from an answer: from its items, and those before it. Raises: `ApiError`."""
        self.before = before
        self.messages = messages_of(self.items(), self.instructions, before)

    def named(self, error: ApiError) -> ApiError:
        """See `Body.named`."""
        error.param = "input" if (error.param or "").startswith("messages") else error.param
        return super().named(error)

    def check(self) -> None:
        """See `Body.check`."""
        super().check()
        if self.choices() != 1:
            raise invalid("n", f"n is {self.choices()}, and a response is one answer; leave it out")
        if not self.input:
            raise invalid("input", "input is empty; give a string, or at least one item")
        odd = next((each for each in self.include or () if each not in _INCLUDED), None)
        if odd is not None:
            raise invalid("include", f"include names {shown(odd)!r}, of which answers hold nothing; leave it out")
        if self.top_logprobs and self.wanted_logprobs() is None:
            raise invalid("top_logprobs", f'top_logprobs goes with include: ["{LIKELY}"]; give both')
        if self.wanted_logprobs() is not None and self.called() is not None:
            raise invalid("include", "an answer that may call tools has no log-probabilities; leave them out")
        self.messages = messages_of(self.items(), self.instructions, whole=self.previous_response_id is None)

    def wanted_logprobs(self) -> int | None:
        """See `Body.wanted_logprobs`."""
        return (self.top_logprobs or 0) if LIKELY in (self.include or ()) else None
