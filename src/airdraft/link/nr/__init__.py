"""`nr`: a 5G cell at 30 kHz subcarrier spacing, seen by one device that has it to itself.

radio.py: path loss, shadowing, fading → SNR → MCS. tbs.py: MCS → bytes of a transport block. tdd.py: times of slots.
mac.py: grants, segmentation, HARQ, RLC. csi.py: what is measured of the channel. jam.py: a jammer. This file: the
parameters, and both directions as pipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from airdraft.channel.generate import LIGHT_MPS, Complex
from airdraft.errors import BadParameterError
from airdraft.link.base import HEADER_BYTES, PACKET_BYTES, check_fixed, check_range, check_seed, wire_bytes
from airdraft.link.nr.csi import Sounding
from airdraft.link.nr.jam import Jammer
from airdraft.link.nr.mac import Mac, Scheduling
from airdraft.link.nr.radio import (
    SCENARIOS,
    THRESHOLDS_DB,
    Channel,
    coherence_s,
    noise_dbm,
    path_loss_db,
)
from airdraft.link.nr.tdd import SLOT_S, Slots

GRANTS = ("request", "configured")
_JAMS = 11
"""Number of the random numbers of jams, which both directions share."""
_PHASE_S = 0.08
"""A pipe begins at a random point of this time, a multiple of all usual periods."""
_DEVICE_NOISE_FIGURE_DB = 9.0
_DOWNLINK_MOST_SNR_DB = 30.0
"""Highest SNR that the base station's own distortion allows."""


