"""Coverage-guided fuzzing of both machines and the decoder, with atheris (extra `fuzz`). A script, not a test:

    python tests/fuzz/atheris_machines.py -max_total_time=300 corpus/

The options are libFuzzer's. `corpus/` is filled with valid inputs first, if it is empty; what crashes is written to the
working directory, and `airdraft fuzz --replay FILE` tries it again.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["airdraft"]):
    from airdraft.lab.fuzz import run
    from airdraft.lab.fuzz.mutate import mutate, seeds


def one(data: bytes) -> None:
    """What is raised is a crash."""
    run(data)


def changed(data: bytes, most: int, seed: int) -> bytes:
    """libFuzzer's own changes half the time, and else ours, which know what a message is."""
    if seed % 2:
        return bytes(atheris.Mutate(data, most))
    return mutate(bytes(data), random.Random(seed))[:most]  # noqa: S311


def main() -> None:
    """Fill the corpus, and begin."""
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    if folders and not (folders[0].is_dir() and any(folders[0].iterdir())):
        folders[0].mkdir(parents=True, exist_ok=True)
        for at, data in enumerate(seeds()):
            (folders[0] / f"seed-{at:03}").write_bytes(data)
    limits = ("-max_len=32768", "-timeout=5", "-rss_limit_mb=2048")
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], one, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
