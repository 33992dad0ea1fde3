"""Channels in files: written as `.npz` with what they were made with, and read from there or from other programs.

Our files hold `values` [channels, slots, subcarriers, antennas] in single precision, noisy ones if asked for, one
number a channel of `snr_db`, `speed_kmh`, `delay_spread_s` and `profile`, and the recipe as JSON. They are written
channel by channel, so that memory does not grow with their number.

Arrays of other programs (`.npy`, `.npz`, `.mat` up to version 7) are read with the order of their axes: DeepMIMO's is
`naaf`, users, antennas at either end, subcarriers. Nothing is read before its header says that it is numbers and how
many; objects, which could run code, never are.
"""

from __future__ import annotations

import io
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from airdraft.channel.generate import ChannelRecipe, Complex, channels
from airdraft.errors import BadParameterError
from airdraft.files import output

MOST_BYTES = 1 << 31
"""Largest array that is read: 2 GiB."""
AXES = {"n": "channels", "t": "slots", "f": "subcarriers", "a": "antennas"}
DEEPMIMO = "naaf"
_LABELS = ("speed_kmh", "delay_spread_s", "snr_db")


@dataclass(frozen=True)
class Recorded:
    """Channels of a file, scaled to a mean power of 1."""

    values: Complex  # [channels, slots, subcarriers, antennas]
    recipe: ChannelRecipe | None
    """What they were made with; None for a file of another program."""


@dataclass(frozen=True)
class _MadeWith:
    recipe: ChannelRecipe
    seed: int


