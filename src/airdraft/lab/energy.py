"""The energy of texts by a stated model: the device's compute and modem, the cell, and the edge's compute.

Device: `draft_w` while a draft is computed. Its modem by the affine model of Huang et al., "A close examination of
performance and power characteristics of 4G LTE networks", MobiSys 2012, table 4: power = 438.39 mW for each Mbit/s up
+ 51.97 mW for each Mbit/s down + 1288.04 mW while connected.

Cell: the affine model of Auer et al., "How much energy is needed to run a wireless network?", IEEE Wireless
Communications 18(5), 2011, table 2, a micro cell: power = N (P0 + slope x radiated power), N = 2, P0 = 56 W, slope 2.6,
at most 6.3 W radiated. A text is charged for its share of the cell's time, its bits divided by what the link carries
when it is full: half of the static power for each direction, and for the downlink what is radiated too.

Edge: `edge_w` while the target runs, shared by as many texts as a forward serves.

The two compute powers are assumptions; nothing here was measured. What is compared is schemes, under one model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from airdraft.link.base import Pipe

PROBE_BYTES, PROBE_S, MOST_PROBED = 1 << 18, 10.0, 1 << 24
"""A link's capacity is measured in pieces of so many bytes, for so long, with no more bytes than that."""


@dataclass(frozen=True)
class Used:
    """What texts have used. Times in s."""

    draft_s: float
    """The device's compute."""
    target_s: float
    """The edge's compute."""
    connected_s: float
    uplink_bits: float
    """With every header."""
    downlink_bits: float
    uplink_bps: float
    """What the uplink carries when it is full."""
    downlink_bps: float


@dataclass(frozen=True)
class Joules:
    """Energy by where it is spent."""

    device: float
    cell: float
    edge: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.device + self.cell + self.edge


@dataclass(frozen=True)
class EnergyModel:
    """The constants. Powers in W."""

    draft_w: float = 4.0
    """Assumed: a phone's processor at work."""
    up_j: float = 0.43839e-6
    """Energy of a bit on the uplink, in the modem."""
    down_j: float = 0.05197e-6
    connected_w: float = 1.28804
    antennas: int = 2
    idle_w: float = 56.0
    slope: float = 2.6
    radiated_w: float = 6.3
    edge_w: float = 300.0
    """Assumed: an accelerator at work."""
    sharing: int = 8
    """Assumed: texts that one forward of the target serves."""

    def joules(self, used: Used) -> Joules:
        """Compute the energy."""
        modem = used.uplink_bits * self.up_j + used.downlink_bits * self.down_j + used.connected_s * self.connected_w
        up_s, down_s = used.uplink_bits / used.uplink_bps, used.downlink_bits / used.downlink_bps
        static_j = (up_s + down_s) * self.idle_w / 2
        cell = self.antennas * (static_j + down_s * self.slope * self.radiated_w)
        return Joules(used.draft_s * self.draft_w + modem, cell, used.target_s * self.edge_w / self.sharing)

    def alone(self, draft_s: float) -> Joules:
        """The energy of a device that writes by itself, its modem off."""
        return Joules(draft_s * self.draft_w, 0.0, 0.0)

    def __str__(self) -> str:
        return (
            f"device {self.draft_w:g} W while it drafts, its modem {1e6 * self.up_j:.3f} µJ a bit up, "
            f"{1e6 * self.down_j:.3f} µJ a bit down and {self.connected_w:.2f} W while connected; cell "
            f"{self.antennas} × ({self.idle_w:g} W + {self.slope:g} × at most {self.radiated_w:g} W) by its share of "
            f"time; edge {self.edge_w:g} W, shared by {self.sharing} texts"
        )


def device_joules(draft_s: float, sent_bytes: float, received_bytes: float) -> float:
    """The device's energy for so much drafting and traffic, without its modem's power for being connected."""
    return EnergyModel().joules(Used(draft_s, 0.0, 0.0, 8.0 * sent_bytes, 8.0 * received_bytes, 1.0, 1.0)).device


def capacity_bps(pipe: Pipe) -> float:
    """Measure what a fresh pipe carries when it is full, in bit/s, headers included."""
    sent = 0
    while sent < MOST_PROBED and pipe.free_at_s < PROBE_S:
        pipe.send(0.0, PROBE_BYTES)
        sent += PROBE_BYTES
    return 8 * pipe.sent_bytes / pipe.free_at_s if pipe.free_at_s > 0 else math.inf
