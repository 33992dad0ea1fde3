"""The command `airdraft`, which is `python -m airdraft`, too."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it with 130 and no word, also while modules are imported."""
    try:
        _open_closed()
        from airdraft.cli import main as command  # noqa: PLC0415  # takes a second

        command()
    except KeyboardInterrupt:
        sys.exit(130)
    except ImportError as error:  # of a module in C, whose start was interrupted
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        sys.exit(130)


def _open_closed() -> None:
    """Let standard input, output and error be empty where they are closed: a file or socket would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            file = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, file)


if __name__ == "__main__":
    main()
