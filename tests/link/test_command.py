"""`airdraft link` with a link by name."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.errors import BadParameterError
from airdraft.link.presets import listing


def test_the_links_are_listed() -> None:
    result = CliRunner().invoke(app, ["link", "--list"])
    assert result.exit_code == 0
    assert result.stdout == listing() + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--link", "nope"], "no link 'nope': give one of const"),
        (["--link", "const:rtt=x"], "rtt is 'x'"),
        (["--link", "markov2", "--rtt-ms", "5"], "--link and a rate or round trip are given"),
        (["--link", "markov2", "--to", "nonsense"], "--to is 'nonsense'"),
    ],
)
def test_a_mistake(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["link", *words])
    assert isinstance(result.exception, BadParameterError)
    assert message in str(result.exception)
