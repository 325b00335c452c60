"""Names for how text looks, and the escape sequences behind them. Status is never colour alone: it has a word."""

from typing import Final

from shared_types.hosts import HostState
from shared_types.tasks import TaskState

_SGR: Final = {
    "title": "2",
    "dim": "2",
    "thinking": "2;3",
    "bold": "1",
    "good": "32",
    "bad": "31",
    "warn": "33",
    "live": "36",
    "input": "35",
}

STATE_STYLE: Final = {
    TaskState.QUEUED: "dim",
    TaskState.ASSIGNED: "live",
    TaskState.RUNNING: "live",
    TaskState.STOPPING: "warn",
    TaskState.COMPLETED: "good",
    TaskState.FAILED: "bad",
    TaskState.TIMEOUT: "bad",
    TaskState.ABORTED: "warn",
    TaskState.LOST: "bad",
    TaskState.EXPIRED: "bad",
}
STATE_SIGN: Final = {
    TaskState.QUEUED: "◌",
    TaskState.ASSIGNED: "◔",
    TaskState.RUNNING: "●",
    TaskState.STOPPING: "◑",
    TaskState.COMPLETED: "✓",
    TaskState.FAILED: "✗",
    TaskState.TIMEOUT: "✗",
    TaskState.ABORTED: "■",
    TaskState.LOST: "?",
    TaskState.EXPIRED: "✗",
}
HOST_STYLE: Final = {HostState.ONLINE: "good", HostState.BUSY: "live", HostState.OFFLINE: "dim"}
HOST_SIGN: Final = {HostState.ONLINE: "●", HostState.BUSY: "●", HostState.OFFLINE: "○"}


def styled(text: str, style: str) -> str:
    """With the sequences for a terminal that shows colours. Line breaks stay outside of them.

    >>> styled("a\\n", "good"), styled("a", "")
    ('\\x1b[32ma\\x1b[0m\\n', 'a')
    """
    code = _SGR.get(style)
    if not code:
        return text
    body = text.rstrip("\n")
    return f"\x1b[{code}m{body}\x1b[0m{text[len(body) :]}" if body else text
