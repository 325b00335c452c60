"""What happens during a task, as everybody sees it.

An event is `{type, content?, data?, timestamp}`. Types we do not know are kept and passed on as they came.
The manager never decodes the body of an event that it only stores and forwards (`msgspec.Raw`).

    type         content             data
    log          the line            level (debug|info|warning|error), source (stderr|agent|gateway)
    thinking     the text            delta: bool
    message      the text            delta: bool, role; a message ends with one event of delta=false and all its text
    tool_call    -                   id, name, kind (read|edit|execute|search|fetch|think|other), title, input
    tool_result  output (capped)     id, ok: bool, exitCode?, truncated?
    file_change  -                   path, op (create|update|delete), diff?
    approval     what is asked       id, tool, input, decision (allow|deny), mode, reason: answered at once
    input        the text            inputId, state: taken
    input        one sentence        inputId, state: refused, code (InputRefusal): the agent will not get it
    diff         the unified diff    -
    usage        -                   inputTokens, outputTokens, cachedTokens?, costUsd?, model?  (of the attempt so far)
    error        one sentence        code, retryable: bool, fatal: bool
    status       why, for people     status, reason?, hostId?, attempt?, ...: the manager's own
    question     what is asked       id, choices
"""

from enum import StrEnum
from typing import Any, Final

import msgspec


class EventType(StrEnum):
    LOG = "log"
    THINKING = "thinking"
    MESSAGE = "message"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    FILE_CHANGE = "file_change"
    ERROR = "error"
    STATUS = "status"
    USAGE = "usage"
    APPROVAL = "approval"
    QUESTION = "question"
    INPUT = "input"
    DIFF = "diff"


class InputRefusal(StrEnum):
    """Why an agent does not get an input. Stable: programs may compare them."""

    NOT_SUPPORTED = "not_supported"  # it takes nothing but its prompt
    OVER = "over"  # its work is over
    CLOSED = "closed"  # it has closed its stdin
    FULL = "full"  # too much waits for it already
    BAD_ID = "bad_id"  # the input's id is too long to be written down


MAX_VALUE_BYTES: Final = 64 * 1024  # longer contents are cut at the gateway and marked `truncated`
MAX_FRAME_BYTES: Final = 256 * 1024  # one `task:events` frame
MAX_INBOUND_BYTES: Final = 1024 * 1024  # any frame a manager takes from a host


class AgentEvent(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """One thing that happened. `timestamp` is when, in ms since the epoch, at the host."""

    type: str
    timestamp: int
    content: str | None = None
    data: dict[str, Any] | None = None


class EventHead(msgspec.Struct, frozen=True):
    """As much of an event as the manager looks at."""

    type: str


class StoredEvent(msgspec.Struct, frozen=True, rename="camel", kw_only=True, gc=False):
    """An event with its public name: `id` counts 1, 2, 3 ... in its session, without gaps."""

    id: int
    task_id: str
    attempt: int  # 0: the manager's own
    body: msgspec.Raw  # AgentEvent, one line of JSON

    def flat(self) -> bytes:
        """The event with `id`, `taskId` and `attempt` beside its own fields: one line of JSON.

        Ours stand last: readers of JSON keep the last of two equal names, so a foreign event cannot
        pretend to another id.

        >>> StoredEvent(id=2, task_id="t", attempt=1, body=msgspec.Raw(b'{"type":"log","timestamp":5}')).flat()
        b'{"type":"log","timestamp":5,"id":2,"taskId":"t","attempt":1}'
        """
        body = bytes(self.body)
        return b'%b,"id":%d,"taskId":"%b","attempt":%d}' % (
            body[:-1],
            self.id,
            self.task_id.encode(),
            self.attempt,
        )
