"""Logs: JSON that machines read, lines that a terminal bears."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from airdraft.telemetry import logs

CODE = """
import logging
from airdraft.telemetry import logs
logs.configure("info", as_json=%s)
log = logging.getLogger("airdraft.edge")
log.debug("too little")
log.info("session %%d\\n ended \\x1b[31m", 3, extra=logs.fields(session=3, code="busy"))
logging.getLogger("websockets.server").info("too much")
try: 1 / 0
except ZeroDivisionError: log.exception("broken")
logs.configure("error", as_json=%s)
log.warning("too little by now")
"""


def said(as_json: bool) -> list[str]:
    code = CODE % (as_json, as_json)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.splitlines()


def test_json_has_a_record_a_line() -> None:
    first, second = (json.loads(line) for line in said(as_json=True))
    assert first["time"].endswith("+00:00")
    del first["time"]
    assert first == {
        "level": "info", "logger": "airdraft.edge", "message": "session 3\n ended \x1b[31m", "session": 3,
        "code": "busy",
    }  # fmt: skip
    assert "ZeroDivisionError" in second["exception"]


def test_a_line_for_people_stays_one_and_moves_no_cursor() -> None:
    lines = said(as_json=False)
    assert lines[0] == "airdraft: INFO: session 3  ended  [31m"
    assert lines[1] == "airdraft: ERROR: broken"
    assert lines[2].startswith("Traceback")
    assert "too" not in "".join(lines)


@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_peer_says_at_length_is_cut(as_json: bool) -> None:
    formatter = logs.JsonFormatter() if as_json else logs._LineFormatter(logs.TEXT)
    record = logging.LogRecord("airdraft", logging.WARNING, "", 0, "%s", ("x" * 4_000_000,), None)
    record.fields = {"code": "y" * 4_000_000, "session": 1}
    assert len(formatter.format(record)) < 5000


@pytest.fixture
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name in logs.QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("_restored")
def test_configuring_takes_no_handler_that_somebody_else_has_put_there(caplog: pytest.LogCaptureFixture) -> None:
    logs.configure("info")
    logging.getLogger("airdraft.edge").info("for all")
    assert "for all" in caplog.text
