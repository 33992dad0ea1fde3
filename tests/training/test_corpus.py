"""What text is learned from, and how functions are lifted out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tokenizers")

from training import corpus, functions

GOOD = 'def add(a, b):\n    """Sum of two numbers.\n\n    More.\n    """\n    total = a + b\n    return total\n'


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("pkg/core.py", True),
        ("pkg/tests/core.py", False),
        ("pkg/test_core.py", False),
        ("pkg/_vendor/six.py", False),
        ("pkg/migrations/0001_initial.py", False),
        ("pkg/thing_pb2.py", False),
        ("pkg/data.json", False),
    ],
)
def test_paths(path: str, wanted: bool) -> None:
    assert corpus.wanted_path(path) is wanted


def test_rejections() -> None:
    filler = "value = compute(argument)\n" * 20
    assert corpus.reject(filler) is None
    assert corpus.reject(filler + "x = '" + "a" * 400 + "'\n") == "long line"
    assert corpus.reject("# Do not edit\n" + filler) == "generated"
    assert corpus.reject("# under the GNU General Public License\n" + filler) == "copyleft notice"
    assert corpus.reject("x = [\n" + "    1.5, 2.5,\n" * 40 + "]\n") in ("digits", "data")


def test_licence_header_goes_and_other_comments_stay() -> None:
    assert corpus.strip_header("# Copyright someone\n# Licensed\n\nimport os\n") == "import os\n"
    assert corpus.strip_header("# why this file\nimport os\n") == "# why this file\nimport os\n"


def test_clean_finds_functions_and_methods() -> None:
    text = GOOD + "\n\nclass Thing:\n" + "".join("    " + line + "\n" for line in GOOD.splitlines()) + "\n" * 3
    source = corpus.clean("p", "a.py", (text + "# tail of the file, long enough to be kept\n" * 3).encode())
    assert source is not None
    assert source.functions == [GOOD, GOOD]


def test_clean_drops_what_does_not_parse() -> None:
    assert corpus.clean("p", "a.py", b"print 'two'\n" * 40) is None


def test_duplicates_are_dropped_even_with_classes_renamed() -> None:
    body = "def forward(self, states):\n    layer = BertLayer(self.config)\n" + "    states = layer(states)\n" * 8
    sources = [corpus.clean("p", n, t.encode()) for n, t in (("a.py", body), ("b.py", body.replace("Bert", "Roberta")))]
    assert all(sources)
    assert len(list(corpus.deduplicated([s for s in sources if s]))) == 1


def test_pins_are_complete_and_permissive() -> None:
    pins = corpus.packages(Path(corpus.__file__).with_name("corpus.toml"))
    assert len({pin.name for pin in pins}) == len(pins)
    assert all(pin.version and not any(bad in pin.licence for bad in ("GPL", "MPL")) for pin in pins)
    assert 3 <= sum(pin.held_out for pin in pins) <= 8


def test_head_is_signature_and_docstring() -> None:
    function = functions.lift(GOOD)
    assert function is not None
    assert function.head == "".join(GOOD.splitlines(keepends=True)[:5])
    assert functions.prompt_of(function) == 'def add(a, b):\n    """Sum of two numbers."""\n'


@pytest.mark.parametrize(
    ("completion", "ended", "good"),
    [
        ("    return 1\n", True, True),
        ("    return 1\n\n\ndef g():\n    pas", False, True),
        ("    return 1\n", False, False),  # neither dedents nor ends
        ("    return (1\n", True, False),
        ("", True, False),
    ],
)
def test_completions(completion: str, ended: bool, good: bool) -> None:
    head = "def f():\n"
    assert functions.parses(functions.completed(head, completion, ended), head) is good
