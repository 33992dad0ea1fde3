"""Builds the stores of other programs, as these lay them out, and caches of the hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "application/vnd.ollama.image.model"


def ollama(root: Path, name: str, content: bytes, tag: str = "latest", **changes: Any) -> Path:
    """A model in Ollama's store. `changes`: of its model layer. Returns: the manifest."""
    digest = hashlib.sha256(content).hexdigest()
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    layer = {"mediaType": MODEL, "digest": f"sha256:{digest}", "size": len(content)} | changes
    template = {"mediaType": "application/vnd.ollama.image.template", "digest": f"sha256:{'0' * 64}", "size": 1}
    manifest = root / "manifests" / (name if name.count("/") > 1 else f"registry.ollama.ai/library/{name}") / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer, template]}))
    return manifest


def cached(hub: Path, repo: str, files: dict[str, bytes]) -> Path:
    """A repository in the hub's cache, with links into its blobs. Returns: the snapshot."""
    root = hub / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    snapshot = root / "snapshots" / COMMIT
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot
