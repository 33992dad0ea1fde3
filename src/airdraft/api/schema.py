"""The bodies of requests: read by the table of fields, and checked value by value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

import msgspec

from airdraft.api.errors import MOST_WORDS, ApiError, invalid, shown
from airdraft.api.fields import BY_NAME, Endpoint, Fate, Field
from airdraft.api.forms import FORMS, form_of
from airdraft.api.tools import Tools, nested, tools_of
from airdraft.core.messages import MOST_LIKELY, GuideSpec
from airdraft.core.sampling import SamplingParams
from airdraft.guides import Bias, of_bias
from airdraft.models.text import Tokenizer

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that leaves it out, as at OpenAI. A chat then goes on to the end of the context."""
UNLIMITED = 1 << 20
MOST_STOPS, MOST_STOP_IDS = 4, 64
MOST_CHOICES = 16
MOST_BAD_WORDS, MOST_BAD_WORD = 128, 64
BIASED = (
    "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "bad_words", "allowed_token_ids",
    "min_tokens", "typical_p",
)  # fmt: skip
"""The attributes of a `Body` that make a `Bias`."""
_PATH = re.compile(r" - at `\$\.?(.*?)`$")
_MISSING = re.compile(r"missing required field `(.*?)`")


class StreamOptions(msgspec.Struct):
    """Options of a streamed answer."""

    include_usage: bool = False


class Marks(msgspec.Struct):
    """What only airdraft knows of a prompt."""

    private: bool | int | None = None