def write(path: Path, recipe: ChannelRecipe, count: int, seed: int, noisy: bool = False) -> None:
    """Generate `count` channels into a file. Raises: `BadParameterError` if it cannot be written."""
    if not 1 <= count <= 10_000_000:
        raise BadParameterError(f"count is {count}; give 1 to 10000000 channels")
    shape = (count, recipe.slots, recipe.subcarriers, recipe.antennas)
    labels: dict[str, list[Any]] = {name: [] for name in (*_LABELS, "profile")}

    def values() -> Iterator[bytes]:
        for channel in itertools.islice(channels(recipe, seed), count):
            for name, column in labels.items():
                column.append(getattr(channel, name))
            yield channel.values.tobytes()

    def observed() -> Iterator[bytes]:
        for number, channel in enumerate(itertools.islice(channels(recipe, seed), count)):
            yield channel.observed(np.random.default_rng([seed, number, 1])).tobytes()

    with output(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        _stream(archive, "values", shape, values())
        if noisy:
            _stream(archive, "noisy", shape, observed())
        for name, column in labels.items():
            _whole(archive, name, np.array(column))
        _whole(archive, "made_with", np.array(msgspec.json.encode(_MadeWith(recipe, seed)).decode()))


def _stream(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], parts: Iterator[bytes]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
        header = {"descr": "<c8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for part in parts:
            out.write(part)


def _whole(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    archive.writestr(f"{name}.npy", buffer.getvalue())


def read(path: Path, axes: str | None = None, key: str | None = None) -> Recorded:
    """Read channels. `axes` and `key` (the array's name in its file) are for files of other programs.

    Axes are letters of `AXES` in the order of the array; antennas may stand twice, and what is missing has length 1.
    Raises: `BadParameterError` for anything but a finite array of that many axes.
    """
    try:
        found, recipe = _mat(path, key) if path.suffix == ".mat" else _numpy(path, key)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, msgspec.MsgspecError) as error:
        raise BadParameterError(
            f"{path} is no file of channels ({error}); give an .npz of `airdraft channel generate`, or complex numbers "
            "in an .npy, .npz or .mat (up to version 7)"
        ) from error
    if recipe is None and axes is None:
        raise BadParameterError(
            f"{path} is another program's and has shape {found.shape}; say what its axes are, one letter each: "
            f"{', '.join(f'{letter} {what}' for letter, what in AXES.items())} (DeepMIMO's are {DEEPMIMO})"
        )
    values = _ordered(path, found, axes or "ntfa")
    if recipe is not None and values.shape[1:] != (recipe.slots, recipe.subcarriers, recipe.antennas):
        raise BadParameterError(f"{path} has shape {values.shape}, and its recipe another; generate it again")
    if not np.isfinite(values).all():
        raise BadParameterError(f"{path} has values that are not finite; give channels without NaN or infinity")
    most = float(max(np.abs(values.real).max(), np.abs(values.imag).max()))
    if most == 0:
        raise BadParameterError(f"{path} holds only zeros; give channels")
    values = values / most  # or powers of very large or small values would not be finite
    return Recorded((values / np.sqrt(np.mean(np.abs(values) ** 2))).astype(np.complex64), recipe)


def _ordered(path: Path, found: NDArray[Any], axes: str) -> NDArray[Any]:
    """Bring axes into the order n, t, f, a."""
    if not axes or set(axes) - set(AXES) or any(axes.count(each) > 1 for each in "ntf") or axes.count("a") > 2:
        raise BadParameterError(f"axes are {axes!r}; give each of n, t, f at most once, and a at most twice")
    if found.ndim != len(axes):
        raise BadParameterError(
            f"{path} has shape {found.shape}, and {axes!r} names {len(axes)} axes; name all of them"
        )
    order = sorted(range(len(axes)), key=lambda place: "ntfa".index(axes[place]))
    sorted_axes = found.transpose(order)
    sizes = dict.fromkeys(AXES, 1)
    for place in order:
        sizes[axes[place]] *= found.shape[place]
    return sorted_axes.reshape([sizes[each] for each in "ntfa"])


def _numpy(path: Path, key: str | None) -> tuple[NDArray[Any], ChannelRecipe | None]:
    if path.suffix != ".npz":
        with path.open("rb") as file:
            return _array(file), None
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        recipe = None
        if {"values", "made_with"} <= set(names) and key is None:
            key = "values"
            with archive.open("made_with.npy") as member:
                recipe = msgspec.json.decode(str(_array(member, "U", 1 << 20)), type=_MadeWith).recipe
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names:
            raise ValueError(f"it holds {', '.join(names[:8])}; give one of these names")
        with archive.open(f"{key}.npy") as member:
            return _array(member), recipe


def _array(file: IO[bytes], kinds: str = "c", most: int = MOST_BYTES) -> NDArray[Any]:
    """Read an array after its header said that it is of one of these kinds and not too large."""
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f"version {version} of the format .npy is not known")
    shape, fortran, dtype = headers[version](file)
    count = int(np.prod(shape, dtype=object))
    _check(dtype, count * dtype.itemsize, kinds, most)
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise ValueError("it ends too early")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _check(dtype: np.dtype[Any], size: int, kinds: str = "c", most: int = MOST_BYTES) -> None:
    if dtype.kind not in kinds:
        raise ValueError(f"it holds {dtype}, not complex numbers")
    if not 0 < size <= most:
        raise ValueError(f"it holds {size} bytes, and at most {most} are read" if size else "it holds nothing")


def _mat(path: Path, key: str | None) -> tuple[NDArray[Any], None]:
    from scipy.io import loadmat  # noqa: PLC0415  # a third of a second

    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, and at most {MOST_BYTES} are read")
    try:
        found = loadmat(path, variable_names=None if key is None else [key])
    except Exception as error:  # what is no such file fails in many ways
        raise ValueError(str(error) or type(error).__name__) from error
    arrays = {name: each for name, each in found.items() if not name.startswith("__")}
    if len(arrays) != 1:
        raise ValueError(f"it holds {', '.join(list(arrays)[:8]) or 'no array of that name'}; give one of its names")
    array = np.asarray(next(iter(arrays.values())))
    _check(array.dtype, array.nbytes)
    return array, None
