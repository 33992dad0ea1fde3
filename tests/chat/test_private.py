"""Private parts of a chat: their marks, which token is the first, and what a file may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.api.template import ChatTemplate
from airdraft.chat.history import Exchange, History
from airdraft.chat.marks import CLOSE, OPEN, is_private, parts, plain
from airdraft.chat.talk import private_of, prompt_of
from airdraft.errors import BadParameterError
from airdraft.models.files.folder import shipped

SOURCE = """{% for m in messages %}{{ '# ' + m.role + ': ' + (m.content | trim) + '\\n' }}{% endfor %}# assistant:"""

words = st.text(st.sampled_from("ab é\n<>中"), max_size=6)


@given(st.lists(words, min_size=1, max_size=7).filter(lambda found: len(found) % 2 == 1))
def test_marks_come_off_and_parts_stay(found: list[str]) -> None:
    typed = "".join(part if at % 2 == 0 else f"{OPEN}{part}{CLOSE}" for at, part in enumerate(found))
    assert parts(typed) == found
    assert plain(typed) == "".join(found)
    assert plain(typed, "X") == "".join("X" if at % 2 else part for at, part in enumerate(found))
    assert is_private(typed) is any(found[1::2])


@pytest.mark.parametrize(
    "typed", ["a<private>b", "a</private>b", "<private><private>a</private>", "</private><private>"]
)
def test_half_a_pair_of_marks_is_refused(typed: str) -> None:
    with pytest.raises(BadParameterError, match="<private>"):
        parts(typed)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    file = tmp_path_factory.mktemp("chat") / "chat.jinja"
    file.write_text(SOURCE)
    found = ChatTemplate.of(shipped("draft"), file)
    assert found is not None
    return found


def test_no_token_before_the_first_private_one_holds_a_private_character(template: ChatTemplate) -> None:
    """Wherever the part is, and whatever the template and the tokenizer make of its beginning and its end."""
    for before in ("", "tell ", "tell\n", "tell\n\n", "return retu"):
        for secret in ("  \n\n x", "rn", "Жук", "中", "\ue000", "=== 4711", "a", " a"):
            question = f"{before}{OPEN}{secret}{CLOSE} now"
            ids = prompt_of(template, question)
            first = private_of(ids, template, question)
            assert first is not None
            head = template.render([{"role": "user", "content": f"{before}|"}], {}).partition("|")[0]
            assert head.startswith(template._tokenizer.decode(ids[:first], skip_special_tokens=False))
            assert len(ids[:first]) >= len(template.encode(head)) - 4  # and no more is private than hangs on it
    assert private_of(prompt_of(template, "tell"), template, "tell") is None


def test_what_was_private_stays_so_in_later_turns(template: ChatTemplate) -> None:
    asked = f"my word is {OPEN}quokka{CLOSE}"
    history = History("be brief", [Exchange("hello", "hi"), Exchange(asked, "quokka it is", private=True)])
    ids = prompt_of(template, "and now?", history)
    first = private_of(ids, template, "and now?", history)
    assert first is not None
    assert "quokka" not in template._tokenizer.decode(ids[:first])
    assert "my word is" in template._tokenizer.decode(ids[:first])
    history.left_out = 2
    history.turns.append(Exchange("again", "well, quokka", private=True))  # the answer alone is in the prompt
    ids = prompt_of(template, "and now?", history)
    first = private_of(ids, template, "and now?", history)
    assert first is not None
    assert "quokka" not in template._tokenizer.decode(ids[:first])
    history.left_out = 3
    assert private_of(prompt_of(template, "and now?", history), template, "and now?", history) is None


def test_a_template_that_takes_no_other_words_makes_all_of_it_private(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{{ raise_exception('no') if 'quokka' not in messages[0].content else messages[0].content }}")
    strict = ChatTemplate.of(shipped("draft"), file)
    assert strict is not None
    question = f"the {OPEN}quokka{CLOSE}"
    assert private_of(prompt_of(strict, question), strict, question) == 0
