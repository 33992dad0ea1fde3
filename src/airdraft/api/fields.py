"""Every field of a request, as data: what is done, what is refused and why, what asks for nothing.

Names are those of OpenAI, vLLM, llama.cpp, Ollama, SGLang and LM Studio. A field that is in no row is refused, so that
nothing that was asked for is dropped without a word. docs/api.md prints these rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Endpoint(StrEnum):
    """What a request asks for, by its path under /v1."""

    COMPLETIONS = "completions"
    CHATS = "chat/completions"
    RESPONSES = "responses"

    @property
    def called(self) -> str:
        """Its name in a sentence."""
        return "chats" if self is Endpoint.CHATS else self.value


class Fate(StrEnum):
    """What becomes of a field."""

    DONE = "done"
    REFUSED = "refused"
    HARMLESS = "harmless"


@dataclass(frozen=True)
class Field:
    """One field, or several of which the same is true."""

    names: tuple[str, ...]
    """Of a field that is done: its attribute in a `Body`, then other spellings of it. Otherwise: all of them."""
    fate: Fate
    says: str
    """DONE: what it does. REFUSED: why, and what to do instead. HARMLESS: why it may be left undone."""
    on: tuple[Endpoint, ...]
    """The endpoints that this row is about."""
    unless: tuple[Any, ...] = ()
    """Values of a refused field that ask for nothing, besides null."""

    def asks(self, value: Any) -> bool:
        """Whether `value` asks for something; null is as absent, in an object, too."""
        if isinstance(value, dict):
            value = {name: each for name, each in value.items() if each is not None}
        # In Python True equals 1, but in a request they are two things.
        same = (value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.unless)
        return value is not None and not any(same)


COMPLETIONS, CHATS, RESPONSES = (Endpoint.COMPLETIONS,), (Endpoint.CHATS,), (Endpoint.RESPONSES,)
OLDER = COMPLETIONS + CHATS
TALKS = CHATS + RESPONSES
ALL = COMPLETIONS + CHATS + RESPONSES
_NOTHING: tuple[Any, ...] = (False, "", [], {})


def _done(names: str, says: str, on: tuple[Endpoint, ...] = ALL) -> Field:
    return Field(tuple(names.split()), Fate.DONE, says, on)


def _refused(names: str, unless: tuple[Any, ...], says: str, on: tuple[Endpoint, ...] = ALL) -> Field:
    return Field(tuple(names.split()), Fate.REFUSED, says, on, unless)


def _harmless(names: str, says: str, on: tuple[Endpoint, ...] = ALL) -> Field:
    return Field(tuple(names.split()), Fate.HARMLESS, says, on)


_OWN = "it is no step of the target's law here; leave it out"
_GRAMMAR = "it is not enforced; leave it out, or give response_format or structured_outputs"
_TOOLS = "a prompt has no tools; leave it out, or ask /v1/chat/completions"
_TOLD = "answers hold nothing of the kind; leave it out"
_WORDS = "the model reads and writes text only; leave it out"
_SERVERS = "it is settled where the server is started; leave it out"
_THINKING = "thinking is not steered; leave it out, or give what the template reads in chat_template_kwargs"
_OPEN = "what the model recommends (not in completions)"

FIELDS: tuple[Field, ...] = (
    _done("model", "the name that `/v1/models` returns, or `target`, or absent; any other is a 404"),
    _done("prompt", "a string, a list of strings, token ids, or a list of lists of these", COMPLETIONS),
    _done("messages", "`role` and `content`, a string or parts of type `text`; see below", CHATS),
    _done("input", "a string, which the user says, or a list of items; see below", RESPONSES),
    _done("instructions", "what the system says before `input`, of this answer alone", RESPONSES),
    _done("previous_response_id", "the `id` of an answer that is kept: `input` goes on from it", RESPONSES),
    _done("store", "whether the answer is kept to go on from; true unless given. See below", RESPONSES),
    _done("metadata", "an object of strings, which the answer gives back", RESPONSES),
    _done(
        "max_tokens max_new_tokens n_predict num_predict",
        "most tokens to write, −1 for no limit but the context. Completions: 16 unless given, and 0 with `echo` gives "
        "the prompt alone. Else: no limit unless given",
        OLDER,
    ),
    _done("max_tokens max_output_tokens", "most tokens to write, −1 or absent for no limit but the context", RESPONSES),
    _done("max_completion_tokens", "the same; it overrides `max_tokens`"),
    _done("temperature", f"0 is greedy. Unless given: {_OPEN}, or 1"),
    _done("top_p", f"above 0, at most 1. Unless given: {_OPEN}, or 1, which keeps all"),
    _done("top_k", f"0 or −1 keeps all. Unless given: {_OPEN}, or 0"),
    _done("min_p", f"0 to 1; 0 keeps all. Unless given: {_OPEN}, or 0"),
    _done(
        "seed",
        "0 to 2⁶³ − 1: the same text every time. If it is absent or −1 one is drawn, and the answer names it",
    ),
    _done(
        "n",
        "choices, 1 to 16 for all prompts together; of responses 1. Choice i of a prompt is the text of `seed` + i",
    ),
    _done("best_of", "equal to `n`, or 1: choices are not ranked"),
    _done("stop", "one string, or up to four; the text ends before the first one that occurs"),
    _done("stop_token_ids", "up to 64 token ids; the text ends before the first one that is drawn"),
    _done(
        "ignore_eos",
        "true: an end-of-text token does not end the text, as in vLLM. llama.cpp forbids the token instead",
    ),
    _done("frequency_penalty", "−2 to 2: what a token loses, in nats, for each time that the text has it already"),
    _done("presence_penalty", "−2 to 2: what a token loses, in nats, once the text has it"),
    _done(
        "repetition_penalty repeat_penalty",
        "0.1 to 10: divides the positive logits of tokens that prompt or text have, multiplies negative ones",
    ),
    _done("logit_bias", "an object of token ids, up to 1024, and what each gains in nats, −100 to 100"),
    _done("bad_words", "up to 128 strings that the text may not hold, spelt as the tokenizer spells them, as in vLLM"),
    _done("allowed_token_ids", "the only token ids that the text may hold"),
    _done(
        "min_tokens min_new_tokens",
        "tokens before which neither an end-of-text token nor one of `stop_token_ids` is drawn",
    ),
    _done("typical_p typ_p", "above 0, at most 1: keep the tokens whose surprise is nearest to the mean; 1 keeps all"),
    _done("stream", "server-sent events"),
    _done("stream_options", "an object with the next field"),
    _done("stream_options.include_usage", "usage in a last chunk"),
    _done("echo", "put the prompt before the text, its special tokens too", COMPLETIONS),
    _done(
        "logprobs",
        "the log-probability of each token, and of this many likeliest tokens in its place, 0 to 20",
        COMPLETIONS,
    ),
    _done("logprobs", "true: the log-probability of each token", CHATS),
    _done("top_logprobs", "the number of likeliest tokens to list in each place, 0 to 20; with `logprobs`", CHATS),
    _done("top_logprobs", "the number of likeliest tokens to list in each place, 0 to 20; with `include`", RESPONSES),
    _done(
        "include",
        "a list of `message.output_text.logprobs`, the log-probability of each token, not with `tools`; and of "
        "`reasoning.encrypted_content`, of which answers have none",
        RESPONSES,
    ),
    _done(
        "scheme",
        "on a device, one of `airdraft run --scheme`; `auto` unless given. `dense`, `topk`, `lattice` and `split` "
        "follow the target's distribution, not its text for a seed; an edge has no draft and refuses them",
    ),
    _done(
        "prediction",
        '`{"type": "content", "content": …}` with a string or parts of type `text`: what the text is expected to be, '
        "most of it at least. It changes nothing but the speed. Not with schemes that write in rounds",
    ),
    _done(
        "response_format",
        '`{"type": "json_schema", "json_schema": {"schema": …}}`: the text keeps to the schema, `strict` or not; '
        '`{"type": "json_object"}`; `{"type": "text"}`. See below',
    ),
    _done("structured_outputs", "vLLM's: an object with one of `json`, `regex`, `choice`, `grammar`, `json_object`"),
    _done("json_schema guided_json", "a JSON schema, or its text, that the text keeps to (llama.cpp's, vLLM's)"),
    _done("regex guided_regex", "a regular expression that the whole text matches (SGLang's, vLLM's)"),
    _done("guided_choice", "a list of strings, of which the text is one (vLLM's)"),
    _done(
        "grammar guided_grammar ebnf",
        "a grammar in GBNF or Lark that the text keeps to",
    ),
    _done(
        "text",
        'an object with `format`: `{"type": "json_schema", "name": …, "schema": …}`, `{"type": "json_object"}` or '
        '`{"type": "text"}`',
        RESPONSES,
    ),
    _done("format", '`"json"`, or a JSON schema (Ollama\'s)'),
    _done("airdraft", "an object with the next field", COMPLETIONS),
    _done(
        "airdraft.private",
        "true: the whole prompt is private; a number: what follows so many characters of it, or so many ids. In chats "
        "it is a field of messages and of their parts; see below",
        COMPLETIONS,
    ),
    _done(
        "add_special_tokens",
        "whether the tokenizer adds the special tokens that it begins or ends texts with. Completions: true unless "
        "given. Else: false, because the template writes them",
    ),
    _done("add_generation_prompt", "for the template; true unless given", TALKS),
    _done("chat_template_kwargs", "further variables for the template", TALKS),
    _done("tools", "up to 128 functions that the model may call, for the template; see below", TALKS),
    _done("tool_choice", "`auto`, `none`, `required`, the one function that must be called, or `allowed_tools`", TALKS),
    _done("parallel_tool_calls", "whether the answer may hold several calls; true unless given", TALKS),
    # Refused: what would change the distribution.
    _refused("length_penalty tfs_z", (1,), _OWN),
    _refused("repeat_last_n", (-1,), "penalties look at the whole text; leave it out"),
    _refused("penalize_nl", (True,), "penalties know no exceptions; leave it out"),
    _refused("penalty_prompt", _NOTHING, "penalties look at the prompt itself; leave it out"),
    _refused("mirostat dynatemp_range dry_multiplier xtc_probability", (0,), _OWN),
    _refused("top_n_sigma", (-1, 0), _OWN),
    _refused("min_keep", (0, 1), _OWN),
    _refused("logits_processors custom_logit_processor custom_params vllm_xargs samplers", _NOTHING, _OWN),
    _refused("use_beam_search early_stopping", (False,), "texts are drawn, not searched for; leave it out"),
    # Refused: the form of the text.
    _refused("structural_tag", _NOTHING, _GRAMMAR),
    _refused("guided_decoding_backend guided_whitespace_pattern", _NOTHING, _GRAMMAR),
    _refused("grammar_lazy grammar_triggers preserved_tokens", _NOTHING, _GRAMMAR),
    _refused("functions", _NOTHING, "they are called tools now; give tools"),
    _refused("function_call", ("none", "auto"), "it is called tool_choice now; give that"),
    _refused("tools", _NOTHING, _TOOLS, COMPLETIONS),
    _refused("tool_choice", ("none", "auto"), _TOOLS, COMPLETIONS),
    _refused("parallel_tool_calls", (True, False), _TOOLS, COMPLETIONS),
    _refused("stop_regex", _NOTHING, "stop takes strings; leave it out"),
    _refused("include_stop_str_in_output no_stop_trim", (False,), "a text ends before its stop string; leave it out"),
    _refused("skip_special_tokens", (True,), "special tokens are no part of a text; leave it out"),
    _refused("suffix input_suffix input_prefix input_extra", _NOTHING, "the model writes forwards only; leave it out"),
    _refused("modalities", (["text"], []), _WORDS),
    _refused("audio images image_data prompt_embeds mm_processor_kwargs media_io_kwargs", _NOTHING, _WORDS),
    _refused("web_search_options", _NOTHING, "nothing is searched; leave it out"),
    _refused("verbosity", ("medium",), "the length of answers is not steered; leave it out, and say it in the prompt"),
    _refused("reasoning_effort reasoning think enable_thinking thinking reasoning_format", ("", {}), _THINKING),
    _refused("include_reasoning separate_reasoning stream_reasoning", (False,), "answers are one text; leave it out"),
    # Refused: what answers would have to tell.
    _refused("n_probs", (0,), "answers name likely tokens in OpenAI's way; give logprobs"),
    _refused("top_logprobs", (0,), "completions count them in logprobs; give that", COMPLETIONS),
    _refused("prompt_logprobs return_hidden_states return_logprob post_sampling_probs", (False,), _TOLD),
    _refused("return_tokens return_token_ids return_tokens_as_token_ids", (False,), _TOLD),
    _refused("timings_per_token return_progress", (False,), _TOLD),
    _refused("top_logprobs_num logprob_start_len", (0, -1), _TOLD),
    _refused("stream_options.continuous_usage_stats stream_options.include_obfuscation", (False,), _TOLD),
    _refused("store", (False,), "answers are not kept; leave it out, or ask /v1/responses", OLDER),
    _refused("logprobs", (False,), 'give include, ["message.output_text.logprobs"]', RESPONSES),
    _refused("background", (False,), "an answer is written while its client waits; leave it out", RESPONSES),
    # Refused: the prompt in other ways.
    _refused("airdraft", ({},), "messages are marked, or parts of them; put it there", TALKS),
    _refused("echo", (False,), "an answer does not repeat what it answers; leave it out", TALKS),
    _refused("continue_final_message", (False,), "an answer is a message of its own; leave it out"),
    _refused("chat_template template", _NOTHING, "the server has its own, --chat-template; leave it out"),
    _refused("documents", _NOTHING, "they are not read; put their text into a message"),
    _refused("system", _NOTHING, "give it as a message of role system, to /v1/chat/completions"),
    _refused("raw", (False,), "/v1/completions takes prompts as they are; use that"),
    _refused("context input_ids", _NOTHING, "the prompt goes into prompt, messages or input; put it there"),
    _refused("text", _NOTHING, "the prompt goes into prompt, or into messages; put it there", OLDER),
    _refused("truncate_prompt_tokens", (-1,), "a prompt is read as a whole; shorten it, and leave this out"),
    _refused("truncation", ("disabled",), "a prompt is read as a whole; shorten it, and leave this out", RESPONSES),
    _refused("context_management", ([],), "a prompt is read as a whole; leave it out", RESPONSES),
    _refused("conversation", _NOTHING, "none are kept; give previous_response_id, or all of it in input", RESPONSES),
    # Refused: what belongs elsewhere.
    _refused("options sampling_params extra_body", _NOTHING, "its fields belong to the request itself; put them there"),
    _refused("num_ctx num_batch num_gpu main_gpu num_thread use_mmap", (), _SERVERS),
    _refused("draft_model lora lora_path session_params kv_transfer_params", _NOTHING, _SERVERS),
    _refused("bootstrap_host bootstrap_port bootstrap_room data_parallel_rank", (), _SERVERS),
    _refused("id_slot", (-1,), _SERVERS),
    _refused("priority", (0,), "requests take turns; leave it out"),
    _refused("t_max_predict_ms n_indent", (0,), "a text ends by its own rules; leave it out"),
    # Harmless.
    _harmless("user safety_identifier request_id rid service_tier", "notes for the server's books"),
    _harmless("metadata", "notes for the server's books", OLDER),
    _harmless("max_tool_calls", "of tools that a server calls, of which there are none", RESPONSES),
    _harmless("prompt_cache_key prompt_cache_retention prompt_cache_options", "about speed, not about the text"),
    _harmless("cache_prompt cache_salt", "about speed, not about the text"),
    _harmless("keep_alive ttl", "the model stays loaded"),
    _harmless("n_keep n_discard", "a text ends where the context does"),
    _harmless("spaces_between_special_tokens", "special tokens are no part of a text"),
    _harmless("mirostat_tau mirostat_eta dynatemp_exponent xtc_threshold", "of samplers that are refused"),
    _harmless("dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers", "of a sampler that is refused"),
)
"""A new field gets its row here, and if something is done with it an attribute of `schema.Body`."""


def _rows() -> Iterator[tuple[tuple[Endpoint, str], Field]]:
    for field in FIELDS:
        for endpoint in field.on:
            for name in field.names:
                yield (endpoint, name), field


BY_NAME: dict[tuple[Endpoint, str], Field] = dict(_rows())
"""The row of a name at an endpoint."""
