"""The device's side of the protocol: one connection to an edge, and the texts written over it."""

from airdraft.core.device.machine import DeviceMachine

__all__ = ["DeviceMachine"]
