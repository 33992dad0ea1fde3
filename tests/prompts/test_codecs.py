"""Codecs: what is exact comes back to the bit, others lose no more than they say, and no byte is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.errors import BadParameterError, ModelError
from airdraft.prompts.blocks import BLOCK, BlockError, Layout, opened, sealed
from airdraft.prompts.codecs import CODECS, EXACT, named
from airdraft.prompts.codecs.base import LARGEST, floats, rounded
from airdraft.prompts.codecs.gear import OUTLIERS, Gear
from airdraft.prompts.codecs.kivi import Kivi
from airdraft.prompts.codecs.levels import packed, quantised, restored, unpacked
from airdraft.prompts.codecs.rotate import Rotated, dealt, turned
from airdraft.prompts.loss import loss
from airdraft.prompts.store import PromptStore

from .models import plain

SAME = [each for each in CODECS.values() if not each.lossy]
LOSSY = [each for each in CODECS.values() if each.lossy]
KINDS = st.sampled_from(["f4", "f2", "i2"])
SHAPES = st.tuples(st.integers(1, 3), st.sampled_from([8, 64]), st.sampled_from([16, 24, 64]))
SEEDS = st.integers(0, 1 << 32)
SCALES = st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 40.0])


def _numbers(shape: tuple[int, ...], seed: int, scale: float) -> Any:
    """Numbers as keys are: channels of their own size and offset, and a token that sticks out."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * rng.exponential(size=(shape[0], 1, shape[2])) + rng.normal(
        size=(shape[0], 1, shape[2])
    )
    x[:, 0] *= 5
    return (x * scale).clip(-LARGEST, LARGEST).astype(np.float32)


def _like(layer: list[Any]) -> list[Any]:
    return [each[:, :0] for each in layer]


def _back(codec: Any, layer: list[Any]) -> list[Any]:
    data, most = codec.encode(layer), codec.size(_like(layer), layer[0].shape[1])
    assert len(data) <= most
    assert len(data) == most or codec.name == "packed"
    found = codec.decode(data, _like(layer), layer[0].shape[1])
    assert [(each.dtype, each.shape) for each in found] == [(each.dtype, each.shape) for each in layer]
    return found  # type: ignore[no-any-return]


@given(st.sampled_from(SAME), SHAPES, KINDS, SEEDS, st.booleans())
def test_what_is_exact_gives_every_bit_back(
    codec: Any, shape: tuple[int, int, int], kind: str, seed: int, noise: bool
) -> None:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    raw = np.random.default_rng(seed).bytes(2 * size)  # NaNs among them
    layer = list(np.frombuffer(raw, kind).reshape(2, *shape))
    if not noise:
        layer = [rounded(_numbers(shape, seed, 1.0), np.dtype(kind))] * 2
    for one, other in zip(layer, _back(codec, layer), strict=True):
        assert one.tobytes() == other.tobytes()


def test_exponents_take_less_where_they_are_alike() -> None:
    layer = [_numbers((3, 64, 64), seed, 1.0) for seed in range(2)]
    assert len(named("packed").encode(layer)) < 0.87 * len(EXACT.encode(layer))


@given(SHAPES, st.sampled_from([2, 4]), st.integers(0, 2), SEEDS, SCALES)
def test_levels_are_half_a_step_away_at_most(
    shape: tuple[int, int, int], bits: int, axis: int, seed: int, scale: float
) -> None:
    x = _numbers(shape, seed, scale)
    levels, low, step = quantised(x, bits, axis)
    assert levels.max() < 1 << bits
    assert np.array_equal(unpacked(packed(levels, bits), bits, shape), levels)
    found, steps = restored(levels, low, step), step.astype(np.float32)
    assert (np.abs(found - x) <= steps / 2 + 1e-6 * np.abs(x).max()).all()
    assert (low.astype(np.float32) <= x).all()
    # The step is that of the numbers, but for the rounding of two halves.
    spread = x.max(axis, keepdims=True) - x.min(axis, keepdims=True)
    edge = np.abs(x).max(axis, keepdims=True)
    assert (steps * ((1 << bits) - 1) <= spread * 1.001 + edge * 2e-3 + 1e-6).all()


