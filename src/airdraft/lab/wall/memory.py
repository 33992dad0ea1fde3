"""`python -m airdraft.lab.wall.memory ENGINE MODEL...`: how much memory this process takes to load and run models.

This is a process of its own that imports nothing large before its first look, because libraries count, too. Prints
bytes, or `null`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def resident_bytes(pid: int | None = None) -> int | None:
    """Memory of a process, None for this one: now on Linux; on other Unix systems this one's peak so far.

    Returns: None where the system does not say.
    """
    if sys.platform == "linux":
        lines = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8").splitlines()
        [found] = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
    elif sys.platform == "win32" or pid is not None:
        found = None
    else:
        import resource  # noqa: PLC0415  # not on Windows

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = most if sys.platform == "darwin" else 1024 * most
    return found


def grown_bytes(engine: str, names: list[str]) -> int | None:
    """The memory that loading the models `names` with `engine`, and a forward of each, adds."""
    before = resident_bytes()
    from airdraft.models.fit import Fit  # noqa: PLC0415
    from airdraft.models.registry import load  # noqa: PLC0415  # it counts

    models = [load(name, engine=engine, fit=Fit(1))[0] for name in names]
    for model in models:
        model.forward(model.new_cache(), 0, range(200), 6)
    after = resident_bytes()
    return None if before is None or after is None else after - before


if __name__ == "__main__":
    sys.stdout.write(json.dumps(grown_bytes(sys.argv[1], sys.argv[2:])))
