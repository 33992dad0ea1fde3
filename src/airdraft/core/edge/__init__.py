"""The edge's side of the protocol: one connection from a device, and the texts written over it."""

from airdraft.core.edge.machine import EdgeMachine
from airdraft.core.edge.proposing import Draw, Help, Helper, Pace, Propose, Proposer, nobody
from airdraft.core.edge.target import Limits, Target

__all__ = [
    "Draw", "EdgeMachine", "Help", "Helper", "Limits", "Pace", "Propose", "Proposer", "Target", "nobody",
]  # fmt: skip
