"""The chat draft that ships in codes, as a GGUF file in single precision: what its codes stand for."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airdraft.models.gguf import write_gguf

_BLOCK = 32
_TABLE, _NORM = "model.embed_tokens.weight", "model.norm.weight"
_COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


def expand(folder: Path, out: Path) -> None:
    """Write the model whose graph lies in `folder` as the GGUF file `out`.

    Matrices that one product takes lie in one tensor, and the table of embeddings in two, with columns of 8 and of 4
    bits. Its columns are divided by a spread, which the last norm's weights are multiplied by.
    """
    import onnx  # noqa: PLC0415  # half a second each
    from onnx import numpy_helper  # noqa: PLC0415
    from safetensors.numpy import save_file  # noqa: PLC0415

    graph = onnx.load(folder / "model.onnx").graph
    found = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    matrices = {
        name.removesuffix(".codes"): _dense(codes, found[name.removesuffix("codes") + "scales"])
        for name, codes in found.items() if name.endswith(".codes")
    }  # fmt: skip
    weights = {name: each for name, each in found.items() if name.endswith("norm.weight")}
    constants = [each for name, each in found.items() if name.startswith("const")]
    (spread,) = (each for each in constants if each.shape == weights[_NORM].shape)
    for names, matrix in matrices.items():
        each = names.split("+")
        if not names.startswith(_TABLE):
            weights |= dict(zip(each, np.split(matrix, len(each)), strict=True))
    columns = [matrix for name, matrix in sorted(matrices.items()) if name.startswith(_TABLE)]
    weights[_TABLE] = np.concatenate(columns, 1) * spread
    weights[_NORM] = weights[_NORM] / spread
    with tempfile.TemporaryDirectory() as made:
        for file in (folder / name for name in _COPIED):
            if file.is_file():
                shutil.copyfile(file, Path(made, file.name))
        save_file({name: np.ascontiguousarray(each, np.float32) for name, each in weights.items()},
                  Path(made, "model.safetensors"))  # fmt: skip
        write_gguf(Path(made), Path(made, "model.gguf"))
        shutil.move(Path(made, "model.gguf"), out)


def _dense(codes: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """The weights of a matrix [rows, columns]. codes: [rows, blocks, bytes]; of two in a byte the first is lower."""
    zero = 128
    if codes.shape[-1] < _BLOCK:
        codes, zero = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], _BLOCK), 8
    found: NDArray[np.float32] = (codes.astype(np.float32) - zero) * scales.astype(np.float32)[..., None]
    return found.reshape(len(codes), -1)
