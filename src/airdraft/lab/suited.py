"""A draft in few bits that suits a device and a link: several are made, and the one that is worth most is kept."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airdraft.compress.part import unwritable
from airdraft.compress.whole import LAYERS, Recipe, Texts, compress, source_of
from airdraft.core.policy import Facts
from airdraft.errors import BadParameterError, ModelError
from airdraft.lab.compress import along
from airdraft.lab.points import SmallDraft, frontier, point, worth_most
from airdraft.models.base import LanguageModel
from airdraft.models.imports.write import import_gguf
from airdraft.models.profile import Profile
from airdraft.models.registry import load

RECIPES = [
    Recipe("gptq", bits, head)
    for bits, head in (("W8", "W8"), ("W4", "W8"), ("W4", "W4"), ("W3", "W8"), ("W3", "W4"), ("W2", "W8"), ("W2", "W4"))
]
"""What is made, where the model's rows are whole pieces of the format."""


@dataclass(frozen=True)
class Suited:
    """What was made, and what was chosen."""

    points: list[SmallDraft]
    """The Pareto set, from the smallest on."""
    chosen: SmallDraft


def suited(
    source: Path,
    out: Path,
    texts: Texts,
    target: LanguageModel,
    vocab: int,
    on: tuple[Profile, Facts],
    tell: Callable[[int, int], None] = lambda done, of: None,
    name: str | None = None,
) -> Suited:
    """Write the model at `source`, see `source_of`, as `out`, in the bits that give most tokens/s.

    Acceptance is that beside `target` along the texts held out, of `vocab` tokens. on: the device, whose time for a
    draft is taken for that of `source` in half precision, and the link. tell: told how many are
    made, and of how many. name: of the model, for the report. Raises: `ModelError`, `BadParameterError` as `compress`.
    """
    file = source_of(source)
    shapes = [there.shape for name, there in file.tensors.items() if name.startswith("blk.") and len(there.shape) == 2]
    recipes = [each for each in RECIPES if all(shape[-1] % LAYERS[each.bits].together == 0 for shape in shapes)]
    if not recipes:
        raise BadParameterError(f"{source} has rows that no format of few bits holds; they must be in blocks of 32")
    half_mb = 2 * sum(math.prod(there.shape) for there in file.tensors.values()) / 1e6
    pieces = [(piece[:1], piece[1:]) for piece in texts.held_out.tolist()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as problem:
        raise unwritable(out, problem) from problem
    with folder as place:
        made: dict[SmallDraft, Path] = {}
        for i, recipe in enumerate(recipes):
            small = Path(place, f"{i}.gguf")
            try:
                compress(source, small, recipe, texts, name=name)
                import_gguf(small, small.with_suffix(""))  # here, and not in the cache of the user's own
            except ModelError as error:
                if isinstance(error.__cause__, OSError):  # it names a file that nobody asked for
                    raise unwritable(out, error.__cause__) from error
                raise
            (quality,) = along(target, [load(str(small.with_suffix("")))[0]], pieces, vocab)
            shutil.rmtree(small.with_suffix(""))
            bits = f"{recipe.bits}, scores {recipe.head}"
            made[point(bits, small.stat().st_size / 1e6, half_mb, quality.coupled, *on, vocab)] = small
            tell(i + 1, len(recipes))
        chosen = worth_most([*made])
        try:
            for suffix in (".json", ".gguf"):  # what stands for it comes last
                made[chosen].with_suffix(suffix).replace(out.with_suffix(suffix))
        except OSError as problem:
            raise unwritable(out, problem) from problem
    return Suited(frontier([*made]), chosen)
