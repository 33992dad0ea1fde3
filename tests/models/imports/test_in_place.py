"""Graphs of GGUF files write keys and values into the room where the earlier ones lie."""

from __future__ import annotations

import numpy as np
import pytest

from airdraft.models.base import Part, Threads
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.engines.onnx_batch import OnnxCache
from airdraft.models.imports.write import import_gguf

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from .made import Made

CONTEXT = 700
TEXT = [(7 * i * i + 3 * i) % 250 for i in range(CONTEXT)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    folder = tmp_path_factory.mktemp("in-place")
    import_gguf(Made(kind="Q4_0", context=CONTEXT).write(folder / "model.gguf"), folder / "out")
    return OnnxModel(folder / "out")


def places(cache: OnnxCache) -> list[int]:
    return [tensor.ctypes.data for tensor in cache.tensors]


def test_nothing_moves_while_there_is_room(model: OnnxModel) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT[:4], 1)
    before = places(cache)
    for start in range(4, 40, 2):
        model.forward(cache, start, TEXT[start : start + 2], 1)
    assert places(cache) == before
    assert (cache.length, cache.tensors[0].shape[2] >= 40) == (40, True)


def test_rows_do_not_depend_on_the_room(model: OnnxModel) -> None:
    """To the last bit: a text that grew room by room, and one that was read at once."""
    whole = model.forward(model.new_cache(), 0, TEXT, CONTEXT)
    cache, rows = model.new_cache(), []
    for start in range(0, CONTEXT, 5):
        rows.append(model.forward(cache, start, TEXT[start : start + 5], 5))
    assert np.array_equal(np.concatenate(rows), whole)


def test_what_lies_beyond_a_text_is_not_looked_at(model: OnnxModel) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT[:50], 1)
    wanted = model.forward(cache, 20, [1, 2], 2)
    for tensor in cache.tensors:
        tensor[:, :, 22:] = 1e6
    assert np.array_equal(model.forward(cache, 20, [1, 2], 2), wanted)


def test_a_text_goes_on_with_another_number_of_threads(model: OnnxModel) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT[:30], 1)
    wanted = model.forward(cache, 30, [5, 6], 2)
    for count in (2, 1):
        model.use_threads(Threads(count))
        np.testing.assert_allclose(model.forward(cache, 30, [5, 6], 2), wanted, rtol=0, atol=1e-4)


def test_a_copy_is_another_room(model: OnnxModel) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT[:30], 1)
    other = model.copy(cache, 20)
    wanted = model.forward(cache, 30, [5, 6], 2)
    model.forward(other, 20, [9, 9, 9], 1)
    assert np.array_equal(model.forward(cache, 30, [5, 6], 2), wanted)
    assert np.array_equal(model.forward(other, 20, TEXT[20:30], 1), model.forward(cache, 20, TEXT[20:30], 1))


def test_texts_of_other_lengths_in_one_call(model: OnnxModel) -> None:
    assert model.info.max_batch > 1
    lengths, widths = (3, 60, 17), (2, 4, 3)
    caches = [model.new_cache() for _ in lengths]
    for cache, length in zip(caches, lengths, strict=True):
        model.forward(cache, 0, TEXT[:length], 0)
    held = list(lengths)
    for _ in range(30):  # several rooms of the stack
        parts = [Part(cache, at, TEXT[at : at + n], n) for cache, at, n in zip(caches, held, widths, strict=True)]
        together = model._together(parts)
        for rows, at, n in zip(together, held, widths, strict=True):
            alone = model.forward(model.new_cache(), 0, TEXT[: at + n], n)
            np.testing.assert_allclose(rows, alone, rtol=0, atol=1e-3)
        held = [at + n for at, n in zip(held, widths, strict=True)]
    for cache, at in zip(caches, held, strict=True):  # and each goes on alone, rolled back
        alone = model.forward(model.new_cache(), 0, [*TEXT[: at - 5], 1, 2], 2)
        np.testing.assert_allclose(model.forward(cache, at - 5, [1, 2], 2), alone, rtol=0, atol=1e-3)


def test_branches_of_a_tree_lie_side_by_side_and_one_stays(model: OnnxModel) -> None:
    """A token's column is then not its position. What stays moves up, and the text goes on, in its own room."""
    assert model.info.trees
    cache, other, start = model.new_cache(), model.new_cache(), 30
    model.verify([Part(cache, 0, TEXT[:start], 0), Part(other, 0, TEXT[:9], 0)])
    tree, parents = [5, 9, 6, 7, 8], (-1, -1, 0, 1, 3)
    lines = {0: [5], 1: [9], 2: [5, 6], 3: [9, 7], 4: [9, 7, 8]}
    chain = Part(other, 9, [1, 2], 2)
    for parts in ([Part(cache, start, tree, 5, parents)], [chain, Part(cache, start, tree, 5, parents)]):
        rows = model.verify(parts)[-1]
        assert isinstance(rows, np.ndarray)
        for at, line in lines.items():
            wanted = model.forward(model.new_cache(), 0, [*TEXT[:start], *line], 1)
            np.testing.assert_allclose(rows[at : at + 1], wanted, rtol=0, atol=1e-3)
    where = places(cache)
    [rows] = model.verify([Part(cache, start, [3, 4], 2, (-1, -2), (1, 3, 4))])  # after 8, and after 7
    assert isinstance(rows, np.ndarray)
    for row, line in zip(rows, ([9, 7, 8, 3], [9, 7, 4]), strict=True):
        wanted = model.forward(model.new_cache(), 0, [*TEXT[:start], *line], 1)
        np.testing.assert_allclose(row, wanted[0], rtol=0, atol=1e-3)
    assert (cache.length, places(cache)) == (start + 5, where)
    found = model.forward(cache, start + 3, [1, 2], 2)  # a chain again, and no mask of the tree is left
    wanted = model.forward(model.new_cache(), 0, [*TEXT[:start], 9, 7, 8, 1, 2], 2)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)


def test_a_text_lies_in_one_piece_of_memory(model: OnnxModel) -> None:
    """Freed, a large piece goes back to the system; of many smaller ones much stays in the process."""
    cache = model.new_cache()
    model.forward(cache, 0, TEXT[:30], 1)
    for each in (cache, model.copy(cache, 20)):
        assert len({id(tensor.base) for tensor in each.tensors}) == 1
        assert len({tensor.ctypes.data for tensor in each.tensors}) == len(each.tensors)
