"""The scheduler of `nr`, which gives transport blocks to the bytes of a buffer, and finds their decoding times.

A device with an empty buffer first waits for an occasion to request a grant (or for a configured grant). The first
transport block is small and reports the buffer. The base station then grants the reported bytes, one block in each slot
of this direction. On the downlink the base station needs no grant.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from airdraft.link.nr.radio import Channel, block_error_rate, choose_mcs
from airdraft.link.nr.tbs import transport_block_bits
from airdraft.link.nr.tdd import SLOT_S, Slots

LAYER2_BYTES = 9
"""PDCP, RLC and MAC headers of a packet (3, 3 and 3 bytes: TS 38.323, 38.322 and 38.321)."""
BLOCK_BYTES = 5
"""Further bytes of a transport block: a buffer status report and the header of a further segment."""


@dataclass(frozen=True)
class Scheduling:
    """The schedule of one direction, with times in s."""

    asks: Callable[[float], float] | None
    """From the time data is ready to the slot of its first transport block; None where no grant is needed."""
    prbs: int
    """Resource blocks of the blocks that the base station grants after a report."""
    first_prbs: int
    """Resource blocks of the block that reports."""
    most_mcs: int
    prepare_s: float
    """Time before a slot at which its content is settled."""
    grant_delay_s: float
    """Time from the start of the slot that reports a buffer to the earliest slot granted for it."""
    decode_s: float
    """Time from the end of a slot until its content is decoded, or found broken."""
    harq_delay_s: float
    """Time from the start of a transmission to the earliest slot of the next of the same block."""
    harq_transmissions: int
    rlc_stall_s: float
    """Time from the last transmission of a block to its first after RLC has noticed the loss."""
    csi_age_s: float
    """Age of the base station's knowledge of the channel when a block is sent."""
    bler_target: float


class Adaptation:
    """Outer-loop link adaptation: a margin that settles where the target share of first transmissions fails.

    It steps as in Pedersen et al., "Frequency domain scheduling for OFDMA with limited and noisy channel feedback", VTC
    2007: up by `_STEP_DB` after a failure, and down by target/(1 - target) times that after a success.
    """

    _STEP_DB = 0.5
    _LIMITS_DB = (-5.0, 15.0)

    def __init__(self, target: float) -> None:
        self._down_db = self._STEP_DB * target / (1 - target)
        self.margin_db = 0.0

    def learn(self, decoded: bool) -> None:
        """Learn the outcome of a first transmission."""
        least, most = self._LIMITS_DB
        step_db = -self._down_db if decoded else self._STEP_DB
        self.margin_db = min(max(least, self.margin_db + step_db), most)


class Mac:
    """The transport blocks of one direction. Times are in s since the pipe's start."""

    def __init__(
        self, scheduling: Scheduling, slots: Slots, channel: Channel, mean_snr_db: Callable[[int, float], float],
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        """`mean_snr_db(prbs, shadow_db)` is the SNR of an unfaded block on `prbs` resource blocks."""
        self._scheduling = scheduling
        self._slots = slots
        self._channel = channel
        self._mean_snr_db = mean_snr_db
        self._rng = rng
        self._adaptation = Adaptation(scheduling.bler_target)
        self._sent_s: list[float] = [-math.inf]
        """Slots of the latest transport blocks, rising: all that can still report a new packet, and the last."""
        self._room_bytes = 0
        """Bytes that the last of them can still take."""
        self._decoded_s = -math.inf
        self.first_transmissions = 0
        self.failed_first_transmissions = 0
        self.rlc_stalls = 0

    @property
    def free_at_s(self) -> float:
        """The time at which the last transport block has been sent for the first time."""
        return self._sent_s[-1] + SLOT_S

    def put(self, ready_s: float, nbytes: int) -> float:
        """Queue a packet that is ready at `ready_s`. Returns the time when it and all before it are decoded."""
        left = nbytes + LAYER2_BYTES
        settled_s = ready_s + self._scheduling.prepare_s
        if self._sent_s[-1] >= settled_s:
            left -= self._take(left)
        while left > 0:
            self._send_block(*self._next_slot(settled_s))
            left -= self._take(left)
        return self._decoded_s

    def _take(self, nbytes: int) -> int:
        taken = min(nbytes, self._room_bytes)
        self._room_bytes -= taken
        return taken

    def _next_slot(self, settled_s: float) -> tuple[float, bool]:
        """Find the next transport block's slot for data fixed by `settled_s`, and whether it needed a request."""
        after_last_s = self._sent_s[-1] + SLOT_S
        del self._sent_s[: min(bisect_left(self._sent_s, settled_s), len(self._sent_s) - 1)]
        asks = self._scheduling.asks
        if asks is None:
            return self._slots.next_s(max(settled_s, after_last_s)), False
        report_s = self._sent_s[0]
        if report_s < settled_s:
            return self._slots.next_s(max(asks(settled_s), after_last_s)), True
        return self._slots.next_s(max(report_s + self._scheduling.grant_delay_s, after_last_s)), False

    def _send_block(self, slot_s: float, asked: bool) -> None:
        """Send a transport block from `slot_s` on, until it is decoded."""
        scheduling = self._scheduling
        self._channel.forget(max(0.0, slot_s - scheduling.csi_age_s))
        prbs = scheduling.first_prbs if asked else scheduling.prbs
        mcs = self._mcs(slot_s, prbs)
        self._sent_s.append(slot_s)
        self._room_bytes = max(1, transport_block_bits(prbs, mcs) // 8 - BLOCK_BYTES)
        decoded_s = self._transmit(slot_s, prbs, mcs)
        self._decoded_s = max(self._decoded_s, decoded_s)

    def _mcs(self, slot_s: float, prbs: int) -> int:
        """The MCS that the base station chooses by what it knew of the channel."""
        known_db = self._snr_db(max(0.0, slot_s - self._scheduling.csi_age_s), prbs)
        return choose_mcs(known_db - self._adaptation.margin_db, self._scheduling.most_mcs)

    def _snr_db(self, time_s: float, prbs: int) -> float:
        shadow_db, fading_db = self._channel.gains_db(time_s)
        return self._mean_snr_db(prbs, shadow_db) + fading_db

    def _transmit(self, slot_s: float, prbs: int, mcs: int) -> float:
        """Send one block until it is decoded. Returns the time of decoding.

        HARQ combines the energy of all its transmissions. After the last one, RLC sends the block again, with an MCS
        that fits the channel by then. The model ignores that this may take several blocks.
        """
        scheduling = self._scheduling
        first = True
        while True:
            energy = 0.0
            for _ in range(scheduling.harq_transmissions):
                energy += 10 ** (self._snr_db(slot_s, prbs) / 10)
                snr_db = 10 * math.log10(energy) if energy > 0 else -math.inf
                decoded = bool(self._rng.random() >= block_error_rate(mcs, snr_db))
                if first:
                    self._adaptation.learn(decoded)
                    self.first_transmissions += 1
                    self.failed_first_transmissions += not decoded
                    first = False
                if decoded:
                    return slot_s + SLOT_S + scheduling.decode_s
                last_s = slot_s
                slot_s = self._slots.next_s(slot_s + scheduling.harq_delay_s)
            self.rlc_stalls += 1
            slot_s = self._slots.next_s(last_s + scheduling.rlc_stall_s)
            mcs = min(mcs, self._mcs(slot_s, prbs))