@dataclass(frozen=True)
class NrLink:
    """A 5G cell. Times in s. Raises: `BadParameterError` for an impossible one."""

    scenario: str = "micro-nlos"
    """One of `SCENARIOS`."""
    distance_m: float | None = None
    """Distance from device to antenna; None is the scenario's own."""
    frequency_ghz: float = 3.5
    speed_mps: float = 0.8
    """Speed of the device or of what moves around it: sets how fast fading and shadowing change."""
    tdd: str = "DDDSU"
    """Pattern of the slots, or FDD."""
    prbs: int = 51
    """Resource blocks of the cell; 51 are 20 MHz."""
    first_prbs: int = 5
    """Resource blocks of a burst's first transport block; the others have the whole cell."""
    most_mcs: int = 27
    grant: str = "request"
    """How a burst begins, one of `GRANTS`: with a scheduling request and its answer, or with a configured grant."""
    request_period_s: float = 0.01
    configured_period_s: float = 0.0025
    prepare_s: float = 0.001
    """Time from data at the modem to the first slot that can hold it."""
    grant_delay_s: float = 0.003
    """Time from the slot of a request or a buffer report to the earliest slot granted for it."""
    harq_delay_s: float = 0.004
    """Time from one transmission of a block to the earliest slot of the next."""
    harq_transmissions: int = 4
    rlc_stall_s: float = 0.045
    """Time from the last of them to RLC's own retransmission: its poll timer."""
    decode_s: float = 0.001
    core_s: float = 0.002
    """Delay between base station and server, one way."""
    power_dbm: float = 23.0
    """Most power that the device sends with: power class 3."""
    target_snr_db: float = 20.0
    """SNR at which the uplink's power control aims, by full compensation of path loss and shadowing."""
    downlink_power_dbm: float = 33.0
    noise_figure_db: float = 5.0
    """Noise figure of the base station."""
    branches: int = 4
    """Number of independently fading parts of the signal: antennas times frequency diversity."""
    csi_age_s: float = 0.01
    """Age of the base station's knowledge of the channel."""
    bler_target: float = 0.1
    """Share of first transmissions that link adaptation allows to fail."""
    outage_interval_s: float = 300.0
    """Mean time between outages; inf for none."""
    outage_s: float = 0.2
    """Mean length of an outage."""
    jam_interval_s: float = math.inf
    """Mean time between jams; inf for none."""
    jam_s: float = 1.0
    """Mean length of a jam."""
    jam_db: float = 30.0
    """Power of a jam over the noise, at both ends."""
    seed: int = 0
    header_bytes: int = HEADER_BYTES

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise BadParameterError(f"scenario is {self.scenario!r}: give one of {', '.join(SCENARIOS)}")
        if self.grant not in GRANTS:
            raise BadParameterError(f"grant is {self.grant!r}: give one of {', '.join(GRANTS)}")
        for name, least, most, what in (
            ("frequency_ghz", 0.5, 100.0, "a carrier frequency from 0.5 to 100 GHz"),
            ("speed_mps", 0.1, 150.0, "a speed from 0.1 to 150 m/s"),
            ("prbs", 1, 273, "1 to 273 resource blocks"),
            ("first_prbs", 1, 273, "1 to 273 resource blocks"),
            ("most_mcs", 0, len(THRESHOLDS_DB) - 1, f"0 to {len(THRESHOLDS_DB) - 1}"),
            ("harq_transmissions", 1, 32, "1 to 32"),
            ("power_dbm", -40.0, 60.0, "a power from -40 to 60 dBm"),
            ("downlink_power_dbm", -40.0, 80.0, "a power from -40 to 80 dBm"),
            ("target_snr_db", -5.0, 40.0, "an SNR from -5 to 40 dB"),
            ("noise_figure_db", 0.0, 30.0, "a noise figure from 0 to 30 dB"),
            ("branches", 1, 1024, "1 to 1024"),
            ("bler_target", 0.001, 0.5, "a share from 0.001 to 0.5"),
            ("request_period_s", SLOT_S, 1.0, "a time from 0.0005 s to 1 s"),
            ("configured_period_s", SLOT_S, 1.0, "a time from 0.0005 s to 1 s"),
            ("harq_delay_s", SLOT_S, 1.0, "a time from 0.0005 s to 1 s"),
            ("grant_delay_s", SLOT_S, 1.0, "a time from 0.0005 s to 1 s"),
            ("rlc_stall_s", SLOT_S, 10.0, "a time from 0.0005 s to 10 s"),
            ("prepare_s", 0.0, 1.0, "a time from 0 to 1 s"),
            ("decode_s", 0.0, 1.0, "a time from 0 to 1 s"),
            ("core_s", 0.0, 10.0, "a time from 0 to 10 s"),
            ("csi_age_s", 0.0, 10.0, "a time from 0 to 10 s"),
            ("outage_interval_s", 0.1, math.inf, "a time of 0.1 s or more, or inf for no outages"),
            ("outage_s", 0.0, 60.0, "a time from 0 to 60 s"),
            ("jam_interval_s", 0.1, math.inf, "a time of 0.1 s or more, or inf for no jams"),
            ("jam_s", 0.001, 60.0, "a time from 0.001 to 60 s"),
            ("jam_db", -10.0, 80.0, "a power from -10 to 80 dB"),
        ):
            check_range(name, getattr(self, name), least, most, what)
        check_range("distance_m", self._distance_m, 1.0, 10_000.0, "a distance from 1 to 10000 m")
        check_fixed(0.0, self.header_bytes)
        check_seed(self.seed)
        for letter in "DU":
            Slots(self.tdd, letter)
        snrs_db = self._uplink_snr_db(self.prbs, 0.0), self._downlink_snr_db(self.prbs, 0.0)
        for direction, snr_db in zip(("uplink", "downlink"), snrs_db, strict=True):
            if snr_db < THRESHOLDS_DB[0]:
                raise BadParameterError(
                    f"the {direction} has a mean SNR of {snr_db:.1f} dB at {self._distance_m:g} m: the device is out "
                    "of the cell; give a smaller distance, more power or fewer PRB"
                )

    @property
    def _distance_m(self) -> float:
        """Distance from device to antenna, in m."""
        return SCENARIOS[self.scenario].distance_m if self.distance_m is None else self.distance_m

    def uplink(self) -> NrPipe:
        """Make an idle pipe from device to edge."""
        slots = Slots(self.tdd, "U")

        def occasion_s(time_s: float, period_s: float) -> float:
            """Find the first slot at or after `time_s` that begins a period."""
            period = math.floor(time_s / period_s)
            while (slot_s := slots.next_s(period * period_s)) < time_s:
                period += 1
            return slot_s

        def asks(time_s: float) -> float:
            if self.grant == "configured":
                return occasion_s(time_s, self.configured_period_s)
            return occasion_s(time_s, self.request_period_s) + self.grant_delay_s

        return self._pipe(slots, asks, self._uplink_snr_db, before_s=0.0, after_s=self.core_s)

    def downlink(self) -> NrPipe:
        """Make an idle pipe from edge to device. Its fading and shadowing are independent of the uplink's."""
        return self._pipe(Slots(self.tdd, "D"), None, self._downlink_snr_db, before_s=self.core_s, after_s=0.0)

    def _pipe(
        self, slots: Slots, asks: Callable[[float], float] | None, mean_snr_db: Callable[[int, float], float],
        before_s: float, after_s: float,
    ) -> NrPipe:  # fmt: skip
        rng = np.random.default_rng([self.seed, asks is None])
        block_s = coherence_s(self.speed_mps, self.frequency_ghz)
        scenario = SCENARIOS[self.scenario]
        correlation = math.exp(-self.speed_mps * block_s / scenario.correlation_m)

        def jammer() -> Jammer:
            return Jammer(self.jam_interval_s, self.jam_s, self.jam_db, np.random.default_rng([self.seed, _JAMS]))

        def channel(drawing: np.random.Generator, jammer: Jammer | None = None) -> Channel:
            return Channel(
                block_s, scenario.shadow_db, correlation, self.branches, self.outage_interval_s, self.outage_s,
                drawing.spawn(1)[0], jammer,
            )  # fmt: skip

        def sounding() -> Sounding:
            again = channel(np.random.default_rng([self.seed, asks is None]))  # of the same gains
            doppler_hz = self.speed_mps * self.frequency_ghz * 1e9 / LIGHT_MPS
            in_sight = scenario.in_sight is None
            return Sounding(again, jammer(), partial(mean_snr_db, self.prbs), in_sight, doppler_hz, self.seed)

        scheduling = Scheduling(
            asks, self.prbs, min(self.first_prbs, self.prbs), self.most_mcs, self.prepare_s, self.grant_delay_s,
            self.decode_s, self.harq_delay_s, self.harq_transmissions, self.rlc_stall_s, self.csi_age_s,
            self.bler_target,
        )  # fmt: skip
        mac = Mac(scheduling, slots, channel(rng, jammer()), mean_snr_db, rng)
        return NrPipe(mac, float(rng.uniform(0.0, _PHASE_S)), before_s, after_s, self.header_bytes, sounding)

    def _uplink_snr_db(self, prbs: int, shadow_db: float) -> float:
        received_dbm = self.power_dbm - self._path_loss_db + shadow_db
        return min(received_dbm - noise_dbm(prbs, self.noise_figure_db), self.target_snr_db)

    def _downlink_snr_db(self, prbs: int, shadow_db: float) -> float:
        """Compute the downlink's SNR. The base station's power is spread over the whole cell, whatever `prbs` is."""
        received_dbm = self.downlink_power_dbm - self._path_loss_db + shadow_db
        return min(received_dbm - noise_dbm(self.prbs, _DEVICE_NOISE_FIGURE_DB), _DOWNLINK_MOST_SNR_DB)

    @cached_property
    def _path_loss_db(self) -> float:
        return path_loss_db(SCENARIOS[self.scenario], self._distance_m, self.frequency_ghz)