class Body(msgspec.Struct, kw_only=True):
    """The fields that all endpoints take. None is absent. `fields.FIELDS` says what each does."""

    endpoint: ClassVar[Endpoint]

    said: dict[str, str]
    """The spelling of each given field that has several, as the client wrote it."""
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Any = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    min_tokens: int | None = None
    typical_p: float | None = None
    scheme: str | None = None
    prediction: Any = None
    response_format: Any = None
    structured_outputs: Any = None
    json_schema: Any = None
    regex: Any = None
    guided_choice: Any = None
    grammar: Any = None
    format: Any = None
    add_special_tokens: bool | None = None

    def named(self, error: ApiError) -> ApiError:
        """Return the same error, about the field as the client spelt it."""
        if error.param == "guide":
            form = self.form()
            biased = next((name for name in BIASED if getattr(self, name) is not None), None)
            error.param = biased if form is None else form[0]
        if error.param:
            first, dot, rest = error.param.partition(".")
            error.param = self.said.get(error.param, self.said.get(first, first) + dot + rest)
        return error

    def form(self) -> tuple[str, GuideSpec] | None:
        """See `form_of`."""
        return form_of({name: getattr(self, name, None) for name in FORMS})

    def guide(self, tokenizer: Tokenizer, calls: GuideSpec | None = None) -> GuideSpec | None:
        """Return what leads the text: `calls` or its form, and its bias. Raises: `ApiError`, or as `Bias.check`."""
        form = self.form()
        grammar = calls or (None if form is None else form[1])
        given = {name: value for name in BIASED if (value := getattr(self, name)) is not None}
        given = {name: value for name, value in given.items() if value is not False and value not in ("", [], {})}
        if "logit_bias" in given:
            given["logit_bias"] = _by_id(given["logit_bias"])
        if "bad_words" in given:
            given["bad_words"] = _spelt(given["bad_words"], tokenizer)
        if "allowed_token_ids" in given:
            given["allowed_token_ids"] = tuple(given["allowed_token_ids"])
        bias = Bias(
            **given, stop_token_ids=tuple(self.stop_token_ids or ()) if self.min_tokens else (),
            ignore_eos=bool(self.min_tokens and self.ignore_eos),
        )  # fmt: skip
        if bias == Bias():
            return grammar
        bias.check(tokenizer.vocab_size)
        return of_bias(msgspec.structs.replace(bias, guide=grammar))

    def params(self, model: Mapping[str, Any]) -> SamplingParams:
        """Return the sampling parameters. Raises: `BadParameterError` for a value out of range.

        model: those that it recommends for chats, where the request leaves them out.
        """
        given = {name: getattr(self, name) for name in SamplingParams.__struct_fields__}
        given["top_k"] = 0 if self.top_k == -1 else self.top_k  # vLLM's -1 keeps all
        return SamplingParams(**{**model, **{name: value for name, value in given.items() if value is not None}})

    def stops(self) -> list[str]:
        """Return the stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def predicted(self) -> str:
        """Return what the client expects the text to be; empty if nothing. Raises: `ApiError`."""
        given = self.prediction
        if given is None:
            return ""
        content = given.get("content") if isinstance(given, dict) and given.get("type") == "content" else None
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(map(_is_text, parts)):
            form = '{"type": "content", "content": a string, or parts of type text}'
            raise invalid("prediction", f"prediction holds no text; give {form}, or leave it out")
        for each, holds in ((given, "content"), *((part, "text") for part in parts)):
            odd = next((name for name in each if name not in ("type", holds) and each[name] is not None), None)
            if odd is not None:
                what = f"prediction.{shown(odd)} is not supported; leave it out"
                raise ApiError(400, what, "prediction", _UNSUPPORTED)
        return "".join(part["text"] for part in parts)

    def limit(self) -> int:
        """Return the most tokens to write."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return UNLIMITED if most in (None, -1) else min(most, UNLIMITED)

    def check(self) -> None:
        """Raise `ApiError` for a value out of range."""
        if not 1 <= self.choices() <= MOST_CHOICES:
            raise invalid("n", f"n is {self.choices()}; give 1 to {MOST_CHOICES}")
        if self.best_of not in (None, self.choices()):
            raise _unsupported("best_of", "choices are not ranked; ask for n")
        least = self.least()
        for field in ("max_tokens", "max_completion_tokens"):
            most = getattr(self, field)
            if most is not None and most != -1 and most < least:
                name = self.said.get(field, field)
                raise invalid(name, f"{name} is {most}; give at least {least}, or -1 for no limit")
        if self.seed is not None and self.seed != -1 and not 0 <= self.seed < 1 << 63:
            raise invalid("seed", f"seed is {self.seed}; give 0 to 2^63 - 1, or leave it out")
        if len(self.stops()) > MOST_STOPS or not all(self.stops()):
            raise invalid("stop", f"stop takes at most {MOST_STOPS} strings, none empty")
        if len(self.stop_token_ids or ()) > MOST_STOP_IDS:
            raise invalid("stop_token_ids", f"stop_token_ids takes at most {MOST_STOP_IDS} ids")
        if (self.min_tokens or 0) > self.limit():
            name = self.said.get("min_tokens", "min_tokens")
            raise invalid(name, f"{name} is {self.min_tokens}, more than the {self.limit()} that are to be written")
        self.predicted()
        if self.ignore_eos and self.form() is not None:
            raise _unsupported("ignore_eos", "a text that has a form ends where it is complete; leave one of them out")
        self.form()

    def least(self) -> int:
        """Return the least limit that makes sense."""
        return 1

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

    endpoint = Endpoint.COMPLETIONS

    prompt: Any = ""
    echo: bool | None = None
    logprobs: int | None = None
    airdraft: Marks | None = None

    def named(self, error: ApiError) -> ApiError:
        """See `Body.named`."""
        error.param = "airdraft.private" if error.param == "private" else error.param
        return super().named(error)

    def params(self, model: Mapping[str, Any]) -> SamplingParams:
        """See `Body.params`: of a completion the model says nothing."""
        return super().params({})

    def limit(self) -> int:
        """See `Body.limit`."""
        given = self.max_tokens is not None or self.max_completion_tokens is not None
        return super().limit() if given else COMPLETION_TOKENS

    def least(self) -> int:
        """See `Body.least`: an echo may stand alone."""
        return 0 if self.echo else 1

    def check(self) -> None:
        """See `Body.check`."""
        super().check()
        _check_likely("logprobs", self.logprobs)
        if self.echo and self.logprobs is not None:
            raise _unsupported("echo", "how likely the prompt was is not known, and logprobs ask for it; leave it out")
        private = self.private()
        if private is not None and not all(0 <= private < len(each) for each in self.prompts()):
            raise invalid("airdraft.private", f"airdraft.private is {private}, and no prompt may end there; give less")

    def private(self) -> int | None:
        """Return the place in each prompt, in characters or ids, from which on it is private; None: nothing is."""
        given = None if self.airdraft is None else self.airdraft.private
        return None if given is None or given is False else int(given) if given is not True else 0

    def wanted_logprobs(self) -> int | None:
        """See `Body.wanted_logprobs`."""
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each a string or token ids. Raises: `ApiError`."""
        prompt = self.prompt
        if isinstance(prompt, str) or _are_ids(prompt):
            return [prompt]
        if not isinstance(prompt, list) or not all(isinstance(each, str) or _are_ids(each) for each in prompt):
            raise ApiError(400, "prompt must be a string, token ids, or a list of either", "prompt", "invalid_type")
        if not 1 <= len(prompt) * self.choices() <= MOST_CHOICES:
            many = len(prompt) * self.choices()
            raise invalid("prompt", f"prompts times n are {many}; give 1 to {MOST_CHOICES}")
        return prompt


class TalkBody(Body, kw_only=True):
    """The fields of requests for an answer in a conversation, which a template makes a prompt."""

    talk_field: ClassVar[str]
    """The field that holds the conversation."""
    flat: ClassVar[bool] = False
    """As in `tools_of`."""

    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None

    def named(self, error: ApiError) -> ApiError:
        """See `Body.named`."""
        if error.param == "guide" and self.called() is not None and not (self.words() and " at 1(" in str(error)):
            error.param = "tools"  # the first line of a grammar that has both is the form
        error.param = self.talk_field if error.param in ("prompt", "private") else error.param
        return super().named(error)

    def check(self) -> None:
        """See `Body.check`."""
        super().check()
        _check_likely("top_logprobs", self.top_logprobs)
        if self.called() is None:
            return
        form = self.form()
        if form is not None and form[1].kind != "json":
            what = f"{form[0]} is no JSON schema, the one form that an answer may have beside tools"
            raise invalid(form[0], f"{what}; give one, or leave tools out")
        if self.ignore_eos:
            raise _unsupported("ignore_eos", "an answer that calls tools ends by itself; leave one of them out")

    def called(self) -> Tools | None:
        """Return the tools that may be called; None: none. Raises: `ApiError`."""
        return tools_of(self.tools, self.tool_choice, self.parallel_tool_calls, self.flat)

    def words(self) -> GuideSpec | None:
        """Return the form of an answer that calls no tool; None: any."""
        form = self.form()
        return None if form is None else form[1]

    def variables(self) -> dict[str, Any]:
        """Return what the template may read besides the messages. Raises: `ApiError`."""
        given = {name: value for name, value in (self.chat_template_kwargs or {}).items() if value is not None}
        own: dict[str, Any] = {"add_generation_prompt": self.add_generation_prompt is not False}
        for name in given:
            if name == "messages" or name in own or (self.endpoint, name) in BY_NAME:
                raise _unsupported(
                    f"chat_template_kwargs.{name}", "it is a field of the request itself; put it there, or leave it out"
                )
        return given | own | ({} if self.called() is None else {"tools": nested(self.tools, self.flat)})


class ChatBody(TalkBody, kw_only=True):
    """`POST /v1/chat/completions`."""

    endpoint, talk_field = Endpoint.CHATS, "messages"

    messages: list[dict[str, Any]]
    logprobs: bool | None = None

    def talk(self) -> list[dict[str, Any]]:
        """Return the messages of the conversation."""
        return self.messages

    def check(self) -> None:
        """See `Body.check`."""
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "top_logprobs goes with logprobs: true; give both")
        if not self.messages:
            raise invalid("messages", "messages is empty; give at least one")

    def wanted_logprobs(self) -> int | None:
        """See `Body.wanted_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


B = TypeVar("B", bound=Body)


def parse(kind: type[B], data: bytes) -> B:
    """Return the request in `data`. Raises: `ApiError` that names the field at fault."""
    raw = _decode(data, None, dict[str, msgspec.Raw])
    given = {name: value for name, part in raw.items() if (value := _decode(part, name)) is not None}
    said: dict[str, str] = {}
    values = _read(kind, given, said)
    try:
        body = msgspec.convert({**values, "said": said}, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        found = _PATH.search(message) or _MISSING.search(message)
        field = found.group(1) if found else ""
        first = re.split(r"[.\[]", field)[0]
        field = said.get(first, first) + field[len(first) :]
        raise ApiError(400, _PATH.sub(f" for {field}", message), field or None, "invalid_type") from error
    try:
        body.check()
    except ApiError as error:
        raise body.named(error) from None
    return body


def _decode(data: bytes | msgspec.Raw, field: str | None, kind: Any = Any) -> Any:
    """Return JSON as Python has it. Raises: `ApiError`, about `field`; None: about the whole body."""
    what = "the body" if field is None else shown(field)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = _PATH.sub("", str(error))
        code = "invalid_json" if field is None else "invalid_value"
        raise ApiError(400, f"{what} is no JSON that can be read: {said}", field, code) from error


def _read(kind: type[Body], given: dict[str, Any], said: dict[str, str], within: str = "") -> dict[str, Any]:
    """Return the values of the fields that are done, by attribute. Raises: `ApiError` for any that must be refused."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        path = within + name
        row = BY_NAME.get((kind.endpoint, path))
        if row is None or "." in name:  # a dot is ours, between an object and its part
            raise _unknown(kind.endpoint, path)
        if row.fate is Fate.REFUSED and row.asks(value):
            raise _unsupported(path, row.says)
        if row.fate is not Fate.DONE or value is None:
            continue
        field = row.names[0].removeprefix(within)
        whole = _whole(value) if field in _integers(kind) else value
        if isinstance(whole, int) and whole.bit_length() > 64:
            raise invalid(path, f"{path} is beyond 64 bits; give a smaller number")
        if field in values and values[field] != whole:
            raise invalid(path, f"{path} and {said[field]} differ and mean the same; give one of them")
        said[field] = path
        values[field] = _read(kind, value, {}, f"{path}.") if _has_parts(row, value) else whole
    return values


def _has_parts(row: Field, value: Any) -> bool:
    """Whether the table has rows for the parts of this value."""
    return isinstance(value, dict) and row.names[0] in ("stream_options", "airdraft")


def _integers(kind: type[Body]) -> frozenset[str]:
    """Return the attributes that take whole numbers, alone or in a list."""
    if kind not in _INTEGERS:
        hints = get_type_hints(kind)
        _INTEGERS[kind] = frozenset(name for name, hint in hints.items() if {int, list[int]} & {*get_args(hint)})
    return _INTEGERS[kind]


_INTEGERS: dict[type[Body], frozenset[str]] = {}


def _whole(value: Any) -> Any:
    """Return 6.0 as 6, as other servers do, alone or in a list."""
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _by_id(given: Any) -> dict[int, float]:
    """Return biases by token. Raises: `ApiError`."""
    if not isinstance(given, dict) or not all(
        re.fullmatch("[0-9]{1,9}", each) and type(value) in (int, float) for each, value in given.items()
    ):
        raise invalid("logit_bias", "logit_bias is no object of token ids and numbers; give one")
    return {int(token): float(value) for token, value in given.items()}


def _spelt(words: list[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Return the ways in which the tokenizer writes words, at the beginning of a text and after a space."""
    if len(words) > MOST_BAD_WORDS or not all(word.strip() and len(word) <= MOST_BAD_WORD for word in words):
        what = f"bad_words takes at most {MOST_BAD_WORDS} strings, each with 1 to {MOST_BAD_WORD} characters"
        raise invalid("bad_words", f"{what}; give that")
    bare = [word.lstrip() for word in words]
    runs = (tokenizer.encode(f"{space}{word}", special=False) for word in bare for space in ("", " "))
    return tuple(dict.fromkeys(tuple(run) for run in runs))


def _is_text(part: Any) -> bool:
    """Whether it is a part of type text."""
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _unknown(endpoint: Endpoint, name: str) -> ApiError:
    other = next((each for each in Endpoint if each is not endpoint and (each, name) in BY_NAME), None)
    if other is not None and "." not in name:
        return _unsupported(name, f"it is a field of {other.called}; leave it out, or ask /v1/{other}")
    near = difflib.get_close_matches(name[:MOST_WORDS], _done_names(endpoint), 1, 0.75)
    remedy = f"did you mean {near[0]}?" if near else "leave it out"
    return ApiError(400, f"{shown(name)} is a field that nobody here knows; {remedy}", shown(name), _UNSUPPORTED)


def _done_names(endpoint: Endpoint) -> Iterator[str]:
    return (name for (at, name), row in BY_NAME.items() if at is endpoint and row.fate is Fate.DONE)


_UNSUPPORTED = "unsupported_parameter"


def _unsupported(field: str, why: str) -> ApiError:
    return ApiError(400, f"{field} is not supported: {why}", field, _UNSUPPORTED)


def _check_likely(field: str, most: int | None) -> None:
    if most is not None and not 0 <= most <= MOST_LIKELY:
        raise invalid(field, f"{field} is {most}; give 0 to {MOST_LIKELY}")


def _are_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and set(map(type, prompt)) == {int}
