"""The matrices of a decoder in a GGUF file, as nodes of an ONNX graph that multiply with them.

Matrices of codes become `MatMulNBits` of ONNX Runtime, which multiplies them with activations rounded to 8 bits, a
scale for each block, as llama.cpp does. Minima are a second, small product: sums of the activations' blocks times the
minima. Matrices of one kind are stacked. The table of embeddings is read row by row from the mapped file; where it
scores the tokens as well, its bytes are stored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.models.imports.decoder import DecoderFacts, vector
from airdraft.models.imports.nodes import CONTRIB, Nodes, Weights
from airdraft.models.imports.quants import Bytes, Floats, Format
from airdraft.models.imports.read import GgufFile, GgufTensor

_INT8 = 4  # accuracy_level of MatMulNBits: activations may be rounded to 8 bits
_CHUNK = 1 << 22
"""Numbers of a matrix that are taken apart at a time."""


class Matrices:
    """Writes the matrices of one file, each when a node first needs it."""

    def __init__(self, file: GgufFile, decoder: DecoderFacts, nodes: Nodes, weights: Weights) -> None:
        self._file, self._decoder, self._nodes, self._weights = file, decoder, nodes, weights

    def linear(self, x: str, name: str, stems: Sequence[str]) -> str:
        """x [rows, columns] times the matrices `stems`, one result after the other."""
        tensors = [self._file.tensors[f"{stem}.weight"] for stem in stems]
        kinds = [_kind(tensor.format) for tensor in tensors]
        if len(set(kinds)) > 1:
            found = [self.linear(x, stem, [stem]) for stem in stems]
            return self._nodes.op("Concat", *found, axis=-1)
        y = self._dense(x, name, stems) if tensors[0].format.floats else self._coded(x, name, stems)
        biases = [f"{stem}.bias" for stem in stems]
        if any(bias in self._file.tensors for bias in biases):
            parts = [self._bias(bias, tensor.shape[0]) for bias, tensor in zip(biases, tensors, strict=True)]
            y = self._nodes.op("Add", y, self._nodes.constant(np.concatenate(parts)))
        return y

    def embeddings(self) -> str:
        tensor = self._file.tensors["token_embd.weight"]
        form, (rows, columns) = tensor.format, tensor.shape
        if form.floats:
            table = (form.dense(raw) for form, raw in self._rows("token_embd"))
            return self._nodes.op(
                "Gather", self._weights.add("token_embd", np.float32, (rows, columns), table), "input_ids"
            )
        blocks = columns // form.block
        scales: list[Floats] = []
        minima: list[Floats] = []

        def codes() -> Iterator[Bytes]:
            for form, raw in self._rows("token_embd"):
                parts = form.split(raw)
                scales.append(parts.scales)
                if parts.minima is not None:
                    minima.append(parts.minima)
                yield parts.codes

        rows_of = {"table": self._weights.add("token_embd.table", np.uint8, (rows, columns), codes())}
        rows_of["scales"] = self._weights.add("token_embd.scales", np.float32, (rows, blocks), iter(scales))
        if minima:
            rows_of["minima"] = self._weights.add("token_embd.least", np.float32, (rows, blocks), iter(minima))
        read = {name: self._nodes.op("Gather", each, "input_ids") for name, each in rows_of.items()}
        x = self._nodes.op("Cast", read["table"], to=1)  # to float
        x = self._nodes.op("Sub", x, self._nodes.constant(np.float32(form.zero)))
        x = self._nodes.op(
            "Mul",
            self._nodes.shape(x, 0, 0, blocks, form.block),
            self._nodes.op("Unsqueeze", read["scales"], self._nodes.ints(-1)),
        )
        if minima:
            x = self._nodes.op("Add", x, self._nodes.op("Unsqueeze", read["minima"], self._nodes.ints(-1)))
        return self._nodes.shape(x, 0, 0, columns)

    def head(self, h: str) -> str:
        d, tensor = self._decoder, self._file.tensors["token_embd.weight"]
        if not d.tied:
            y = self.linear(h, "output", ["output"])
        elif tensor.format.floats:
            y = self._nodes.op("MatMul", h, self._nodes.op("Transpose", "token_embd", perm=[1, 0]))
        elif tensor.format.bits == 8 and not tensor.format.minima:
            shape = d.vocab, d.width // tensor.format.block, tensor.format.block
            codes = self._weights.refer("token_embd.codes", np.uint8, shape, self._weights.start("token_embd.table"))
            y = self._product(h, "token_embd", tensor, codes)
        else:
            y = self.linear(h, "head", ["token_embd"])
        return y

    def _dense(self, x: str, name: str, stems: Sequence[str]) -> str:
        rows = np.concatenate([form.dense(raw) for stem in stems for form, raw in self._rows(stem)])
        shape = rows.shape[::-1]
        return self._nodes.op("MatMul", x, self._weights.add(name, np.float32, shape, iter([rows.T])))

    def _coded(self, x: str, name: str, stems: Sequence[str]) -> str:
        first = self._file.tensors[f"{stems[0]}.weight"]
        blocks = first.shape[-1] // first.format.block
        rows = sum(self._file.tensors[f"{stem}.weight"].shape[0] for stem in stems)
        scales: list[Floats] = []
        minima: list[Floats] = []

        def packed() -> Iterator[Bytes]:
            for stem in stems:
                for form, raw in self._rows(stem):
                    parts = form.split(raw)
                    scales.append(parts.scales)
                    if parts.minima is not None:
                        minima.append(parts.minima)
                    yield parts.codes if form.bits == 8 else parts.codes[:, ::2] | parts.codes[:, 1::2] << np.uint8(4)

        shape = rows, blocks, first.format.block * first.format.bits // 8
        codes = self._weights.add(f"{name}.codes", np.uint8, shape, packed())
        self._weights.add(f"{name}.scales", np.float32, (rows, blocks), iter(scales))
        if minima:
            self._weights.add(f"{name}.minima", np.float32, (blocks, rows), iter([np.concatenate(minima).T]))
        return self._product(x, name, first, codes)

    def _product(self, x: str, name: str, like: GgufTensor, codes: str) -> str:
        """x times a matrix whose codes, scales and minima have been written."""
        form, (_, columns) = like.format, like.shape
        scales = f"{name}.scales"
        rows = next(tensor.dims[0] for tensor in self._weights.tensors if tensor.name == scales)
        y = self._nodes.op(
            "MatMulNBits", x, codes, scales, domain=CONTRIB, K=columns, N=rows, bits=form.bits,
            block_size=form.block, accuracy_level=_INT8,
        )  # fmt: skip
        if not form.minima:
            return y
        sums = self._nodes.op("ReduceSum", self._nodes.shape(x, 0, -1, form.block), self._nodes.ints(-1), keepdims=0)
        return self._nodes.op("Gemm", sums, f"{name}.minima", y)

    def _rows(self, stem: str) -> Iterator[tuple[Format, Bytes]]:
        """A matrix, some rows at a time, as bytes."""
        tensor = self._file.tensors[f"{stem}.weight"]
        order = self._order(stem, tensor.shape[0])
        step = max(1, _CHUNK // tensor.shape[-1])
        for start in range(0, tensor.shape[0], step):
            if order is None:
                raw = self._file.raw(tensor, start, step)
            else:
                raw = self._file.raw(tensor)[order[start : start + step]]
            yield tensor.format, raw
            self._weights.read(raw.size)

    def _order(self, stem: str, rows: int) -> NDArray[np.int64] | None:
        """Where the rows of queries and keys lie that are turned as i and i + half, if the file has them in pairs."""
        if not self._decoder.paired or not stem.endswith((".attn_q", ".attn_k")):
            return None
        half = self._decoder.head_dim // 2
        return np.arange(rows).reshape(-1, half, 2).swapaxes(1, 2).reshape(-1)

    def _bias(self, name: str, size: int) -> Floats:
        tensor = self._file.tensors.get(name)
        if tensor is None:
            return np.zeros(size, np.float32)
        order = self._order(name.removesuffix(".bias"), size)
        found = vector(self._file, tensor)
        return found if order is None else found[order]


def _kind(form: Format) -> tuple[Any, ...]:
    """Matrices of one kind may be stacked."""
    return (0,) if form.floats else (form.bits, form.block, form.minima)
