"""The driver of a device's connection at an edge, which reads the guides of texts while their prompts are read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from airdraft.core.edge import EdgeMachine
from airdraft.core.events import Compile, Event
from airdraft.core.law import Guide
from airdraft.core.messages import GuideSpec
from airdraft.core.sampling import SamplingParams
from airdraft.edge.access import Tenant
from airdraft.edge.watch import Watch
from airdraft.errors import AirdraftError, BadParameterError, Code, ending
from airdraft.guides.known import check_known, known
from airdraft.scheduler import Helping, Scheduler
from airdraft.sockets import Reined
from airdraft.transport import Driver, GuideReader

_log = logging.getLogger(__name__)


class EdgeDriver(Driver):
    """Drives an edge's machine. Events go to a watch, which it closes in the end."""

    def __init__(
        self, reader: GuideReader | None, machine: EdgeMachine, socket: Reined, scheduler: Scheduler, watch: Watch,
        tenant: Tenant, helping: Helping | None, whole: bool = True,
    ) -> None:  # fmt: skip
        """`reader`: reads guides; None: texts have none. `whole`: whether the target's rows tell all tokens."""
        super().__init__(machine, socket, scheduler, self._event, watch, tenant, helping)
        self._edge, self._reader, self._watch, self._whole = machine, reader, watch, whole
        self._readings = dict[int, asyncio.Task[None]]()  # of texts whose guides are not read yet

    async def run(self) -> None:
        """See `Driver.run`."""
        try:
            await super().run()
        finally:
            for task in self._readings.values():
                task.cancel()
            self._watch.close()

    def forget(self, session: int) -> None:
        """See `Driver.forget`. The guide of a text that is over is not read, or others would wait for it."""
        if task := self._readings.pop(session, None):
            task.cancel()
        super().forget(session)

    def _event(self, event: Event) -> None:
        if isinstance(event, Compile) and self._reader is not None:
            self._readings[event.session] = asyncio.create_task(self._read(event, self._reader))
        else:
            self._watch.event(event)

    async def _read(self, event: Compile, reader: GuideReader) -> None:
        session, now = event.session, asyncio.get_running_loop().time
        try:
            guide = await fitting(reader, self._whole, event.spec, event.eos_ids, event.params)
            events = self._edge.guided(session, guide, now())
        except AirdraftError as error:
            code = Code.GUIDE if isinstance(error, BadParameterError) else ending(error)
            events = self._edge.failed(session, code, str(error))
        except Exception:  # our own fault: it ends this text and no other
            _log.exception("a guide could not be read")
            events = self._edge.failed(session, Code.ENGINE, "a fault of airdraft's own; see the edge's log")
        self._readings.pop(session, None)  # from here on `forget` must not cancel this task
        self.handle(events)
        self.flush()


async def fitting(
    reader: GuideReader, whole: bool, spec: GuideSpec, eos_ids: Sequence[int], params: SamplingParams
) -> Guide:
    """Read a guide for a target. `whole`: whether its rows tell all tokens. Raises: `BadParameterError`."""
    if whole:
        return await reader.read(spec, eos_ids)
    check_known(spec)
    return known(await reader.read(spec, eos_ids), params)
