"""`python -m bench.doctor`: what `airdraft doctor` says about the chat pair on this machine, in docs/doctor.md.

The target is downloaded if it is not there yet, 98 MB.
"""

from __future__ import annotations

import subprocess
import sys

from bench.pages import machine, parser, publish

WORDS = ("doctor", "--target", "chat-target", "--draft", "chat-draft")
PAGE = "docs/doctor.md"


def main() -> None:
    """Run, print, write."""
    parser("doctor", f"Look at the chat pair, and write what is said into {PAGE}.").parse_args()
    done = subprocess.run([sys.executable, "-m", "airdraft", *WORDS, "--no-color"], stdout=subprocess.PIPE, check=True)
    here = machine()
    said = done.stdout.decode().rstrip()
    where = f"On: {here['cpu']} ({here['cores']} cores, load {here['load']:.1f} meanwhile)."
    shown = f"```\n$ airdraft {' '.join(WORDS)}\n{said}\n```\n\n{where}"
    publish(PAGE, {"doctor": shown}, None, None)


if __name__ == "__main__":
    main()
