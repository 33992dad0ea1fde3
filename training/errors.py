"""The one error a user of the pipeline can cause: printed as one line, exit code 2."""

from __future__ import annotations


class UserError(Exception):
    """Something the person running the pipeline can put right; the message says what."""