@given(SHAPES, SEEDS, SCALES, st.sampled_from([2, 4]))
@settings(max_examples=50)
def test_how_much_each_codec_loses_is_bounded(shape: tuple[int, int, int], seed: int, scale: float, bits: int) -> None:
    layer = [_numbers(shape, seed + which, scale) for which in range(2)]
    most, worst = (1 << bits) - 1, 2e-3 * max(np.abs(each).max() for each in layer) + 1e-6
    for which, (x, found) in enumerate(zip(layer, _back(named("half"), layer), strict=True)):
        assert (np.abs(found - x) <= np.abs(x) * 2**-11 + 1e-7).all(), which
    plain = _back(Kivi(bits), layer)
    for which, (x, found) in enumerate(zip(layer, plain, strict=True)):
        spread = x.max(2 if which else 1, keepdims=True) - x.min(2 if which else 1, keepdims=True)
        assert (np.abs(found - x) <= spread / most / 2 + worst).all()
    for which, (x, found) in enumerate(zip(layer, _back(Gear(bits), layer), strict=True)):
        spread = x.max(2 if which else 1, keepdims=True) - x.min(2 if which else 1, keepdims=True)
        bound = np.broadcast_to(spread / most / 2 + worst, shape)
        assert np.linalg.norm(found - x) <= np.linalg.norm(bound) * 1.01 + 1e-6
        exact = np.abs(found - x) <= np.abs(x) * 2**-11 + 1e-7
        assert exact.sum() >= OUTLIERS * x.size
    for x, found in zip(layer, _back(Rotated(bits), layer), strict=True):
        rows, back = (each.transpose(1, 0, 2).reshape(shape[1], -1) for each in (x, found))
        missed, length = (np.linalg.norm(each, axis=1) for each in (rows - back, rows))
        width = np.sqrt(rows.shape[1])
        assert (missed <= 2 * length.max() * width / most * 1.01 + width * worst).all()
        assert (np.abs(rows - back) <= np.abs(rows) * 2**-11 + 1e-7).all(1).any()  # one position is kept


@given(st.sampled_from([*LOSSY, named("packed")]), SHAPES, KINDS, st.data())
@settings(max_examples=50)
def test_whatever_bytes_are_decoded_they_are_refused_or_finite(
    codec: Any, shape: tuple[int, int, int], kind: str, data: st.DataObject
) -> None:
    layer = [rounded(_numbers(shape, data.draw(SEEDS), 1.0), np.dtype(kind)) for _ in range(2)]
    whole = bytearray(codec.encode(layer))
    if data.draw(st.booleans()):
        whole = bytearray(np.random.default_rng(data.draw(SEEDS)).bytes(len(whole)))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from([0, 0x7C, 0x7F, 0xFC, 0xFF]))
    for short in (whole[:-1], whole + b"\0", b""):
        with pytest.raises(ValueError):
            codec.decode(bytes(short), _like(layer), shape[1])
    try:
        found = codec.decode(bytes(whole), _like(layer), shape[1])
    except ValueError:
        return
    assert not codec.lossy or all(np.isfinite(floats(each)).all() for each in found)
    assert [(each.dtype, each.shape) for each in found] == [(each.dtype, each.shape) for each in layer]


@given(st.integers(1, 5), st.sampled_from([16, 24, 64, 192, 256]), SEEDS)
def test_a_turn_leads_back_and_keeps_lengths(positions: int, channels: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(positions, channels)).astype(np.float32)
    once = turned(rows)
    np.testing.assert_allclose(np.linalg.norm(once, axis=(1, 2)), np.linalg.norm(rows, axis=1), rtol=1e-5)
    np.testing.assert_allclose(turned(once.reshape(rows.shape)).reshape(rows.shape), rows, atol=1e-5)
    assert sorted(dealt(rows)) == list(range(channels))