class NrPipe:
    """One direction of a cell, as a `Pipe`."""

    def __init__(
        self, mac: Mac, phase_s: float, before_s: float, after_s: float, header_bytes: int,
        sounding: Callable[[], Sounding],
    ) -> None:  # fmt: skip
        """`before_s`: time from the sender to the modem. `after_s`: time from there to the receiver."""
        self.mac = mac
        self._make_sounding = sounding
        self._phase_s = phase_s
        self._before_s = before_s
        self._after_s = after_s
        self._header_bytes = header_bytes
        self._offset_s: float | None = None
        self._arrival_s = -math.inf
        self.payload_bytes = 0
        self.sent_bytes = 0
        self.free_at_s = -math.inf

    def send(self, now: float, nbytes: int) -> float:
        """See `airdraft.link.base.Pipe.send`."""
        if self._offset_s is None:
            self._offset_s = now - self._phase_s
        ready_s = now - self._offset_s + self._before_s
        for at in range(0, nbytes, PACKET_BYTES):
            payload = min(PACKET_BYTES, nbytes - at)
            on_wire = wire_bytes(payload, self._header_bytes)
            self.payload_bytes += payload
            self.sent_bytes += on_wire
            self._arrival_s = max(self._arrival_s, self.mac.put(ready_s, on_wire) + self._after_s + self._offset_s)
        self.free_at_s = max(now, self.mac.free_at_s + self._offset_s)
        self._arrival_s = max(self._arrival_s, now + self._before_s + self._after_s)
        return self._arrival_s

    def csi(self, now: float) -> Complex | None:
        """Measure the channel, see `Sounding.at`; None before the first `send`. `now` may not fall."""
        return None if self._offset_s is None else self._sounding.at(now - self._offset_s)

    def jammed(self, now: float) -> bool:
        """Whether there is a jam, see `Sounding.jammed`."""
        return self._offset_s is not None and self._sounding.jammed(now - self._offset_s)

    @cached_property
    def _sounding(self) -> Sounding:
        return self._make_sounding()
