"""What can go wrong for a client, and the exit code a program ends with when it does.

FleetgateError
├── Unreachable       the world's: no manager answers there                          69
├── BadAnswer         what answered is no manager, or a much newer one               69
├── ApiError          the manager refused; code, detail, hint and fields are its own  1
│   ├── Invalid       400, 422                                                        2
│   ├── Denied        401, 403                                                        4
│   ├── NotFound      404                                                             3
│   ├── Conflict      409: not in this state                                          1
│   ├── TooMuch       413, 429                                                        1
│   └── ManagerFault  5xx                                                            69
├── Gap               a part of a log is not kept any more; never skipped in silence  1
├── WaitTimeout       it did not end in time                                        124
├── NotThere          named something that a list does not have                       3
├── BadUsage          the arguments cannot be meant so                                2
├── BadConfig         a file, a setting or a port of this machine                    78
└── Declined          the person does not want it                                   130
"""

from collections.abc import Mapping
from typing import ClassVar, Final

import msgspec

from shared_types.api import Problem, ProblemField
from shared_types.tasks import Task


class FleetgateError(Exception):
    """Base of everything the client raises on purpose. `hint` is what a person can do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, detail: str, *, hint: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class Unreachable(FleetgateError):
    """No manager answers there."""

    exit_code = 69


class BadAnswer(FleetgateError):
    """What answered is not a manager that this client understands."""

    exit_code = 69


class Gap(FleetgateError):
    """History before `first_id` is not kept, or the log is another one than before. Go on after `resume_after`."""

    def __init__(self, first_id: int, latest_id: int, epoch: str) -> None:
        super().__init__(f"the log begins at event {first_id}; what was before is not kept")
        self.first_id = first_id
        self.latest_id = latest_id
        self.epoch = epoch

    @property
    def resume_after(self) -> int:
        return self.first_id - 1


class WaitTimeout(FleetgateError):
    """The task did not end in time; `task` is how it stood."""

    exit_code = 124

    def __init__(self, task: Task, waited_s: float) -> None:
        super().__init__(f"{task.id} is still {task.status} after {waited_s:g} s")
        self.task = task


class NotThere(FleetgateError):
    """There is no such thing, or more than one that is meant."""

    exit_code = 3


class BadUsage(FleetgateError):
    """The arguments cannot be meant so."""

    exit_code = 2


class BadConfig(FleetgateError):
    """A file, a setting or a port of this machine is not as it must be."""

    exit_code = 78


class Declined(FleetgateError):
    """Asked, and the person said no."""

    exit_code = 130


class ApiError(FleetgateError):
    """The manager refused. `code` is stable; `detail` and `hint` are for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        hint: str | None = None,
        fields: tuple[ProblemField, ...] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail, hint=hint)
        self.status = status
        self.code = code
        self.fields = fields
        self.request_id = request_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.code}>"


class Invalid(ApiError):
    """Bad input; `fields` name what."""

    exit_code = 2


class Denied(ApiError):
    """This token may not do that, or there is none."""

    exit_code = 4


class NotFound(ApiError):
    """There is no such thing."""

    exit_code = 3


class Conflict(ApiError):
    """It cannot be done in this state."""


class TooMuch(ApiError):
    """A limit is reached."""


class ManagerFault(ApiError):
    """The manager, or what stands before it, is not well."""

    exit_code = 69


_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    413: TooMuch,
    422: Invalid,
    429: TooMuch,
}


def refusal(status: int, body: bytes) -> ApiError:
    """The error for an answer that is not a success. A body that is no problem document is quoted, shortened.

    >>> refusal(404, b'{"title":"Not Found","status":404,"code":"NO_SUCH_TASK","detail":"There is no task x."}')
    <NotFound 404 NO_SUCH_TASK>
    """
    kind = _BY_STATUS.get(status, ManagerFault if status >= 500 else ApiError)
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = " ".join(body[:200].decode("utf-8", "replace").split())
        hint = "A manager says more than that: check the address, and what stands between."
        return kind(status, f"HTTP_{status}", f"HTTP {status}{': ' + said if said else ''}", hint=hint)
    return kind(
        status,
        problem.code,
        problem.detail or problem.title,
        hint=problem.hint,
        fields=problem.errors,
        request_id=problem.request_id,
    )