@given(st.floats(-LARGEST, LARGEST, width=32))
def test_bfloat16_is_the_nearest(x: float) -> None:
    [near] = floats(rounded(np.array([x], np.float32), np.dtype("i2")))
    assert abs(near - x) <= abs(x) * 2**-8 + 1e-40
    [again] = floats(rounded(np.array([near], np.float32), np.dtype("i2")))
    assert again == near


def test_outliers_and_a_low_rank_help_where_there_are_some() -> None:
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(64, 2)) @ rng.normal(size=(2, 128))).reshape(64, 2, 64).transpose(1, 0, 2)
    x = (x + 0.05 * rng.normal(size=x.shape)).astype(np.float32)
    x.flat[rng.choice(x.size, 100, replace=False)] = 30

    def missed(codec: Any) -> float:
        return float(np.linalg.norm(_back(codec, [x, x])[0] - x))

    assert missed(Gear(2)) < 0.3 * missed(Kivi(2))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -2 * LARGEST])
@pytest.mark.parametrize("codec", LOSSY, ids=lambda codec: codec.name)
def test_numbers_that_no_scale_holds_are_refused_by_name(codec: Any, wrong: float) -> None:
    layer = [np.zeros((1, 64, 16), np.float32) for _ in range(2)]
    layer[1][0, 5, 3] = wrong
    with pytest.raises(ModelError, match=f"codec {codec.name} cannot write; take exact"):
        codec.encode(layer)


@pytest.mark.parametrize("codec", [each for each in CODECS.values() if each is not EXACT], ids=lambda codec: codec.name)
def test_an_object_that_its_codec_has_not_written_is_damaged(codec: Any, tmp_path: Path) -> None:
    """Whoever may write to a store can seal any bytes, so the seal alone is not enough."""
    layer = [_numbers((2, BLOCK, 16), seed, 1.0) for seed in range(2)]
    layout = Layout(_like(layer), codec)
    store, name = PromptStore(str(tmp_path), "t/r", layout), bytes(32)
    store.put_block(name, layer)
    assert store.has(name)
    [place] = tmp_path.glob("t/r/blocks/*/0")
    own = f"t/r/blocks/{name.hex()}/0"
    whole = opened(own, place.read_bytes())
    for wrong in (b"\xff" * len(whole), whole[:-1], b""):
        place.write_bytes(sealed(own, wrong))
        with pytest.raises(BlockError, match=r"a block is damaged .* publish the prompt again"):
            store.block(name)
        assert not store.has(name)


def test_blocks_of_codecs_lie_apart() -> None:
    layer = [_numbers((2, BLOCK, 16), seed, 1.0)[:, :0] for seed in range(2)]
    assert len({Layout(layer, codec).digest for codec in CODECS.values()}) == len(CODECS)
    assert len({Layout(layer, codec).held_bytes for codec in CODECS.values()}) == 1


def test_an_edge_never_calls_a_codec_exact_that_is_not() -> None:
    engine = plain()
    told = [loss(engine, named(name)) for name in ("half", "gear4", "kivi4", "kivi2")]
    assert told == sorted(told)
    assert 0 < told[0] < 1e-3 < told[1] < told[3] < 0.5

    class Lucky(Kivi):
        """Happens to lose nothing in the trial."""

        def encode(self, layer: Any) -> bytes:
            return EXACT.encode(layer)

        def decode(self, data: bytes, like: Any, positions: int) -> Any:
            return EXACT.decode(data, like, positions)

    assert loss(engine, Lucky(4)) > 0


def test_a_codec_that_is_unknown_is_refused_with_those_that_are_known() -> None:
    assert named("exact") is EXACT
    with pytest.raises(BadParameterError, match=r"codec 'zip' is unknown; choose one of exact, packed, half, kivi4"):
        named("zip")
