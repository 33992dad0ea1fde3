"""`python -m airdraft` is `airdraft`."""

from airdraft.cli import main

main()
