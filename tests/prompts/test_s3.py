"""A bucket of a real S3 server over HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.errors import LinkError
from airdraft.prompts.arriving import StoredPrompts
from airdraft.prompts.publishing import publish

from .models import steady
from .test_arriving import PROMPT, QUESTION, Patient, Watched, rows_after

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),  # clients try a server that is gone several times
    pytest.mark.filterwarnings("default"),  # what these libraries warn of is theirs
]
s3fs = pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs a server of S3")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its URL, in an environment in which clients find it, and the server."""
    log = tmp_path / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=out, stderr=subprocess.STDOUT
        ) as server,
    ):
        try:
            for _ in range(600):
                if found := re.search(r"Running on (\S+)", log.read_text("utf-8")):
                    break
                time.sleep(0.1)
            assert found, log.read_text("utf-8")
            url = found[1]
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
            monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem(endpoint_url=url).mkdir("prompts")
            yield "s3://prompts/here", server
        finally:
            server.kill()


def test_a_prompt_in_a_bucket(bucket: tuple[str, subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture) -> None:
    url, server = bucket
    engine: Any = steady()
    expected = asyncio.run(rows_after(engine, None, [*PROMPT, *QUESTION]))[0]
    made = publish(engine, PROMPT, url)
    assert (made.written, publish(engine, PROMPT, url).written) == (10, 0)

    prompts = Watched.at(url, engine)
    rows, fetched, _ = asyncio.run(rows_after(Patient(engine, prompts), prompts, [*PROMPT, *QUESTION]))
    assert np.array_equal(rows, expected)
    assert fetched >= 128

    s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], skip_instance_cache=True).pipe(
        dict.fromkeys(prompts.store._fs.glob("prompts/here/*/*/blocks/*/1"), b"damaged")
    )
    prompts = Watched.at(url, engine)
    rows, fetched, _ = asyncio.run(rows_after(Patient(engine, prompts), prompts, [*PROMPT, *QUESTION]))
    assert np.array_equal(rows, expected)
    assert fetched == 0
    assert "is damaged" in caplog.text

    other = publish(engine, PROMPT[::-1], url, most_bytes=made.bytes)
    assert other.evicted == 1
    assert len(prompts.store.prompts()) == 1

    server.kill()
    server.wait()
    with pytest.raises(LinkError, match="s3://prompts/here"):
        publish(engine, PROMPT, url)
    caplog.clear()
    rows, fetched, _ = asyncio.run(rows_after(engine, StoredPrompts.at(url, engine), [*PROMPT, *QUESTION]))
    assert np.array_equal(rows, expected)
    assert fetched == 0
    assert "prompts are computed: s3://prompts/here cannot be listed" in caplog.text
