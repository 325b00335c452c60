"""What a commit changed: sent by the thread that writes to the readers in the loop. Everything in it is frozen."""

from manager.core.scheduling import Requirement
from manager.core.tasks import Record, Spec
from manager.ports import HostRow, Token
from shared_types.events import StoredEvent
from shared_types.tasks import TaskState


class News:
    """`counts` and `requirements` are whole, and None when they are as before."""

    __slots__ = ("appended", "counts", "hosts", "requirements", "tasks", "tokens")

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[Spec, Record]] = {}
        self.appended: list[tuple[str, int, tuple[StoredEvent, ...]]] = []  # session, first kept, events in order
        self.hosts: dict[str, HostRow] = {}
        self.tokens: list[Token] = []
        self.counts: dict[TaskState, int] | None = None
        self.requirements: dict[int, Requirement] | None = None
