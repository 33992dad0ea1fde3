"""Errors and their codes: data, which crosses logs, wires and processes unchanged."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import pickle
import pkgutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import msgspec
import pytest

import airdraft
from airdraft.core.messages import ERROR_CODES, Error, encode
from airdraft.errors import AirdraftError, BadParameterError, Code, RefusedError, too_long
from airdraft.lab.chaos.faults import Fault

EXTRAS = ("torch", "transformers", "gguf", "llama_cpp", "matplotlib", "onnx", "safetensors", "atheris")
VALUES = {str: "busy", int: 418, Code: Code.CONTEXT, Fault: Fault("drop", 1.0)}


def error_types() -> Iterator[type[AirdraftError]]:
    """`AirdraftError` and every class below it, wherever in the package."""
    for module in pkgutil.walk_packages(airdraft.__path__, "airdraft."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError as missing:
            if (missing.name or "").partition(".")[0] not in EXTRAS:
                raise
    found = [AirdraftError]
    for kind in found:
        found += [
            each for each in kind.__subclasses__() if each not in found and each.__module__.startswith("airdraft.")
        ]
    return iter(found)


def built(kind: type[AirdraftError]) -> AirdraftError:
    """One of these errors, with something in every parameter of its constructor."""
    if kind.__init__ is Exception.__init__:
        return kind("the thing is wrong; mend it")
    hints = inspect.get_annotations(kind.__init__, eval_str=True)
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    chosen = {
        name: next(VALUES[each] for each in VALUES if each in (hints[name], *_members(hints[name]))) for name in names
    }
    return kind(**chosen)


def _members(hint: object) -> tuple[object, ...]:
    return getattr(hint, "__args__", ())


def test_every_error_survives_a_pickle() -> None:
    kinds = list(error_types())
    names = {kind.__name__ for kind in kinds}
    assert {
        "ApiError",
        "BadParameterError",
        "FailedError",
        "RefusedError",
        "RemoteProtocolError",
        "_EndedError",
    } <= names
    for kind in kinds:
        error = built(kind)
        error.add_note("on the way")
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301
            assert type(again) is kind
            assert (again.args, vars(again), str(again)) == (error.args, vars(error), str(error))


def _fail(code: str) -> None:
    raise RefusedError(code, "no room; come back later")


def test_an_error_comes_whole_out_of_a_process_pool() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(RefusedError, match="no room") as caught:
        pool.submit(_fail, Code.BUSY).result()
    assert caught.value.code is Code.BUSY


@pytest.mark.parametrize("code", Code)
def test_a_code_is_its_word_wherever_it_goes(code: Code, caplog: pytest.LogCaptureFixture) -> None:
    word = code.value
    assert (str(code), f"{code}", json.dumps(code)) == (word, word, f'"{word}"')
    assert code == word
    assert {word: 1}[code] == 1
    assert encode(Error(7, code, "why")) == encode(Error(7, word, "why"))
    assert msgspec.json.encode({"code": code, code: 1}) == msgspec.json.encode({"code": word, word: 1})
    logging.getLogger("airdraft").warning("refused: %s", code)
    assert caplog.messages == [f"refused: {word}"]
    assert pickle.loads(pickle.dumps(code)) is code  # noqa: S301


def test_codes_are_looked_up_and_those_of_a_newer_peer_are_none() -> None:
    assert Code.of("busy") is Code.BUSY
    assert Code.of("of tomorrow") is None
    assert {code for code in Code if RefusedError(code.value, "").passes} == {
        Code.BUSY, Code.ENGINE, Code.IDLE, Code.QUOTA, Code.SILENT, Code.CLOSED, Code.STALLED
    }  # fmt: skip
    assert not RefusedError("of tomorrow", "").passes


def test_what_does_not_travel_is_no_part_of_the_protocol() -> None:
    assert {code for code in Code if not code.travels} == {
        Code.UNAUTHORISED,
        Code.MODEL,
        Code.CLOSED,
        Code.STALLED,
        Code.GONE,
    }
    assert list(ERROR_CODES) == [code.value for code in Code if code.travels]


def test_a_prompt_too_long() -> None:
    assert too_long(9, 8) == "the prompt is 9 tokens, the target's context is 8; shorten the prompt"
    assert too_long(9, 8, "m") == "the prompt is 9 tokens, the context of m is 8; shorten the prompt"
    error = BadParameterError(too_long(9, 8), "prompt", Code.CONTEXT)
    assert isinstance(error, ValueError)
    assert (error.field, error.code) == ("prompt", Code.CONTEXT)
    assert (BadParameterError("no").field, BadParameterError("no").code) == (None, Code.SCHEME)
