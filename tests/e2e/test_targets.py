"""A text goes on at an edge with the same weights, and at no other: real processes, killed in its midst."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ..pairs import copied
from .processes import announced, started
from .test_faults import SLOW, Writing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

EDGE = ("edge", "--port", "0", "--json", *SLOW)
REFUSED = (
    r"the edge at {} serves m \(context 102[34], ends at 0, weights ([0-9a-f]{{8}})\), and the one at {} serve[sd] "
    r"m \(context 102[34], ends at 0, weights ([0-9a-f]{{8}})\); name edges with one and the same target"
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder in which `./m` is the shipped target."""
    return copied("target", tmp_path / "own" / "m").parent


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder in which `./m` is a model with the same tokenizer and config, and other weights."""
    folder = copied("target", tmp_path / "other" / "m")
    path = folder / "model.safetensors"
    # In place, so that what the graph says of the file stays true.
    data = bytearray(path.read_bytes())
    head = int.from_bytes(data[:8], "little") + 8
    weights = np.frombuffer(data, np.float32, offset=head)
    weights *= np.random.default_rng(0).normal(1, 0.2, weights.size).astype(np.float32)
    path.write_bytes(data)
    return folder.parent


def refused(text: Writing, url: str, first: str) -> None:
    """The text ends with what was committed, and with a line that tells the two targets apart."""
    rest, errors = text.process.communicate(timeout=90)
    found = re.search(REFUSED.format(re.escape(url), re.escape(first)), " ".join(errors.decode().split()))
    assert found, errors
    assert found[1] != found[2]
    assert text.process.returncode == 2
    assert text.expected.startswith((text.said + rest).decode().strip("\n").removeprefix("def main():\n"))


@pytest.mark.parametrize("scheme", ["stream", "coupled", "server", "auto"])
def test_a_handover_to_other_weights_under_one_name(own: Path, other: Path, scheme: str) -> None:
    with (
        started(*EDGE, "--target", "./m", cwd=own) as edge,
        started(*EDGE, "--target", "./m", cwd=other) as second,
    ):
        first, url = announced(edge)["url"], announced(second)["url"]
        with Writing(f"{first},{url}", scheme) as text:
            edge.kill()
            refused(text, url, first)


def test_an_edge_started_again_with_other_weights_under_one_name(own: Path, other: Path) -> None:
    with started(*EDGE, "--target", "./m", cwd=own) as edge:
        url = announced(edge)["url"]
        with Writing(url, "stream") as text:
            edge.kill()
            edge.wait()
            again = ("edge", "--port", url.rpartition(":")[2], "--json", *SLOW, "--target", "./m")
            with started(*again, cwd=other) as other_edge:
                announced(other_edge)
                refused(text, url, url)


def test_equal_weights_under_two_paths_go_on(own: Path) -> None:
    with started(*EDGE) as edge, started(*EDGE, "--target", "./m", cwd=own) as second:
        first, url = announced(edge)["url"], announced(second)["url"]
        with Writing(f"{first},{url}", "stream") as text:
            edge.kill()
            assert f"connected to {url}" in text.finish()
