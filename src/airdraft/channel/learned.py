"""A learned model of channels, an ONNX graph, which fills in what is not observed; run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from airdraft.channel.bench import Seen
from airdraft.channel.generate import Complex
from airdraft.errors import ModelError


class LearnedChannel:
    """A graph of `training/channel_export.py`. Raises: `ModelError` for another one."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"{path} is no channel model ({reason}); give one of `python -m training.channel`"
            ) from error
        shapes = {each.name: each.shape for each in self._session.get_inputs()}
        observed = shapes.get("observed", [])
        if set(shapes) != {"observed", "snr_db"} or len(observed) != 5 or observed[3] != 3:
            raise ModelError(f"{path} has inputs {shapes}; give a channel model, of `python -m training.channel`")
        self.window = (observed[1], observed[2], observed[4])
        """Slots, subcarriers and antennas that it looks at."""

    def filled(self, seen: Seen) -> Complex:
        """Compute all values of a channel from what is observed of it. Raises: `ModelError` for another window."""
        if seen.observed.shape != self.window:
            raise ModelError(f"the channel has shape {seen.observed.shape}; this model is for {self.window}")
        slots, subcarriers, antennas = self.window
        observed = np.zeros((1, slots, subcarriers, 3, antennas), np.float32)
        at = np.ix_(seen.comb.slots, seen.comb.subcarriers)
        for part, values in enumerate((seen.observed.real, seen.observed.imag, np.ones(self.window))):
            observed[0, :, :, part][at] = values[at]
        feed = {"observed": observed, "snr_db": np.array([seen.snr_db], np.float32)}
        (values,) = self._session.run(["values"], feed)
        filled: Complex = (values[0, :, :, 0] + 1j * values[0, :, :, 1]).astype(np.complex64)
        return filled
