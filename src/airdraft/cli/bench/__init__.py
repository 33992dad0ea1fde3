"""All commands of `airdraft bench`: each of these modules adds its own."""

from __future__ import annotations

from airdraft.cli.bench import codecs, compress, drafts, league, prompts, structured, wall
from airdraft.cli.bench.simulated import bench

__all__ = ["bench", "codecs", "compress", "drafts", "league", "prompts", "structured", "wall"]
