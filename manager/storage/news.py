"""What a commit changed, for the readers, who are told when it is durable. Everything in it is frozen."""

from manager.core.tasks import Record, Spec
from manager.ports import HostRow
from shared_types.events import StoredEvent
from shared_types.tasks import TaskState


class News:
    """`counts` are whole, and None when they are as before."""

    __slots__ = ("appended", "counts", "hosts", "tasks")

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[Spec, Record]] = {}
        self.appended: list[tuple[str, int, tuple[StoredEvent, ...]]] = []  # session, first kept, events in order
        self.hosts: dict[str, HostRow] = {}
        self.counts: dict[TaskState, int] | None = None
