"""The bodies of requests, checked field by field."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from airdraft.api.errors import ApiError
from airdraft.core.messages import MOST_LIKELY
from airdraft.core.sampling import SamplingParams

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that leaves it out, as at OpenAI. A chat then goes on to the end of the context."""
UNLIMITED = 1 << 20
MOST_STOPS = 4
MOST_CHOICES = 16
_PATH = re.compile(r" - at `\$\.?(.*?)`$")
_MISSING = re.compile(r"missing required field `(.*?)`")


class StreamOptions(msgspec.Struct):
    """Options of a streamed answer."""

    include_usage: bool = False


class ResponseFormat(msgspec.Struct):
    """The form that the answer must have."""

    type: str = "text"


class Body(msgspec.Struct, kw_only=True):
    """The fields that both endpoints take. Unknown fields are ignored; null is the same as absent."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    scheme: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    def params(self) -> SamplingParams:
        """Return the sampling parameters. Raises: `BadParameterError` for a value out of range."""
        return SamplingParams(
            1.0 if self.temperature is None else self.temperature,
            0 if self.top_k in (None, -1) else self.top_k,  # vLLM's -1 keeps all
            1.0 if self.top_p is None else self.top_p,
            self.min_p or 0.0,
        )

    def stops(self) -> list[str]:
        """Return the stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def limit(self) -> int:
        """Return the most tokens to write."""
        return COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    def check(self) -> None:
        """Raise `ApiError` for a value out of range, and for a field that we cannot give its effect."""
        if not 1 <= self.choices() <= MOST_CHOICES:
            raise ApiError(400, f"n is {self.choices()}; give 1 to {MOST_CHOICES}", "n", "invalid_value")
        if self.limit() < 1:
            raise ApiError(400, f"max_tokens is {self.limit()}; give at least 1", "max_tokens", "invalid_value")
        if self.seed is not None and not 0 <= self.seed < 1 << 63:
            raise ApiError(400, f"seed is {self.seed}; give 0 to 2^63 - 1, or leave it out", "seed", "invalid_value")
        if len(self.stops()) > MOST_STOPS or not all(self.stops()):
            raise ApiError(400, f"stop takes at most {MOST_STOPS} strings, none empty", "stop", "invalid_value")
        without_effect = {
            "frequency_penalty": not self.frequency_penalty,
            "presence_penalty": not self.presence_penalty,
            "repetition_penalty": self.repetition_penalty in (None, 1),
            "logit_bias": not self.logit_bias,
        }
        refuse(without_effect, "texts are drawn from the target's own distribution")

    def choices(self) -> int:
        """Return how many answers a prompt gets."""
        return 1 if self.n is None else self.n

    def wanted_logprobs(self) -> int | None:
        """Return how many likely tokens to name at each position; None: no log-probabilities at all."""
        return None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(Body, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Any = ""
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | None = None

    def check(self) -> None:
        """See `Body.check`."""
        super().check()
        refuse({"best_of": self.best_of in (None, self.choices())}, "choices are not ranked; ask for n")
        refuse({"suffix": not self.suffix}, "the model writes forwards only")
        _check_likely("logprobs", self.logprobs)
        echoed = self.echo and self.logprobs is not None
        refuse({"echo": not echoed}, "how likely the prompt was is not known, and logprobs ask for it")

    def wanted_logprobs(self) -> int | None:
        """See `Body.wanted_logprobs`."""
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each a string or token ids. Raises: `ApiError`."""
        prompt = "" if self.prompt is None else self.prompt
        if isinstance(prompt, str) or _are_ids(prompt):
            return [prompt]
        if not isinstance(prompt, list) or not all(isinstance(each, str) or _are_ids(each) for each in prompt):
            raise ApiError(400, "prompt must be a string, token ids, or a list of either", "prompt", "invalid_type")
        if not 1 <= len(prompt) * self.choices() <= MOST_CHOICES:
            many = len(prompt) * self.choices()
            raise ApiError(400, f"prompts times n are {many}; give 1 to {MOST_CHOICES}", "prompt", "invalid_value")
        return prompt


class ChatBody(Body, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: ResponseFormat | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None

    def limit(self) -> int:
        """See `Body.limit`."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return UNLIMITED if most is None else most

    def check(self) -> None:
        """See `Body.check`."""
        super().check()
        _check_likely("top_logprobs", self.top_logprobs)
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs goes with logprobs: true; give both", "top_logprobs", "invalid_value")
        refuse({"tools": not self.tools, "functions": not self.functions}, "calls of tools are not parsed")
        free = self.response_format is None or self.response_format.type == "text"
        refuse({"response_format": free}, "no grammar is enforced")

    def wanted_logprobs(self) -> int | None:
        """See `Body.wanted_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def conversation(self) -> list[dict[str, Any]]:
        """Return the messages, parts of text joined by line ends. Raises: `ApiError` for a part that is no text."""
        if not self.messages:
            raise ApiError(400, "messages is empty; give at least one", "messages", "invalid_value")
        return [_message(at, message) for at, message in enumerate(self.messages)]


B = TypeVar("B", bound=Body)


def parse(kind: type[B], data: bytes) -> B:
    """Return the request in `data`. Raises: `ApiError` that names the field at fault."""
    try:
        body = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        message = str(error)
        found = _PATH.search(message) or _MISSING.search(message)
        field = found.group(1) if found else None
        raise ApiError(400, _PATH.sub(f" for {field}", message), field, "invalid_type") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}", None, "invalid_json") from error
    body.check()
    return body


def refuse(without_effect: dict[str, bool], why: str) -> None:
    """Raise `ApiError` for the first field that asks for an effect that we do not offer."""
    for field, harmless in without_effect.items():
        if not harmless:
            raise ApiError(400, f"{field} is not supported: {why}; leave it out", field, "unsupported_parameter")


def _check_likely(field: str, most: int | None) -> None:
    if most is not None and not 0 <= most <= MOST_LIKELY:
        raise ApiError(400, f"{field} is {most}; give 0 to {MOST_LIKELY}", field, "invalid_value")


def _are_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(type(each) is int for each in prompt)


def _message(at: int, message: dict[str, Any]) -> dict[str, Any]:
    where = f"messages[{at}]"
    if not isinstance(message.get("role"), str):
        raise ApiError(400, f"{where} has no role; give system, user or assistant", where, "invalid_type")
    content = message.get("content")
    if content is None:
        content = ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [text for text in parts if isinstance(text, str)]
        if len(texts) < len(content):
            raise ApiError(400, f"{where} has parts that are no text; this model reads text", where, "invalid_type")
        content = "\n".join(texts)
    if not isinstance(content, str):
        raise ApiError(400, f"{where} has a content that is neither a string nor parts of text", where, "invalid_type")
    return {**message, "content": content}
