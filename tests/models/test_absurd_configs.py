"""A model's JSON files with any values whatever: it loads, or one clear line says which value is wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from airdraft.api.template import ChatTemplate
from airdraft.core.messages import VERSION, Decoder, ToDevice, Welcome, encode
from airdraft.errors import ModelError
from airdraft.models.files.config import read_config, read_json
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load_target

from ..pairs import copied
from ..suites import examples

FILES = ("config.json", "generation_config.json", "tokenizer_config.json")
LONGEST = 1000
"""Characters of a message, a path of a test's own folder in it."""
EXAMPLES = examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])

NAMES = sorted(
    {name for file in FILES if (shipped("target") / file).is_file() for name in read_json(shipped("target") / file)}
    | {"head_dim", "num_key_value_heads", "n_positions", "n_head", "n_embd", "eos_token_id", "chat_template"}
    | {"tokenizer_file", "sliding_window", "window_size", "use_sliding_window", "bos_token", "eos_token"}
)
NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 7, 4095, 4096, 4097, 1 << 24, (1 << 24) + 1, 1 << 31, 1 << 62, 1 << 63, 1 << 64, 10**30, 10**400,
     -(10**30), 0.5, 1e308, float("inf"), float("nan"), True, False, None]
)  # fmt: skip
WORDS = st.sampled_from(["", "x", "</s>", "\ud800", "\n\x1b[2J", "../..", "/dev/zero", "a" * 5000, "{{", "\x00"])
VALUES = st.recursive(
    NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The draft, whose files tests replace."""
    made = copied("draft", tmp_path_factory.mktemp("models") / "draft")
    if not (made / "tokenizer_config.json").is_file():
        shutil.copy(shipped("target") / "tokenizer_config.json", made)
    return made


@pytest.fixture
def files(folder: Path) -> Iterator[dict[str, bytes]]:
    """What the files held, which they hold again afterwards."""
    before = {name: (folder / name).read_bytes() for name in FILES}
    yield before
    restore(folder, before)


def restore(folder: Path, before: dict[str, bytes]) -> None:
    for name, data in before.items():
        (folder / name).write_bytes(data)


def one_clear_line(problem: ModelError, folder: Path) -> None:
    said = str(problem)
    assert said.isprintable()
    assert len(said) <= LONGEST, len(said)
    assert folder.name in said
    assert "; " in said, said  # the remedy


@EXAMPLES
@given(st.sampled_from(FILES), CHANGES)
@example("config.json", {"eos_token_id": [10**30]})
@example("generation_config.json", {"eos_token_id": 10**30})
@example("config.json", {"vocab_size": 10**400})
@example("config.json", {"max_position_embeddings": 1 << 63})
@example("config.json", {"eos_token_id": list(range(4000))})
@example("config.json", {"tokenizer_file": "a" * 5000})
@example("config.json", {"tokenizer_file": "\ud800"})
@example("tokenizer_config.json", {"chat_template": 10**30})
@pytest.mark.slow
def test_any_values(folder: Path, files: dict[str, bytes], name: str, changes: dict[str, Any]) -> None:
    restore(folder, files)
    content = json.loads(files[name]) | changes
    (folder / name).write_text(json.dumps(content))
    try:
        config = read_config(folder)
        ChatTemplate.of(folder)
        model, _ = load_target(str(folder))
    except ModelError as problem:
        one_clear_line(problem, folder)
        return
    assert len(set(config.eos_ids)) == len(config.eos_ids)
    info = model.info
    limits = (VERSION, "test", info.name, info.max_context, 1024, 8, 4, 10.0)
    frame = encode(Welcome(*limits, info.eos_ids, 0.0, info.digest))
    assert [type(message) for message in Decoder(ToDevice).feed(frame)] == [Welcome]


BROKEN = {
    "nested arrays": b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "nested objects": b'{"a": ' * 200_000 + b"1" + b"}" * 200_000,
    "a number of 100,000 digits": b'{"vocab_size": ' + b"9" * 100_000 + b"}",
    "cut off": b'{"vocab_size": 40',
    "no UTF-8": b'{"a": "\xff"}',
    "zero bytes": bytes(1000),
    "empty": b"",
    "a list": b"[1, 2]",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_json(folder: Path, files: dict[str, bytes], name: str, kind: str) -> None:
    (folder / name).write_bytes(BROKEN[kind])

    def load() -> None:
        ChatTemplate.of(folder)
        load_target(str(folder))

    with pytest.raises(ModelError) as raised:
        load()
    one_clear_line(raised.value, folder)
    assert name in str(raised.value)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "model.onnx", "model.safetensors", "x.onnx"]
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    folder = copied("draft", tmp_path / "draft")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=rf"draft/{name} is no file; put the model's own there"):
        load_target(str(folder))


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_file_cut_off_is_found_at_once(name: str, part: float, tmp_path: Path) -> None:
    folder = copied("draft", tmp_path / "draft")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(part * len(data))])
    with pytest.raises(ModelError) as raised:
        load_target(str(folder))
    assert "draft" in str(raised.value)
    assert "\n" not in str(raised.value)
