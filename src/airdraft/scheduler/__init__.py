"""Forwards of many sequences share the calls of one engine, and its memory."""

from airdraft.scheduler.helping import Helped, Helping
from airdraft.scheduler.loop import Scheduler, yielded
from airdraft.scheduler.turns import Call, Owner, Sequenced

__all__ = ["Call", "Helped", "Helping", "Owner", "Scheduler", "Sequenced", "yielded"]
