"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Tests fill all cores already, and threads that share a small product spin while they wait for each other. NumPy and
# PyTorch read this when they are imported, here and in the processes that tests start.
for library in ("OPENBLAS", "MKL", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# How long an example takes, or is drawn for, says how busy the machine is. Laws are hunted with all their examples in
# CI, by --hypothesis-profile=thorough: see `examples` in suites.py.
settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=20)
settings.load_profile("quick")

# A shell starts what it runs in the background with Ctrl-C ignored, and whatever that starts ignores it, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Half as many again as there are cores: tests wait for sockets, clocks and processes, too."""
    return (3 * (os.cpu_count() or 1) + 1) // 2


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a real vLLM serves the shipped target: one for all workers, which takes most of a minute to start."""
    from .models.vllm_server import shared_vllm

    with shared_vllm(tmp_path_factory) as url:
        yield url


def pytest_collection_finish() -> None:
    """Keep what importing and collecting made out of garbage collections, of which tests ask for hundreds."""
    gc.collect()
    gc.freeze()


# What one run skips for want of an extra, `-m lacked` runs once the extra is installed.
SKIPPED = "airdraft/skipped"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what the run before this one has skipped, test by test or by whole files."""
    if cache := getattr(config, "cache", None):
        skipped = set(cache.get(SKIPPED, ()))
        for item in items:
            if skipped & {item.nodeid, item.nodeid.partition("::")[0]}:
                item.add_marker("lacked")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Note what was skipped, for the next run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    cache = getattr(session.config, "cache", None)
    if reporter and cache and not session.config.option.collectonly:
        cache.set(SKIPPED, [report.nodeid for report in reporter.stats.get("skipped", ())])
