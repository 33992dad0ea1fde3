"""Logs, as lines for people or as JSON for machines. Neither contains texts or access tokens."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

LEVELS = ("debug", "info", "warning", "error")

TEXT = "airdraft: %(levelname)s: %(message)s"
QUIET = {"websockets": logging.ERROR, "urllib3": logging.ERROR, "uvicorn": logging.ERROR, "asyncio": logging.WARNING}
"""Libraries that would log more than is useful. At DEBUG some write headers, secrets included."""

MOST = 2000
"""Most characters of a message, or of a field."""


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """Fields for `extra=` of a logging call: keys of their own in JSON, and not shown in a line of text."""
    return {"fields": values}


class JsonFormatter(logging.Formatter):
    """Writes one JSON object a line: time (UTC, ISO 8601), level, logger, message, fields, and any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
            **{name: _cut(value) for name, value in getattr(record, "fields", {}).items()},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _LineFormatter(logging.Formatter):
    """One line for each record, tracebacks aside: parts of a message may come from a peer."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of the one it overrides
        return printable(_cut(super().formatMessage(record)))


def _cut(value: Any) -> Any:
    """Shorten a long text: a peer's may be megabytes."""
    return f"{value[:MOST]}…" if isinstance(value, str) and len(value) > MOST else value


def printable(text: str) -> str:
    """`text` with a space for each character that a terminal would act upon."""
    return "".join(char if char.isprintable() else " " for char in text)


def configure(level: str = "warning", as_json: bool = False) -> None:
    """Send this process's log, from `level` up, to standard error. Replaces an earlier configuration."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else _LineFormatter(TEXT))
    root = logging.getLogger()
    root.handlers = [each for each in root.handlers if type(each) is not logging.StreamHandler] + [handler]
    root.setLevel(level.upper())
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
