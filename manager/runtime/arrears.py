"""What the store did not take when it came, kept until it does: the last words of hosts that are gone and will not say
them again, the ends of their connections, inputs that were stored and not said.

One loop, for as long as the manager lives; it tries every second while something is owed. A host's words are written
before its end, and a newer connection of the host waits for them (`wait_written`): its generation would fence them.
It knows no sockets. Invariants: what the store may have taken is not said to it again; memory is bounded, and what is
beyond that is lost, logged and counted, as is what is still owed when the manager stops.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
import structlog

from manager.core.tasks import Change
from manager.errors import StoreUnavailable
from manager.ports import Announcements, Clock, Store

MAX_BYTES: Final = 64 * 1024 * 1024
BATCH: Final = 1_024  # changes in one commit
CHANGE_BYTES: Final = 500  # what a change costs beside its events
RETRY_S: Final = 1.0

log = structlog.get_logger(__name__)


class Arrears:
    """`trouble` says why what is owed is not settled just now; None when all is well.

    `went` is told the host whose end is written down at last, `say` the task whose inputs wait; `count` counts losses.
    """

    def __init__(
        self,
        *,
        store: Store,
        announcer: Announcements,
        clock: Clock,
        went: Callable[[str], Awaitable[None]],
        say: Callable[[str], Awaitable[object]],
        count: Callable[[str, int], None],
    ) -> None:
        self.trouble: str | None = None
        self._store = store
        self._announcer = announcer
        self._clock = clock
        self._went = went
        self._say = say
        self._count = count
        self._words: dict[str, list[Change]] = {}  # host -> what it said or was not told, in order
        self._bytes = 0
        self._ends: dict[str, int] = {}  # host -> generation
        self._inputs: dict[str, None] = {}  # tasks
        self._owed = anyio.Event()
        self._written = anyio.Event()

    def __repr__(self) -> str:
        return f"<Arrears words={len(self._words)} ends={len(self._ends)} inputs={len(self._inputs)}>"

    # --- what is owed -----------------------------------------------------------------------------------

    def words(self, host_id: str, changes: Sequence[Change]) -> None:
        """Its connection is over, and these are not written down."""
        kept = self._words.setdefault(host_id, [])
        for number, change in enumerate(changes):
            if self._bytes + _size(change) > MAX_BYTES:
                self._lose(host_id, len(changes) - number, "too much waits for the store")
                break
            self._bytes += _size(change)
            kept.append(change)
        self._owed.set()

    def end(self, host_id: str, generation: int) -> None:
        """A connection ended, and that is not written down."""
        self._ends[host_id] = generation
        self._owed.set()

    def inputs(self, task_id: str) -> None:
        """Inputs are stored, and not said."""
        self._inputs[task_id] = None
        self._owed.set()

    def no_inputs(self, task_id: str) -> None:
        """Somebody else says them."""
        self._inputs.pop(task_id, None)

    async def wait_written(self, host_id: str) -> None:
        """Until nothing that this host said is owed. Cancelling is safe: the words stay here."""
        while host_id in self._words:
            await self._written.wait()

    # --- settling it ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For as long as the manager lives. Cancelling loses what is owed."""
        try:
            while True:
                self._owed = anyio.Event()
                if not await self._try():
                    await anyio.sleep(RETRY_S)
                elif not (self._words or self._ends or self._inputs):
                    await self._owed.wait()
        finally:
            for host_id, changes in self._words.items():
                self._lose(host_id, len(changes), "the manager stops")

    async def _try(self) -> bool:
        try:
            await self._settle()
        except StoreUnavailable as error:
            if self.trouble is None:
                log.error("the store is owed what it did not take", error=str(error), owed=repr(self))
            self.trouble = str(error)
            return False
        self.trouble = None
        return True

    async def _settle(self) -> None:
        """Everything that is owed, as far as the store allows. Raises StoreUnavailable."""
        for host_id in list(self._words):
            await self._write(host_id)
        for host_id, generation in list(self._ends.items()):
            self._announcer.taken(await self._store.host_gone(host_id, generation, self._clock.now()))
            if self._ends.get(host_id) == generation:
                del self._ends[host_id]
            await self._went(host_id)
        for task_id in list(self._inputs):
            await self._say(task_id)

    async def _write(self, host_id: str) -> None:
        changes = self._words[host_id]
        while changes:
            batch = changes[:BATCH]
            taken = await self._store.change(batch)
            del changes[: len(batch)]
            self._bytes -= sum(map(_size, batch))
            self._announcer.taken(taken)
        del self._words[host_id]
        self._written.set()
        self._written = anyio.Event()

    def _lose(self, host_id: str, changes: int, why: str) -> None:
        log.error("lost what a host said", host=host_id, changes=changes, why=why)
        self._count("unwritten", changes)


def _size(change: Change) -> int:
    return CHANGE_BYTES + sum(map(len, change.events))
