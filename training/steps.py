"""The command line of a recipe: named steps that run in their order, and what goes wrong said in one line."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from training.errors import UserError

Mistakes = tuple[type[Exception], ...]


def parser(prog: str, description: str | None, steps: Sequence[str]) -> argparse.ArgumentParser:
    """A command line that begins with the steps; the recipe adds its options."""
    p = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("steps", nargs="*", metavar="step", help="any of: " + " ".join(steps) + " (default: all)")
    return p


def check(given: Sequence[str], steps: Sequence[str]) -> None:
    """Refuses steps that there are not. Raises: `UserError`."""
    unknown = [step for step in given if step not in steps]
    if unknown:
        raise UserError(f"unknown step {unknown[0]!r}; the steps are {', '.join(steps)}")


def require(*libraries: str) -> None:
    """Refuses to begin without what the extra installs. Raises: `UserError`."""
    try:
        for library in libraries:
            importlib.import_module(library)
    except ImportError as error:
        raise UserError(f"{error.name} is absent: pip install 'airdraft[train]'") from None


def chosen(given: Sequence[str], steps: Sequence[str]) -> Iterator[str]:
    """The given steps (all, if none is) in the recipe's order; says when each begins, and how long it took."""
    for step in [step for step in steps if not given or step in given]:
        start = time.monotonic()
        print(f"== {step}", flush=True)
        yield step
        print(f"== {step} took {time.monotonic() - start:.0f} s", flush=True)


def main(work: Callable[[], None], mistakes: Mistakes = (UserError,)) -> int:
    """Runs a recipe. Exit code: 0 done, 2 for something the user can put right."""
    try:
        work()
    except mistakes as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return 130
    return 0
