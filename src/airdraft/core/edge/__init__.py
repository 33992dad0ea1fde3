"""The edge's side of the protocol: one connection from a device, and the texts written over it."""

from airdraft.core.edge.machine import EdgeMachine
from airdraft.core.edge.proposing import Propose, Proposer, nobody
from airdraft.core.edge.target import Limits, Target

__all__ = ["EdgeMachine", "Limits", "Propose", "Proposer", "Target", "nobody"]
