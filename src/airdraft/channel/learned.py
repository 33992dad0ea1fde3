"""A learned model of channels, an ONNX graph, which fills in what is not observed; run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from airdraft.channel.baselines import Comb
from airdraft.channel.bench import Seen
from airdraft.channel.generate import Complex
from airdraft.errors import ModelError

SHIPPED = Path(__file__).parent / "model" / "channel.onnx"
"""The model that ships; its card lies beside it."""
_BATCH = 32


class LearnedChannel:
    """A graph of `training/channel_export.py`, from a file or in memory. Raises: `ModelError` for another one."""

    def __init__(self, graph: Path | bytes = SHIPPED) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        name = "the graph" if isinstance(graph, bytes) else str(graph)
        try:
            source = graph if isinstance(graph, bytes) else name
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"{name} is no channel model ({reason}); give one of `python -m training.channel`"
            ) from error
        shapes = {each.name: each.shape for each in self._session.get_inputs()}
        observed = shapes.get("observed", [])
        if set(shapes) != {"observed", "snr_db"} or len(observed) != 5 or observed[3] != 3:
            raise ModelError(f"{name} has inputs {shapes}; give a channel model, of `python -m training.channel`")
        self.window = (observed[1], observed[2], observed[4])
        """Slots, subcarriers and antennas that it looks at."""
        self.about: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        """What the graph says of itself; see `nets.About`."""

    def filled(self, seen: Seen) -> Complex:
        """Compute all values of a channel from what is observed of it. Raises as `run` does."""
        self._check(seen.observed[None])
        (values,) = self._run(["values"], seen.observed[None], seen.comb, np.array([seen.snr_db]))
        found: Complex = _joined(values)[0]
        return found

    def run(self, observed: Complex, comb: Comb, snrs_db: NDArray[np.floating]) -> tuple[Complex, NDArray[np.float32]]:
        """Compute all values, [n, slots, subcarriers, antennas], and embeddings, [n, twice the model's width].

        Of `observed` [n, slots, subcarriers, antennas] only what `comb` names is looked at. Raises: `ModelError` for
        another window than the model's, and for what is not finite.
        """
        self._check(observed)
        parts = [
            self._run(["values", "embedding"], observed[at : at + _BATCH], comb, snrs_db[at : at + _BATCH])
            for at in range(0, len(observed), _BATCH)
        ]
        return np.concatenate([_joined(values) for values, _ in parts]), np.concatenate([each for _, each in parts])

    def _check(self, observed: Complex) -> None:
        if observed.shape[1:] != self.window:
            raise ModelError(
                f"the channel has shape {observed.shape[1:]}; this model is for {self.window}: slots, subcarriers, "
                "antennas"
            )

    def _run(
        self, outputs: list[str], observed: Complex, comb: Comb, snrs_db: NDArray[np.floating]
    ) -> list[NDArray[np.float32]]:
        slots, subcarriers, antennas = self.window
        shown = np.zeros((len(observed), slots, subcarriers, 3, antennas), np.float32)
        at = np.ix_(np.arange(len(observed)), comb.slots, comb.subcarriers)
        known = observed[at]
        if not (np.isfinite(known).all() and np.isfinite(snrs_db).all()):
            raise ModelError("the channel has values that are not finite; give it without NaN and infinity")
        for part, values in enumerate((known.real, known.imag, 1.0)):
            shown[:, :, :, part][at] = values
        feed = {"observed": shown, "snr_db": snrs_db.astype(np.float32)}
        found: list[NDArray[np.float32]] = self._session.run(outputs, feed)
        return found


def _joined(values: NDArray[np.float32]) -> Complex:
    """Make complex numbers of real and imaginary parts, [n, slots, subcarriers, 2, antennas]."""
    joined: Complex = (values[:, :, :, 0] + 1j * values[:, :, :, 1]).astype(np.complex64)
    return joined
