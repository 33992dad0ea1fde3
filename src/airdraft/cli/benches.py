"""All commands of `airdraft bench`: each of these modules adds its own."""

from __future__ import annotations

from airdraft.cli import bench_codecs, bench_compress, bench_drafts, bench_edge, bench_prompts, league
from airdraft.cli.bench import bench

__all__ = ["bench", "bench_codecs", "bench_compress", "bench_drafts", "bench_edge", "bench_prompts", "league"]
