"""What a person types, or a script: messages of one line or several."""

from __future__ import annotations

import contextlib
import sys

from airdraft.errors import BadParameterError, first_line

PROMPT, MORE = ">>> ", "... "
_MARK = '"""'
_MOST = 1 << 24
"""Bytes of one message from a script."""


class Typed:
    """Messages from standard input.

    A line that ends in a backslash goes on in the next one, and whatever stands between two \"\"\" is one message, or
    the rest of one command.
    """

    def __init__(self, prompts: bool) -> None:
        """`prompts`: whether a person types, who needs prompts and a line that can be edited."""
        self._prompts, self._left = prompts, _MOST
        if prompts:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401, PLC0415 - from then on, lines are edited and remembered

    def next(self) -> str | None:
        """Return the next message that is not empty; None at the end of the input.

        Raises: `BadParameterError` for bytes that are no UTF-8, too many of them, and an end in the midst of a message.
        """
        self._left = _MOST
        while (line := self._line(PROMPT)) is not None:
            head, mark, rest = line.partition(_MARK)
            if mark and (not head.strip() or head.startswith("/")):
                message = head + self._until_mark(rest)
            else:
                message = self._continued(line)
            if message.strip():
                return message.strip()
        return None

    def _until_mark(self, line: str) -> str:
        lines = []
        while _MARK not in line:
            lines.append(line)
            line = self._more()
        inside, _, after = line.partition(_MARK)
        if after.strip():
            raise BadParameterError(f"after {_MARK} stands {after.strip()[:40]!r}; end the message with {_MARK}")
        return "\n".join([*lines, inside]).strip("\n")

    def _continued(self, line: str) -> str:
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = self._more()
        return "\n".join([*lines, line])

    def _more(self) -> str:
        line = self._line(MORE)
        if line is None:
            raise BadParameterError(f'the input ends in the midst of a message; end it with {_MARK}, or without a "\\"')
        return line

    def _line(self, prompt: str) -> str | None:
        try:
            if self._prompts:
                line = input(prompt)
                line.encode()
            else:
                read = sys.stdin.buffer.readline(self._left + 1)  # whatever the locale says of its encoding
                self._left -= len(read)
                if self._left < 0:
                    raise BadParameterError(f"a message has more than {_MOST:,} bytes; end it sooner")
                if not read:
                    return None
                line = read.decode()
        except EOFError:
            return None
        except UnicodeError as error:
            raise BadParameterError(
                f"standard input is not UTF-8 text ({first_line(error)}); convert it first"
            ) from error
        return line.rstrip("\r\n")
